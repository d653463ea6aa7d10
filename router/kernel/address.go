package kernel

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"tandem/router"
)

// ifaProto is IFA_PROTO of linux/if_addr.h, since Linux 5.18. Older kernels skip
// it.
const ifaProto = 11

// request is a route netlink request on our own socket.
func (r *Reconciler) request(kind, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: r.socket}}
	return req
}

func (r *Reconciler) observeAddresses(names map[int]string) ([]address, error) {
	req := r.request(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfAddrmsg(unix.AF_INET))
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	if err != nil {
		return nil, err
	}
	var list []address
	for _, m := range messages {
		header := nl.DeserializeIfAddrmsg(m)
		attributes, err := nl.ParseRouteAttr(m[header.Len():])
		if err != nil {
			return nil, err
		}
		a := address{link: names[int(header.Index)]}
		for _, attribute := range attributes {
			switch attribute.Attr.Type {
			case unix.IFA_LOCAL:
				if ip, ok := netip.AddrFromSlice(attribute.Value); ok {
					a.prefix = netip.PrefixFrom(ip, int(header.Prefixlen))
				}
			case ifaProto:
				a.ours = attribute.Value[0] == protocol
			}
		}
		if a.link != "" && a.prefix.IsValid() {
			a.ours = a.ours || slices.Contains(r.memory.Addresses, router.PortAddress{Interface: a.link, Prefix: a.prefix})
			list = append(list, a)
		}
	}
	return list, nil
}

// changeAddress adds or deletes an address with our mark.
func (r *Reconciler) changeAddress(kind, flags int, l netlink.Link, p netip.Prefix) error {
	req := r.request(kind, flags|unix.NLM_F_ACK)
	header := nl.NewIfAddrmsg(unix.AF_INET)
	header.Index = uint32(l.Attrs().Index)
	header.Prefixlen = uint8(p.Bits())
	req.AddData(header)
	ip := p.Addr().AsSlice()
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, ip))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, ip))
	if kind == unix.RTM_NEWADDR {
		if p.Bits() < 31 {
			req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, broadcast(p)))
		}
		req.AddData(nl.NewRtAttr(ifaProto, []byte{protocol}))
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func broadcast(p netip.Prefix) []byte {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b[:]
}

// addAddress adds an address and, if the kernel did not take the mark, remembers
// that it is ours.
func (r *Reconciler) addAddress(l netlink.Link, p netip.Prefix) error {
	port := router.PortAddress{Interface: l.Attrs().Name, Prefix: p}
	if err := r.changeAddress(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, l, p); err != nil {
		return err
	}
	list, err := r.observeAddresses(map[int]string{l.Attrs().Index: l.Attrs().Name})
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return err
	}
	marked := slices.ContainsFunc(list, func(a address) bool { return a.link == port.Interface && a.prefix == p && a.ours })
	if marked || r.ourLink(l) {
		return nil
	}
	next := r.memory.clone()
	next.Addresses = append(next.Addresses, port)
	return r.keep(next)
}

func (r *Reconciler) deleteAddress(l netlink.Link, p netip.Prefix) error {
	err := r.changeAddress(unix.RTM_DELADDR, 0, l, p)
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return err
	}
	port := router.PortAddress{Interface: l.Attrs().Name, Prefix: p}
	next := r.memory.clone()
	next.Addresses = slices.DeleteFunc(next.Addresses, func(a router.PortAddress) bool { return a == port })
	return r.keep(next)
}

func (r *Reconciler) ourLink(l netlink.Link) bool {
	return ours(link{alias: l.Attrs().Alias}, r.group)
}
