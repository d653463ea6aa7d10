package ctnetlink

import (
	"strings"

	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// decodeExpectation reads msg, a message about an expectation without its netlink
// header. The kernel does not report the zone, so it counts as 0.
func decodeExpectation(msg []byte) (*conntracksync.Expectation, error) {
	if len(msg) < nfgenLength {
		return nil, ReasonTruncated
	}
	e := new(conntracksync.Expectation)
	walk := attributes{rest: msg[nfgenLength:]}
	for {
		at, ok, err := walk.next()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		if err := decodeExpect(at, e); err != nil {
			return nil, err
		}
	}
	const all = 1<<expectMaster | 1<<expectTuple | 1<<expectMask
	if walk.seen&all != all {
		return nil, ReasonTuple
	}
	if !sameFamily(e.Master.Original.Source, e.Key.Original.Source, e.Mask.Source) {
		return nil, ReasonFamily
	}
	e.Key.Zone = e.Master.Zone
	return e, nil
}

func decodeExpect(at attribute, e *conntracksync.Expectation) error {
	var protocol uint8
	switch at.kind {
	case expectMaster:
		return decodeTuple(at.data, &e.Master.Original, &e.Master.Protocol)
	case expectTuple:
		return decodeTuple(at.data, &e.Key.Original, &e.Key.Protocol)
	case expectMask:
		return decodeTuple(at.data, &e.Mask, &protocol)
	case expectTimeout:
		return at.uint32(&e.Timeout)
	case expectZone:
		return at.uint16(&e.Master.Zone)
	case expectFlags:
		return at.uint32(&e.Flags)
	case expectClass:
		return at.uint32(&e.Class)
	case expectHelpName:
		e.Helper = at.name()
	case expectFunction:
		e.Function = at.name()
	case expectNAT:
		return decodeExpectNAT(at.data, e)
	}
	return nil
}

func decodeExpectNAT(b []byte, e *conntracksync.Expectation) error {
	var direction uint32
	var protocol uint8
	walk := attributes{rest: b}
	for {
		at, ok, err := walk.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		switch at.kind {
		case expectNATDirection:
			err = at.uint32(&direction)
		case expectNATTuple:
			err = decodeTuple(at.data, &e.NAT, &protocol)
		}
		if err != nil {
			return err
		}
	}
	e.NATReply = direction == 1 // IP_CT_DIR_REPLY
	e.HasNAT = walk.seen&(1<<expectNATTuple) != 0
	return nil
}

// expect encodes IPCTNL_MSG_EXP_NEW for an expectation that is not there.
func (e *encoder) expect(x *conntracksync.Expectation, sequence uint32) {
	e.begin(messageExpectNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL, sequence, &x.Master)
	e.tuple(expectMaster, x.Master.Original, x.Master.Protocol)
	e.tuple(expectTuple, x.Key.Original, x.Key.Protocol)
	e.tuple(expectMask, x.Mask, x.Key.Protocol)
	e.uint32(expectTimeout, max(x.Timeout, 1))
	e.uint32(expectFlags, x.Flags)
	e.expectZone(x)
	if passesHelper(x) {
		e.string(expectHelpName, x.Helper)
		e.uint32(expectClass, x.Class)
	}
	if x.Function != "" {
		e.string(expectFunction, x.Function)
	}
	if x.HasNAT {
		nat := e.open(expectNAT)
		direction := uint32(0)
		if x.NATReply {
			direction = 1
		}
		e.uint32(expectNATDirection, direction)
		e.tuple(expectNATTuple, x.NAT, x.Master.Protocol)
		e.close(nat)
	}
	e.end()
}

// passesHelper tells whether the expected flow is to get the helper itself. The
// kernel reports the master's helper but, asked to create, gives the one it is told
// to the expected flow: the data connection of FTP would then be parsed for
// commands. Of the kernel's helpers only SIP's signalling expects its own kind. A
// class other than 0 is taken from the helper's list, so it does not go without.
func passesHelper(x *conntracksync.Expectation) bool {
	return x.Helper != "" && (x.Class != 0 || strings.HasPrefix(x.Helper, "sip"))
}

// expectTimeout encodes a change of the time-out, the only thing that can be changed:
// a new expectation gets its helper's usual time-out whatever it is created with.
func (e *encoder) expectTimeout(x *conntracksync.Expectation, sequence uint32) {
	e.begin(messageExpectNew, 0, sequence, &x.Master)
	e.tuple(expectMaster, x.Master.Original, x.Master.Protocol)
	e.tuple(expectTuple, x.Key.Original, x.Key.Protocol)
	e.tuple(expectMask, x.Mask, x.Key.Protocol)
	e.uint32(expectTimeout, max(x.Timeout, 1))
	e.expectZone(x)
	e.end()
}

// unexpect encodes the removal of an expectation.
func (e *encoder) unexpect(x *conntracksync.Expectation, sequence uint32) {
	e.begin(messageExpectDelete, 0, sequence, &x.Key)
	e.tuple(expectTuple, x.Key.Original, x.Key.Protocol)
	e.expectZone(x)
	e.end()
}

func (e *encoder) expectZone(x *conntracksync.Expectation) {
	if x.Master.Zone != 0 {
		e.uint16(expectZone, x.Master.Zone)
	}
}

// checkExpectation returns the refusal of an expectation that cannot be encoded, or "".
func checkExpectation(x *conntracksync.Expectation) string {
	if x == nil || !sameFamily(x.Master.Original.Source, x.Master.Original.Destination,
		x.Key.Original.Source, x.Key.Original.Destination, x.Mask.Source, x.Mask.Destination) ||
		x.HasNAT && !sameFamily(x.Master.Original.Source, x.NAT.Source, x.NAT.Destination) {
		return RefusedMalformed
	}
	return ""
}
