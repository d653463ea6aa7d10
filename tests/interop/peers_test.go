package interop

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"tandem/appliance/lab"
)

// Where the packages keep the daemons, which is not on everybody's path.
const (
	frrPath        = "/usr/lib/frr"
	keepalivedPath = "/usr/sbin/keepalived"
)

// kind is a make of routers.
type kind string

const (
	makeKeepalived kind = "keepalived"
	makeFRR        kind = "FRR"
	makeTandem     kind = "Tandem"
)

// need skips the test where there is no router of that make.
func (k kind) need(s *stand) {
	s.t.Helper()
	switch k {
	case makeTandem:
		return
	case makeKeepalived:
		if _, err := os.Stat(keepalivedPath); err != nil {
			s.t.Skip("keepalived is not installed: run tests/tools.sh as root")
		}
		return
	case makeFRR:
	}
	if _, err := os.Stat(filepath.Join(frrPath, "vrrpd")); err != nil {
		s.t.Skip("FRR's vrrpd is not installed: run tests/tools.sh as root")
	}
	if lab.Privilege() != "root" {
		s.t.Skip("FRR changes its user, which it cannot in a user namespace: run the test as root")
	}
}

// peer adds a router of that make to the LAN.
func (s *stand) peer(k kind, c settings) string {
	s.t.Helper()
	k.need(s)
	if k == makeTandem {
		return s.tandem(c)
	}
	m := s.newMachine(c)
	s.must(m.ownAddresses())
	if k == makeFRR {
		// FRR leaves it to the administrator that eth0 does not answer for the virtual
		// address.
		s.must(m.ns.Do(func() error { return writeSysctl("ipv4/conf/all/arp_ignore", "1") }))
		s.routers[c.name] = &frr{m}
	} else {
		s.routers[c.name] = &keepalived{m}
	}
	return c.name
}

// keepalived is a router with one VRRP instance for each family.
type keepalived struct{ *machine }

func (r *keepalived) configuration() string {
	var b strings.Builder
	b.WriteString("global_defs {\n router_id interop\n}\n")
	for _, f := range r.s.families() {
		fmt.Fprintf(&b, "vrrp_instance %s {\n state BACKUP\n interface eth0\n use_vmac %s\n", f, r.vmac(f))
		fmt.Fprintf(&b, " virtual_router_id %d\n priority %d\n version %d\n advert_int %v\n",
			vrid, r.priority, r.s.version, r.advertisement().Seconds())
		if !r.preempt {
			b.WriteString(" nopreempt\n")
		}
		b.WriteString(" virtual_ipaddress {\n")
		for _, address := range f.virtualAddresses() {
			fmt.Fprintf(&b, "  %s\n", hostPrefix(address))
		}
		b.WriteString(" }\n}\n")
	}
	return b.String()
}

// hostPrefix is an address with the length of the LAN's prefix.
func hostPrefix(address netip.Addr) netip.Prefix {
	if address.Is4() {
		return netip.PrefixFrom(address, 24)
	}
	return netip.PrefixFrom(address, 64)
}

// vmac names the interface with the virtual MAC address.
func (m *machine) vmac(f family) string { return fmt.Sprintf("vrrp%d-%d", f, vrid) }

