package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// Port is what was measured of one of the node's interfaces and of the addresses that
// belong there.
type Port struct {
	// Carrier is the name of the network or uplink, or "ha".
	Carrier   string
	Interface string
	// Found, Ethernet, Up and HasCarrier are the state of the interface. LinkKind is
	// what sort of link it is, e.g. "vlan" or "ipvlan".
	Found, Ethernet, Up, HasCarrier bool
	LinkKind                        string
	MTU                             int
	MAC                             string
	// Master is the bridge or bond that has taken it, if any.
	Master string
	// Promiscuous tells that somebody listens to everything on it.
	Promiscuous bool
	// Programs are XDP programs and filters of others that see its frames first.
	Programs []string
	// Address is the node's own, one that does not stand there if Present is false.
	Address string
	Present bool
	// Misplaced are addresses of the document that stand where they must not.
	Misplaced []Placed
	// Claims are addresses of the document for which another host answers.
	Claims []Claim
	// Taken are names that Tandem needs and somebody else's links have.
	Taken []string
	// Managers are other programs that manage the interface.
	Managers []string
}

// Placed is an address that stands on an interface.
type Placed struct {
	Address, Interface string
}

// Claim is an address for which a host answered.
type Claim struct {
	Address, MAC string
	// Virtual tells that the answer came from the virtual MAC of the document: a
	// MASTER runs.
	Virtual bool
}

// JudgePorts says what is to say about the interfaces of a document.
func JudgePorts(ports []Port, running bool) []Finding {
	f := &findings{section: SectionInterfaces}
	for _, p := range ports {
		if !p.Found {
			f.trouble("interface", p.Carrier, "there is no interface %s here: correct the document, or make the interface before Tandem starts", p.Interface)
			continue
		}
		judgeLink(f, p, running)
		judgeAddresses(f, p, running)
		judgeCompany(f, p)
	}
	judgeSameMAC(f, ports)
	return f.list
}

func judgeLink(f *findings, p Port, running bool) {
	switch {
	case !p.Ethernet:
		f.trouble("interface", p.Carrier, "%s is not Ethernet and has no MAC addresses: use another interface", p.Interface)
	case p.LinkKind == "ipvlan":
		f.trouble("interface", p.Carrier, "%s is an ipvlan, which cannot carry a MAC address of its own: use a macvlan or the interface below", p.Interface)
	case p.Master != "":
		f.trouble("interface", p.Carrier, "%s is a port of %s, so no address and no virtual link can stand on it: use %s itself in the document", p.Interface, p.Master, p.Master)
	case !p.Up && running:
		f.trouble("interface", p.Carrier, "%s is down while the node runs: set it up with `ip link set %s up`", p.Interface, p.Interface)
	case !p.Up:
		f.trouble("interface", p.Carrier, "%s is down, so nothing about its segment can be tested: set it up with `ip link set %s up` (Tandem does so itself at its start) and ask again", p.Interface, p.Interface)
	case !p.HasCarrier:
		f.trouble("interface", p.Carrier, "%s has no carrier: check cable, switch port and what is at the other end", p.Interface)
	default:
		text := fmt.Sprintf("%s is up, MTU %d, MAC %s", p.Interface, p.MTU, p.MAC)
		if p.Promiscuous {
			text += ", promiscuous"
		}
		f.ok("interface", p.Carrier, "%s", text)
	}
	if len(p.Programs) > 0 {
		f.warn("filters", p.Carrier, "%s see the frames of %s before Tandem does: make sure that they pass VRRP (IP protocol 112), ARP and the virtual MAC, both ways",
			strings.Join(p.Programs, " and "), p.Interface)
	}
}

func judgeAddresses(f *findings, p Port, running bool) {
	for _, m := range p.Misplaced {
		f.trouble("address", p.Carrier, "%s stands on %s, where it must not: remove it with `ip address del %s dev %s` and from what sets it", m.Address, m.Interface, m.Address, m.Interface)
	}
	claimed := false
	for _, c := range p.Claims {
		if c.Virtual {
			f.ok("conflict", p.Carrier, "%s is answered by its virtual MAC %s: a MASTER runs", c.Address, c.MAC)
			continue
		}
		claimed = true
		f.trouble("conflict", p.Carrier, "%s is already in use on the segment of %s, by %s: give that host another address, or correct the document", c.Address, p.Interface, c.MAC)
	}
	switch {
	case claimed:
	case p.Present:
		f.ok("address", p.Carrier, "%s stands on %s and nobody else claims it", p.Address, p.Interface)
	case running:
		f.trouble("address", p.Carrier, "%s is not on %s though the node runs: look for what removes it, and into the node's log", p.Address, p.Interface)
	default:
		f.ok("address", p.Carrier, "nobody claims %s; Tandem will set it on %s", p.Address, p.Interface)
	}
}

func judgeCompany(f *findings, p Port) {
	for _, name := range p.Taken {
		f.trouble("name", p.Carrier, "a link that is not Tandem's has the name %s: rename or delete it", name)
	}
	for _, m := range p.Managers {
		f.warn("managed", p.Carrier, "%s manages %s and may remove addresses, routes and rules that it does not know: %s", m, p.Interface, unmanage(m, p.Interface))
	}
}

func unmanage(program, link string) string {
	switch program {
	case "systemd-networkd":
		return "set Unmanaged=yes for it in a .network file, and ManageForeignRoutes=no and ManageForeignRoutingPolicyRules=no in networkd.conf"
	case "NetworkManager":
		return "run `nmcli device set " + link + " managed no` and make it last with unmanaged-devices in NetworkManager.conf"
	}
	return "take the interface out of its configuration"
}

func judgeSameMAC(f *findings, ports []Port) {
	by := map[string][]string{}
	for _, p := range ports {
		if p.Found && p.Ethernet && !slices.Contains(by[p.MAC], p.Interface) && p.LinkKind != "vlan" {
			by[p.MAC] = append(by[p.MAC], p.Interface)
		}
	}
	for _, p := range ports {
		if same := by[p.MAC]; len(same) > 1 && same[0] == p.Interface {
			f.warn("same-mac", p.Carrier, "%s have the same MAC address %s, which confuses switches if they meet in one: give each its own", strings.Join(same, " and "), p.MAC)
		}
	}
}
