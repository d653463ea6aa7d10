package ctnetlink

import (
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// step is what is tried next for an operation.
type step uint8

const (
	stepCreate step = iota + 1
	stepUpdate
	// stepRefresh is an update in the place of a replacement (see firstStep).
	stepRefresh
	// stepGet looks at what holds the original tuple, after EEXIST or as the first step.
	stepGet
	// stepReplace deletes by the original tuple and creates.
	stepReplace
	// stepEvict deletes by the reply tuple and creates.
	stepEvict
	stepDelete
	// stepSweep deletes the entry that stepGet has found and no other.
	stepSweep
	stepTimeout
	// stepExpect removes the expectation, creates it and sets its time-out.
	stepExpect
	stepUnexpect
)

// found is what stepGet saw.
type found uint8

const (
	foundNone found = iota
	// foundSame is the flow itself, translated in the same way.
	foundSame
	// foundOther has the original tuple, but is translated differently or runs
	// the other way: an update would leave a mapping that is not the peer's.
	foundOther
)

// attempt is an operation that is not settled yet.
type attempt struct {
	op *conntracksync.Op
	// index is that of op in what was passed to Apply.
	index   int
	step    step
	found   found
	without stripped
	tries   int
	// id is the kernel's number of the entry that was found to be the same.
	id    uint32
	hasID bool
	// seen is what a get is to be decoded into, if not into the writer's own flow.
	seen *conntracksync.Flow
	// evicting tells that a foreign entry is in the way.
	evicting bool
	// message is the index in the batch of the message that decides.
	message int
}

// firstStep returns what is tried first for op, or 0 if there is no such kind.
//
// A flow that has a helper is not replaced if the one that is there will do: with it
// would go what the helper expects. Its windows may be stale, so they are not judged
// any more.
func firstStep(op *conntracksync.Op) step {
	switch op.Kind {
	case conntracksync.OpCreate:
		return stepCreate
	case conntracksync.OpUpdate:
		return stepUpdate
	case conntracksync.OpReplace:
		f := &op.Flow
		if f.Extra != nil && f.Extra.Helper != "" && (f.Protocol != unix.IPPROTO_TCP || hasState(f)) {
			return stepGet
		}
		return stepReplace
	case conntracksync.OpDelete:
		return stepDelete
	case conntracksync.OpSweep:
		return stepGet
	case conntracksync.OpTimeout:
		return stepTimeout
	case conntracksync.OpExpect:
		return stepExpect
	case conntracksync.OpExpectDelete:
		return stepUnexpect
	}
	return 0
}

// check returns the refusal of an operation that cannot be encoded, or "".
func check(op *conntracksync.Op) string {
	f := &op.Flow
	first := firstStep(op)
	if first == stepExpect || first == stepUnexpect {
		return checkExpectation(op.Expect)
	}
	if first == 0 || !sameFamily(f.Original.Source, f.Original.Destination) {
		return RefusedMalformed
	}
	if isICMP(f.Protocol) {
		if _, ok := inverseICMP(f.Protocol, uint8(f.Original.DestinationPort>>8)); !ok {
			return RefusedMalformed
		}
	}
	if op.Kind != conntracksync.OpDelete && !validState(f) {
		return RefusedMalformed
	}
	if op.Kind == conntracksync.OpCreate || op.Kind == conntracksync.OpReplace {
		return checkCreate(f)
	}
	return ""
}

// validState tells whether f's states are ones that the kernel knows.
func validState(f *conntracksync.Flow) bool {
	if f.HasTCP && f.TCP.State > conntracksync.TCPSynSent2 {
		return false
	}
	return f.Extra == nil || !f.Extra.HasSCTP || f.Extra.SCTP.State <= sctpStateMax
}

// helperNameMax is NF_CT_HELPER_NAME_LEN without the zero byte.
const helperNameMax = 15

// checkCreate returns the refusal of a flow that may be updated but not created.
func checkCreate(f *conntracksync.Flow) string {
	if !sameFamily(f.Original.Source, f.Reply.Source, f.Reply.Destination) {
		return RefusedMalformed
	}
	x := f.Extra
	if x != nil && (len(x.Helper) > helperNameMax || x.HasMaster &&
		!sameFamily(f.Original.Source, x.Master.Original.Source, x.Master.Original.Destination)) {
		return RefusedMalformed
	}
	switch f.Protocol {
	case unix.IPPROTO_TCP:
		if !hasState(f) && f.Status&conntracksync.StatusAssured == 0 {
			return RefusedNoState
		}
	case unix.IPPROTO_SCTP:
		if x == nil || !x.HasSCTP {
			return RefusedNoState
		}
	}
	return ""
}

// settle counts the outcome of a's last step, or sets the next step and returns true.
func (w *Writer) settle(a *attempt, res *Result) (open bool) {
	errno := w.errnos[a.message]
	next := a.step
	switch a.step {
	case stepCreate:
		next = w.afterCreate(a, errno, res)
	case stepUpdate:
		next = afterUpdate(a, errno, res)
	case stepRefresh:
		next = afterRefresh(a, errno, res)
	case stepGet:
		next = afterGet(a, errno, res)
	case stepReplace, stepEvict:
		if a.evicting && w.errnos[a.message-1] == 0 {
			res.Evicted++
			a.evicting = false
		}
		next = w.afterCreate(a, errno, res)
	case stepExpect:
		next = 0
		settleExpect(a, w.errnos[a.message-1], res)
	case stepTimeout:
		next = afterTimeout(a, errno, res)
	case stepDelete, stepSweep, stepUnexpect:
		next = 0
		settleAbsent(a, errno, &res.Deleted, res)
	}
	if next == 0 {
		return false
	}
	if a.tries >= maxSteps {
		res.refuse(a.index, unix.ErrnoName(unix.EAGAIN))
		return false
	}
	a.step = next
	return true
}

func (w *Writer) afterCreate(a *attempt, errno unix.Errno, res *Result) step {
	switch {
	case errno == 0:
		res.Created++
		res.strip(a.without)
		return 0
	case errno == unix.EEXIST && a.step != stepEvict:
		return stepGet
	case a.stripAtCreation(errno):
		// What was in the way is gone by now.
		return stepCreate
	}
	res.refuse(a.index, unix.ErrnoName(errno))
	return 0
}

// stripAtCreation leaves out what the kernel refuses with errno, if there is such.
func (a *attempt) stripAtCreation(errno unix.Errno) bool {
	x := a.op.Flow.Extra
	var part stripped
	switch {
	case x == nil:
	case errno == unix.EOPNOTSUPP && x.Helper != "":
		part = strippedHelper
	case errno == unix.ENOENT && x.HasMaster:
		part = strippedMaster
	}
	return a.strip(part)
}

// strip leaves out one more part; it returns false if there is none to leave out.
func (a *attempt) strip(part stripped) bool {
	if part == 0 || a.without&part != 0 {
		return false
	}
	a.without |= part
	return true
}

func afterUpdate(a *attempt, errno unix.Errno, res *Result) step {
	x := a.op.Flow.Extra
	switch {
	case errno == 0:
		res.Updated++
		res.strip(a.without)
		return 0
	case errno == unix.ENOENT:
		if refusal := checkCreate(&a.op.Flow); refusal != "" {
			res.refuse(a.index, refusal)
			return 0
		}
		return stepCreate
	case errno == unix.EBUSY && a.strip(strippedStatus),
		errno == unix.ENOSPC && x != nil && x.HasLabels && a.strip(strippedLabels):
		return stepUpdate
	}
	res.refuse(a.index, unix.ErrnoName(errno))
	return 0
}

func afterGet(a *attempt, errno unix.Errno, res *Result) step {
	switch {
	case a.op.Kind == conntracksync.OpSweep:
		return afterGetToSweep(a, errno, res)
	case errno == unix.ENOENT && a.tries == 1:
		return stepCreate
	case errno == unix.ENOENT:
		// Not the original tuple is taken, so the reply tuple is.
		a.evicting = true
		return stepEvict
	case errno != 0:
		res.refuse(a.index, unix.ErrnoName(errno))
		return 0
	case a.found == foundSame && a.op.Kind != conntracksync.OpReplace:
		return stepUpdate
	case a.found == foundSame && a.tries == 1:
		return stepRefresh
	}
	a.evicting = a.found == foundOther
	return stepReplace
}

// afterRefresh replaces the flow after all if it has another helper or none.
func afterRefresh(a *attempt, errno unix.Errno, res *Result) step {
	if errno == 0 {
		res.Updated++
		return 0
	}
	return stepReplace
}

func afterGetToSweep(a *attempt, errno unix.Errno, res *Result) step {
	switch {
	case errno != 0 && errno != unix.ENOENT:
		res.refuse(a.index, unix.ErrnoName(errno))
	case errno == 0 && a.found == foundSame && a.hasID:
		return stepSweep
	default:
		res.Absent++
	}
	return 0
}

// afterTimeout replaces a flow of GRE whose time-out is fixed (see creationStatus).
// Nothing is lost by that: it has no windows.
func afterTimeout(a *attempt, errno unix.Errno, res *Result) step {
	f := &a.op.Flow
	if errno == unix.EPERM && f.Protocol == unix.IPPROTO_GRE && checkCreate(f) == "" {
		return stepReplace
	}
	settleAbsent(a, errno, &res.Updated, res)
	return 0
}

// settleExpect goes by the creation; the time-out that follows it fails only where
// the expectation has been met in between.
func settleExpect(a *attempt, errno unix.Errno, res *Result) {
	if errno == 0 {
		res.Created++
		return
	}
	res.refuse(a.index, unix.ErrnoName(errno))
}

// settleAbsent counts an operation that may find nothing.
func settleAbsent(a *attempt, errno unix.Errno, done *int, res *Result) {
	if errno == 0 {
		*done++
		return
	}
	if errno == unix.ENOENT {
		res.Absent++
		return
	}
	res.refuse(a.index, unix.ErrnoName(errno))
}
