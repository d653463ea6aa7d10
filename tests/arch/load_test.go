package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the module's path.
const module = "tandem"

// pkg is a package of the module.
type pkg struct {
	// path is relative to the module, e.g. "vrrp/wire".
	path  string
	name  string
	files []file
}

// file is a Go file.
type file struct {
	// path is relative to the module.
	path   string
	test   bool
	lines  int
	fset   *token.FileSet
	syntax *ast.File
}

// imports are the import paths of the file.
func (f file) imports() []string {
	var paths []string
	for _, spec := range f.syntax.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// line is where a node begins.
func (f file) line(n ast.Node) string {
	return f.path + ":" + strconv.Itoa(f.fset.Position(n.Pos()).Line)
}

// code are the files that are not tests.
func (p pkg) code() []file {
	return slices.DeleteFunc(slices.Clone(p.files), func(f file) bool { return f.test })
}

// imports are the import paths of the package's code, sorted.
func (p pkg) imports() []string {
	set := map[string]bool{}
	for _, f := range p.code() {
		for _, i := range f.imports() {
			set[i] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// inside reports whether the package is at or below a directory.
func inside(path, directory string) bool {
	return path == directory || strings.HasPrefix(path, directory+"/")
}

// ownPath turns an import path into the path of a package of the module.
func ownPath(importPath string) (string, bool) {
	return strings.CutPrefix(importPath, module+"/")
}

func parse(path string, source []byte) (file, error) {
	f := file{
		path:  path,
		test:  strings.HasSuffix(path, "_test.go"),
		lines: bytes.Count(source, []byte{'\n'}),
		fset:  token.NewFileSet(),
	}
	var err error
	f.syntax, err = parser.ParseFile(f.fset, path, source, parser.ParseComments|parser.SkipObjectResolution)
	return f, err
}

// root is the module's directory.
func root(t *testing.T) string {
	t.Helper()
	r, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// load reads every package of the module. -e goes on when one does not compile:
// that is for the compiler to report.
func load(t *testing.T) []pkg {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-e", "-json", "./...")
	list.Dir = root(t)
	out, err := list.Output()
	if err != nil {
		t.Fatalf("list packages: %v", err)
	}
	var packages []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var listed struct {
			ImportPath, Name, Dir              string
			GoFiles, TestGoFiles, XTestGoFiles []string
			IgnoredGoFiles                     []string
		}
		if err := d.Decode(&listed); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("decode the list of packages: %v", err)
		}
		own, _ := ownPath(listed.ImportPath)
		p := pkg{path: own, name: listed.Name}
		for _, name := range slices.Concat(listed.GoFiles, listed.TestGoFiles, listed.XTestGoFiles, listed.IgnoredGoFiles) {
			source, err := os.ReadFile(filepath.Join(listed.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			f, err := parse(path.Join(own, name), source)
			if err != nil {
				t.Fatal(err)
			}
			p.files = append(p.files, f)
		}
		packages = append(packages, p)
	}
}

// fixture makes packages from sources by file path.
func fixture(t *testing.T, sources map[string]string) []pkg {
	t.Helper()
	byPath := map[string]*pkg{}
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		f, err := parse(name, []byte(sources[name]))
		if err != nil {
			t.Fatal(err)
		}
		directory := path.Dir(name)
		if byPath[directory] == nil {
			byPath[directory] = &pkg{path: directory, name: f.syntax.Name.Name}
		}
		byPath[directory].files = append(byPath[directory].files, f)
	}
	var packages []pkg
	for _, p := range slices.Sorted(maps.Keys(byPath)) {
		packages = append(packages, *byPath[p])
	}
	return packages
}
