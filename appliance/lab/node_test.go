package lab

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/appliance/status"
	"tandem/router/config"
)

func startPair(t *testing.T, opts Options) *Lab {
	t.Helper()
	l := newLab(t, opts)
	for _, node := range nodeNames() {
		if err := l.StartNode(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
	waitReady(t, l)
	return l
}

func waitReady(t *testing.T, l *Lab) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTime)
	defer cancel()
	if err := l.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}

func virtualFrames(t *testing.T, l *Lab, where string) *Capture {
	t.Helper()
	c, err := l.Capture(t.Context(), where, From([]byte{0, 0, 0x5e, 0, 1, 10}))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// moreFrames waits until the capture grew.
func moreFrames(t *testing.T, c *Capture) {
	t.Helper()
	before := len(c.Frames())
	eventually(t, "no frame", func() error {
		if len(c.Frames()) == before {
			return errors.New("silence")
		}
		return nil
	})
}

// expectSilence stops the capture after a while and checks that no frame came
// later than allowed.
func expectSilence(t *testing.T, c *Capture, after time.Time) {
	t.Helper()
	<-time.After(50 * time.Millisecond)
	lost := c.Lost()
	frames, err := c.Stop()
	if err != nil || lost != 0 {
		t.Fatalf("capture: %v, lost %d", err, lost)
	}
	if len(frames) == 0 {
		t.Fatal("nothing captured at all")
	}
	last := frames[len(frames)-1]
	if !last.Virtual() || last.Length != 60 || last.EtherType != 0x0800 {
		t.Errorf("captured %+v", last)
	}
	if late := last.At.Sub(after); late > 0 {
		t.Errorf("a frame came %v too late", late)
	}
}

func TestPairAnswers(t *testing.T) {
	l := startPair(t, Options{Interval: 10 * time.Millisecond})
	if err := l.StartNode(t.Context(), Alpha); err == nil {
		t.Error("started alpha twice")
	}
	master, err := l.Master(t.Context())
	if err != nil || master != Alpha {
		t.Fatalf("Master() = %q, %v", master, err)
	}
	answer, err := l.Status(t.Context(), Bravo)
	if err != nil || answer.Node != Bravo || answer.Role != "BACKUP" {
		t.Fatalf("Status(bravo) = %+v, %v", answer, err)
	}
	if _, err := l.Inject(t.Context(), Handover, Bravo); err == nil || !strings.Contains(err.Error(), "not MASTER") {
		t.Errorf("handover at the BACKUP: %v", err)
	}
	if _, err := l.Inject(t.Context(), Handover, Alpha); err != nil {
		t.Error(err)
	}
	if master, err := l.Master(t.Context()); err == nil {
		t.Errorf("two BACKUPs, but Master() = %q", master)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*pollInterval)
	defer cancel()
	if err := l.WaitReady(ctx); err == nil || !strings.Contains(err.Error(), "BACKUP and BACKUP") {
		t.Errorf("WaitReady: %v", err)
	}
	if err := l.StopNode(t.Context(), Bravo); err != nil {
		t.Error(err)
	}
}

func TestCrash(t *testing.T) {
	l := startPair(t, Options{})
	c := virtualFrames(t, l, PortName("lan", Alpha))
	moreFrames(t, c)
	if n := len(l.Processes(Alpha)); n != 2 {
		t.Fatalf("alpha has %d processes, want daemon and elector", n)
	}
	if _, err := l.Inject(t.Context(), Crash, Alpha); err != nil {
		t.Fatal(err)
	}
	dead := time.Now()
	if left := l.Processes(Alpha); len(left) != 0 {
		t.Errorf("processes %v survived", left)
	}
	expectSilence(t, c, dead)
	if _, err := l.Master(t.Context()); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Master() does not tell of the end: %v", err)
	}
	if err := l.Heal(t.Context(), Crash, Alpha); err != nil {
		t.Fatal(err)
	}
	waitReady(t, l)
}

func TestHang(t *testing.T) {
	l := startPair(t, Options{})
	c := virtualFrames(t, l, TrunkName("lan", Alpha))
	moreFrames(t, c)
	if _, err := l.Inject(t.Context(), Hang, Alpha); err != nil {
		t.Fatal(err)
	}
	expectSilence(t, c, time.Now())
	if err := l.Heal(t.Context(), Hang, Alpha); err != nil {
		t.Fatal(err)
	}
	c = virtualFrames(t, l, TrunkName("lan", Alpha))
	moreFrames(t, c)
	waitReady(t, l)
}

