package conntracksync

import "time"

const (
	// chunkBytes closes a chunk before it gets too long for a frame.
	chunkBytes = 32 << 10
	// spareChunks bounds the memory that is kept for later.
	spareChunks = 16
)

// chunk is a frame that waits to be sent: records, encoded already, or a mark.
type chunk struct {
	frame FrameType
	buf   []byte
	// records are in buf, rows of them come from a pass.
	records, rows int
	// runs are the times of the events in buf.
	runs []run
	// digest, sums, set and count go with the marks that have them.
	digest Digest
	sums   []uint64
	set    *BucketSet
	count  uint64
	// losses tells, for a mark that may make the peer's table complete, how often
	// something had been lost before.
	losses uint64
}

// run are records of one time.
type run struct {
	at time.Time
	n  int
}

// queue is what waits to be sent, in order. Its user bounds it.
type queue struct {
	ring    []*chunk
	head, n int
	spare   []*chunk
	// records and rows are over all chunks.
	records, rows int
}

// push adds an empty chunk.
func (q *queue) push(frame FrameType) *chunk {
	if q.n == len(q.ring) {
		grown := make([]*chunk, max(16, 2*len(q.ring)))
		for i := range q.n {
			grown[i] = q.ring[(q.head+i)%len(q.ring)]
		}
		q.ring, q.head = grown, 0
	}
	c := &chunk{}
	if last := len(q.spare) - 1; last >= 0 {
		c = q.spare[last]
		q.spare = q.spare[:last]
	}
	c.frame = frame
	q.ring[(q.head+q.n)%len(q.ring)] = c
	q.n++
	return c
}

// open returns a chunk that takes one more record.
func (q *queue) open(limit int) *chunk {
	if q.n > 0 {
		c := q.ring[(q.head+q.n-1)%len(q.ring)]
		if c.frame == FrameFlows && c.records < limit && len(c.buf) < chunkBytes {
			return c
		}
	}
	return q.push(FrameFlows)
}

// pop takes out the first chunk; nil if there is none.
func (q *queue) pop() *chunk {
	if q.n == 0 {
		return nil
	}
	c := q.ring[q.head]
	q.ring[q.head] = nil
	q.head = (q.head + 1) % len(q.ring)
	q.n--
	q.records -= c.records
	q.rows -= c.rows
	return c
}

// recycle takes back a chunk that is not needed any more.
func (q *queue) recycle(c *chunk) {
	if c == nil || len(q.spare) >= spareChunks {
		return
	}
	*c = chunk{buf: c.buf[:0], runs: c.runs[:0]}
	q.spare = append(q.spare, c)
}

func (q *queue) clear() {
	for c := q.pop(); c != nil; c = q.pop() {
		q.recycle(c)
	}
}

// held is a flow that is not assured yet and waits for more events.
type held struct {
	hash   uint64
	record Record
	at     time.Time
	gone   bool
}

// hold keeps flows in the order in which they came in. All wait equally long.
type hold struct {
	flows []held
	head  int
	index map[uint64]int32
}

func newHold() hold { return hold{index: make(map[uint64]int32)} }

func (h *hold) len() int { return len(h.index) }

// span is len and what was removed out of order.
func (h *hold) span() int { return len(h.flows) - h.head }

// add returns the place of a flow that is not held yet.
func (h *hold) add(hash uint64, at time.Time) *Record {
	h.compact()
	h.index[hash] = int32(len(h.flows))
	h.flows = append(h.flows, held{hash: hash, at: at})
	return &h.flows[len(h.flows)-1].record
}

func (h *hold) get(hash uint64) *held {
	if len(h.index) == 0 {
		return nil
	}
	if i, ok := h.index[hash]; ok {
		return &h.flows[i]
	}
	return nil
}

// remove keeps the memory of the flow intact until the next add.
func (h *hold) remove(hash uint64) {
	if i, ok := h.index[hash]; ok {
		h.flows[i].gone = true
		delete(h.index, hash)
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

// next appends the hashes of the oldest flows, as many as there is room for.
func (h *hold) next(hashes []uint64) []uint64 {
	for i := h.head; i < len(h.flows) && len(hashes) < cap(hashes); i++ {
		if !h.flows[i].gone {
			hashes = append(hashes, h.flows[i].hash)
		}
	}
	return hashes
}

// trim keeps the invariant that the flow at head is not gone.
func (h *hold) trim() {
	for h.head < len(h.flows) && h.flows[h.head].gone {
		h.head++
	}
	if h.head == len(h.flows) {
		h.flows, h.head = h.flows[:0], 0
	}
}

// compact takes the memory of the flows before head back.
func (h *hold) compact() {
	if h.head <= 1024 || h.head <= len(h.flows)/2 {
		return
	}
	n := copy(h.flows, h.flows[h.head:])
	h.flows, h.head = h.flows[:n], 0
	for i := range h.flows {
		if !h.flows[i].gone {
			h.index[h.flows[i].hash] = int32(i)
		}
	}
}
