package ctnetlink

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

func TestApply(t *testing.T) {
	samples := sampleFlows()
	plain, snat := samples["tcp plain, mark and zone"], samples["tcp snat"]
	plain.Zone = 0
	changed := func(f conntracksync.Flow, change func(*conntracksync.Flow)) conntracksync.Flow {
		change(&f)
		return f
	}
	closing := changed(snat, func(f *conntracksync.Flow) {
		f.TCP.State, f.Timeout, f.Mark = conntracksync.TCPTimeWait, 60, 5
	})
	remapped := changed(snat, func(f *conntracksync.Flow) { f.Reply.DestinationPort = 1111 })
	rival := changed(snat, func(f *conntracksync.Flow) { f.Original.SourcePort = 999 })
	backwards := tcpFlow(snat.Reply, inverse(snat.Reply, snat.Protocol))
	reversed := tcpFlow(plain.Reply, plain.Original)
	unanswered := changed(snat, func(f *conntracksync.Flow) {
		f.Status = conntracksync.StatusConfirmed | conntracksync.StatusSourceNAT
		f.TCP.State = conntracksync.TCPSynSent
	})
	stateless := changed(snat, func(f *conntracksync.Flow) { f.HasTCP, f.TCP = false, conntracksync.TCPInfo{} })
	helped := samples["helper and adjustment"]
	child := changed(snat, func(f *conntracksync.Flow) {
		f.Status |= conntracksync.StatusExpected
		f.Extra = &conntracksync.Extra{Master: plain.Key, HasMaster: true}
	})
	assumed := changed(snat, func(f *conntracksync.Flow) {
		const flags = tcpFlagWindowScale | tcpFlagSACK | tcpFlagBeLiberal
		f.TCP = conntracksync.TCPInfo{
			State: conntracksync.TCPEstablished, FlagsOriginal: flags, FlagsReply: flags,
		}
	})
	refused := func(name string) Result {
		return Result{Refused: 1, RefusedBy: map[string]int{name: 1}, Failed: []int{0}}
	}

	tests := []struct {
		name   string
		before []conntracksync.Flow
		ops    []conntracksync.Op
		want   Result
		after  []conntracksync.Flow
	}{
		{
			"create what is there updates",
			[]conntracksync.Flow{snat},
			[]conntracksync.Op{op(opCreate, closing)},
			Result{Updated: 1},
			[]conntracksync.Flow{closing},
		},
		{
			"create what is there with another translation replaces",
			[]conntracksync.Flow{remapped},
			[]conntracksync.Op{op(opCreate, snat)},
			Result{Created: 1, Evicted: 1},
			[]conntracksync.Flow{snat},
		},
		{
			"create evicts who holds the reply tuple",
			[]conntracksync.Flow{rival},
			[]conntracksync.Op{op(opCreate, snat)},
			Result{Created: 1, Evicted: 1},
			[]conntracksync.Flow{snat},
		},
		{
			"create evicts a flow that began with the reply",
			[]conntracksync.Flow{backwards},
			[]conntracksync.Op{op(opCreate, snat)},
			Result{Created: 1, Evicted: 1},
			[]conntracksync.Flow{snat},
		},
		{
			"create replaces the same flow seen the other way",
			[]conntracksync.Flow{reversed},
			[]conntracksync.Op{op(opCreate, plain)},
			Result{Created: 1, Evicted: 1},
			[]conntracksync.Flow{plain},
		},
		{
			"update",
			[]conntracksync.Flow{snat},
			[]conntracksync.Op{op(opUpdate, closing)},
			Result{Updated: 1},
			[]conntracksync.Flow{closing},
		},
		{
			"update without state leaves it",
			[]conntracksync.Flow{snat},
			[]conntracksync.Op{op(opUpdate, stateless)},
			Result{Updated: 1},
			[]conntracksync.Flow{snat},
		},
		{
			"update may not take ASSURED away but does the rest",
			[]conntracksync.Flow{snat},
			[]conntracksync.Op{op(opUpdate, unanswered)},
			Result{Updated: 1},
			[]conntracksync.Flow{changed(unanswered, func(f *conntracksync.Flow) { f.Status = snat.Status })},
		},
		{
			"update what is not there creates", nil,
			[]conntracksync.Op{op(opUpdate, snat)},
			Result{Created: 1},
			[]conntracksync.Flow{snat},
		},
		{
			"update what is not there evicts",
			[]conntracksync.Flow{rival},
			[]conntracksync.Op{op(opUpdate, snat)},
			Result{Created: 1, Evicted: 1},
			[]conntracksync.Flow{snat},
		},
		{
			"replace",
			[]conntracksync.Flow{snat},
			[]conntracksync.Op{op(opReplace, remapped)},
			Result{Created: 1},
			[]conntracksync.Flow{remapped},
		},
		{
			"replace a flow that has a helper",
			[]conntracksync.Flow{helped},
			[]conntracksync.Op{op(opReplace, changed(helped, func(f *conntracksync.Flow) { f.Timeout = 77 }))},
			Result{Updated: 1},
			[]conntracksync.Flow{changed(helped, func(f *conntracksync.Flow) {
				f.Timeout = 77
				f.TCP.FlagsOriginal |= tcpFlagBeLiberal
				f.TCP.FlagsReply |= tcpFlagBeLiberal
			})},
		},
		{
			"replace a flow that lacks the helper",
			[]conntracksync.Flow{changed(helped, func(f *conntracksync.Flow) { f.Extra = nil })},
			[]conntracksync.Op{op(opReplace, helped)},
			Result{Created: 1},
			[]conntracksync.Flow{helped},
		},
		{
			"replace a flow that has a helper and another translation",
			[]conntracksync.Flow{changed(helped, func(f *conntracksync.Flow) { f.Reply.DestinationPort++ })},
			[]conntracksync.Op{op(opReplace, helped)},
			Result{Created: 1, Evicted: 1},
			[]conntracksync.Flow{helped},
		},
		{
			"replace by a flow with a helper, over a rival",
			[]conntracksync.Flow{changed(helped, func(f *conntracksync.Flow) { f.Original.SourcePort++ })},
			[]conntracksync.Op{op(opReplace, helped)},
			Result{Created: 1, Evicted: 1},
			[]conntracksync.Flow{helped},
		},
		{
			"replace what is not there", nil,
			[]conntracksync.Op{op(opReplace, snat)},
			Result{Created: 1},
			[]conntracksync.Flow{snat},
		},
		{
			"replace evicts",
			[]conntracksync.Flow{rival},
			[]conntracksync.Op{op(opReplace, snat)},
			Result{Created: 1, Evicted: 1},
			[]conntracksync.Flow{snat},
		},
		{
			"delete",
			[]conntracksync.Flow{snat, plain},
			[]conntracksync.Op{op(opDelete, conntracksync.Flow{Key: snat.Key})},
			Result{Deleted: 1},
			[]conntracksync.Flow{plain},
		},
		{
			"delete keeps to the zone",
			[]conntracksync.Flow{plain, samples["tcp plain, mark and zone"]},
			[]conntracksync.Op{op(opDelete, samples["tcp plain, mark and zone"])},
			Result{Deleted: 1},
			[]conntracksync.Flow{plain},
		},
		{"delete what is not there", nil, []conntracksync.Op{op(opDelete, snat)}, Result{Absent: 1}, nil},
		{
			"order of one flow's operations", nil,
			[]conntracksync.Op{
				op(opCreate, snat), op(opCreate, closing), op(opDelete, snat), op(opCreate, rival),
				op(opDelete, rival), op(opUpdate, snat),
			},
			Result{Created: 3, Updated: 1, Deleted: 2},
			[]conntracksync.Flow{snat},
		},
		{
			"unanswered", nil,
			[]conntracksync.Op{op(opCreate, unanswered)},
			Result{Created: 1},
			[]conntracksync.Flow{unanswered},
		},
		{
			"assured without state is taken for established", nil,
			[]conntracksync.Op{op(opCreate, stateless)},
			Result{Created: 1},
			[]conntracksync.Flow{assumed},
		},
		{
			"not assured without state", nil,
			[]conntracksync.Op{op(opCreate, changed(stateless, func(f *conntracksync.Flow) { f.Status = 0 }))},
			refused(RefusedNoState),
			nil,
		},
		{
			"update of an absent flow without state", nil,
			[]conntracksync.Op{op(opUpdate, changed(stateless, func(f *conntracksync.Flow) { f.Status = 0 }))},
			refused(RefusedNoState),
			nil,
		},
		{
			"sweep",
			[]conntracksync.Flow{snat, plain},
			[]conntracksync.Op{op(opSweep, snat)},
			Result{Deleted: 1},
			[]conntracksync.Flow{plain},
		},
		{
			"sweep spares another flow in the place",
			[]conntracksync.Flow{remapped},
			[]conntracksync.Op{op(opSweep, snat)},
			Result{Absent: 1},
			[]conntracksync.Flow{remapped},
		},
		{
			"sweep spares a flow that runs the other way",
			[]conntracksync.Flow{reversed},
			[]conntracksync.Op{op(opSweep, plain)},
			Result{Absent: 1},
			[]conntracksync.Flow{reversed},
		},
		{"sweep what is not there", nil, []conntracksync.Op{op(opSweep, snat)}, Result{Absent: 1}, nil},
		{
			"time-out and nothing else",
			[]conntracksync.Flow{snat},
			[]conntracksync.Op{op(opTimeout, changed(closing, func(f *conntracksync.Flow) { f.Timeout = 9000 }))},
			Result{Updated: 1},
			[]conntracksync.Flow{changed(snat, func(f *conntracksync.Flow) { f.Timeout = 9000 })},
		},
		{
			"time-out of a flow of GRE",
			[]conntracksync.Flow{samples["gre snat"]},
			[]conntracksync.Op{
				op(opUpdate, changed(samples["gre snat"], func(f *conntracksync.Flow) { f.Mark = 5 })),
				op(opTimeout, changed(samples["gre snat"], func(f *conntracksync.Flow) { f.Timeout = 200 })),
			},
			Result{Created: 1, Updated: 1},
			[]conntracksync.Flow{changed(samples["gre snat"], func(f *conntracksync.Flow) { f.Timeout = 200 })},
		},
		{"time-out of what is not there", nil, []conntracksync.Op{op(opTimeout, snat)}, Result{Absent: 1}, nil},
		{
			"helper that is not loaded", nil,
			[]conntracksync.Op{op(opCreate, changed(snat, func(f *conntracksync.Flow) {
				f.Extra = &conntracksync.Extra{Helper: "nosuch"}
			}))},
			Result{Created: 1, Stripped: map[string]int{StrippedHelper: 1}},
			[]conntracksync.Flow{snat},
		},
		{
			"master that is gone, over a rival",
			[]conntracksync.Flow{rival},
			[]conntracksync.Op{op(opUpdate, changed(snat, func(f *conntracksync.Flow) {
				f.Status |= conntracksync.StatusExpected
				f.Extra = &conntracksync.Extra{Master: plain.Key, HasMaster: true, Helper: "nosuch"}
			}))},
			Result{Created: 1, Evicted: 1, Stripped: map[string]int{StrippedMaster: 1, StrippedHelper: 1}},
			[]conntracksync.Flow{snat},
		},
		{
			"master in the same call, and an update of the child", nil,
			[]conntracksync.Op{
				op(opCreate, plain), op(opCreate, child), op(opUpdate, changed(child, func(f *conntracksync.Flow) {
					f.Timeout = 250
				})),
			},
			Result{Created: 2, Updated: 1},
			[]conntracksync.Flow{plain, changed(child, func(f *conntracksync.Flow) { f.Timeout = 250 })},
		},
		{
			"labels for a flow that has no room",
			[]conntracksync.Flow{snat},
			[]conntracksync.Op{op(opUpdate, changed(snat, func(f *conntracksync.Flow) {
				f.Extra = &conntracksync.Extra{Labels: [16]byte{1}, HasLabels: true}
			}))},
			Result{Updated: 1, Stripped: map[string]int{StrippedLabels: 1}},
			[]conntracksync.Flow{snat},
		},
		{
			"a state of sctp that no kernel knows", nil,
			[]conntracksync.Op{op(opCreate, extraFlow(conntracksync.Extra{
				SCTP: conntracksync.SCTPInfo{State: sctpStateMax + 1}, HasSCTP: true,
			}, unix.IPPROTO_SCTP, 7))},
			refused(RefusedMalformed),
			nil,
		},
		{
			"a master of another family", nil,
			[]conntracksync.Op{op(opCreate, childFlow(samples["tcp6 snat"].Key))},
			refused(RefusedMalformed),
			nil,
		},
		{
			"sctp without its tags", nil,
			[]conntracksync.Op{op(opCreate, changed(plain, func(f *conntracksync.Flow) {
				f.Protocol, f.HasTCP = unix.IPPROTO_SCTP, false
			}))},
			refused(RefusedNoState),
			nil,
		},
		{
			"flags that the kernel must find out itself", nil,
			[]conntracksync.Op{op(opCreate, changed(snat, func(f *conntracksync.Flow) { f.TCP.FlagsReply = 0xf0 }))},
			Result{Created: 1},
			[]conntracksync.Flow{changed(snat, func(f *conntracksync.Flow) { f.TCP.FlagsReply = tcpFlagWindowScale })},
		},
		{
			"a liberal flow stays liberal, a foreign status is not written", nil,
			[]conntracksync.Op{op(opCreate, changed(snat, func(f *conntracksync.Flow) {
				f.TCP.FlagsOriginal |= tcpFlagBeLiberal
				f.Status |= conntracksync.StatusExpected | conntracksync.StatusDying
			}))},
			Result{Created: 1},
			[]conntracksync.Flow{changed(snat, func(f *conntracksync.Flow) { f.TCP.FlagsOriginal |= tcpFlagBeLiberal })},
		},
		{
			"offloaded flows report no timeout", nil,
			[]conntracksync.Op{op(opCreate, changed(stateless, func(f *conntracksync.Flow) {
				f.Timeout = 0
				f.Status |= statusOffload
			}))},
			Result{Created: 1},
			[]conntracksync.Flow{changed(assumed, func(f *conntracksync.Flow) { f.Timeout = tcpEstablishedTimeout })},
		},
	}
	c := openIn(t, newNamespace(t), Config{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			flush(t, c)
			for _, f := range tt.before {
				if res := apply(t, c, op(opCreate, f)); res.Created != 1 {
					t.Fatalf("prepare: %+v", res)
				}
			}
			if diff := cmp.Diff(tt.want, apply(t, c, tt.ops...)); diff != "" {
				t.Errorf("result, want to got:\n%s", diff)
			}
			got := table(t, c)
			if len(got) != len(tt.after) {
				t.Errorf("%d flows, want %d: %+v", len(got), len(tt.after), got)
			}
			for _, f := range tt.after {
				wantFlow(t, got[f.Key], f)
			}
		})
	}
}

func flush(t *testing.T, c *Conn) {
	t.Helper()
	for k := range table(t, c) {
		apply(t, c, op(opDelete, conntracksync.Flow{Key: k}))
	}
}
