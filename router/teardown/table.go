package teardown

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// answeredTime is how long segments of a flow that was ended are answered, and answeredSize
	// how many such flows there may be in each family.
	answeredTime = 30 * time.Second
	answeredSize = 1 << 17

	// beforeTracking is the place of our chains: after the reassembly of fragments (-400),
	// before all that others do with raw packets (-300).
	beforeTracking = -310

	setTCP4, setTCP6 = "tcp4", "tcp6"

	// elementBatch keeps a list of elements below the 64 kB that a netlink attribute can be.
	elementBatch = 512

	tcpSYN = 0x02
	// dynsetDelete is NFT_DYNSET_OP_DELETE (linux/netfilter/nf_tables.h).
	dynsetDelete = 2

	// register is the first of 32 bits; the key takes as many as it needs.
	register = unix.NFT_REG32_00
)

// table answers the segments of flows that were ended. It is a table of the links by which
// the segments come in, for there a reset goes back by the link itself, with its MAC address; and
// one before connection tracking, where no such links are found or the kernel cannot reject
// there (nft_reject_netdev), for which the kernel must know the way in its main table.
type table struct {
	name      string
	namespace netns.NsHandle
	// made tells that the tables stand, direct that segments are answered on links, chained
	// on which, by index.
	made, direct bool
	chained      map[int]string
}

func newTable(group string) (*table, error) {
	namespace, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return &table{name: "tandem-" + group + "-teardown", namespace: namespace}, nil
}

func (t *table) close() error { return errors.Join(t.remove(), t.namespace.Close()) }

func (t *table) inet() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: t.name}
}

func (t *table) netdev() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyNetdev, Name: t.name}
}

func (t *table) open() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(t.namespace)))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return conn, nil
}

// prepare sees to it that what comes in by these links can be answered.
func (t *table) prepare(links map[int]string) error {
	if !t.made {
		return t.write(links)
	}
	fresh := make(map[int]string)
	for index, name := range links {
		if _, ok := t.chained[index]; !ok {
			fresh[index] = name
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	err := t.transact(func(conn *nftables.Conn) error { return t.on(conn, fresh) })
	if err != nil || !t.direct {
		// Begun anew, with what there is now: flows that were ended before are not answered any more.
		return t.write(links)
	}
	maps.Copy(t.chained, fresh)
	return nil
}

// answer has segments of these flows answered. Tables that somebody has removed are made anew.
func (t *table) answer(flows []flow) error {
	err := t.add(flows)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := t.write(t.chained); err != nil {
		return err
	}
	return t.add(flows)
}

func (t *table) add(flows []flow) error {
	var four, six []nftables.SetElement
	for i := range flows {
		switch f := &flows[i]; {
		case !f.answer:
		case f.inner.Addr().Is4():
			four = append(four, nftables.SetElement{Key: f.element()})
		default:
			six = append(six, nftables.SetElement{Key: f.element()})
		}
	}
	if len(four)+len(six) == 0 {
		return nil
	}
	conn, err := t.open()
	if err != nil {
		return err
	}
	table := t.inet()
	if t.direct {
		table = t.netdev()
	}
	for name, elements := range map[string][]nftables.SetElement{setTCP4: four, setTCP6: six} {
		set := &nftables.Set{Table: table, Name: name}
		for part := range slices.Chunk(elements, elementBatch) {
			if err := conn.SetAddElements(set, part); err != nil {
				return fmt.Errorf("encode elements of set %s: %w", name, err)
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("add %d flows to nftables table %s: %w", len(four)+len(six), t.name, err)
	}
	return nil
}

// element is the key of a flow in its set.
func (f *flow) element() []byte {
	key := append(make([]byte, 0, 40), f.inner.Addr().AsSlice()...)
	key = append(key, byte(f.inner.Port()>>8), byte(f.inner.Port()), 0, 0)
	key = append(key, f.outer.Addr().AsSlice()...)
	return append(key, byte(f.outer.Port()>>8), byte(f.outer.Port()), 0, 0)
}

// remove takes the tables away, if there are any.
func (t *table) remove() error {
	t.made, t.direct, t.chained = false, false, nil
	err := t.transact(func(conn *nftables.Conn) error {
		t.clear(conn)
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete nftables tables %s: %w", t.name, err)
	}
	return nil
}

// write makes the tables anew, in one transaction: each costs the kernel a pause. Where segments
// cannot be answered on links, it makes the other table alone.
func (t *table) write(links map[int]string) error {
	t.made, t.direct, t.chained = false, false, maps.Clone(links)
	err := t.transact(func(conn *nftables.Conn) error {
		t.clear(conn)
		return errors.Join(t.before(conn), t.on(conn, links))
	})
	if err == nil {
		t.made, t.direct = true, len(links) > 0
		return nil
	}
	err = t.transact(func(conn *nftables.Conn) error {
		conn.AddTable(t.inet())
		conn.DelTable(t.inet())
		return t.before(conn)
	})
	if err != nil {
		return fmt.Errorf("make nftables table %s: %w", t.name, err)
	}
	t.made = true
	return nil
}

func (t *table) transact(fill func(*nftables.Conn) error) error {
	conn, err := t.open()
	if err != nil {
		return err
	}
	if err := fill(conn); err != nil {
		return err
	}
	return conn.Flush()
}

func (t *table) clear(conn *nftables.Conn) {
	for _, table := range []*nftables.Table{t.inet(), t.netdev()} {
		conn.AddTable(table)
		conn.DelTable(table)
	}
}

// before adds what stands before connection tracking.
func (t *table) before(conn *nftables.Conn) error {
	table := conn.AddTable(t.inet())
	policy := nftables.ChainPolicyAccept
	answer := conn.AddChain(&nftables.Chain{
		Name: "answer", Table: table, Type: nftables.ChainTypeFilter, Policy: &policy,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(beforeTracking),
	})
	own := conn.AddChain(&nftables.Chain{
		Name: "own", Table: table, Type: nftables.ChainTypeFilter, Policy: &policy,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRef(beforeTracking),
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: own, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.NativeEndian.PutUint32(PacketMark)},
		&expr.Notrack{},
	}})
	return fill(conn, table, answer)
}

// on adds what stands on links.
func (t *table) on(conn *nftables.Conn, links map[int]string) error {
	if len(links) == 0 {
		return nil
	}
	table := conn.AddTable(t.netdev())
	policy := nftables.ChainPolicyAccept
	var chains []*nftables.Chain
	for index, name := range links {
		chains = append(chains, conn.AddChain(&nftables.Chain{
			Name: fmt.Sprintf("answer%d", index), Table: table, Type: nftables.ChainTypeFilter, Policy: &policy,
			Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFilter, Device: name,
		}))
	}
	return fill(conn, table, chains...)
}

// fill adds the sets, and the rules that answer what is in them.
func fill(conn *nftables.Conn, table *nftables.Table, chains ...*nftables.Chain) error {
	for _, f := range families() {
		set, err := f.set(table)
		if err != nil {
			return err
		}
		if err := conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("encode set %s: %w", set.Name, err)
		}
		for _, chain := range chains {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: slices.Concat(f.segments(true), f.tuple(), []expr.Any{
				&expr.Dynset{SrcRegKey: register, SetName: set.Name, SetID: set.ID, Operation: dynsetDelete},
			})})
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: slices.Concat(f.segments(false), f.tuple(), []expr.Any{
				&expr.Lookup{SourceRegister: register, SetName: set.Name, SetID: set.ID},
				&expr.Counter{},
				&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
			})})
		}
	}
	return nil
}

