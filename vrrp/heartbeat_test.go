package vrrp

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const quiet = down100

func heartbeatKey() []byte { return bytes.Repeat([]byte{0x5a}, 32) }

func channel(nonce uint64) *HeartbeatChannel { return NewHeartbeatChannel(heartbeatKey(), nonce) }

// expect opens b at both the time and the verdict that are wanted.
func expect(t *testing.T, c *HeartbeatChannel, at time.Duration, b []byte, want HeartbeatVerdict) Heartbeat {
	t.Helper()
	h, got := c.Open(epoch().Add(at), 0, b, quiet)
	if got != want {
		t.Fatalf("verdict %v, want %v", got, want)
	}
	return h
}

// introduced returns two channels that trust each other at the epoch.
func introduced(t *testing.T) (a, b *HeartbeatChannel) {
	t.Helper()
	a, b = channel(1), channel(2)
	expect(t, b, 0, a.Seal(Heartbeat{}), HeartbeatIntroduction)
	expect(t, a, 0, b.Seal(Heartbeat{}), HeartbeatTrusted)
	expect(t, b, 0, a.Seal(Heartbeat{}), HeartbeatTrusted)
	return a, b
}

func TestHeartbeatRoundTrip(t *testing.T) {
	t.Parallel()
	a, b := introduced(t)
	for _, h := range []Heartbeat{
		{},
		{State: Backup, Priority: 180, Ready: true, Term: 7},
		{State: Master, Priority: 255, TakeOver: true, Term: math.MaxUint64},
		{State: Initialize, Priority: 1, Ready: true, TakeOver: true, Term: 1 << 32},
		{State: Backup, Configuration: [DigestSize]byte{1, 2, 3, 4, 5, 6, 7, 8}, Hears: []bool{}},
		{State: Backup, Hears: []bool{true, false, false, true, true, false, false, false, true}},
		{State: Backup, Hears: make([]bool, 511)},
	} {
		wire := a.Seal(h)
		if len(wire) > MaxHeartbeat {
			t.Fatalf("%d bytes, want at most %d", len(wire), MaxHeartbeat)
		}
		if diff := cmp.Diff(h, expect(t, b, 0, wire, HeartbeatTrusted)); diff != "" {
			t.Errorf("round trip (-want +got):\n%s", diff)
		}
	}
}

// TestHeartbeatLayout pins the wire format: members of different versions of the
// software must understand each other.
func TestHeartbeatLayout(t *testing.T) {
	t.Parallel()
	a := channel(0x1112131415161718)
	a.peer = 0x2122232425262728
	got := a.Seal(Heartbeat{
		State: Master, Priority: 200, Ready: true, TakeOver: true, Term: 0x3132333435363738,
		Configuration: [DigestSize]byte{1, 2, 3, 4, 5, 6, 7, 8},
		Hears:         []bool{true, false, true, false, false, false, false, false, true},
	})
	body := octets(t, "54444d02 02c80300 3132333435363738 1112131415161718 2122232425262728 0000000000000001"+
		"0108 0102030405060708 0204 0009 0501")
	mac := hmac.New(sha256.New, heartbeatKey())
	mac.Write(body)
	if want := mac.Sum(body); !bytes.Equal(got, want) {
		t.Errorf("sealed\n%x, want\n%x", got, want)
	}
}

// TestHeartbeatColdStart: whoever comes first, both trust each other with the
// third heartbeat at the latest.
func TestHeartbeatColdStart(t *testing.T) {
	t.Parallel()
	t.Run("one after the other", func(t *testing.T) {
		t.Parallel()
		introduced(t)
	})
	t.Run("both at once", func(t *testing.T) {
		t.Parallel()
		a, b := channel(1), channel(2)
		fromA, fromB := a.Seal(Heartbeat{}), b.Seal(Heartbeat{})
		expect(t, b, 0, fromA, HeartbeatIntroduction)
		expect(t, a, 0, fromB, HeartbeatIntroduction)
		expect(t, b, 0, a.Seal(Heartbeat{}), HeartbeatTrusted)
		expect(t, a, 0, b.Seal(Heartbeat{}), HeartbeatTrusted)
	})
	t.Run("the first are lost", func(t *testing.T) {
		t.Parallel()
		a, b := channel(1), channel(2)
		for range 10 {
			a.Seal(Heartbeat{})
		}
		expect(t, b, 0, a.Seal(Heartbeat{}), HeartbeatIntroduction)
		expect(t, a, 0, b.Seal(Heartbeat{}), HeartbeatTrusted)
	})
}

