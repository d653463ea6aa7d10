package conntracksync

import (
	"encoding/binary"

	"github.com/dchest/siphash"
)

// Index is the set of flows that are in the BACKUP's kernel, or on their way
// there, as keyed hashes. A node has one for its [Sender] and its [Receiver]; it
// outlives changes of the role and connections. It is not safe for concurrent
// use.
//
// It holds neither keys nor pointers: a flow costs 10 bytes in a table that is
// split into buckets, each of which grows on its own.
type Index struct {
	// buckets come first, where each of them is a line of the processor's cache.
	buckets [Buckets]bucket
	k0, k1  uint64
	// warmed has no meaning.
	warmed int
	// sum and flows are over all buckets, stale is how many of the flows are not
	// fresh, ended how many entries are of flows that have ended.
	sum          uint64
	flows        int
	stale, ended int
	// filled: a whole pass over this node's kernel was taken in. trusted: no event
	// was lost since the last one.
	filled, trusted bool
	// passing: entries of flows that end are kept until the pass is over. broken:
	// there were too many.
	passing, broken bool
}

// bucket is an open-addressed table with linear probing. The hash 0 is an empty
// slot.
type bucket struct {
	hashes []uint64
	meta   []uint16
	used   int
	sum    uint64
}

// The meta word of an entry. The class is what the two nodes compare.
const (
	classSeenReply = 1 << 0
	classAssured   = 1 << 1
	classStatus    = classSeenReply | classAssured
	classTCPShift  = 2
	classTCP       = 3 << classTCPShift
	classMarkShift = 4
	classMarkBits  = 6
	classMask      = 1<<10 - 1

	// metaMissed counts the passes that did not show the flow; metaEnded in its
	// place is a flow that ended while a pass runs.
	metaMissedOne = 1 << 10
	metaMissed    = 3 << 10
	metaEnded     = metaMissed
	// metaFresh: the flow's TCP windows in this kernel are none of an earlier
	// mastership.
	metaFresh = 1 << 12
	// metaTouched: an event or a record told of the flow since the pass began;
	// metaSeen: the pass showed it.
	metaTouched = 1 << 13
	metaSeen    = 1 << 14
	// metaConfirmed: the repair under way told of the flow.
	metaConfirmed = 1 << 15
)

// endedLimit bounds the entries of ended flows during a pass.
const endedLimit = 1 << 20

// NewIndex returns an empty index. The key must be the same on both nodes, and
// secret.
func NewIndex(key [16]byte) *Index {
	return &Index{k0: binary.LittleEndian.Uint64(key[:]), k1: binary.LittleEndian.Uint64(key[8:])}
}

// Flows returns the number of flows.
func (ix *Index) Flows() int { return ix.flows }

// Stale returns the number of flows whose TCP windows in this kernel are, or may
// be, of an earlier mastership.
func (ix *Index) Stale() int { return ix.stale }

// Trusted tells that a whole pass over this node's kernel table has confirmed the
// index, and that no event was lost since.
func (ix *Index) Trusted() bool { return ix.trusted }

// Digest returns the digest over all flows.
func (ix *Index) Digest() Digest { return Digest{Sum: ix.sum, Flows: uint64(ix.flows)} }

// sums appends the digest of each bucket.
func (ix *Index) sums(dst []uint64) []uint64 {
	for i := range ix.buckets {
		dst = append(dst, ix.buckets[i].sum)
	}
	return dst
}

// hash identifies a flow: zone, protocol and both tuples. The flow must be
// encodable.
func (ix *Index) hash(f *Flow) uint64 {
	var b [76]byte
	b[0], b[1], b[2] = byte(f.Zone>>8), byte(f.Zone), f.Protocol
	n := 4
	if f.Original.Source.Is4() {
		b[3] = 4
		n += tuple4(b[n:], &f.Original)
		n += tuple4(b[n:], &f.Reply)
	} else {
		b[3] = 6
		n += tuple16(b[n:], &f.Original)
		n += tuple16(b[n:], &f.Reply)
	}
	if h := siphash.Hash(ix.k0, ix.k1, b[:n]); h != 0 {
		return h
	}
	return 1
}

