package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Fault is a way to break the pair.
type Fault int

// The faults, all of one node.
const (
	// Poweroff takes every frame and every process of the node at once.
	Poweroff Fault = iota
	// Crash kills the node's processes; its kernel lives on.
	Crash
	// Hang suspends the node's processes.
	Hang
	// LAN and WAN pull the node's cable out of that switch.
	LAN
	WAN
	// HALink cuts the cable between the nodes; both lose the carrier.
	HALink
	// Handover asks the node, the MASTER, to give its role away.
	Handover
)

// faultNames is in the order of the constants.
func faultNames() []string {
	return []string{"poweroff", "crash", "hang", "lan", "wan", "halink", "handover"}
}

// Faults lists them all.
func Faults() []Fault {
	return []Fault{Poweroff, Crash, Hang, LAN, WAN, HALink, Handover}
}

// String is the name that [ParseFault] takes.
func (f Fault) String() string {
	if names := faultNames(); f >= 0 && int(f) < len(names) {
		return names[f]
	}
	return fmt.Sprintf("Fault(%d)", int(f))
}

// ParseFault reads a fault's name; the error lists the names there are.
func ParseFault(name string) (Fault, error) {
	for _, f := range Faults() {
		if f.String() == name {
			return f, nil
		}
	}
	return 0, fmt.Errorf("parse fault %q: must be one of %s", name, strings.Join(faultNames(), ", "))
}

// Inject breaks the node and returns the time just before it did, wall clock and
// monotonic. On return the fault is complete: processes are dead or suspended,
// carriers lost.
func (l *Lab) Inject(ctx context.Context, fault Fault, node string) (time.Time, error) {
	if !isNode(node) {
		return time.Time{}, fmt.Errorf("inject %v: node %q: a node is %s or %s", fault, node, Alpha, Bravo)
	}
	at := time.Now()
	var err error
	switch fault {
	case Poweroff:
		err = l.powerOff(node)
	case Crash:
		err = l.killNode(node)
	case Hang:
		err = l.stopAll(node)
	case LAN, WAN:
		err = setDown(l.fabric, PortName(fault.String(), node))
	case HALink:
		l.setCut(true)
		err = l.applyHACable()
	case Handover:
		err = l.Failover(ctx, node)
	default:
		err = errors.New("there is no such fault")
	}
	if err != nil {
		return at, fmt.Errorf("inject %v at %s: %w", fault, node, err)
	}
	return at, nil
}

// Heal undoes a fault: on return cables carry frames again, processes run again.
// After [Poweroff] the node boots with an empty kernel. There is nothing to heal
// after [Handover].
func (l *Lab) Heal(ctx context.Context, fault Fault, node string) error {
	if !isNode(node) {
		return fmt.Errorf("heal %v: node %q: a node is %s or %s", fault, node, Alpha, Bravo)
	}
	var err error
	switch fault {
	case Poweroff:
		err = l.powerOn(ctx, node)
	case Crash:
		err = l.StartNode(ctx, node)
	case Hang:
		err = l.continueAll(node)
	case LAN, WAN:
		err = setUp(l.fabric, PortName(fault.String(), node))
	case HALink:
		l.setCut(false)
		err = l.applyHACable()
	case Handover:
	default:
		err = errors.New("there is no such fault")
	}
	if err == nil {
		err = l.awaitForwarding(ctx, l.portsOf(fault, node))
	}
	if err != nil {
		return fmt.Errorf("heal %v at %s: %w", fault, node, err)
	}
	return nil
}

func (l *Lab) setCut(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
}

func (l *Lab) setDead(node string, dead bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead[node] = dead
}

