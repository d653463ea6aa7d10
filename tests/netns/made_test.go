package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	"tandem/conntracksync"
	"tandem/conntracksync/ctnetlink"
)

const (
	// madePort is the server's port of flows that the test writes into a table itself, maker
	// the address of their client, which is nobody's.
	madePort = 9
	maker    = "10.0.0.200"
)

// made is an answered UDP flow that is translated to a port.
func made(number, port uint16) conntracksync.Flow {
	client, server := netip.MustParseAddr(maker), netip.MustParseAddr(lab.ServerAddress)
	return conntracksync.Flow{
		Key: conntracksync.Key{Protocol: unix.IPPROTO_UDP, Original: conntracksync.Tuple{
			Source: client, Destination: server, SourcePort: number, DestinationPort: madePort,
		}},
		Reply: conntracksync.Tuple{
			Source: server, Destination: netip.MustParseAddr(lab.NATAddress), SourcePort: madePort, DestinationPort: port,
		},
		Status:  conntracksync.StatusConfirmed | conntracksync.StatusSeenReply | conntracksync.StatusAssured | conntracksync.StatusSourceNAT,
		Timeout: 600,
	}
}

// enters writes flows into a node's table, as their packets would.
func (s *stand) enters(node string, kind conntracksync.OpKind, flows ...conntracksync.Flow) {
	s.t.Helper()
	ops := make([]conntracksync.Op, 0, len(flows))
	for _, f := range flows {
		ops = append(ops, conntracksync.Op{Kind: kind, Flow: f})
	}
	s.must(s.Namespace(node).Do(func() error {
		writer, err := ctnetlink.NewWriter()
		if err != nil {
			return err
		}
		result, err := writer.Apply(ops)
		if err == nil && len(result.Failed) > 0 {
			err = fmt.Errorf("the kernel refused %d flows", len(result.Failed))
		}
		return errors.Join(err, writer.Close())
	}))
}

// equalMade waits until both nodes hold the same of the flows that the test has made,
// and so many. Others come and go all the time.
func (s *stand) equalMade(count int) (took time.Duration) {
	s.t.Helper()
	master, backup := s.roles()
	began := time.Now()
	s.eventually("both nodes hold the same of what was made", func(context.Context) error {
		want, have := s.made(master), s.made(backup)
		if len(want) != count || len(have) != count {
			return fmt.Errorf("the MASTER holds %d flows, the BACKUP %d, want %d", len(want), len(have), count)
		}
		for key, w := range want {
			if h := have[key]; h != w {
				return fmt.Errorf("%+v: the MASTER holds %+v, the BACKUP %+v", key, w, h)
			}
		}
		return nil
	})
	return time.Since(began)
}

// madeFlow is what both nodes must hold of a flow that the test has made.
type madeFlow struct {
	reply  conntracksync.Tuple
	mark   uint32
	labels [16]byte
}

// made reads the flows that the test has made.
func (s *stand) made(node string) map[conntracksync.Key]madeFlow {
	s.t.Helper()
	var reader *ctnetlink.Reader
	s.must(s.Namespace(node).Do(func() (err error) {
		reader, err = ctnetlink.NewReader()
		return err
	}))
	defer func() { _ = reader.Close() }() // it was only read from
	var all map[conntracksync.Key]madeFlow
	s.eventually("the table of "+node+" is read", func(ctx context.Context) error {
		all = make(map[conntracksync.Key]madeFlow)
		return reader.Dump(ctx, func(f *conntracksync.Flow) error {
			if f.Original.Source.String() != maker {
				return nil
			}
			it := madeFlow{reply: f.Reply, mark: f.Mark}
			if f.Extra != nil {
				it.labels = f.Extra.Labels
			}
			all[f.Key] = it
			return nil
		})
	})
	return all
}

// conntrack calls the administrator's tool.
func (s *stand) conntrack(node string, arguments ...string) {
	s.t.Helper()
	cmd := exec.Command("conntrack", arguments...)
	out := &bytes.Buffer{}
	cmd.Stderr = out
	if err := s.Namespace(node).Run(cmd); err != nil {
		s.t.Fatalf("conntrack %s on %s: %v: %s", arguments, node, err, out)
	}
}

// fill adds flows from an address to a node's table until it takes no more.
func (s *stand) fill(node, from string, limit int) {
	s.t.Helper()
	s.must(s.Namespace(node).Do(func() error {
		writer, err := ctnetlink.NewWriter()
		if err != nil {
			return err
		}
		defer func() { _ = writer.Close() }() // it was only written to
		for i := 0; i < limit; {
			var ops []conntracksync.Op
			for ; len(ops) < 1000; i++ {
				f := made(uint16(i), uint16(i))
				f.Original.Source, f.Original.DestinationPort = netip.MustParseAddr(from), uint16(100+i>>16)
				f.Reply = conntracksync.Tuple{Source: f.Original.Destination, Destination: f.Original.Source, SourcePort: f.Original.DestinationPort, DestinationPort: f.Original.SourcePort}
				f.Status &^= conntracksync.StatusSourceNAT
				ops = append(ops, conntracksync.Op{Kind: conntracksync.OpCreate, Flow: f})
			}
			if _, err := writer.Apply(ops); err != nil {
				return err
			}
		}
		return nil
	}))
}
