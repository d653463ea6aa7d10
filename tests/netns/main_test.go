package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tandem/appliance/lab"
	// The program under test is built out of sight of the tool that keeps the results
	// of tests: it must learn from here, and from noteSources, when the program changed.
	_ "tandem/appliance/node"
)

// binaryVariable tells the tests where the program under test is.
const binaryVariable = "TANDEM_UNDER_TEST"

// TestMain runs the tests inside a laboratory.
func TestMain(m *testing.M) {
	if !lab.Inside() {
		code, err := lab.Enter(context.Background(), lab.EnterOptions{})
		switch {
		case errors.Is(err, lab.ErrUnavailable):
			fmt.Fprintln(os.Stderr, err)
			code = m.Run() // every test skips
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
	dir, err := os.MkdirTemp("", "tandem")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // only a temporary directory stays behind
	binary := filepath.Join(dir, "tandem")
	if err := build(binary); err != nil {
		return 1, err
	}
	if err := os.Setenv(binaryVariable, binary); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

func build(binary string) error {
	arguments := []string{"build", "-buildvcs=false", "-o", binary}
	if raceDetector {
		arguments = append(arguments, "-race")
	}
	cmd := exec.Command("go", append(arguments, "tandem/cmd/tandem")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the program under test: %w\n%s", err, out)
	}
	return nil
}

// noteSources opens the directory of the main package, which nothing can import.
func noteSources(t *testing.T) {
	t.Helper()
	if _, err := os.ReadDir(filepath.Join("..", "..", "cmd", "tandem")); err != nil {
		t.Fatal(err)
	}
}

func needLab(t *testing.T) {
	t.Helper()
	if !lab.Inside() {
		t.Skip("this machine lets the test make no namespaces: run it as root")
	}
}
