package sim

import (
	"slices"
	"time"

	"tandem/router"
	"tandem/vrrp"
)

// nodePart is what the node knows of its machine and has told the elector.
type nodePart struct {
	health router.Health
	seesUp [carriers]bool
	// notReady counts what keeps the session table from being complete.
	notReady int
	// role is the elector's, as the node knows it.
	role    vrrp.State
	fitness vrrp.Fitness
	down    [carriers]bool
	judgeAt time.Duration
	// cameUp is when a network was last seen to come up; wasUp how it was seen last,
	// known that it was seen at all.
	cameUp       [carriers]time.Duration
	wasUp, known [carriers]bool
	// late tells that a judgement fell into a freeze.
	late bool
}

// judge is the node's look at its links: what it finds is told to the elector.
func (m *machine) judge() {
	n := &m.node
	if m.frozen > 0 || m.off > 0 {
		n.late = true
		return
	}
	var down [carriers]bool
	if m.slot < 0 {
		down[m.carriers[0]] = !n.seesUp[m.carriers[0]]
		m.tellLater(vrrp.Fitness{Ready: true}, down)
		return
	}
	now := m.now()
	names := make([]string, 0, carriers)
	down[ha] = !n.seesUp[ha]
	for _, c := range m.document.networks {
		names = append(names, c.String())
		n.health.Observe(now, c.String(), n.seesUp[c])
		n.observe(c, m.local())
		down[c] = !n.seesUp[c]
	}
	n.health.Forget(names)
	for c := range ha {
		if !slices.Contains(m.document.networks, c) {
			n.known[c], n.cameUp[c] = false, 0
		}
	}
	f := vrrp.Fitness{Failed: len(n.health.Failed()), Ready: n.notReady == 0}
	f.Recovering = len(n.health.Recovering(now)) > 0 && n.role != vrrp.Master
	m.checkRecovery(f)
	m.tellLater(f, down)
	if deadline := n.health.Deadline(now); !deadline.IsZero() {
		at := m.world(deadline.Sub(epoch()))
		if n.judgeAt != at {
			n.judgeAt = at
			m.w.after(max(at-m.w.now, 0)+m.w.between(time.Millisecond, 2*time.Millisecond), m.judge)
		}
	}
}

// observe follows when a network comes up.
func (n *nodePart) observe(c carrier, now time.Duration) {
	if n.known[c] && n.seesUp[c] && !n.wasUp[c] {
		n.cameUp[c] = now
	}
	n.known[c], n.wasUp[c] = true, n.seesUp[c]
}

// checkRecovery demands that a BACKUP with a link that has just come back does not
// count as healthy: else the role would move with every flap.
func (m *machine) checkRecovery(f vrrp.Fitness) {
	n := &m.node
	for _, c := range m.document.networks {
		since := m.local() - n.cameUp[c]
		if n.cameUp[c] > 0 && since < router.RecoveryTime && f.Failed == 0 && !f.Recovering && n.role != vrrp.Master {
			m.w.fail(ruleDwell, "%s counts as healthy %v after %s came up", m.name(), since, c)
		}
	}
}

func (m *machine) tellLater(f vrrp.Fitness, down [carriers]bool) {
	n := &m.node
	if f == n.fitness && down == n.down {
		return
	}
	m.w.disturb("fitness", m.id, uint64(f.Failed), bit(f.Recovering), bit(f.Ready))
	if n.fitness.Recovering && !f.Recovering && f.Failed == 0 && n.role != vrrp.Master {
		m.w.recoveries++
	}
	n.fitness, n.down = f, down
	m.command(func() { m.tell(f, down) })
}

// tell hands the fitness and the state of the links to the group.
func (m *machine) tell(f vrrp.Fitness, down [carriers]bool) {
	up := make([]bool, len(m.carriers))
	isolated := true
	for i, c := range m.carriers {
		up[i] = !down[c]
		isolated = isolated && down[c]
	}
	if m.past.isolated && !isolated {
		m.past.returnedAt = m.local()
	}
	if f.Ready && !m.past.ready {
		m.past.readyAt = m.local()
	}
	m.past.isolated, m.past.ready = isolated, f.Ready
	m.step(vrrp.Input{Fitness: &f}, cause{})
	m.step(vrrp.Input{Links: up}, cause{})
	m.past.noteTiming(m)
	if isolated && m.slot >= 0 && m.group.State() == vrrp.Master {
		m.w.fail(ruleIsolated, "%s stays MASTER although every link of it is down", m.name())
	}
}

// reportRole tells the node of a change of role, which judges anew.
func (m *machine) reportRole() {
	role := m.group.State()
	m.w.after(m.w.between(0, reportDelay), func() {
		m.node.role = role
		m.judge()
	})
}

// reportDelay is how long the elector's report takes to the node at most, judgeDelay
// how long a change of a link takes to be noticed.
const (
	reportDelay   = 5 * time.Millisecond
	judgeDelayMin = time.Millisecond
	judgeDelayMax = 12 * time.Millisecond // links are looked at every 10 ms
)

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