func tuple4(b []byte, t *Tuple) int {
	source, destination := t.Source.As4(), t.Destination.As4()
	copy(b, source[:])
	copy(b[4:], destination[:])
	binary.BigEndian.PutUint16(b[8:], t.SourcePort)
	binary.BigEndian.PutUint16(b[10:], t.DestinationPort)
	return 12
}

func tuple16(b []byte, t *Tuple) int {
	source, destination := t.Source.As16(), t.Destination.As16()
	copy(b, source[:])
	copy(b[16:], destination[:])
	binary.BigEndian.PutUint16(b[32:], t.SourcePort)
	binary.BigEndian.PutUint16(b[34:], t.DestinationPort)
	return 36
}

// classOf is what of a flow's content is compared. What a report leaves out is as
// it was.
func classOf(f *Flow, old uint16, known bool) uint16 {
	var class uint16
	if f.Status&StatusSeenReply != 0 {
		class |= classSeenReply
	}
	if f.Status&StatusAssured != 0 {
		class |= classAssured
	}
	mark := f.Mark
	mark ^= mark>>classMarkBits ^ mark>>(2*classMarkBits) ^ mark>>(3*classMarkBits) ^
		mark>>(4*classMarkBits) ^ mark>>(5*classMarkBits)
	class |= uint16(mark&(1<<classMarkBits-1)) << classMarkShift
	switch {
	case f.Protocol != protocolTCP:
	case f.HasTCP:
		class |= coarse(f.TCP.State) << classTCPShift
	case known:
		class |= old & classTCP
	default:
		class |= coarse(TCPEstablished) << classTCPShift
	}
	return class
}

// coarse tells handshake, established, closing and closed apart.
func coarse(s TCPState) uint16 {
	switch s {
	case TCPEstablished:
		return 1
	case TCPFinWait, TCPCloseWait, TCPLastAck:
		return 2
	case TCPTimeWait, TCPClose:
		return 3
	case TCPNone, TCPSynSent, TCPSynReceived, TCPSynSent2:
	}
	return 0
}

// succeeds tells that a flow of this class cannot be the one that was known, but
// is another one with the same tuples, the end of whose predecessor was not heard
// of: the kernel never takes these bits back.
func succeeds(class, old uint16) bool { return old&^class&classStatus != 0 }

func bucketOf(hash uint64) int { return int(hash >> 52) }

