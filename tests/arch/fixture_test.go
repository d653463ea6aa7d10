package arch

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// sound are packages that break no rule.
func sound() map[string]string {
	return map[string]string{
		"vrrp/doc.go": "// Package vrrp is pure: it decides.\npackage vrrp\n",
		"vrrp/group.go": `package vrrp

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"time"
)

var ErrLost = errors.New("lost")

var errWrapped = fmt.Errorf("again: %w", ErrLost)

var label = regexp.MustCompile("^a$")

var _ fmt.Stringer = Group{}

type Group struct{ now time.Time }

func (g Group) String() string { return time.Unix(0, 0).String() + netip.Addr{}.String() }
`,
		"vrrp/group_test.go":       "package vrrp\n\nimport \"time\"\n\nvar calls int\n\nfunc now() time.Time { go now(); return time.Now() }\n",
		"vrrp/wire/doc.go":         "// Package wire is an adapter: it sends.\npackage wire\n",
		"vrrp/wire/wire.go":        "package wire\n\nimport (\n\t\"net\"\n\t\"tandem/vrrp\"\n)\n\nvar x, y = net.Dial, vrrp.ErrLost\n",
		"vrrp/elector/doc.go":      "// Package elector is a shell: it runs.\npackage elector\n",
		"vrrp/elector/elector.go":  "package elector\n\nimport (\n\t\"tandem/appliance/status\"\n\t\"tandem/vrrp/wire\"\n)\n",
		"router/doc.go":            "// Package router is pure: it intends.\npackage router\n\nimport \"tandem/router/config\"\n",
		"router/config/doc.go":     "// Package config is pure: it reads.\npackage config\n\nimport \"github.com/goccy/go-yaml/ast\"\n",
		"appliance/status/doc.go":  "// Package status is pure: it says.\npackage status\n",
		"appliance/node/doc.go":    "// Package node is a shell: it owns.\npackage node\n\nimport \"tandem/vrrp/elector\"\n",
		"cmd/tandem/main.go":       "package main\n\nimport \"tandem/appliance/node\"\n",
		"tests/sim/sim.go":         "package sim\n\nimport \"tandem/vrrp\"\n",
		"tests/sim/pair/pair.go":   "package pair\n\nimport \"tandem/tests/sim\"\n",
		"tests/netns/pair_test.go": "package netns\n\nimport \"tandem/tests/sim\"\n",
	}
}

func TestSoundPackagesPass(t *testing.T) {
	packages := fixture(t, sound())
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) { report(t, r.check(packages)) })
	}
}

// breach is a file that breaks a rule when it is added to the sound packages.
type breach struct {
	rule, file, source string
	// want is part of the violation that must be found.
	want string
}

func breaches() []breach {
	return []breach{
		{"every package states its kind", "router/probe/probe.go", "package probe\n", "router/probe"},
		{"every package states its kind", "router/probe/doc.go", "// Package probe probes.\npackage probe\n", "router/probe"},
		{"every package states its kind", "router/probe/doc.go", "// Package prober is pure.\npackage probe\n", "router/probe"},
		{"every package states its kind", "router/probe/doc.go", "// Package probe is purely good.\npackage probe\n", "router/probe"},
		{"every package states its kind", "router/probe/probe.go", "// Package probe is pure.\npackage probe\n", "router/probe"},

		{"pure packages import pure packages", "vrrp/x.go", "package vrrp\n\nimport \"os\"\n", "imports os:"},
		{"pure packages import pure packages", "vrrp/x.go", "package vrrp\n\nimport \"os/exec\"\n", "imports os/exec:"},
		{"pure packages import pure packages", "vrrp/x.go", "package vrrp\n\nimport \"net\"\n", "imports net:"},
		{"pure packages import pure packages", "vrrp/x.go", "package vrrp\n\nimport \"net/http\"\n", "imports net/http:"},
		{"pure packages import pure packages", "vrrp/x.go", "package vrrp\n\nimport \"syscall\"\n", "imports syscall:"},
		{"pure packages import pure packages", "vrrp/x.go", "package vrrp\n\nimport \"context\"\n", "imports context:"},
		{"pure packages import pure packages", "vrrp/x.go", "package vrrp\n\nimport \"sync/atomic\"\n", "imports sync/atomic:"},
		{"pure packages import pure packages", "vrrp/x.go", "package vrrp\n\nimport \"log/slog\"\n", "imports log/slog:"},
		{"pure packages import pure packages", "vrrp/x.go", "package vrrp\n\nimport \"math/rand/v2\"\n", "imports math/rand/v2:"},
		{"pure packages import pure packages", "vrrp/x.go", "package vrrp\n\nimport \"golang.org/x/sys/unix\"\n", "standard library only"},
		{"pure packages import pure packages", "vrrp/x.go", "package vrrp\n\nimport \"github.com/goccy/go-yaml\"\n", "standard library only"},
		{"pure packages import pure packages", "vrrp/x.go", "package vrrp\n\nimport \"tandem/router\"\n", "knows nothing else"},
		{"pure packages import pure packages", "router/config/x.go", "package config\n\nimport \"github.com/goccy/go-yamlish\"\n", "standard library only"},

		{"imports run one way", "router/x.go", "package router\n\nimport \"tandem/vrrp/wire\"\n", "which is an adapter"},
		{"imports run one way", "router/x.go", "package router\n\nimport \"tandem/appliance/node\"\n", "which is a shell"},
		{"imports run one way", "vrrp/wire/x.go", "package wire\n\nimport \"tandem/vrrp/elector\"\n", "never the other way round"},
		{"imports run one way", "vrrp/elector/x.go", "package elector\n\nimport \"tandem/appliance/node\"\n", "does not know"},

		{"nothing imports cmd or tests", "vrrp/wire/x.go", "package wire\n\nimport \"tandem/cmd/tandem\"\n", "tandem/cmd/tandem"},
		{"nothing imports cmd or tests", "tests/sim/x.go", "package sim\n\nimport \"tandem/cmd/tandem\"\n", "tandem/cmd/tandem"},
		{"nothing imports cmd or tests", "vrrp/x_test.go", "package vrrp\n\nimport \"tandem/tests/sim\"\n", "tandem/tests/sim"},

		{"pure code starts no goroutine", "vrrp/x.go", "package vrrp\n\nfunc f() { go f() }\n", "vrrp/x.go:3"},
		{"pure code starts no goroutine", "vrrp/x.go", "package vrrp\n\nfunc f() {\n\tfunc() {\n\t\tgo f()\n\t}()\n}\n", "vrrp/x.go:5"},

		{"pure code reads no clock", "vrrp/x.go", "package vrrp\n\nimport \"time\"\n\nfunc f() { time.Now() }\n", "time.Now"},
		{"pure code reads no clock", "vrrp/x.go", "package vrrp\n\nimport t \"time\"\n\nfunc f() { t.Sleep(1) }\n", "time.Sleep"},
		{"pure code reads no clock", "vrrp/x.go", "package vrrp\n\nimport \"time\"\n\nfunc f() { g(time.After) }\n", "time.After"},
		{"pure code reads no clock", "vrrp/x.go", "package vrrp\n\nimport \"time\"\n\nvar errT = time.NewTimer(1)\n", "time.NewTimer"},
		{"pure code reads no clock", "vrrp/x.go", "package vrrp\n\nimport . \"time\"\n\nfunc f() { Now() }\n", "dot import"},

		{"pure code has no mutable globals", "vrrp/x.go", "package vrrp\n\nvar count int\n", "count"},
		{"pure code has no mutable globals", "vrrp/x.go", "package vrrp\n\nvar names = map[int]string{}\n", "names"},
		{"pure code has no mutable globals", "vrrp/x.go", "package vrrp\n\nvar (\n\ta = 1\n\tb = f()\n)\n", "variable b"},
		{"pure code has no mutable globals", "vrrp/x.go", "package vrrp\n\nimport \"errors\"\n\nvar state = errors.New(\"\")\n", "state"},
		{"pure code has no mutable globals", "vrrp/x.go", "package vrrp\n\nfunc init() {}\n", "init"},

		{"files are short", "vrrp/wire/x_test.go", "package wire\n" + strings.Repeat("\n", maxFile), "vrrp/wire/x_test.go"},
		{"functions are short", "vrrp/wire/x.go", "package wire\n\nfunc f() {\n" + strings.Repeat("\n", maxFunction-1) + "}\n", "function f has 71"},
	}
}

