package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// linkHeader is the length of struct ifinfomsg of linux/rtnetlink.h, linkFlags the
	// offset of its flags.
	linkHeader = 16
	linkFlags  = 8
)

// Carries tells whether an interface is there, up and has a carrier, as
// [LinkState].Up does, for a hundredth of the work: the kernel leaves the counters out
// and nothing but the flags and the operational state is read. It is made to be asked a
// hundred times a second, because the kernel reports a loss of carrier at once, but the
// next one up to a second late.
func (r *Reconciler) Carries(name string) (bool, error) {
	r.queryMu.Lock()
	defer r.queryMu.Unlock()
	if r.quick == nil {
		conn, err := r.subscribe(unix.NETLINK_ROUTE)
		if err != nil {
			return false, fmt.Errorf("ask for the carrier of %s: %w", name, err)
		}
		r.quick = conn
	}
	attributes, err := mdnetlink.MarshalAttributes([]mdnetlink.Attribute{
		{Type: unix.IFLA_EXT_MASK, Data: binary.NativeEndian.AppendUint32(nil, skipStatistics)},
		{Type: unix.IFLA_IFNAME, Data: append([]byte(name), 0)},
	})
	if err != nil {
		return false, fmt.Errorf("ask for the carrier of %s: %w", name, err)
	}
	answers, err := r.quick.Execute(mdnetlink.Message{
		Header: mdnetlink.Header{Type: unix.RTM_GETLINK, Flags: mdnetlink.Request},
		Data:   append(make([]byte, linkHeader), attributes...),
	})
	switch {
	case errors.Is(err, unix.ENODEV):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("ask for the carrier of %s: %w", name, err)
	case len(answers) != 1 || len(answers[0].Data) < linkHeader:
		return false, fmt.Errorf("ask for the carrier of %s: the kernel answers with %d messages", name, len(answers))
	}
	return carriesMessage(answers[0].Data)
}

// carriesMessage reads what the kernel says of a link.
func carriesMessage(b []byte) (bool, error) {
	const needed = unix.IFF_UP | unix.IFF_LOWER_UP
	if binary.NativeEndian.Uint32(b[linkFlags:])&needed != needed {
		return false, nil
	}
	decoder, err := mdnetlink.NewAttributeDecoder(b[linkHeader:])
	if err != nil {
		return false, fmt.Errorf("read a link: %w", err)
	}
	for decoder.Next() {
		if decoder.Type() == unix.IFLA_OPERSTATE {
			state := netlink.LinkOperState(decoder.Uint8())
			return state == netlink.OperUp || state == netlink.OperUnknown, decoder.Err()
		}
	}
	return true, decoder.Err()
}
