package wire

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Snooping switches forward the group only to where it was reported from.
func TestGroupIsReportedFromThePhysicalInterface(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		sniffer := b.sniff()
		a.listen(ipv6)
		const igmp, hopByHop = 2, 0 // MLD has the router alert option in front
		report := map[bool]byte{false: igmp, true: hopByHop}[ipv6]
		address := group(ipv6).AsSlice()
		for {
			frame := next(t, sniffer, etherType(ipv6), report)
			if !bytes.Contains(frame, address) || bytes.Equal(frame[6:12], b.physical.HardwareAddr) {
				continue // of another group, or what the sniffer's host itself sends
			}
			if !bytes.Equal(frame[6:12], a.physical.HardwareAddr) {
				t.Errorf("reported by %x, want %v", frame, a.physical.HardwareAddr)
			}
			break
		}
		if !a.member(ipv6) { // reports are repeated from it
			t.Errorf("no member of %v while a receiver is open", group(ipv6))
		}
	}
}

// member says whether the kernel counts the host's interface among the group's
// members.
func (h *host) member(ipv6 bool) bool {
	h.t.Helper()
	h.enter()
	file, address := "igmp", "120000E0"
	if ipv6 {
		file, address = "igmp6", "ff020000000000000000000000000012"
	}
	groups, err := os.ReadFile("/proc/thread-self/net/" + file)
	check(h.t, err)
	return strings.Contains(string(groups), address)
}

func TestCloseLeavesTheGroup(t *testing.T) {
	a, _ := pair(t)
	for _, ipv6 := range families() {
		ear, second := a.listen(ipv6), a.listen(ipv6)
		check(t, ear.Close())
		if fd := ear.FD(); fd != -1 {
			t.Errorf("descriptor %d after Close, want -1", fd)
		}
		if !a.member(ipv6) {
			t.Error("one receiver left the group of another")
		}
		check(t, second.Close())
		if a.member(ipv6) {
			t.Error("still a member")
		}
		if _, _, err := ear.Receive(make([]byte, MaxPacket)); !errors.Is(err, unix.EBADF) {
			t.Errorf("receiving after Close: %v", err)
		}
		check(t, ear.Close())
	}
}

// The membership stays when the address goes and comes back, as IPv6 addresses do
// with the link.
func TestGroupIsReportedAgainAfterTheLinkWasDown(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		a.listen(ipv6)
		a.set("a0", false)
		sniffer := b.sniff()
		a.set("a0", true)
		if ipv6 {
			a.addAddress(a.source6, 64)
		}
		report := map[bool]byte{false: 2, true: 0}[ipv6]
		for {
			frame := next(t, sniffer, etherType(ipv6), report)
			if bytes.Contains(frame, group(ipv6).AsSlice()) && bytes.Equal(frame[6:12], a.physical.HardwareAddr) {
				break
			}
		}
	}
}

// A receiver may be opened before IPv6 is there.
func TestGroupIsReportedOnceIPv6IsEnabled(t *testing.T) {
	a, b := pair(t)
	a.enter()
	sysctl(t, "net/ipv6/conf/a0/disable_ipv6", "1")
	a.listen(true)
	sniffer := b.sniff()
	a.enter()
	sysctl(t, "net/ipv6/conf/a0/disable_ipv6", "0")
	a.addAddress(a.source6, 64)
	for {
		frame := next(t, sniffer, unix.ETH_P_IPV6, 0)
		if bytes.Contains(frame, group(true).AsSlice()) && bytes.Equal(frame[6:12], a.physical.HardwareAddr) {
			break
		}
	}
}
