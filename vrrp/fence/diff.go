package fence

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// action is what has to be done to a table or a chain.
type action int

const (
	keep action = iota
	create
	// rebuild deletes and creates: for what cannot be changed in place.
	rebuild
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
}

// difference is what lies between the kernel and a Config.
type difference struct {
	group   string
	table   action
	steps   []step
	missing []string
}

func (d difference) changes() []string {
	var list []string
	if d.table != keep {
		list = append(list, fmt.Sprintf("%s table netdev %s", d.table, tableName(d.group)))
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
	indexes, err := f.indexes()
	if err != nil {
		return d, err
	}
	if d.table, err = f.tableAction(cfg.Group); err != nil {
		return d, err
	}
	have := make(map[string]*nftables.Chain)
	if d.table == keep {
		if have, err = f.chains(cfg.Group); err != nil {
			return d, err
		}
	}
	for _, c := range chains(cfg) {
		index, ok := indexes[c.device]
		if !ok {
			if !slices.Contains(d.missing, c.device) {
				d.missing = append(d.missing, c.device)
			}
			continue
		}
		c.index = index
		a := create
		if present, ok := have[c.name]; ok {
			if a, err = f.chainAction(c, present); err != nil {
				return d, err
			}
			delete(have, c.name)
		}
		d.steps = append(d.steps, step{action: a, chain: c})
	}
	var stale []string
	for name := range have {
		stale = append(stale, name)
	}
	slices.Sort(stale)
	for _, name := range stale {
		d.steps = append(d.steps, step{action: remove, chain: chain{name: name}})
	}
	return d, nil
}

func (f *Fence) indexes() (map[string]int, error) {
	links, err := f.links.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	m := make(map[string]int, len(links))
	for _, l := range links {
		m[l.Attrs().Name] = l.Attrs().Index
	}
	return m, nil
}

func (f *Fence) tableAction(group string) (action, error) {
	tables, err := f.nft.ListTablesOfFamily(nftables.TableFamilyNetdev)
	if err != nil {
		return keep, fmt.Errorf("list nftables tables: %w", err)
	}
	want := table(group)
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == want.Name }) {
		return create, nil
	}
	set, err := f.nft.GetSetByName(want, setName)
	switch {
	case errors.Is(err, unix.ENOENT):
		return rebuild, nil
	case err != nil:
		return keep, fmt.Errorf("read set %s of table netdev %s: %w", setName, want.Name, err)
	case !set.HasTimeout || !set.Dynamic || set.KeyType.Bytes != nftables.TypeMark.Bytes:
		return rebuild, nil
	}
	return keep, nil
}

func (f *Fence) chains(group string) (map[string]*nftables.Chain, error) {
	list, err := f.nft.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	m := make(map[string]*nftables.Chain)
	for _, c := range list {
		if c.Table.Name == tableName(group) {
			m[c.Name] = c
		}
	}
	return m, nil
}

// chainAction compares a chain with what it should be by the comments that apply
// gave to its rules.
func (f *Fence) chainAction(want chain, have *nftables.Chain) (action, error) {
	if have.Hooknum == nil || *have.Hooknum != *want.hook || have.Policy == nil || *have.Policy != want.policy {
		return rebuild, nil
	}
	rules, err := f.nft.GetRules(have.Table, have)
	if err != nil {
		return keep, fmt.Errorf("read chain %s: %w", have.Name, err)
	}
	var comments []string
	for _, r := range rules {
		text, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		comments = append(comments, text)
	}
	if slices.Equal(comments, want.comments()) {
		return keep, nil
	}
	device := fmt.Sprintf("tandem %d ", want.index)
	if slices.ContainsFunc(comments, func(s string) bool { return strings.HasPrefix(s, device) }) {
		return refill, nil
	}
	return rebuild, nil
}

// comments are the comments of the chain's rules: for which device they are, the
// digest of the whole chain, and the place in it.
func (c chain) comments() []string {
	list := make([]string, 0, len(c.rules))
	digest := c.digest()
	for i := range c.rules {
		list = append(list, fmt.Sprintf("tandem %d %s %d", c.index, digest, i))
	}
	return list
}

// apply executes d in one transaction.
func (f *Fence) apply(d difference) error {
	t := table(d.group)
	if d.table != keep {
		f.nft.AddTable(t)
	}
	if d.table == rebuild {
		f.nft.DelTable(t)
		f.nft.AddTable(t)
	}
	if d.table != keep {
		set := &nftables.Set{
			Table: t, Name: setName, KeyType: nftables.TypeMark,
			HasTimeout: true, Dynamic: true, Size: setSize,
		}
		if err := f.nft.AddSet(set, nil); err != nil {
			return fmt.Errorf("encode set %s: %w", setName, err)
		}
	}
	for _, s := range d.steps {
		if err := f.queue(t, s); err != nil {
			return err
		}
	}
	err := f.nft.Flush()
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("put up the fence of group %s: this kernel has no netdev egress hook, use Linux 5.16 or newer with CONFIG_NETFILTER_EGRESS: %w", d.group, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("put up the fence of group %s: another program owns a table of its name, find it with `nft list table netdev %s` and stop it (or give this process CAP_NET_ADMIN, if it has not): %w", d.group, t.Name, err)
	case err != nil:
		return fmt.Errorf("put up the fence of group %s: %w", d.group, err)
	}
	return nil
}

func (f *Fence) queue(t *nftables.Table, s step) error {
	c := &nftables.Chain{
		Table: t, Name: s.chain.name, Type: nftables.ChainTypeFilter, Hooknum: s.chain.hook,
		Priority: nftables.ChainPriorityFilter, Policy: &s.chain.policy, Device: s.chain.device,
	}
	switch s.action {
	case keep:
		return nil
	case remove:
		f.nft.DelChain(c)
		return nil
	case rebuild:
		f.nft.DelChain(c)
		f.nft.AddChain(c)
	case create:
		f.nft.AddChain(c)
	case refill:
		f.nft.FlushChain(c)
	}
	comments := s.chain.comments()
	for i, r := range s.chain.rules {
		exprs := slices.Clone(r.match)
		if len(r.members) > 0 {
			lookup, err := f.queueMembers(t, r)
			if err != nil {
				return err
			}
			exprs = append(exprs, lookup)
		}
		f.nft.AddRule(&nftables.Rule{
			Table: t, Chain: c, Exprs: append(exprs, r.action...),
			UserData: userdata.AppendString(nil, userdata.TypeComment, comments[i]),
		})
	}
	return nil
}

// queueMembers makes the anonymous set of a rule; it lives as long as the rule.
func (f *Fence) queueMembers(t *nftables.Table, r rule) (*expr.Lookup, error) {
	set := &nftables.Set{Table: t, Anonymous: true, Constant: true, KeyType: nftables.TypeIPAddr}
	elements := make([]nftables.SetElement, 0, len(r.members))
	for _, a := range r.members {
		elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
	}
	if err := f.nft.AddSet(set, elements); err != nil {
		return nil, fmt.Errorf("encode the addresses of rule %q: %w", r.text, err)
	}
	return &expr.Lookup{SourceRegister: register, SetName: set.Name, SetID: set.ID}, nil
}
