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
	// stepUpdateBare is an update without the status: the kernel answers EBUSY to one
	// that would clear SEEN_REPLY or ASSURED, or that meets an expected flow.
	stepUpdateBare
	// stepGet looks at what holds the original tuple after EEXIST.
	stepGet
	// stepReplace deletes by the original tuple and creates.
	stepReplace
	// stepEvict deletes by the reply tuple and creates.
	stepEvict
	stepDelete
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
	op    *conntracksync.Op
	step  step
	found found
	tries int
	// evicting tells that a foreign entry is in the way.
	evicting bool
	// message is the index in the batch of the message that decides.
	message int
}

func firstStep(k conntracksync.OpKind) step {
	switch k {
	case conntracksync.OpCreate:
		return stepCreate
	case conntracksync.OpUpdate:
		return stepUpdate
	case conntracksync.OpReplace:
		return stepReplace
	case conntracksync.OpDelete:
		return stepDelete
	}
	return 0
}

// check returns the refusal of an operation that cannot be encoded, or "".
func check(op *conntracksync.Op) string {
	f := &op.Flow
	if firstStep(op.Kind) == 0 || !sameFamily(f.Original.Source, f.Original.Destination) {
		return RefusedMalformed
	}
	if isICMP(f.Protocol) {
		if _, ok := inverseICMP(f.Protocol, uint8(f.Original.DestinationPort>>8)); !ok {
			return RefusedMalformed
		}
	}
	if op.Kind != conntracksync.OpDelete && f.HasTCP && f.TCP.State > conntracksync.TCPSynSent2 {
		return RefusedMalformed
	}
	if op.Kind == conntracksync.OpCreate || op.Kind == conntracksync.OpReplace {
		return checkCreate(f)
	}
	return ""
}

// checkCreate returns the refusal of a flow that may be updated but not created.
func checkCreate(f *conntracksync.Flow) string {
	if !sameFamily(f.Original.Source, f.Reply.Source, f.Reply.Destination) {
		return RefusedMalformed
	}
	switch f.Protocol {
	case unix.IPPROTO_TCP:
		if !hasState(f) && f.Status&conntracksync.StatusAssured == 0 {
			return RefusedNoState
		}
	case unix.IPPROTO_SCTP:
		return RefusedNoState
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
	case stepUpdate, stepUpdateBare:
		next = afterUpdate(a, errno, res)
	case stepGet:
		next = afterGet(a, errno, res)
	case stepReplace, stepEvict:
		if a.evicting && w.errnos[a.message-1] == 0 {
			res.Evicted++
		}
		next = w.afterCreate(a, errno, res)
	case stepDelete:
		next = 0
		settleDelete(errno, res)
	}
	if next == 0 {
		return false
	}
	if a.tries >= maxSteps {
		res.refuse(unix.ErrnoName(unix.EAGAIN))
		return false
	}
	a.step = next
	return true
}

func (w *Writer) afterCreate(a *attempt, errno unix.Errno, res *Result) step {
	switch {
	case errno == 0:
		res.Created++
		return 0
	case errno == unix.EEXIST && a.step != stepEvict:
		return stepGet
	}
	res.refuse(unix.ErrnoName(errno))
	return 0
}

func afterUpdate(a *attempt, errno unix.Errno, res *Result) step {
	switch {
	case errno == 0:
		res.Updated++
		return 0
	case errno == unix.ENOENT:
		if refusal := checkCreate(&a.op.Flow); refusal != "" {
			res.refuse(refusal)
			return 0
		}
		return stepCreate
	case errno == unix.EBUSY && a.step == stepUpdate:
		return stepUpdateBare
	}
	res.refuse(unix.ErrnoName(errno))
	return 0
}

func afterGet(a *attempt, errno unix.Errno, res *Result) step {
	switch {
	case errno == unix.ENOENT:
		// Not the original tuple is taken, so the reply tuple is.
		a.evicting = true
		return stepEvict
	case errno != 0:
		res.refuse(unix.ErrnoName(errno))
		return 0
	case a.found == foundSame && a.op.Kind != conntracksync.OpReplace:
		return stepUpdate
	}
	a.evicting = a.found == foundOther
	return stepReplace
}

func settleDelete(errno unix.Errno, res *Result) {
	if errno == 0 {
		res.Deleted++
		return
	}
	if errno == unix.ENOENT {
		res.Absent++
		return
	}
	res.refuse(unix.ErrnoName(errno))
}
