package netns

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
)

// port is a node's port on a network.
type port struct{ network, node string }

func ports(nodes ...string) []port {
	var list []port
	for _, node := range nodes {
		list = append(list, port{"lan", node}, port{"wan", node})
	}
	return list
}

// watch records at ports of the fabric every frame that speaks for the virtual
// router: those with a virtual MAC address as source, and those that claim a
// virtual IP address with any other.
type watch struct {
	t        *testing.T
	captures map[port]*lab.Capture

	mu sync.Mutex
	// impostors are the first bytes of the first such frame of each port.
	impostors map[port][]byte
}

// sightings are what a watch has recorded.
type sightings map[port][]lab.Frame

// watchAt watches at the cables of the nodes, which are new after a power failure,
// or at the trunks that lead to them, which outlive everything.
func (s *stand) watchAt(where func(network, node string) string, nodes ...string) *watch {
	s.t.Helper()
	w := &watch{t: s.t, captures: make(map[port]*lab.Capture), impostors: make(map[port][]byte)}
	speaks := speaksForVirtual()
	for _, p := range ports(nodes...) {
		c, err := s.Capture(s.t.Context(), where(p.network, p.node), func(frame []byte) bool {
			switch {
			case isVirtual(frame[6:12]):
				return true
			case speaks(frame):
				w.keepImpostor(p, frame)
				return true
			}
			return false
		})
		s.must(err)
		w.captures[p] = c
	}
	return w
}

func (w *watch) keepImpostor(p port, frame []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.impostors[p] == nil {
		w.impostors[p] = bytes.Clone(frame[:min(len(frame), 64)])
	}
}

// sees waits until a node was seen on every network, so that a capture that is
// blind passes for no silence.
func (w *watch) sees(s *stand, node string) {
	w.t.Helper()
	s.eventually("the captures see "+node, func(context.Context) error {
		for _, p := range ports(node) {
			if len(w.captures[p].Frames()) == 0 {
				return fmt.Errorf("nothing came from %v", p)
			}
		}
		return nil
	})
}

// end stops the watch. It fails the test if a capture is not complete, and if a
// frame spoke for a virtual address with a MAC address that is not virtual.
func (w *watch) end() sightings {
	w.t.Helper()
	seen := w.collect()
	for p, frames := range seen {
		impostors := slices.DeleteFunc(slices.Clone(frames), lab.Frame.Virtual)
		if len(impostors) > 0 {
			w.t.Errorf("%s spoke %d times for a virtual address on %s with the MAC address %v, first at %v: %x",
				p.node, len(impostors), p.network, net.HardwareAddr(impostors[0].Source[:]), impostors[0].At, w.impostors[p])
		}
	}
	return seen
}

func (w *watch) collect() sightings {
	w.t.Helper()
	seen := make(sightings)
	for p, c := range w.captures {
		frames, err := c.Stop()
		if err != nil {
			w.t.Fatalf("capture at %v: %v", p, err)
		}
		if lost := c.Lost(); lost > 0 {
			w.t.Errorf("the capture at %v has lost %d frames, so that it proves nothing", p, lost)
		}
		seen[p] = frames
	}
	return seen
}

// after returns the frames of a node later than at.
func (s sightings) after(node string, at time.Time) []lab.Frame {
	var late []lab.Frame
	for _, p := range ports(node) {
		for _, f := range s[p] {
			if f.At.After(at) {
				late = append(late, f)
			}
		}
	}
	return late
}

// overlap is for how long both nodes spoke on a network while the role moved from
// one to the other; negative if there was silence between.
func (s sightings) overlap(network, from, to string) time.Duration {
	old, young := s[port{network, from}], s[port{network, to}]
	if len(old) == 0 || len(young) == 0 {
		return -time.Hour
	}
	return old[len(old)-1].At.Sub(young[0].At)
}

// isVirtual tells a virtual MAC address for IPv4 (RFC 9568 §7.3).
func isVirtual(mac []byte) bool {
	return bytes.HasPrefix(mac, []byte{0x00, 0x00, 0x5e, 0x00, 0x01})
}

const (
	offsetEtherType = 12
	offsetIPSource  = 14 + 12
	offsetARPSender = 14 + 14
)

// speaksForVirtual makes a filter for frames whose sender, in IP or ARP, is a
// virtual address.
func speaksForVirtual() func(frame []byte) bool {
	lan, wan := netip.MustParseAddr(lab.ClientGateway).As4(), netip.MustParseAddr(lab.NATAddress).As4()
	return func(frame []byte) bool {
		if len(frame) < offsetARPSender+4 {
			return false
		}
		var sender []byte
		switch uint16(frame[offsetEtherType])<<8 | uint16(frame[offsetEtherType+1]) {
		case unix.ETH_P_IP:
			sender = frame[offsetIPSource : offsetIPSource+4]
		case unix.ETH_P_ARP:
			sender = frame[offsetARPSender : offsetARPSender+4]
		default:
			return false
		}
		return bytes.Equal(sender, lan[:]) || bytes.Equal(sender, wan[:])
	}
}
