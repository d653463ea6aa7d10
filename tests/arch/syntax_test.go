package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
)

// inspectPure visits every node of the code of pure packages.
func inspectPure(packages []pkg, visit func(file, ast.Node) []violation) []violation {
	var found []violation
	for _, p := range packages {
		if kindOf(p) != pure {
			continue
		}
		for _, f := range p.code() {
			ast.Inspect(f.syntax, func(n ast.Node) bool {
				if n != nil {
					found = append(found, visit(f, n)...)
				}
				return true
			})
		}
	}
	return found
}

func noGoroutine(packages []pkg) []violation {
	return inspectPure(packages, func(f file, n ast.Node) []violation {
		if _, ok := n.(*ast.GoStmt); !ok {
			return nil
		}
		return []violation{{f.line(n), "a go statement in pure code", "the order of goroutines is not repeatable; a shell owns them"}}
	})
}

// clocks are what package time offers to read the clock or to wait for it.
func clocks() []string {
	return []string{
		"After", "AfterFunc", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Until",
	}
}

func noClock(packages []pkg) []violation {
	return inspectPure(packages, func(f file, n ast.Node) []violation {
		const why = "the time is a parameter, so that a simulation can choose it"
		switch n := n.(type) {
		case *ast.ImportSpec:
			if n.Path.Value == `"time"` && n.Name != nil && n.Name.Name == "." {
				return []violation{{f.line(n), "a dot import of time in pure code", "it hides where the clock is read"}}
			}
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if ok && f.imported(x.Name) == "time" && slices.Contains(clocks(), n.Sel.Name) {
				return []violation{{f.line(n), "time." + n.Sel.Name + " in pure code", why}}
			}
		}
		return nil
	})
}

// imported is the path of the package that goes by the name in the file.
func (f file) imported(name string) string {
	for i, spec := range f.syntax.Imports {
		p := f.imports()[i]
		if spec.Name != nil && spec.Name.Name == name || spec.Name == nil && path.Base(p) == name {
			return p
		}
	}
	return ""
}

func noMutableGlobals(packages []pkg) []violation {
	var found []violation
	for _, p := range packages {
		if kindOf(p) != pure {
			continue
		}
		for _, f := range p.code() {
			for _, d := range f.syntax.Decls {
				found = append(found, mutableGlobals(f, d)...)
			}
		}
	}
	return found
}

func mutableGlobals(f file, d ast.Decl) []violation {
	const why = "state belongs into a value that the caller owns; for a table write a function with a switch"
	if function, ok := d.(*ast.FuncDecl); ok {
		if function.Recv == nil && function.Name.Name == "init" {
			return []violation{{f.line(d), "an init function in pure code", "importing a package must do nothing"}}
		}
		return nil
	}
	general, ok := d.(*ast.GenDecl)
	if !ok || general.Tok != token.VAR {
		return nil
	}
	var found []violation
	for _, s := range general.Specs {
		spec, ok := s.(*ast.ValueSpec)
		if !ok {
			continue
		}
		for i, name := range spec.Names {
			if !immutable(f, general, spec, i) {
				found = append(found, violation{f.line(name), "the variable " + name.Name + " is global in pure code", why})
			}
		}
	}
	return found
}

// immutable recognises the forms of global that nobody changes: assertions of
// interfaces, errors, compiled expressions and embedded files.
func immutable(f file, d *ast.GenDecl, spec *ast.ValueSpec, i int) bool {
	if spec.Names[i].Name == "_" {
		return true
	}
	for _, doc := range []*ast.CommentGroup{d.Doc, spec.Doc} {
		if doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") }) {
			return true
		}
	}
	if i >= len(spec.Values) {
		return false
	}
	call, ok := spec.Values[i].(*ast.CallExpr)
	if !ok {
		return false
	}
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := selector.X.(*ast.Ident)
	if !ok {
		return false
	}
	isError := strings.HasPrefix(strings.ToLower(spec.Names[i].Name), "err")
	switch f.imported(x.Name) + "." + selector.Sel.Name {
	case "errors.New", "fmt.Errorf":
		return isError
	case "regexp.MustCompile":
		return true
	}
	return false
}

func shortFunctions(packages []pkg) []violation {
	var found []violation
	for _, p := range packages {
		for _, f := range p.code() {
			for _, d := range f.syntax.Decls {
				function, ok := d.(*ast.FuncDecl)
				if !ok {
					continue
				}
				lines := f.fset.Position(function.End()).Line - f.fset.Position(function.Pos()).Line + 1
				if lines > maxFunction {
					found = append(found, violation{
						f.line(function), fmt.Sprintf("function %s has %d lines, at most %d are allowed", function.Name.Name, lines, maxFunction),
						"what does not fit a screen is not seen as a whole",
					})
				}
			}
		}
	}
	return found
}
