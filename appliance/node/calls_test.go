package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tandem/conntracksync"
	"tandem/conntracksync/peer"
)

// mute is an address where calls are taken and never answered.
func mute(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return netip.MustParseAddrPort(l.Addr().String())
}

// closed is an address where nobody listens.
func closed(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // what was bound last is given out last
	return netip.MustParseAddrPort(l.Addr().String())
}

func TestDialFirst(t *testing.T) {
	mine, theirs, strangers := key(t), key(t), key(t)
	listen := func(id *peer.Identity) netip.AddrPort {
		l, err := peer.Listen(t.Context(), peer.Config{Identity: id, PeerKey: mine.PublicKey(), Local: netip.MustParseAddrPort("127.0.0.1:0")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l.Addr()
	}
	good, wrong := listen(theirs), listen(strangers)
	for name, c := range map[string]struct {
		at   []netip.AddrPort
		want string
		says string
	}{
		"the first answers":        {[]netip.AddrPort{good, good}, "0", ""},
		"the first is silent":      {[]netip.AddrPort{mute(t), good}, "1", ""},
		"nobody listens there":     {[]netip.AddrPort{closed(t), good}, "1", ""},
		"a stranger answers":       {[]netip.AddrPort{wrong, good}, "1", ""},
		"nobody at all":            {[]netip.AddrPort{closed(t), closed(t)}, "", "call the peer"},
		"keys are worth telling":   {[]netip.AddrPort{closed(t), wrong}, "", "has the key " + strangers.PublicKey()},
		"a single one":             {[]netip.AddrPort{good}, "0", ""},
		"all are silent":           {[]netip.AddrPort{mute(t), mute(t)}, "", "handshake"},
		"the third after two dead": {[]netip.AddrPort{closed(t), closed(t), good}, "2", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var ways []way
			for i, at := range c.at {
				ways = append(ways, way{name: string(rune('0' + i)), cfg: peer.Config{Identity: mine, PeerKey: theirs.PublicKey(), Remote: at}})
			}
			got, err := dialFirst(t.Context(), ways)
			if err == nil {
				defer func() { _ = got.channel.Close() }() // nothing is said on it
			}
			if got.link != c.want || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q, %v; want %q, %q", got.link, err, c.want, c.says)
			}
		})
	}
}

