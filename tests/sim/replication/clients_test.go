package replication

import (
	"net/netip"
	"time"

	"tandem/conntracksync"
)

// clients are those behind the pair, who open flows to the outside.
type clients struct {
	// sessions has the newest session of each flow; live are those that have not ended,
	// in the order in which they began.
	sessions map[identity]*session
	live     []*session
	// rate is how many begin in a second; stopped tells that none changes any more.
	rate    float64
	stopped bool
	// begun, lost and stuck count sessions: lost ones were not known to the node that
	// their packets came to, stuck ones met TCP windows of another time.
	begun, lost, stuck int
}

// session is a conversation of a client.
type session struct {
	key   conntracksync.Key
	reply conntracksync.Tuple
	extra *conntracksync.Extra
	// side forwards it while both nodes are MASTER; at is the node that does now.
	side, at int
	// active: packets flow all the time. A quiet session has none but those that
	// change its state.
	active bool
	// packetAt is when the last packet went through any node.
	packetAt time.Duration
	ended    bool
	script   []stage
	// tries counts how often a stage found nobody to forward it.
	tries int
}

// stage is a packet that changes what the kernel knows of a flow.
type stage struct {
	wait time.Duration
	do   func(k *kernel, e *entry)
}

// Networks of clients; the second is the one that documents may exclude.
const (
	networkPlain    = 1
	networkExcluded = 2
)

func excludedNetwork() netip.Prefix { return netip.MustParsePrefix("10.2.0.0/16") }

// nodeAddress is what a node speaks from itself.
func nodeAddress(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}) }

// openSessions begins sessions at the rate of the run, now and then many at once.
func (w *world) openSessions() {
	c := &w.clients
	gap := time.Duration(w.rng.ExpFloat64() / c.rate * float64(time.Second))
	w.after(max(gap, time.Millisecond), func() {
		if c.stopped {
			return
		}
		n := 1
		if w.phase == phaseFaults && w.chance(0.01) {
			n = 10 + w.rng.IntN(30)
		}
		for range n {
			w.openSession(w.drawKey())
		}
		w.openSessions()
	})
}

// drawKey draws a 5-tuple; there are so few that they are used again.
func (w *world) drawKey() conntracksync.Key {
	network := byte(networkPlain)
	if w.chance(0.15) {
		network = networkExcluded
	}
	k := conntracksync.Key{Protocol: pick[uint8](w, protocolTCP, protocolTCP, protocolTCP, protocolTCP, protocolUDP, protocolUDP, protocolUDP, protocolICMP, protocolGRE, protocolSCTP)}
	o := &k.Original
	o.Source = netip.AddrFrom4([4]byte{10, network, 0, byte(1 + w.rng.IntN(20))})
	o.Destination = netip.AddrFrom4([4]byte{198, 51, 100, byte(1 + w.rng.IntN(5))})
	if w.chance(0.1) {
		o.Source = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, network, 15: byte(1 + w.rng.IntN(20))})
		o.Destination = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0xff, 15: byte(1 + w.rng.IntN(5))})
	}
	switch {
	case k.Protocol == protocolICMP && o.Source.Is6():
		k.Protocol = protocolUDP
		fallthrough
	case k.Protocol != protocolICMP:
		o.SourcePort, o.DestinationPort = uint16(40000+w.rng.IntN(50)), pick[uint16](w, 53, 80, 443, 5060)
	default:
		o.SourcePort, o.DestinationPort = uint16(w.rng.IntN(50)), 8<<8
	}
	if w.chance(0.05) {
		k.Zone = 7
	}
	return k
}

// server is the node that packets of the session come to; -1 if there is none.
func (w *world) server(s *session) int {
	switch m := w.masters(); {
	case len(m) == 0:
		return -1
	case len(m) == 2:
		return s.side
	default:
		return m[0].id
	}
}

