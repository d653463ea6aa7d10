package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"tandem/appliance/lab/traffic"
)

// audience is everything that is shown: a live picture, plain lines or nothing, and
// the outcome.
type audience struct {
	opts  Options
	stage *stage
	// screen is nil without a live picture, quiet without plain lines too.
	screen *screen
	quiet  bool
	// failed is the first error of writing plain lines.
	failed error
}

func newAudience(opts Options, st *stage) *audience {
	a := &audience{opts: opts, stage: st, quiet: opts.JSON}
	if opts.JSON || !opts.Terminal {
		return a
	}
	columns, rows := opts.Size()
	if fits(columns, rows) {
		a.screen = &screen{out: opts.Out, size: opts.Size}
		a.quiet = true
	}
	return a
}

// frame paints the picture. Only the painter calls it.
func (a *audience) frame(sc scene) {
	if a.screen != nil {
		a.screen.paint(picture(sc).lines(a.opts.Colour))
	}
}

// close leaves the last picture as it is and gives the cursor back.
func (a *audience) close() {
	if a.screen != nil {
		a.screen.paint(picture(a.stage.look()).lines(a.opts.Colour))
		a.screen.restore()
	}
}

// say writes a plain line with the time.
func (a *audience) say(words string) {
	if a.quiet || a.failed != nil {
		return
	}
	sc := a.stage.look()
	_, a.failed = fmt.Fprintf(a.opts.Out, "[%s] %s\n", clock(sc.elapsed), words)
}

// observed says how the flows came through a fault.
func (a *audience) observed(r Row, snap traffic.Snapshot) {
	back := fmt.Sprintf("all %d flows echoed again within %s", snap.Alive(), span(r.Recovery))
	if n := r.silent(); n > 0 {
		back = fmt.Sprintf("%d of %d flows were not heard again", n, snap.Alive())
	}
	a.say(fmt.Sprintf("    %s; silence UDP %s, TCP %s; MASTER is %s", back,
		spans(r.UDP.SilenceP50, r.UDP.SilenceMax), spans(r.TCP.SilenceP50, r.TCP.SilenceMax), orNobody(r.MasterAfter)))
}

// healed says that a fault is over.
func (a *audience) healed(r Row) {
	if r.Passed {
		a.say("    healed, nothing lost")
		return
	}
	a.say("    healed; NOT as expected: " + r.Note)
}

// keep says that the pair goes on.
func (a *audience) keep() {
	if !a.opts.JSON {
		_, _ = fmt.Fprintln(a.opts.Out, "The pair and its traffic run on until Ctrl-C.") // the outcome was printed; this is a courtesy
	}
}

// finish prints the outcome. where says what was being done when the run ended.
func (a *audience) finish(r Result, where string) error {
	if a.failed != nil {
		return a.failed
	}
	if a.opts.JSON {
		if r.Rows == nil {
			r.Rows = []Row{}
		}
		enc := json.NewEncoder(a.opts.Out)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	_, err := io.WriteString(a.opts.Out, outcome(r, where))
	return err
}

// screen repaints a block of lines in place.
type screen struct {
	out  io.Writer
	size func() (columns, rows int)
	// painted is how many lines the block has on the terminal; 0 before the first.
	painted       int
	columns, rows int
}

// fits tells that a terminal has room for the picture and for the cursor below it.
func fits(columns, rows int) bool { return columns > pictureWidth && rows > pictureHeight }

// paint writes one frame in a single write. The cursor rests below the block. A
// terminal that was made too small keeps what it shows until it is larger again.
func (s *screen) paint(lines []string) {
	columns, rows := s.size()
	if !fits(columns, rows) {
		s.columns, s.rows = 0, 0
		return
	}
	var b strings.Builder
	// Terminals that know DEC private mode 2026 show the frame at once; others
	// ignore it.
	b.WriteString("\x1b[?2026h\x1b[?25l")
	switch {
	case s.painted == 0:
	case columns != s.columns || rows != s.rows:
		// The terminal has moved the lines about; begin on a clear one.
		b.WriteString("\x1b[H\x1b[2J")
	default:
		fmt.Fprintf(&b, "\r\x1b[%dA", s.painted)
	}
	s.columns, s.rows = columns, rows
	for _, line := range lines {
		b.WriteString(line)
		b.WriteString("\x1b[K\r\n")
	}
	b.WriteString("\x1b[?2026l")
	s.painted = len(lines)
	_, _ = io.WriteString(s.out, b.String()) // a frame lost is replaced by the next one
}

// restore shows the cursor again.
func (s *screen) restore() {
	_, _ = io.WriteString(s.out, "\x1b[0m\x1b[?25h\n") // nothing can be done about a terminal that is gone
}
