package conntracksync

import (
	"net/netip"
	"time"
)

// Sender turns the MASTER's events and passes over its kernel's table into frames.
// It is used by both nodes and silent on the BACKUP.
//
// After every input the shell calls Next until it returns false, and WantDump;
// it does so again at Deadline. It is not safe for concurrent use.
type Sender struct{}

// NewSender returns a sender that is neither connected nor MASTER. The index is
// that of the node's Receiver as well.
func NewSender(cfg SenderConfig, ix *Index) *Sender { return &Sender{} }

// SetExclude replaces the nodes' own addresses and the networks that are not
// replicated.
func (s *Sender) SetExclude(addresses []netip.Addr, networks []netip.Prefix) {}

// Stats returns the counters.
func (s *Sender) Stats() SenderStats { return SenderStats{} }

// Lag returns, over the last minute, percentiles of the time from an event to
// its acknowledgement, each flow record weighing the same. The percentiles are
// rounded up by at most a quarter. The oldest event that is still unacknowledged
// counts with its age.
func (s *Sender) Lag(now time.Time) (p50, p99, greatest time.Duration) { return 0, 0, 0 }

// Backlog returns the number of records that wait to be sent.
func (s *Sender) Backlog() int { return 0 }

// Complete tells that the peer's table equals this node's: the peer said so at a
// place of the stream behind all losses.
func (s *Sender) Complete() bool { return false }

// Connected begins a connection on which both sides said hello. Without a
// common version nothing will be sent; see [Negotiate].
func (s *Sender) Connected(now time.Time, local, remote Hello) {}

// Disconnected ends the connection. What was not sent is forgotten, the index is
// kept true.
func (s *Sender) Disconnected() {}

// SetRole tells whether the node is MASTER, and of which term. A loss of the
// role silences the sender at once: a DESTROY that a dying MASTER's kernel
// reports must not kill the session on the node that has taken it over. For the
// same reason the shell reads and feeds all events that wait in the kernel before
// it tells of a promotion: they belong to the time before. The shell tells the
// Receiver first of a promotion, and the Sender first of a demotion.
func (s *Sender) SetRole(now time.Time, master bool, term uint64) {}

// Event takes in one report of the kernel. Nothing of e is kept but Extra and
// Expect.
func (s *Sender) Event(now time.Time, e *Event) {}

// Overrun tells that the kernel dropped events. A pass finds what is missing. The
// shell first reads and feeds what the kernel has still queued: until that queue
// is empty the kernel goes on to drop.
func (s *Sender) Overrun(now time.Time) {}

// Receive takes in what the peer's Receiver replies: FrameAck, FrameDigestRequest
// and FrameRepairRequest. Other frames are ignored.
func (s *Sender) Receive(now time.Time, f *Frame) {}

// Barrier asks the peer to confirm all events up to now; see BarrierPassed.
func (s *Sender) Barrier(now time.Time) {}

// BarrierPassed tells that the peer has applied all events before the last
// Barrier. A loss of the connection, of the role or of events undoes it.
func (s *Sender) BarrierPassed() bool { return false }

// WantDump tells that the shell must start to read the kernel's whole table now,
// and feed it to DumpFlows, then the expectations to DumpExpectation, then call
// DumpDone or DumpFailed. It returns true once for each dump, which begins with
// this call and must be ended even if the role or the connection was lost
// meanwhile.
func (s *Sender) WantDump(now time.Time) bool { return false }

// WantRows tells that DumpFlows should be fed more now. While it is false the shell
// lets Next run dry, or waits for Deadline; if it goes on for long the queue
// overflows.
func (s *Sender) WantRows(now time.Time) bool { return true }

// DumpFlows takes in flows of the table, some hundred at a time. The operations
// that it returns (OpTimeout) are for this node's own kernel; they stay valid until
// the next call.
func (s *Sender) DumpFlows(now time.Time, flows []Flow) []Op { return nil }

// DumpExpectation takes in one expectation.
func (s *Sender) DumpExpectation(now time.Time, e *Expectation) {}

// DumpDone tells that the whole table was fed.
func (s *Sender) DumpDone(now time.Time) {}

// DumpFailed tells that the table could not be read to its end. Another dump
// will be wanted.
func (s *Sender) DumpFailed(now time.Time) {}

// Next returns the next frame to be sent; false when there is none for now. The
// frame stays valid until the next call.
func (s *Sender) Next(now time.Time) (*Frame, bool) { return nil, false }

// Deadline is when Next, WantDump or WantRows may have something without new
// input; zero means never.
func (s *Sender) Deadline() time.Time { return time.Time{} }
