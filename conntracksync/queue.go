package conntracksync

import "time"

// item is what waits to be sent: a record, or a frame without records.
type item struct {
	// frame is FrameFlows for a record.
	frame  FrameType
	record Record
	// at is when the event was reported; zero for what comes from a dump.
	at time.Time
	// lost and count go with FrameDumpBegin and FrameDumpEnd.
	lost  bool
	count uint64
	// losses goes with FrameDumpEnd; see dump.lossesBefore.
	losses uint64
}

// queue is a first-in-first-out ring that grows. Its user bounds it.
type queue struct {
	ring    []item
	head, n int
}

func (q *queue) push(it item) {
	if q.n == len(q.ring) {
		grown := make([]item, max(64, 2*len(q.ring)))
		for i := range q.n {
			grown[i] = q.ring[(q.head+i)%len(q.ring)]
		}
		q.ring, q.head = grown, 0
	}
	q.ring[(q.head+q.n)%len(q.ring)] = it
	q.n++
}

// front must not be called on an empty queue.
func (q *queue) front() *item { return &q.ring[q.head] }

func (q *queue) drop() {
	q.head = (q.head + 1) % len(q.ring)
	q.n--
}

func (q *queue) clear() { q.head, q.n = 0, 0 }

// held is a flow that is not assured yet and waits for more events.
type held struct {
	key    packedKey
	record Record
	at     time.Time
	gone   bool
}

// hold keeps flows in the order in which they came in. All wait equally long.
type hold struct {
	flows []held
	head  int
	index map[packedKey]int
}

func newHold() hold { return hold{index: make(map[packedKey]int)} }

func (h *hold) len() int { return len(h.index) }

// span is len and what was removed out of order.
func (h *hold) span() int { return len(h.flows) - h.head }

func (h *hold) clear() {
	h.flows, h.head = h.flows[:0], 0
	clear(h.index)
}

func (h *hold) add(key packedKey, record Record, at time.Time) {
	h.index[key] = len(h.flows)
	h.flows = append(h.flows, held{key: key, record: record, at: at})
}

func (h *hold) get(key packedKey) *held {
	if i, ok := h.index[key]; ok {
		return &h.flows[i]
	}
	return nil
}

func (h *hold) remove(key packedKey) {
	if i, ok := h.index[key]; ok {
		h.flows[i].gone = true
		delete(h.index, key)
		h.trim()
	}
}

// oldest returns nil when nothing is held.
func (h *hold) oldest() *held {
	if h.head == len(h.flows) {
		return nil
	}
	return &h.flows[h.head]
}

// trim keeps the invariant that the flow at head is not gone, and takes the
// memory of those before it back.
func (h *hold) trim() {
	for h.head < len(h.flows) && h.flows[h.head].gone {
		h.head++
	}
	switch {
	case h.head == len(h.flows):
		h.flows, h.head = h.flows[:0], 0
	case h.head > 1024 && h.head > len(h.flows)/2:
		n := copy(h.flows, h.flows[h.head:])
		h.flows, h.head = h.flows[:n], 0
		for i := range h.flows {
			if !h.flows[i].gone {
				h.index[h.flows[i].key] = i
			}
		}
	}
}