func TestHeartbeatMalformed(t *testing.T) {
	t.Parallel()
	a, b := introduced(t)
	good := a.Seal(Heartbeat{State: Backup})
	changed := func(at int, to byte) []byte {
		c := bytes.Clone(good)
		c[at] = to
		return c
	}
	tests := []struct {
		name string
		b    []byte
		want HeartbeatVerdict
	}{
		{"nothing", nil, HeartbeatMalformed},
		{"too short", good[:minHeartbeat-1], HeartbeatMalformed},
		{"cut", good[:len(good)-1], HeartbeatForged},
		{"longer", append(bytes.Clone(good), 0), HeartbeatForged},
		{"too long", append(bytes.Clone(good), make([]byte, MaxHeartbeat)...), HeartbeatMalformed},
		{"not a heartbeat", changed(0, 'X'), HeartbeatMalformed},
		{"another version", changed(3, 1), HeartbeatMalformed},
		{"no such state", changed(4, byte(Master)+1), HeartbeatMalformed},
		{"another state", changed(4, byte(Master)), HeartbeatForged},
		{"another priority", changed(5, good[5]+1), HeartbeatForged},
		{"another flag", changed(6, flagTakeOver), HeartbeatForged},
		{"a reserved byte", changed(7, 1), HeartbeatForged},
		{"another counter", changed(39, good[39]+1), HeartbeatForged},
		{"another sum", changed(len(good)-1, good[len(good)-1]+1), HeartbeatForged},
		{"another key", NewHeartbeatChannel(bytes.Repeat([]byte{1}, 32), 1).Seal(Heartbeat{}), HeartbeatForged},
	}
	for _, tt := range tests {
		if h, got := b.Open(epoch(), 0, tt.b, quiet); got != tt.want || !reflect.DeepEqual(h, Heartbeat{}) {
			t.Errorf("%s: %v and %+v, want %v and nothing", tt.name, got, h, tt.want)
		}
	}
	expect(t, b, 0, good, HeartbeatTrusted) // none of them did harm
}

func TestHeartbeatReplayed(t *testing.T) {
	t.Parallel()
	t.Run("of the same process", func(t *testing.T) {
		t.Parallel()
		a, b := introduced(t)
		first, second := a.Seal(Heartbeat{}), a.Seal(Heartbeat{})
		expect(t, b, 0, second, HeartbeatTrusted)
		expect(t, b, 0, second, HeartbeatReplayed)
		expect(t, b, 0, first, HeartbeatReplayed) // overtaken on the way: as good as old
		expect(t, b, time.Hour, second, HeartbeatReplayed)
	})
	t.Run("reflected", func(t *testing.T) {
		t.Parallel()
		a, _ := introduced(t)
		expect(t, a, time.Hour, a.Seal(Heartbeat{}), HeartbeatReplayed)
	})
	t.Run("of an earlier process, while the later lives", func(t *testing.T) {
		t.Parallel()
		a, b := introduced(t)
		recorded := a.Seal(Heartbeat{})
		restarted := restart(t, b, 3, quiet)
		expect(t, b, quiet+1, recorded, HeartbeatReplayed)
		expect(t, b, quiet+2, restarted.Seal(Heartbeat{}), HeartbeatTrusted)
	})
	t.Run("of an earlier process, when the later is silent", func(t *testing.T) {
		t.Parallel()
		a, b := introduced(t)
		recorded := a.Seal(Heartbeat{TakeOver: true, State: Master})
		restarted := restart(t, b, 3, quiet)
		expect(t, b, time.Hour, recorded, HeartbeatReplayed)
		expect(t, b, time.Hour, restarted.Seal(Heartbeat{}), HeartbeatTrusted)
	})
	t.Run("to a process that was restarted", func(t *testing.T) {
		t.Parallel()
		a, _ := introduced(t)
		recorded := a.Seal(Heartbeat{TakeOver: true, State: Master})
		b := channel(4)
		expect(t, b, 0, recorded, HeartbeatIntroduction)
		expect(t, b, 0, recorded, HeartbeatIntroduction)
		// The living one still gets in.
		restarted := channel(5)
		expect(t, b, 1, restarted.Seal(Heartbeat{}), HeartbeatIntroduction)
		expect(t, restarted, 1, b.Seal(Heartbeat{}), HeartbeatTrusted)
		expect(t, b, 1, restarted.Seal(Heartbeat{}), HeartbeatTrusted)
	})
}

