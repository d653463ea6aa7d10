package node

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"tandem/conntracksync/peer"
	"tandem/router/config"
)

// neededCapabilities are what a node cannot work without, by their bits.
func neededCapabilities() map[uint]string {
	return map[uint]string{unix.CAP_NET_ADMIN: "CAP_NET_ADMIN", unix.CAP_NET_RAW: "CAP_NET_RAW"}
}

// checkPrivileges says in one sentence what is missing.
func checkPrivileges() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read own capabilities: %w", err)
	}
	var missing []string
	for bit, name := range neededCapabilities() {
		if sets[bit/32].Effective&(1<<(bit%32)) == 0 {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	if len(missing) > 0 {
		return fmt.Errorf("a node needs %s and this process has not: run it as root or grant the capabilities", strings.Join(missing, " and "))
	}
	return nil
}

// loadIdentity reads the node's key and checks that it is the one in the document.
func loadIdentity(path string, member config.Member) (*peer.Identity, error) {
	id, err := peer.LoadIdentity(path)
	if err != nil {
		return nil, err
	}
	if id.PublicKey() != member.PublicKey {
		return nil, fmt.Errorf("the key in %s is not the one that the document gives %s: use the right --key, or make the document's public_key %s on both nodes", path, member.Name, id.PublicKey())
	}
	return id, nil
}

func memberNames(doc *config.Document) string {
	names := make([]string, len(doc.Members))
	for i, m := range doc.Members {
		names[i] = m.Name
	}
	return strings.Join(names, " and ")
}
