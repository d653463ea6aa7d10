package wire

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrLinkDown says that the interface is down. The port or receiver works again
// as soon as the interface is up.
var ErrLinkDown = errors.New("the link is down")

// ErrLinkGone says that the interface was deleted. An interface of the same name
// that comes later is another one: open a new port or receiver. It is an
// [ErrLinkDown], too.
var ErrLinkGone = fmt.Errorf("the interface was deleted, open it again: %w", ErrLinkDown)

// ErrUnreachable says that the kernel has no way to the peer of a unicast
// carrier at the moment. The port itself is in order.
var ErrUnreachable = errors.New("the peer cannot be reached")

// errNotEthernet is what there is to say about tunnels and the loopback.
var errNotEthernet = errors.New("it is not an Ethernet interface")

// explain turns what the kernel says about a vanished link or peer into an error
// of this package.
func explain(verb, link string, err error) error {
	switch {
	case errors.Is(err, unix.ENETDOWN):
		return fmt.Errorf("%s %s: %w", verb, link, ErrLinkDown)
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%s %s: %w", verb, link, ErrLinkGone)
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		return fmt.Errorf("%s %s: %w (%w)", verb, link, ErrUnreachable, err)
	}
	return fmt.Errorf("%s %s: %w", verb, link, err)
}
