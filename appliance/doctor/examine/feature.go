package examine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/appliance/doctor"
	"tandem/conntracksync"
	"tandem/conntracksync/ctnetlink"
	"tandem/router"
	"tandem/router/config"
	"tandem/router/kernel"
	"tandem/vrrp"
	"tandem/vrrp/fence"
)

const (
	// scratchVRID is that of the virtual router in the scratch namespace.
	scratchVRID = 7
	// scratchLease is long enough for a busy machine to see it open.
	scratchLease = 400 * time.Millisecond
	// lookPause is the time between two looks at something that is about to change.
	lookPause = 5 * time.Millisecond
)

// Features tries what Tandem needs of the kernel, in a network namespace of its own.
func Features(ctx context.Context, ipv6 bool) []doctor.Feature {
	trials := []struct {
		name string
		try  func(context.Context) error
	}{
		{doctor.FeatureVirtualLink, tryVirtualLink},
		{doctor.FeatureFence, tryFence},
		{doctor.FeatureProgramming, func(ctx context.Context) error { return tryProgramming(ctx, ipv6) }},
		{doctor.FeatureEvents, tryConntrack},
	}
	var list []doctor.Feature
	s, err := NewScratch()
	for _, t := range trials {
		outcome := doctor.Passed()
		if err != nil {
			outcome = doctor.Untried(fmt.Sprintf("no namespace to try it in: %v; run this as root", err))
		} else if failed := s.Do(func() error { return t.try(ctx) }); failed != nil {
			outcome = doctor.Failed(failed.Error())
		}
		list = append(list, doctor.Feature{Name: t.name, Trial: outcome})
	}
	if err == nil {
		_ = s.Close() // it ends with the process in any case
	}
	return list
}

// tryVirtualLink leaves a cable and a macvlan on it for tryFence.
func tryVirtualLink(context.Context) error {
	if err := addCable("cable0", "cable1"); err != nil {
		return err
	}
	return addVirtualLink("vmac0", "cable0", vrrp.VirtualMAC4(scratchVRID), nil)
}

// addCable makes two connected interfaces.
func addCable(a, b string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: b}); err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	for _, name := range []string{a, b} {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
	}
	return nil
}

