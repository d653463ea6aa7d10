package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
	"tandem/conntracksync/ctnetlink"
)

// tracked is what both nodes must hold of a flow: its translation and all that
// decides how the next packet is judged.
type tracked struct {
	reply  conntracksync.Tuple
	status conntracksync.Status
	mark   uint32
	tcp    conntracksync.TCPState
	sctp   conntracksync.SCTPInfo
	// helper, adjusted and child are what helpers have made of it.
	helper   string
	adjusted [2]conntracksync.SequenceAdjustment
	child    bool
}

// table is a node's connection tracking table without the node's own flows.
type table struct {
	flows map[conntracksync.Key]tracked
	// timeouts are the remaining lives in seconds.
	timeouts map[conntracksync.Key]uint32
}

// ownAddresses are those of the nodes' ports, whose flows stay where they are.
func ownAddresses() []netip.Addr {
	var list []netip.Addr
	for _, a := range []string{"10.255.0.1", "10.255.0.2", "10.0.0.2", "10.0.0.3", "203.0.113.11", "203.0.113.12", "192.0.2.11", "192.0.2.12", "10.1.0.2", "10.1.0.3"} {
		list = append(list, netip.MustParseAddr(a))
	}
	return list
}

// table reads a node's table. It is read until no change disturbs the reading.
func (s *stand) table(node string) table {
	s.t.Helper()
	var reader *ctnetlink.Reader
	s.must(s.Namespace(node).Do(func() (err error) {
		reader, err = ctnetlink.NewReader()
		return err
	}))
	defer func() { _ = reader.Close() }() // it was only read from
	var read table
	s.eventually("the table of "+node+" is read", func(ctx context.Context) error {
		read = table{make(map[conntracksync.Key]tracked), make(map[conntracksync.Key]uint32)}
		return reader.Dump(ctx, read.add)
	})
	return read
}

func (t table) add(f *conntracksync.Flow) error {
	const judged = conntracksync.StatusSourceNAT | conntracksync.StatusDestNAT | conntracksync.StatusSeenReply |
		conntracksync.StatusAssured | conntracksync.StatusConfirmed
	own := ownAddresses()
	if slices.Contains(own, f.Original.Source) || slices.Contains(own, f.Original.Destination) || f.Original.Destination.IsMulticast() {
		return nil
	}
	it := tracked{reply: f.Reply, status: f.Status & judged, mark: f.Mark, tcp: phase(f.TCP.State)}
	if x := f.Extra; x != nil {
		it.sctp, it.helper, it.child = x.SCTP, x.Helper, x.HasMaster
		it.adjusted = [2]conntracksync.SequenceAdjustment{x.AdjustOriginal, x.AdjustReply}
	}
	t.flows[f.Key] = it
	t.timeouts[f.Key] = f.Timeout
	return nil
}

// phase is the first of the states that are as good as one another: which side has
// closed already decides of a closing connection's remaining life, and of no packet.
func phase(s conntracksync.TCPState) conntracksync.TCPState {
	switch s {
	case conntracksync.TCPFinWait, conntracksync.TCPCloseWait, conntracksync.TCPLastAck:
		return conntracksync.TCPFinWait
	case conntracksync.TCPTimeWait, conntracksync.TCPClose:
		return conntracksync.TCPTimeWait
	case conntracksync.TCPNone, conntracksync.TCPSynSent, conntracksync.TCPSynReceived, conntracksync.TCPEstablished, conntracksync.TCPSynSent2:
	}
	return s
}

// without lists the flows of t that other does not hold.
func (t table) without(other table) []conntracksync.Key {
	var keys []conntracksync.Key
	for key := range t.flows {
		if _, ok := other.flows[key]; !ok {
			keys = append(keys, key)
		}
	}
	return keys
}

// forget deletes flows from a node's table, as their time-outs would.
func (s *stand) forget(node string, keys []conntracksync.Key) {
	s.t.Helper()
	ops := make([]conntracksync.Op, 0, len(keys))
	for _, key := range keys {
		ops = append(ops, conntracksync.Op{Kind: conntracksync.OpDelete, Flow: conntracksync.Flow{Key: key}})
	}
	s.must(s.Namespace(node).Do(func() error {
		writer, err := ctnetlink.NewWriter()
		if err != nil {
			return err
		}
		_, err = writer.Apply(ops)
		return errors.Join(err, writer.Close())
	}))
}

// equalTables waits until both nodes hold the same flows, and at least so many.
func (s *stand) equalTables(least int) {
	s.t.Helper()
	s.eventually("the tables are equal", func(context.Context) error {
		master, backup := s.roles()
		want, have := s.table(master).flows, s.table(backup).flows
		if len(want) < least {
			return fmt.Errorf("the MASTER holds %d flows, want %d", len(want), least)
		}
		return compareTables(want, have)
	})
}

// compareTables describes a few of the differences.
func compareTables(master, backup map[conntracksync.Key]tracked) error {
	var wrong []error
	for key, want := range master {
		if have, ok := backup[key]; !ok {
			wrong = append(wrong, fmt.Errorf("the BACKUP misses %+v: %+v", key, want))
		} else if have != want {
			wrong = append(wrong, fmt.Errorf("%+v: the MASTER holds %+v, the BACKUP %+v", key, want, have))
		}
	}
	for key, have := range backup {
		if _, ok := master[key]; !ok {
			wrong = append(wrong, fmt.Errorf("only the BACKUP holds %+v: %+v", key, have))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	few := wrong[:min(3, len(wrong))]
	return fmt.Errorf("%d of %d flows differ: %w", len(wrong), len(master), errors.Join(few...))
}

// tune sets a setting of connection tracking.
func (s *stand) tune(node, name, value string) {
	s.t.Helper()
	s.must(s.Namespace(node).Do(func() error {
		return os.WriteFile(filepath.Join("/proc/sys/net/netfilter", name), []byte(value), 0)
	}))
}

// seconds is a time as connection tracking has it.
func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

// markUDP makes a node's kernel mark the UDP flows that begin there.
func (s *stand) markUDP(node string, mark uint32) {
	s.t.Helper()
	s.must(s.Namespace(node).Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: foreignTable})
		chain := c.AddChain(&nftables.Chain{
			Name: "prerouting", Table: t, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle,
		})
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
			&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(mark)},
			&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
		}})
		return c.Flush()
	}))
}
