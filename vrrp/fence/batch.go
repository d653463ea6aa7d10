package fence

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Names that golang.org/x/sys/unix does not have, of linux/netfilter/nf_tables.h.
const (
	tableOwner = 7 // NFTA_TABLE_OWNER

	flagDormant = 1 // NFT_TABLE_F_DORMANT
	flagOwner   = 2 // NFT_TABLE_F_OWNER
	flagPersist = 4 // NFT_TABLE_F_PERSIST
)

const (
	// keysPerMessage keeps a list of keys below the 64 KiB that an attribute holds.
	keysPerMessage = 1000
	// hostOrder and networkOrder tell the nft program how to print the keys of a set.
	hostOrder    = 1
	networkOrder = 2
	// anonymousName is a pattern: the kernel numbers the sets itself.
	anonymousName = "__set%d"
)

// batch is a transaction. It is written by hand because the library can neither
// set the flags of a table nor do without an answer to every single message, and a
// group has thousands of them.
type batch struct {
	table    string
	messages []netlink.Message
	sets     uint32
	err      error
}

// add appends one message; the first error is kept for the end.
func (b *batch) add(kind int, flags netlink.HeaderFlags, attributes func(*netlink.AttributeEncoder)) {
	data, err := encode(attributes)
	if err != nil && b.err == nil {
		b.err = err
	}
	b.messages = append(b.messages, netlink.Message{
		Header: netlink.Header{Type: messageType(kind), Flags: netlink.Request | flags},
		Data:   append(familyHeader(nftables.TableFamilyNetdev, 0), data...),
	})
}

func encode(attributes func(*netlink.AttributeEncoder)) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	attributes(ae)
	data, err := ae.Encode()
	if err != nil {
		return nil, fmt.Errorf("encode nftables message: %w", err)
	}
	return data, nil
}

// familyHeader is the header that follows that of netlink: family, version, resource.
func familyHeader(family nftables.TableFamily, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{byte(family), unix.NFNETLINK_V0}, resource)
}

func messageType(kind int) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind)
}

// framed is the whole transaction. Only the last message asks for an answer:
// errors are answered in any case.
func (b *batch) framed() []netlink.Message {
	mark := func(kind int) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
			Data:   familyHeader(nftables.TableFamilyUnspecified, unix.NFNL_SUBSYS_NFTABLES),
		}
	}
	b.messages[len(b.messages)-1].Header.Flags |= netlink.Acknowledge
	list := append([]netlink.Message{mark(unix.NFNL_MSG_BATCH_BEGIN)}, b.messages...)
	return append(list, mark(unix.NFNL_MSG_BATCH_END))
}

func (b *batch) addTable(flags uint32) {
	b.add(unix.NFT_MSG_NEWTABLE, netlink.Create, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TABLE_NAME, b.table)
		ae.Uint32(unix.NFTA_TABLE_FLAGS, flags)
	})
}

func (b *batch) deleteTable() {
	b.add(unix.NFT_MSG_DELTABLE, 0, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TABLE_NAME, b.table)
	})
}

func (b *batch) addLeaseSet() {
	b.addSet(setName, unix.NFT_SET_TIMEOUT|unix.NFT_SET_EVAL, nftables.TypeMark, setSize, hostOrder)
}

func (b *batch) addSet(name string, flags uint32, datatype nftables.SetDatatype, size, order uint32) {
	b.sets++
	id := b.sets
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_TABLE, b.table)
		ae.String(unix.NFTA_SET_NAME, name)
		ae.Uint32(unix.NFTA_SET_FLAGS, flags)
		ae.Uint32(unix.NFTA_SET_KEY_TYPE, datatype.GetNFTMagic())
		ae.Uint32(unix.NFTA_SET_KEY_LEN, datatype.Bytes)
		ae.Uint32(unix.NFTA_SET_ID, id)
		ae.Nested(unix.NFTA_SET_DESC, func(ae *netlink.AttributeEncoder) error {
			ae.Uint32(unix.NFTA_SET_DESC_SIZE, size)
			return nil
		})
		ae.Bytes(unix.NFTA_SET_USERDATA, userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, order))
	})
}

