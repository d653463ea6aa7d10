package conntracksync

import (
	"net/netip"
	"time"
)

// Receiver turns the MASTER's frames into operations on the kernel's table of
// the BACKUP, and looks after that table. It is used by both nodes and does
// nothing on the MASTER. It is not safe for concurrent use.
//
// The shell carries out each Output and calls Applied before the next call of the
// receiver, and after each that had no operations; it calls WantDump after every
// input and again at Deadline.
type Receiver struct{}

// NewReceiver returns a receiver without a role and without a connection. The
// index is that of the node's Sender as well.
func NewReceiver(cfg ReceiverConfig, ix *Index) *Receiver { return &Receiver{} }

// SetExclude replaces the nodes' own addresses and the networks that are not
// replicated.
func (r *Receiver) SetExclude(addresses []netip.Addr, networks []netip.Prefix) {}

// Stats returns the counters.
func (r *Receiver) Stats() ReceiverStats { return ReceiverStats{} }

// Complete tells that this node, as BACKUP, has in its kernel what the MASTER had
// at its last digest, that all since was applied, and that nothing is stale.
func (r *Receiver) Complete() bool { return false }

// Connected begins a connection on which both sides said hello.
func (r *Receiver) Connected(now time.Time, local, remote Hello) Output { return Output{} }

// Disconnected ends the connection. The kernel's table stays as it is.
func (r *Receiver) Disconnected() {}

// SetRole tells whether the node is MASTER and which term it knows. Operations
// handed out and not yet carried out must be dropped when it becomes MASTER.
func (r *Receiver) SetRole(now time.Time, master bool, term uint64) Output { return Output{} }

// Event takes in one report of the own kernel while this node is BACKUP: a flow
// that ended here may live on the MASTER. Reports of what the shell itself did must
// not come here.
func (r *Receiver) Event(now time.Time, e *Event) {}

// Overrun tells that the own kernel dropped events.
func (r *Receiver) Overrun(now time.Time) {}

// Receive takes in a sequenced frame; others are none of its business and
// ignored.
func (r *Receiver) Receive(now time.Time, f *Frame) Output { return Output{} }

// Applied tells that the operations of the last Output were carried out, but for
// those whose indexes are in failed: the kernel refused them.
func (r *Receiver) Applied(now time.Time, failed []int) Output { return Output{} }

// WantDump tells that the shell must start to read this node's whole kernel table
// now, and feed it to DumpFlows, then call DumpDone or DumpFailed. It returns true
// once for each dump, which must be ended even if the role was lost meanwhile.
func (r *Receiver) WantDump(now time.Time) bool { return false }

// DumpFlows takes in flows of the own kernel's table, some hundred at a time.
func (r *Receiver) DumpFlows(now time.Time, flows []Flow) Output { return Output{} }

// DumpDone tells that the whole table was fed.
func (r *Receiver) DumpDone(now time.Time) Output { return Output{} }

// DumpFailed tells that the table could not be read to its end. Another dump will
// be wanted.
func (r *Receiver) DumpFailed(now time.Time) {}

// Deadline is when WantDump may become true without new input; zero means never.
func (r *Receiver) Deadline() time.Time { return time.Time{} }
