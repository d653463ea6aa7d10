package probe

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func (p *Prober) askTCP(ctx context.Context, r *Request) (answer, error) {
	target := &r.Probe.Target
	address, err := p.resolve(ctx, r, target.Host)
	if err != nil {
		return answer{}, err
	}
	r.to = address
	start := time.Now()
	file, err := p.connect(ctx, r, r.Source, netip.AddrPortFrom(address, target.Port), unix.SOCK_STREAM)
	got := answer{rtt: time.Since(start)}
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		got.note = "connection refused, which counts as alive"
		return got, nil
	case errors.Is(err, unix.ECONNRESET):
		got.note = "connection reset, which counts as alive"
		return got, nil
	case err != nil:
		return answer{}, p.failed(r, target.Host, err)
	}
	return got, abort(file)
}

// abort closes a connection by a reset, so that neither side keeps anything of it.
func abort(file *os.File) error {
	raw, err := file.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) {
			// Without it the connection only takes longer to end.
			_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		})
	}
	if err := file.Close(); err != nil {
		return localError{err}
	}
	return nil
}
