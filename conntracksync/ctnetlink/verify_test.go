package ctnetlink

import (
	"errors"
	"strings"
	"testing"

	"github.com/ti-mo/conntrack"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

func TestVerify(t *testing.T) {
	ns := newNamespace(t)
	c, oracle := openIn(t, ns, Config{}), oracleIn(t, ns)
	var flows []conntracksync.Flow
	for _, f := range sampleFlows() {
		apply(t, c, op(opCreate, f))
		flows = append(flows, f)
	}
	for range 3 {
		flows = append(flows, flows...) // more than a batch
	}
	wrong, err := c.Verify(flows)
	if err != nil || len(wrong) != 0 {
		t.Fatalf("flows as created: %v, %v", wrong, err)
	}

	// What the library creates looks right and is not translated.
	untranslated := sampleFlows()["udp snat"]
	untranslated.Original.SourcePort, untranslated.Reply.DestinationPort = 3, 4
	o, r := untranslated.Original, untranslated.Reply
	broken := conntrack.NewFlow(untranslated.Protocol, conntrack.StatusConfirmed|conntrack.StatusSeenReply,
		o.Source, o.Destination, o.SourcePort, o.DestinationPort, 300, 0)
	broken.TupleReply.IP.SourceAddress, broken.TupleReply.IP.DestinationAddress = r.Source, r.Destination
	broken.TupleReply.Proto.SourcePort, broken.TupleReply.Proto.DestinationPort = r.SourcePort, r.DestinationPort
	if err := oracle.Create(broken); err != nil {
		t.Fatal(err)
	}
	elsewhere, absent := flows[0], flows[0]
	elsewhere.Reply.DestinationPort++
	absent.Zone = 9
	wrong, err = c.Verify([]conntracksync.Flow{untranslated, flows[1], elsewhere, absent})
	if err != nil || len(wrong) != 3 {
		t.Fatalf("%v, %v; want three mismatches", wrong, err)
	}
	for i, want := range []struct {
		index int
		words string
	}{{0, "translated at no end instead of the source"}, {2, "replies are expected"}, {3, "not in the table"}} {
		if wrong[i].Index != want.index || !strings.Contains(wrong[i].String(), want.words) {
			t.Errorf("mismatch %d: %+v (%v), want %q", i, wrong[i], wrong[i], want.words)
		}
	}
}

// selfTest runs the self-test of a new Conn in ns.
func selfTest(t *testing.T, ns netns.NsHandle) error {
	t.Helper()
	var result error
	inside(t, ns, func() error {
		c, err := Open(Config{})
		if err != nil {
			return err
		}
		result = c.SelfTest()
		if left := len(table(t, c)); left != 0 {
			t.Errorf("the self-test leaves %d flows", left)
		}
		return c.Close()
	})
	return result
}

func TestSelfTest(t *testing.T) {
	ns := newNamespace(t)
	if err := selfTest(t, ns); err == nil || !strings.Contains(err.Error(), "type nat") {
		t.Errorf("without NAT chains: %v", err)
	}
	translate(t, ns, natRules{})
	if err := selfTest(t, ns); err != nil {
		t.Errorf("with all in order: %v", err)
	}
	inside(t, ns, func() error { return setSysctls("netfilter/nf_conntrack_events=0") })
	if err := selfTest(t, ns); err == nil || !strings.Contains(err.Error(), "nf_conntrack_events") {
		t.Errorf("without events: %v", err)
	}
}

func TestSelfTestIsNotHeard(t *testing.T) {
	ns := newNamespace(t)
	translate(t, ns, natRules{})
	inside(t, ns, func() error {
		c, err := Open(Config{})
		if err != nil {
			return err
		}
		if err := c.SelfTest(); err != nil {
			t.Error(err)
		}
		if n, err := c.Listener.s.tryRead(); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("the listener hears the self-test: %d messages, %v", n, err)
		}
		return c.Close()
	})
}

func TestReadTimeouts(t *testing.T) {
	inside(t, newNamespace(t), func() error {
		if err := setSysctls("netfilter/nf_conntrack_udp_timeout_stream=77",
			"netfilter/nf_conntrack_tcp_timeout_fin_wait=88",
			"netfilter/nf_conntrack_sctp_timeout_heartbeat_sent=99"); err != nil {
			return err
		}
		got, err := ReadTimeouts()
		if err != nil {
			return err
		}
		want := kernelTimeouts()
		want.UDPStream, want.TCP[conntracksync.TCPFinWait], want.SCTP[8] = 77, 88, 99
		if got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		return nil
	})
}
