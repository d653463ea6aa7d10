package kernel

import (
	"context"
	"errors"
	"fmt"
	"sync"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// nftablesGroup is NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h.
const nftablesGroup = 7

// Watch reports that links, addresses, routes, rules or netfilter tables changed,
// by whomever. Any number of changes that nobody has taken yet is one
// notification. The channel closes when ctx ends or a socket fails.
func (r *Reconciler) Watch(ctx context.Context) (<-chan struct{}, error) {
	route, err := r.subscribe(unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
		unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return nil, fmt.Errorf("subscribe to links, addresses, routes and rules: %w", err)
	}
	// A fence that somebody flushes lets everything pass.
	tables, err := r.subscribe(unix.NETLINK_NETFILTER, nftablesGroup)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to nftables: %w", err), route.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(ctx, func() {
		_ = route.Close() // wakes the readers; there is nothing else to lose
		_ = tables.Close()
	})
	events := make(chan struct{}, 1)
	var readers sync.WaitGroup
	for _, c := range []*mdnetlink.Conn{route, tables} {
		readers.Go(func() {
			forward(c, events)
			cancel()
		})
	}
	go func() {
		readers.Wait()
		cancel()
		close(events)
	}()
	return events, nil
}

func (r *Reconciler) subscribe(family int, groups ...uint32) (*mdnetlink.Conn, error) {
	var c *mdnetlink.Conn
	err := r.inNamespace(func() (err error) {
		c, err = mdnetlink.Dial(family, nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if err := c.JoinGroup(g); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// forward reads until the socket is closed.
func forward(c *mdnetlink.Conn, events chan<- struct{}) {
	for {
		// Messages that the kernel had to drop are changes, too.
		if _, err := c.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		select {
		case events <- struct{}{}:
		default:
		}
	}
}

// LinkState is the state of one interface.
type LinkState struct {
	// Present tells that it exists; if not, the rest is zero.
	Present bool
	// Up tells that it is administratively up and has a carrier.
	Up bool
	// MAC is its hardware address; zero if it has none of six bytes.
	MAC [6]byte
}

// LinkState returns the state of an interface. One that does not exist is no
// error.
func (r *Reconciler) LinkState(name string) (LinkState, error) {
	r.queryMu.Lock()
	defer r.queryMu.Unlock()
	l, err := r.query.LinkByName(name)
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) {
		return LinkState{}, nil
	}
	if err != nil {
		return LinkState{}, fmt.Errorf("read link %s: %w", name, err)
	}
	a := l.Attrs()
	return LinkState{Present: true, Up: carries(a), MAC: hardwareAddress(a.HardwareAddr)}, nil
}

func carries(a *netlink.LinkAttrs) bool {
	const needed = unix.IFF_UP | unix.IFF_LOWER_UP
	if a.RawFlags&needed != needed {
		return false
	}
	// Drivers without an operational state say unknown.
	return a.OperState == netlink.OperUp || a.OperState == netlink.OperUnknown
}
