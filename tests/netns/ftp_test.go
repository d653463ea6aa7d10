package netns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"tandem/appliance/lab"
)

const (
	ftpPort = 21
	// ftpChunk bytes are sent every ftpPause during a transfer.
	ftpChunk = 1 << 14
	ftpPause = 20 * time.Millisecond
	// ftpPatience bounds each answer of the other side.
	ftpPatience = 10 * time.Second
)

// ftpServer is a server of files that are so many bytes of one pattern as their name
// says (RFC 959).
type ftpServer struct {
	s        *stand
	listener net.Listener
	wg       sync.WaitGroup
}

// ftp starts a server; it ends with the test.
func (s *stand) ftp() {
	s.t.Helper()
	f := &ftpServer{s: s}
	s.must(s.Namespace(lab.Server).Do(func() (err error) {
		f.listener, err = net.Listen("tcp4", fmt.Sprintf("%s:%d", lab.ServerAddress, ftpPort))
		return err
	}))
	f.wg.Go(func() {
		for {
			conn, err := f.listener.Accept()
			if err != nil {
				return
			}
			f.wg.Go(func() { f.serve(conn) })
		}
	})
	s.t.Cleanup(func() {
		_ = f.listener.Close()
		f.wg.Wait()
	})
}

// serve obeys one control connection until it or the test ends.
func (f *ftpServer) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(f.s.t.Context(), func() { _ = conn.Close() })()
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(conn, format+"\r\n", args...) }
	say("220 ready")
	var connect func() (net.Conn, error)
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "PASV":
			listener, err := f.listen()
			if err != nil {
				say("425 %v", err)
				continue
			}
			connect = func() (net.Conn, error) {
				defer func() { _ = listener.Close() }()
				return listener.Accept()
			}
			say("227 Entering Passive Mode (%s).", hostPort(listener.Addr()))
		case "PORT":
			at, err := parseHostPort(rest)
			if err != nil {
				say("501 %v", err)
				continue
			}
			connect = func() (net.Conn, error) { return f.dial(at) }
			say("200 ready to connect to %s", at)
		case "RETR":
			size := 0
			if _, err := fmt.Sscan(rest, &size); err != nil || connect == nil {
				say("503 first say where")
				continue
			}
			say("150 here it comes")
			if err := send(connect, size); err != nil {
				say("426 %v", err)
				continue
			}
			say("226 done")
		default:
			say("200 very well")
		}
	}
}

func (f *ftpServer) listen() (*net.TCPListener, error) {
	var listener net.Listener
	err := f.s.Namespace(lab.Server).Do(func() (err error) {
		listener, err = net.Listen("tcp4", lab.ServerAddress+":0")
		return err
	})
	if err != nil {
		return nil, err
	}
	tcp := listener.(*net.TCPListener)
	return tcp, tcp.SetDeadline(time.Now().Add(ftpPatience))
}

func (f *ftpServer) dial(at netip.AddrPort) (conn net.Conn, err error) {
	err = f.s.Namespace(lab.Server).Do(func() error {
		conn, err = (&net.Dialer{Timeout: ftpPatience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(lab.ServerAddress)}}).Dial("tcp4", at.String())
		return err
	})
	return conn, err
}

// send sends a file at an even pace.
func send(connect func() (net.Conn, error), size int) error {
	conn, err := connect()
	if err != nil {
		return err
	}
	tick := time.NewTicker(ftpPause)
	defer tick.Stop()
	for at := 0; at < size && err == nil; <-tick.C {
		chunk := pattern(at, min(ftpChunk, size-at))
		at += len(chunk)
		if err = conn.SetWriteDeadline(time.Now().Add(ftpPatience)); err == nil {
			_, err = conn.Write(chunk)
		}
	}
	return errors.Join(err, conn.Close())
}

// pattern is a part of a file.
func pattern(from, length int) []byte {
	b := make([]byte, length)
	for i := range b {
		b[i] = byte((from + i) % 251)
	}
	return b
}

// ftpSession is a client with its control connection.
type ftpSession struct {
	s       *stand
	control net.Conn
	lines   *bufio.Reader
	from    netip.Addr
}