// clear removes the interfaces with the virtual MAC addresses, which stay behind when a
// peer is killed.
func (m *machine) clear() error {
	return m.with(func(h *netlink.Handle) error {
		for _, f := range m.s.families() {
			link, err := h.LinkByName(m.vmac(f))
			var missing netlink.LinkNotFoundError
			switch {
			case errors.As(err, &missing):
			case err != nil:
				return err
			default:
				if err := h.LinkDel(link); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (r *keepalived) start() error {
	if err := r.clear(); err != nil {
		return err
	}
	if err := r.write("keepalived.conf", r.configuration()); err != nil {
		return err
	}
	if err := r.begin(); err != nil {
		return err
	}
	return r.launch(keepalivedPath, "--dont-fork", "--log-console", "--log-detail", "--vrrp",
		"--use-file", r.path("keepalived.conf"), "--pid", r.path("pid"), "--vrrp_pid", r.path("vrrp.pid"))
}

func (r *keepalived) listens() error {
	for _, f := range r.s.families() {
		if err := r.said(fmt.Sprintf("(%s) Entering BACKUP STATE", f)); err != nil {
			return err
		}
	}
	return nil
}

func (r *keepalived) stop() error { return r.terminate() }

// frr is a router with zebra and vrrpd.
type frr struct{ *machine }

func (r *frr) configuration() string {
	var b strings.Builder
	fmt.Fprintf(&b, "debug vrrp protocol\ninterface eth0\n vrrp %d version %d\n vrrp %d priority %d\n vrrp %d advertisement-interval %d\n",
		vrid, r.s.version, vrid, r.priority, vrid, r.advertisement().Milliseconds())
	if !r.preempt {
		fmt.Fprintf(&b, " no vrrp %d preempt\n", vrid)
	}
	for _, f := range r.s.families() {
		for _, address := range f.virtualAddresses() {
			fmt.Fprintf(&b, " vrrp %d %s %s\n", vrid, map[family]string{ipv4: "ip", ipv6: "ipv6"}[f], address)
		}
	}
	return b.String()
}

// makeVMACs makes the interfaces that FRR expects of its administrator.
func (r *frr) makeVMACs() error {
	return r.with(func(h *netlink.Handle) error {
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, f := range r.s.families() {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.ParentIndex = r.vmac(f), eth0.Attrs().Index
			mac := f.virtualMAC()
			attrs.HardwareAddr = net.HardwareAddr(mac[:])
			if err := h.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
				return err
			}
			link, err := h.LinkByName(attrs.Name)
			if err != nil {
				return err
			}
			addresses := f.virtualAddresses()
			if f == ipv6 {
				// FRR sends its adverts from a link-local address of this interface and not of
				// eth0: the first in the kernel's list, which is the last that was added.
				if err := onlyLinkLocal(h, link, addresses[0]); err != nil {
					return err
				}
				addresses = append(addresses[1:], r.address(ipv6))
			}
			for _, address := range addresses {
				if err := addAddress(h, link, hostPrefix(address)); err != nil {
					return err
				}
			}
			if err := h.LinkSetUp(link); err != nil {
				return err
			}
		}
		return nil
	})
}

// runDirectory is where the daemons, as their own user, keep their sockets.
func (r *frr) runDirectory() (string, error) {
	owner, err := user.Lookup("frr")
	if err != nil {
		return "", err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return "", err
	}
	gid, err := strconv.Atoi(owner.Gid)
	if err != nil {
		return "", err
	}
	dir := r.path("run")
	for _, d := range []string{dir, "/run/frr"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", err
		}
		if err := os.Chown(d, uid, gid); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func (r *frr) start() error {
	dir, err := r.runDirectory()
	if err != nil {
		return err
	}
	if err := errors.Join(r.clear(), r.makeVMACs()); err != nil {
		return err
	}
	if err := errors.Join(r.write("zebra.conf", ""), r.write("vrrpd.conf", r.configuration()), r.begin()); err != nil {
		return err
	}
	socket := filepath.Join(dir, "zserv")
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, daemon := range []string{"zebra", "vrrpd"} {
		err := r.launch(filepath.Join(frrPath, daemon), "--config_file", r.path(daemon+".conf"), "--log", "stdout",
			"--pid_file", filepath.Join(dir, daemon+".pid"), "--socket", socket, "--vty_socket", dir, "--vty_port", "0")
		if err != nil {
			return err
		}
		// Whoever comes before zebra's socket is there comes again after ten seconds.
		r.s.eventually(r.name, "starts zebra", func() error {
			_, err := os.Stat(socket)
			return err
		})
	}
	return nil
}

func (r *frr) listens() error {
	for _, f := range r.s.families() {
		if err := r.said(fmt.Sprintf("[VRID %d] [%s] Initialize -> Backup", vrid, f)); err != nil {
			return err
		}
	}
	return nil
}

func (r *frr) stop() error { return r.terminate() }
