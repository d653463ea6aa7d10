package traffic

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const testKey = 0x1234_5678_9abc_def0

func TestMessageRoundTrip(t *testing.T) {
	t.Parallel()
	want := message{flow: 7, seq: 1 << 40, sent: 1_700_000_000_000_000_001}
	for _, size := range []int{tcpMessageSize, udpMessageSize} {
		b := make([]byte, size)
		want.encode(b, testKey)
		got, err := decode(b, 7, testKey)
		if err != nil || got != want {
			t.Errorf("size %d: got %+v, %v", size, got, err)
		}
	}
}

func TestDecodeRefusesEveryChangedByte(t *testing.T) {
	t.Parallel()
	for _, size := range []int{tcpMessageSize, udpMessageSize} {
		b := make([]byte, size)
		message{flow: 7, seq: 3, sent: 99}.encode(b, testKey)
		for i := range min(size, stampOffset) {
			b[i] ^= 0x40
			if _, err := decode(b, 7, testKey); err == nil {
				t.Errorf("size %d: byte %d changed and nothing was said", size, i)
			}
			b[i] ^= 0x40
		}
		if _, err := decode(b, 8, testKey); err == nil {
			t.Error("accepted as the echo of another flow")
		}
		if _, err := decode(b, 7, testKey+1); err == nil {
			t.Error("accepted as the echo of another run")
		}
		if _, err := decode(b[:size-1], 7, testKey); err == nil {
			t.Error("accepted a short message")
		}
	}
}

func TestStamp(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"192.0.2.1:40000", "[2001:db8::1]:1"} {
		b := make([]byte, udpMessageSize)
		want := netip.MustParseAddrPort(text)
		putStamp(b, want)
		if got := stamp(b); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	b := make([]byte, udpMessageSize)
	message{flow: 1, seq: 2, sent: 3}.encode(b, testKey)
	f.Add(b)
	f.Add(b[:tcpMessageSize])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b, 1, testKey)
		if err != nil {
			return
		}
		again := make([]byte, len(b))
		m.encode(again, testKey)
		if len(b) == udpMessageSize {
			copy(again[stampOffset:], b[stampOffset:])
		}
		if diff := cmp.Diff(b, again); diff != "" {
			t.Error(diff)
		}
	})
}

func TestDuplicate(t *testing.T) {
	t.Parallel()
	f := &flow{}
	steps := []struct {
		seq  uint64
		want bool
	}{
		{0, false},
		{0, true},
		{1, false},
		{4, false},
		{2, false},
		{2, true},
		{4, true},
		{3, false},
		{3 + seenWindow, false},
		{3, true},
		{4 + seenWindow, false},
		{5 + seenWindow, false},
		{4, true},
		{6, false},
		{20 * seenWindow, false},
		{19*seenWindow + 1, false},
		{19*seenWindow - 1, true},
		{20*seenWindow - 1, false},
		{20*seenWindow - 1, true},
	}
	for i, s := range steps {
		if got := f.duplicate(s.seq); got != s.want {
			t.Errorf("step %d: number %d: got %v", i, s.seq, got)
		}
	}
}

// pipeFlow returns a flow with a connection that can be closed.
func pipeFlow(t *testing.T, k kind, from time.Time) *flow {
	a, b := net.Pipe()
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return &flow{kind: k, conn: a, from: from}
}

func TestSilence(t *testing.T) {
	t.Parallel()
	zero := time.Unix(1000, 0)
	at := func(ms int) time.Time { return zero.Add(time.Duration(ms) * time.Millisecond) }
	check := func(f *flow, now time.Time, want time.Duration, wantOK bool) {
		t.Helper()
		if got, ok := f.silence(now); got != want || ok != wantOK {
			t.Errorf("at %v: got %v %v, want %v %v", now.Sub(zero), got, ok, want, wantOK)
		}
	}
	f := pipeFlow(t, kindUDP, zero)
	check(f, at(30), 30*time.Millisecond, true)
	f.arrived(at(40), 0)
	f.arrived(at(60), 0)
	check(f, at(70), 40*time.Millisecond, true)
	check(f, at(160), 100*time.Millisecond, true)
	f.mark(at(170))
	check(f, at(180), 10*time.Millisecond, true)
	f.arrived(at(190), 0)
	f.arrived(at(490), 0)
	f.arrived(at(500), 0)
	check(f, at(510), 300*time.Millisecond, true)
	f.lose(at(1000), Reset, "")
	check(f, at(5000), 500*time.Millisecond, true)
	f.mark(at(6000))
	check(f, at(7000), 0, false)
}