func key(t *testing.T) *peer.Identity {
	t.Helper()
	id, err := peer.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestDialFirstEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	id := key(t)
	_, err := dialFirst(ctx, []way{{cfg: peer.Config{Identity: id, PeerKey: id.PublicKey(), Remote: mute(t)}}})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestLookForBetter(t *testing.T) {
	mine, theirs := key(t), key(t)
	l, err := peer.Listen(t.Context(), peer.Config{Identity: theirs, PeerKey: mine.PublicKey(), Local: netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // the test is over
	cfg := peer.Config{Identity: mine, PeerKey: theirs.PublicKey(), Remote: l.Addr()}
	var r replication
	found := r.lookForBetter(t.Context(), []way{{"ha", cfg}}, time.Millisecond)
	c, ok := <-found
	if !ok || c.link != "ha" {
		t.Fatalf("%+v, %v", c, ok)
	}
	_ = c.channel.Close() // nothing was said on it
	ctx, cancel := context.WithCancel(t.Context())
	none := r.lookForBetter(ctx, nil, time.Millisecond)
	select {
	case <-none:
		t.Error("there is no better way than the best")
	default:
	}
	cancel()
	if _, ok := <-none; ok {
		t.Error("found one all the same")
	}
}

func TestNextReturn(t *testing.T) {
	after := minReturn
	for range 10 {
		after = nextReturn(after, time.Second)
	}
	if after != maxReturn {
		t.Errorf("a link that breaks again and again is tried after %v, want %v", after, maxReturn)
	}
	if after = nextReturn(after, time.Hour); after != minReturn {
		t.Errorf("a link that lasted is tried after %v, want %v", after, minReturn)
	}
}

// watched returns a connection over a loopback channel, and the peer's end of it.
func watched(t *testing.T) (*connection, *peer.Channel) {
	t.Helper()
	id := key(t)
	l, err := peer.Listen(t.Context(), peer.Config{Identity: id, PeerKey: id.PublicKey(), Local: netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	channel, err := peer.Dial(t.Context(), peer.Config{Identity: id, PeerKey: id.PublicKey(), Remote: l.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := &connection{channel: channel, done: make(chan struct{}), began: time.Now()}
	t.Cleanup(func() { c.fail(errReplaced); _ = theirs.Close() })
	return c, theirs
}

func TestSilentStreamEnds(t *testing.T) {
	c, _ := watched(t)
	began := time.Now()
	c.watch()
	if took := time.Since(began); took < silenceLimit || c.failed() == nil || !strings.Contains(c.failed().Error(), "has been silent for") {
		t.Errorf("%v after %v", c.failed(), took)
	}
}

// A node that takes long to take a frame in does not blame its peer for the silence.
func TestBusyIsNotSilent(t *testing.T) {
	c, _ := watched(t)
	c.busy.Store(true)
	go c.watch()
	select {
	case <-c.done:
		t.Fatalf("the stream was ended: %v", c.failed())
	case <-time.After(silenceLimit + 4*watchInterval):
	}
	c.heardAt.Store(int64(time.Since(c.began)))
	c.busy.Store(false)
	<-c.done // now it is silent
}

// Answers do not gather without bound for a peer that reads too slowly to be silent.
func TestUnreadAnswersEndTheStream(t *testing.T) {
	conn, _ := watched(t)
	r := &replication{conn: conn}
	for range controlLimit {
		r.enqueue(&conntracksync.Frame{Type: conntracksync.FrameAck})
	}
	if err := conn.failed(); err != nil {
		t.Fatalf("ended too early: %v", err)
	}
	r.enqueue(&conntracksync.Frame{Type: conntracksync.FrameAck})
	if err := conn.failed(); !errors.Is(err, errUnread) || len(r.control) != controlLimit {
		t.Errorf("%v, %d frames wait", err, len(r.control))
	}
}

// A link whose cable is out ends the stream on it, if there is another link.
func TestLostCarrier(t *testing.T) {
	two := []way{{name: "ha"}, {name: "ha2"}}
	for name, c := range map[string]struct {
		ways []way
		up   map[string]bool
		ends bool
	}{
		"up":              {two, map[string]bool{"ha": true, "ha2": true}, false},
		"the other is":    {two, map[string]bool{"ha": true, "ha2": false}, false},
		"down":            {two, map[string]bool{"ha": false, "ha2": true}, true},
		"unknown":         {two, nil, false},
		"there is no two": {two[:1], map[string]bool{"ha": false}, false},
	} {
		t.Run(name, func(t *testing.T) {
			conn, _ := watched(t)
			conn.link = "ha"
			r := &replication{ways: c.ways, conn: conn}
			r.lostCarrier(c.up)
			if err := conn.failed(); (err != nil) != c.ends || c.ends && !errors.Is(err, errCarrier) {
				t.Errorf("%v", err)
			}
		})
	}
}

// Trouble of one link is none while there is a stream by another.
func TestOtherTrouble(t *testing.T) {
	n := pairOf(t)["bravo"]
	conn, _ := watched(t)
	r := &replication{node: n, conn: conn}
	r.noteOtherTrouble(errors.New("no such device"))
	if r.linkErr != "" {
		t.Errorf("noted %q", r.linkErr)
	}
	why := errors.New("silent")
	conn.fail(why)
	r.noteOtherTrouble(why)
	if r.linkErr != "silent" {
		t.Errorf("noted %q, want the reason of the stream's end", r.linkErr)
	}
}
