package hostile

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	"tandem/appliance/status"
	"tandem/conntracksync"
	"tandem/conntracksync/peer"
)

// impostor speaks to bravo with alpha's key. Alpha's node hangs meanwhile, for less
// long than its elector endures.
type impostor struct {
	*stand
	channel *peer.Channel
	term    uint64
	seq     uint64
}

// endured is how long an impostor has: the elector keeps the role of a node that says
// nothing for ten seconds.
const endured = 3 * time.Second

// impersonate suspends alpha's node and returns who speaks in its place, and how it
// ends.
func (s *stand) impersonate() (*impostor, func()) {
	s.t.Helper()
	p := &impostor{stand: s, term: s.status(lab.Bravo).Term}
	pid := s.nodePID(lab.Alpha)
	s.must(unix.Kill(pid, unix.SIGSTOP))
	p.connect(p.term)
	ended := false
	end := func() {
		if !ended {
			ended = true
			_ = p.channel.Close() // bravo may have done it
			s.must(unix.Kill(pid, unix.SIGCONT))
		}
	}
	s.t.Cleanup(end)
	return p, end
}

// connect replaces the stream.
func (p *impostor) connect(term uint64) {
	p.t.Helper()
	id, err := peer.LoadIdentity(p.KeyPath(lab.Alpha))
	p.must(err)
	other, err := peer.LoadIdentity(p.KeyPath(lab.Bravo))
	p.must(err)
	ctx, cancel := p.context()
	defer cancel()
	p.must(p.Namespace(lab.Alpha).Do(func() (err error) {
		p.channel, err = peer.Dial(ctx, peer.Config{
			Interface: "ha0", Identity: id, PeerKey: other.PublicKey(), Remote: bravoHA(),
			Local: netip.AddrPortFrom(alphaHA().Addr(), 0),
		})
		return err
	}))
	p.seq = 0
	p.raw(conntracksync.AppendFrame(nil, &conntracksync.Frame{Version: conntracksync.ProtocolMin, Type: conntracksync.FrameHello, Hello: conntracksync.Hello{
		ProtocolMin: conntracksync.ProtocolMin, ProtocolMax: 255, Features: math.MaxUint64,
		Role: conntracksync.RoleMaster, Term: term, Node: lab.Alpha, ConfigHash: "f00",
	}}))
}

// raw sends bytes as a frame. Bravo may have ended the stream because of the one before.
func (p *impostor) raw(b []byte) bool { return p.channel.Send(b) == nil }

// say sends a frame with the next sequence number.
func (p *impostor) say(f conntracksync.Frame) bool {
	p.seq++
	f.Version, f.Term, f.Seq = conntracksync.ProtocolMin, p.term, p.seq
	return p.raw(conntracksync.AppendFrame(nil, &f))
}

func (p *impostor) flows(records ...conntracksync.Record) bool {
	return p.say(conntracksync.Frame{Type: conntracksync.FrameFlows, Records: records})
}

// listen reads what bravo says, at most so many bytes in a tenth of a second, until the
// stream ends.
func (p *impostor) listen(rate int) {
	channel := p.channel
	go func() {
		var buf []byte
		for read := 0; ; {
			var err error
			if buf, err = channel.Receive(buf, time.Time{}); err != nil {
				return
			}
			if read += len(buf); rate > 0 && read > rate {
				read = 0
				pause := time.NewTimer(100 * time.Millisecond)
				<-pause.C
			}
		}
	}()
}

func everything() (set conntracksync.BucketSet) {
	for i := range set {
		set[i] = math.MaxUint64
	}
	return set
}

