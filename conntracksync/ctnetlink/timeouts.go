package ctnetlink

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"tandem/conntracksync"
)

// Timeouts are the kernel's time-outs in seconds, by protocol and state
// (net.netfilter.nf_conntrack_*_timeout_*).
type Timeouts struct {
	// TCP is indexed by [conntracksync.TCPState], SCTP by the kernel's SCTP_CONNTRACK_*.
	TCP  [conntracksync.TCPSynSent2 + 1]uint32
	SCTP [sctpStateMax + 1]uint32
	// UDP and GRE are before, the Stream fields after the flow was answered for a
	// while.
	UDP, UDPStream uint32
	GRE, GREStream uint32
	ICMP, ICMPv6   uint32
	// Generic is for all other protocols.
	Generic uint32
}

// kernelTimeouts are the kernel's defaults.
func kernelTimeouts() Timeouts {
	return Timeouts{
		TCP: [...]uint32{
			conntracksync.TCPNone: 120, conntracksync.TCPSynSent: 120, conntracksync.TCPSynReceived: 60,
			conntracksync.TCPEstablished: tcpEstablishedTimeout, conntracksync.TCPFinWait: 120,
			conntracksync.TCPCloseWait: 60, conntracksync.TCPLastAck: 30, conntracksync.TCPTimeWait: 120,
			conntracksync.TCPClose: 10, conntracksync.TCPSynSent2: 120,
		},
		SCTP: [...]uint32{10, 10, 3, 3, 210, 3, 3, 3, 30},
		UDP:  30, UDPStream: otherStreamTimeout,
		GRE: 30, GREStream: 180,
		ICMP: 30, ICMPv6: 30,
		Generic: 600,
	}
}

// ReadTimeouts reads the time-outs of the network namespace that the calling thread is
// in. Those that this kernel does not have, for it was built without the protocol, are
// the usual ones.
func ReadTimeouts() (Timeouts, error) {
	t := kernelTimeouts()
	for name, value := range map[string]*uint32{
		"tcp_timeout_syn_sent":    &t.TCP[conntracksync.TCPSynSent],
		"tcp_timeout_syn_recv":    &t.TCP[conntracksync.TCPSynReceived],
		"tcp_timeout_established": &t.TCP[conntracksync.TCPEstablished],
		"tcp_timeout_fin_wait":    &t.TCP[conntracksync.TCPFinWait],
		"tcp_timeout_close_wait":  &t.TCP[conntracksync.TCPCloseWait],
		"tcp_timeout_last_ack":    &t.TCP[conntracksync.TCPLastAck],
		"tcp_timeout_time_wait":   &t.TCP[conntracksync.TCPTimeWait],
		"tcp_timeout_close":       &t.TCP[conntracksync.TCPClose],

		"sctp_timeout_closed":            &t.SCTP[1],
		"sctp_timeout_cookie_wait":       &t.SCTP[2],
		"sctp_timeout_cookie_echoed":     &t.SCTP[3],
		"sctp_timeout_established":       &t.SCTP[4],
		"sctp_timeout_shutdown_sent":     &t.SCTP[5],
		"sctp_timeout_shutdown_recd":     &t.SCTP[6],
		"sctp_timeout_shutdown_ack_sent": &t.SCTP[7],
		"sctp_timeout_heartbeat_sent":    &t.SCTP[8],

		"udp_timeout": &t.UDP, "udp_timeout_stream": &t.UDPStream,
		"gre_timeout": &t.GRE, "gre_timeout_stream": &t.GREStream,
		"icmp_timeout": &t.ICMP, "icmpv6_timeout": &t.ICMPv6,
		"generic_timeout": &t.Generic,
	} {
		if err := readTimeout(name, value); err != nil {
			return Timeouts{}, err
		}
	}
	// There is no setting for what has no state yet.
	t.TCP[conntracksync.TCPNone], t.SCTP[0] = t.TCP[conntracksync.TCPSynSent], t.SCTP[1]
	return t, nil
}

func readTimeout(name string, value *uint32) error {
	path := "/proc/sys/net/netfilter/nf_conntrack_" + name
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read conntrack time-out: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	if err != nil {
		return fmt.Errorf("read conntrack time-out %s: %w", path, err)
	}
	*value = uint32(n)
	return nil
}
