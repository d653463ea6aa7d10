package replication

import (
	"testing"

	"tandem/tests/sim/mutant"
)

func mutants() []mutant.Mutant {
	one := func(name, function, old, with string) mutant.Mutant {
		return mutant.One(name, "conntracksync", function, old, with)
	}
	return []mutant.Mutant{
		one("rows tell of flows that have ended", "row", "case meta != nil && !known, held:", "case !MUTANT && meta != nil && !known, held:"),
		one("flows that end are not remembered", "remove", "entomb = entomb &&", "entomb = !MUTANT && entomb &&"),
		one("held flow outlives its end", "destroy", "s.held.remove(hash)", "if !MUTANT { s.held.remove(hash) }"),
		one("end not told", "destroy", "if s.connected {", "if !MUTANT && s.connected {"),
		one("old term believed", "sequenced", "case f.Term < r.term:", "case !MUTANT && f.Term < r.term:"),
		one("applied as MASTER", "sequenced", "case r.role != RoleBackup:", "case !MUTANT && r.role != RoleBackup:"),
		one("queue without a bound", "full", "if s.queue.records <", "if MUTANT || s.queue.records <"),
		one("overrun ignored", "Overrun", "if !s.master {", "if MUTANT || !s.master {"),
		one("digest of what is held", "event", "record := s.held.add(hash, now)", "if MUTANT { s.note(hash, f, 0) }\nrecord := s.held.add(hash, now)"),
		one("complete though something was lost", "lose", "s.provenSeq, s.peerComplete = 0, false", "if !MUTANT { s.provenSeq, s.peerComplete = 0, false }"),
		one("gone at the first miss", "sweep", "gone := times > 1", "gone := MUTANT || times > 1"),
		one("gone never told", "sweep", "if s.connected && (gone ||", "if s.connected && (gone && !MUTANT ||"),
		one("time-outs stay long", "row", "s.trim(f)", "if !MUTANT { s.trim(f) }"),
		one("barrier before what is held", "Barrier", "s.releaseAll(now)", "if !MUTANT { s.releaseAll(now) }"),
		one("child before its master", "refresh", "if f.Extra != nil &&", "if !MUTANT && f.Extra != nil &&"),
		one("windows of an earlier mastership kept", "SetRole", "r.ix.clearFresh()", "if !MUTANT { r.ix.clearFresh() }"),
		one("update where a replacement is due", "opKind", "case old&metaFresh == 0 &&", "case !MUTANT && old&metaFresh == 0 &&"),
		one("successor taken for the same flow", "succeeds", "return old", "return !MUTANT && old"),
		one("refusal ignored", "Applied", "if i >= 0 &&", "if !MUTANT && i >= 0 &&"),
		one("acknowledged before it is applied", "sequenced", "r.toAck = f.Seq", "r.toAck = f.Seq\nif MUTANT { r.reply(Frame{Type: FrameAck, Acked: f.Seq, Complete: r.complete}) }"),
		one("repair confirms nothing", "flow", "flags |= metaConfirmed", "if !MUTANT { flags |= metaConfirmed }"),
		one("repair drops nothing", "endRepair", "&& b.meta[j]&metaConfirmed == 0", "&& !MUTANT && b.meta[j]&metaConfirmed == 0"),
		one("strangers stay", "strange", "r.ops = append(r.ops, Op{Kind: OpSweep, Flow: *f})", "if !MUTANT { r.ops = append(r.ops, Op{Kind: OpSweep, Flow: *f}) }"),
		one("time-outs run down", "extend", "if f.Timeout >= full/2", "if MUTANT || f.Timeout >= full/2"),
		one("time-outs kept by the floor alone", "extend", "full := max(r.floor(), r.cfg.Timeouts.normal(f))", "full := r.floor()\nif !MUTANT { full = max(full, r.cfg.Timeouts.normal(f)) }"),
		one("own end not heard", "Event", "if hash := r.ix.hash(&e.Flow); r.ix.remove(hash, true) {", "if hash := r.ix.hash(&e.Flow); !MUTANT && r.ix.remove(hash, true) {"),
		one("excluded network applied", "record", "if r.exclude.flow(&record.Flow) != SkipNone {", "if !MUTANT && r.exclude.flow(&record.Flow) != SkipNone {"),
		one("held when a pass begins", "WantDump", "s.releaseAll(now)", "if !MUTANT { s.releaseAll(now) }"),
		one("change of networks not looked at", "SetExclude", "if s.master {", "if !MUTANT && s.master {"),
	}
}

// mutantSeeds is how many seeds may pass before a mutant must be caught.
const mutantSeeds = 400

// TestMutants: a simulation that does not notice a broken rule is worth nothing.
func TestMutants(t *testing.T) {
	t.Parallel()
	program := mutant.Build(t, "../../..", "tests/sim/replication", mutants())
	for _, m := range append([]mutant.Mutant{{Name: "none"}}, mutants()...) {
		t.Run(m.Name, func(t *testing.T) {
			seeds := mutantSeeds
			if len(m.Edits) == 0 {
				seeds = 50
			}
			what := mutant.Run(t, program, m, seeds)
			switch caught := what != ""; {
			case caught && len(m.Edits) == 0:
				t.Errorf("fails without a mutant: %s", what)
			case caught:
				t.Logf("caught by %s", what)
			case len(m.Edits) > 0:
				t.Errorf("%d seeds found nothing wrong", mutantSeeds)
			}
		})
	}
}
