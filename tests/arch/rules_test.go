package arch

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// violation is one place where a rule is broken.
type violation struct {
	where, what, why string
}

// String is one sentence about what, where and why.
func (v violation) String() string { return fmt.Sprintf("%s: %s: %s", v.where, v.what, v.why) }

// kind is what a package is, by the first line of its doc.go.
type kind uint8

// The kinds. The zero value stands for packages that state none.
const (
	unstated kind = iota
	pure
	adapter
	shell
	command      // package main
	verification // at or below tests
)

// String returns the word that doc.go uses.
func (k kind) String() string {
	return [...]string{"of no stated kind", "pure", "an adapter", "a shell", "a command", "a test"}[k]
}

// statement is the first line of a doc.go.
var statement = regexp.MustCompile(`^// Package (\w+) is (pure|an adapter|a shell)\b`)

func kindOf(p pkg) kind {
	switch {
	case inside(p.path, "tests"):
		return verification
	case p.name == "main":
		return command
	}
	for _, f := range p.files {
		if !strings.HasSuffix(f.path, "/doc.go") || f.syntax.Doc == nil {
			continue
		}
		match := statement.FindStringSubmatch(f.syntax.Doc.List[0].Text)
		if match == nil || match[1] != p.name {
			return unstated
		}
		return map[string]kind{"pure": pure, "an adapter": adapter, "a shell": shell}[match[2]]
	}
	return unstated
}

func kinds(packages []pkg) map[string]kind {
	m := map[string]kind{}
	for _, p := range packages {
		m[p.path] = kindOf(p)
	}
	return m
}

// rule is one rule about packages.
type rule struct {
	name  string
	check func([]pkg) []violation
}

func rules() []rule {
	return []rule{
		{"every package states its kind", everyPackageStatesItsKind},
		{"pure packages import pure packages", pureImports},
		{"imports run one way", importsRunOneWay},
		{"nothing imports cmd or tests", nothingImportsCommandsOrTests},
		{"pure code starts no goroutine", noGoroutine},
		{"pure code reads no clock", noClock},
		{"pure code has no mutable globals", noMutableGlobals},
		{"files are short", shortFiles},
		{"functions are short", shortFunctions},
	}
}

func everyPackageStatesItsKind(packages []pkg) []violation {
	var found []violation
	for _, p := range packages {
		if kindOf(p) == unstated {
			found = append(found, violation{
				p.path,
				fmt.Sprintf("doc.go does not begin with %q (or is an adapter, is a shell)", "// Package "+p.name+" is pure"),
				"what a package may do follows from its kind",
			})
		}
	}
	return found
}

// impure are the parts of the standard library that a pure package may not
// import, with what is below them, and why.
func impure() map[string]string {
	const (
		io      = "a pure package has no I/O; an adapter does that"
		threads = "a pure package belongs to one goroutine at a time; a shell owns goroutines and locks"
		random  = "the same input must give the same output"
	)
	return map[string]string{
		"context": "a pure package is called and returns, there is nothing to cancel", "crypto/rand": random,
		"database": io, "expvar": io, "io/fs": io, "io/ioutil": io, "log": "a pure package returns what there is to say",
		"math/rand": random, "net": io, "os": io, "plugin": io, "runtime": threads, "sync": threads,
		"syscall": io, "testing": "test code does not belong into the product", "unsafe": io,
	}
}

// pureMay are the imports beyond the standard library that a pure package may
// have.
func pureMay() map[string][]string {
	return map[string][]string{
		"router":        {"tandem/router/config", "tandem/router/uplink", "tandem/vrrp"},
		"router/config": {"github.com/goccy/go-yaml"},
		"router/uplink": {"tandem/router/config"},
		"conntracksync": {"github.com/dchest/siphash"},
		// What it shows of uplinks and networks is theirs.
		"appliance/status": {"tandem/router/config", "tandem/router/uplink"},
	}
}

func pureImports(packages []pkg) []violation {
	var found []violation
	for _, p := range packages {
		if kindOf(p) != pure {
			continue
		}
		for _, i := range p.imports() {
			if why := whyNotPure(p.path, i); why != "" {
				found = append(found, violation{p.path, "is pure and imports " + i, why})
			}
		}
	}
	return found
}

