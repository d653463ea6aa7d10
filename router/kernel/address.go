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

const (
	// ifaProto is IFA_PROTO of linux/if_addr.h, since Linux 5.18. Older kernels skip
	// it.
	ifaProto = 11
	// forever is the lifetime that never ends.
	forever = 0xffffffff
)

// request is a route netlink request on our own socket.
func (r *Reconciler) request(kind, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: r.socket}}
	return req
}

func (r *Reconciler) observeAddresses(families []family, names map[int]string) ([]address, error) {
	remembered := make(map[router.PortAddress]bool, len(r.memory.Addresses))
	for _, a := range r.memory.Addresses {
		remembered[a] = true
	}
	var list []address
	for _, f := range families {
		req := r.request(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfAddrmsg(f.number()))
		messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			a, err := parseAddress(m, f, names)
			if err != nil {
				return nil, err
			}
			if a.link != "" && a.prefix.IsValid() {
				a.ours = a.ours || remembered[router.PortAddress{Interface: a.link, Prefix: a.prefix}]
				list = append(list, a)
			}
		}
	}
	return list, nil
}

func parseAddress(message []byte, f family, names map[int]string) (address, error) {
	header := nl.DeserializeIfAddrmsg(message)
	attributes, err := nl.ParseRouteAttr(message[header.Len():])
	if err != nil {
		return address{}, err
	}
	a := address{link: names[int(header.Index)]}
	local := false
	for _, attribute := range attributes {
		switch attribute.Attr.Type {
		case unix.IFA_LOCAL, unix.IFA_ADDRESS:
			// Of the two, the second is the peer's if they differ.
			ip, ok := netip.AddrFromSlice(attribute.Value)
			if ok && (attribute.Attr.Type == unix.IFA_LOCAL || f == ipv6 && !local) {
				a.prefix = netip.PrefixFrom(ip, int(header.Prefixlen))
				local = attribute.Attr.Type == unix.IFA_LOCAL
			}
		case unix.IFA_FLAGS:
			flags := nl.NativeEndian().Uint32(attribute.Value)
			if f == ipv6 {
				a.form.nodad = flags&unix.IFA_F_NODAD != 0
				a.form.deprecated = flags&unix.IFA_F_DEPRECATED != 0
				a.form.noPrefixRoute = flags&unix.IFA_F_NOPREFIXROUTE != 0
				a.duplicate = flags&unix.IFA_F_DADFAILED != 0
			}
		case ifaProto:
			a.ours = attribute.Value[0] == protocol
		}
	}
	a.form.hostScope = f == ipv4 && header.Scope == unix.RT_SCOPE_HOST
	return a, nil
}

// changeAddress adds or deletes an address with our mark.
func (r *Reconciler) changeAddress(kind, flags int, l netlink.Link, p netip.Prefix, form addressForm) error {
	req := r.request(kind, flags|unix.NLM_F_ACK)
	f := familyOf(p.Addr())
	header := nl.NewIfAddrmsg(f.number())
	header.Index = uint32(l.Attrs().Index)
	header.Prefixlen = uint8(p.Bits())
	if form.hostScope {
		header.Scope = unix.RT_SCOPE_HOST
	}
	req.AddData(header)
	ip := p.Addr().AsSlice()
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, ip))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, ip))
	if kind == unix.RTM_NEWADDR {
		if f == ipv4 && p.Bits() < 31 {
			req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, broadcast(p)))
		}
		if f == ipv6 {
			addForm(req, form)
		}
		req.AddData(nl.NewRtAttr(ifaProto, []byte{protocol}))
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func addForm(req *nl.NetlinkRequest, form addressForm) {
	var flags uint32
	if form.nodad {
		flags |= unix.IFA_F_NODAD
	}
	if form.noPrefixRoute {
		flags |= unix.IFA_F_NOPREFIXROUTE
	}
	req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(flags)))
	preferred := uint32(forever)
	if form.deprecated {
		preferred = 0
	}
	// struct ifa_cacheinfo: how long preferred, how long valid, two time stamps.
	lifetimes := slices.Concat(nl.Uint32Attr(preferred), nl.Uint32Attr(forever), make([]byte, 8))
	req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, lifetimes))
}

func broadcast(p netip.Prefix) []byte {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b[:]
}

// addAddress adds an address and, if the kernel does not take the mark, remembers
// that it is ours.
func (r *Reconciler) addAddress(l netlink.Link, p netip.Prefix, form addressForm) error {
	if err := r.changeAddress(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, l, p, form); err != nil {
		return err
	}
	if r.ourLink(l) {
		return nil
	}
	port := router.PortAddress{Interface: l.Attrs().Name, Prefix: p}
	if !r.marks {
		list, err := r.observeAddresses([]family{familyOf(p.Addr())}, map[int]string{l.Attrs().Index: port.Interface})
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
		r.marks = slices.ContainsFunc(list, func(a address) bool { return a.link == port.Interface && a.prefix == p && a.ours })
	}
	if r.marks {
		return nil
	}
	next := r.memory.clone()
	next.Addresses = append(next.Addresses, port)
	return r.keep(next)
}

func (r *Reconciler) deleteAddress(l netlink.Link, p netip.Prefix) error {
	err := r.changeAddress(unix.RTM_DELADDR, 0, l, p, addressForm{})
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