// addMembers makes the anonymous set of a match; it lives as long as its rule.
func (b *batch) addMembers(m *members) (id uint32) {
	b.addSet(anonymousName, unix.NFT_SET_ANONYMOUS|unix.NFT_SET_CONSTANT, m.datatype, uint32(len(m.keys)), networkOrder)
	for first := 0; first < len(m.keys); first += keysPerMessage {
		b.elements(unix.NFT_MSG_NEWSETELEM, anonymousName, b.sets, 0, m.keys[first:min(first+keysPerMessage, len(m.keys))])
	}
	return b.sets
}

// elements adds or deletes the keys; timeout 0 is none.
func (b *batch) elements(kind int, set string, id uint32, timeout time.Duration, keys [][]byte) {
	element := func(key []byte) func(*netlink.AttributeEncoder) error {
		return func(ae *netlink.AttributeEncoder) error {
			ae.Nested(unix.NFTA_SET_ELEM_KEY, func(ae *netlink.AttributeEncoder) error {
				ae.Bytes(unix.NFTA_DATA_VALUE, key)
				return nil
			})
			if timeout > 0 {
				ae.Uint64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(timeout.Milliseconds()))
			}
			return nil
		}
	}
	var flags netlink.HeaderFlags
	if kind == unix.NFT_MSG_NEWSETELEM {
		flags = netlink.Create
	}
	b.add(kind, flags, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, b.table)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, set)
		if id != 0 {
			ae.Uint32(unix.NFTA_SET_ELEM_LIST_SET_ID, id)
		}
		ae.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(ae *netlink.AttributeEncoder) error {
			for _, k := range keys {
				ae.Nested(unix.NFTA_LIST_ELEM, element(k))
			}
			return nil
		})
	})
}

func (b *batch) addChain(c chain) {
	b.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_CHAIN_TABLE, b.table)
		ae.String(unix.NFTA_CHAIN_NAME, c.name)
		if c.hook == nil {
			return
		}
		ae.Nested(unix.NFTA_CHAIN_HOOK, func(ae *netlink.AttributeEncoder) error {
			ae.Uint32(unix.NFTA_HOOK_HOOKNUM, uint32(*c.hook))
			ae.Int32(unix.NFTA_HOOK_PRIORITY, int32(*nftables.ChainPriorityFilter))
			ae.String(unix.NFTA_HOOK_DEV, c.device)
			return nil
		})
		ae.Uint32(unix.NFTA_CHAIN_POLICY, uint32(c.policy))
		ae.String(unix.NFTA_CHAIN_TYPE, string(nftables.ChainTypeFilter))
	})
}

func (b *batch) deleteChain(name string) {
	b.add(unix.NFT_MSG_DELCHAIN, 0, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_CHAIN_TABLE, b.table)
		ae.String(unix.NFTA_CHAIN_NAME, name)
	})
}

func (b *batch) flushChain(name string) {
	b.add(unix.NFT_MSG_DELRULE, 0, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, b.table)
		ae.String(unix.NFTA_RULE_CHAIN, name)
	})
}

func (b *batch) addRules(c chain) {
	comments := c.comments()
	for i, r := range c.rules {
		var exprs []expr.Any
		for _, m := range r.matches {
			exprs = append(exprs, m.exprs...)
			if m.members != nil {
				exprs = append(exprs, &expr.Lookup{
					SourceRegister: register, SetName: anonymousName, SetID: b.addMembers(m.members), Invert: m.invert,
				})
			}
		}
		b.addRule(c.name, append(exprs, r.action...), comments[i])
	}
}

func (b *batch) addRule(chain string, exprs []expr.Any, comment string) {
	b.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, b.table)
		ae.String(unix.NFTA_RULE_CHAIN, chain)
		ae.Nested(unix.NFTA_RULE_EXPRESSIONS, func(ae *netlink.AttributeEncoder) error {
			for _, e := range exprs {
				data, err := expr.Marshal(byte(nftables.TableFamilyNetdev), e)
				if err != nil {
					return err
				}
				ae.Bytes(unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, data)
			}
			return nil
		})
		ae.Bytes(unix.NFTA_RULE_USERDATA, userdata.AppendString(nil, userdata.TypeComment, comment))
	})
}