func whyNotPure(path, importPath string) string {
	if importPath == "net/netip" {
		return ""
	}
	for _, allowed := range pureMay()[path] {
		_, own := ownPath(allowed)
		if importPath == allowed || !own && inside(importPath, allowed) {
			return ""
		}
	}
	if _, own := ownPath(importPath); own {
		return "a pure package knows nothing else of the module, but for what pureMay lists"
	}
	if host, _, _ := strings.Cut(importPath, "/"); strings.Contains(host, ".") {
		return "a pure package uses the standard library only, but for what pureMay lists"
	}
	for prefix, why := range impure() {
		if inside(importPath, prefix) {
			return why
		}
	}
	return ""
}

// importsRunOneWay holds cmd -> appliance -> adapters -> pure. Shells outside of
// appliance stand between it and the adapters.
func importsRunOneWay(packages []pkg) []violation {
	all := kinds(packages)
	var found []violation
	for _, p := range packages {
		from := all[p.path]
		for _, i := range p.imports() {
			own, ok := ownPath(i)
			if !ok {
				continue
			}
			if why := whyNotDownward(p.path, from, own, all[own]); why != "" {
				found = append(found, violation{
					p.path, fmt.Sprintf("is %v and imports %s, which is %v", from, i, all[own]), why,
				})
			}
		}
	}
	return found
}

func whyNotDownward(path string, from kind, imported string, to kind) string {
	appliance := func(p string) bool { return inside(p, "appliance") }
	switch {
	case from == pure && to != pure:
		return "what decides must not depend on what acts"
	case from == adapter && to == shell:
		return "an adapter is used by a shell and never the other way round"
	case (from == adapter || from == shell) && !appliance(path) && appliance(imported) && to != pure:
		return "the appliance is made of routers, a router does not know that it is in one"
	}
	return ""
}

func nothingImportsCommandsOrTests(packages []pkg) []violation {
	var found []violation
	for _, p := range packages {
		for _, f := range p.files {
			for _, i := range f.imports() {
				own, ok := ownPath(i)
				switch {
				case !ok:
				case inside(own, "cmd"):
					found = append(found, violation{f.path, "imports " + i, "a command only wires parts, there is nothing in it to use"})
				case inside(own, "tests") && !inside(p.path, "tests"):
					found = append(found, violation{f.path, "imports " + i, "the product and its unit tests must build without tests/"})
				}
			}
		}
	}
	return found
}

const (
	maxFile     = 700
	maxFunction = 70
)

func shortFiles(packages []pkg) []violation {
	var found []violation
	for _, p := range packages {
		for _, f := range p.files {
			if f.lines > maxFile {
				found = append(found, violation{
					f.path, fmt.Sprintf("has %d lines, at most %d are allowed", f.lines, maxFile),
					"a file that nobody reads in one go holds more than one thing",
				})
			}
		}
	}
	return found
}

// required are the libraries on which the project agreed for the kernel and the
// wire.
func required() []string {
	return []string{
		"github.com/google/nftables",
		"github.com/mdlayher/arp",
		"github.com/mdlayher/packet",
		"github.com/ti-mo/conntrack",
		"github.com/vishvananda/netlink",
	}
}

// missingRequirements looks at the text of a go.mod.
func missingRequirements(goMod string) []violation {
	var have []string
	for line := range strings.Lines(goMod) {
		line, _, _ = strings.Cut(line, "//")
		line = strings.TrimPrefix(strings.TrimSpace(line), "require ")
		if fields := strings.Fields(line); len(fields) == 2 && strings.HasPrefix(fields[1], "v") {
			have = append(have, fields[0])
		}
	}
	var found []violation
	for _, r := range required() {
		if !slices.Contains(have, r) {
			found = append(found, violation{"go.mod", "does not require " + r, "the project agreed on it for the kernel and the wire"})
		}
	}
	return found
}

// foreign are parts of paths that exist on one developer's machine only. They
// are put together here, lest this file break the rule.
func foreign() []string {
	return []string{"/ho" + "me/", "/Use" + "rs/"}
}

func foreignPaths(name string, content []byte) []violation {
	var found []violation
	number := 0
	for line := range strings.Lines(string(content)) {
		number++
		for _, f := range foreign() {
			if strings.Contains(line, f) {
				found = append(found, violation{
					fmt.Sprintf("%s:%d", name, number), "mentions " + f, "the repository must work wherever it is cloned",
				})
			}
		}
	}
	return found
}
