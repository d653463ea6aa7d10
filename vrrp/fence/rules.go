package fence

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	// setName is the set whose one element is the lease.
	setName = "lease"
	// setSize leaves room for elements that have expired and not been collected
	// yet: they count, and a full set makes renewals fail.
	setSize = 4096
	// leaseKey is the key of the one element. Tables are per group, so it is the
	// same for all of them.
	leaseKey = 1

	// ipProtocolVRRP is the IP protocol of advertisements (RFC 9568 §5.1.1.4) and
	// advertTTL their TTL or hop limit (§5.1.1.3, §5.1.2.3).
	ipProtocolVRRP = 112
	advertTTL      = 255
	// renewalTTL marks a frame that renews the lease between two advertisements
	// and that nobody hears.
	renewalTTL = 2
	// questionPriority is that of the BACKUP's question, which must open nothing.
	questionPriority = 1

	// dhcpClientPort is where a DHCP server answers, often before the address is
	// there that it answers to.
	dhcpClientPort = 68

	// dynsetDelete is NFT_DYNSET_OP_DELETE of linux/netfilter/nf_tables.h.
	dynsetDelete = 2

	// register is the nftables register that all rules use.
	register = 1
)

// members is an anonymous set, made with the rule that looks into it.
type members struct {
	datatype nftables.SetDatatype
	keys     [][]byte
}

// match is one condition of a rule: expressions, and then, if there are members,
// whether what the last one loaded is among them.
type match struct {
	exprs   []expr.Any
	members *members
	invert  bool
}

// rule is what happens to packets for which all matches hold.
type rule struct {
	matches []match
	action  []expr.Any
	// fingerprint describes all that the rule does. It is made once, for hundreds
	// of links share a rule.
	fingerprint string
}

func when(matches []match, action ...expr.Any) rule {
	return rule{matches: matches, action: action, fingerprint: fingerprint(matches, action)}
}

// all flattens conditions.
func all(matches ...[]match) []match {
	var list []match
	for _, m := range matches {
		list = append(list, m...)
	}
	return list
}

func is(load expr.Any, value []byte) []match { return compare(expr.CmpOpEq, load, value) }

func isNot(load expr.Any, value []byte) []match { return compare(expr.CmpOpNeq, load, value) }

func compare(op expr.CmpOp, load expr.Any, value []byte) []match {
	return []match{{exprs: []expr.Any{load, &expr.Cmp{Op: op, Register: register, Data: value}}}}
}

// masked compares the bits of mask.
func masked(op expr.CmpOp, load expr.Any, mask, value []byte) []match {
	return []match{{exprs: []expr.Any{
		load,
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: uint32(len(mask)),
			Mask: mask, Xor: make([]byte, len(mask)),
		},
		&expr.Cmp{Op: op, Register: register, Data: value},
	}}}
}

func among(load expr.Any, m *members) []match {
	return []match{{exprs: []expr.Any{load}, members: m}}
}

func notAmong(load expr.Any, m *members) []match {
	return []match{{exprs: []expr.Any{load}, members: m, invert: true}}
}

// addressSet holds addresses of one family.
func addressSet(list []netip.Addr) *members {
	m := &members{datatype: nftables.TypeIPAddr}
	for _, a := range list {
		if a.Is6() {
			m.datatype = nftables.TypeIP6Addr
		}
		m.keys = append(m.keys, a.AsSlice())
	}
	return m
}

func macSet(list [][6]byte) *members {
	m := &members{datatype: nftables.TypeEtherAddr}
	for _, mac := range list {
		m.keys = append(m.keys, mac[:])
	}
	return m
}

func byteSet(datatype nftables.SetDatatype, list ...byte) *members {
	m := &members{datatype: datatype}
	for _, b := range list {
		m.keys = append(m.keys, []byte{b})
	}
	return m
}

// held is true while the lease is.
func held() []match {
	return []match{{exprs: []expr.Any{leaseRegister(), &expr.Lookup{SourceRegister: register, SetName: setName}}}}
}

func arp() []match  { return etherType(unix.ETH_P_ARP) }
func ipv4() []match { return etherType(unix.ETH_P_IP) }
func ipv6() []match { return etherType(unix.ETH_P_IPV6) }

func etherType(t uint16) []match {
	return is(&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: register}, binaryutil.BigEndian.PutUint16(t))
}

func etherDestination() *expr.Payload { return payload(expr.PayloadBaseLLHeader, 0, 6) }
func etherSource() *expr.Payload      { return payload(expr.PayloadBaseLLHeader, 6, 6) }

// toGroup is true for multicast and broadcast frames.
func toGroup() []match {
	return masked(expr.CmpOpNeq, payload(expr.PayloadBaseLLHeader, 0, 1), []byte{1}, []byte{0})
}

