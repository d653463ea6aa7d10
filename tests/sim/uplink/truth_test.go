package uplink

import (
	"time"

	"tandem/router/config"
	"tandem/router/uplink"
)

// way is an uplink for a path.
type way struct {
	network, uplink string
}

// quality is what is true of a way.
type quality int

const (
	good quality = iota
	// vague: whether it counts as dead is a matter of chance.
	vague
	bad
)

// truth is what is true of a way for one node, and since when.
type truth struct {
	quality quality
	since   time.Duration
	// cut is since when the link or the address is missing, silent since when neither the gateway
	// nor anything beyond answers; negative if it is not so.
	cut, silent time.Duration
	// mute is since when the gateway does not answer, whatever lies beyond.
	mute time.Duration
	// heard is since when it answered before that or answers now: one that has just come back does not count yet.
	heard time.Duration
	// Last times of each quality; negative if never.
	last [3]time.Duration
	// flap is when the link or the address last came back.
	flap time.Duration
	// proved tells that it has ever been good for two seconds: what never worked has nothing to make up for.
	proved bool
}

// learn notes what is true after something has changed.
func (n *node) learn() {
	for i := range n.doc.Networks {
		network := &n.doc.Networks[i]
		for _, u := range n.doc.Uplinks {
			w := way{network.Name, u.Name}
			t := n.truths[w]
			if t == nil {
				t = &truth{since: n.now, cut: -1, silent: -1, mute: -1, last: [3]time.Duration{-1, -1, -1}, flap: -1}
				n.truths[w] = t
			}
			n.learnOne(network, n.ports[u.Name], t)
		}
	}
}

func (n *node) learnOne(network *config.Network, p *port, t *truth) {
	t.last[t.quality] = n.now
	t.proved = t.proved || t.steadily(n.now, good, 2*time.Second)
	quality := n.quality(network, p)
	if quality != t.quality {
		t.quality, t.since = quality, n.now
	}
	t.last[quality] = n.now
	cut := !p.link || !p.address
	if !cut && t.cut >= 0 && n.now >= n.stalledUntil { // what happens in a stall may not be noticed
		t.flap = n.now
	}
	mark(&t.cut, cut, n.now)
	if t.mute >= 0 && !p.gateway.dead {
		t.heard = n.now
	}
	mark(&t.mute, p.gateway.dead, n.now)
	mark(&t.silent, p.gateway.dead && (p.beyond.dead || len(network.Probe.Targets) == 0), n.now)
}

func mark(since *time.Duration, is bool, now time.Duration) {
	switch {
	case !is:
		*since = -1
	case *since < 0:
		*since = now
	}
}

// quality is what is true of a port for a network.
func (n *node) quality(network *config.Network, p *port) quality {
	if !p.link || !p.address {
		return bad
	}
	if p.local || n.now < n.settledAt {
		return vague
	}
	answers := !p.gateway.dead
	if len(network.Probe.Targets) > 0 {
		count := 0
		for _, t := range network.Probe.Targets {
			if !n.targets[t.Host].dead && !p.beyond.dead {
				count++
			}
		}
		answers = count >= network.Probe.Need
	}
	switch {
	case !answers:
		return bad
	case p.loss > 0:
		return vague
	}
	return good
}

// Bounds of a network, from what it has configured.

// knowsDeath bounds the time from the death of what is asked beyond the gateway until it is known.
func knowsDeath(network *config.Network) time.Duration {
	p := network.Probe
	if len(p.Targets) == 0 {
		return knowsSilence()
	}
	attempts := time.Duration(p.Fall + p.Fall/2)
	pace := min(max(p.Timeout/8, 20*ms), p.Interval)
	return max(p.Interval+p.Timeout/2+attempts*pace+p.Timeout, knowsSilence()) + 100*ms
}

// knowsSilence bounds the time until it is known that the gateway is dead, and everything behind it.
func knowsSilence() time.Duration { return 1250 * ms }

// knowsLife bounds the time until an uplink that works again may be taken if no other one works.
func knowsLife(network *config.Network) time.Duration {
	p := network.Probe
	rise := time.Duration(p.Rise+1) * p.Interval
	return 5*max(rise, time.Second) + p.Timeout + 2*time.Second + 200*ms
}

// unnoticed is for how much longer the death of a metered uplink that is not in use may go unnoticed.
func (w *world) unnoticed(name string) time.Duration {
	if w.uplink(name).Metered {
		return 5 * time.Second
	}
	return 0
}

// switches bounds the time from the knowledge to the switch: the dwell of a MASTER, and the
// proof that another uplink answers.
func switches() time.Duration { return 500*ms + 20*ms }

func (w *world) network(name string) *config.Network {
	for i := range w.doc.Networks {
		if w.doc.Networks[i].Name == name {
			return &w.doc.Networks[i]
		}
	}
	return nil
}

func (w *world) uplink(name string) *config.Uplink {
	for i := range w.doc.Uplinks {
		if w.doc.Uplinks[i].Name == name {
			return &w.doc.Uplinks[i]
		}
	}
	return nil
}

func (w *world) allowed(network, name string) bool {
	return w.uplink(name).Cost <= w.network(network).MaxCost
}

// lately tells that a way had a quality within the last d.
func (t *truth) lately(now time.Duration, q quality, d time.Duration) bool {
	return t.quality == q || t.last[q] >= 0 && now-t.last[q] <= d
}

// steadily tells that a way has had a quality for more than d.
func (t *truth) steadily(now time.Duration, q quality, d time.Duration) bool {
	return t.quality == q && now-t.since > d
}

func pathOf(network string) uplink.Path {
	return uplink.Path{Network: network, Destination: anywhere}
}
