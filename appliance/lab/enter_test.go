package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// nested is the program that the tests below run: it enters a laboratory and
// plays a part in it.
func nested(part string) int {
	if !Inside() {
		code, err := Enter(context.Background(), EnterOptions{
			Detach:   part == "detach",
			OnDetach: func(pid int) { _, _ = fmt.Fprintln(os.Stdout, "detached", pid) },
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return code
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	switch part {
	case "exit":
		return 7
	case "killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "wait", "detach":
		// An orphan that ignores all but SIGKILL must go as well.
		if err := exec.Command("sh", "-c", "trap '' INT TERM HUP; sleep 1000 & wait").Start(); err != nil {
			return 1
		}
		_, _ = fmt.Fprintln(os.Stdout, "ready")
		if part == "detach" && Detach() != nil {
			return 1
		}
		if <-signals == syscall.SIGINT {
			return 3
		}
		return 4
	case "deaf":
		_, _ = fmt.Fprintln(os.Stdout, "ready")
		for range signals {
			_, _ = fmt.Fprintln(os.Stdout, "heard")
		}
	case "reap":
		return nestedReap()
	}
	return 1
}

// nestedReap checks that orphans are reaped and own children are not stolen.
func nestedReap() int {
	for range 30 {
		// The shell ends with 5 while its own child lives on as an orphan.
		err := exec.Command("sh", "-c", "sleep 0.01 & exit 5").Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 5 {
			_, _ = fmt.Fprintln(os.Stdout, "exit of a child:", err)
			return 1
		}
	}
	if err := exec.Command("sleep", "0.2").Run(); err != nil {
		_, _ = fmt.Fprintln(os.Stdout, "run sleep:", err)
		return 1
	}
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(entries) != 2 {
		_, _ = fmt.Fprintln(os.Stdout, "want two processes, init and this one:", entries, err)
		return 1
	}
	return 0
}

// play starts the test binary as a program outside any laboratory.
func play(t *testing.T, part string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	needLab(t)
	cmd := exec.Command("/proc/self/exe", "nested", part)
	cmd.Env = environment("")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it has mostly ended
	return cmd, bufio.NewReader(out)
}

func expectLine(t *testing.T, r *bufio.Reader, want string) string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, want) {
		t.Fatalf("read %q, %v; want %q", line, err, want)
	}
	return strings.TrimSpace(line)
}

func TestEnterPassesExitCode(t *testing.T) {
	for part, want := range map[string]int{"exit": 7, "killed": 137, "reap": 0} {
		t.Run(part, func(t *testing.T) {
			cmd, out := play(t, part)
			said, _ := out.ReadString(0) // to the end
			_ = cmd.Wait()               // the exit code is looked at below
			if code := cmd.ProcessState.ExitCode(); code != want {
				t.Errorf("exit code %d, want %d: %s", code, want, said)
			}
		})
	}
}

func TestEnterLeavesNothing(t *testing.T) {
	for _, tc := range []struct {
		name string
		sig  syscall.Signal
		code int // of the outer program, -1 if a signal killed it
	}{
		{"interrupt", syscall.SIGINT, 3},
		{"terminate", syscall.SIGTERM, 4},
		{"kill", syscall.SIGKILL, -1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd, out := play(t, "wait")
			expectLine(t, out, "ready")
			gone := watchRemoval(t, childOf(t, cmd.Process.Pid))
			if err := cmd.Process.Signal(tc.sig); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // the exit code is looked at below
			if code := cmd.ProcessState.ExitCode(); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			gone(t)
		})
	}
}

func TestSecondSignalKills(t *testing.T) {
	cmd, out := play(t, "deaf")
	expectLine(t, out, "ready")
	gone := watchRemoval(t, childOf(t, cmd.Process.Pid))
	for _, want := range []string{"heard", ""} {
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		if want != "" {
			expectLine(t, out, want)
		}
	}
	_ = cmd.Wait() // the exit code is looked at below
	if code := cmd.ProcessState.ExitCode(); code != 137 {
		t.Errorf("exit code %d, want 137", code)
	}
	gone(t)
}

