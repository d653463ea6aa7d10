package fence

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// action is what has to be done to a table or a chain.
type action int

const (
	keep action = iota
	create
	// rebuild deletes and creates: for what cannot be changed in place. An open
	// lease is carried over.
	rebuild
	// adopt takes over a table whose owner is gone.
	adopt
	// protect rebuilds a table that anybody can delete as one that nobody else can.
	protect
	// refill swaps the rules; packets see the old ones or the new ones.
	refill
	remove
)

func (a action) String() string {
	switch a {
	case keep:
		return "keep"
	case create:
		return "create"
	case rebuild:
		return "rebuild"
	case adopt:
		return "adopt"
	case protect:
		return "protect"
	case refill:
		return "replace the rules of"
	case remove:
		return "delete"
	}
	return fmt.Sprintf("action(%d)", int(a))
}

type step struct {
	action action
	chain  chain
	// hooked tells, of a chain to be removed, whether it is a base chain.
	hooked bool
}

// difference is what lies between the kernel and a Config.
type difference struct {
	group   string
	table   action
	lease   leaseState
	steps   []step
	missing []string
}

// whole tells that all stands, whoever owns it.
func (d difference) whole() bool {
	return (d.table == keep || d.table == adopt || d.table == protect) && !d.lease.eternal &&
		!slices.ContainsFunc(d.steps, func(s step) bool { return s.action != keep })
}

func (d difference) changes() []string {
	var list []string
	if d.table != keep {
		list = append(list, fmt.Sprintf("%s table netdev %s", d.table, tableName(d.group)))
	}
	if d.lease.eternal {
		list = append(list, "delete a lease that does not end")
	}
	for _, s := range d.steps {
		if s.action != keep {
			list = append(list, fmt.Sprintf("%s chain %s", s.action, s.chain.name))
		}
	}
	return list
}

func (d difference) missingError() error {
	if len(d.missing) == 0 {
		return nil
	}
	return &MissingDevicesError{Devices: d.missing}
}

// diff compares the kernel with cfg.
func (f *Fence) diff(cfg Config) (difference, error) {
	d := difference{group: cfg.Group}
	state, err := f.tableState(cfg.Group)
	if err != nil {
		return d, err
	}
	if state.exists {
		if d.lease, err = f.leaseState(cfg.Group); err != nil {
			return d, err
		}
	}
	d.table = f.tableAction(state, d.lease)
	have := make(map[string]*standing)
	if d.table != create && d.table != rebuild {
		if have, err = f.standing(cfg.Group); err != nil {
			return d, err
		}
	}
	for _, c := range chains(cfg) {
		if c.device != "" {
			index, ok, err := f.index(c.device)
			if err != nil {
				return d, err
			}
			if !ok {
				if !slices.Contains(d.missing, c.device) {
					d.missing = append(d.missing, c.device)
				}
				continue
			}
			c.index = index
		}
		a := create
		if present, ok := have[c.name]; ok {
			a = c.compare(present)
			delete(have, c.name)
		}
		d.steps = append(d.steps, step{action: a, chain: c})
	}
	d.steps = append(d.steps, stale(have)...)
	return d, nil
}

func (f *Fence) tableAction(state tableState, lease leaseState) action {
	switch {
	case !state.exists:
		return create
	case !lease.usable || state.flags&flagDormant != 0:
		return rebuild
	case !f.persist:
		return keep
	case state.orphan():
		return adopt
	case !state.persistent() && state.owner == 0:
		return protect
	}
	return keep
}

// compare compares a chain with what stands by the comments of its rules.
func (c chain) compare(have *standing) action {
	if have.hooked != (c.hook != nil) {
		return rebuild
	}
	if c.hook != nil && (have.hook != *c.hook || have.policy != c.policy) {
		return rebuild
	}
	if slices.Equal(have.comments, c.comments()) {
		return keep
	}
	if c.hook == nil || slices.ContainsFunc(have.comments, func(s string) bool { return strings.HasPrefix(s, c.mark()) }) {
		return refill
	}
	return rebuild
}

// stale are the steps that remove chains which should not be: first those from
// which others may be jumped to.
func stale(have map[string]*standing) []step {
	var steps []step
	for name, s := range have {
		steps = append(steps, step{action: remove, chain: chain{name: name}, hooked: s.hooked})
	}
	slices.SortFunc(steps, func(a, b step) int {
		if a.hooked != b.hooked {
			if a.hooked {
				return -1
			}
			return 1
		}
		return strings.Compare(a.chain.name, b.chain.name)
	})
	return steps
}

// apply executes d in one transaction.
func (f *Fence) apply(d difference) error {
	err := f.send(f.transaction(d))
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("put up the fence of group %s: this kernel has no netdev egress hook, use Linux 5.16 or newer with CONFIG_NETFILTER_EGRESS: %w", d.group, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("put up the fence of group %s: another program owns a table of its name, find it with `nft list table netdev %s` and stop it (or give this process CAP_NET_ADMIN, if it has not): %w", d.group, tableName(d.group), err)
	case err != nil:
		return fmt.Errorf("put up the fence of group %s: %w", d.group, err)
	}
	return nil
}

// transaction writes d. A table that is made again takes an open lease with it, so
// that it does not interrupt a MASTER, for no longer than it would have lasted.
func (f *Fence) transaction(d difference) *batch {
	b := &batch{table: tableName(d.group)}
	var flags uint32
	if f.persist {
		flags = flagOwner | flagPersist
	}
	again := d.table == rebuild || d.table == protect
	if again {
		b.deleteTable()
	}
	if again || d.table == create || d.table == adopt {
		b.addTable(flags)
	}
	if again || d.table == create {
		b.addLeaseSet()
		if d.lease.open && !d.lease.eternal {
			b.elements(unix.NFT_MSG_NEWSETELEM, setName, 0, d.lease.remaining, [][]byte{keyBytes()})
		}
	} else if d.lease.eternal {
		b.elements(unix.NFT_MSG_DELSETELEM, setName, 0, 0, [][]byte{keyBytes()})
	}
	for _, s := range d.steps {
		if again {
			if s.action == remove {
				continue
			}
			s.action = create
		}
		b.step(s)
	}
	return b
}

func (b *batch) step(s step) {
	switch s.action {
	case keep, adopt, protect: // the latter two are for tables
		return
	case remove:
		b.deleteChain(s.chain.name)
		return
	case rebuild:
		b.deleteChain(s.chain.name)
		b.addChain(s.chain)
	case create:
		b.addChain(s.chain)
	case refill:
		b.flushChain(s.chain.name)
	}
	b.addRules(s.chain)
}
