package ctnetlink

import (
	"testing"

	"tandem/conntracksync"
)

func TestDumpMarked(t *testing.T) {
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
	if err := c.DumpMarked(t.Context(), 0x00020000, 0x00ff0000, func(f *conntracksync.Flow) error {
		got = append(got, f.Mark)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
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
}
