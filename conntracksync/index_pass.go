package conntracksync

import "math/bits"

// add puts a bucket into the set.
func (s *BucketSet) add(bucket int) { s[bucket/64] |= 1 << (bucket % 64) }

func (s *BucketSet) has(bucket int) bool { return s[bucket/64]&(1<<(bucket%64)) != 0 }

func (s *BucketSet) unite(o *BucketSet) {
	for i := range s {
		s[i] |= o[i]
	}
}

// Len returns the number of buckets in the set.
func (s *BucketSet) Len() int {
	n := 0
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}

func allBuckets() *BucketSet {
	var s BucketSet
	for i := range s {
		s[i] = ^uint64(0)
	}
	return &s
}

// differing returns the buckets whose sums differ from those given.
func (ix *Index) differing(sums []uint64) BucketSet {
	var set BucketSet
	for i := range ix.buckets {
		if ix.buckets[i].sum != sums[i] {
			set.add(i)
		}
	}
	return set
}

// beginPass forgets what earlier passes saw.
func (ix *Index) beginPass() {
	ix.endPass()
	ix.passing = true
	for i := range ix.buckets {
		meta := ix.buckets[i].meta
		for j := range meta {
			meta[j] &^= metaTouched | metaSeen
		}
	}
}

// endPass forgets the flows that ended meanwhile, and gives back memory.
func (ix *Index) endPass() {
	ix.passing, ix.broken = false, false
	var gone []uint64
	for i := range ix.buckets {
		b := &ix.buckets[i]
		gone = gone[:0]
		for j, hash := range b.hashes {
			if ix.ended > 0 && hash != 0 && !live(&b.meta[j]) {
				gone = append(gone, hash)
			}
		}
		for _, hash := range gone {
			b.erase(hash)
		}
		ix.ended -= len(gone)
		if n := len(b.hashes); n > 8 && b.used < n/8 {
			b.resize(n / 2)
		}
	}
}

// missing calls fn for each flow that the pass did not show, although nothing told
// of it since the pass began, with the number of such passes in a row; those for
// which it returns true are taken out. It returns how many stay.
func (ix *Index) missing(fn func(hash uint64, times int) (drop bool)) (left int) {
	var gone []uint64
	for i := range ix.buckets {
		b := &ix.buckets[i]
		gone = gone[:0]
		for j, hash := range b.hashes {
			meta := &b.meta[j]
			if hash == 0 || !live(meta) || *meta&(metaSeen|metaTouched) != 0 {
				continue
			}
			times := int(*meta&metaMissed/metaMissedOne) + 1
			if fn(hash, times) {
				gone = append(gone, hash)
				continue
			}
			left++
			*meta = *meta&^metaMissed | uint16(min(times, 2))*metaMissedOne
		}
		for _, hash := range gone {
			ix.remove(hash, false)
		}
	}
	return left
}

// clearFresh distrusts the TCP windows of all flows.
func (ix *Index) clearFresh() {
	for i := range ix.buckets {
		meta := ix.buckets[i].meta
		for j := range meta {
			meta[j] &^= metaFresh
		}
	}
	ix.stale = ix.flows
}

// beginRepair forgets what earlier repairs confirmed.
func (ix *Index) beginRepair(set *BucketSet) {
	for i := range ix.buckets {
		if !set.has(i) {
			continue
		}
		meta := ix.buckets[i].meta
		for j := range meta {
			meta[j] &^= metaConfirmed
		}
	}
}

// endRepair takes out the flows that the repair has not confirmed and returns how
// many they were.
func (ix *Index) endRepair(set *BucketSet) (dropped int) {
	var gone []uint64
	for i := range ix.buckets {
		if !set.has(i) {
			continue
		}
		b := &ix.buckets[i]
		gone = gone[:0]
		for j, hash := range b.hashes {
			if hash != 0 && live(&b.meta[j]) && b.meta[j]&metaConfirmed == 0 {
				gone = append(gone, hash)
			}
		}
		for _, hash := range gone {
			ix.remove(hash, false)
		}
		dropped += len(gone)
	}
	return dropped
}
