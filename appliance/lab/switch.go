package lab

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// forwardPause is the pause between two looks at the switches' ports.
const forwardPause = 2 * time.Millisecond

// portsOf lists the ports through which a healed fault lets frames pass again. The
// HA cable carries nothing before both its ends have power.
func (l *Lab) portsOf(fault Fault, node string) []string {
	l.mu.Lock()
	whole := !l.cut && !l.dead[Alpha] && !l.dead[Bravo]
	l.mu.Unlock()
	var ports []string
	if whole && (fault == HALink || fault == Poweroff) {
		ports = append(ports, PortName("ha", Alpha), PortName("ha", Bravo))
	}
	for _, s := range l.segments() {
		if fault == Poweroff || fault == LAN && s.name == "lan" || fault == WAN && s.name == "wan" {
			ports = append(ports, PortName(s.name, node))
		}
	}
	return ports
}

// awaitForwarding waits until the switches pass frames at all the ports. A switch
// learns of a carrier from the kernel's link watch, which may be seconds late when
// links change often or the machine is busy.
func (l *Lab) awaitForwarding(ctx context.Context, ports []string) error {
	deadline := time.Now().Add(endGrace)
	for {
		missing, err := l.firstBlocked(ports)
		if err != nil || missing == "" {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("wait until port %s passes frames: %w", missing, err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("port %s passes no frames after %v: is the link at the other end of the cable up?", missing, endGrace)
		}
		<-time.After(forwardPause)
	}
}

// firstBlocked names the first of the ports that does not forward; empty if all do.
func (l *Lab) firstBlocked(ports []string) (string, error) {
	forwarding, err := l.forwarding()
	if err != nil {
		return "", err
	}
	for _, port := range ports {
		link, err := l.fabric.LinkByName(port)
		if err != nil {
			return "", fmt.Errorf("find port %s: %w", port, err)
		}
		if !forwarding[int32(link.Attrs().Index)] {
			return port, nil
		}
	}
	return "", nil
}

// forwarding is the set of the switches' ports, by interface index, that forward.
func (l *Lab) forwarding() (map[int32]bool, error) {
	const stateForwarding = 3 // BR_STATE_FORWARDING of linux/if_bridge.h
	var messages [][]byte
	err := l.Namespace(Fabric).Do(func() (err error) {
		request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		request.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
		messages, err = request.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the switches' ports: %w", err)
	}
	ports := make(map[int32]bool)
	for _, message := range messages {
		header := nl.DeserializeIfInfomsg(message)
		state, err := portState(message[header.Len():])
		if err != nil {
			return nil, fmt.Errorf("read the switches' ports: %w", err)
		}
		ports[header.Index] = state == stateForwarding
	}
	return ports, nil
}

// portState reads a port's state out of the attributes of its link.
func portState(attributes []byte) (uint8, error) {
	all, err := nl.ParseRouteAttr(attributes)
	if err != nil {
		return 0, err
	}
	for _, attribute := range all {
		if attribute.Attr.Type&^unix.NLA_F_NESTED != unix.IFLA_PROTINFO {
			continue
		}
		inner, err := nl.ParseRouteAttr(attribute.Value)
		if err != nil {
			return 0, err
		}
		for _, info := range inner {
			if info.Attr.Type == nl.IFLA_BRPORT_STATE && len(info.Value) > 0 {
				return info.Value[0], nil
			}
		}
	}
	return 0, nil
}
