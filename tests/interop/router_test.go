package interop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	"tandem/appliance/status"
)

// settings are what a scenario tells a router.
type settings struct {
	name     string
	priority uint8
	preempt  bool
	// last is the last part of its own addresses.
	last uint8
	// plain makes Tandem send the checksum of RFC 9568 over IPv4 instead of the one
	// with a pseudo-header.
	plain bool
	// interval is its own advertisement interval; zero is the segment's.
	interval time.Duration
	// ours tells that it is a node of Tandem.
	ours bool
	// pair tells that it is a member of a pair.
	pair bool
	// realTime tells that it runs with real-time priority.
	realTime bool
}

func (c settings) address(f family) netip.Addr {
	if f == ipv6 {
		return netip.MustParseAddr(fmt.Sprintf("fe80::%x", c.last))
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, c.last})
}

func (c settings) mac() hardware { return hardware{2, 0x54, 0, 0, 0, c.last} }

// router is a machine that speaks VRRP.
type router interface {
	base() *machine
	// start starts the programs.
	start() error
	// listens tells that the router has started and is BACKUP or more.
	listens() error
	// stop asks the programs to end in order, and waits.
	stop() error
}

// machine is what all routers have: a namespace on the LAN and programs in it.
type machine struct {
	settings
	s        *stand
	ns       lab.Namespace
	programs []*program
	runs     int
}

// program is a running daemon.
type program struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error
}

// newMachine makes the namespace and its cable.
func (s *stand) newMachine(c settings) *machine {
	s.t.Helper()
	ns, err := lab.NewNamespace(s.prefix + "-" + c.name)
	s.must(err)
	m := &machine{settings: c, s: s, ns: ns}
	s.must(ns.Do(func() error {
		if !s.ipv6 {
			return nil
		}
		for _, scope := range []string{"all", "default"} {
			if err := writeSysctl("ipv6/conf/"+scope+"/disable_ipv6", "0"); err != nil {
				return err
			}
		}
		return nil
	}))
	s.must(s.connect(c.name, ns, c.mac()))
	s.must(m.with(func(h *netlink.Handle) error { return setUp(h, "eth0") }))
	return m
}

func writeSysctl(variable, value string) error {
	return os.WriteFile("/proc/sys/net/"+variable, []byte(value), 0)
}

func (m *machine) base() *machine { return m }

// with calls fn with a netlink handle to the machine's namespace.
func (m *machine) with(fn func(*netlink.Handle) error) error {
	h, err := m.ns.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	return fn(h)
}

// advertisement is the machine's advertisement interval.
func (m *machine) advertisement() time.Duration {
	if m.interval > 0 {
		return m.interval
	}
	return m.s.interval
}

// path is a file of the machine.
func (m *machine) path(name string) string { return filepath.Join(m.s.dir, m.name+"-"+name) }

func (m *machine) write(name, text string) error {
	return os.WriteFile(m.path(name), []byte(text), 0o644)
}

