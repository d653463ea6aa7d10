package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// socket makes a socket that is bound to the port and to the node's address there. A source
// that is not valid leaves the address to the kernel.
func (p *Prober) socket(r *Request, source netip.Addr, ipv6 bool, kind, protocol int) (fd int, err error) {
	family := unix.AF_INET
	if ipv6 {
		family = unix.AF_INET6
	}
	err = p.namespace.do(func() error {
		fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			return fmt.Errorf("cannot send: no socket: %w", err)
		}
		if err = unix.BindToDevice(fd, r.Interface); err != nil {
			return fmt.Errorf("cannot send by %s: %w", r.Interface, err)
		}
		if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(r.Mark)); err != nil {
			return fmt.Errorf("cannot send: mark %#x: %w", r.Mark, err)
		}
		if !source.IsValid() {
			return nil
		}
		address, err := sockaddr(r.Interface, netip.AddrPortFrom(source, 0))
		if err == nil {
			err = unix.Bind(fd, address)
		}
		if err != nil {
			return fmt.Errorf("cannot send from %v: %w", source, err)
		}
		return nil
	})
	if err != nil {
		if fd > 0 {
			_ = unix.Close(fd) // the first error says more
		}
		return 0, localError{err}
	}
	return fd, nil
}

// check tells whether the port, the node's address there and the route still are what they were.
// A socket that has been bound before does not notice, and without a route one that is bound to a device
// asks for its target on the link itself (IPv4).
func (p *Prober) check(r *Request) error {
	fd, err := p.socket(r, r.Source, r.Source.Is6(), unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if !r.to.IsValid() || r.to.IsLinkLocalUnicast() {
		return nil
	}
	if err := unix.BindToDevice(fd, ""); err != nil {
		return local("cannot look for a route: %w", err)
	}
	address, err := sockaddr(r.Interface, netip.AddrPortFrom(r.to, portDNS))
	if err == nil {
		err = unix.Connect(fd, address) // of a datagram socket: nothing is sent
	}
	if err != nil {
		return local("cannot send: %w", err)
	}
	return nil
}

// sockaddr is an address for the kernel; one that is link-local is on the interface. It is to
// be called in the namespace.
func sockaddr(name string, a netip.AddrPort) (unix.Sockaddr, error) {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}, nil
	}
	address := &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	if a.Addr().IsLinkLocalUnicast() {
		link, err := net.InterfaceByName(name)
		if err != nil {
			return nil, err
		}
		address.ZoneId = uint32(link.Index)
	}
	return address, nil
}

// connect returns a connected socket. What the kernel refuses at once, for want of a route,
// say, is a local error; what it reports later has come from outside, or has not come.
func (p *Prober) connect(ctx context.Context, r *Request, source netip.Addr, to netip.AddrPort, kind int) (*os.File, error) {
	fd, err := p.socket(r, source, to.Addr().Is6(), kind, 0)
	if err != nil {
		return nil, err
	}
	var address unix.Sockaddr
	err = p.namespace.do(func() (err error) {
		address, err = sockaddr(r.Interface, to)
		return err
	})
	if err == nil {
		err = unix.Connect(fd, address)
	}
	file := os.NewFile(uintptr(fd), to.String())
	switch {
	case err == nil:
		return file, nil
	case errors.Is(err, unix.ECONNREFUSED):
		return nil, errors.Join(err, file.Close())
	case !errors.Is(err, unix.EINPROGRESS):
		return nil, errors.Join(local("cannot send: %w", err), file.Close())
	}
	if err := connected(ctx, file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// connected waits until a connection stands.
func connected(ctx context.Context, file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return localError{err}
	}
	defer onEnd(ctx, file.SetWriteDeadline)()
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || code != 0 {
			failed = errors.Join(err, errno(code))
			return true
		}
		_, err = unix.Getpeername(int(fd))
		return err == nil
	})
	if failed != nil {
		return failed
	}
	return orEnded(ctx, err)
}

func errno(code int) error {
	if code == 0 {
		return nil
	}
	return unix.Errno(code)
}

// onEnd has reads or writes end with ctx. What it returns must be called afterwards.
func onEnd(ctx context.Context, setDeadline func(time.Time) error) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		// A socket that is closed by now needs no deadline.
		_ = setDeadline(time.Unix(1, 0))
	})
}

// orEnded is err, or that of ctx if it is the reason.
func orEnded(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// conn makes a connection of the library from a socket, which it closes.
func conn(file *os.File) (net.Conn, error) {
	c, err := net.FileConn(file)
	if err != nil {
		return nil, errors.Join(localError{err}, file.Close())
	}
	if err := file.Close(); err != nil {
		return nil, errors.Join(localError{err}, c.Close())
	}
	return c, nil
}