func udp(source, destination string, port uint16) conntracksync.Flow {
	t := conntracksync.Tuple{Source: netip.MustParseAddr(source), Destination: netip.MustParseAddr(destination), SourcePort: port, DestinationPort: 53}
	return conntracksync.Flow{
		Key:     conntracksync.Key{Protocol: unix.IPPROTO_UDP, Original: t},
		Reply:   conntracksync.Tuple{Source: t.Destination, Destination: t.Source, SourcePort: 53, DestinationPort: port},
		Status:  conntracksync.StatusSeenReply | conntracksync.StatusAssured | conntracksync.StatusConfirmed,
		Timeout: 120,
	}
}

// endures demands that bravo's processes live and have not grown. (Alpha's node cannot be
// asked. Who floods takes the processors from both electors, so the role may move.)
func (p *impostor) endures() {
	p.t.Helper()
	const limit = 96 << 20
	for what, pid := range map[string]int{"elector": p.electorOf(lab.Bravo), "node": p.nodePID(lab.Bravo)} {
		n := p.residentMemory(pid)
		p.t.Logf("the %s of bravo has %d MiB resident", what, n>>20)
		if n > limit {
			p.t.Errorf("the %s of bravo has %d MiB resident", what, n>>20)
		}
	}
}

// hostileMaster tells the BACKUP what no MASTER would.
func hostileMaster(s *stand) {
	p, end := s.impersonate()
	p.listen(0)
	p.nonsense()
	p.foreign()
	p.endures()
	end()
	s.ready()
	s.flowsOn()
	s.equal(echoFlows)
}

// nonsense are frames that do not parse, or say what cannot be.
func (p *impostor) nonsense() {
	for _, b := range [][]byte{
		{0},
		{2, 0},
		make([]byte, 18), []byte("GET / HTTP/1.1\r\n"), []byte("GET / HTTP/1.1\r\n\r\n"),
		append(conntracksync.AppendFrame(nil, &conntracksync.Frame{Version: 2, Type: conntracksync.FrameFlows, Seq: 1}), 1, 0xff, 0xff, 0xff, 0xff, 0xff),
		append(conntracksync.AppendFrame(nil, &conntracksync.Frame{Version: 2, Type: conntracksync.FrameFlows, Seq: 1}), 3, 2, 0xff, 0xff),
	} {
		p.raw(b)
		p.connect(p.term)
		p.listen(0)
	}
	all := everything()
	for _, f := range []conntracksync.Frame{
		{Type: 200},
		{Type: conntracksync.FrameBarrier},
		{Type: conntracksync.FrameRepairEnd, Set: all, Count: math.MaxUint64},
		{Type: conntracksync.FrameRepairBegin, Set: all},
		{Type: conntracksync.FrameRepairBegin},
		{Type: conntracksync.FrameRepairEnd, Count: math.MaxUint64},
		{Type: conntracksync.FrameDigest, Digest: conntracksync.Digest{Sum: 1, Flows: math.MaxUint64}},
		{Type: conntracksync.FrameDigests, Digests: make([]uint64, conntracksync.Buckets)},
		{Type: conntracksync.FrameAck, Acked: math.MaxUint64, Complete: true},
		{Type: conntracksync.FrameDigestRequest},
		{Type: conntracksync.FrameRepairRequest, Set: all},
		{Type: conntracksync.FrameStatus, Status: conntracksync.PeerStatus{Role: 77, Term: math.MaxUint64}},
	} {
		if !p.say(f) {
			p.t.Fatalf("bravo ended the stream before a %s frame", f.Type)
		}
		p.seq += uint64(f.Type) % 2 * 1000 // and gaps
	}
	p.raw(binary.BigEndian.AppendUint64([]byte{2, 200}, math.MaxUint64))
}

