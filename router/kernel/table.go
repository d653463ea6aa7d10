package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"

	"tandem/router"
)

func (r *Reconciler) table(f family) *nftables.Table {
	return &nftables.Table{Family: f.netfilter(), Name: tableName(r.group)}
}

// netfilter is the family of the family's tables.
func (f family) netfilter() nftables.TableFamily {
	if f == ipv6 {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

// observeTables tells which tables are as they should be, or rightly absent.
func (r *Reconciler) observeTables(intent router.Intent) (map[family]bool, error) {
	stand := make(map[family]bool)
	for _, f := range []family{ipv4, ipv6} {
		var err error
		if wantsTable(intent, f) {
			stand[f], err = r.tableStands(desiredRules(intent, f))
		} else {
			stand[f], err = r.tableAbsent(f)
		}
		if err != nil {
			return nil, err
		}
	}
	return stand, nil
}

func (r *Reconciler) tableAbsent(f family) (bool, error) {
	list, err := r.nft.ListTablesOfFamily(f.netfilter())
	if r.renew(err) != nil {
		return false, withCure(explainNetfilter(err), fmt.Errorf("list nftables tables: %w", err))
	}
	return !slices.ContainsFunc(list, func(t *nftables.Table) bool { return t.Name == tableName(r.group) }), nil
}

// comments are the comments of a chain's rules, by which they are recognised.
func comments(digest string, rules []filterRule) []string {
	var list []string
	for i := range rules {
		list = append(list, fmt.Sprintf("tandem %s %d", digest, i))
	}
	return list
}

// tableStands tells whether the kernel holds exactly the wanted table.
func (r *Reconciler) tableStands(want ruleset) (bool, error) {
	list, err := r.nft.ListChainsOfTableFamily(want.family.netfilter())
	if r.renew(err) != nil {
		return false, withCure(explainNetfilter(err), fmt.Errorf("list nftables chains: %w", err))
	}
	list = slices.DeleteFunc(list, func(c *nftables.Chain) bool { return c.Table.Name != tableName(r.group) })
	if len(list) != len(want.chains) {
		return false, nil
	}
	digest := want.digest()
	for _, w := range want.chains {
		i := slices.IndexFunc(list, func(c *nftables.Chain) bool { return c.Name == w.name })
		if i < 0 || !hooked(list[i], w) {
			return false, nil
		}
		rules, err := r.nft.GetRules(r.table(want.family), list[i])
		if r.renew(err) != nil {
			return false, fmt.Errorf("read chain %s: %w", w.name, err)
		}
		var have []string
		for _, rule := range rules {
			text, _ := userdata.GetString(rule.UserData, userdata.TypeComment)
			have = append(have, text)
		}
		if !slices.Equal(have, comments(digest, w.rules)) {
			return false, nil
		}
	}
	return true, nil
}

func hooked(have *nftables.Chain, want filterChain) bool {
	if want.hook == nil {
		return have.Hooknum == nil
	}
	return have.Type == want.kind && have.Hooknum != nil && *have.Hooknum == *want.hook &&
		have.Priority != nil && *have.Priority == *want.priority &&
		have.Policy != nil && *have.Policy == nftables.ChainPolicyAccept
}

// replaceTable swaps the whole table in one transaction. Live flows do not
// notice: their translation is in the flow and not in the rules.
func (r *Reconciler) replaceTable(want ruleset) error {
	t := r.table(want.family)
	r.nft.AddTable(t) // else the deletion fails if there is none
	r.nft.DelTable(t)
	r.nft.AddTable(t)
	for _, h := range want.helpers {
		r.nft.AddObj(helperObject(t, h))
	}
	digest := want.digest()
	policy := nftables.ChainPolicyAccept
	for _, w := range want.chains {
		c := &nftables.Chain{Table: t, Name: w.name, Type: w.kind, Hooknum: w.hook, Priority: w.priority}
		if w.hook != nil {
			c.Policy = &policy
		}
		c = r.nft.AddChain(c)
		for i, text := range comments(digest, w.rules) {
			exprs, err := r.expressions(t, w.rules[i])
			if err != nil {
				return err
			}
			r.nft.AddRule(&nftables.Rule{
				Table: t, Chain: c, Exprs: exprs,
				UserData: userdata.AppendString(nil, userdata.TypeComment, text),
			})
		}
	}
	err := r.renew(r.nft.Flush())
	if err != nil {
		clear(r.helpers) // perhaps one of them has gone
	}
	return err
}

// batchSize is room for the largest table: the kernel takes a transaction as one message.
const batchSize = 16 << 20

// openNetfilter opens a connection in the network namespace of the calling thread.
func openNetfilter() (*nftables.Conn, error) {
	return nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(batchSize), c.SetReadBuffer(batchSize))
	}))
}