func TestDetach(t *testing.T) {
	cmd, out := play(t, "detach")
	expectLine(t, out, "ready")
	pid, err := strconv.Atoi(strings.TrimPrefix(expectLine(t, out, "detached "), "detached "))
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("outer program: %v", err)
	}
	gone := watchRemoval(t, pid)
	if children := childrenOf(pid); len(children) == 0 {
		t.Fatal("the inner program ended with the outer one")
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	gone(t)
}

func TestDetachNeedsPermission(t *testing.T) {
	needLab(t)
	if err := Detach(); err == nil {
		t.Error("Detach without permission succeeded")
	}
}

// watchRemoval returns a check that the processes and the network namespace of
// a laboratory vanish, pid being its init process. The witness of the network
// namespace is a veth into it, which the kernel removes together with it.
func watchRemoval(t *testing.T, pid int) func(t *testing.T) {
	t.Helper()
	pidNamespace, err := inodeOf(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "witness"
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "inside", PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T) {
		t.Helper()
		eventually(t, "processes are left", func() error { return noneIn(pidNamespace) })
		eventually(t, "network namespace is left", func() error {
			var gone netlink.LinkNotFoundError
			if _, err := netlink.LinkByName("witness"); !errors.As(err, &gone) {
				return fmt.Errorf("link into it still found (%w)", err)
			}
			return nil
		})
	}
}

// noneIn checks that no process is in the PID namespace.
func noneIn(pidNamespace uint64) error {
	paths, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		return err
	}
	for _, path := range paths {
		if inode, err := inodeOf(path); err == nil && inode == pidNamespace {
			return fmt.Errorf("%s", path)
		}
	}
	return nil
}

func childOf(t *testing.T, pid int) int {
	t.Helper()
	children := childrenOf(pid)
	if len(children) != 1 {
		t.Fatalf("process %d has children %v, want one", pid, children)
	}
	return children[0]
}

func childrenOf(pid int) []int {
	var children []int
	paths, _ := filepath.Glob("/proc/[0-9]*/status") // the pattern is well-formed
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(content), fmt.Sprintf("\nPPid:\t%d\n", pid)) {
			continue
		}
		if child, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			children = append(children, child)
		}
	}
	return children
}

// TestUserNamespace runs other tests of this package as a user without rights.
func TestUserNamespace(t *testing.T) {
	needLab(t)
	if Privilege() != "root" {
		t.Skip("the tests run in a user namespace already")
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	// Not in t.TempDir: that user may not look into it.
	path := "/run/lab.test"
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(path) }) // /run is private anyway
	const nobody = 65534
	cmd := exec.CommandContext(t.Context(), path, "-test.v",
		"-test.run", "^(TestStaticRouter|TestForwardingTable|TestPowerOff|TestHang|TestPrivilege|TestEnterLeavesNothing)$")
	cmd.Env = append(environment(""), "TMPDIR=/tmp", "WANT_PRIVILEGE=user namespace")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), ErrUnavailable.Error()) {
		t.Skipf("user namespaces are not allowed here: %s", out)
	}
	if err != nil || strings.Contains(string(out), "--- SKIP") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("\n%s", out)
}

func TestPrivilege(t *testing.T) {
	needLab(t)
	want := []string{"root", "user namespace"}
	if given := os.Getenv("WANT_PRIVILEGE"); given != "" {
		want = []string{given}
	}
	if got := Privilege(); !slices.Contains(want, got) {
		t.Errorf("Privilege() = %q, want one of %q", got, want)
	}
}

func TestUnavailableSaysWhatToDo(t *testing.T) {
	err := unavailable(syscall.EPERM)
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, syscall.EPERM) {
		t.Errorf("%v wraps too little", err)
	}
	if !strings.Contains(err.Error(), "sudo") {
		t.Errorf("%v does not say what to do", err)
	}
}

func TestInsideIsNotInherited(t *testing.T) {
	for _, value := range []string{"", "inside", "inside pid:[1]", "init"} {
		t.Setenv(stageVariable, value)
		if Inside() {
			t.Errorf("%s=%q makes Inside true", stageVariable, value)
		}
	}
}
