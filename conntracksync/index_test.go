package conntracksync

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
)

func testKey() [16]byte { return [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16} }

// TestIndexAgainstMap: whatever comes and goes, digest and content are those of a
// plain map.
func TestIndexAgainstMap(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		ix, model := NewIndex(testKey()), map[uint64]uint16{}
		hashes := make([]uint64, 400)
		for i := range hashes {
			// Few buckets and few home slots, so that all collide.
			hashes[i] = uint64(rng.IntN(3))<<52 | uint64(rng.IntN(20))<<20 | uint64(rng.IntN(16)) | 1<<40
		}
		for step := range 5000 {
			h := hashes[rng.IntN(len(hashes))]
			switch rng.IntN(10) {
			case 0, 1, 2, 3:
				ix.remove(h, rng.IntN(2) == 0)
				delete(model, h)
			case 4:
				if rng.IntN(20) == 0 {
					ix.beginPass()
				} else if rng.IntN(20) == 0 {
					ix.endPass()
				}
			default:
				class := uint16(rng.IntN(classMask + 1))
				ix.put(h, class, metaTouched)
				model[h] = class
			}
			if step%500 != 0 {
				continue
			}
			checkIndex(t, ix, model)
		}
		ix.endPass()
		checkIndex(t, ix, model)
		if ix.ended != 0 {
			t.Errorf("%d ended flows are left", ix.ended)
		}
	}
}

func checkIndex(t *testing.T, ix *Index, model map[uint64]uint16) {
	t.Helper()
	var sum uint64
	for h, class := range model {
		sum += contribution(h, class)
		if meta := ix.find(h); !live(meta) || *meta&classMask != class {
			t.Fatalf("%x: %v", h, meta)
		}
	}
	if want := (Digest{Sum: sum, Flows: uint64(len(model))}); ix.Digest() != want || ix.stale != len(model) {
		t.Fatalf("digest %+v, want %+v; %d stale", ix.Digest(), want, ix.stale)
	}
	for i := range ix.buckets {
		b, used := &ix.buckets[i], 0
		for _, h := range b.hashes {
			if h != 0 {
				used++
				if ix.find(h) == nil {
					t.Fatalf("%x cannot be found", h)
				}
			}
		}
		if used != b.used {
			t.Fatalf("bucket %d has %d entries, not %d", i, used, b.used)
		}
	}
}

func TestIndexMissingAndRepair(t *testing.T) {
	ix := NewIndex(testKey())
	for h := range uint64(100) {
		ix.put(h<<50|h+1, 0, metaFresh)
	}
	seen := func(h uint64) bool { return h%3 == 0 }
	for pass := range 2 {
		ix.beginPass()
		for h := range uint64(100) {
			if meta := ix.find(h<<50 | h + 1); seen(h) {
				*meta = *meta&^metaMissed | metaSeen
			}
		}
		left := ix.missing(func(_ uint64, times int) bool {
			if times != pass+1 {
				t.Errorf("times %d in pass %d", times, pass)
			}
			return times > 1
		})
		ix.endPass()
		if want := []int{66, 0}[pass]; left != want {
			t.Errorf("%d left, want %d", left, want)
		}
	}
	if ix.Flows() != 34 || ix.Stale() != 0 {
		t.Errorf("%d flows, %d stale", ix.Flows(), ix.Stale())
	}
	var set BucketSet
	set.add(bucketOf(3 << 50))
	ix.beginRepair(&set)
	if n := ix.endRepair(&set); n != 2 || ix.Flows() != 32 {
		t.Errorf("dropped %d, %d flows", n, ix.Flows())
	}
	ix.clearFresh()
	if ix.Stale() != 32 {
		t.Errorf("%d stale", ix.Stale())
	}
}

