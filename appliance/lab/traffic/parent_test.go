package traffic

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// childVariable makes the test binary play a child.
const childVariable = "TANDEM_TRAFFIC_TEST_CHILD"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(childVariable) {
	case "":
		os.Exit(m.Run())
	case "client":
		err = ClientMain(context.Background(), os.Stdin, os.Stdout)
	case "server":
		err = ServerMain(context.Background(), os.Stdin, os.Stdout)
	case "dumb":
		_, err = io.Copy(io.Discard, os.Stdin)
		err = errors.Join(err, errors.New("has nothing to say"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func child(role string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+role)
	return cmd
}

func startServer(t *testing.T) (*Server, Listening) {
	t.Helper()
	s, err := StartServer(child("server"), ServerConfig{Address: loopback})
	if err != nil {
		t.Fatal(err)
	}
	at, err := s.Ready(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.Ready(t.Context()); err != nil || again != at {
		t.Errorf("second Ready: %v, %v", again, err)
	}
	return s, at
}

func TestChildren(t *testing.T) {
	t.Parallel()
	server, at := startServer(t)
	cl, err := StartClient(child("client"), ClientConfig{
		Server: loopback, TCPPort: at.TCP.Port(), UDPPort: at.UDP.Port(), BulkPort: at.Bulk.Port(),
		TCPSessions: 20, UDPFlows: 5, Download: true, BulkRate: 10_000_000,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testPatience)
	defer cancel()
	if err := cl.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if err := cl.Mark(ctx); err != nil {
		t.Fatal(err)
	}
	if err := cl.Fault(ctx, time.Now()); err != nil {
		t.Fatal(err)
	}
	for {
		s, err := cl.Report(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if s.Resumed() == 26 {
			break
		}
	}
	if s := cl.Latest(); s.Alive() != 26 || s.Lost() != 0 {
		t.Errorf("%+v", s)
	}
	if err := server.Stop(); err != nil {
		t.Error(err)
	}
	for s := cl.Latest(); s.TCP.Lost != 20 || s.Bulk.Lost != 1; s, err = cl.Report(ctx) {
		if err != nil {
			t.Fatalf("sessions do not end with the server: %v; %+v", err, s)
		}
	}
	if err := cl.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := cl.Report(ctx); !errors.Is(err, ErrEnded) {
		t.Errorf("report after the end: %v", err)
	}
}

func TestErrorsOfChildrenAreTold(t *testing.T) {
	t.Parallel()
	cl, err := StartClient(child("client"), ClientConfig{Server: loopback, TCPPort: 1, TCPSessions: 1})
	if err != nil {
		t.Fatal(err)
	}
	err = cl.Ready(t.Context())
	if !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
	if cl.Stop() == nil {
		t.Error("the exit status is not told")
	}

	server, at := startServer(t)
	second, err := StartServer(child("server"), ServerConfig{Address: loopback, TCPPort: at.TCP.Port()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v", err)
	}
	_ = second.Stop()
	if err := server.Stop(); err != nil {
		t.Error(err)
	}

	dumb, err := StartClient(child("dumb"), ClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := dumb.Mark(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := dumb.Stop(); err == nil || !strings.Contains(err.Error(), "nothing to say") {
		t.Errorf("standard error is not told: %v", err)
	}
	if _, err := StartClient(exec.Command("/does/not/exist"), ClientConfig{}); err == nil {
		t.Error("no error for a program that is not there")
	}
}

func TestClientMainEndsWithItsInput(t *testing.T) {
	t.Parallel()
	at := serve(t)
	cfg, err := json.Marshal(ClientConfig{Server: loopback, TCPPort: at.TCP.Port(), TCPSessions: 2})
	if err != nil {
		t.Fatal(err)
	}
	in := io.MultiReader(bytes.NewReader(append(cfg, '\n')), strings.NewReader("{not a command\n"))
	var out bytes.Buffer
	if err := ClientMain(t.Context(), in, &out); err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.String(), "read command") {
		t.Errorf("a broken command is not told: %s", out.String())
	}
	for _, text := range []string{"", "nonsense\n", `{"server":"127.0.0.1"}` + "\n"} {
		out.Reset()
		if ClientMain(t.Context(), strings.NewReader(text), &out) == nil && text != `{"server":"127.0.0.1"}`+"\n" {
			t.Errorf("%q: accepted", text)
		}
	}
}

func TestTailIsBounded(t *testing.T) {
	t.Parallel()
	var kept tail
	for range 100 {
		if _, err := kept.Write(bytes.Repeat([]byte("x"), 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kept.Write([]byte("end\n")); err != nil {
		t.Fatal(err)
	}
	if s := kept.String(); len(s) >= tailSize || !strings.HasSuffix(s, "xend") {
		t.Errorf("kept %d bytes, ending in %q", len(s), s[len(s)-5:])
	}
}