// openBy opens b as it came in by a link.
func openBy(t *testing.T, c *HeartbeatChannel, link int, b []byte, want HeartbeatVerdict) {
	t.Helper()
	if _, got := c.Open(epoch(), link, b, quiet); got != want {
		t.Fatalf("by link %d: verdict %v, want %v", link, got, want)
	}
}

// TestHeartbeatByTwoLinks: what comes by two links counts once, whichever is the faster,
// and a heartbeat that comes twice by the same one is a replay there.
func TestHeartbeatByTwoLinks(t *testing.T) {
	t.Parallel()
	for _, first := range []int{0, 1} {
		a, b := introduced(t)
		second := 1 - first
		one, two, three := a.Seal(Heartbeat{}), a.Seal(Heartbeat{}), a.Seal(Heartbeat{})
		openBy(t, b, first, one, HeartbeatTrusted)
		openBy(t, b, second, one, HeartbeatRepeated)
		openBy(t, b, second, one, HeartbeatReplayed)
		openBy(t, b, first, one, HeartbeatReplayed)
		// The second link takes longer than the time between two heartbeats.
		openBy(t, b, first, two, HeartbeatTrusted)
		openBy(t, b, first, three, HeartbeatTrusted)
		openBy(t, b, second, two, HeartbeatRepeated)
		openBy(t, b, second, three, HeartbeatRepeated)
		openBy(t, b, second, two, HeartbeatReplayed)
		// The first one is cut.
		four := a.Seal(Heartbeat{TakeOver: true})
		openBy(t, b, second, four, HeartbeatTrusted)
		openBy(t, b, first, four, HeartbeatRepeated)
	}
}

// TestHeartbeatByTwoLinksAfterARestart: the counters by link are of one process.
func TestHeartbeatByTwoLinksAfterARestart(t *testing.T) {
	t.Parallel()
	a, b := introduced(t)
	for range 100 {
		beat := a.Seal(Heartbeat{})
		openBy(t, b, 0, beat, HeartbeatTrusted)
		openBy(t, b, 1, beat, HeartbeatRepeated)
	}
	old := a.Seal(Heartbeat{})
	restarted := restart(t, b, 3, quiet)
	beat := restarted.Seal(Heartbeat{})
	openBy(t, b, 1, beat, HeartbeatTrusted)
	openBy(t, b, 0, beat, HeartbeatRepeated)
	openBy(t, b, 1, old, HeartbeatReplayed)
}

// TestRefusalByOneOfTwoLinks: a refusal says that the process is dead unless the other link
// has just brought a heartbeat of it.
func TestRefusalByOneOfTwoLinks(t *testing.T) {
	t.Parallel()
	fresh := channel(7)
	if !fresh.Refused(epoch(), 0, quiet) {
		t.Error("a refusal before any heartbeat says nothing")
	}
	a, b := introduced(t)
	openBy(t, b, 1, a.Seal(Heartbeat{}), HeartbeatTrusted)
	for _, tt := range []struct {
		link int
		at   time.Duration
		want bool
	}{{1, 0, true}, {0, 0, false}, {0, quiet - 1, false}, {0, quiet, true}} {
		if got := b.Refused(epoch().Add(tt.at), tt.link, quiet); got != tt.want {
			t.Errorf("refused by link %d %v after a heartbeat by the other: %v, want %v", tt.link, tt.at, got, tt.want)
		}
	}
}

// restart replaces b's peer by a process with another nonce, at a time when the
// last one has been quiet for long enough, and returns the new process.
func restart(t *testing.T, b *HeartbeatChannel, nonce uint64, at time.Duration) *HeartbeatChannel {
	t.Helper()
	restarted := channel(nonce)
	expect(t, b, at, restarted.Seal(Heartbeat{}), HeartbeatIntroduction)
	expect(t, restarted, at, b.Seal(Heartbeat{}), HeartbeatTrusted)
	expect(t, b, at, restarted.Seal(Heartbeat{}), HeartbeatTrusted)
	return restarted
}

