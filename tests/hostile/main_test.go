package hostile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
)

const (
	// binaryVariable tells the tests where the program under test is.
	binaryVariable = "TANDEM_UNDER_TEST"
	// readOnlySysctls is the word by which the test program, called again, becomes
	// the one that is named after it, with /proc/sys as containers have it.
	readOnlySysctls = "with-read-only-sysctls"
)

// TestMain runs the tests inside a laboratory.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == readOnlySysctls {
		fmt.Fprintln(os.Stderr, execReadOnly(os.Args[2:]))
		os.Exit(1)
	}
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
	dir, err := os.MkdirTemp("", "tandem")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // only a temporary directory stays behind
	// A user without rights must be able to start it.
	if err := os.Chmod(dir, 0o755); err != nil {
		return 1, err
	}
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

// execReadOnly returns only if it fails.
func execReadOnly(command []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind /proc/sys: %w", err)
	}
	if err := unix.Mount("", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make /proc/sys read-only: %w", err)
	}
	return unix.Exec(command[0], command, os.Environ())
}
