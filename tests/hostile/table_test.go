package hostile

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"tandem/conntracksync"
	"tandem/conntracksync/ctnetlink"
)

// own are the addresses of the nodes' ports, whose flows stay where they are.
func own(a netip.Addr) bool {
	return slices.Contains([]string{"10.255.0.1", "10.255.0.2", "10.0.0.2", "10.0.0.3", "203.0.113.11", "203.0.113.12"}, a.String())
}

// table reads the flows of a node that are replicated, with what decides how the next
// packet is judged.
func (s *stand) table(node string) map[conntracksync.Key]string {
	s.t.Helper()
	const judged = conntracksync.StatusSourceNAT | conntracksync.StatusDestNAT | conntracksync.StatusSeenReply | conntracksync.StatusAssured
	var reader *ctnetlink.Reader
	s.must(s.Namespace(node).Do(func() (err error) {
		reader, err = ctnetlink.NewReader()
		return err
	}))
	defer func() { _ = reader.Close() }() // it was only read from
	var flows map[conntracksync.Key]string
	s.eventually("the table of "+node+" is read", func(ctx context.Context) error {
		flows = make(map[conntracksync.Key]string)
		return reader.Dump(ctx, func(f *conntracksync.Flow) error {
			strange := f.Original.Destination.IsMulticast() || f.Original.Destination.IsLinkLocalUnicast() || f.Original.Source.IsLinkLocalUnicast()
			// A first SYN is repeated by its client, and nobody is told of it.
			unanswered := f.HasTCP && f.Status&conntracksync.StatusSeenReply == 0
			if own(f.Original.Source) || own(f.Original.Destination) || strange || unanswered {
				return nil
			}
			flows[f.Key] = fmt.Sprintf("%v status %x mark %x tcp %d", f.Reply, f.Status&judged, f.Mark, f.TCP.State)
			return nil
		})
	})
	return flows
}

// equal waits until both nodes hold the same flows, and at least so many.
func (s *stand) equal(least int) {
	s.t.Helper()
	s.eventually("the tables are equal", func(ctx context.Context) error {
		master, err := s.Master(ctx)
		if err != nil {
			return err
		}
		want, have := s.table(master), s.table(other(master))
		if len(want) < least {
			return fmt.Errorf("the MASTER holds %d flows, want %d", len(want), least)
		}
		var wrong []error
		for key, flow := range want {
			if have[key] != flow {
				wrong = append(wrong, fmt.Errorf("%v: the MASTER holds %s, the BACKUP %q", key, flow, have[key]))
			}
		}
		for key, flow := range have {
			if _, ok := want[key]; !ok {
				wrong = append(wrong, fmt.Errorf("only the BACKUP holds %v: %s", key, flow))
			}
		}
		if len(wrong) == 0 {
			return nil
		}
		return fmt.Errorf("%d of %d flows differ: %w", len(wrong), len(want), errors.Join(wrong[:min(3, len(wrong))]...))
	})
}
