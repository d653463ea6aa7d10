package replication

import (
	"slices"
	"time"

	"tandem/conntracksync"
)

// apply carries out the operations of a process, as the writer of conntracksync/ctnetlink
// does, and returns the indexes of those that were refused. Nothing of it is reported:
// the listener filters what its own node has written.
func (k *kernel) apply(ops []conntracksync.Op) (failed []int) {
	for i := range ops {
		if !k.applyOne(&ops[i]) {
			failed = append(failed, i)
		}
	}
	return failed
}

func (k *kernel) applyOne(op *conntracksync.Op) bool {
	f := &op.Flow
	k.w.say(k.id, "op %d %s timeout %d", op.Kind, show(f), f.Timeout)
	switch op.Kind {
	case conntracksync.OpCreate:
		if e := k.find(f.Key); e != nil && e.flow.Reply == f.Reply {
			return k.update(e, f)
		}
		return k.replace(f)
	case conntracksync.OpUpdate:
		if e := k.find(f.Key); e != nil {
			return k.update(e, f)
		}
		return k.replace(f)
	case conntracksync.OpReplace:
		return k.replace(f)
	case conntracksync.OpDelete:
		if e := k.find(f.Key); e != nil {
			k.drop(e)
		}
	case conntracksync.OpSweep:
		if e := k.find(f.Key); e != nil && e.flow.Reply == f.Reply {
			k.drop(e)
		}
	case conntracksync.OpTimeout:
		if e := k.find(f.Key); e != nil {
			k.setExpiry(e, time.Duration(f.Timeout)*time.Second)
		}
	case conntracksync.OpExpect:
		return k.expect(op.Expect)
	case conntracksync.OpExpectDelete:
		k.unexpect(op.Expect)
	}
	return true
}

// drop removes an entry because the process said so.
func (k *kernel) drop(e *entry) {
	k.w.dropped(k, e)
	k.remove(e)
	delete(k.gone, identify(&e.flow))
}

// update changes an entry. The kernel takes back no bit of a status, and does not touch
// the windows.
func (k *kernel) update(e *entry, f *conntracksync.Flow) bool {
	const bits = conntracksync.StatusSeenReply | conntracksync.StatusAssured
	old := class(&e.flow)
	e.flow.Status |= f.Status & bits
	e.flow.Mark = f.Mark
	if f.HasTCP {
		e.flow.TCP, e.flow.HasTCP = f.TCP, true
	}
	if f.Extra != nil && f.Extra.HasSCTP {
		e.flow.Extra = f.Extra
	}
	if class(&e.flow) != old {
		e.changed = k.w.now
	}
	k.setExpiry(e, time.Duration(max(f.Timeout, 1))*time.Second)
	return true
}

// replace puts a flow in place of whatever holds its tuples.
func (k *kernel) replace(f *conntracksync.Flow) bool {
	id := identify(f)
	if e := k.find(f.Key); e != nil {
		k.remove(e)
	}
	if e := k.findReply(replyKey(f)); e != nil {
		k.remove(e)
	}
	if k.size() >= k.limit || k.refusing > 0 && k.w.chance(k.refusing) || stateless(f) {
		k.gone[id] = k.w.now
		k.w.refused(k, f)
		return false
	}
	created := *f
	created.Status &= conntracksync.StatusSeenReply | conntracksync.StatusAssured
	if f.Protocol == protocolTCP && !f.HasTCP {
		created.HasTCP, created.TCP.State = true, conntracksync.TCPEstablished
	}
	if x := f.Extra; x != nil && x.HasMaster && k.find(x.Master) == nil {
		k.w.orphan(k, f)
	}
	k.w.injected(k, f)
	k.insert(created, time.Duration(max(f.Timeout, 1))*time.Second)
	return true
}

// stateless tells that a flow cannot be created for want of its state.
func stateless(f *conntracksync.Flow) bool {
	return f.Protocol == protocolTCP && !f.HasTCP && f.Status&conntracksync.StatusAssured == 0 ||
		f.Protocol == protocolSCTP && (f.Extra == nil || !f.Extra.HasSCTP)
}

func (k *kernel) expect(e *conntracksync.Expectation) bool {
	k.unexpect(e)
	if k.find(e.Master) == nil {
		return false
	}
	k.expects = append(k.expects, expect{*e, k.w.now + time.Duration(e.Timeout)*time.Second})
	return true
}

func (k *kernel) unexpect(e *conntracksync.Expectation) {
	k.expects = slices.DeleteFunc(k.expects, func(x expect) bool {
		return x.e.Key == e.Key || x.expires <= k.w.now
	})
}
