package ctnetlink

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// SelfTest writes a translated flow between addresses that are for documentation
// (RFC 5737), reads it back, changes it and deletes it, and tells in one sentence the
// first thing that does not work. It is called in the network namespace of c, by the
// thread that opened it: one without it cannot see whether the namespace translates at
// all, which the kernel asks its chains for and not its flows.
func (c *Conn) SelfTest() error {
	probe, err := listenTo(c.PortID())
	if err != nil {
		return fmt.Errorf("test connection tracking: %w", err)
	}
	err = c.selfTest(probe)
	return errors.Join(err, probe.Close())
}

// testFlow is a flow that no network has.
func testFlow() conntracksync.Flow {
	return conntracksync.Flow{
		Key: conntracksync.Key{
			Original: conntracksync.Tuple{
				Source: netip.AddrFrom4([4]byte{192, 0, 2, 1}), Destination: netip.AddrFrom4([4]byte{198, 51, 100, 1}),
				SourcePort: 7, DestinationPort: 9,
			},
			Protocol: unix.IPPROTO_TCP,
		},
		Reply: conntracksync.Tuple{
			Source: netip.AddrFrom4([4]byte{198, 51, 100, 1}), Destination: netip.AddrFrom4([4]byte{203, 0, 113, 1}),
			SourcePort: 9, DestinationPort: 40007,
		},
		Status:  conntracksync.StatusSeenReply | conntracksync.StatusAssured,
		Timeout: 30,
		HasTCP:  true,
		TCP:     conntracksync.TCPInfo{State: conntracksync.TCPEstablished, ScaleOriginal: 7, ScaleReply: 7},
	}
}

func (c *Conn) selfTest(probe *Listener) error {
	flow := testFlow()
	remove := conntracksync.Op{Kind: conntracksync.OpDelete, Flow: flow}
	if err := c.selfTestStep(remove, "delete"); err != nil { // left by one that was killed
		return err
	}
	if err := c.selfTestStep(conntracksync.Op{Kind: conntracksync.OpCreate, Flow: flow}, "create"); err != nil {
		return err
	}
	wrong, err := c.Verify([]conntracksync.Flow{flow})
	if err == nil {
		err = c.selfTestStep(conntracksync.Op{Kind: conntracksync.OpUpdate, Flow: flow}, "change")
	}
	// Whatever is wrong, the flow must not stay.
	if err := errors.Join(err, c.selfTestStep(remove, "delete")); err != nil {
		return err
	}
	if len(wrong) > 0 {
		return fmt.Errorf("this kernel takes a translated session but does not hold it as told: %v; replicated sessions would break at a takeover", wrong[0])
	}
	switch heard, err := probe.hears(&flow.Key); {
	case err != nil:
		return fmt.Errorf("test connection tracking: %w", err)
	case !heard:
		return errors.New("this kernel reports no connection tracking events: set net.netfilter.nf_conntrack_events to 1 in the router's network namespace")
	}
	return translates()
}

func (c *Conn) selfTestStep(op conntracksync.Op, what string) error {
	res, err := c.Apply([]conntracksync.Op{op})
	if err != nil {
		return fmt.Errorf("test connection tracking: %w", err)
	}
	for name := range res.RefusedBy {
		hint := "is net.netfilter.nf_conntrack_max reached?"
		if name == "EOPNOTSUPP" {
			hint = "load the module nf_nat"
		}
		return fmt.Errorf("this kernel refuses to %s a translated session (%s): %s", what, name, hint)
	}
	return nil
}

// listenTo hears what the netlink port changes and nothing else, on a busy router, too.
func listenTo(port uint32) (*Listener, error) {
	filter, err := portFilter(port, true)
	if err != nil {
		return nil, err
	}
	s, err := openBatchSocket()
	if err != nil {
		return nil, err
	}
	if err := s.setFilter(filter); err != nil {
		return nil, errors.Join(fmt.Errorf("attach filter for conntrack events: %w", err), s.close())
	}
	if err := hear(s, ScopeEverything, false); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return &Listener{s: s}, nil
}

// hears tells whether an event about k is queued.
func (l *Listener) hears(k *conntracksync.Key) (bool, error) {
	events := make([]conntracksync.Event, batchDatagrams)
	for {
		switch _, err := l.s.tryRead(); {
		case errors.Is(err, unix.EAGAIN):
			return false, nil
		case errors.Is(err, unix.ENOBUFS):
		case err != nil:
			return false, err
		}
		n := l.datagrams(events, 0)
		if slices.ContainsFunc(events[:n], func(e conntracksync.Event) bool { return e.Flow.Key == *k }) {
			return true, nil
		}
	}
}

// translates tells whether the namespace has a chain that registers the kernel's hooks
// for translation. Without one a translated flow is listed, and its packets pass
// untouched.
func translates() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("look for NAT chains: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return fmt.Errorf("look for NAT chains: %w", err)
	}
	if !slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Type == nftables.ChainTypeNAT }) {
		return errors.New("no nftables chain of type nat is there, so that no packet is translated: add one for each family, it may be empty")
	}
	return nil
}
