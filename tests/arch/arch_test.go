package arch

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func report(t *testing.T, found []violation) {
	t.Helper()
	for _, v := range found {
		t.Error(v)
	}
}

func TestPackages(t *testing.T) {
	packages := load(t)
	if len(packages) < 10 {
		t.Fatalf("found %d packages only: the rules look at the wrong place", len(packages))
	}
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) { report(t, r.check(packages)) })
	}
}

func TestGoModRequiresTheLibraries(t *testing.T) {
	goMod, err := os.ReadFile(filepath.Join(root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	report(t, missingRequirements(string(goMod)))
}

func TestNoForeignPaths(t *testing.T) {
	files := 0
	err := filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", "bin", "dist"}, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bytes.IndexByte(content, 0) >= 0 { // not text
			return nil
		}
		files++
		name, err := filepath.Rel(root(t), path)
		if err != nil {
			return err
		}
		report(t, foreignPaths(name, content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Errorf("looked at %d files only", files)
	}
}
