package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"tandem/conntracksync/peer"
	"tandem/router/config"
)

// neededCapabilities are what a node cannot work without.
var neededCapabilities = [...]struct {
	bit  uint
	name string
}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"}}

// checkPrivileges says in one sentence what is missing.
func checkPrivileges() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read own capabilities: %w", err)
	}
	var missing []string
	for _, c := range neededCapabilities {
		if sets[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("a node needs %s: run it as root or grant the capabilities", strings.Join(missing, " and "))
	}
	return nil
}

// lock makes the state directory and claims it, so that a node runs once.
func lock(dir string) (func(), error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // the first error says more
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("this node runs already (%s is locked); stop it first or choose another --state-dir", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil // closing is unlocking
}

// loadIdentity reads the node's key and checks that it is the one in the document.
func loadIdentity(path string, member config.Member) (*peer.Identity, error) {
	id, err := peer.LoadIdentity(path)
	if err != nil {
		return nil, err
	}
	if id.PublicKey() != member.PublicKey {
		return nil, fmt.Errorf("the key in %s is not the one that the document gives %s: its public_key would have to be %s", path, member.Name, id.PublicKey())
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