func (w *world) openSession(key conntracksync.Key) {
	s := &session{key: key, side: w.rng.IntN(2), at: -1, active: w.chance(0.5)}
	at := w.server(s)
	if at < 0 {
		return
	}
	k := w.nodes[at].kernel
	if e := k.find(key); e != nil {
		if key.Protocol != protocolTCP || e.flow.TCP.State < conntracksync.TCPTimeWait {
			return // it is in use
		}
		k.end(e) // a SYN takes the place of a flow that is over
	}
	f := conntracksync.Flow{Key: key, Mark: uint32(w.rng.IntN(4)) * 5, Status: conntracksync.StatusConfirmed}
	if !w.translate(k, &f) {
		return
	}
	switch key.Protocol {
	case protocolTCP:
		f.HasTCP, f.TCP = true, conntracksync.TCPInfo{State: conntracksync.TCPSynSent, ScaleOriginal: 7, FlagsOriginal: 3}
	case protocolSCTP:
		f.Extra = &conntracksync.Extra{HasSCTP: true, SCTP: conntracksync.SCTPInfo{State: 2, TagReply: uint32(w.rng.IntN(1 << 20))}}
	}
	w.begin(s, k, f)
	s.script = w.script(s)
	w.next(s)
	if key.Protocol == protocolTCP && w.chance(0.05) {
		w.after(w.between(2*time.Second, 4*time.Second), func() { w.expectChild(s) })
	}
}

// begin enters a session with its first packet.
func (w *world) begin(s *session, k *kernel, f conntracksync.Flow) {
	c := &w.clients
	c.begun++
	s.reply, s.extra = f.Reply, f.Extra
	if old := c.sessions[identify(&f)]; old != nil {
		old.ended = true
	}
	c.sessions[identify(&f)] = s
	c.live = append(c.live, s)
	s.at, s.packetAt = k.id, w.now
	e := k.insert(f, k.normal(&f))
	k.packet(e)
	w.note("flow begins", k.id, e.born)
	w.say(k.id, "begin %s", show(&f))
	k.tell(conntracksync.EventNew, e, true)
}

// translate draws the translation of a flow; it fails when no port is free.
func (w *world) translate(k *kernel, f *conntracksync.Flow) bool {
	f.Reply = conntracksync.Tuple{
		Source: f.Original.Destination, Destination: f.Original.Source,
		SourcePort: f.Original.DestinationPort, DestinationPort: f.Original.SourcePort,
	}
	if f.Protocol == protocolICMP {
		f.Reply.SourcePort, f.Reply.DestinationPort = f.Original.SourcePort, 0
	}
	translated := w.chance(0.7)
	for range 20 {
		if translated {
			f.Reply.Destination = netip.AddrFrom4([4]byte{203, 0, 113, 1})
			if f.Original.Source.Is6() {
				f.Reply.Destination = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0xee, 15: 1})
			}
			if port := uint16(20000 + w.rng.IntN(60)); f.Protocol == protocolICMP {
				f.Reply.SourcePort = port
			} else {
				f.Reply.DestinationPort = port
			}
			f.Status |= conntracksync.StatusSourceNAT
		}
		if k.findReply(replyKey(f)) == nil {
			return true
		}
		if !translated {
			break
		}
	}
	return false
}