// family is where the parts of a flow are in its packets.
type family struct {
	protocol            uint16
	name                string
	address             nftables.SetDatatype
	source, destination uint32
}

func families() []family {
	return []family{
		{unix.ETH_P_IP, setTCP4, nftables.TypeIPAddr, 12, 16},
		{unix.ETH_P_IPV6, setTCP6, nftables.TypeIP6Addr, 8, 24},
	}
}

func (f family) set(table *nftables.Table) (*nftables.Set, error) {
	key, err := nftables.ConcatSetType(f.address, nftables.TypeInetService, f.address, nftables.TypeInetService)
	if err != nil {
		return nil, fmt.Errorf("encode set %s: %w", f.name, err)
	}
	return &nftables.Set{
		Table: table, Name: f.name, KeyType: key, Concatenation: true, Dynamic: true,
		HasTimeout: true, Timeout: answeredTime, Size: answeredSize,
	}, nil
}

// segments matches those of TCP with or without SYN.
func (f family) segments(syn bool) []expr.Any {
	op := expr.CmpOpEq
	if syn {
		op = expr.CmpOpNeq
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binary.BigEndian.AppendUint16(nil, f.protocol)},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{tcpSYN}, Xor: []byte{0}},
		&expr.Cmp{Op: op, Register: register, Data: []byte{0}},
	}
}

// tuple loads the key of a packet's flow.
func (f family) tuple() []expr.Any {
	words := f.address.Bytes / 4
	port := func(at, offset uint32) expr.Any {
		return &expr.Payload{DestRegister: at, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2}
	}
	address := func(at, offset uint32) expr.Any {
		return &expr.Payload{DestRegister: at, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.address.Bytes}
	}
	return []expr.Any{
		address(register, f.source), port(register+words, 0),
		address(register+words+1, f.destination), port(register+2*words+1, 2),
	}
}