func TestClassTellsApart(t *testing.T) {
	classes := map[uint16]string{}
	for name, change := range map[string]func(*Flow){
		"as is":       func(*Flow) {},
		"unassured":   func(f *Flow) { f.Status &^= StatusAssured },
		"unanswered":  func(f *Flow) { f.Status &^= StatusSeenReply },
		"closing":     func(f *Flow) { f.TCP.State = TCPLastAck },
		"closed":      func(f *Flow) { f.TCP.State = TCPTimeWait },
		"handshake":   func(f *Flow) { f.TCP.State = TCPSynReceived },
		"mark":        func(f *Flow) { f.Mark = 1 },
		"higher mark": func(f *Flow) { f.Mark = 2 << 16 },
	} {
		f := natFlow(1)
		change(&f)
		class := classOf(&f, 0, false)
		if other, found := classes[class]; found {
			t.Errorf("%s and %s look the same", name, other)
		}
		classes[class] = name
	}
	partial := natFlow(1)
	partial.HasTCP, partial.TCP = false, TCPInfo{}
	closing := natFlow(1)
	closing.TCP.State = TCPFinWait
	if classOf(&partial, classOf(&closing, 0, false), true) != classOf(&closing, 0, false) {
		t.Error("an update without a state changes it")
	}
}

// FuzzHash: flows that differ have different hashes, equal ones the same on every
// node with the key.
func FuzzHash(f *testing.F) {
	f.Add([]byte("0123456789abcdef0123456789abcdef"), uint16(1), uint16(2), uint16(3), uint8(4), true, uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, sport, dport, zone uint16, protocol uint8, four bool, change uint8) {
		if len(b) < 32 {
			return
		}
		key := Key{Zone: zone, Protocol: protocol, Original: Tuple{
			Source: netip.AddrFrom16([16]byte(b)), Destination: netip.AddrFrom16([16]byte(b[16:])),
			SourcePort: sport, DestinationPort: dport,
		}}
		if four {
			key.Original.Source = netip.AddrFrom4([4]byte(b))
			key.Original.Destination = netip.AddrFrom4([4]byte(b[4:]))
		}
		one := Flow{Key: key, Reply: key.Original.inverse(protocol)}
		two := one
		switch change % 8 {
		case 0:
			two.Original.SourcePort++
		case 1:
			two.Original.DestinationPort++
		case 2:
			two.Reply.SourcePort++
		case 3:
			two.Reply.DestinationPort++
		case 4:
			two.Zone++
		case 5:
			two.Protocol++
		case 6:
			two.Original.Source = two.Original.Source.Next()
			if !two.Original.Source.IsValid() {
				return
			}
		case 7:
			two.Reply.Destination = two.Reply.Destination.Next()
			if !two.Reply.Destination.IsValid() {
				return
			}
		}
		ix := NewIndex(testKey())
		if ix.hash(&one) == ix.hash(&two) {
			t.Errorf("%+v and %+v have the same hash", one, two)
		}
		if again := NewIndex(testKey()); again.hash(&one) != ix.hash(&one) || NewIndex([16]byte{9}).hash(&one) == ix.hash(&one) {
			t.Error("the hash does not depend on the key alone")
		}
	})
}

func TestIndexMemory(t *testing.T) {
	before := heap()
	ix := fullIndex(1_000_000)
	used := heap() - before
	t.Logf("1 M flows take %.1f MB", float64(used)/1e6)
	if used > 18e6 {
		t.Errorf("1 M flows take %d bytes", used)
	}
	runtime.KeepAlive(ix)
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func fullIndex(n uint64) *Index {
	ix := NewIndex(testKey())
	for i := range n {
		ix.put(scatter(i), uint16(i)&classMask, metaFresh)
	}
	return ix
}

func scatter(i uint64) uint64 { return contribution(i, 0) | 1 }

func BenchmarkIndexPut(b *testing.B) {
	ix := fullIndex(1_000_000)
	i := uint64(0)
	for b.Loop() {
		ix.put(scatter(i%1_000_000), uint16(i)&classMask, metaFresh)
		i++
	}
}

func BenchmarkIndexChurn(b *testing.B) {
	ix := fullIndex(1_000_000)
	i := uint64(0)
	for b.Loop() {
		ix.put(scatter(i+1_000_000), 1, metaFresh)
		ix.remove(scatter(i), true)
		i++
	}
}

func BenchmarkIndexFill(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		fullIndex(1_000_000)
	}
}

func BenchmarkIndexPass(b *testing.B) {
	ix := fullIndex(1_000_000)
	for b.Loop() {
		ix.beginPass()
		ix.missing(func(uint64, int) bool { return false })
		ix.endPass()
	}
}

func BenchmarkIndexHash(b *testing.B) {
	ix := NewIndex(testKey())
	f := natFlow(1)
	for b.Loop() {
		ix.hash(&f)
	}
}
