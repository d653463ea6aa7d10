package main

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
)

// The load's addresses. The server's answer goes back by the virtual router.
const loadClient = "10.0.0.101"

// reflectorTable is the table of rules at the client and at the server.
const reflectorTable = "reflector"

// Registers of nftables for 4 bytes each.
const (
	registerA = 8 + iota // NFT_REG32_00
	registerB
	registerC
	registerD
)

// installReflector makes the server's kernel answer every datagram of the load: rules
// where frames come in swap the addresses and the ports and send the frame back by
// the virtual router. It costs much less than any program that answers.
func installReflector() error {
	link, err := net.InterfaceByName("eth0")
	if err != nil {
		return fmt.Errorf("find the server's link: %w", err)
	}
	swap := []expr.Any{
		load(expr.PayloadBaseNetworkHeader, 12, 4, registerA),
		load(expr.PayloadBaseNetworkHeader, 16, 4, registerB),
		load(expr.PayloadBaseTransportHeader, 0, 2, registerC),
		load(expr.PayloadBaseTransportHeader, 2, 2, registerD),
		// The sum over an IP header stays as it is when its addresses are swapped.
		store(registerA, expr.PayloadBaseNetworkHeader, 16, 4),
		store(registerB, expr.PayloadBaseNetworkHeader, 12, 4),
		store(registerC, expr.PayloadBaseTransportHeader, 2, 2),
		store(registerD, expr.PayloadBaseTransportHeader, 0, 2),
	}
	macs := append(append([]byte(nil), virtualMAC(wanVRID)...), link.HardwareAddr...)
	swap = append(swap,
		&expr.Immediate{Register: unix.NFT_REG_1, Data: macs},
		store(unix.NFT_REG_1, expr.PayloadBaseLLHeader, 0, 12),
		&expr.Immediate{Register: registerA, Data: binaryutil.NativeEndian.PutUint32(uint32(link.Index))},
		&expr.Dup{RegDev: registerA, IsRegDevSet: true},
		&expr.Verdict{Kind: expr.VerdictDrop},
	)
	return installRules(append(matchUDP(lab.ServerAddress, 16, 2), swap...))
}

// installSink makes the client's kernel drop the answers, which no socket wants.
func installSink() error {
	return installRules(append(matchUDP(lab.ServerAddress, 12, 0), &expr.Verdict{Kind: expr.VerdictDrop}))
}

func load(base expr.PayloadBase, offset, length, register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}
}

func store(register uint32, base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: register, Base: base, Offset: offset, Len: length}
}

// matchUDP matches the load's datagrams by the server's address and port, each at an
// offset in its header.
func matchUDP(address string, addressAt, portAt uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: binaryutil.BigEndian.PutUint16(unix.ETH_P_IP)},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{unix.IPPROTO_UDP}},
		load(expr.PayloadBaseNetworkHeader, addressAt, 4, unix.NFT_REG_1),
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: netip.MustParseAddr(address).AsSlice()},
		load(expr.PayloadBaseTransportHeader, portAt, 2, unix.NFT_REG_1),
		&expr.Cmp{Op: expr.CmpOpGte, Register: unix.NFT_REG_1, Data: binaryutil.BigEndian.PutUint16(firstDestinationPort)},
	}
}

// installRules makes one rule where frames come in by eth0 of this thread's namespace.
func installRules(expressions []expr.Any) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: reflectorTable})
	chain := conn.AddChain(&nftables.Chain{
		Name: "ingress", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFilter, Device: "eth0",
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: expressions})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("install the rules of the load: %w", err)
	}
	return nil
}
