package nfqueue

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ErrUnsupported is the error of [Rules.Ensure] where the kernel can queue no packets.
var ErrUnsupported = errors.New("this kernel has neither nft_queue nor xt_NFQUEUE with nft_compat: " +
	"load one of the modules (CONFIG_NFT_QUEUE, or CONFIG_NETFILTER_XT_TARGET_NFQUEUE with CONFIG_NFT_COMPAT)")

const (
	register = 1
	// releasedTime is how long a flow without an answer counts as released after each
	// of its packets; releasedSize is how many such flows are remembered. Of the others
	// every packet waits until the first answer.
	releasedTime = 2 * time.Second
	releasedSize = 1 << 16

	tcpFIN, tcpSYN, tcpRST, tcpACK = 0x01, 0x02, 0x04, 0x10

	// Bits of the status of a flow.
	statusExpected, statusConfirmed = 1 << 0, 1 << 3

	// Names of the chains. released and hold are on the hook.
	chainReleased, chainSent                      = "released", "sent"
	chainHold, chainFresh, chainAnswer, chainWait = "hold", "fresh", "answer", "wait"
	setReleased                                   = "flows"

	commentEarly = "early"
)

// Rules is the table that picks the packets. It is for one goroutine at a time.
type Rules struct {
	name      string
	number    uint16
	namespace netns.NsHandle
	// compat tells that the kernel was seen to lack nft_queue.
	compat bool
}

// Counts is what the rules have counted since they were made.
type Counts struct {
	// Picked are the packets that were put into the queue, or would have been had
	// somebody listened and had there been room.
	Picked uint64
	// Early are packets of new flows that were not confirmed yet, which were not held:
	// the table was made after something else had begun to use connection tracking.
	Early uint64
}

// NewRules is for the table of a group in the current network namespace, with which it
// stays.
func NewRules(group string) (*Rules, error) {
	namespace, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return &Rules{name: "tandem-" + group + "-hold", number: queueNumber(group), namespace: namespace}, nil
}

// Close leaves the table in the kernel.
func (r *Rules) Close() error { return r.namespace.Close() }

// String names the table.
func (r *Rules) String() string { return "table inet " + r.name }

func (r *Rules) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: r.name}
}

func (r *Rules) open() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(r.namespace)))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return conn, nil
}

// Ensure makes the table pick the first packets of flows from and to links. Without
// links it picks none; that it is made early is what counts.
// A table that stands keeps its place among the hooks. changed tells that something
// was changed.
func (r *Rules) Ensure(links []string) (changed bool, err error) {
	if stands, err := r.stands(links); err != nil || stands {
		return false, err
	}
	err = r.write(links)
	if !r.compat && lacksExpression(err) {
		r.compat = true
		err = r.write(links)
	}
	if lacksExpression(err) {
		return false, fmt.Errorf("make %s: %w (%w)", r, ErrUnsupported, err)
	}
	if err != nil {
		return false, fmt.Errorf("make %s: %w", r, err)
	}
	return true, nil
}

func lacksExpression(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP)
}

// Remove takes the table away. removed tells that there was one.
func (r *Rules) Remove() (removed bool, err error) {
	conn, err := r.open()
	if err != nil {
		return false, err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == r.name }) {
		return false, nil
	}
	conn.DelTable(r.table())
	if err := conn.Flush(); err != nil {
		return false, fmt.Errorf("delete %s: %w", r, err)
	}
	return true, nil
}

// Counts reads the counters; they are zero without a table.
func (r *Rules) Counts() (Counts, error) {
	wait, err := r.rules(chainWait)
	if err != nil {
		return Counts{}, err
	}
	fresh, err := r.rules(chainFresh)
	if err != nil {
		return Counts{}, err
	}
	return Counts{Picked: packets(wait), Early: packets(fresh)}, nil
}

// packets sums up the counters of rules.
func packets(rules []*nftables.Rule) (n uint64) {
	for _, rule := range rules {
		for _, e := range rule.Exprs {
			if counter, ok := e.(*expr.Counter); ok {
				n += counter.Packets
			}
		}
	}
	return n
}

// rules reads a chain; without the chain there are none.
func (r *Rules) rules(chain string) ([]*nftables.Rule, error) {
	conn, err := r.open()
	if err != nil {
		return nil, err
	}
	rules, err := conn.GetRules(r.table(), &nftables.Chain{Name: chain})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("read chain %s of %s: %w", chain, r, err)
	}
	return rules, nil
}

// stands tells whether the table is as it was written for links. The last chain
// tells for all: they change in one transaction.
func (r *Rules) stands(links []string) (bool, error) {
	rules, err := r.rules(chainWait)
	if err != nil {
		return false, err
	}
	var have []string
	for _, rule := range rules {
		text, _ := userdata.GetString(rule.UserData, userdata.TypeComment)
		have = append(have, text)
	}
	return slices.Equal(have, []string{r.digest(links)}), nil
}

// digest identifies the rules for links in their comments.
func (r *Rules) digest(links []string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "1 %d %q", r.number, links))
	return "tandem " + hex.EncodeToString(sum[:8])
}

// write makes the table, or gives the one that stands new rules. The chain released is
// made first and so runs last.
func (r *Rules) write(links []string) error {
	conn, err := r.open()
	if err != nil {
		return err
	}
	t := conn.AddTable(r.table())
	flows := &nftables.Set{
		Table: t, Name: setReleased, KeyType: nftables.TypeInteger, Dynamic: true,
		HasTimeout: true, Timeout: releasedTime, Size: releasedSize,
	}
	if err := conn.AddSet(flows, nil); err != nil {
		return fmt.Errorf("encode set %s: %w", setReleased, err)
	}
	chains := make(map[string]*nftables.Chain)
	for _, name := range []string{chainReleased, chainSent, chainHold, chainFresh, chainAnswer, chainWait} {
		c := &nftables.Chain{Table: t, Name: name}
		if name == chainReleased || name == chainHold {
			policy := nftables.ChainPolicyAccept
			c.Type, c.Hooknum, c.Policy = nftables.ChainTypeFilter, nftables.ChainHookPostrouting, &policy
			c.Priority = nftables.ChainPriorityRef(math.MaxInt32)
		}
		chains[name] = conn.AddChain(c)
		conn.FlushChain(c)
	}
	w := &writer{conn: conn, table: t, flows: flows, links: links}
	add := func(chain, comment string, exprs ...[]expr.Any) {
		conn.AddRule(&nftables.Rule{
			Table: t, Chain: chains[chain], Exprs: slices.Concat(exprs...),
			UserData: userdata.AppendString(nil, userdata.TypeComment, comment),
		})
	}
	if err := w.rules(add, r.digest(links), r.queue()); err != nil {
		return err
	}
	return conn.Flush()
}

// queue is the action that puts a packet into the queue, or lets it pass if nobody
// listens there.
func (r *Rules) queue() []expr.Any {
	if !r.compat {
		return []expr.Any{&expr.Queue{Num: r.number, Total: 1, Flag: expr.QueueFlagBypass}}
	}
	// struct xt_NFQ_info_v3 {queuenum, queues_total, flags}, padded to 8 bytes.
	const bypass = 1
	info := make(xt.Unknown, 0, 8)
	for _, v := range []uint16{r.number, 1, bypass, 0} {
		info = append(info, binaryutil.NativeEndian.PutUint16(v)...)
	}
	return []expr.Any{&expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info}}
}
