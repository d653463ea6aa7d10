package traffic

import (
	"fmt"
	"net"
	"net/netip"
)

// AskSource sends one datagram to a server's UDP port and returns the address that the
// server saw it come from. The caller sets the connection's deadline.
func AskSource(c net.Conn) (netip.Addr, error) {
	var b [udpMessageSize]byte
	message{sent: 1}.encode(b[:], 0)
	if _, err := c.Write(b[:]); err != nil {
		return netip.Addr{}, fmt.Errorf("ask for the source address: %w", err)
	}
	n, err := c.Read(b[:])
	if err != nil {
		return netip.Addr{}, fmt.Errorf("ask for the source address: %w", err)
	}
	if n != udpMessageSize {
		return netip.Addr{}, fmt.Errorf("ask for the source address: the answer has %d bytes, want %d", n, udpMessageSize)
	}
	return stamp(b[:]).Addr(), nil
}
