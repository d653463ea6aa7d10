package rfc9568

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// found is a test function and the strings in its file, by which subtests are known.
type found struct {
	file    string
	strings map[string]bool
}

// tests are the test functions of the module: "package/TestName".
type tests map[string]found

// root is the module's directory.
func root(t *testing.T) string {
	t.Helper()
	r, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func readTree(t *testing.T) tests {
	t.Helper()
	all := tests{}
	err := filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "bin", "dist", "testdata"}, d.Name()):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		name, err := filepath.Rel(root(t), path)
		if err != nil {
			return err
		}
		return all.add(filepath.ToSlash(name), path, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// add reads a file; source is nil, or what stands in it.
func (all tests) add(name, path string, source any) error {
	syntax, err := parser.ParseFile(token.NewFileSet(), path, source, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	here := found{file: name, strings: map[string]bool{}}
	ast.Inspect(syntax, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
			if s, err := strconv.Unquote(l.Value); err == nil {
				here.strings[s] = true
			}
		}
		return true
	})
	for _, d := range syntax.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && isTest(f) {
			all[filepath.ToSlash(filepath.Dir(name))+"/"+f.Name.Name] = here
		}
	}
	return nil
}

// isTest tells a test from a function that is only called like one.
func isTest(f *ast.FuncDecl) bool {
	if !strings.HasPrefix(f.Name.Name, "Test") || len(f.Type.Params.List) != 1 {
		return false
	}
	pointer, ok := f.Type.Params.List[0].Type.(*ast.StarExpr)
	if !ok {
		return false
	}
	of, ok := pointer.X.(*ast.SelectorExpr)
	return ok && of.Sel.Name == "T"
}

// split parts "package/TestName/subtest" into the test, without its package, and the
// rest; key is "package/TestName".
func split(reference string) (key, test, subtest string) {
	at := strings.Index(reference, "/Test")
	if at < 0 {
		return reference, "", ""
	}
	test, subtest, _ = strings.Cut(reference[at+1:], "/")
	return reference[:at+1] + test, test, subtest
}
