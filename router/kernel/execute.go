package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/router"
	"tandem/vrrp/fence"
)

// execute does what was planned and returns what was done. If an op on a link
// fails, the later ones on it are left out; if the fence fails, all are.
func (r *Reconciler) execute(ctx context.Context, ops []op, intent router.Intent) ([]string, error) {
	var changed []string
	var errs []error
	broken := make(map[string]bool)
	r.deleteTogether(ops)
	for _, o := range ops {
		if err := ctx.Err(); err != nil {
			return changed, errors.Join(append(errs, err)...)
		}
		if o.kind == putUpFence {
			done, err := r.putUpFence(o.fenced)
			changed = append(changed, done...)
			if err != nil {
				return changed, errors.Join(append(errs, err)...)
			}
			continue
		}
		if o.link != "" && broken[o.link] {
			continue
		}
		if err := r.do(o, intent); err != nil {
			errs = append(errs, explain(o, err))
			if o.link != "" {
				broken[o.link] = true
			}
			continue
		}
		r.logger.Info("kernel changed", "group", r.group, "change", o.String())
		changed = append(changed, o.String())
	}
	return changed, errors.Join(errs...)
}

func (r *Reconciler) putUpFence(virtual []router.VirtualLink) ([]string, error) {
	links := make([]fence.Link, 0, len(virtual))
	for _, v := range virtual {
		links = append(links, fence.Link{
			Name: v.Name, Parent: v.Parent, MAC: v.MAC, Addresses: v.Addresses, Own: v.Own, IPv6: v.IPv6, VRID: v.VRID,
		})
	}
	changed, err := r.fence.Ensure(links)
	var missing *fence.MissingDevicesError
	if errors.As(err, &missing) {
		err = nil // a link that could not be made, which is reported already
	}
	if err == nil {
		for i, c := range changed {
			changed[i] = "fence: " + c
			r.logger.Info("kernel changed", "group", r.group, "change", changed[i])
		}
		return changed, nil
	}
	if r.fence.Check(links) == nil {
		return nil, err
	}
	// Without a fence nothing may speak.
	return nil, errors.Join(err, r.silence(virtual))
}

// silence sets virtual links down. Those that are the parent itself lose their
// addresses instead: the node must stay reachable.
func (r *Reconciler) silence(virtual []router.VirtualLink) error {
	var errs []error
	for _, v := range virtual {
		l, err := r.links.LinkByName(v.Name)
		if err != nil {
			continue // it does not exist
		}
		if v.OwnMAC {
			for _, a := range v.Addresses {
				if err := r.deleteAddress(l, virtualPrefix(v, a)); err != nil {
					errs = append(errs, fmt.Errorf("delete unfenced address %s from %s: %w", a, v.Name, err))
				}
			}
			continue
		}
		if err := r.links.LinkSetDown(l); err != nil {
			errs = append(errs, fmt.Errorf("set unfenced link %s down: %w", v.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (r *Reconciler) do(o op, intent router.Intent) error {
	switch o.kind {
	case setSysctl:
		return r.setSysctl(o.path, o.value)
	case createLink:
		return r.createLink(o.virtual)
	case replaceTable:
		return r.replaceTable(desiredRules(intent, o.family))
	case deleteTable:
		return r.deleteTable(o.family)
	case putRoute, deleteRoute:
		return r.changeRoute(o)
	case addRule:
		return r.links.RuleAdd(requestRule(o.rule))
	case deleteRule:
		return ignore(r.links.RuleDel(requestRule(o.rule)), unix.ENOENT)
	case raisePort, raiseLink, deleteAddress, deleteLink, addAddress, markLink:
		return r.changeLink(o)
	case putUpFence:
	}
	return fmt.Errorf("no way to do this")
}

func (r *Reconciler) changeLink(o op) error {
	l, err := r.links.LinkByName(o.link)
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) && (o.kind == deleteLink || o.kind == deleteAddress) {
		return nil
	}
	if err != nil {
		return err
	}
	switch o.kind {
	case raisePort, raiseLink:
		return r.links.LinkSetUp(l)
	case deleteLink:
		return ignore(r.links.LinkDel(l), unix.ENODEV)
	case markLink:
		return r.links.LinkSetAlias(l, o.value)
	case addAddress:
		return ignore(r.addAddress(l, o.prefix, o.form), unix.EEXIST)
	case deleteAddress:
		return r.deleteAddress(l, o.prefix)
	case setSysctl, createLink, putUpFence, replaceTable, deleteTable, putRoute, addRule, deleteRule, deleteRoute:
	}
	return fmt.Errorf("not about a link")
}

func (r *Reconciler) createLink(v router.VirtualLink) error {
	parent, err := r.links.LinkByName(v.Parent)
	if err != nil {
		return err
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.ParentIndex, attributes.HardwareAddr = v.Name, parent.Attrs().Index, v.MAC[:]
	return r.links.LinkAdd(&netlink.Macvlan{LinkAttrs: attributes, Mode: netlink.MACVLAN_MODE_BRIDGE})
}

func (r *Reconciler) changeRoute(o op) error {
	index := 0
	if o.route.Link != "" {
		l, err := r.links.LinkByName(o.route.Link)
		if err != nil {
			return err
		}
		index = l.Attrs().Index
	}
	return r.changeRouteBy(o, index)
}

// changeRouteBy is changeRoute where the index of the link is known.
func (r *Reconciler) changeRouteBy(o op, index int) error {
	n := requestRoute(o.route, index)
	if o.kind == deleteRoute {
		return ignore(r.links.RouteDel(&n), unix.ESRCH)
	}
	return r.links.RouteReplace(&n)
}

func (r *Reconciler) setSysctl(path, value string) error {
	return r.inNamespace(func() error {
		before, err := readSysctl(path)
		if errors.Is(err, fs.ErrNotExist) {
			if optional(path) {
				return nil
			}
			return fmt.Errorf("this kernel does not have it; load the nf_conntrack module: %w", err)
		}
		if err != nil || before == value {
			return err
		}
		return writeSysctl(path, value)
	})
}

func ignore(err error, harmless unix.Errno) error {
	if errors.Is(err, harmless) {
		return nil
	}
	return err
}
