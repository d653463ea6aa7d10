package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
)

// mapping is how a flow of the load, known by its ports, is translated: the port that
// answers go to. It is zero where it is not known.
type mapping uint16

// sessionTable has the flows of the load.
type sessionTable map[[2]uint16]mapping

// kernelTable reads the flows of the load out of a node's kernel.
func kernelTable(node lab.Namespace) (sessionTable, error) {
	table := make(sessionTable)
	err := node.Do(func() error {
		conn, err := conntrack.Dial(nil)
		if err != nil {
			return fmt.Errorf("open ctnetlink: %w", err)
		}
		defer func() { _ = conn.Close() }() // it was only read
		flows, err := conn.Dump(nil)
		if err != nil {
			return fmt.Errorf("dump the flows: %w", err)
		}
		for _, f := range flows {
			ports := [2]uint16{f.TupleOrig.Proto.SourcePort, f.TupleOrig.Proto.DestinationPort}
			if isLoad(f.TupleOrig.Proto.Protocol, f.TupleOrig.IP.DestinationAddress, ports[1]) {
				table[ports] = mapping(f.TupleReply.Proto.DestinationPort)
			}
		}
		return nil
	})
	return table, err
}

func isLoad(protocol uint8, destination netip.Addr, port uint16) bool {
	return protocol == unix.IPPROTO_UDP && port >= firstDestinationPort && destination == netip.MustParseAddr(lab.ServerAddress)
}

// kernelFlows is the number of all flows in a node's kernel.
func kernelFlows(node lab.Namespace) (count int, err error) {
	err = node.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		if err != nil {
			return fmt.Errorf("count the flows: %w", err)
		}
		count, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err
	})
	return count, err
}

// parseCache reads the flows of the load out of a cache that conntrackd prints, one
// flow a line. It prints the original direction only.
func parseCache(said []byte) sessionTable {
	table := make(sessionTable)
	lines := bufio.NewScanner(bytes.NewReader(said))
	for lines.Scan() {
		var ports [2]uint16
		var destination netip.Addr
		fields := strings.Fields(lines.Text())
		for _, field := range fields {
			name, value, _ := strings.Cut(field, "=")
			number, _ := strconv.ParseUint(value, 10, 16) // zero is no port of the load
			switch {
			case name == "dst" && !destination.IsValid():
				destination, _ = netip.ParseAddr(value) // what is no address is none of the load's
			case name == "sport" && ports[0] == 0:
				ports[0] = uint16(number)
			case name == "dport" && ports[1] == 0:
				ports[1] = uint16(number)
			}
		}
		if len(fields) > 0 && fields[0] == "udp" && isLoad(unix.IPPROTO_UDP, destination, ports[1]) {
			table[ports] = 0
		}
	}
	return table
}

// difference is by what two tables differ.
type difference struct {
	// Missing flows are in the MASTER's table only, Extra ones in the BACKUP's only, and
	// Wrong ones are translated in another way.
	Missing int `json:"missing"`
	Extra   int `json:"extra"`
	Wrong   int `json:"wrong"`
}

func (d difference) none() bool { return d == difference{} }

func compare(master, backup sessionTable) (d difference) {
	for ports, at := range master {
		switch other, ok := backup[ports]; {
		case !ok:
			d.Missing++
		case other != at && other != 0 && at != 0:
			d.Wrong++
		}
	}
	for ports := range backup {
		if _, ok := master[ports]; !ok {
			d.Extra++
		}
	}
	return d
}

// externalTable reads the flows of the load out of conntrackd's external cache.
func (k *keepalived) externalTable(ctx context.Context, node string) (sessionTable, error) {
	out, err := exec.CommandContext(ctx, conntrackdProgram, "-C", k.path(node, k.replicationConf()), "-e").Output()
	if err != nil {
		return nil, fmt.Errorf("ask conntrackd on node %s for its external cache: %w", node, err)
	}
	return parseCache(out), nil
}

func loadClientAddress() netip.Addr { return netip.MustParseAddr(loadClient) }

func serverAddress() netip.Addr { return netip.MustParseAddr(lab.ServerAddress) }
