package fence

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// sendRoom is for what the kernel counts beside the messages of a batch.
	sendRoom = 64 << 10
	// dumpAttempts bounds how often a list is read again because somebody changed
	// the ruleset meanwhile.
	dumpAttempts = 20
)

func (f *Fence) connect() error {
	var socket *netlink.Conn
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(f.namespace)),
		nftables.WithSockOptions(func(c *netlink.Conn) error {
			socket = c
			return nil
		}))
	if err != nil {
		return fmt.Errorf("open nftables socket: %w", err)
	}
	f.nft, f.socket = conn, socket
	f.port.Store(socket.PID())
	return nil
}

// renew replaces the connection on which a request has failed: the kernel answers
// each message of a batch, and an answer that was not read would be taken for that
// of the next request, for ever. The table of the old one is adopted by the next
// Ensure.
func (f *Fence) renew(failed error) error {
	if failed == nil {
		return nil
	}
	broken := f.nft
	if err := f.connect(); err != nil {
		return errors.Join(failed, err)
	}
	_ = broken.CloseLasting()
	return failed
}

// ioctlSocket is a socket for questions about interfaces.
func ioctlSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	return fd, nil
}

// index returns the index of an interface; false if there is none. A list of all of
// them would cost a thousand links more than the whole rest.
func (f *Fence) index(name string) (int, bool, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, false, nil // too long a name for an interface
	}
	switch err := unix.IoctlIfreq(f.ioctl, unix.SIOCGIFINDEX, request); {
	case errors.Is(err, unix.ENODEV):
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("look up interface %s: %w", name, err)
	}
	return int(request.Uint32()), true, nil
}

// send executes a transaction. An error means that nothing of it was done.
func (f *Fence) send(b *batch) error {
	if b.err != nil {
		return b.err
	}
	messages := b.framed()
	size := sendRoom
	for _, m := range messages {
		size += unix.NLMSG_HDRLEN + len(m.Data)
	}
	if have, err := f.socket.WriteBuffer(); err == nil && have < size {
		if err := f.socket.SetWriteBuffer(size); err != nil {
			return fmt.Errorf("make room for a transaction: %w", err)
		}
	}
	sent, err := f.socket.SendMessages(messages)
	if err != nil {
		return fmt.Errorf("send transaction: %w", err)
	}
	last := sent[len(sent)-2].Header.Sequence
	for {
		answers, err := f.socket.Receive()
		if err != nil {
			return err
		}
		for _, a := range answers {
			if a.Header.Sequence == last {
				return nil
			}
		}
	}
}

// canPersist asks the kernel whether it knows tables that belong to a socket and
// outlive it (Linux 6.9), by a transaction that fails in any case and so leaves no
// trace: the answer is which of its two messages is refused first.
func (f *Fence) canPersist() bool {
	b := &batch{table: fmt.Sprintf("tandem-%d-probe", f.port.Load())}
	b.addTable(flagOwner | flagPersist)
	b.deleteChain("none")
	err := f.renew(f.send(b))
	return errors.Is(err, unix.ENOENT)
}

// tableState is what the kernel says about a table.
type tableState struct {
	exists bool
	flags  uint32
	// owner is the netlink port that owns the table; 0 if none.
	owner uint32
}

// persistent tells that the table belongs to somebody's socket and outlives it.
func (s tableState) persistent() bool {
	return s.flags&(flagOwner|flagPersist) == flagOwner|flagPersist
}

// orphan tells that the owner of the table is gone.
func (s tableState) orphan() bool { return s.flags&(flagOwner|flagPersist) == flagPersist }

func (f *Fence) tableState(group string) (tableState, error) {
	data, err := encode(func(ae *netlink.AttributeEncoder) { ae.String(unix.NFTA_TABLE_NAME, tableName(group)) })
	if err != nil {
		return tableState{}, err
	}
	answer, err := f.socket.Execute(netlink.Message{
		Header: netlink.Header{Type: messageType(unix.NFT_MSG_GETTABLE), Flags: netlink.Request},
		Data:   append(familyHeader(nftables.TableFamilyNetdev, 0), data...),
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return tableState{}, nil
	case err != nil:
		return tableState{}, fmt.Errorf("read table netdev %s: %w", tableName(group), err)
	}
	s := tableState{exists: true}
	for _, m := range answer {
		err := decode(m, func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.NFTA_TABLE_FLAGS:
				s.flags = ad.Uint32()
			case tableOwner:
				s.owner = ad.Uint32()
			}
		})
		if err != nil {
			return tableState{}, err
		}
	}
	return s, nil
}

