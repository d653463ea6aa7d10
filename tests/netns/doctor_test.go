package netns

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/doctor"
	"tandem/appliance/lab"
	"tandem/vrrp"
)

// diagnosis is what one run of `tandem doctor` found.
type diagnosis struct {
	t *testing.T
	doctor.Report
	code int
}

// doctors runs the doctor on both members at the same time.
func (s *stand) doctors(prepare ...func(cmd *exec.Cmd, node string)) map[string]diagnosis {
	s.t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	found := map[string]diagnosis{}
	for _, node := range nodes() {
		wg.Go(func() {
			d := s.doctor(node, prepare...)
			mu.Lock()
			defer mu.Unlock()
			found[node] = d
		})
	}
	wg.Wait()
	return found
}

// doctor runs it on one member.
func (s *stand) doctor(node string, prepare ...func(cmd *exec.Cmd, node string)) diagnosis {
	s.t.Helper()
	d := diagnosis{t: s.t}
	cmd := exec.CommandContext(s.t.Context(), os.Getenv(binaryVariable), "doctor", "--json", "--peer-wait", patience.String(), "--listen", "2s",
		"--config", s.ConfigPath(), "--node", node, "--key", s.KeyPath(node), "--state-dir", filepath.Dir(s.SocketPath(node)))
	for _, p := range prepare {
		p(cmd, node)
	}
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := s.Namespace(node).Run(cmd)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Errorf("run the doctor on %s: %v", node, err)
		return d
	}
	d.code = cmd.ProcessState.ExitCode()
	if err := json.Unmarshal(out.Bytes(), &d.Report); err != nil {
		s.t.Errorf("the doctor on %s said %q (%s): %v", node, out.String(), complaint.String(), err)
	}
	s.t.Logf("%s", doctor.Render(d.Report, false, 160))
	return d
}

// troubles fails the test unless exactly the wanted findings are in trouble. Each is
// "check where: words that the sentence holds".
func (d diagnosis) troubles(want ...string) {
	d.t.Helper()
	open := append([]string(nil), want...)
	for _, f := range d.Findings {
		if f.Grade != doctor.Trouble {
			continue
		}
		matched := false
		for i, w := range open {
			names, words, _ := strings.Cut(w, ": ")
			if names == strings.TrimSpace(f.Check+" "+f.Where) && strings.Contains(f.Text, words) {
				open = append(open[:i], open[i+1:]...)
				matched = true
				break
			}
		}
		if !matched {
			d.t.Errorf("%s finds trouble that is none: %s %s: %s", d.Node, f.Check, f.Where, f.Text)
		}
	}
	for _, w := range open {
		d.t.Errorf("%s does not find %q", d.Node, w)
	}
	if wantCode := min(len(want), 1); d.code != wantCode {
		d.t.Errorf("the doctor on %s ends with %d, want %d", d.Node, d.code, wantCode)
	}
}

// is fails the test unless all findings of a check at a place have a grade.
func (d diagnosis) is(grade doctor.Grade, check, where string) {
	d.t.Helper()
	said := false
	for _, f := range d.Findings {
		if f.Check != check || f.Where != where {
			continue
		}
		said = true
		if f.Grade != grade {
			d.t.Errorf("%s: %s %s is %v, want %v: %s", d.Node, check, where, f.Grade, grade, f.Text)
		}
	}
	if said {
		return
	}
	d.t.Errorf("%s says nothing about %s %s", d.Node, check, where)
}

// nft changes the ruleset of a namespace.
func (s *stand) nft(namespace, format string, args ...any) {
	s.t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(format, args...))
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := s.Namespace(namespace).Run(cmd); err != nil {
		s.t.Fatalf("nft in %s: %v: %s", namespace, err, out)
	}
}

// bridge drops what matches on the switches.
func (s *stand) bridge(rules ...string) {
	s.t.Helper()
	s.nft(lab.Fabric, "table bridge defects {\nchain forward {\ntype filter hook forward priority 0; policy accept;\n%s\n}\n}\n", strings.Join(rules, "\n"))
}