// script is how the session goes on.
func (w *world) script(s *session) []stage {
	const seen, assured = conntracksync.StatusSeenReply, conntracksync.StatusAssured
	rtt := w.between(time.Millisecond, 60*time.Millisecond)
	status := func(wait time.Duration, bits conntracksync.Status) stage {
		return stage{wait, func(k *kernel, e *entry) { k.change(e, e.flow.Status|bits, e.flow.TCP.State, e.flow.Mark) }}
	}
	life := time.Duration((0.2 + w.rng.ExpFloat64()) * float64(w.tuning.life))
	switch s.key.Protocol {
	case protocolTCP:
		return w.scriptTCP(rtt, life)
	case protocolUDP:
		if w.chance(0.4) { // a question and an answer
			s.active = false
			return []stage{status(rtt, seen)}
		}
		return []stage{status(rtt, seen), status(w.between(time.Second, 2*time.Second), seen|assured), {wait: life}}
	case protocolSCTP:
		state := func(wait time.Duration, to uint8) stage {
			return stage{wait, func(k *kernel, e *entry) {
				x := *e.flow.Extra
				x.SCTP.State, x.SCTP.TagOriginal = to, 77
				e.flow.Extra = &x
				k.change(e, e.flow.Status|seen|assured, e.flow.TCP.State, e.flow.Mark)
			}}
		}
		return []stage{state(rtt, 3), state(rtt, 4), {wait: life}, state(rtt, 7)}
	}
	return []stage{status(rtt, seen), {wait: life}}
}

func (w *world) scriptTCP(rtt, life time.Duration) []stage {
	const seen, assured = conntracksync.StatusSeenReply, conntracksync.StatusAssured
	state := func(wait time.Duration, to conntracksync.TCPState, bits conntracksync.Status) stage {
		return stage{wait, func(k *kernel, e *entry) { k.change(e, e.flow.Status|bits, to, e.flow.Mark) }}
	}
	stages := []stage{state(rtt, conntracksync.TCPSynReceived, seen)}
	if w.chance(0.05) {
		return stages // the handshake never ends
	}
	stages = append(stages, state(rtt/2, conntracksync.TCPEstablished, assured))
	if w.chance(0.2) {
		mark := uint32(w.rng.IntN(4)) * 5
		stages = append(stages, stage{life / 2, func(k *kernel, e *entry) { k.change(e, e.flow.Status, e.flow.TCP.State, mark) }})
		life /= 2
	}
	if w.chance(0.3) {
		return append(stages, state(life, conntracksync.TCPClose, 0)) // reset
	}
	return append(stages, state(life, conntracksync.TCPFinWait, 0), state(rtt, conntracksync.TCPCloseWait, 0),
		state(rtt, conntracksync.TCPLastAck, 0), state(rtt, conntracksync.TCPTimeWait, 0))
}

// change is a packet that gives a flow another state.
func (k *kernel) change(e *entry, status conntracksync.Status, state conntracksync.TCPState, mark uint32) {
	old, oldState := class(&e.flow), e.flow.TCP.State
	e.flow.Status, e.flow.Mark, e.flow.TCP.State = status, mark, state
	k.packet(e)
	if class(&e.flow) != old {
		e.changed = k.w.now
	}
	k.w.note("flow changes", k.id, e.born, uint64(status), uint64(state), uint64(mark))
	k.tell(conntracksync.EventUpdate, e, state != oldState)
}

// next waits for the next stage of a session.
func (w *world) next(s *session) {
	if len(s.script) == 0 {
		return
	}
	w.after(s.script[0].wait, func() { w.play(s) })
}

// play carries out a stage at the node that forwards the session now. While nobody
// does, the packet is repeated for a while.
func (w *world) play(s *session) {
	if s.ended || w.clients.stopped {
		return
	}
	if s.at < 0 {
		if s.tries++; s.tries > 50 {
			w.lose(s)
			return
		}
		w.after(200*time.Millisecond, func() { w.play(s) })
		return
	}
	e := w.meet(s)
	if e == nil {
		return
	}
	st := s.script[0]
	s.script = s.script[1:]
	s.packetAt = w.now
	if st.do != nil {
		st.do(w.nodes[s.at].kernel, e)
	}
	if len(s.script) == 0 || s.key.Protocol == protocolTCP && e.flow.TCP.State > conntracksync.TCPEstablished {
		s.active = false // its last packet was just now
	}
	w.next(s)
}