// applyHACable gives the nodes a carrier on ha0 if the cable is whole and both
// its ends have power, as a cable without a switch would.
func (l *Lab) applyHACable() error {
	l.mu.Lock()
	whole := !l.cut && !l.dead[Alpha] && !l.dead[Bravo]
	l.mu.Unlock()
	for _, node := range nodeNames() {
		port := PortName("ha", node)
		var err error
		if whole {
			err = setUp(l.fabric, port)
		} else {
			err = setDown(l.fabric, port)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// cables names what a node's cables lead to.
func (l *Lab) cables() []string {
	var list []string
	for _, s := range l.segments() {
		list = append(list, s.name)
	}
	list = append(list, "ha")
	if l.options.SecondHALink {
		list = append(list, "ha2")
	}
	return list
}

// Unplug pulls a node's cable out of the switch of a segment, "lan", "wan", "lte", "dmz" or
// "ha2"; the node loses the carrier. Plug puts it back and waits until the switch forwards.
func (l *Lab) Unplug(segment, node string) error {
	if err := setDown(l.fabric, PortName(segment, node)); err != nil {
		return fmt.Errorf("unplug %s of %s: %w", segment, node, err)
	}
	return nil
}

// Plug undoes [Lab.Unplug].
func (l *Lab) Plug(ctx context.Context, segment, node string) error {
	port := PortName(segment, node)
	err := setUp(l.fabric, port)
	if err == nil {
		err = l.awaitForwarding(ctx, []string{port})
	}
	if err != nil {
		return fmt.Errorf("plug in %s of %s: %w", segment, node, err)
	}
	return nil
}

// powerOff silences the node at the switches first, which takes microseconds
// for all ports, then kills, then takes the carriers.
func (l *Lab) powerOff(node string) error {
	var ports []string
	for _, network := range l.cables() {
		ports = append(ports, PortName(network, node))
	}
	if err := l.blockPorts(ports); err != nil {
		return err
	}
	if err := l.killNode(node); err != nil {
		return err
	}
	l.setDead(node, true)
	for _, port := range ports {
		if err := setDown(l.fabric, port); err != nil {
			return err
		}
	}
	return l.applyHACable()
}

// powerOn makes the node's namespace and links anew, as a reboot makes a kernel.
func (l *Lab) powerOn(ctx context.Context, node string) error {
	for _, network := range l.cables() {
		link, err := l.fabric.LinkByName(PortName(network, node))
		if err != nil {
			return fmt.Errorf("find port %s: %w", PortName(network, node), err)
		}
		// The namespace itself goes some time later; the cable must go now.
		if err := l.fabric.LinkDel(link); err != nil {
			return fmt.Errorf("delete cable %s: %w", PortName(network, node), err)
		}
	}
	if err := deleteNamespace(node); err != nil {
		return err
	}
	if _, err := createNamespace(node); err != nil {
		return err
	}
	if err := l.plugNode(node); err != nil {
		return err
	}
	l.setDead(node, false)
	if err := l.applyHACable(); err != nil {
		return err
	}
	return l.StartNode(ctx, node)
}

// blockPorts makes the switches drop whatever comes in at or goes out of the
// ports, at once for all; setting them down, which takes the carrier too, ends
// the block.
func (l *Lab) blockPorts(ports []string) error {
	requests := make([]*nl.NetlinkRequest, 0, len(ports))
	for _, port := range ports {
		link, err := l.fabric.LinkByName(port)
		if err != nil {
			return fmt.Errorf("find port %s: %w", port, err)
		}
		message := nl.NewIfInfomsg(unix.AF_BRIDGE)
		message.Index = int32(link.Attrs().Index)
		protocol := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
		protocol.AddRtAttr(nl.IFLA_BRPORT_STATE, []byte{0}) // BR_STATE_DISABLED
		request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
		request.AddData(message)
		request.AddData(protocol)
		requests = append(requests, request)
	}
	return l.Namespace(Fabric).Do(func() error {
		for i, request := range requests {
			_, err := request.Execute(unix.NETLINK_ROUTE, 0)
			// A port without a carrier passes nothing anyway.
			if err != nil && !errors.Is(err, unix.ENETDOWN) {
				return fmt.Errorf("block port %s: %w", ports[i], err)
			}
		}
		return nil
	})
}

func (l *Lab) continueAll(node string) error {
	for _, pid := range l.Processes(node) {
		if err := unix.Kill(pid, unix.SIGCONT); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("send SIGCONT to process %d: %w", pid, err)
		}
	}
	return nil
}