// tagged are the rules for frames of a VLAN interface that stands on this one:
// they are another segment's, and that interface has chains of its own. Frames
// with a priority and no VLAN are this interface's.
func tagged(action expr.Any) []rule {
	var rules []rule
	for _, protocol := range []uint16{unix.ETH_P_8021Q, unix.ETH_P_8021AD} {
		rules = append(rules, when(all(
			is(payload(expr.PayloadBaseLLHeader, 12, 2), binaryutil.BigEndian.PutUint16(protocol)),
			masked(expr.CmpOpNeq, payload(expr.PayloadBaseLLHeader, 14, 2), []byte{0x0f, 0xff}, []byte{0, 0}),
		), action))
	}
	return rules
}

func arpOperation() *expr.Payload { return network(6, 2) }
func arpSender() *expr.Payload    { return network(14, 4) }
func arpTarget() *expr.Payload    { return network(24, 4) }

func source4() *expr.Payload      { return network(12, 4) }
func destination4() *expr.Payload { return network(16, 4) }
func source6() *expr.Payload      { return network(8, 16) }
func destination6() *expr.Payload { return network(24, 16) }

// discoveryTarget is true for neighbour solicitations and advertisements about
// one of the addresses, duplicate address detection included (RFC 4861 §4.3, §4.4).
func discoveryTarget(addresses *members) []match {
	const solicitation, advertisement = 135, 136
	return all(
		ipv6(),
		transportProtocol(unix.IPPROTO_ICMPV6),
		among(payload(expr.PayloadBaseTransportHeader, 0, 1), byteSet(nftables.TypeICMP6Type, solicitation, advertisement)),
		among(payload(expr.PayloadBaseTransportHeader, 8, 16), addresses),
	)
}

func transportProtocol(p byte) []match {
	return is(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, []byte{p})
}

// renewals are the rules by which the frames of the elector move the lease, see
// the package comment. sender restricts whose frames those are.
func renewals(v6 bool, lease time.Duration, sender []match, question bool) []rule {
	advert, ttl, priority := advert4(), network(8, 1), payload(expr.PayloadBaseTransportHeader, 2, 1)
	if v6 {
		// An advertisement has no extension headers, so its place is known.
		advert, ttl, priority = advert6(), network(7, 1), network(42, 1)
	}
	advert = all(advert, sender)
	renew := leaseOperation(unix.NFT_DYNSET_OP_UPDATE, lease)
	revoke := leaseOperation(dynsetDelete, 0)
	rules := []rule{
		// Between two advertisements the daemon renews the lease without a word
		// to anybody, so that it can be much shorter than their interval.
		when(all(advert, is(ttl, []byte{renewalTTL})), append(renew, drop())...),
		// The daemon's way to close the fence without a word to anybody.
		when(all(advert, isNot(ttl, []byte{advertTTL})), append(revoke, drop())...),
		// Priority 0 says that the MASTER leaves (RFC 9568 §5.2.4).
		when(all(advert, is(priority, []byte{0})), append(revoke, accept())...),
	}
	if question {
		rules = append(rules, when(all(advert, is(priority, []byte{questionPriority})), accept()))
	}
	return append(rules, when(advert, append(renew, accept())...))
}

func advert4() []match {
	return all(
		ipv4(),
		is(destination4(), []byte{224, 0, 0, 18}),
		is(network(9, 1), []byte{ipProtocolVRRP}),
	)
}

func advert6() []match {
	group := netip.MustParseAddr("ff02::12").As16()
	return all(
		ipv6(),
		is(destination6(), group[:]),
		is(network(6, 1), []byte{ipProtocolVRRP}),
	)
}

func leaseOperation(operation uint32, timeout time.Duration) []expr.Any {
	return []expr.Any{leaseRegister(), &expr.Dynset{
		SrcRegKey: register, SetName: setName, Operation: operation, Timeout: timeout,
	}}
}

func leaseRegister() *expr.Immediate {
	return &expr.Immediate{Register: register, Data: keyBytes()}
}

func keyBytes() []byte { return binaryutil.NativeEndian.PutUint32(leaseKey) }

func network(offset, length uint32) *expr.Payload {
	return payload(expr.PayloadBaseNetworkHeader, offset, length)
}

func payload(base expr.PayloadBase, offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}
}

func accept() expr.Any { return &expr.Verdict{Kind: expr.VerdictAccept} }

func drop() expr.Any { return &expr.Verdict{Kind: expr.VerdictDrop} }

func jump(chain string) expr.Any { return &expr.Verdict{Kind: expr.VerdictJump, Chain: chain} }

func fingerprint(matches []match, action []expr.Any) string {
	var text strings.Builder
	one := func(e expr.Any) {
		encoded, err := expr.Marshal(byte(nftables.TableFamilyNetdev), e)
		fmt.Fprintf(&text, "%x %v ", encoded, err)
	}
	for _, m := range matches {
		for _, e := range m.exprs {
			one(e)
		}
		if m.members != nil {
			fmt.Fprintf(&text, "%v %x ", m.invert, m.members.keys)
		}
	}
	for _, e := range action {
		one(e)
	}
	return text.String()
}
