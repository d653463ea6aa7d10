package wire

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// device is an Ethernet interface as it was when it was looked up.
type device struct {
	name  string
	index int
	mac   [6]byte
	// request asks the kernel about the interface of that name.
	request *unix.Ifreq
}

// lookup asks for the one link: the standard library would have the kernel list
// all of them, and a node may have hundreds of macvlans.
func lookup(name string) (device, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return device{}, fmt.Errorf("find interface %q: %w", name, err)
	}
	attributes := link.Attrs()
	if attributes.EncapType != "ether" || len(attributes.HardwareAddr) != 6 {
		return device{}, fmt.Errorf("interface %q is not Ethernet", name)
	}
	request, err := unix.NewIfreq(attributes.Name)
	if err != nil {
		return device{}, fmt.Errorf("ask for interface %q: %w", name, err)
	}
	return device{
		name: attributes.Name, index: attributes.Index,
		mac: [6]byte(attributes.HardwareAddr), request: request,
	}, nil
}

// requireUp asks by any socket whether the interface is up.
func (d *device) requireUp(fd int) error {
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, d.request); err != nil {
		return err
	}
	if d.request.Uint16()&unix.IFF_UP == 0 {
		return unix.ENETDOWN
	}
	return nil
}

// requireSame asks by any socket whether the interface of that name is still the
// one that was looked up.
func (d *device) requireSame(fd int) error {
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, d.request); err != nil {
		return err
	}
	if int(d.request.Uint32()) != d.index {
		return unix.ENODEV
	}
	return nil
}