func TestHeartbeatRestartOfOneSide(t *testing.T) {
	t.Parallel()
	_, b := introduced(t)
	restarted := channel(3)
	// b still believes in the process that it heard a moment ago.
	expect(t, b, quiet-1, restarted.Seal(Heartbeat{}), HeartbeatReplayed)
	// The restarted one learns of b, but b's heartbeats still name its predecessor.
	expect(t, restarted, quiet-1, b.Seal(Heartbeat{}), HeartbeatIntroduction)
	// It repeats b's nonce, so that b trusts it as soon as the last one is quiet.
	expect(t, b, quiet, restarted.Seal(Heartbeat{}), HeartbeatTrusted)
	expect(t, restarted, quiet, b.Seal(Heartbeat{}), HeartbeatTrusted)
}

// TestHeartbeatIntroductionLocksNobodyOut: a recording of a process that this one
// never knew cannot take the place of a peer that was merely cut off.
func TestHeartbeatIntroductionLocksNobodyOut(t *testing.T) {
	t.Parallel()
	a, b := introduced(t)
	unknown := channel(9).Seal(Heartbeat{})
	old := a.Seal(Heartbeat{})
	expect(t, b, 0, a.Seal(Heartbeat{}), HeartbeatTrusted)
	for range 3 {
		expect(t, b, time.Hour, unknown, HeartbeatIntroduction)
	}
	expect(t, b, time.Hour, old, HeartbeatReplayed) // the counter is kept meanwhile
	expect(t, b, time.Hour, a.Seal(Heartbeat{}), HeartbeatTrusted)
	expect(t, a, time.Hour, b.Seal(Heartbeat{}), HeartbeatTrusted)
	expect(t, b, time.Hour, unknown, HeartbeatReplayed)
}

func TestHeartbeatMemoryIsBounded(t *testing.T) {
	t.Parallel()
	_, b := introduced(t)
	for i := range uint64(2 * maxRetired) {
		restart(t, b, 10+i, time.Duration(i+1)*quiet)
	}
	if len(b.retired) != maxRetired {
		t.Fatalf("%d nonces are remembered, want %d", len(b.retired), maxRetired)
	}
	for i := range uint64(maxRetired) {
		if want := 10 + maxRetired - 1 + i; b.retired[i] != want {
			t.Fatalf("nonce %d is %d, want %d: the oldest go first", i, b.retired[i], want)
		}
	}
}

func TestHeartbeatVerdictNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for v := HeartbeatTrusted; v <= HeartbeatReplayed; v++ {
		if name := v.String(); seen[name] || name == "unknown" {
			t.Errorf("verdict %d is called %q", v, name)
		} else {
			seen[name] = true
		}
	}
	if got := (HeartbeatReplayed + 1).String(); got != "unknown" {
		t.Errorf("an unknown verdict is called %q", got)
	}
}

// FuzzHeartbeatOpen: Open never panics, trusts nothing without the key, and
// decodes what Seal encodes.
func FuzzHeartbeatOpen(f *testing.F) {
	f.Add([]byte{}, true)
	f.Add([]byte(heartbeatMagic), false)
	f.Add(channel(2).Seal(Heartbeat{State: Master, TakeOver: true}), false)
	f.Add(channel(1).Seal(Heartbeat{}), true)
	f.Add(bytes.Repeat([]byte{0xff}, minHeartbeat), true)
	f.Fuzz(func(t *testing.T, b []byte, resum bool) {
		original := b
		if resum && len(b) >= minHeartbeat {
			// With a right sum the fuzzer reaches what lies behind it.
			b = bytes.Clone(b)
			body := b[:len(b)-sha256.Size]
			copy(b[len(body):], channel(0).sum(body))
		}
		c := channel(1)
		h, verdict := c.Open(epoch(), 0, b, quiet)
		switch verdict {
		case HeartbeatTrusted, HeartbeatIntroduction:
			if !resum && !bytes.HasPrefix(original, []byte(heartbeatMagic)) {
				t.Fatal("accepted without the magic")
			}
			if h.State > Master || h.Priority != b[5] || h.Term != binary.BigEndian.Uint64(b[8:]) {
				t.Fatalf("decoded %+v from %x", h, b)
			}
		case HeartbeatRepeated, HeartbeatMalformed, HeartbeatForged, HeartbeatReplayed:
			if !reflect.DeepEqual(h, Heartbeat{}) {
				t.Fatalf("dropped as %v, but returned %+v", verdict, h)
			}
		}
		if _, again := c.Open(epoch(), 0, b, quiet); again == HeartbeatTrusted {
			t.Fatal("trusted twice")
		}
	})
}