// addVirtualLink makes a macvlan in the given namespace, that of the thread if nil.
func addVirtualLink(name, parent string, mac [6]byte, into *Scratch) error {
	lower, err := netlink.LinkByName(parent)
	if err != nil {
		return fmt.Errorf("find %s: %w", parent, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.HardwareAddr = name, lower.Attrs().Index, mac[:]
	if into != nil {
		attrs.Namespace = netlink.NsFd(into.handle)
	}
	if err := netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
		return fmt.Errorf("make a macvlan on %s with MAC %v: %w", parent, net.HardwareAddr(mac[:]), err)
	}
	raise := func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		if err := netlink.LinkSetARPOff(link); err != nil { // nobody may be answered for it
			return fmt.Errorf("keep %s silent: %w", name, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
		return nil
	}
	if into != nil {
		return into.Do(raise)
	}
	return raise()
}

// tryFence puts up the fence before the macvlan and moves through its states.
func tryFence(ctx context.Context) (failed error) {
	const group = "lease"
	f, err := fence.New()
	if err != nil {
		return err
	}
	defer func() { failed = errors.Join(failed, f.Close()) }()
	cfg := fence.Config{Group: group, Lease: scratchLease, Links: []fence.Link{{
		Name: "vmac0", Parent: "cable0", MAC: vrrp.VirtualMAC4(scratchVRID), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1})},
	}}}
	if _, err := f.Ensure(cfg); err != nil {
		return err
	}
	station, err := OpenStation("vmac0", false)
	if err != nil {
		return err
	}
	defer func() { failed = errors.Join(failed, station.Close()) }()
	if err := station.send(plainFrame(station)); !errors.Is(err, unix.ENOBUFS) {
		return errors.Join(errors.New("a closed fence let a frame pass"), err)
	}
	advert, err := advertFrame(station)
	if err != nil {
		return err
	}
	if err := station.send(advert); err != nil {
		return fmt.Errorf("send an advert through the fence: %w", err)
	}
	if open, _, err := f.Lease(group); err != nil || !open {
		return errors.Join(errors.New("an advert that passed did not open the lease"), err)
	}
	deadline := time.Now().Add(10 * scratchLease)
	for {
		open, _, err := f.Lease(group)
		if err != nil {
			return err
		}
		if !open {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("a lease of %v is open after ten times as long", scratchLease)
		}
		if err := pause(ctx, lookPause); err != nil {
			return err
		}
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// scratchDocument is that of a single router between two ends of one cable.
const scratchDocument = `version: 1
group: doctor
members:
  - name: scratch
uplinks:
  - name: wan
    vrid: 8
    prefix: 192.0.2.0/24
    gateway: 192.0.2.1
    addresses: [192.0.2.10]
    ports: {scratch: {interface: out0, address: 192.0.2.2}}
networks:
  - name: lan
    vrid: 9
    prefix: 198.51.100.0/24
    gateway: 198.51.100.1
    ports: {scratch: {interface: in0, address: 198.51.100.2}}
    uplink: wan
`

// scratchIPv6 gives its network both families.
const scratchIPv6 = `    ipv6: {prefix: '2001:db8:0:9::/64', gateway: '2001:db8:0:9::1'}
`

// tryProgramming has the node's own code bring the namespace into the state of a small
// document.
func tryProgramming(ctx context.Context, ipv6 bool) (failed error) {
	text := scratchDocument
	if ipv6 {
		if err := writeSysctl(disableIPv6, "0"); err != nil {
			return fmt.Errorf("the document has IPv6 and the kernel has not: %w", err)
		}
		text += scratchIPv6
	}
	if err := addCable("out0", "in0"); err != nil {
		return err
	}
	doc, err := config.Parse("the document for tests", []byte(text))
	if err != nil {
		return err
	}
	intent, err := router.Derive(doc, "scratch", nil)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tandem-doctor")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // only a temporary directory stays behind
	f, err := fence.New()
	if err != nil {
		return err
	}
	defer func() { failed = errors.Join(failed, f.Close()) }()
	r, err := kernel.New(kernel.Options{
		Group: doc.Group, StateDir: dir, Fence: f.Guard(doc.Group, scratchLease), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	defer func() { failed = errors.Join(failed, r.Close()) }()
	report, err := r.Apply(ctx, intent)
	if err != nil {
		return err
	}
	if wrong := append(report.Missing, report.Conflicts...); len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "; "))
	}
	return nil
}

// tryConntrack injects a session and waits for its event.
func tryConntrack(ctx context.Context) (failed error) {
	err := writeSysctl("/proc/sys/net/netfilter/nf_conntrack_events", "1")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := ctnetlink.Listen(ctnetlink.ListenerConfig{ReceiveBuffer: 1 << 16})
	if err != nil {
		return err
	}
	defer func() { failed = errors.Join(failed, listener.Close()) }()
	writer, err := ctnetlink.NewWriter()
	if err != nil {
		return err
	}
	defer func() { failed = errors.Join(failed, writer.Close()) }()
	original := conntracksync.Tuple{
		Source: netip.AddrFrom4([4]byte{192, 0, 2, 7}), Destination: netip.AddrFrom4([4]byte{192, 0, 2, 8}), SourcePort: 7, DestinationPort: 8,
	}
	reply := conntracksync.Tuple{Source: original.Destination, Destination: original.Source, SourcePort: 8, DestinationPort: 7}
	flow := conntracksync.Flow{
		Key: conntracksync.Key{Original: original, Protocol: unix.IPPROTO_UDP}, Reply: reply,
		Status: conntracksync.StatusSeenReply | conntracksync.StatusAssured | conntracksync.StatusConfirmed, Timeout: 60,
	}
	result, err := writer.Apply([]conntracksync.Op{{Kind: conntracksync.OpCreate, Flow: flow}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	events := make([]conntracksync.Event, 8)
	for {
		n, _, err := listener.Receive(ctx, events)
		if err != nil {
			return fmt.Errorf("wait for the event of an injected session (%+v): %w", result, err)
		}
		for _, e := range events[:n] {
			if e.Kind == conntracksync.EventNew && e.Flow.Key == flow.Key {
				return nil
			}
		}
	}
}
