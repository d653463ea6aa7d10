package ctnetlink

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// Bits of TCPInfo's flags (IP_CT_TCP_FLAG_*, linux/netfilter/nf_conntrack_tcp.h).
const (
	tcpFlagWindowScale = 0x01
	tcpFlagSACK        = 0x02
	tcpFlagCloseInit   = 0x04
	tcpFlagBeLiberal   = 0x08

	// tcpFlagMask are the flags that may be written. The others describe what the
	// kernel has seen itself: MAXACK_SET, for one, would have it judge resets by an
	// acknowledgement number it was never told.
	tcpFlagMask = tcpFlagWindowScale | tcpFlagSACK | tcpFlagCloseInit | tcpFlagBeLiberal
)

// statusOffload is IPS_OFFLOAD. Reports leave out timeout and protocol information
// of a flow that has it.
const statusOffload conntracksync.Status = 1 << 14

// The kernel's default timeouts in seconds, for an offloaded flow, which reports none.
const (
	tcpEstablishedTimeout = 432000
	otherStreamTimeout    = 120
)

// statusWritable are the bits of a status that the kernel takes over.
const statusWritable = conntracksync.StatusSeenReply | conntracksync.StatusAssured

// encoder appends netlink messages to buf, which is reused from batch to batch.
type encoder struct {
	buf []byte
	// last is where the last message begins.
	last int
}

func (e *encoder) reset() { e.buf = e.buf[:0] }

func (e *encoder) begin(kind, flags uint16, sequence uint32, k *conntracksync.Key) {
	e.last = len(e.buf)
	e.buf = append(e.buf, 0, 0, 0, 0)
	e.buf = binary.NativeEndian.AppendUint16(e.buf, kind)
	e.buf = binary.NativeEndian.AppendUint16(e.buf, unix.NLM_F_REQUEST|flags)
	e.buf = binary.NativeEndian.AppendUint32(e.buf, sequence)
	// The port may stay 0, the kernel knows it. Then nfgenmsg: family, version, id.
	e.buf = append(e.buf, 0, 0, 0, 0, family(k.Original.Source), unix.NFNETLINK_V0, 0, 0)
}

func (e *encoder) end() {
	binary.NativeEndian.PutUint32(e.buf[e.last:], uint32(len(e.buf)-e.last))
}

// acknowledge asks for an acknowledgement of the last message.
func (e *encoder) acknowledge() {
	at := e.buf[e.last+6:]
	binary.NativeEndian.PutUint16(at, binary.NativeEndian.Uint16(at)|unix.NLM_F_ACK)
}

// create encodes IPCTNL_MSG_CT_NEW for a flow that is not there. The reply tuple
// is the plain inverse of the original: the kernel sets IPS_SRC_NAT and
// IPS_DST_NAT, without which it translates nothing, only when applying the NAT
// attributes changes the reply tuple.
//
// without leaves out what this kernel refused before.
func (e *encoder) create(f *conntracksync.Flow, without stripped, sequence uint32) {
	e.begin(messageNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL, sequence, &f.Key)
	e.tuple(attrTupleOrig, f.Original, f.Protocol)
	e.tuple(attrTupleReply, inverse(f.Original, f.Protocol), f.Protocol)
	e.zone(f.Zone)
	e.uint32(attrTimeout, timeout(f))
	e.uint32(attrStatus, uint32(creationStatus(f)))
	e.uint32(attrMark, f.Mark)
	e.translation(f)
	if f.Protocol == unix.IPPROTO_TCP {
		e.tcp(createTCP(f))
	}
	if f.Extra != nil {
		e.extraAtCreation(f.Extra, without)
		e.extra(f.Extra, f.Protocol, without)
	}
	e.end()
}

// creationStatus is the status to create f with. The kernel notes the time-outs of a GRE
// flow when its first packet comes and knows none for one that was written: the next
// packet would end it at once. With FIXED_TIMEOUT it lives on for what it was given,
// packets or none, and the one after begins it anew.
func creationStatus(f *conntracksync.Flow) conntracksync.Status {
	s := f.Status&statusWritable | conntracksync.StatusConfirmed
	if f.Protocol == unix.IPPROTO_GRE {
		s |= conntracksync.StatusFixedTimeout
	}
	return s
}

