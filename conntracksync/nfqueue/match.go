package nfqueue

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// writer makes the rules of one transaction.
type writer struct {
	conn  *nftables.Conn
	table *nftables.Table
	flows *nftables.Set
	links []string
}

// rules adds the rules. The packets of answered flows leave them after the first two.
//
// Of TCP it is the answer to the SYN that waits and not the SYN: before it there is
// no session, whoever asked repeats the SYN, and a flood of them fills no queue. Of
// all else it is what comes before the first answer, until one of the flow's packets
// was released.
func (w *writer) rules(add func(chain, comment string, exprs ...[]expr.Any), digest string, queue []expr.Any) error {
	count := []expr.Any{&expr.Counter{}}
	if len(w.links) > 0 {
		fresh := state(expr.CtStateBitNEW | expr.CtStateBitRELATED)
		syn := tcpFlags(tcpFIN|tcpSYN|tcpRST|tcpACK, tcpSYN)
		add(chainReleased, "first packets", fresh, to(chainSent))
		add(chainHold, "first packets", fresh, to(chainFresh))
		add(chainHold, "syn-ack", tcpFlags(tcpSYN|tcpACK|tcpRST, tcpSYN|tcpACK), to(chainAnswer))

		// Of every new flow, for nothing else tells in which order the hooks are.
		add(chainFresh, commentEarly, status(statusConfirmed, expr.CmpOpEq), count, to(""))
		add(chainSent, "syn", syn, to(""))
		// Errors of ICMP are related to a flow, but do not begin one.
		add(chainFresh, "errors", state(expr.CtStateBitRELATED), status(statusExpected, expr.CmpOpEq), to(""))
		add(chainFresh, "syn", syn, to(""))
		add(chainFresh, "released", flowID(), []expr.Any{
			&expr.Lookup{SourceRegister: register, SetName: w.flows.Name, SetID: w.flows.ID},
		}, to(""))
		update := append(flowID(), &expr.Dynset{
			SrcRegKey: register, SetName: w.flows.Name, SetID: w.flows.ID,
			Operation: uint32(unix.NFT_DYNSET_OP_UPDATE), Timeout: releasedTime,
		})
		for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
			for chain, action := range map[string][]expr.Any{
				chainSent: append(update, to("")...), chainFresh: to(chainWait), chainAnswer: to(chainWait),
			} {
				link, err := w.forwarded(key)
				if err != nil {
					return err
				}
				add(chain, "links", link, action)
			}
		}
	}
	add(chainWait, digest, count, queue)
	return nil
}

// forwarded matches what the node forwards from or to one of the links. What it sends
// itself came in by no interface, and fails the first comparison.
func (w *writer) forwarded(key expr.MetaKey) ([]expr.Any, error) {
	set := &nftables.Set{Table: w.table, Anonymous: true, Constant: true, KeyType: nftables.TypeIFName}
	var elements []nftables.SetElement
	for _, name := range w.links {
		padded := make([]byte, unix.IFNAMSIZ)
		copy(padded, name)
		elements = append(elements, nftables.SetElement{Key: padded})
	}
	if err := w.conn.AddSet(set, elements); err != nil {
		return nil, fmt.Errorf("encode set of links: %w", err)
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: register},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
		&expr.Meta{Key: key, Register: register},
		&expr.Lookup{SourceRegister: register, SetName: set.Name, SetID: set.ID},
	}, nil
}

func state(bits uint32) []expr.Any {
	return mask(&expr.Ct{Key: expr.CtKeySTATE, Register: register}, bits, expr.CmpOpNeq)
}

// status compares the bits of a flow's status with zero: CmpOpEq matches if none of
// them is set.
func status(bits uint32, op expr.CmpOp) []expr.Any {
	return mask(&expr.Ct{Key: expr.CtKeySTATUS, Register: register}, bits, op)
}

func mask(load expr.Any, bits uint32, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		load,
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: op, Register: register, Data: make([]byte, 4)},
	}
}

func flowID() []expr.Any {
	return []expr.Any{&expr.Ct{Key: unix.NFT_CT_ID, Register: register}}
}

// tcpFlags matches segments of TCP whose flags among mask are want.
func tcpFlags(mask, want byte) []expr.Any {
	const flagsOffset = 13
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: flagsOffset, Len: 1},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{mask}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{want}},
	}
}

// to goes on in a chain, or lets the packet pass if chain is empty.
func to(chain string) []expr.Any {
	if chain == "" {
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	}
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}
