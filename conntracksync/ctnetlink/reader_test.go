package ctnetlink

import (
	"testing"

	"tandem/conntracksync"
)

func TestMarkedFlows(t *testing.T) {
	c := openIn(t, newNamespace(t), Config{})
	var ops []conntracksync.Op
	for i, mark := range []uint32{0, 0x00010000, 0x00020000, 0x00020001, 0xff020000, 0x00030000} {
		f := sampleFlows()["tcp snat"]
		f.Original.SourcePort, f.Reply.DestinationPort = uint16(1000+i), uint16(2000+i)
		f.Mark = mark
		ops = append(ops, op(opCreate, f))
	}
	if res := apply(t, c, ops...); res.Created != len(ops) {
		t.Fatalf("created %+v", res)
	}
	var got []uint32
	var entries []Entry
	dump := func() {
		t.Helper()
		got, entries = nil, nil
		if err := c.DumpMarked(t.Context(), 0x00020000, 0x00ff0000, func(f *conntracksync.Flow, id uint32) error {
			got, entries = append(got, f.Mark), append(entries, Entry{f.Key, id})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	dump()
	seen := make(map[uint32]bool)
	for _, mark := range got {
		seen[mark] = true
	}
	if len(got) != 3 || !seen[0x00020000] || !seen[0x00020001] || !seen[0xff020000] {
		t.Errorf("flows with marks %#x, want the three whose bits 16 to 23 are 2", got)
	}
	if all := table(t, c); len(all) != len(ops) {
		t.Errorf("a whole dump afterwards has %d flows of %d", len(all), len(ops))
	}

	// The first has ended meanwhile, its memory is in use by another, and its place is taken.
	successor := table(t, c)[entries[0].Key]
	other := successor
	other.Original.SourcePort, other.Reply.DestinationPort, other.Mark = 4000, 4000, 0
	apply(t, c, op(opDelete, successor), op(opCreate, other), op(opCreate, successor))
	res, err := c.Remove(entries)
	if err != nil || res.Deleted != 2 || res.Absent != 1 || res.Refused != 0 {
		t.Errorf("removed %+v: %v; want 2 deleted and 1 absent", res, err)
	}
	if dump(); len(got) != 1 || entries[0].Key != successor.Key {
		t.Errorf("flows with marks %#x are left, want the one that took the place of another", got)
	}
}
