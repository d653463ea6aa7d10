package wire

import (
	"fmt"

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

// find asks by any socket for the index of an interface.
func find(fd int, name string) (device, error) {
	request, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request)
	}
	if err != nil {
		return device{}, fmt.Errorf("find interface %q: %w", name, err)
	}
	return device{name: name, index: int(request.Uint32()), request: request}, nil
}

// lookup finds an interface with its MAC address by a packet socket, which it
// binds to the interface. That takes three system calls; netlink takes a hundred
// times as long, and the standard library lists all interfaces for one, of which a
// node may have hundreds.
func lookup(fd int, name string) (device, error) {
	d, err := find(fd, name)
	if err != nil {
		return device{}, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: d.index}); err != nil {
		return device{}, fmt.Errorf("look at interface %q: %w", name, err)
	}
	if d.mac, err = hardwareAddress(fd); err != nil {
		return device{}, fmt.Errorf("look at interface %q: %w", name, err)
	}
	return d, nil
}

// hardwareAddress is the MAC address that the interface of a bound packet socket
// has now.
func hardwareAddress(fd int) ([6]byte, error) {
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return [6]byte{}, err
	}
	address, ok := bound.(*unix.SockaddrLinklayer)
	switch {
	case !ok || address.Ifindex <= 0:
		return [6]byte{}, unix.ENODEV // so it looks when the interface was deleted
	case address.Hatype != unix.ARPHRD_ETHER || address.Halen != 6:
		return [6]byte{}, errNotEthernet
	}
	return [6]byte(address.Addr[:]), nil
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