// contribution is what an entry adds to the digest.
func contribution(hash uint64, meta uint16) uint64 {
	x := hash ^ (uint64(meta&classMask)+1)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func live(meta *uint16) bool { return meta != nil && *meta&metaMissed != metaEnded }

// slot returns where the hash is, or where it would go. The bucket must not be
// empty.
func (b *bucket) slot(hash uint64) int {
	i := b.home(hash)
	for b.hashes[i] != hash && b.hashes[i] != 0 {
		i = b.after(i)
	}
	return i
}

// home is where the hash goes if there is room: its low half as a share of the table,
// whose length is no power of two.
func (b *bucket) home(hash uint64) int {
	return int(uint64(uint32(hash)) * uint64(len(b.hashes)) >> 32)
}

// after returns the next slot, the first one after the last.
func (b *bucket) after(i int) int {
	if i++; i == len(b.hashes) {
		return 0
	}
	return i
}

// steps is how far it is from one slot on to another.
func (b *bucket) steps(from, to int) int {
	if to < from {
		to += len(b.hashes)
	}
	return to - from
}

// find returns the meta word of a flow, or of one that ended during this pass; it
// is valid until the index changes.
func (ix *Index) find(hash uint64) *uint16 {
	b := &ix.buckets[bucketOf(hash)]
	if b.used == 0 {
		return nil
	}
	if i := b.slot(hash); b.hashes[i] == hash {
		return &b.meta[i]
	}
	return nil
}

// warm has the processor fetch what find will look at. For many flows at once that takes
// little longer than for one, for it waits for all of them at the same time.
func (ix *Index) warm(hashes []uint64) {
	sum := 0
	for _, hash := range hashes {
		sum += ix.buckets[bucketOf(hash)].used
	}
	for _, hash := range hashes {
		if b := &ix.buckets[bucketOf(hash)]; len(b.hashes) > 0 {
			i := int(hash) & (len(b.hashes) - 1)
			sum += int(b.hashes[i]) + int(b.meta[i])
		}
	}
	ix.warmed = sum // or the compiler would leave out the reading
}

// put adds a flow or gives it another class, and sets the flags.
func (ix *Index) put(hash uint64, class, flags uint16) {
	b := &ix.buckets[bucketOf(hash)]
	meta := ix.find(hash)
	if meta == nil {
		meta = b.insert(hash)
		ix.ended++
	}
	if live(meta) {
		ix.account(b, hash, *meta, -1)
	} else {
		ix.ended--
		*meta = 0
	}
	*meta = *meta&^(classMask|metaMissed) | class | flags
	ix.account(b, hash, *meta, 1)
}

func (ix *Index) account(b *bucket, hash uint64, meta uint16, n int) {
	sum := contribution(hash, meta)
	if n < 0 {
		sum = -sum
	}
	b.sum += sum
	ix.sum += sum
	ix.flows += n
	if meta&metaFresh == 0 {
		ix.stale += n
	}
}

// freshen tells that the flow's windows are good.
func (ix *Index) freshen(meta *uint16) {
	if *meta&metaFresh == 0 {
		*meta |= metaFresh
		ix.stale--
	}
}

// remove takes a flow out and tells whether it was there. While a pass runs the
// entry stays as that of an ended flow if entomb says so: what the pass may still
// show of it is old.
func (ix *Index) remove(hash uint64, entomb bool) bool {
	b := &ix.buckets[bucketOf(hash)]
	meta := ix.find(hash)
	was := live(meta)
	if was {
		ix.account(b, hash, *meta, -1)
	}
	entomb = entomb && ix.passing && !ix.broken
	switch {
	case !entomb && meta != nil:
		if !was {
			ix.ended--
		}
		b.erase(hash)
		return was
	case !entomb:
		return false
	case meta == nil:
		meta = b.insert(hash)
		ix.ended++
	case was:
		ix.ended++
	}
	*meta = metaEnded | metaFresh
	ix.broken = ix.ended > endedLimit
	return was
}

// insert adds a hash that is not there.
func (b *bucket) insert(hash uint64) *uint16 {
	if (b.used+1)*16 > len(b.hashes)*13 {
		b.resize(grown(len(b.hashes)))
	}
	i := b.slot(hash)
	b.hashes[i], b.meta[i] = hash, metaEnded
	b.used++
	return &b.meta[i]
}

// grown is the length after n: 8, 12, 16, 24, 32 and so on. All buckets are about equally
// full, so that doubling them would leave half of all the memory unused at worst.
func grown(n int) int {
	switch {
	case n < 8:
		return 8
	case n&(n-1) == 0:
		return n / 2 * 3
	}
	return n / 3 * 4
}

func (b *bucket) resize(n int) {
	hashes, meta := b.hashes, b.meta
	b.hashes, b.meta = make([]uint64, n), make([]uint16, n)
	for i, hash := range hashes {
		if hash != 0 {
			j := b.slot(hash)
			b.hashes[j], b.meta[j] = hash, meta[i]
		}
	}
}

// erase takes a hash out and closes the gap.
func (b *bucket) erase(hash uint64) {
	i := b.slot(hash)
	for j := b.after(i); b.hashes[j] != 0; j = b.after(j) {
		// The entry at j may move to i if that is not before its home.
		if b.steps(b.home(b.hashes[j]), j) >= b.steps(i, j) {
			b.hashes[i], b.meta[i] = b.hashes[j], b.meta[j]
			i = j
		}
	}
	b.hashes[i] = 0
	b.used--
}