func (m *machine) log() string {
	text, err := os.ReadFile(m.path("log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	return string(text)
}

// said tells whether the machine has logged a word since it was last started.
func (m *machine) said(word string) error {
	_, since, found := strings.Cut(m.log(), m.banner())
	if !found || !strings.Contains(since, word) {
		return fmt.Errorf("%s has not said %q", m.name, word)
	}
	return nil
}

func (m *machine) banner() string { return fmt.Sprintf("--- start %d\n", m.runs) }

// begin notes that the machine is started once more.
func (m *machine) begin() error {
	m.runs++
	m.programs = nil
	f, err := os.OpenFile(m.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(m.banner())
	return errors.Join(err, f.Close())
}

// launch starts a program.
func (m *machine) launch(path string, arguments ...string) error {
	f, err := os.OpenFile(m.path("log"), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // the program has its own descriptor
	cmd := exec.Command(path, arguments...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := m.ns.Start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", filepath.Base(path), err)
	}
	p := &program{cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	m.programs = append(m.programs, p)
	return nil
}

// terminate ends the programs in order, the last that was started first.
func (m *machine) terminate() error {
	for i := len(m.programs) - 1; i >= 0; i-- {
		p := m.programs[i]
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		select {
		case <-p.ended:
		case <-time.After(patience):
			return fmt.Errorf("%s has not ended within %v", p.cmd, patience)
		}
	}
	return nil
}

// wait waits until the programs, which were killed, are reaped.
func (m *machine) wait() {
	for _, p := range m.programs {
		<-p.ended
	}
}

// hurry gives all threads of the machine real-time priority, as Tandem does by itself: a
// router keeps its times only if it is scheduled, and all shall suffer alike. Where that
// is not permitted it is nothing.
func (m *machine) hurry() error {
	if m.ours {
		return nil
	}
	m.realTime = true
	for _, pid := range m.ns.Processes() {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return fmt.Errorf("list the threads of %s: %w", m.name, err)
		}
		for _, thread := range threads {
			id, err := strconv.Atoi(thread.Name())
			if err != nil {
				return err
			}
			err = realTime(id)
			switch {
			case errors.Is(err, unix.EPERM):
				m.realTime = false
			case err != nil:
				return fmt.Errorf("hurry %s: %w", m.name, err)
			}
		}
	}
	return nil
}

// exit says which program has ended; empty if none has.
func (m *machine) exit() string {
	for _, p := range m.programs {
		select {
		case <-p.ended:
			return fmt.Sprintf("%s has ended: %v", p.cmd, p.err)
		default:
		}
	}
	return ""
}

// kill is the death of the machine's programs.
func (m *machine) kill() error {
	if err := m.ns.Kill(); err != nil {
		return err
	}
	m.wait()
	return nil
}

// ownAddresses gives the machine's port its addresses and nothing else.
func (m *machine) ownAddresses() error {
	if m.s.ipv6 {
		if err := m.ns.Do(func() error { return writeSysctl("ipv6/conf/all/forwarding", "1") }); err != nil {
			return err
		}
	}
	return m.with(func(h *netlink.Handle) error {
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := addAddress(h, eth0, netip.PrefixFrom(m.address(ipv4), 24)); err != nil {
			return err
		}
		if !m.s.ipv6 {
			return nil
		}
		return onlyLinkLocal(h, eth0, m.address(ipv6))
	})
}

// onlyLinkLocal gives a link that IPv6 address and takes the others.
func onlyLinkLocal(h *netlink.Handle, link netlink.Link, address netip.Addr) error {
	const generateNone = 1 // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h
	if err := h.LinkSetIP6AddrGenMode(link, generateNone); err != nil {
		return err
	}
	others, err := h.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return err
	}
	for _, other := range others {
		if err := h.AddrDel(link, &other); err != nil {
			return err
		}
	}
	return addAddress(h, link, netip.PrefixFrom(address, 64))
}

func addAddress(h *netlink.Handle, link netlink.Link, prefix netip.Prefix) error {
	address, err := netlink.ParseAddr(prefix.String())
	if err != nil {
		return err
	}
	if prefix.Addr().Is6() {
		address.Flags = 0x02 // IFA_F_NODAD of linux/if_addr.h
	}
	if err := h.AddrReplace(link, address); err != nil {
		return fmt.Errorf("give %s the address %s: %w", link.Attrs().Name, prefix, err)
	}
	return nil
}

// tandem is a node.
type tandem struct {
	*machine
	// document is what it is started with.
	document  func() string
	publicKey string
}

// tandem adds a node that is the only member of its document: it knows nobody by name.
func (s *stand) tandem(c settings) string {
	s.t.Helper()
	c.ours = true
	r := &tandem{machine: s.newMachine(c)}
	r.document = r.single
	s.routers[c.name] = r
	s.must(r.makeKey())
	return c.name
}

// makeKey makes the node's key.
func (r *tandem) makeKey() error {
	out, err := exec.Command(os.Getenv(binaryVariable), "keygen", "--out", r.path("key")).Output()
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	r.publicKey = strings.TrimSpace(string(out))
	return nil
}

// single is the document of a router without a second member.
func (r *tandem) single() string {
	return r.s.electionOf(r) + fmt.Sprintf("  - {name: %s, priority: %d}\n", r.name, r.priority) + r.s.networkOf(r)
}

// electionOf begins a document of such members.
func (s *stand) electionOf(members ...*tandem) string {
	return fmt.Sprintf("version: 1\ngroup: interop\nelection: {advertisement_interval: %v, preempt: %v}\nmembers:\n",
		members[0].advertisement(), members[0].preempt)
}

// networkOf is the LAN in a document of such members.
func (s *stand) networkOf(members ...*tandem) string {
	var b strings.Builder
	fmt.Fprintf(&b, "networks:\n  - name: lan\n    vrid: %d\n    prefix: 10.0.0.0/24\n    gateway: %s\n    ports:\n", vrid, ipv4.virtualAddresses()[0])
	for _, m := range members {
		port := fmt.Sprintf("interface: eth0, address: %s", m.address(ipv4))
		if s.ipv6 {
			port += fmt.Sprintf(", link_local: %q", m.address(ipv6))
		}
		fmt.Fprintf(&b, "      %s: {%s}\n", m.name, port)
	}
	switch {
	case s.version == 2:
		b.WriteString("    vrrp: {version: 2}\n")
	case !members[0].plain:
		b.WriteString("    vrrp: {version: 3, checksum: pseudo-header}\n")
	}
	if s.ipv6 {
		addresses := ipv6.virtualAddresses()
		fmt.Fprintf(&b, "    ipv6: {prefix: %q, gateway: %q, link_local: %q}\n", "2001:db8::/64", addresses[1], addresses[0])
	}
	return b.String()
}

func (r *tandem) start() error {
	if err := r.write("document.yaml", r.document()); err != nil {
		return err
	}
	if err := r.begin(); err != nil {
		return err
	}
	return r.launch(os.Getenv(binaryVariable), "run", "--config", r.path("document.yaml"),
		"--node", r.name, "--key", r.path("key"), "--state-dir", r.path("state"))
}

func (r *tandem) listens() error {
	answer, err := r.status()
	if err == nil && answer.Role != "BACKUP" && answer.Role != "MASTER" {
		err = fmt.Errorf("%s is %s", r.name, answer.Role)
	}
	r.realTime = answer.Elector.RealTime
	return err
}

func (r *tandem) status() (status.Status, error) {
	var answer status.Status
	client := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.path("state"), status.SocketName))
		},
	}}
	response, err := client.Get("http://unix/v1/status")
	if err != nil {
		return answer, fmt.Errorf("ask %s: %w", r.name, err)
	}
	defer func() { _ = response.Body.Close() }()
	return answer, json.NewDecoder(response.Body).Decode(&answer)
}

func (r *tandem) stop() error {
	if err := r.terminate(); err != nil {
		return err
	}
	return r.programs[0].err // what ended with exit code 0 has restored everything
}
