package replication

import (
	"encoding/binary"
	"slices"
	"time"

	"tandem/conntracksync"
)

const (
	// eventBatch is how many events are read at once, dumpBatch how many flows of a dump
	// are fed at once.
	eventBatch = 256
	dumpBatch  = 64
)

// node is one node: a kernel, and a process that has a Sender and a Receiver as the
// appliance has.
type node struct {
	w      *world
	id     int
	kernel *kernel
	codec  codec
	// up: the process runs; process numbers its lives. frozenUntil is when it gets
	// processor time again.
	up          bool
	powered     bool
	process     uint64
	frozenUntil time.Duration
	startedAt   time.Duration
	features    uint64
	// excludes: its document excludes the second network.
	excludes bool

	ix       *conntracksync.Index
	sender   *conntracksync.Sender
	receiver *conntracksync.Receiver
	master   bool
	term     uint64
	// promotedAt is when it became MASTER, backupAt when BACKUP; promotedComplete tells
	// whether its table was complete then.
	promotedAt, backupAt time.Duration
	promotedComplete     bool

	stream  *stream
	control [][]byte
	reading bool
	overrun bool
	dump    *dump
	wakeAt  time.Duration
	waking  uint64
	parsed  conntracksync.Frame
}

func (n *node) other() *node { return n.w.nodes[1-n.id] }

// do runs what a process does, when it has the processor.
func (n *node) do(fn func()) {
	if !n.up {
		return
	}
	if n.frozenUntil <= n.w.now {
		fn()
		return
	}
	process := n.process
	n.w.after(n.frozenUntil-n.w.now, func() {
		if n.process == process {
			n.do(fn)
		}
	})
}

// start begins a life of the process.
func (n *node) start() {
	w := n.w
	n.process++
	n.up, n.powered, n.startedAt, n.frozenUntil, n.wakeAt = true, true, w.now, 0, 0
	n.master, n.stream, n.control, n.reading, n.overrun, n.dump = false, nil, nil, false, false, nil
	n.kernel.listening, n.kernel.onlyEnds, n.kernel.queue = true, false, nil
	n.kernel.congested, n.kernel.lost = false, false
	n.codec.reset()
	n.ix = conntracksync.NewIndex(w.oracle.key)
	s, r := w.tuning.sender, w.tuning.receiver
	n.sender = conntracksync.NewSender(s, n.ix)
	n.receiver = conntracksync.NewReceiver(r, n.ix)
	n.adopt(n.excludes)
	w.disturb("process starts", n.id, n.process)
	n.setRole(false, n.term)
	w.connect()
}

// adopt is a new document.
func (n *node) adopt(excludes bool) {
	n.excludes = excludes
	if n.sender == nil {
		return
	}
	networks := n.w.excluded(excludes)
	n.sender.SetExclude(n.w.ownAddresses(), networks)
	n.receiver.SetExclude(n.w.ownAddresses(), networks)
}

// stop ends the process; what it knows is lost, and the kernel goes on.
func (n *node) stop() {
	w := n.w
	if !n.up {
		return
	}
	w.disturb("process ends", n.id)
	n.leaveRole()
	n.up, n.process = false, n.process+1
	n.kernel.listening, n.kernel.queue = false, nil
	if c := n.stream; c != nil {
		n.stream = nil
		c.ends[n.id].closed = true
		w.breakStream(c)
	}
	w.reroute()
}

// leaveRole lets go of the role without a word.
func (n *node) leaveRole() {
	if n.master {
		n.w.mastershipEnds(n)
	}
	n.master = false
}

