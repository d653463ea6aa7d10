package conntracksync

import (
	"runtime"
	"testing"
	"time"
)

func hello2() Hello { return Hello{ProtocolMin: 2, ProtocolMax: 2, Features: Features} }

// newMaster is connected, and its index knows the kernel's table, which is empty.
func newMaster(cfg SenderConfig) *Sender {
	s := NewSender(cfg, NewIndex(testKey()))
	s.SetRole(epoch, true, 3)
	s.Connected(epoch, hello2(), hello2())
	s.WantDump(epoch)
	s.DumpDone(epoch)
	drain(s, epoch)
	return s
}

// newBackup is connected, and its index knows the kernel's table, which is empty.
func newBackup(cfg ReceiverConfig) *Receiver {
	r := NewReceiver(cfg, NewIndex(testKey()))
	r.SetRole(epoch, false, 3)
	r.Connected(epoch, hello2(), hello2())
	r.WantDump(epoch)
	r.DumpDone(epoch)
	r.pass.leftovers, r.repair = 0, repair{}
	return r
}

// drain returns all frames that are due, parsed.
func drain(s *Sender, now time.Time) []Frame {
	var frames []Frame
	for f, ok := s.Next(now); ok; f, ok = s.Next(now) {
		var parsed Frame
		if err := ParseFrame(AppendFrame(nil, f), &parsed); err != nil {
			panic(err)
		}
		frames = append(frames, parsed)
	}
	return frames
}

// hotSender sends a burst of flows, each with a new, an update and a destroy event.
type hotSender struct {
	s   *Sender
	buf []byte
	seq int
}

func (h *hotSender) burst(flows int, frame func([]byte)) {
	var e Event
	e.Flow = natFlow(0)
	for i := range flows {
		h.seq++
		e.Flow.Original.SourcePort, e.Flow.Original.DestinationPort = uint16(h.seq), uint16(h.seq>>16)
		for _, kind := range [...]EventKind{EventNew, EventUpdate, EventDestroy} {
			e.Kind = kind
			h.s.Event(epoch, &e)
		}
		if i%64 == 63 {
			h.flush(frame)
		}
	}
	h.flush(frame)
}

func (h *hotSender) flush(frame func([]byte)) {
	for f, ok := h.s.Next(epoch); ok; f, ok = h.s.Next(epoch) {
		h.buf = AppendFrame(h.buf[:0], f)
		frame(h.buf)
	}
}

func TestHotPathsAllocateNothing(t *testing.T) {
	h := hotSender{s: newMaster(SenderConfig{})}
	var frames [][]byte
	h.burst(1024, func(b []byte) { frames = append(frames, append([]byte(nil), b...)) })
	h.burst(100_000, func([]byte) {}) // each bucket gets its memory
	if n := testing.AllocsPerRun(10, func() { h.burst(64, func([]byte) {}) }); n > 1 {
		t.Errorf("the sender allocates %v times for 192 events", n)
	}
	r := newBackup(ReceiverConfig{})
	var f Frame
	receive := func() {
		for _, b := range frames {
			_ = ParseFrame(b, &f)
			f.Seq = r.seq + 1
			r.Receive(epoch, &f)
			r.Applied(epoch, nil)
		}
	}
	receive()
	if n := testing.AllocsPerRun(10, receive); n > 1 {
		t.Errorf("the receiver allocates %v times for 3072 records", n)
	}
	if r.Stats().Records == 0 || r.ix.Flows() != 0 {
		t.Errorf("%+v", r.Stats())
	}
}

// BenchmarkSender is the cost of one event with its part of the frame.
func BenchmarkSender(b *testing.B) {
	h := hotSender{s: newMaster(SenderConfig{})}
	b.ReportAllocs()
	for b.Loop() {
		h.burst(64, func([]byte) {})
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/192, "ns/event")
}

// BenchmarkReceiver is the cost of one record, parsed and received.
func BenchmarkReceiver(b *testing.B) {
	h := hotSender{s: newMaster(SenderConfig{})}
	var frames [][]byte
	h.burst(4096, func(b []byte) { frames = append(frames, append([]byte(nil), b...)) })
	r := newBackup(ReceiverConfig{})
	var f Frame
	b.ReportAllocs()
	for b.Loop() {
		for _, in := range frames {
			_ = ParseFrame(in, &f)
			f.Seq = r.seq + 1
			r.Receive(epoch, &f)
			r.Applied(epoch, nil)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(3*4096), "ns/record")
}

// BenchmarkPass is the cost of one flow in a regular pass of the MASTER.
func BenchmarkPass(b *testing.B) {
	const flows = 1 << 16
	s := newMaster(SenderConfig{})
	rows := make([]Flow, flows)
	for i := range rows {
		rows[i] = natFlow(uint16(i))
	}
	s.ix.filled = false
	now := epoch
	b.ReportAllocs()
	for b.Loop() {
		for now = now.Add(time.Hour); !s.WantDump(now); {
			b.Fatal("no pass is wanted")
		}
		for i := 0; i < flows; i += 256 {
			s.DumpFlows(now, rows[i:i+256])
		}
		s.DumpDone(now)
		drain(s, now)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/flows, "ns/flow")
}

// BenchmarkResync sends a table of a million flows to a BACKUP that has none, all
// of it in one thread and without kernels.
func BenchmarkResync(b *testing.B) {
	const flows = 1 << 20
	var f Frame
	b.ReportAllocs()
	for b.Loop() {
		before := heap()
		s, r := newMaster(SenderConfig{}), newBackup(ReceiverConfig{})
		now := epoch.Add(time.Minute)
		s.ix.filled = false
		resync(b, now, s, r, &f, flows)
		now = now.Add(time.Minute)
		s.queueDigest(now)
		s.Connected(now, hello2(), hello2())
		r.Connected(now, hello2(), hello2())
		exchange(now, s, r, &f)
		resync(b, now, s, r, &f, flows)
		exchange(now, s, r, &f)
		if !s.Complete() || !r.Complete() || r.ix.Flows() != flows {
			b.Fatalf("not complete: %d flows, %+v", r.ix.Flows(), r.Stats())
		}
		b.ReportMetric(float64(heap()-before)/1e6, "MB-of-both")
		runtime.KeepAlive(s)
		runtime.KeepAlive(r)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/flows, "ns/flow")
}

// resync feeds a whole pass of the MASTER and hands over what comes of it.
func resync(b *testing.B, now time.Time, s *Sender, r *Receiver, f *Frame, flows int) {
	if !s.WantDump(now) {
		b.Fatal("no pass is wanted")
	}
	rows := make([]Flow, 256)
	for i := 0; i < flows; i += len(rows) {
		for j := range rows {
			rows[j] = natFlow(uint16(i + j))
			rows[j].Original.DestinationPort = uint16((i + j) >> 16)
		}
		s.DumpFlows(now, rows)
		exchange(now, s, r, f)
	}
	s.DumpDone(now)
}

// exchange hands frames over until none is left.
func exchange(now time.Time, s *Sender, r *Receiver, f *Frame) {
	var buf []byte
	for out, ok := s.Next(now); ok; out, ok = s.Next(now) {
		buf = AppendFrame(buf[:0], out)
		_ = ParseFrame(buf, f)
		for _, reply := range r.Receive(now, f).Replies {
			s.Receive(now, &reply)
		}
		for _, reply := range r.Applied(now, nil).Replies {
			s.Receive(now, &reply)
		}
	}
}