// decode calls f for every attribute of the message.
func decode(m netlink.Message, f func(*netlink.AttributeDecoder)) error {
	const header = 4
	if len(m.Data) < header {
		return errors.New("read nftables message: it is too short")
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[header:])
	if err != nil {
		return fmt.Errorf("read nftables message: %w", err)
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		f(ad)
	}
	if err := ad.Err(); err != nil {
		return fmt.Errorf("read nftables message: %w", err)
	}
	return nil
}

// dump reads a list whole: again if somebody changed the ruleset meanwhile.
func (f *Fence) dump(kind int, group string) ([]netlink.Message, error) {
	const tableAttribute = 1 // of chains and of rules alike
	data, err := encode(func(ae *netlink.AttributeEncoder) { ae.String(tableAttribute, tableName(group)) })
	if err != nil {
		return nil, err
	}
	for range dumpAttempts {
		list, err := f.socket.Execute(netlink.Message{
			Header: netlink.Header{Type: messageType(kind), Flags: netlink.Request | netlink.Dump},
			Data:   append(familyHeader(nftables.TableFamilyNetdev, 0), data...),
		})
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		interrupted := false
		for _, m := range list {
			interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
		}
		if !interrupted {
			return list, nil
		}
	}
	return nil, errors.New("somebody changes nftables all the time")
}

// standing is a chain as it is in the kernel.
type standing struct {
	// hooked tells whether it is a base chain.
	hooked   bool
	hook     nftables.ChainHook
	policy   nftables.ChainPolicy
	comments []string
}

// standing reads all chains of the group with the comments of their rules.
func (f *Fence) standing(group string) (map[string]*standing, error) {
	chains, err := f.dump(unix.NFT_MSG_GETCHAIN, group)
	if err != nil {
		return nil, fmt.Errorf("list the chains of table netdev %s: %w", tableName(group), err)
	}
	m := make(map[string]*standing, len(chains))
	for _, c := range chains {
		if err := addChain(m, c, tableName(group)); err != nil {
			return nil, err
		}
	}
	rules, err := f.dump(unix.NFT_MSG_GETRULE, group)
	if err != nil {
		return nil, fmt.Errorf("list the rules of table netdev %s: %w", tableName(group), err)
	}
	for _, r := range rules {
		var chain, comment string
		err := decode(r, func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.NFTA_RULE_CHAIN:
				chain = ad.String()
			case unix.NFTA_RULE_USERDATA:
				comment, _ = userdata.GetString(ad.Bytes(), userdata.TypeComment)
			}
		})
		if err != nil {
			return nil, err
		}
		if c, ok := m[chain]; ok {
			c.comments = append(c.comments, comment)
		}
	}
	return m, nil
}

func addChain(m map[string]*standing, message netlink.Message, table string) error {
	var name, of string
	c := &standing{}
	err := decode(message, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_CHAIN_TABLE:
			of = ad.String()
		case unix.NFTA_CHAIN_NAME:
			name = ad.String()
		case unix.NFTA_CHAIN_POLICY:
			c.policy = nftables.ChainPolicy(ad.Uint32())
		case unix.NFTA_CHAIN_HOOK:
			c.hooked = true
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					if ad.Type() == unix.NFTA_HOOK_HOOKNUM {
						c.hook = nftables.ChainHook(ad.Uint32())
					}
				}
				return nil
			})
		}
	})
	if err == nil && of == table {
		m[name] = c
	}
	return err
}

// leaseState is the one element of the set.
type leaseState struct {
	// usable tells that the set is there and made as it must be.
	usable bool
	open   bool
	// remaining is meaningless for an eternal lease, which only somebody else can
	// have made: no advert renews it and nothing ends it.
	remaining time.Duration
	eternal   bool
}

func (f *Fence) leaseState(group string) (leaseState, error) {
	set, err := f.nft.GetSetByName(table(group), setName)
	switch {
	case errors.Is(err, unix.ENOENT):
		return leaseState{}, nil
	case err != nil:
		return leaseState{}, fmt.Errorf("read set %s of table netdev %s: %w", setName, tableName(group), err)
	case !set.HasTimeout || !set.Dynamic || set.KeyType.Bytes != nftables.TypeMark.Bytes:
		return leaseState{}, nil
	}
	elements, err := f.nft.GetSetElements(set)
	if err != nil {
		return leaseState{}, fmt.Errorf("read set %s of table netdev %s: %w", setName, tableName(group), err)
	}
	s := leaseState{usable: true}
	for _, e := range elements {
		if string(e.Key) != string(keyBytes()) {
			continue
		}
		// An element that has expired stays until it is collected.
		s.eternal = e.Timeout == 0 && e.Expires == 0 || e.Expires > MaxLease
		s.remaining = e.Expires
		if s.eternal {
			s.remaining = math.MaxInt64
		}
		s.open = s.remaining > 0
	}
	return s, nil
}

func closeAll(namespace netns.NsHandle, ioctl int) error {
	return errors.Join(unix.Close(ioctl), namespace.Close())
}