// setRole is the election's word.
func (n *node) setRole(master bool, term uint64) {
	w := n.w
	n.term = max(n.term, term)
	same := n.master == master
	if !same {
		w.disturb("role", n.id, either(master, 1, 0), n.term)
	}
	if !same && master && w.tuning.feedsFirst {
		n.readAll()
	}
	n.kernel.onlyEnds = !master
	now := w.clock()
	if !master {
		if n.master {
			w.mastershipEnds(n)
		}
		n.backupAt = w.now
		n.master = false
		n.sender.SetRole(now, false, n.term)
		n.obey(n.receiver.SetRole(now, false, n.term))
	} else {
		if !same {
			n.promotedComplete, n.promotedAt = n.receiver.Complete(), w.now
			w.promotion(n)
		}
		n.master = true
		n.obey(n.receiver.SetRole(now, true, n.term))
		n.sender.SetRole(now, true, n.term)
	}
	w.reroute()
	n.pump()
}

func either(b bool, yes, no uint64) uint64 {
	if b {
		return yes
	}
	return no
}

func (n *node) sayHello() conntracksync.Hello {
	h := conntracksync.Hello{
		ProtocolMin: conntracksync.ProtocolMin, ProtocolMax: conntracksync.ProtocolMax, Features: n.features,
		Epoch: n.process, Role: conntracksync.RoleBackup, Term: n.term, Node: nodeName(n.id), ConfigHash: "hash",
	}
	if n.master {
		h.Role = conntracksync.RoleMaster
	}
	if n.codec.newer {
		h.ProtocolMax++
		h.Features |= 1 << 40
	}
	return h
}

// connected begins to use a stream; one that it replaces ends.
func (n *node) connected(c *stream) {
	e := &c.ends[n.id]
	if e.closed {
		return
	}
	if n.stream != nil {
		n.disconnected(n.stream)
	}
	n.w.disturb("connected", n.id, c.number)
	n.stream, e.used, n.control = c, true, nil
	n.codec.reset()
	now := n.w.clock()
	local := n.sayHello()
	n.w.streamBegins(n)
	n.sender.Connected(now, local, e.hello)
	n.obey(n.receiver.Connected(now, local, e.hello))
	n.readStream(c)
}

func (n *node) disconnected(c *stream) {
	if n.stream != c {
		return
	}
	n.w.disturb("disconnected", n.id, c.number)
	n.w.streamEnds(n)
	n.stream, n.control, c.ends[n.id].closed = nil, nil, true
	n.sender.Disconnected()
	n.receiver.Disconnected()
	if o := n.other(); o.stream == c {
		n.w.after(n.w.between(0, 100*time.Millisecond), func() { o.do(func() { o.disconnected(c) }) })
	}
	n.w.connect()
	n.pump()
}

// takeFrame takes in a frame of the peer: what a Receiver replies is for the Sender.
func (n *node) takeFrame(f *conntracksync.Frame) {
	if f.Type == conntracksync.FrameAck || f.Type == conntracksync.FrameDigestRequest || f.Type == conntracksync.FrameRepairRequest {
		n.w.heard(n, f)
		n.sender.Receive(n.w.clock(), f)
		n.w.checkBarrier(n)
		return
	}
	before := n.receiver.Stats()
	out := n.receiver.Receive(n.w.clock(), f)
	if f.Term < n.term && len(out.Ops) > 0 {
		n.w.fail(ruleTerm, "%s applies a frame of term %d in term %d", nodeName(n.id), f.Term, n.term)
	}
	n.obey(out)
	if after := n.receiver.Stats(); after.IgnoredMaster+after.IgnoredTerm > before.IgnoredMaster+before.IgnoredTerm {
		n.w.ignored(n, f.Seq)
	}
}

// obey carries out what the receiver asks for.
func (n *node) obey(out conntracksync.Output) {
	replies := slices.Clone(out.Replies)
	if n.w.tuning.repliesFirst {
		n.reply(replies)
	}
	failed := n.kernel.apply(out.Ops)
	if !n.w.tuning.repliesFirst {
		n.reply(replies)
	}
	n.reply(n.receiver.Applied(n.w.clock(), failed).Replies)
}

func (n *node) reply(frames []conntracksync.Frame) {
	for i := range frames {
		f := &frames[i]
		if f.Type == conntracksync.FrameAck {
			n.w.acknowledged(n, f.Acked)
		}
		n.w.say(n.id, "replies %v acked %d complete %v", f.Type, f.Acked, f.Complete)
		if n.stream != nil {
			n.control = append(n.control, conntracksync.AppendFrame(nil, f))
		}
	}
}