func (s *stand) ip(namespace string, args ...string) {
	s.t.Helper()
	s.tool(namespace, "ip", args...)
}

func (s *stand) tool(namespace, name string, args ...string) {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := s.Namespace(namespace).Run(cmd); err != nil {
		s.t.Fatalf("%s %s in %s: %v: %s", name, strings.Join(args, " "), namespace, err, out)
	}
}

func TestDoctorFindsNothingOnAHealthyNetwork(t *testing.T) {
	s := newStand(t)
	for _, d := range s.doctors() {
		d.troubles()
		for _, carrier := range []string{"lan", "wan"} {
			d.is(doctor.OK, "frames", carrier)
			d.is(doctor.OK, "mtu", carrier)
			d.is(doctor.OK, "virtual-mac", carrier)
			d.is(doctor.OK, "vrrp-routers", carrier)
		}
		d.is(doctor.OK, "frames", "ha")
		d.is(doctor.OK, "round-trip", "ha")
		d.is(doctor.OK, "gateway", "wan")
		d.is(doctor.OK, "gratuitous-arp", "wan")
		d.is(doctor.OK, "fence", "")
	}
}

// lanVirtualMAC is that of the lan's VRID.
const lanVirtualMAC = "00:00:5e:00:01:0a"

func TestDoctorNamesFiltersAndForeignRouters(t *testing.T) {
	s := newStand(t)
	s.bridge(
		// A switch that withholds multicast from one port.
		fmt.Sprintf("iifname %q ip daddr 224.0.0.18 drop", lab.TrunkName("lan", lab.Alpha)),
		// A tunnel that is too small, one way.
		fmt.Sprintf("iifname %q meta length > 1440 drop", lab.TrunkName("wan", lab.Bravo)),
	)
	// Heartbeats do not pass a firewall on bravo.
	s.nft(lab.Bravo, "table inet firewall {\nchain input {\ntype filter hook input priority 0; policy accept;\nmeta l4proto udp drop\n}\n}\n")
	s.foreignRouter(20)
	found := s.doctors(s.withoutRealTime(lab.Alpha))
	both := []string{
		"multicast lan: multicast to 224.0.0.18 (VRRP) does not pass from alpha to bravo",
		"mtu wan: packets of 1500 bytes do not pass from bravo to alpha on wan although its MTU says so, 1440 do",
		"round-trip ha: open UDP between the members",
		"vrrp-routers wan: 203.0.113.1 (02:54:00:14:00:65) uses VRID 20",
	}
	found[lab.Alpha].is(doctor.Warning, "real-time", "")
	for _, d := range found {
		d.troubles(both...)
		d.is(doctor.NotTested, "virtual-mac", "wan")
		d.is(doctor.OK, "virtual-mac", "lan")
	}
}

func TestDoctorNamesOneWayLinksAndRefusedVirtualMACs(t *testing.T) {
	s := newStand(t)
	s.bridge(
		fmt.Sprintf("iifname %q drop", lab.TrunkName("wan", lab.Bravo)),
		// A hypervisor that knows one address per port.
		fmt.Sprintf("iifname %q ether saddr %s drop", lab.TrunkName("lan", lab.Bravo), lanVirtualMAC),
	)
	for _, d := range s.doctors() {
		d.troubles(
			"frames wan: wan is a one-way link: nothing from bravo (wan0) reaches alpha (wan0)",
			"virtual-mac lan: frames from the virtual MAC 00:00:5e:00:01:0a that bravo sends on lan do not reach alpha",
		)
	}
}