func TestPatience(t *testing.T) {
	t.Parallel()
	zero := time.Unix(1000, 0)
	f := pipeFlow(t, kindTCP, zero)
	f.checkPatience(zero.Add(time.Second), time.Second, zero)
	if !f.alive() {
		t.Fatal("lost before the patience ended")
	}
	f.arrived(zero.Add(time.Second), 0)
	f.checkPatience(zero.Add(2*time.Second), time.Second, zero)
	if !f.alive() {
		t.Fatal("lost though something arrived")
	}
	f.checkPatience(zero.Add(2*time.Second+1), time.Second, zero)
	if f.alive() || f.lost != Silent {
		t.Fatalf("not lost for silence: %v", f.lost)
	}
}

func TestTakeBoundsWhatIsOutstanding(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	f := pipeFlow(t, kindTCP, now)
	n := 0
	for ; n < 2*maxOutstanding; n++ {
		if _, ok := f.take(now); !ok {
			break
		}
	}
	if n != maxOutstanding {
		t.Errorf("%d messages outstanding, want %d", n, maxOutstanding)
	}
	if !f.echoTCP(now, message{seq: 0}) || f.echoTCP(now, message{seq: 2}) || f.echoTCP(now, message{seq: 0}) {
		t.Error("echoes out of order are not told apart")
	}
	if _, ok := f.take(now); !ok {
		t.Error("an echo makes no room")
	}
}

func TestSummarise(t *testing.T) {
	t.Parallel()
	zero := time.Unix(1000, 0)
	now := zero.Add(time.Second)
	flows := make([]*flow, 5)
	for i := range flows {
		flows[i] = pipeFlow(t, kindUDP, zero)
		flows[i].id = uint32(i)
		flows[i].next, flows[i].expect, flows[i].echoes = 10, 8, 6
		flows[i].arrived(now.Add(-time.Duration(i)*time.Millisecond), zero.UnixNano()+int64(i))
		flows[i].longest = time.Duration(i) * 10 * time.Millisecond
	}
	flows[4].lose(now, Remapped, "moved")
	got := summarise(flows, now, zero, zero.UnixNano()+1)
	want := Group{
		Total: 5, Alive: 4, Lost: 1, Resumed: 2,
		Reasons:  map[string]int{"remapped": 1},
		Examples: []Loss{{Flow: 4, Reason: "remapped", Detail: "moved", After: time.Second}},
		Sent:     50, Echoes: 30, Missing: 10,
		SilenceP50: 20 * time.Millisecond, SilenceMax: 40 * time.Millisecond,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestClientConfigValidate(t *testing.T) {
	t.Parallel()
	good := ClientConfig{Server: netip.MustParseAddr("192.0.2.1"), TCPSessions: 1}.withDefaults()
	if err := good.validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*ClientConfig){
		"no server":       func(c *ClientConfig) { c.Server = netip.Addr{} },
		"nothing to send": func(c *ClientConfig) { c.TCPSessions = 0 },
		"too many":        func(c *ClientConfig) { c.UDPFlows = maxFlows + 1 },
		"negative":        func(c *ClientConfig) { c.TCPSessions = -1 },
		"interval":        func(c *ClientConfig) { c.UDPInterval = time.Microsecond },
		"patience":        func(c *ClientConfig) { c.Patience = time.Millisecond },
	} {
		c := good
		change(&c)
		if c.validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestReasonWords(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for r := NotLost; r <= Broken; r++ {
		if w := r.String(); w == "unknown" || seen[w] {
			t.Errorf("reason %d has no word of its own: %q", r, w)
		} else {
			seen[w] = true
		}
	}
}
