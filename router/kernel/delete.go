package kernel

import (
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// doomedGroup is a group of interfaces that nobody else uses; the number means
// nothing.
const doomedGroup = 0x54414e44

// deleteTogether deletes all links that ops delete with one request. The kernel
// waits some 20 ms for its readers at every deletion, and a node with hundreds of
// links would not be gone within the time that it has for stopping. Where this
// fails, the links go one by one, as the ops say.
func (r *Reconciler) deleteTogether(ops []op) {
	doomed := make(map[string]bool)
	for _, o := range ops {
		if o.kind == deleteLink {
			doomed[o.link] = true
		}
	}
	if len(doomed) < 2 {
		return
	}
	list, err := r.links.LinkList()
	if err != nil || slices.ContainsFunc(list, func(l netlink.Link) bool { return l.Attrs().Group == doomedGroup }) {
		return
	}
	for _, l := range list {
		if doomed[l.Attrs().Name] && r.ourLink(l) {
			// One that stays out of the group goes alone.
			_ = r.links.LinkSetGroup(l, doomedGroup)
		}
	}
	req := r.request(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(doomedGroup)))
	// What it did not delete is still there for the ops.
	_, _ = req.Execute(unix.NETLINK_ROUTE, 0)
}
