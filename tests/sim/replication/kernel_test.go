package replication

import (
	"time"

	"tandem/conntracksync"
)

const (
	protocolICMP = 1
	protocolTCP  = 6
	protocolUDP  = 17
	protocolGRE  = 47
	protocolSCTP = 132
)

// parts is in how many parts a dump reads the table.
const parts = 8

// identity tells one flow from another one that has its 5-tuple and is translated in
// another way.
type identity struct {
	conntracksync.Key
	reply conntracksync.Tuple
}

func identify(f *conntracksync.Flow) identity { return identity{f.Key, f.Reply} }

// entry is one flow in a kernel's table.
type entry struct {
	flow conntracksync.Flow
	// born numbers the entries of all kernels.
	born uint64
	// expires is when it ends without a packet, timer numbers the wake-ups for it.
	expires time.Duration
	timer   uint64
	dead    bool
	// part and place are where a dump finds it, omitted is the dump that left it out.
	part, place int
	omitted     uint64
	// learned: its TCP windows are those of windowAt.
	learned  bool
	windowAt time.Duration
	// touched is when a packet last renewed the time-out, created when the entry came,
	// changed when what the nodes compare last changed.
	touched, created, changed time.Duration
	// missed: a report of it was lost, the next one tells all.
	missed bool
}

// report is an event as it waits to be read.
type report struct {
	event conntracksync.Event
	born  uint64
}

// kernel is the connection tracking of a node. It outlives the node's process.
type kernel struct {
	w          *world
	id         int
	byOriginal map[conntracksync.Key]*entry
	byReply    map[conntracksync.Key]*entry
	parts      [parts][]*entry
	births     map[identity]uint64
	expects    []expect
	// listening: a process reads the queue. congested: all is dropped until the queue is
	// empty; lost: the process is still to be told.
	listening, onlyEnds, congested, lost bool
	queue                                []report
	dumps                                uint64
	// limit is the size of the table; refusing is the share of new flows that are
	// refused for other reasons.
	limit    int
	refusing float64
	// gone has the flows that this kernel lost or refused though it was told of them,
	// and when.
	gone map[identity]time.Duration
	// wipedAt is when it booted, fullAt when its queue was last full.
	wipedAt, fullAt time.Duration
}

type expect struct {
	e       conntracksync.Expectation
	expires time.Duration
}

func newKernel(w *world, id int) *kernel {
	k := &kernel{w: w, id: id}
	k.wipe()
	return k
}

// wipe is a boot.
func (k *kernel) wipe() {
	for i := range k.parts {
		for _, e := range k.parts[i] {
			e.dead = true
		}
		k.parts[i] = nil
	}
	k.byOriginal, k.byReply = map[conntracksync.Key]*entry{}, map[conntracksync.Key]*entry{}
	k.births, k.gone = map[identity]uint64{}, map[identity]time.Duration{}
	k.expects, k.queue = nil, nil
	k.listening, k.congested, k.lost = false, false, false
	k.limit, k.refusing, k.wipedAt = 1<<20, 0, k.w.now
}

func replyKey(f *conntracksync.Flow) conntracksync.Key {
	return conntracksync.Key{Original: f.Reply, Zone: f.Zone, Protocol: f.Protocol}
}

// find returns the entry with the original tuple; one that has expired ends with that.
func (k *kernel) find(key conntracksync.Key) *entry {
	e := k.byOriginal[key]
	if e != nil && k.lapsed(e) {
		k.end(e)
		return nil
	}
	return e
}

func (k *kernel) findReply(key conntracksync.Key) *entry {
	e := k.byReply[key]
	if e != nil && k.lapsed(e) {
		k.end(e)
		return nil
	}
	return e
}

// has returns the entry of this very flow, without touching the table.
func (k *kernel) has(id identity) *entry {
	if e := k.byOriginal[id.Key]; e != nil && e.flow.Reply == id.reply && !k.lapsed(e) {
		return e
	}
	return nil
}

// unnoticed tells that the flow has ended and the kernel has not noticed yet.
func (k *kernel) unnoticed(id identity) bool {
	e := k.byOriginal[id.Key]
	return e != nil && e.flow.Reply == id.reply && k.lapsed(e)
}

// lapsed tells that no packet came in time. A flow with traffic never lapses.
func (k *kernel) lapsed(e *entry) bool { return e.expires <= k.w.now && !k.busy(e) }

// busy tells that packets of the flow come here all the time.
func (k *kernel) busy(e *entry) bool {
	s := k.w.clients.sessions[identify(&e.flow)]
	return s != nil && s.active && s.at == k.id
}

func (k *kernel) remaining(e *entry) time.Duration {
	if k.busy(e) {
		return k.normal(&e.flow)
	}
	return e.expires - k.w.now
}

// normal is the time-out that a packet gives to a flow.
func (k *kernel) normal(f *conntracksync.Flow) time.Duration {
	t := k.w.tuning.timeouts
	seconds := t.Generic
	switch f.Protocol {
	case protocolTCP:
		seconds = t.TCP[f.TCP.State]
	case protocolUDP:
		seconds = t.UDP
		if f.Status&conntracksync.StatusAssured != 0 {
			seconds = t.UDPStream
		}
	case protocolGRE:
		seconds = t.GRE
		if f.Status&conntracksync.StatusSeenReply != 0 {
			seconds = t.GREStream
		}
	case protocolICMP:
		seconds = t.ICMP
	case protocolSCTP:
		seconds = t.SCTP[f.Extra.SCTP.State]
	}
	return time.Duration(seconds) * time.Second
}

