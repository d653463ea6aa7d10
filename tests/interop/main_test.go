package interop

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	// The program under test is built out of sight of the tool that keeps the results
	// of tests: it must learn from here, and from noteSources, when the program changed.
	_ "tandem/appliance/node"
)

const (
	// binaryVariable tells the tests where the program under test is.
	binaryVariable = "TANDEM_UNDER_TEST"
	// scenariosAtOnce is how many scenarios are there at the same time: they mostly wait.
	scenariosAtOnce = "64"
)

// TestMain runs the tests inside a laboratory.
func TestMain(m *testing.M) {
	if !lab.Inside() {
		code, err := lab.Enter(context.Background(), lab.EnterOptions{})
		switch {
		case errors.Is(err, lab.ErrUnavailable):
			fmt.Fprintln(os.Stderr, err)
			code = m.Run() // what needs the laboratory skips
		case err != nil:
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}
	code, err := runInside(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runInside(m *testing.M) (int, error) {
	flag.Parse()
	if err := parallelScenarios(); err != nil {
		return 1, err
	}
	// FRR leaves files in /var/tmp when it is killed; this one ends with the laboratory.
	if err := unix.Mount("tmpfs", "/var/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return 1, fmt.Errorf("mount a private /var/tmp: %w", err)
	}
	dir, err := os.MkdirTemp("", "tandem")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // only a temporary directory stays behind
	binary := filepath.Join(dir, "tandem")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "tandem/cmd/tandem").CombinedOutput()
	if err != nil {
		return 1, fmt.Errorf("build the program under test: %w\n%s", err, out)
	}
	if err := os.Setenv(binaryVariable, binary); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// parallelScenarios raises -parallel, which is the number of processors by default,
// unless it was given.
func parallelScenarios() error {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return nil
	}
	return flag.Set("test.parallel", scenariosAtOnce)
}

// noteSources opens the directory of the main package, which nothing can import.
func noteSources(t *testing.T) {
	t.Helper()
	if _, err := os.ReadDir(filepath.Join("..", "..", "cmd", "tandem")); err != nil {
		t.Fatal(err)
	}
}