// linkIndex identifies a link within its namespace's life.
func linkIndex(t *testing.T, l *Lab, namespace, name string) (int, string) {
	t.Helper()
	var attrs *netlink.LinkAttrs
	err := l.Namespace(namespace).with(func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err == nil {
			attrs = link.Attrs()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return attrs.Index, attrs.HardwareAddr.String()
}

func TestPowerOff(t *testing.T) {
	l := startPair(t, Options{})
	staticRouter(t, l, Alpha)
	c := virtualFrames(t, l, TrunkName("lan", Alpha))
	moreFrames(t, c)
	oldKernel, err := l.Namespace(Alpha).inode()
	if err != nil {
		t.Fatal(err)
	}
	peerLink, _ := linkIndex(t, l, Bravo, "ha0")
	_, mac := linkIndex(t, l, Alpha, "lan0")

	at, err := l.Inject(t.Context(), Poweroff, Alpha)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("powered off in %v", time.Since(at))
	for node, carrier := range map[string]bool{Alpha: false, Bravo: true} {
		for _, link := range []string{"lan0", "wan0"} {
			if hasCarrier(t, l, node, link) != carrier {
				t.Errorf("%s of %s has a carrier: %v", link, node, !carrier)
			}
		}
	}
	if hasCarrier(t, l, Bravo, "ha0") {
		t.Error("the cable to a dead node has a carrier")
	}
	// The block is the first act; the scheduler may take a while until then.
	expectSilence(t, c, at.Add(20*time.Millisecond))

	start := time.Now()
	if err := l.Heal(t.Context(), Poweroff, Alpha); err != nil {
		t.Fatal(err)
	}
	t.Logf("booted in %v", time.Since(start))
	newKernel, err := l.Namespace(Alpha).inode()
	if err != nil || newKernel == oldKernel {
		t.Errorf("the namespace is the old one (%v)", err)
	}
	if index, _ := linkIndex(t, l, Bravo, "ha0"); index != peerLink {
		t.Error("the survivor's link changed")
	}
	if _, again := linkIndex(t, l, Alpha, "lan0"); again != mac {
		t.Errorf("alpha's address was %s and is %s", mac, again)
	}
	if !hasCarrier(t, l, Bravo, "ha0") {
		t.Error("the cable has no carrier after the boot")
	}
	c = virtualFrames(t, l, TrunkName("lan", Alpha))
	moreFrames(t, c)
	waitReady(t, l)
}

func TestExitIsReported(t *testing.T) {
	l := newLab(t, Options{})
	if err := os.Remove(l.KeyPath(Bravo)); err != nil {
		t.Fatal(err)
	}
	if err := l.StartNode(t.Context(), Bravo); err != nil {
		t.Fatal(err)
	}
	eventually(t, "bravo runs without a key", func() error {
		if l.exitOf(Bravo) == "" {
			return errors.New("still running")
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), pollInterval)
	defer cancel()
	err := l.WaitReady(ctx)
	for _, want := range []string{"alpha does not run: it was not started", "bravo.key: no such file"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("WaitReady says %v, want %q", err, want)
		}
	}
}

func TestDocument(t *testing.T) {
	l := newLab(t, Options{Interval: 20 * time.Millisecond, Preempt: true})
	text, err := os.ReadFile(l.ConfigPath())
	if err != nil {
		t.Fatal(err)
	}
	document, err := config.Parse(l.ConfigPath(), text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if document.Election.AdvertisementInterval != 20*time.Millisecond || !document.Election.Preempt {
		t.Errorf("election is %+v", document.Election)
	}
	for i, node := range nodeNames() {
		member := document.Members[i]
		key, err := os.ReadFile(l.KeyPath(node))
		if err != nil || member.Name != node || member.PublicKey != strings.TrimSpace(string(key)) {
			t.Errorf("member %d is %+v", i, member)
		}
		for _, port := range []config.Port{document.HALink.Ports[node], document.Uplinks[0].Ports[node], document.Networks[0].Ports[node]} {
			if !port.Address.IsValid() {
				t.Errorf("port of %s: %+v", node, port)
			}
			linkIndex(t, l, node, port.Interface)
		}
	}
}

func TestFaultNames(t *testing.T) {
	for _, fault := range Faults() {
		if got, err := ParseFault(fault.String()); err != nil || got != fault {
			t.Errorf("ParseFault(%q) = %v, %v", fault, got, err)
		}
	}
	if _, err := ParseFault("fire"); err == nil || !strings.Contains(err.Error(), "poweroff") {
		t.Errorf("ParseFault(fire): %v", err)
	}
	if got := Fault(99).String(); got != "Fault(99)" {
		t.Errorf("Fault(99) is %q", got)
	}
}

func TestShortcomings(t *testing.T) {
	good := func(role string) status.Status {
		return status.Status{Role: role, Sync: status.Sync{Connected: true, Complete: true}}
	}
	apart, behind, ill := good("BACKUP"), good("BACKUP"), good("BACKUP")
	apart.Sync = status.Sync{}
	behind.Sync.Complete = false
	ill.Problems = []string{"no gateway"}
	for _, tc := range []struct {
		name  string
		bravo report
		want  []string
	}{
		{"ready", report{status: good("BACKUP")}, nil},
		{"silent", report{err: unix.ECONNREFUSED}, []string{"connection refused"}},
		{"two masters", report{status: good("MASTER")}, []string{"roles are MASTER and MASTER"}},
		{"starting", report{status: good("INITIALIZE")}, []string{"roles are INITIALIZE and MASTER"}},
		{"apart", report{status: apart}, []string{"bravo is not connected to its peer"}},
		{"behind", report{status: behind}, []string{"bravo has not synchronised its sessions"}},
		{"ill", report{status: ill}, []string{"bravo says: no gateway"}},
	} {
		tc.bravo.name = Bravo
		got := shortcomings([]report{{name: Alpha, status: good("MASTER")}, tc.bravo})
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}