func TestRulesCanBreak(t *testing.T) {
	for _, r := range rules() {
		tried := false
		for _, b := range breaches() {
			if b.rule != r.name {
				continue
			}
			tried = true
			t.Run(b.rule+"/"+b.want, func(t *testing.T) {
				sources := maps.Clone(sound())
				sources[b.file] = b.source
				matches := func(v violation) bool { return v.why != "" && strings.Contains(v.String(), b.want) }
				if found := r.check(fixture(t, sources)); !slices.ContainsFunc(found, matches) {
					t.Errorf("%s:\n%s\nviolations: %v; want one about %q", b.file, b.source, found, b.want)
				}
			})
		}
		if !tried {
			t.Errorf("no fixture breaks the rule %q, so it may be one that cannot fail", r.name)
		}
	}
}

// A rule that is renamed must not leave its fixtures behind.
func TestFixturesBelongToRules(t *testing.T) {
	for _, b := range breaches() {
		if !slices.ContainsFunc(rules(), func(r rule) bool { return r.name == b.rule }) {
			t.Errorf("%s: there is no rule %q", b.file, b.rule)
		}
	}
}

func TestLongestAllowedPasses(t *testing.T) {
	packages := fixture(t, map[string]string{
		"a/x.go":      "package a\n\nfunc f() {\n" + strings.Repeat("\n", maxFunction-2) + "}\n",
		"a/y.go":      "package a\n" + strings.Repeat("\n", maxFile-1),
		"a/x_test.go": "package a\n\nfunc g() {\n" + strings.Repeat("\n", 2*maxFunction) + "}\n",
	})
	report(t, shortFunctions(packages))
	report(t, shortFiles(packages))
}

func TestMissingRequirementIsFound(t *testing.T) {
	var goMod strings.Builder
	goMod.WriteString("module tandem\n\nrequire (\n")
	for _, r := range required() {
		goMod.WriteString("\t" + r + " v1.0.0 // indirect\n")
	}
	complete := goMod.String() + ")\n"
	report(t, missingRequirements(complete))
	report(t, missingRequirements(strings.ReplaceAll(complete, "\t", "require ")))
	for _, r := range required() {
		for _, without := range []string{
			strings.ReplaceAll(complete, "\t"+r+" v1", "\t// "+r+" v1"),
			strings.ReplaceAll(complete, "\t"+r+" v1", "\t"+r+"x v1"),
		} {
			found := missingRequirements(without)
			if len(found) != 1 || !strings.Contains(found[0].String(), r) {
				t.Errorf("without %s: %v", r, found)
			}
		}
	}
}

func TestForeignPathIsFound(t *testing.T) {
	for _, f := range foreign() {
		found := foreignPaths("docs/x.md", []byte("first\nsee "+f+"x\n"))
		if len(found) != 1 || !strings.Contains(found[0].String(), "docs/x.md:2") {
			t.Errorf("%s: %v", f, found)
		}
	}
	report(t, foreignPaths("docs/x.md", []byte("network/worker, farmer, library\n")))
}
