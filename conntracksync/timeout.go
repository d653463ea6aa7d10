package conntracksync

// TimeoutTable holds the kernel's time-outs (net.netfilter.nf_conntrack_*_timeout_*)
// in seconds.
type TimeoutTable struct {
	// TCP is indexed by [TCPState], SCTP by the kernel's SCTP_CONNTRACK_*.
	TCP  [TCPSynSent2 + 1]uint32
	SCTP [9]uint32
	// UDP and GRE are before, the Stream fields after the flow was answered for a
	// while.
	UDP, UDPStream uint32
	GRE, GREStream uint32
	ICMP, ICMPv6   uint32
	// Generic is for all other protocols.
	Generic uint32
}

// DefaultTimeouts returns the kernel's defaults.
func DefaultTimeouts() *TimeoutTable {
	return &TimeoutTable{
		TCP: [...]uint32{
			TCPNone: 120, TCPSynSent: 120, TCPSynReceived: 60, TCPEstablished: 432000, TCPFinWait: 120,
			TCPCloseWait: 60, TCPLastAck: 30, TCPTimeWait: 120, TCPClose: 10, TCPSynSent2: 120,
		},
		// None, closed, COOKIE_WAIT, COOKIE_ECHOED, established, SHUTDOWN_SENT,
		// SHUTDOWN_RECD, SHUTDOWN_ACK_SENT, HEARTBEAT_SENT.
		SCTP: [...]uint32{10, 10, 3, 3, 210, 3, 3, 3, 30},
		UDP:  30, UDPStream: 120,
		GRE: 30, GREStream: 180,
		ICMP: 30, ICMPv6: 30,
		Generic: 600,
	}
}

// normal is the time-out that the kernel gives the flow at its next packet.
func (t *TimeoutTable) normal(f *Flow) uint32 {
	switch f.Protocol {
	case protocolTCP:
		if !f.HasTCP || f.TCP.State > TCPSynSent2 {
			return t.TCP[TCPEstablished]
		}
		return t.TCP[f.TCP.State]
	case protocolUDP:
		return either(f.Status&StatusAssured != 0, t.UDPStream, t.UDP)
	case protocolGRE:
		return either(f.Status&StatusSeenReply != 0, t.GREStream, t.GRE)
	case protocolICMP:
		return t.ICMP
	case protocolICMPv6:
		return t.ICMPv6
	case protocolSCTP:
		if f.Extra == nil || !f.Extra.HasSCTP || int(f.Extra.SCTP.State) >= len(t.SCTP) {
			return max(t.SCTP[4], t.Generic)
		}
		return t.SCTP[f.Extra.SCTP.State]
	}
	return t.Generic
}

func either(b bool, yes, no uint32) uint32 {
	if b {
		return yes
	}
	return no
}
