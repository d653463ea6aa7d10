package hostile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	"tandem/appliance/status"
	"tandem/vrrp/elector"
)

// apiGarbage lets a hundred bad clients at the API of both nodes. Each is turned
// away, with a sentence where it asked something, and good ones are served meanwhile.
func apiGarbage(s *stand) {
	harmless := s.harmless()
	clients := map[string][]net.Conn{}
	for _, node := range nodes() {
		clients[node] = s.badClients(node)
		start := time.Now()
		s.status(node)
		if took := time.Since(start); took > time.Second {
			s.t.Errorf("%s took %v to answer a good client", node, took)
		}
	}
	for _, node := range nodes() {
		for i, c := range clients[node] {
			if i%badKinds == badKinds-1 {
				s.refused(c, http.StatusNotFound, "GET /v1/status")
				continue
			}
			s.must(c.SetReadDeadline(time.Now().Add(5 * time.Second)))
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				s.t.Errorf("bad client %d of %s was kept", i, node)
			}
		}
	}
	harmless()
	s.bounded()
}

// badKinds is how many kinds of bad client there are.
const badKinds = 5

// badClients connects a hundred of them to a node's API.
func (s *stand) badClients(node string) []net.Conn {
	s.t.Helper()
	var clients []net.Conn
	for i := range 100 {
		c, err := net.Dial("unix", s.SocketPath(node))
		s.must(err)
		s.t.Cleanup(func() { _ = c.Close() }) // most are closed by the other side
		clients = append(clients, c)
		switch i % badKinds {
		case 0: // says nothing
		case 1: // a slow loris
			_, err = io.WriteString(c, "GET /v1/status HTTP/1.1\r\nHost: node\r\nX-")
		case 2:
			_, err = c.Write(bytes.Repeat([]byte{0, 0xff, '\r', '\n'}, 1000))
		case 3: // an endless header
			_, err = io.WriteString(c, "GET /v1/status HTTP/1.1\r\nHost: node\r\nX: "+strings.Repeat("x", 64<<10))
		case 4: // a body that never comes
			_, err = io.WriteString(c, "PUT /v1/status HTTP/1.1\r\nHost: node\r\nContent-Length: 1000000000\r\n\r\n")
		}
		// The server may end the connection while the client still writes.
		if err != nil && !errors.Is(err, unix.EPIPE) {
			s.t.Fatal(err)
		}
	}
	return clients
}

// refused demands an answer of that code with one sentence in JSON.
func (s *stand) refused(c net.Conn, code int, words ...string) {
	s.t.Helper()
	s.must(c.SetReadDeadline(time.Now().Add(patience)))
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	s.must(err)
	defer func() { _ = response.Body.Close() }() // the connection ends as well
	var failure status.Failure
	if err := json.NewDecoder(response.Body).Decode(&failure); err != nil || response.StatusCode != code || !containsAll(failure.Error, words) {
		s.t.Errorf("answer %s, %+v, %v; want code %d with %q", response.Status, failure, err, code, words)
	}
}

// apiRefuses asks for what there is not.
func apiRefuses(s *stand) {
	harmless := s.harmless()
	for _, tt := range []struct {
		request string
		code    int
		words   []string
	}{
		{"DELETE /v1/status", http.StatusNotFound, []string{"there is no DELETE /v1/status", "POST /v1/failover"}},
		{"POST /v1/status", http.StatusNotFound, []string{"there is no POST /v1/status"}},
		{"GET /v1/failover", http.StatusNotFound, []string{"there is no GET /v1/failover"}},
		{"GET /", http.StatusNotFound, []string{"there is no GET /"}},
		{"GET /v1/" + strings.Repeat("long", 200), http.StatusNotFound, []string{"…"}},
		{"POST /v1/failover", http.StatusConflict, []string{"this node is not MASTER", "run the command on the MASTER"}},
	} {
		c, err := net.Dial("unix", s.SocketPath(lab.Bravo))
		s.must(err)
		_, err = fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: node\r\n\r\n", tt.request)
		s.must(err)
		s.refused(c, tt.code, tt.words...)
		_ = c.Close() // it was answered
	}
	harmless()
}

// electorSocket writes nonsense to the elector's socket, as only root could. Each
// connection drives the node's away; it comes back, and the role stays.
func electorSocket(s *stand) {
	harmless := s.harmless()
	for _, node := range nodes() {
		pid := s.electorOf(node)
		path := filepath.Join(filepath.Dir(s.SocketPath(node)), elector.SocketName)
		for i := range 40 {
			c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
			if errors.Is(err, unix.EAGAIN) {
				continue // its queue is full
			}
			s.must(err)
			switch i % 4 {
			case 0:
			case 1:
				_, err = c.Write([]byte("once upon a time"))
			case 2:
				_, err = c.Write([]byte(`{"configure":{"interval":1,"carriers":[{"name":"lan"}]},"fitness":{"Failed":-7}}`))
			case 3:
				_, err = c.Write(bytes.Repeat([]byte("{"), 100<<10))
			}
			if err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
				s.t.Fatal(err)
			}
			_ = c.Close() // all was said
		}
		s.expect(node+" is with its elector again", node, func(answer status.Status) error {
			if !answer.Elector.Alive || answer.Elector.PID != pid || len(answer.Problems) > 0 {
				return fmt.Errorf("elector %+v, problems %q", answer.Elector, answer.Problems)
			}
			return nil
		})
	}
	harmless()
}

// socketModes demands that nobody else gets at the sockets.
func socketModes(s *stand) {
	for _, node := range nodes() {
		for _, name := range []string{status.SocketName, elector.SocketName} {
			info, err := os.Stat(filepath.Join(filepath.Dir(s.SocketPath(node)), name))
			s.must(err)
			if mode := info.Mode().Perm(); mode != 0o600 {
				s.t.Errorf("%s of %s has mode %04o, want 0600", name, node, mode)
			}
		}
	}
}

// TestFullDisk gives a node no room for what it must remember: it touches nothing
// until there is.
func TestFullDisk(t *testing.T) {
	s := newStand(t)
	i := s.usual(lab.Alpha)
	i.stateDir = "/run/full"
	s.must(os.MkdirAll(i.stateDir, 0o700))
	s.must(unix.Mount("tmpfs", i.stateDir, "tmpfs", 0, "size=4k,mode=700"))
	t.Cleanup(func() { _ = unix.Unmount(i.stateDir, unix.MNT_DETACH) }) // the namespace ends as well
	s.must(os.WriteFile(filepath.Join(i.stateDir, "ballast"), make([]byte, 4096), 0o600))
	p := s.launch(i)
	s.eventually("the node says it", func(context.Context) error {
		if !containsAll(p.output(), []string{"no space left on device"}) {
			return errors.New(p.output())
		}
		return nil
	})
	if left := s.ours(lab.Alpha); len(left) > 0 {
		t.Errorf("it touched the kernel without being able to remember what was there: %q", left)
	}
	s.must(os.Remove(filepath.Join(i.stateDir, "ballast")))
	s.eventually("the node becomes MASTER", func(context.Context) error {
		if !containsAll(p.output(), []string{"role=MASTER"}) {
			return errors.New(p.output())
		}
		return nil
	})
	s.ends(p)
}
