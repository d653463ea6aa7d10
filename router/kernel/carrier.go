package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// messageHeader is the length of struct nlmsghdr, linkHeader that of struct
	// ifinfomsg of linux/rtnetlink.h, and linkFlags the offset of the latter's flags.
	messageHeader = unix.SizeofNlMsghdr
	linkHeader    = unix.SizeofIfInfomsg
	linkFlags     = 8
)

// carrierSocket asks the kernel for the carrier of interfaces, without allocations: a
// node asks some hundred times a second, because the kernel reports a loss of carrier at
// once, but the next one up to a second late.
type carrierSocket struct {
	fd              int
	sequence        uint32
	request, answer []byte
}

// newCarrierSocket opens the socket in the network namespace of the calling thread.
func newCarrierSocket() (*carrierSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open socket to ask for carriers: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(time.Second)) // the kernel answers at once or not at all
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return nil, errors.Join(fmt.Errorf("open socket to ask for carriers: %w", err), unix.Close(fd))
	}
	return &carrierSocket{fd: fd, answer: make([]byte, 1<<14)}, nil
}

func (s *carrierSocket) close() { _ = unix.Close(s.fd) } // it only asks

// ask builds the request for the link of that name, without its counters.
func (s *carrierSocket) ask(name string) []byte {
	s.sequence++
	b := append(s.request[:0], make([]byte, messageHeader+linkHeader)...)
	b = binary.NativeEndian.AppendUint16(b, unix.SizeofRtAttr+4)
	b = binary.NativeEndian.AppendUint16(b, unix.IFLA_EXT_MASK)
	b = binary.NativeEndian.AppendUint32(b, skipStatistics)
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(name)+1))
	b = binary.NativeEndian.AppendUint16(b, unix.IFLA_IFNAME)
	b = append(append(b, name...), 0)
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], unix.RTM_GETLINK)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(b[8:], s.sequence)
	s.request = b
	return b
}

// carries asks for one interface. One that does not exist is no error.
func (s *carrierSocket) carries(name string) (bool, error) {
	if _, err := unix.Write(s.fd, s.ask(name)); err != nil {
		return false, err
	}
	for {
		n, err := unix.Read(s.fd, s.answer)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return false, err
		case n < messageHeader:
			return false, fmt.Errorf("the kernel answers with %d octets", n)
		case binary.NativeEndian.Uint32(s.answer[8:]) != s.sequence:
			continue // of a question that was given up
		}
		return parseCarrier(s.answer[:n])
	}
}

// parseCarrier reads what the kernel says of a link: an RTM_NEWLINK, or an error.
func parseCarrier(b []byte) (bool, error) {
	const needed = unix.IFF_UP | unix.IFF_LOWER_UP
	kind, body := binary.NativeEndian.Uint16(b[4:]), b[messageHeader:]
	switch {
	case kind == unix.NLMSG_ERROR && len(body) >= 4:
		errno := unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
		if errno == unix.ENODEV {
			return false, nil
		}
		return false, errno
	case kind != unix.RTM_NEWLINK || len(body) < linkHeader:
		return false, fmt.Errorf("the kernel answers with a message of type %d and %d octets", kind, len(b))
	case binary.NativeEndian.Uint32(body[linkFlags:])&needed != needed:
		return false, nil
	}
	for rest := body[linkHeader:]; len(rest) >= unix.SizeofRtAttr; {
		length := int(binary.NativeEndian.Uint16(rest))
		if length < unix.SizeofRtAttr || length > len(rest) {
			break
		}
		if binary.NativeEndian.Uint16(rest[2:]) == unix.IFLA_OPERSTATE && length > unix.SizeofRtAttr {
			state := netlink.LinkOperState(rest[unix.SizeofRtAttr])
			return state == netlink.OperUp || state == netlink.OperUnknown, nil
		}
		rest = rest[min((length+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(rest)):]
	}
	return true, nil
}

// Carries tells whether an interface is there, up and has a carrier, as
// [LinkState].Up does, for a fraction of the work.
func (r *Reconciler) Carries(name string) (bool, error) {
	r.queryMu.Lock()
	defer r.queryMu.Unlock()
	if r.carriers == nil {
		err := r.inNamespace(func() (err error) {
			r.carriers, err = newCarrierSocket()
			return err
		})
		if err != nil {
			return false, err
		}
	}
	up, err := r.carriers.carries(name)
	if err != nil {
		return false, fmt.Errorf("ask for the carrier of %s: %w", name, err)
	}
	return up, nil
}
