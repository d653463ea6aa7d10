package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"
)

// settleTime is how long a test waits for what should happen soon.
const settleTime = 10 * time.Second

// TestMain runs the tests inside a laboratory. The test binary is also the stub
// of the tandem program and the program that the tests of Enter run.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "keygen", "run", "elect":
			os.Exit(stub(os.Args[1:]))
		case "nested":
			os.Exit(nested(os.Args[2]))
		}
	}
	if Inside() {
		os.Exit(m.Run())
	}
	code, err := Enter(context.Background(), EnterOptions{})
	switch {
	case errors.Is(err, ErrUnavailable):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(m.Run()) // those that need the laboratory skip
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

func needLab(t *testing.T) {
	t.Helper()
	if !Inside() {
		t.Skip("this machine lets the test make no namespaces: run it as root")
	}
}

// newLab builds a laboratory with the test binary as the tandem program.
func newLab(t *testing.T, opts Options) *Lab {
	t.Helper()
	needLab(t)
	opts.Binary = "/proc/self/exe"
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	start := time.Now()
	l, err := New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("built in %v", time.Since(start))
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// eventually asks until check is content or the time is up.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTime)
	defer cancel()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-ticker.C:
		}
	}
}