// renew replaces the connection on which a request has failed: the kernel answers
// each message of a batch, and an answer that was not read would be taken for that
// of the next request, for ever.
func (r *Reconciler) renew(failed error) error {
	if failed == nil {
		return nil
	}
	var fresh *nftables.Conn
	err := r.inNamespace(func() (err error) {
		fresh, err = openNetfilter()
		return err
	})
	if err != nil {
		return errors.Join(failed, fmt.Errorf("open nftables anew: %w", err))
	}
	_ = r.nft.CloseLasting() // it was broken
	r.nft = fresh
	return failed
}

func (r *Reconciler) expressions(t *nftables.Table, rule filterRule) ([]expr.Any, error) {
	var exprs []expr.Any
	for _, s := range rule.steps {
		exprs = append(exprs, s.exprs...)
		set, elements := s.set()
		if set == nil {
			continue
		}
		set.Table = t
		if err := r.nft.AddSet(set, elements); err != nil {
			return nil, fmt.Errorf("encode rule %q: %w", rule.text, err)
		}
		lookup := &expr.Lookup{SourceRegister: register, SetName: set.Name, SetID: set.ID, Invert: s.others}
		if set.IsMap {
			lookup.DestRegister, lookup.IsDestRegSet = secondRegister, true
		}
		exprs = append(exprs, lookup)
	}
	return append(exprs, rule.action...), nil
}

// set returns the set that a step looks its value up in; nil if there is none.
func (s matchStep) set() (*nftables.Set, []nftables.SetElement) {
	set := &nftables.Set{Anonymous: true, Constant: true, KeyType: s.keyType}
	var elements []nftables.SetElement
	switch {
	case len(s.members) > 0:
		for _, m := range s.members {
			elements = append(elements, nftables.SetElement{Key: m})
		}
	case len(s.ranges) > 0:
		set.Interval = true
		elements = intervals(s.ranges)
	case len(s.pairs) > 0:
		set.IsMap, set.DataType = true, s.keyType
		for _, p := range s.pairs {
			elements = append(elements, nftables.SetElement{Key: p[0], Val: p[1]})
		}
	default:
		return nil, nil
	}
	return set, elements
}

// intervals returns the elements of a set of ranges: the kernel wants each start and each
// first value behind an end, and neither overlaps nor neighbours.
func intervals(ranges [][2][]byte) []nftables.SetElement {
	ranges = slices.SortedFunc(slices.Values(ranges), func(a, b [2][]byte) int { return bytes.Compare(a[0], b[0]) })
	var elements []nftables.SetElement
	for i := 0; i < len(ranges); {
		last := ranges[i][1]
		elements = append(elements, nftables.SetElement{Key: ranges[i][0]})
		behind, more := successor(last)
		for i++; i < len(ranges) && (!more || bytes.Compare(ranges[i][0], behind) <= 0); i++ {
			if bytes.Compare(ranges[i][1], last) > 0 {
				last = ranges[i][1]
				behind, more = successor(last)
			}
		}
		if more {
			elements = append(elements, nftables.SetElement{Key: behind, IntervalEnd: true})
		}
	}
	return elements
}

// successor returns the next value; the highest has none.
func successor(value []byte) (next []byte, ok bool) {
	next = slices.Clone(value)
	for i := len(next) - 1; i >= 0; i-- {
		next[i]++
		if next[i] != 0 {
			return next, true
		}
	}
	return nil, false
}

func (r *Reconciler) deleteTable(f family) error {
	if absent, err := r.tableAbsent(f); err != nil || absent {
		return err
	}
	r.nft.DelTable(r.table(f))
	return r.renew(r.nft.Flush())
}