// foreign are flows that no MASTER may tell of.
func (p *impostor) foreign() {
	before := p.table(lab.Bravo)
	p.connect(p.term)
	p.listen(0)
	var records []conntracksync.Record
	for _, a := range []string{"127.0.0.1", "10.255.0.2", "10.0.0.3", "203.0.113.12", "224.0.0.1", "0.0.0.0", "255.255.255.255"} {
		records = append(records,
			conntracksync.Record{Kind: conntracksync.RecordNew, Flow: udp(a, "10.0.0.99", 4000)},
			conntracksync.Record{Kind: conntracksync.RecordRefresh, Flow: udp("10.0.0.99", a, 4001)},
			conntracksync.Record{Kind: conntracksync.RecordDestroy, Flow: udp(a, "10.0.0.99", 4000)})
	}
	records = append(records, conntracksync.Record{Kind: conntracksync.RecordGone, Hash: 1}, conntracksync.Record{Kind: conntracksync.RecordKeep, Hash: 2})
	if !p.flows(records...) {
		p.t.Fatal("bravo ended the stream")
	}
	marked := udp("10.0.0.99", "198.51.100.9", 4002)
	p.flows(conntracksync.Record{Kind: conntracksync.RecordNew, Flow: marked})
	p.eventually("bravo has taken in what came", func(context.Context) error {
		if _, ok := p.table(lab.Bravo)[marked.Key]; !ok {
			now := p.status(lab.Bravo)
			return fmt.Errorf("it has not; its term is %d, mine %d, it is %s, applied %d, refused %v, connected %v", now.Term, p.term, now.Role, now.Sync.Applied, now.Sync.RefusedBy, now.Sync.Connected)
		}
		return nil
	})
	for key, flow := range p.table(lab.Bravo) {
		if _, ok := before[key]; !ok && key != marked.Key {
			p.t.Errorf("bravo took %v: %s", key, flow)
		}
	}
}

// hostileFlood has the BACKUP take in many flows, and reads what it answers so slowly
// that the answers gather.
func hostileFlood(s *stand) {
	p, end := s.impersonate()
	p.listen(2 << 10)
	n := 0
	for until := time.Now().Add(endured); time.Now().Before(until); n++ {
		if !p.say(conntracksync.Frame{Type: conntracksync.FrameDigest, Digest: conntracksync.Digest{Sum: uint64(n), Flows: 1}}) {
			p.connect(p.term)
			p.listen(2 << 10)
		}
	}
	s.t.Logf("%d digests", n)
	p.endures()
	end()
	s.ready()
	s.flowsOn()
	s.equal(echoFlows)
}

// hostileBackup asks the MASTER for more than any BACKUP would.
func hostileBackup(s *stand) {
	if s.status(lab.Alpha).Role == roleMaster {
		s.must(s.Failover(s.t.Context(), lab.Alpha))
	}
	s.becomes(lab.Bravo, roleMaster)
	s.ready()
	p, end := s.impersonate()
	p.listen(0)
	n, all := 0, everything()
	for until := time.Now().Add(endured); time.Now().Before(until); n++ {
		for _, f := range []conntracksync.Frame{
			{Type: conntracksync.FrameDigestRequest},
			{Type: conntracksync.FrameRepairRequest, Set: all},
			{Type: conntracksync.FrameAck, Acked: math.MaxUint64, Complete: true},
		} {
			if !p.say(f) {
				p.connect(p.term)
				p.listen(0)
			}
		}
	}
	s.t.Logf("%d requests of each kind", n)
	s.expect("bravo answers", lab.Bravo, func(answer status.Status) error {
		if answer.Sync.Complete {
			return fmt.Errorf("it believes impossible acknowledgements")
		}
		return nil
	})
	p.endures()
	end()
	s.ready()
	s.flowsOn()
	s.equal(echoFlows)
}

// TestPeerWithKey lets somebody who has a member's key speak to the other one's node.
func TestPeerWithKey(t *testing.T) {
	pair := newPair(t)
	for _, tt := range []struct {
		name string
		test func(*stand)
	}{
		{"hostile MASTER", hostileMaster},
		{"flood of digests", hostileFlood},
		{"hostile BACKUP", hostileBackup},
	} {
		if !t.Run(tt.name, func(t *testing.T) { tt.test(pair.on(t)) }) {
			return // what follows would fail for the same reason
		}
	}
}