// meet brings a packet of the session to its node and returns the entry that it finds;
// nil when there is none and the session is lost.
func (w *world) meet(s *session) *entry {
	n := w.nodes[s.at]
	e := n.kernel.find(s.key)
	if e == nil || e.flow.Reply != s.reply {
		w.say(s.at, "session lost %v", s.key)
		w.lose(s)
		return nil
	}
	if s.key.Protocol == protocolTCP && e.learned && e.windowAt < s.packetAt {
		w.clients.stuck++
		w.staleWindows(n, e)
	}
	n.kernel.packet(e)
	return e
}

// lose ends a session whose flow nobody knows. The client may try again at once.
func (w *world) lose(s *session) {
	s.ended, s.active = true, false
	w.clients.lost++
	w.note("session lost", s.at)
	if !w.clients.stopped && w.chance(0.5) {
		w.after(w.between(10*time.Millisecond, 2*time.Second), func() {
			if !w.clients.stopped {
				w.openSession(s.key)
			}
		})
	}
}

// reroute sends the packets of all sessions to the nodes that are MASTER now.
func (w *world) reroute() {
	alive := w.clients.live[:0]
	for _, s := range w.clients.live {
		if s.ended {
			continue
		}
		alive = append(alive, s)
		to := w.server(s)
		if to == s.at {
			continue
		}
		w.leave(s)
		s.at = to
		if to >= 0 && s.active {
			w.after(w.between(0, 30*time.Millisecond), func() { w.resume(s, to) })
		}
	}
	clear(w.clients.live[len(alive):])
	w.clients.live = alive
}

// leave settles what the steady packets of an active session did at its node.
func (w *world) leave(s *session) {
	if s.at < 0 || !s.active {
		return
	}
	k := w.nodes[s.at].kernel
	if e := k.has(identity{s.key, s.reply}); e != nil {
		s.packetAt = w.now
		k.packet(e)
	}
}

// resume is the first packet of an active session at another node.
func (w *world) resume(s *session, at int) {
	if s.ended || s.at != at || w.nodes[at].kernel.has(identity{s.key, s.reply}) == nil && !s.active {
		return
	}
	if w.meet(s) != nil {
		s.packetAt = w.now
	}
}

// expectChild has a helper expect a second flow of the session, which then comes.
func (w *world) expectChild(s *session) {
	if s.ended || s.at < 0 || w.clients.stopped {
		return
	}
	k := w.nodes[s.at].kernel
	e := k.has(identity{s.key, s.reply})
	if e == nil {
		return
	}
	child := s.key
	child.Original.SourcePort, child.Original.DestinationPort = uint16(50000+w.rng.IntN(1000)), uint16(50000+w.rng.IntN(1000))
	x := &conntracksync.Expectation{Master: s.key, Key: child, Helper: "ftp", Timeout: 30}
	k.expect(x)
	if k.listening && !k.onlyEnds {
		k.push(report{conntracksync.Event{Kind: conntracksync.EventExpect, Expect: x}, 0})
	}
	w.after(w.between(10*time.Millisecond, time.Second), func() { w.openChild(s, x) })
}

func (w *world) openChild(parent *session, x *conntracksync.Expectation) {
	if parent.ended || parent.at < 0 || w.clients.stopped {
		return
	}
	k := w.nodes[parent.at].kernel
	if k.has(identity{parent.key, parent.reply}) == nil || k.find(x.Key) != nil {
		return
	}
	k.unexpect(x)
	f := conntracksync.Flow{Key: x.Key, HasTCP: true, TCP: conntracksync.TCPInfo{State: conntracksync.TCPSynSent}}
	f.Status = conntracksync.StatusConfirmed | conntracksync.StatusExpected
	f.Extra = &conntracksync.Extra{HasMaster: true, Master: parent.key}
	if !w.translate(k, &f) {
		return
	}
	s := &session{key: x.Key, side: parent.side, active: true}
	w.begin(s, k, f)
	s.script = w.scriptTCP(5*time.Millisecond, time.Duration(w.rng.ExpFloat64()*float64(w.tuning.life)))
	w.next(s)
}
