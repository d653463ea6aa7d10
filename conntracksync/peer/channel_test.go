package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// soon is far enough for a loaded machine.
func soon() time.Time { return time.Now().Add(10 * time.Second) }

func loopback() netip.AddrPort { return netip.MustParseAddrPort("127.0.0.1:0") }

func listen(t *testing.T, id *Identity, peerKey string) *Listener {
	t.Helper()
	l, err := Listen(t.Context(), Config{Identity: id, PeerKey: peerKey, Local: loopback(), Remote: loopback()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func dial(t *testing.T, l *Listener, id *Identity, peerKey string) (*Channel, error) {
	t.Helper()
	c, err := Dial(t.Context(), Config{Identity: id, PeerKey: peerKey, Local: loopback(), Remote: l.Addr()})
	if c != nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func accept(t *testing.T, l *Listener) (*Channel, error) {
	t.Helper()
	ctx, cancel := context.WithDeadline(t.Context(), soon())
	defer cancel()
	c, err := l.Accept(ctx)
	if c != nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// connected returns both ends of a channel.
func connected(t *testing.T) (dialer, listener *Channel) {
	t.Helper()
	a, b := newKey(t), newKey(t)
	l := listen(t, b, a.PublicKey())
	dialer, err := dial(t, l, a, b.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if listener, err = accept(t, l); err != nil {
		t.Fatal(err)
	}
	return dialer, listener
}

func TestFramesPassBothWays(t *testing.T) {
	a, b := connected(t)
	var buf []byte
	for _, size := range []int{1, 3, 4, 5, 16 << 10, MaxFrame} {
		want := bytes.Repeat([]byte{byte(size)}, size)
		for _, ends := range [][2]*Channel{{a, b}, {b, a}} {
			sent := make(chan error, 1)
			go func() { sent <- ends[0].Send(want) }()
			var err error
			if buf, err = ends[1].Receive(buf, soon()); err != nil {
				t.Fatal(err)
			}
			if err := <-sent; err != nil || !bytes.Equal(buf, want) {
				t.Fatalf("%d bytes: got %d, %v", size, len(buf), err)
			}
		}
	}
	before := &buf[0]
	if err := a.Send([]byte("again")); err != nil {
		t.Fatal(err)
	}
	if buf, err := b.Receive(buf, soon()); err != nil || &buf[0] != before {
		t.Errorf("the memory is not used again: %v", err)
	}
}

func TestFrameLengths(t *testing.T) {
	a, b := connected(t)
	for _, bad := range [][]byte{nil, make([]byte, MaxFrame+1)} {
		if err := a.Send(bad); !errors.Is(err, ErrFrameLength) {
			t.Errorf("send %d bytes: %v", len(bad), err)
		}
	}
	if err := a.Send([]byte("still well")); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Receive(nil, soon()); err != nil || string(got) != "still well" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestForgedLengthsAreRefused(t *testing.T) {
	for _, length := range []uint32{0, MaxFrame + 1, 1 << 31} {
		a, b := connected(t)
		if _, err := a.conn.Write(binary.BigEndian.AppendUint32(nil, length)); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Receive(nil, soon()); !errors.Is(err, ErrFrameLength) {
			t.Errorf("length %d: %v", length, err)
		}
	}
}

func TestTruncatedFrames(t *testing.T) {
	whole := append(binary.BigEndian.AppendUint32(nil, 10), "0123456789"...)
	for n := range whole {
		a, b := connected(t)
		if _, err := a.conn.Write(whole[:n]); err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		_, err := b.Receive(nil, soon())
		if between := n == 0; err == nil || errors.Is(err, io.EOF) != between {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
}

func TestSilenceEndsAtTheDeadline(t *testing.T) {
	_, b := connected(t)
	_, err := b.Receive(nil, time.Now().Add(20*time.Millisecond))
	var network net.Error
	if !errors.As(err, &network) || !network.Timeout() || !strings.Contains(err.Error(), "fallen silent") {
		t.Errorf("got %v", err)
	}
}

func TestCloseEndsReceive(t *testing.T) {
	a, b := connected(t)
	done := make(chan error, 1)
	go func() { _, err := b.Receive(nil, time.Time{}); done <- err }()
	for _, c := range []*Channel{b, b, a} {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if err := <-done; err == nil {
		t.Error("no error")
	}
}

// TestWrongKeys: the side that sees a wrong key names both, the other one learns
// that it was refused.
func TestWrongKeys(t *testing.T) {
	a, b, stranger := newKey(t), newKey(t), newKey(t)
	t.Run("the listener is a stranger", func(t *testing.T) {
		l := listen(t, stranger, a.PublicKey())
		_, err := dial(t, l, a, b.PublicKey())
		checkWrong(t, err, stranger, b)
		_, err = accept(t, l)
		checkRefused(t, err, stranger)
	})
	t.Run("the dialer is a stranger", func(t *testing.T) {
		l := listen(t, b, a.PublicKey())
		_, err := dial(t, l, stranger, b.PublicKey())
		checkRefused(t, err, stranger)
		_, err = accept(t, l)
		checkWrong(t, err, stranger, a)
		if c, err := dial(t, l, a, b.PublicKey()); err != nil || c == nil {
			t.Errorf("the peer does not get through afterwards: %v", err)
		}
		if _, err := accept(t, l); err != nil {
			t.Error(err)
		}
	})
}

func checkWrong(t *testing.T, err error, got, want *Identity) {
	t.Helper()
	var wrong *WrongKeyError
	if !errors.As(err, &wrong) || wrong.Got != got.PublicKey() || wrong.Want != want.PublicKey() {
		t.Errorf("want a WrongKeyError with both keys, got %v", err)
	}
}

func checkRefused(t *testing.T, err error, own *Identity) {
	t.Helper()
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Own != own.PublicKey() {
		t.Errorf("want a RefusedError with the own key, got %v", err)
	}
}

// TestClockDoesNotMatter runs both ends decades off.
func TestClockDoesNotMatter(t *testing.T) {
	a, b := newKey(t), newKey(t)
	for _, year := range []int{1960, 1999, 2106, 9999, 12000} {
		now := func() time.Time { return time.Date(year, 12, 31, 23, 59, 59, 0, time.UTC) }
		l := listen(t, b, a.PublicKey())
		raw, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		cfg := Config{Identity: a, PeerKey: b.PublicKey()}
		c, err := secure(t.Context(), raw, cfg, false, now)
		if err != nil {
			t.Fatalf("year %d: %v", year, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestIntruders: nobody without the key gets a channel, and the peer still does.
func TestIntruders(t *testing.T) {
	a, b := newKey(t), newKey(t)
	for name, intrude := range map[string]func(net.Conn){
		"silent":    func(net.Conn) {},
		"closes":    func(c net.Conn) { _ = c.Close() },
		"garbage":   func(c net.Conn) { _, _ = c.Write(bytes.Repeat([]byte{0xa5}, 4096)) },
		"plaintext": func(c net.Conn) { _, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") },
		"half a hello": func(c net.Conn) {
			_, _ = c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3})
		},
		"TLS 1.2": func(c net.Conn) {
			old := tls.Client(c, &tls.Config{
				InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{a.certificate},
			})
			if err := old.HandshakeContext(t.Context()); err == nil {
				t.Error("TLS 1.2 is accepted")
			}
		},
		"no certificate": func(c net.Conn) {
			bare := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
			_ = bare.HandshakeContext(t.Context()) // with TLS 1.3 the client cannot know yet
			if _, err := bare.Read(make([]byte, 1)); err == nil {
				t.Error("a client without a key is greeted")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, b, a.PublicKey())
			for range maxHandshakes + 2 {
				conn, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = conn.Close() })
				intrude(conn)
			}
			if _, err := dial(t, l, a, b.PublicKey()); err != nil {
				t.Fatalf("the peer does not get through: %v", err)
			}
			for {
				c, err := accept(t, l)
				if c != nil {
					break
				}
				if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, net.ErrClosed) {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestDialingSomethingElse: what listens is no node.
func TestDialingSomethingElse(t *testing.T) {
	a, b := newKey(t), newKey(t)
	for name, c := range map[string]struct {
		serve func(net.Conn)
		want  string
	}{
		"plaintext": {func(c net.Conn) { _, _ = io.WriteString(c, "220 mail.example ESMTP\r\n") }, "does not speak TLS"},
		"TLS 1.2": {func(c net.Conn) {
			_ = tls.Server(c, &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{b.certificate}}).Handshake()
		}, "protocol version"},
		"another protocol in TLS": {func(c net.Conn) {
			s := tls.Server(c, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{b.certificate}})
			_, _ = io.WriteString(s, "HTTP/1.1 400 Bad Request\r\n\r\n")
		}, "does not speak this protocol"},
		"hangs up": {func(net.Conn) {}, "handshake with"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			go func() {
				if conn, err := l.Accept(); err == nil {
					c.serve(conn)
					_ = conn.Close()
				}
			}()
			_, err = Dial(t.Context(), Config{
				Identity: a, PeerKey: b.PublicKey(), Remote: netip.MustParseAddrPort(l.Addr().String()),
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestHandshakeEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	id := newKey(t)
	_, err = Dial(ctx, Config{Identity: id, PeerKey: id.PublicKey(), Remote: netip.MustParseAddrPort(l.Addr().String())})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestStrangersAddressIsTurnedAway(t *testing.T) {
	a, b := newKey(t), newKey(t)
	l, err := Listen(t.Context(), Config{
		Identity: b, PeerKey: a.PublicKey(), Local: loopback(), Remote: netip.MustParseAddrPort("127.0.0.9:1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if _, err := dial(t, l, a, b.PublicKey()); err == nil {
		t.Error("a call from another address is taken")
	}
	c, err := Dial(t.Context(), Config{
		Identity: a, PeerKey: b.PublicKey(), Local: netip.MustParseAddrPort("127.0.0.9:1"), Remote: l.Addr(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestOnlyTheNewestCallWaits: a peer that calls again has given the older call up.
func TestOnlyTheNewestCallWaits(t *testing.T) {
	a, b := newKey(t), newKey(t)
	l := listen(t, b, a.PublicKey())
	first, err := dial(t, l, a, b.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	second, err := dial(t, l, a, b.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Receive(nil, soon()); err == nil || strings.Contains(err.Error(), "silent") {
		t.Errorf("the first call is not ended: %v", err)
	}
	c, err := accept(t, l)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Send([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Receive(nil, soon()); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAcceptAfterCloseAndCancel(t *testing.T) {
	a := newKey(t)
	l := listen(t, a, a.PublicKey())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Accept(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := l.Accept(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	id := newKey(t)
	for name, cfg := range map[string]Config{
		"no identity": {PeerKey: id.PublicKey(), Local: loopback()},
		"no peer key": {Identity: id, Local: loopback()},
		"no such interface": {
			Identity: id, PeerKey: id.PublicKey(), Local: loopback(), Remote: netip.MustParseAddrPort("127.0.0.1:9"), Interface: "tandem-none",
		},
	} {
		if _, err := Listen(t.Context(), cfg); err == nil {
			t.Errorf("%s: listens", name)
		}
		if _, err := Dial(t.Context(), cfg); err == nil {
			t.Errorf("%s: dials", name)
		} else if cfg.Interface != "" && !strings.Contains(err.Error(), cfg.Interface) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBoundToAnInterface(t *testing.T) {
	a, b := newKey(t), newKey(t)
	cfg := Config{Identity: b, PeerKey: a.PublicKey(), Local: loopback(), Interface: "lo"}
	l, err := Listen(t.Context(), cfg)
	if errors.Is(err, net.ErrClosed) || err != nil && strings.Contains(err.Error(), "operation not permitted") {
		t.Skip("binding to an interface needs CAP_NET_RAW")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := Dial(t.Context(), Config{Identity: a, PeerKey: b.PublicKey(), Remote: l.Addr(), Interface: "lo"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkSend(b *testing.B) {
	idA, err := GenerateKey()
	if err != nil {
		b.Fatal(err)
	}
	l, err := Listen(b.Context(), Config{Identity: idA, PeerKey: idA.PublicKey(), Local: loopback()})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	out, err := Dial(b.Context(), Config{Identity: idA, PeerKey: idA.PublicKey(), Remote: l.Addr()})
	if err != nil {
		b.Fatal(err)
	}
	in, err := l.Accept(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		var buf []byte
		for {
			if buf, err = in.Receive(buf, time.Time{}); err != nil {
				return
			}
		}
	}()
	frame := make([]byte, 128*45) // a full frame of flows
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		if err := out.Send(frame); err != nil {
			b.Fatal(err)
		}
	}
	_, _ = out.Close(), in.Close()
}