func TestDoctorNamesMissingInterfacesAndMTUs(t *testing.T) {
	s := newStand(t)
	s.ip(lab.Alpha, "link", "set", "lan0", "name", "other0")
	s.ip(lab.Bravo, "link", "set", "wan0", "mtu", "1400")
	// The server has taken an address of alpha.
	s.ip(lab.Server, "address", "add", "203.0.113.11/24", "dev", "eth0")
	// And a virtual address was left on a port of bravo.
	s.ip(lab.Bravo, "address", "add", "10.0.0.1/24", "dev", "lan0")
	found := s.doctors()
	found[lab.Alpha].troubles(
		"interface lan: there is no interface lan0 here",
		"mtu wan: alpha has MTU 1500 on wan0 and bravo has 1400 on wan0",
		"conflict wan: 203.0.113.11 is already in use on the segment of wan0, by 02:54:00:14:00:65",
	)
	found[lab.Alpha].is(doctor.NotTested, "frames", "lan")
	found[lab.Alpha].is(doctor.NotTested, "gateway", "wan")
	found[lab.Bravo].troubles(
		"address lan: 10.0.0.1 stands on lan0, where it must not",
		"mtu wan: bravo has MTU 1400 on wan0 and alpha has 1500 on wan0",
	)
	for _, d := range found {
		d.is(doctor.NotTested, "virtual-mac", "wan")
	}
}

func TestDoctorTestsWhatTheDocumentAsksFor(t *testing.T) {
	// The wan as in a cloud, the lan with a second virtual router, both dual-stack.
	s := newStandOf(t, lab.Options{
		IPv6: true, WAN: []string{"vrrp: {unicast: true, virtual_mac: false}"},
		LAN: []string{"virtual_routers: [{vrid: 11, addresses: [10.0.0.9]}]"},
	})
	// No cloud passes multicast, and nobody needs it there.
	s.bridge(
		fmt.Sprintf("iifname %q ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 ip protocol 112 drop", lab.TrunkName("wan", lab.Alpha)),
		fmt.Sprintf("iifname %q ether daddr 33:33:00:00:00:12 drop", lab.TrunkName("lan", lab.Bravo)),
	)
	for _, d := range s.doctors() {
		d.troubles("multicast lan: multicast to ff02::12 (VRRP over IPv6) does not pass from bravo to alpha")
		d.is(doctor.OK, "frames", "wan")
		d.is(doctor.OK, "virtual-mac", "lan")
		d.is(doctor.OK, "gateway", "wan")
		count := 0
		for _, f := range d.Findings {
			if f.Check == "virtual-mac" && f.Grade == doctor.OK {
				count++
				if f.Where != "lan" {
					t.Errorf("a virtual MAC was tested where there is none: %s", f.Text)
				}
			}
		}
		if count != 3 {
			t.Errorf("%s tested %d virtual MACs, want 3: two of IPv4 and one of IPv6", d.Node, count)
		}
	}
}

func TestDoctorNamesVirtualMACsThatDoNotMove(t *testing.T) {
	s := newStand(t)
	// A switch that has tied the address to alpha's port for ever, and a hypervisor that
	// delivers to a port's own address only.
	s.tool(lab.Fabric, "bridge", "fdb", "replace", lanVirtualMAC, "dev", lab.TrunkName("lan", lab.Alpha), "master", "static", "sticky")
	s.bridge(fmt.Sprintf("oifname %q ether daddr 00:00:5e:00:01:14 drop", lab.TrunkName("wan", lab.Alpha)))
	for _, d := range s.doctors() {
		d.troubles(
			"virtual-mac-moves lan: the virtual MAC 00:00:5e:00:01:0a does not move on lan: bravo has sent from it",
			"virtual-mac wan: frames to the virtual MAC 00:00:5e:00:01:14 on wan do not reach alpha",
		)
	}
}

func TestDoctorAloneSaysWhatItCouldNotTest(t *testing.T) {
	s := newStand(t)
	impatient := func(cmd *exec.Cmd, _ string) { cmd.Args = append(cmd.Args, "--peer-wait", "1s") }
	d := s.doctor(lab.Alpha, impatient)
	d.troubles()
	d.is(doctor.NotTested, "meeting", "ha")
	// Its address on the HA link was borrowed and is gone.
	out, err := s.output(lab.Alpha, "ip", "-br", "address", "show", "dev", "ha0")
	s.must(err)
	if strings.Contains(out, "10.255.0.1") {
		t.Errorf("the doctor left its address behind: %s", out)
	}
}

