package kernel

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

//nolint:gochecknoglobals // constants of the tests
var (
	clientMAC = [6]byte{2, 0, 0, 0, 0, 2}
	everybody = [6]byte{255, 255, 255, 255, 255, 255}
)

// inject sends a frame out of an interface.
func inject(t *testing.T, ns netns.NsHandle, name string, frame []byte) {
	t.Helper()
	in(t, ns, func() error {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		// The socket's protocol becomes the frame's, by which the fence knows adverts.
		c, err := packet.Listen(ifi, packet.Raw, int(binary.BigEndian.Uint16(frame[12:14])), nil)
		if err != nil {
			return err
		}
		_, err = c.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
		return errors.Join(err, c.Close())
	})
}

// arpRequest asks who has an address.
func arpRequest(from [6]byte, source, target netip.Addr) []byte {
	frame := append(append(everybody[:], from[:]...), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	frame = append(append(frame, from[:]...), source.AsSlice()...)
	return append(append(frame, 0, 0, 0, 0, 0, 0), target.AsSlice()...)
}

// icmp6 is a frame with a message of ICMPv6; its checksum is filled in.
func icmp6(from, to [6]byte, source, destination netip.Addr, message []byte) []byte {
	pseudo := append(source.AsSlice(), destination.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(message)))
	pseudo = append(append(pseudo, 0, 0, 0, unix.IPPROTO_ICMPV6), message...)
	frame := append(append(to[:], from[:]...), 0x86, 0xdd, 0x60, 0, 0, 0)
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(message)))
	frame = append(frame, unix.IPPROTO_ICMPV6, 255)
	frame = append(append(frame, source.AsSlice()...), destination.AsSlice()...)
	at := len(frame)
	frame = append(frame, message...)
	binary.BigEndian.PutUint16(frame[at+2:], checksum(pseudo))
	return frame
}

// solicitation asks all who might have an address.
func solicitation(from [6]byte, source, target netip.Addr) []byte {
	t := target.As16()
	group := netip.AddrFrom16([16]byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, t[13], t[14], t[15]})
	return solicitationTo(from, [6]byte{0x33, 0x33, 0xff, t[13], t[14], t[15]}, source, group, target)
}

func solicitationTo(from, to [6]byte, source, destination, target netip.Addr) []byte {
	message := append([]byte{neighborSolicitation, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice()...)
	return icmp6(from, to, source, destination, append(append(message, 1, 1), from[:]...))
}

// advertisement tells everybody unasked where an address is.
func advertisement(from [6]byte, source, target netip.Addr) []byte {
	message := append([]byte{neighborAdvertisement, 0, 0, 0, 0x20, 0, 0, 0}, target.AsSlice()...)
	return icmp6(from, [6]byte{0x33, 0x33, 0, 0, 0, 1}, source, addr("ff02::1"), append(append(message, 2, 1), from[:]...))
}

// answer is a host's claim to have an address.
type answer struct {
	// sender is the source of the frame, claimed what the message says.
	sender, claimed string
	router          bool
}

// answers returns who says to have an address, by ARP or neighbour discovery.
func answers(frames [][]byte, target netip.Addr) []answer {
	var list []answer
	for _, f := range frames {
		switch {
		case target.Is4() && len(f) >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 2 && netip.AddrFrom4([4]byte(f[28:32])) == target:
			list = append(list, answer{sender: formatMAC([6]byte(f[6:12])), claimed: formatMAC([6]byte(f[22:28]))})
		case target.Is6() && icmpType(f) == neighborAdvertisement && discovered(f) == target:
			a := answer{sender: formatMAC([6]byte(f[6:12])), router: f[58]&0x80 != 0}
			if len(f) >= 86 && f[78] == 2 {
				a.claimed = formatMAC([6]byte(f[80:86]))
			}
			list = append(list, a)
		}
	}
	return list
}

// icmpType is the type of a message of ICMPv6, 0 if the frame holds none.
func icmpType(f []byte) byte {
	if len(f) < 55 || f[12] != 0x86 || f[13] != 0xdd || f[20] != unix.IPPROTO_ICMPV6 {
		return 0
	}
	return f[54]
}

// discovered is the address that a message of neighbour discovery is about.
func discovered(f []byte) netip.Addr {
	if len(f) < 78 {
		return netip.Addr{}
	}
	return netip.AddrFrom16([16]byte(f[62:78]))
}

// virtualFrames returns the frames that a virtual MAC address sent.
func virtualFrames(frames [][]byte) [][]byte {
	var list [][]byte
	for _, f := range frames {
		if strings.HasPrefix(formatMAC([6]byte(f[6:12])), "00:00:5e:00:0") {
			list = append(list, f)
		}
	}
	return list
}
