package hold

import "time"

// The bounds of a zero [Config]. OpenBSD's pfsync holds as long.
const (
	DefaultTime   = 20 * time.Millisecond
	DefaultLength = 1024
)

// Config bounds the waiting; zero values are the defaults.
type Config struct {
	// Time is the longest that a packet waits.
	Time time.Duration
	// Length is how many packets wait at most; beyond that the oldest leaves.
	Length int
}

// Stats says what became of the packets.
type Stats struct {
	// Waiting is how many wait now.
	Waiting int
	// Held counts the packets that had to wait: Acknowledged left because the BACKUP
	// knows their flow, Expired because their time was up, Displaced because too many
	// waited, Abandoned because the stream to the BACKUP ended. The rest waits.
	Held, Acknowledged, Expired, Displaced, Abandoned uint64
	// Unprotected counts packets that came while there was no BACKUP.
	Unprotected uint64
	// Waited is how long the acknowledged ones waited in all, Longest the longest of
	// them.
	Waited, Longest time.Duration
}

// unknown is the position of a packet whose events have not been read yet, or were
// lost; no acknowledgement reaches it.
const unknown = ^uint64(0)

type packet struct {
	id       uint32
	at       time.Time
	position uint64
}

// Hold keeps the packets that wait. All of them are in one order: who came later
// needs no earlier position and has no earlier deadline, so what leaves is always a
// beginning of the queue.
type Hold struct {
	cfg Config
	// ring holds the waiting packets from head on; the last unread ones wait for
	// their position.
	ring               []packet
	head, size, unread int

	connected bool
	acked     uint64
	// leaving is the last packet that may leave and has not been told yet.
	leaving uint32
	leaves  bool
	stats   Stats
}

// New returns a Hold without a BACKUP: every packet leaves at once.
func New(cfg Config) *Hold {
	if cfg.Time <= 0 {
		cfg.Time = DefaultTime
	}
	if cfg.Length <= 0 {
		cfg.Length = DefaultLength
	}
	return &Hold{cfg: cfg, ring: make([]packet, cfg.Length)}
}

// Connected says that a stream to a BACKUP begins. Positions count anew.
func (h *Hold) Connected() {
	h.abandon()
	h.connected, h.acked = true, 0
}

// Disconnected says that nobody acknowledges any more: what waits leaves.
func (h *Hold) Disconnected() {
	h.abandon()
	h.connected = false
}

func (h *Hold) abandon() {
	h.stats.Abandoned += uint64(h.size)
	for h.size > 0 {
		h.leave()
	}
}

// Packet takes in the next packet of the queue.
func (h *Hold) Packet(now time.Time, id uint32) {
	if !h.connected {
		h.stats.Unprotected++
		h.leaving, h.leaves = id, true
		return
	}
	if h.size == len(h.ring) {
		h.stats.Displaced++
		h.leave()
	}
	h.stats.Held++
	*h.at(h.size) = packet{id: id, at: now, position: unknown}
	h.size++
	h.unread++
}

// Mark returns the mark of the packets so far, and whether any of them waits for a
// [Hold.Read]. Take it before reading the events.
func (h *Hold) Mark() (mark uint64, unread bool) { return h.stats.Held, h.unread > 0 }

// Read says that since mark was taken the events were read until none was left, and
// that the BACKUP knows them all once it has acknowledged position. The event of a
// flow comes before its packet, so these are all that the packets before mark need.
func (h *Hold) Read(now time.Time, mark, position uint64) {
	later := h.stats.Held - mark
	for uint64(h.unread) > later {
		h.at(h.size - h.unread).position = position
		h.unread--
	}
	h.release(now)
}

// Lost takes the place of [Hold.Read] when events were lost. The packets that wait for
// theirs leave when their time is up: nobody knows whether the BACKUP hears of their
// flows before a repair.
func (h *Hold) Lost() { h.unread = 0 }

// Acknowledged says that the BACKUP has everything up to position.
func (h *Hold) Acknowledged(now time.Time, position uint64) {
	h.acked = max(h.acked, position)
	h.release(now)
}

func (h *Hold) release(now time.Time) {
	for h.size > 0 {
		first := h.at(0)
		if first.position == unknown || first.position > h.acked {
			return
		}
		waited := max(now.Sub(first.at), 0)
		h.stats.Acknowledged++
		h.stats.Waited += waited
		h.stats.Longest = max(h.stats.Longest, waited)
		h.leave()
	}
}

// Due returns the last packet that may leave by now, and with it all before it. ok
// is false when there is none that has not been returned yet.
func (h *Hold) Due(now time.Time) (last uint32, ok bool) {
	for h.size > 0 && !now.Before(h.at(0).at.Add(h.cfg.Time)) {
		h.stats.Expired++
		h.leave()
	}
	last, ok = h.leaving, h.leaves
	h.leaves = false
	return last, ok
}

// Deadline returns when [Hold.Due] has something to say even if nothing happens;
// zero is never.
func (h *Hold) Deadline() time.Time {
	if h.size == 0 {
		return time.Time{}
	}
	return h.at(0).at.Add(h.cfg.Time)
}

// Stats returns what has happened since the beginning.
func (h *Hold) Stats() Stats {
	s := h.stats
	s.Waiting = h.size
	return s
}

func (h *Hold) at(i int) *packet { return &h.ring[(h.head+i)%len(h.ring)] }

func (h *Hold) leave() {
	h.leaving, h.leaves = h.at(0).id, true
	h.head = (h.head + 1) % len(h.ring)
	h.size--
	h.unread = min(h.unread, h.size)
}
