package examine

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// virtualName is the name of a test's macvlan in the namespace that it has for itself.
const virtualName = "virtual0"

// VirtualLink is a macvlan with a virtual MAC address for the time of a test. It stands
// in a namespace of its own on an interface of this one, has no address, answers nobody
// and vanishes with the process. There is no fence before it: it must not be made where
// a node runs.
type VirtualLink struct {
	*Station
	scratch *Scratch
}

// OpenVirtualLink makes one on an interface of this thread's network namespace.
func OpenVirtualLink(parent string, mac [6]byte) (*VirtualLink, error) {
	scratch, err := NewScratch()
	if err != nil {
		return nil, err
	}
	err = addVirtualLink(virtualName, parent, mac, scratch)
	var station *Station
	if err == nil {
		err = scratch.Do(func() (err error) {
			station, err = OpenStation(virtualName, false)
			return err
		})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take a virtual MAC on %s: %w", parent, err), scratch.Close())
	}
	return &VirtualLink{Station: station, scratch: scratch}, nil
}

// Close takes it away and returns when it is gone.
func (v *VirtualLink) Close() error {
	err := v.scratch.Do(func() error { return deleteLink(virtualName) })
	return errors.Join(err, v.Station.Close(), v.scratch.Close())
}

func deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}
