package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"tandem/vrrp"
)

// advertFilter lets packets of protocol 112 through that came in, were meant for
// this host and go to the group or to one of its own addresses, so that no other
// packet wakes the event loop. What follows the IP header and its options is left
// to the parser.
//
// A socket on an interface also gets what a macvlan or a VLAN interface on top of
// it takes; only by the index in the packet can it tell. A frame of a VLAN that this
// host does not have counts as somebody else's (PACKET_OTHERHOST), as does one that
// a switch has flooded; what this host sends is PACKET_OUTGOING. In IPv6 the protocol must follow the header directly: an
// extension header is not understood, and no VRRP router sends one.
func advertFilter(index int, ipv6 bool, own []netip.Addr) ([]bpf.RawInstruction, error) {
	const pass, drop = 1 << 16, 0
	protocol, destination := uint32(offsetProtocol), uint32(offsetDestination)
	if ipv6 {
		protocol, destination = offsetNextHeader, offsetDestination6
	}
	program := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: unix.PACKET_MULTICAST, SkipTrue: 1},
		bpf.RetConstant{Val: drop},
		bpf.LoadAbsolute{Off: protocol, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: vrrp.Protocol, SkipTrue: 1},
		bpf.RetConstant{Val: drop},
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(index), SkipTrue: 1},
		bpf.RetConstant{Val: drop},
	}
	for _, address := range append([]netip.Addr{group(ipv6)}, own...) {
		if address.Is6() != ipv6 {
			continue
		}
		octets := address.AsSlice()
		words := len(octets) / 4
		for i := range words {
			program = append(program,
				bpf.LoadAbsolute{Off: destination + uint32(4*i), Size: 4},
				bpf.JumpIf{
					Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(octets[4*i:]),
					SkipTrue: uint8(2*(words-i-1) + 1), // behind the next return
				})
		}
		program = append(program, bpf.RetConstant{Val: pass})
	}
	filter, err := bpf.Assemble(append(program, bpf.RetConstant{Val: drop}))
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	return filter, nil
}
