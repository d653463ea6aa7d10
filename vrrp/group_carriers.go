package vrrp

import (
	"slices"
	"time"
)

// fitCarriers carries what is known of the carriers over to a configuration. A
// carrier is known by its name; a new one counts as up until the shell says otherwise.
func (g *Group) fitCarriers(next GroupConfig) {
	up, heard := make([]bool, len(next.Carriers)), make([]time.Time, len(next.Carriers))
	for i, c := range next.Carriers {
		at := slices.IndexFunc(g.cfg.Carriers, func(old Carrier) bool { return old.Name == c.Name })
		if at < 0 || at >= len(g.up) {
			up[i] = true
			continue
		}
		up[i], heard[i] = g.up[at], g.heardOn[at]
	}
	g.up, g.heardOn = up, heard
	g.peer.Hears = nil // it was about the old order
}

// SetLinks tells which carriers' links are up, in the order of the configuration;
// carriers beyond the slice stay as they are. A MASTER announces itself on a link that
// is back. A node with a peer that stands alone
// does not become MASTER, and does not stay it: the peer serves everybody who is
// still there, and the way back must not begin with two MASTERs.
func (g *Group) SetLinks(now time.Time, up []bool) Output {
	var out Output
	before := g.usable()
	returned := false
	for i := range min(len(up), len(g.up)) {
		returned = returned || up[i] && !g.up[i]
	}
	copy(g.up, up)
	usable := g.usable()
	if usable && !before && g.state == Backup {
		// The peer's adverts could not come in until now.
		g.waitForSilence(now)
	}
	if g.stepDownIfStalled(now, &out) || g.state != Master {
		return out
	}
	if usable || !g.cfg.HasPeer {
		if returned {
			// Who stands behind that link may have heard nothing for long.
			g.advertise(now, &out)
			out.Announce = true
		}
		return out
	}
	g.becomeBackup(now, ReasonIsolated, &out)
	return out
}

// usable tells whether any carrier is up.
func (g *Group) usable() bool { return slices.Contains(g.up, true) }

// Hears tells by which carriers the peer's adverts came in within the down interval.
func (g *Group) Hears(now time.Time) []bool {
	hears := make([]bool, len(g.heardOn))
	for i, at := range g.heardOn {
		hears[i] = !at.IsZero() && now.Sub(at) < g.DownInterval()
	}
	return hears
}
