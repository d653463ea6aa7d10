package conntracksync

import (
	"fmt"
	"testing"
	"time"
)

// newQuietPair has a table that both nodes agree on.
func newQuietPair(t *testing.T, seed uint64, flows int) *pair {
	p := newPair(t, seed)
	for range flows {
		p.traffic(0)
		p.pump(0)
	}
	p.settle(20 * time.Second)
	p.checkEqual("at the beginning")
	return p
}

// TestEventsAloneKeepTablesEqual: without losses events do it all; a repair would
// only hide a fault.
func TestEventsAloneKeepTablesEqual(t *testing.T) {
	for seed := range uint64(60) {
		p := newQuietPair(t, 1000+seed, 50)
		before := p.node[0].sender.Stats()
		for range 30 {
			for range p.rng.IntN(60) {
				if p.rng.IntN(3) == 0 {
					p.traffic(0)
				}
				p.pump(p.rng.IntN(2))
			}
			for range 3 { // take all events in, then let the hold end
				for p.pump(0) || p.pump(1) {
					continue
				}
				p.now = p.now.Add(5 * time.Millisecond)
			}
			p.checkEqual(fmt.Sprintf("seed %d", seed))
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
		if after := p.node[0].sender.Stats(); after.Repairs != before.Repairs || after.Found != before.Found || after.Gone != before.Gone {
			t.Errorf("seed %d: repairs were needed: %+v", seed, after)
		}
	}
}

// TestBarrierMeansEqual: a passed barrier and a complete table allow a handover
// without any loss.
func TestBarrierMeansEqual(t *testing.T) {
	for seed := range uint64(60) {
		p := newPair(t, 5000+seed)
		p.chaos(300)
		if !p.connected {
			p.connect()
		}
		p.settle(quiet)
		for range 40 {
			p.traffic(p.master())
			p.pump(p.rng.IntN(2))
		}
		m := p.node[p.master()]
		for m.takeEvent(p.now) {
			continue
		}
		m.sender.Barrier(p.now)
		if m.sender.BarrierPassed() {
			t.Fatal("passed before it was sent")
		}
		for p.now = p.now.Add(2 * time.Second); !m.sender.BarrierPassed() || !m.sender.Complete(); {
			if !p.pump(0) && !p.pump(1) {
				t.Fatalf("seed %d: the barrier never passes", seed)
			}
		}
		p.checkEqual(fmt.Sprintf("seed %d", seed))
	}
}

// TestConnectionLostAtEveryFrame cuts the stream after each of its frames.
func TestConnectionLostAtEveryFrame(t *testing.T) {
	for cut := range 60 {
		p := newPair(t, 42)
		for range 50 {
			p.traffic(0)
		}
		start := p.now
		for delivered := 0; delivered < cut && p.now.Sub(start) < time.Minute; {
			moved := false
			for i := range p.node {
				if p.deliver(i) {
					delivered, moved = delivered+1, true
				}
			}
			if !p.pump(0) && !p.pump(1) && !moved {
				p.now = p.now.Add(50 * time.Millisecond)
			}
		}
		p.disconnect()
		for range 20 {
			p.traffic(0)
			p.pump(0)
		}
		p.connect()
		p.settle(20 * time.Second)
		p.checkEqual(fmt.Sprintf("cut at %d", cut))
	}
}

// TestReconnectSendsNothingAgain: equal tables cost a digest.
func TestReconnectSendsNothingAgain(t *testing.T) {
	p := newQuietPair(t, 7, 200)
	before := p.node[0].sender.Stats().Records
	p.disconnect()
	p.connect()
	p.settle(time.Second)
	p.checkEqual("after the reconnect")
	if n := p.node[0].sender.Stats().Records - before; n != 0 {
		t.Errorf("%d records were sent", n)
	}
}

// TestRestartsSendNothingAgain: the first pass over the kernel's table fills the
// index of a node that has restarted.
func TestRestartsSendNothingAgain(t *testing.T) {
	for i, name := range []string{"MASTER", "BACKUP"} {
		p := newQuietPair(t, 8, 200)
		replaced := p.node[1].receiver.Stats().Replaced
		p.disconnect()
		p.restart(i)
		p.setRole(i, i == 0)
		p.connect()
		p.settle(10 * time.Second)
		p.checkEqual("after the restart of the " + name)
		if i == 0 {
			// Repairs are of what is missing only; a dump may have left out a flow.
			if n := p.node[0].sender.Stats().RepairedFlows; n > 5 {
				t.Errorf("%s: %d flows were sent again", name, n)
			}
		} else if p.node[1].receiver.Stats().Adopted == 0 || p.node[1].receiver.Stats().Replaced == replaced {
			t.Errorf("%s: nothing was adopted: %+v", name, p.node[1].receiver.Stats())
		}
	}
}

// TestRestartUnderChurn: a BACKUP that restarts while flows come and go without a
// pause converges all the same: digests are exact at their place of the stream.
func TestRestartUnderChurn(t *testing.T) {
	for seed := range uint64(20) {
		p := newQuietPair(t, 100+seed, 100)
		p.disconnect()
		p.restart(1)
		p.node[1].kernel.table = map[Key]Flow{}
		p.setRole(1, false)
		p.connect()
		complete := 0
		for range 400 {
			for range 3 {
				p.traffic(0)
			}
			for range 60 {
				p.pump(p.rng.IntN(2))
			}
			p.now = p.now.Add(50 * time.Millisecond)
			if p.node[0].sender.Complete() && p.node[1].receiver.Complete() {
				complete++
			}
		}
		if complete < 100 {
			t.Errorf("seed %d: complete in %d of 400 steps; %+v", seed, complete, p.node[1].receiver.Stats())
		}
	}
}

// TestPeerWithoutDigests: all is sent again and again instead.
func TestPeerWithoutDigests(t *testing.T) {
	for seed := range uint64(30) {
		p := newPair(t, 300+seed)
		p.features[int(seed%2)] = 0
		p.disconnect()
		p.connect()
		p.chaos(400)
		if !p.connected {
			p.connect()
		}
		p.settle(2 * quiet)
		p.checkEqual(fmt.Sprintf("seed %d", seed))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// TestTimeouts: quiet flows never expire on the BACKUP, and do after a promotion.
func TestTimeouts(t *testing.T) {
	p := newQuietPair(t, 9, 200)
	k := p.node[1].kernel
	for step := 0; step < 120; step++ { // an hour
		for key, f := range k.table {
			f.Timeout -= min(f.Timeout, 30)
			if k.table[key] = f; f.Timeout == 0 {
				t.Fatalf("%+v expired on the BACKUP", key)
			}
		}
		p.settle(30 * time.Second)
	}
	if p.node[1].receiver.Stats().Extended == 0 {
		t.Error("nothing was extended")
	}
	p.term++
	p.setRole(0, false)
	p.setRole(1, true)
	p.settle(10 * time.Second)
	for _, f := range k.table {
		if normal := DefaultTimeouts().normal(&f); f.Timeout > normal && p.replicated(1, f) {
			t.Errorf("time-out of %d s instead of %d: %+v", f.Timeout, normal, f)
		}
	}
	if p.node[1].sender.Stats().Trimmed == 0 {
		t.Error("nothing was trimmed")
	}
}

// TestRefusals: a kernel that refuses is asked again, ever more rarely, and the
// table does not count as complete meanwhile.
func TestRefusals(t *testing.T) {
	p := newPair(t, 10)
	p.node[1].kernel.refuse = 100
	for range 100 {
		p.traffic(0)
	}
	p.settle(5 * time.Minute)
	r, s := p.node[1].receiver, p.node[0].sender
	if r.Complete() || s.Complete() {
		t.Error("complete although the kernel refuses all")
	}
	if n := r.Stats().Repairs; n < 4 || n > 20 {
		t.Errorf("%d repairs in five minutes", n)
	}
	p.node[1].kernel.refuse = 0
	p.settle(quiet)
	p.checkEqual("after the refusals")
}