// ftpLogin opens a control connection from an address of the client.
func (s *stand) ftpLogin(from string) *ftpSession {
	s.t.Helper()
	f := &ftpSession{s: s, from: netip.MustParseAddr(from)}
	s.must(s.Namespace(lab.Client).Do(func() (err error) {
		f.control, err = f.connect(netip.MustParseAddrPort(fmt.Sprintf("%s:%d", lab.ServerAddress, ftpPort)))
		return err
	}))
	s.t.Cleanup(func() { _ = f.control.Close() })
	f.lines = bufio.NewReader(f.control)
	_, err := f.answer("220")
	s.must(err)
	// The kernel reads a direction from its second line on.
	s.must(errors.Join(f.say("200", "USER anonymous"), f.say("200", "TYPE I")))
	return f
}

func (f *ftpSession) connect(to netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: ftpPatience, LocalAddr: &net.TCPAddr{IP: f.from.AsSlice()}}
	return d.Dial("tcp4", to.String())
}

// say gives a command and waits for the answer with that number.
func (f *ftpSession) say(want, format string, args ...any) error {
	if _, err := fmt.Fprintf(f.control, format+"\r\n", args...); err != nil {
		return err
	}
	_, err := f.answer(want)
	return err
}

func (f *ftpSession) answer(want string) (string, error) {
	if err := f.control.SetReadDeadline(time.Now().Add(ftpPatience)); err != nil {
		return "", err
	}
	line, err := f.lines.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("wait for answer %s: %w", want, err)
	}
	if !strings.HasPrefix(line, want+" ") {
		return "", fmt.Errorf("the answer is %q, want %s", strings.TrimSpace(line), want)
	}
	return line, nil
}

// passive fetches a file by a connection to the server.
func (f *ftpSession) passive(size int) error {
	if _, err := fmt.Fprint(f.control, "PASV\r\n"); err != nil {
		return err
	}
	line, err := f.answer("227")
	if err != nil {
		return err
	}
	_, list, _ := strings.Cut(line, "(")
	list, _, _ = strings.Cut(list, ")")
	at, err := parseHostPort(list)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(f.control, "RETR %d\r\n", size); err != nil {
		return err
	}
	var data net.Conn
	if err := f.s.Namespace(lab.Client).Do(func() (err error) { data, err = f.connect(at); return err }); err != nil {
		return err
	}
	return f.receive(data, size)
}

// active fetches a file by a connection from the server, which gets through only if the
// kernel reads and rewrites the control connection.
func (f *ftpSession) active(size int) error {
	var listener net.Listener
	err := f.s.Namespace(lab.Client).Do(func() (err error) {
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(f.from, 0).String())
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	if err := listener.(*net.TCPListener).SetDeadline(time.Now().Add(ftpPatience)); err != nil {
		return err
	}
	if err := f.say("200", "PORT %s", hostPort(listener.Addr())); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(f.control, "RETR %d\r\n", size); err != nil {
		return err
	}
	data, err := listener.Accept()
	if err != nil {
		return fmt.Errorf("wait for the server's connection: %w", err)
	}
	return f.receive(data, size)
}

// receive reads a file to its end and compares it.
func (f *ftpSession) receive(data net.Conn, size int) error {
	defer func() { _ = data.Close() }()
	if _, err := f.answer("150"); err != nil {
		return err
	}
	buf := make([]byte, ftpChunk)
	for at := 0; ; {
		if err := data.SetReadDeadline(time.Now().Add(ftpPatience)); err != nil {
			return err
		}
		n, err := data.Read(buf)
		if string(buf[:n]) != string(pattern(at, n)) {
			return fmt.Errorf("the file is wrong after %d bytes", at)
		}
		at += n
		if errors.Is(err, io.EOF) && at == size {
			_, err := f.answer("226")
			return err
		}
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", at, size, err)
		}
	}
}

// hostPort is an address as FTP writes it.
func hostPort(a net.Addr) string {
	at := netip.MustParseAddrPort(a.String())
	return fmt.Sprintf("%s,%d,%d", strings.ReplaceAll(at.Addr().String(), ".", ","), at.Port()>>8, at.Port()&255)
}

func parseHostPort(text string) (netip.AddrPort, error) {
	var b [6]byte
	if _, err := fmt.Sscanf(text, "%d,%d,%d,%d,%d,%d", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not an address: %w", text, err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), uint16(b[4])<<8|uint16(b[5])), nil
}