// update encodes IPCTNL_MSG_CT_NEW for a flow that is there. NAT attributes would
// have it refused with EOPNOTSUPP.
func (e *encoder) update(f *conntracksync.Flow, without stripped, sequence uint32) {
	e.begin(messageNew, 0, sequence, &f.Key)
	e.tuple(attrTupleOrig, f.Original, f.Protocol)
	e.zone(f.Zone)
	if f.Protocol != unix.IPPROTO_GRE { // see creationStatus
		e.uint32(attrTimeout, timeout(f))
	}
	if without&strippedStatus == 0 {
		// An update may not change EXPECTED, neither of those that have it.
		const expected = conntracksync.StatusExpected
		e.uint32(attrStatus, uint32(f.Status&(statusWritable|expected)|conntracksync.StatusConfirmed))
	}
	e.uint32(attrMark, f.Mark)
	if hasState(f) {
		e.tcp(f.TCP)
	}
	if f.Extra != nil {
		e.extra(f.Extra, f.Protocol, without)
	}
	e.end()
}

// refresh encodes an update that has the helper begin anew and the kernel stop judging
// windows.
func (e *encoder) refresh(f *conntracksync.Flow, sequence uint32) {
	liberal := *f
	liberal.TCP.FlagsOriginal |= tcpFlagBeLiberal
	liberal.TCP.FlagsReply |= tcpFlagBeLiberal
	e.update(&liberal, strippedStatus, sequence)
	e.helper(f.Extra.Helper)
	e.end()
}

// timeout encodes a change of nothing but the time-out.
func (e *encoder) timeout(f *conntracksync.Flow, sequence uint32) {
	e.begin(messageNew, 0, sequence, &f.Key)
	e.tuple(attrTupleOrig, f.Original, f.Protocol)
	e.zone(f.Zone)
	e.uint32(attrTimeout, timeout(f))
	e.end()
}

// remove encodes a deletion by the original tuple.
func (e *encoder) remove(k *conntracksync.Key, sequence uint32) {
	e.byTuple(messageDelete, attrTupleOrig, k.Original, k, sequence)
}

// removeID encodes a deletion of the one entry that a get has found.
func (e *encoder) removeID(k *conntracksync.Key, id, sequence uint32) {
	e.begin(messageDelete, 0, sequence, k)
	e.tuple(attrTupleOrig, k.Original, k.Protocol)
	e.zone(k.Zone)
	e.uint32(attrID, id)
	e.end()
}

// evict encodes a deletion of whatever flow holds f's reply tuple.
func (e *encoder) evict(f *conntracksync.Flow, sequence uint32) {
	e.byTuple(messageDelete, attrTupleReply, f.Reply, &f.Key, sequence)
}

// get encodes a request for the flow that holds the original tuple.
func (e *encoder) get(k *conntracksync.Key, sequence uint32) {
	e.byTuple(messageGet, attrTupleOrig, k.Original, k, sequence)
}

func (e *encoder) byTuple(
	kind, attr uint16, t conntracksync.Tuple, k *conntracksync.Key, sequence uint32,
) {
	e.begin(kind, 0, sequence, k)
	e.tuple(attr, t, k.Protocol)
	e.zone(k.Zone)
	e.end()
}

func (e *encoder) open(kind uint16) int {
	at := len(e.buf)
	e.buf = append(e.buf, 0, 0)
	e.buf = binary.NativeEndian.AppendUint16(e.buf, kind|attrNested)
	return at
}

func (e *encoder) close(at int) {
	binary.NativeEndian.PutUint16(e.buf[at:], uint16(len(e.buf)-at))
}

func (e *encoder) header(kind uint16, length int) {
	e.buf = binary.NativeEndian.AppendUint16(e.buf, uint16(attrHeaderLength+length))
	e.buf = binary.NativeEndian.AppendUint16(e.buf, kind)
}

func (e *encoder) uint8(kind uint16, v uint8) {
	e.header(kind, 1)
	e.buf = append(e.buf, v, 0, 0, 0)
}