// wakeReader reads the queue of events some time after there is one.
func (n *node) wakeReader() {
	if n.reading {
		return
	}
	n.reading = true
	process := n.process
	n.w.after(n.w.between(n.w.tuning.readMin, n.w.tuning.readMax), func() {
		if n.process == process {
			n.do(n.read)
		}
	})
}

func (n *node) read() {
	n.reading = false
	n.feed(min(len(n.kernel.queue), eventBatch))
	if len(n.kernel.queue) > 0 {
		n.wakeReader()
	}
	n.pump()
}

func (n *node) readAll() { n.feed(len(n.kernel.queue)) }

// feed hands over so many events, and tells of a loss when the queue is empty.
func (n *node) feed(count int) {
	k := n.kernel
	now := n.w.clock()
	n.overrun = n.overrun || k.lost
	k.lost = false
	for i := range count {
		r := &k.queue[i]
		n.w.fed(n, r)
		if n.master || n.w.tuning.feedsBoth {
			n.sender.Event(now, &r.event)
		}
		if !n.master || n.w.tuning.feedsBoth {
			n.receiver.Event(now, &r.event)
		}
	}
	k.queue = append(k.queue[:0], k.queue[count:]...)
	if len(k.queue) > 0 {
		return
	}
	k.congested = false
	if n.overrun {
		n.overrun = false
		n.w.disturb("overrun", n.id)
		n.w.lossOfEvents(n)
		n.sender.Overrun(now)
		n.receiver.Overrun(now)
	}
}

// pump sends what there is to send, and sees to all that is due by time.
func (n *node) pump() {
	w := n.w
	if !n.up || w.violation != "" {
		return
	}
	n.startDump()
	sent := n.send()
	n.rest()
	if sent {
		n.dumpGoesOn()
	}
	w.look(n)
}

// send writes frames until the stream is full; it tells whether it wrote any.
func (n *node) send() bool {
	w, c := n.w, n.stream
	if c == nil {
		return false
	}
	var out []byte
	add := func(b []byte) {
		for _, frame := range n.codec.out(b) {
			out = binary.BigEndian.AppendUint32(out, uint32(len(frame)))
			out = append(out, frame...)
		}
	}
	for _, b := range n.control {
		add(b)
	}
	n.control = nil
	now := w.clock()
	for c.pending[1-n.id]+len(out) < w.tuning.sendBuffer {
		f, ok := n.sender.Next(now)
		if !ok {
			if n.sender.Backlog() == 0 {
				w.judgeDrained(n)
			}
			break
		}
		b := conntracksync.AppendFrame(nil, f)
		w.sent(n, b)
		add(b)
	}
	if len(out) == 0 {
		return false
	}
	w.write(c, n.id, out)
	return true
}

// rest plans the next wake-up.
func (n *node) rest() {
	w := n.w
	var at time.Time
	if n.stream == nil || n.stream.pending[1-n.id] < w.tuning.sendBuffer {
		at = n.sender.Deadline()
	}
	if d := n.receiver.Deadline(); !d.IsZero() && (at.IsZero() || d.Before(at)) {
		at = d
	}
	if at.IsZero() {
		return
	}
	due := at.Sub(epoch())
	if n.dump != nil {
		due = max(due, w.now+5*time.Millisecond)
	}
	if due <= w.now {
		if w.watch.spin(n) {
			w.fail(ruleSpin, "%s has a deadline that passes and does nothing", nodeName(n.id))
		}
		due = w.now + 10*time.Microsecond
	}
	if n.wakeAt > w.now && n.wakeAt <= due {
		return
	}
	n.wakeAt = due
	n.waking++
	waking, process := n.waking, n.process
	w.after(due-w.now, func() {
		if n.waking == waking && n.process == process {
			n.wakeAt = 0
			n.do(n.pump)
		}
	})
}