func TestDoctorRefusesAStranger(t *testing.T) {
	s := newStand(t)
	stranger := filepath.Join(t.TempDir(), "stranger.key")
	s.tool(lab.Bravo, os.Getenv(binaryVariable), "keygen", "--out", stranger)
	found := s.doctors(func(cmd *exec.Cmd, node string) {
		if node == lab.Bravo {
			cmd.Args = append(cmd.Args, "--key", stranger, "--peer-wait", "4s")
		}
	})
	found[lab.Alpha].troubles("meeting ha: as the document says: if it is the right machine, correct its public_key")
	found[lab.Bravo].troubles("key: is not the one that the document gives this member", "meeting ha: refuses this node's key")
}

func TestDoctorDisturbsNoRunningPair(t *testing.T) {
	s := newPairOf(t, lab.Options{IPv6: true})
	master, backup := s.roles()
	before := [2]uint64{s.status(master).Transitions, s.status(backup).Transitions}
	ctx, cancel := s.context()
	defer cancel()
	capture, err := s.Capture(ctx, lab.TrunkName("lan", backup), func(frame []byte) bool {
		return bytes.HasPrefix(frame[6:], []byte{0x00, 0x00, 0x5e, 0x00, 0x01})
	})
	s.must(err)
	l := s.traffic(lightLoad())
	l.mark()
	found := s.doctors()
	l.undisturbed()
	frames, err := capture.Stop()
	s.must(err)
	if len(frames) > 0 {
		t.Errorf("%d frames left the BACKUP %s with a virtual MAC", len(frames), backup)
	}
	for node, d := range found {
		d.troubles()
		d.is(doctor.OK, "role", "")
		d.is(doctor.OK, "lease", "")
		d.is(doctor.OK, "sessions", "")
		d.is(doctor.OK, "frames", "lan")
		d.is(doctor.NotTested, "virtual-mac", "lan")
		if node == master {
			d.is(doctor.OK, "adverts", "lan")
			d.is(doctor.OK, "adverts", "wan")
		} else {
			d.is(doctor.OK, "hears", "lan")
			d.is(doctor.OK, "hears", "lan/ipv6")
			d.is(doctor.OK, "conflict", "lan")
		}
	}
	if after := [2]uint64{s.status(master).Transitions, s.status(backup).Transitions}; after != before {
		t.Errorf("the doctors moved the role: %v transitions before, %v after", before, after)
	}
}

// output runs a tool and returns what it said.
func (s *stand) output(namespace, name string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout = &out
	err := s.Namespace(namespace).Run(cmd)
	return out.String(), err
}

// withoutRealTime takes the right to real-time scheduling from one node's doctor.
func (s *stand) withoutRealTime(node string) func(*exec.Cmd, string) {
	s.t.Helper()
	setpriv, err := exec.LookPath("setpriv") // of util-linux, which every Debian has
	s.must(err)
	return func(cmd *exec.Cmd, name string) {
		if name == node {
			cmd.Args = append([]string{"setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice", cmd.Path}, cmd.Args[1:]...)
			cmd.Path = setpriv
		}
	}
}

// foreignRouter advertises a VRID on the wan until the test ends, from the server.
func (s *stand) foreignRouter(vrid uint8) {
	s.t.Helper()
	source := netip.MustParseAddr(lab.UplinkGateway)
	advert := vrrp.Advertisement{VRID: vrid, Priority: 100, Interval: time.Second, Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.99")}}
	message, err := advert.Append(nil, vrrp.Header{Source: source, Destination: vrrp.MulticastIPv4(), TTL: vrrp.TTL}, vrrp.ChecksumPlain)
	s.must(err)
	fd := -1
	s.must(s.Namespace(lab.Server).Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, vrrp.Protocol); err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, source.As4()),
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, vrrp.TTL))
	}))
	done, ended := make(chan struct{}), make(chan struct{})
	s.t.Cleanup(func() {
		close(done)
		<-ended
		_ = unix.Close(fd) // the test is over
	})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for {
			if err := unix.Sendto(fd, message, 0, &unix.SockaddrInet4{Addr: vrrp.MulticastIPv4().As4()}); err != nil {
				s.t.Error(err)
			}
			select {
			case <-ticker.C:
			case <-done:
				return
			}
		}
	}()
}
