package replication

import (
	"encoding/binary"
	"time"

	"tandem/conntracksync"
)

const (
	// silenceLimit is after how long a silent stream counts as broken.
	silenceLimit   = 900 * time.Millisecond
	reconnectDelay = 250 * time.Millisecond
)

// link is what is between the nodes.
type link struct {
	delay time.Duration
	// speed is in bytes a second.
	speed float64
	// down and stalled count faults; a stalled link delivers nothing, but breaks no
	// stream at once.
	down, stalled int
	// attempt is set while the nodes are to connect.
	attempt bool
	streams uint64
}

// stream is a connection, from the first hello on.
type stream struct {
	number uint64
	ends   [2]end
	// flight has what is under way to each node, arrival when the last of it comes.
	flight  [2][]segment
	arrival [2]time.Duration
	pending [2]int
	// broken: what is written goes nowhere.
	broken bool
}

// end is what a node knows of a stream. What came before it began to use it waits.
type end struct {
	used, closed bool
	in           []byte
	local, hello conntracksync.Hello
}

type segment struct {
	at time.Duration
	b  []byte
}

// connect lets the nodes say hello some time after there was a reason to.
func (w *world) connect() {
	if w.link.attempt {
		return
	}
	w.link.attempt = true
	w.after(w.between(reconnectDelay/2, reconnectDelay), func() {
		w.link.attempt = false
		alpha, bravo := w.nodes[0], w.nodes[1]
		if !alpha.up || !bravo.up || alpha.stream != nil {
			return
		}
		if w.link.down > 0 || w.link.stalled > 0 {
			w.connect()
			return
		}
		w.greet(alpha, bravo)
	})
}

// greet has each node see the other one's hello as it was when it was sent.
func (w *world) greet(nodes ...*node) {
	w.link.streams++
	c := &stream{number: w.link.streams}
	for i, n := range nodes {
		c.ends[i].local = n.sayHello()
		c.ends[1-i].hello = w.carryHello(n, c.ends[i].local)
	}
	for i, n := range nodes {
		process := n.process
		w.after(w.link.delay+w.between(0, 20*time.Millisecond), func() {
			if n.process == process && n.up {
				n.do(func() { n.connected(c) })
			} else {
				w.breakStream(c)
			}
		})
		_ = i
	}
}

// carryHello encodes and decodes a hello.
func (w *world) carryHello(n *node, h conntracksync.Hello) conntracksync.Hello {
	f := conntracksync.Frame{Version: conntracksync.ProtocolMin, Type: conntracksync.FrameHello, Hello: h}
	b := n.codec.out(conntracksync.AppendFrame(nil, &f))[0]
	var got conntracksync.Frame
	if err := conntracksync.ParseFrame(b, &got); err != nil {
		w.fail(ruleWire, "a hello does not parse: %v", err)
	}
	return got.Hello
}

// write hands bytes to the stream, for the other node.
func (w *world) write(c *stream, from int, b []byte) {
	to := 1 - from
	c.pending[to] += len(b)
	if c.broken {
		return
	}
	wire := time.Duration(float64(len(b)) / w.link.speed * float64(time.Second))
	c.arrival[to] = max(c.arrival[to], w.now+w.link.delay) + wire
	c.flight[to] = append(c.flight[to], segment{c.arrival[to], b})
	if len(c.flight[to]) == 1 {
		w.scheduleArrival(c, to)
	}
}

func (w *world) scheduleArrival(c *stream, to int) {
	w.after(max(c.flight[to][0].at-w.now, 0), func() { w.arrive(c, to) })
}

// arrive brings some bytes; where they are cut says nothing about frames.
func (w *world) arrive(c *stream, to int) {
	if c.broken || c.ends[to].closed {
		return
	}
	if w.link.stalled > 0 {
		w.after(20*time.Millisecond, func() { w.arrive(c, to) })
		return
	}
	s := &c.flight[to][0]
	n := len(s.b)
	if w.chance(0.2) {
		n = 1 + w.rng.IntN(n)
	}
	b := s.b[:n]
	if s.b = s.b[n:]; len(s.b) == 0 {
		c.flight[to] = c.flight[to][1:]
	}
	c.pending[to] -= n
	w.take(c, to, b)
	if len(c.flight[to]) > 0 {
		w.scheduleArrival(c, to)
	}
	if from := w.nodes[1-to]; from.stream == c {
		from.do(from.pump)
	}
}

// take hands bytes that have arrived to a node, as whole frames.
func (w *world) take(c *stream, to int, b []byte) {
	e := &c.ends[to]
	e.in = append(e.in, b...)
	n := w.nodes[to]
	if e.used && !e.closed && n.stream == c {
		n.do(func() { n.readStream(c) })
	}
}

// readStream takes in all whole frames that wait.
func (n *node) readStream(c *stream) {
	e := &c.ends[n.id]
	var f conntracksync.Frame
	for n.stream == c && len(e.in) >= 4 {
		length := int(binary.BigEndian.Uint32(e.in))
		if len(e.in) < 4+length {
			break
		}
		b := e.in[4 : 4+length]
		e.in = e.in[4+length:]
		if b = n.codec.in(b); b == nil {
			continue
		}
		if err := conntracksync.ParseFrame(b, &f); err != nil {
			n.w.fail(ruleWire, "a frame of the other node does not parse: %v", err)
			return
		}
		n.takeFrame(&f)
	}
	n.pump()
}

// breakStream ends a stream at any byte: some of what is under way arrives still. Each
// node notices in its own time.
func (w *world) breakStream(c *stream) {
	if c.broken {
		return
	}
	c.broken = true
	for to := range c.ends {
		cut := 0
		if c.pending[to] > 0 {
			cut = w.rng.IntN(c.pending[to] + 1)
		}
		var rest []byte
		for _, s := range c.flight[to] {
			rest = append(rest, s.b...)
		}
		c.flight[to] = nil
		if n := w.nodes[to]; n.stream == c && !c.ends[to].closed {
			if rest = rest[:min(cut, len(rest))]; len(rest) > 0 {
				w.take(c, to, rest)
			}
			w.after(w.between(0, 100*time.Millisecond), func() { n.do(func() { n.disconnected(c) }) })
		}
		c.ends[to].closed = c.ends[to].closed || !c.ends[to].used
	}
	w.connect()
}