func (e *encoder) uint16(kind, v uint16) {
	e.header(kind, 2)
	e.buf = append(e.buf, byte(v>>8), byte(v), 0, 0)
}

func (e *encoder) uint32(kind uint16, v uint32) {
	e.header(kind, 4)
	e.buf = binary.BigEndian.AppendUint32(e.buf, v)
}

// address writes a under kind if it is an IPv4 address, else under kind6.
func (e *encoder) address(kind, kind6 uint16, a netip.Addr) {
	if a.Is4() {
		b := a.As4()
		e.header(kind, len(b))
		e.buf = append(e.buf, b[:]...)
		return
	}
	b := a.As16()
	e.header(kind6, len(b))
	e.buf = append(e.buf, b[:]...)
}

func (e *encoder) zone(z uint16) {
	if z != 0 {
		e.uint16(attrZone, z)
	}
}

func (e *encoder) tuple(kind uint16, t conntracksync.Tuple, protocol uint8) {
	tuple := e.open(kind)
	ip := e.open(tupleIP)
	e.address(ipv4Source, ipv6Source, t.Source)
	e.address(ipv4Dest, ipv6Dest, t.Destination)
	e.close(ip)
	proto := e.open(tupleProto)
	e.uint8(protoNumber, protocol)
	switch {
	case protocol == unix.IPPROTO_ICMP:
		e.uint16(protoICMPID, t.SourcePort)
		e.uint8(protoICMPType, uint8(t.DestinationPort>>8))
		e.uint8(protoICMPCode, uint8(t.DestinationPort))
	case protocol == unix.IPPROTO_ICMPV6:
		e.uint16(protoICMPv6ID, t.SourcePort)
		e.uint8(protoICMPv6Type, uint8(t.DestinationPort>>8))
		e.uint8(protoICMPv6Code, uint8(t.DestinationPort))
	case hasPorts(protocol):
		e.uint16(protoSourcePort, t.SourcePort)
		e.uint16(protoDestPort, t.DestinationPort)
	}
	e.close(proto)
	e.close(tuple)
}

// translation writes CTA_NAT_DST and CTA_NAT_SRC with one exact address and port
// each. The source goes along with every translation, even when only the
// destination differs: left out, the kernel would look for a free source port
// itself and could settle on another.
func (e *encoder) translation(f *conntracksync.Flow) {
	source, dest := translated(f)
	if !source && !dest {
		return
	}
	r := f.Reply
	// An untranslated destination is said as well where it can be said exactly: the kernel
	// then need not look whether anybody has it.
	if dest || f.Protocol == unix.IPPROTO_TCP || f.Protocol == unix.IPPROTO_UDP {
		e.nat(attrNATDest, r.Source, r.SourcePort, f.Protocol)
	}
	e.nat(attrNATSource, r.Destination, sourceNATPort(f), f.Protocol)
}

// translated compares f's directions and tells which ends are translated. The one
// identifier of ICMP counts as a port of the source, unless the kernel said that
// only the destination is translated.
func translated(f *conntracksync.Flow) (source, dest bool) {
	o, r := f.Original, f.Reply
	source = r.Destination != o.Source
	dest = r.Source != o.Destination
	if !isICMP(f.Protocol) {
		return source || r.DestinationPort != o.SourcePort, dest || r.SourcePort != o.DestinationPort
	}
	if r.SourcePort != o.SourcePort {
		both := conntracksync.StatusSourceNAT | conntracksync.StatusDestNAT
		if f.Status&both == conntracksync.StatusDestNAT {
			return source, true
		}
		return true, dest
	}
	return source, dest
}

func sourceNATPort(f *conntracksync.Flow) uint16 {
	if isICMP(f.Protocol) {
		return f.Reply.SourcePort
	}
	return f.Reply.DestinationPort
}

func (e *encoder) nat(kind uint16, a netip.Addr, port uint16, protocol uint8) {
	nat := e.open(kind)
	e.address(natV4MinIP, natV6MinIP, a)
	if hasPorts(protocol) || isICMP(protocol) {
		proto := e.open(natProto)
		e.uint16(natPortMin, port)
		e.uint16(natPortMax, port)
		e.close(proto)
	}
	e.close(nat)
}