// insert puts a flow into the table; both its tuples must be free.
func (k *kernel) insert(f conntracksync.Flow, timeout time.Duration) *entry {
	k.w.born++
	e := &entry{flow: f, born: k.w.born, created: k.w.now, changed: k.w.now}
	e.flow.Status |= conntracksync.StatusConfirmed
	o := &f.Original
	a := o.Source.As16()
	e.part = int(o.SourcePort*7+uint16(f.Protocol)*3+uint16(a[15])) % parts
	e.place = len(k.parts[e.part])
	k.parts[e.part] = append(k.parts[e.part], e)
	k.byOriginal[f.Key], k.byReply[replyKey(&f)] = e, e
	k.births[identify(&f)] = e.born
	delete(k.gone, identify(&f))
	k.setExpiry(e, timeout)
	return e
}

// remove takes an entry out of the table without a word.
func (k *kernel) remove(e *entry) {
	if e.dead {
		return
	}
	e.dead = true
	delete(k.byOriginal, e.flow.Key)
	delete(k.byReply, replyKey(&e.flow))
	p := k.parts[e.part]
	last := p[len(p)-1]
	p[e.place], last.place = last, e.place
	k.parts[e.part] = p[:len(p)-1]
	k.gone[identify(&e.flow)] = k.w.now
}

// end is what the kernel does by itself: the flow goes, and that is reported.
func (k *kernel) end(e *entry) {
	if e.dead {
		return
	}
	k.w.expired(k, e)
	k.remove(e)
	k.tell(conntracksync.EventDestroy, e, false)
}

// setExpiry gives an entry another time-out. The kernel notices the end of it with a
// delay.
func (k *kernel) setExpiry(e *entry, timeout time.Duration) {
	e.expires = k.w.now + timeout
	e.timer++
	timer := e.timer
	k.w.after(timeout+k.w.between(0, k.w.tuning.gcDelay), func() {
		switch {
		case e.dead || e.timer != timer:
		case k.lapsed(e):
			k.end(e)
		default:
			k.setExpiry(e, max(k.remaining(e), time.Millisecond))
		}
	})
}

// packet renews the time-out of a flow.
func (k *kernel) packet(e *entry) {
	e.touched, e.windowAt, e.learned = k.w.now, k.w.now, true
	k.setExpiry(e, k.normal(&e.flow))
}

// tell reports something about an entry to the process. Reports leave out what has not
// changed; a report that is lost makes the next one tell all.
func (k *kernel) tell(kind conntracksync.EventKind, e *entry, state bool) {
	if !k.listening || k.onlyEnds && kind != conntracksync.EventDestroy {
		return
	}
	f := e.flow
	f.Timeout = seconds(k.remaining(e))
	switch {
	case kind == conntracksync.EventDestroy:
		f.HasTCP, f.TCP, f.Extra, f.Timeout = false, conntracksync.TCPInfo{}, nil, 0
	case e.missed:
		kind = conntracksync.EventNew
	case !state:
		f.HasTCP, f.TCP = false, conntracksync.TCPInfo{}
		if f.Protocol != protocolSCTP {
			f.Extra = nil
		}
	}
	if !k.push(report{conntracksync.Event{Kind: kind, Flow: f}, e.born}) {
		if kind == conntracksync.EventDestroy {
			k.retry(e)
		}
		e.missed = true
		return
	}
	e.missed = false
}

// retry is what becomes of the report of an end when the queue was full.
func (k *kernel) retry(e *entry) {
	process := k.w.nodes[k.id].process
	k.w.after(k.w.between(10*time.Millisecond, time.Second), func() {
		if k.w.nodes[k.id].process == process {
			k.tell(conntracksync.EventDestroy, e, false)
		}
	})
}

// push appends to the queue. When it is full, all is dropped until it was read.
func (k *kernel) push(r report) bool {
	if k.congested || len(k.queue) >= k.w.tuning.eventQueue {
		if !k.congested {
			k.congested, k.lost, k.fullAt = true, true, k.w.now
			k.w.disturb("queue of events full", k.id)
		}
		return false
	}
	k.queue = append(k.queue, r)
	k.w.nodes[k.id].wakeReader()
	return true
}

func seconds(d time.Duration) uint32 { return uint32(max(d, 0) / time.Second) }

// snapshot reads one part of the table for a dump, as it is now.
func (k *kernel) snapshot(part int, rows []conntracksync.Flow) []conntracksync.Flow {
	for _, e := range k.parts[part] {
		if k.lapsed(e) {
			continue
		}
		// A table that changes under a dump may keep back a row, now and then.
		if k.dumps > e.omitted+4 && k.w.chance(k.w.tuning.omits) {
			e.omitted = k.dumps
			continue
		}
		f := e.flow
		f.Timeout = seconds(k.remaining(e))
		rows = append(rows, f)
	}
	return rows
}

func (k *kernel) size() int { return len(k.byOriginal) }

// each calls fn for every flow that lives.
func (k *kernel) each(fn func(e *entry)) {
	for i := range k.parts {
		for _, e := range k.parts[i] {
			if !k.lapsed(e) {
				fn(e)
			}
		}
	}
}