// tcp writes the protocol information. The kernel takes window scales over only if
// both sides have the scale flag, and flags only as far as the mask goes.
func (e *encoder) tcp(t conntracksync.TCPInfo) {
	info := e.open(attrProtoInfo)
	tcp := e.open(protoInfoTCP)
	e.uint8(tcpState, uint8(t.State))
	e.uint8(tcpScaleOriginal, t.ScaleOriginal)
	e.uint8(tcpScaleReply, t.ScaleReply)
	e.flags(tcpFlagsOriginal, t.FlagsOriginal)
	e.flags(tcpFlagsReply, t.FlagsReply)
	e.close(tcp)
	e.close(info)
}

func (e *encoder) flags(kind uint16, flags uint8) {
	e.header(kind, 2)
	e.buf = append(e.buf, flags&tcpFlagMask|tcpFlagWindowScale, tcpFlagMask, 0, 0)
}

// createTCP is the protocol information to create f with. An assured flow without
// any was taken from a report that left it out: it is established, and windows whose
// scale is unknown must not be judged.
func createTCP(f *conntracksync.Flow) conntracksync.TCPInfo {
	if hasState(f) {
		return f.TCP
	}
	const flags = tcpFlagWindowScale | tcpFlagSACK | tcpFlagBeLiberal
	return conntracksync.TCPInfo{
		State:         conntracksync.TCPEstablished,
		FlagsOriginal: flags,
		FlagsReply:    flags,
	}
}

func hasState(f *conntracksync.Flow) bool {
	return f.Protocol == unix.IPPROTO_TCP && f.HasTCP && f.TCP.State != conntracksync.TCPNone
}

// timeout is f's timeout in seconds; the kernel would drop a flow with 0 at once.
func timeout(f *conntracksync.Flow) uint32 {
	if f.Timeout == 0 && f.Status&statusOffload != 0 {
		if f.Protocol == unix.IPPROTO_TCP {
			return tcpEstablishedTimeout
		}
		return otherStreamTimeout
	}
	return max(f.Timeout, 1)
}

// inverse is the reply tuple of a flow that is not translated.
func inverse(t conntracksync.Tuple, protocol uint8) conntracksync.Tuple {
	r := conntracksync.Tuple{
		Source: t.Destination, Destination: t.Source,
		SourcePort: t.DestinationPort, DestinationPort: t.SourcePort,
	}
	if isICMP(protocol) {
		answer, _ := inverseICMP(protocol, uint8(t.DestinationPort>>8))
		r.SourcePort = t.SourcePort
		r.DestinationPort = uint16(answer)<<8 | t.DestinationPort&0xff
	}
	return r
}

// inverseICMP returns the type that answers kind; ok is false for a type that the
// kernel does not track as a flow of its own (nf_conntrack_proto_icmp.c, _icmpv6.c).
func inverseICMP(protocol, kind uint8) (answer uint8, ok bool) {
	if protocol == unix.IPPROTO_ICMPV6 {
		switch kind {
		case 128, 139: // echo request, node information query
			return kind + 1, true
		case 129, 140:
			return kind - 1, true
		}
		return 0, false
	}
	switch kind {
	case 0, 8: // echo reply and request
		return kind ^ 8, true
	case 13, 15, 17: // timestamp, information and address mask request
		return kind + 1, true
	case 14, 16, 18:
		return kind - 1, true
	}
	return 0, false
}

// hasPorts tells whether the tuple of protocol has ports; GRE's keys travel as such.
func hasPorts(protocol uint8) bool {
	switch protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE,
		unix.IPPROTO_SCTP, unix.IPPROTO_DCCP, unix.IPPROTO_GRE:
		return true
	}
	return false
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// sameFamily tells whether all addresses are valid and of one family.
func sameFamily(first netip.Addr, others ...netip.Addr) bool {
	for _, a := range others {
		if a.BitLen() != first.BitLen() {
			return false
		}
	}
	return first.IsValid()
}
