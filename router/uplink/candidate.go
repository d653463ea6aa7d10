package uplink

import (
	"fmt"
	"time"
)

// How long an uplink that has recovered must work before anything returns to it while another
// one works. The time doubles with each failure after a return was possible, up to the longest, and halves
// for each pause without one. Failures before that only begin it anew, so that a port that flaps
// fast does not pile up a sentence, and moves nothing meanwhile either.
const (
	holdDown    = 10 * time.Second
	longestHold = 10 * time.Minute
	strikePause = 10 * time.Minute
	mostStrikes = 7 // 10 s · 2⁶ is above the longest
	// settling is how long it must work if no other one does: two ports that flap in
	// turn must not pass the traffic to and fro.
	settling = 2 * time.Second
	// probationShare is the part of the hold-down for which a recovered uplink still counts
	// against a BACKUP: 2 s at first; see [candidate.probation].
	probationShare = 5
	// missing is how long an uplink that a BACKUP had chosen counts against it when it is dead.
	missing = 5 * time.Second
)

// How many attempts in a row without an answer are a doubt, for a gateway and for a target; see
// [candidate.doubted]. gatewayDoubt is also what makes the targets be asked at once, and
// targetDoubt of their attempts must be without an answer for the silence of the gateway to
// count as the death of the path.
const (
	gatewayDoubt = 3
	targetDoubt  = 2
	backupDoubt  = 2
)

// family is an uplink in one address family.
type family struct {
	uplink *uplink
	ipv6   bool
	// known tells that SetAddress was called, address what it said.
	known, address bool
	// gateway is nil if there is no next hop.
	gateway *monitor
	targets []*monitor
}

// up tells whether it can be asked.
func (f *family) up() bool { return f.uplink.link && f.address }

// down says what is missing for it, or nothing.
func (f *family) down() string {
	switch {
	case f.uplink.linkKnown && !f.uplink.link:
		return "the link is down: " + f.uplink.linkReason
	case f.known && !f.address:
		return "its port has no " + familyName(f.ipv6) + " address of this node"
	}
	return ""
}

func familyName(ipv6 bool) string {
	if ipv6 {
		return "IPv6"
	}
	return "IPv4"
}

// candidate is an uplink that a path may take.
type candidate struct {
	*family
	targets []*monitor
	need    int
	allowed bool

	state  State
	reason string
	since  time.Time
	// worked tells that it has ever worked, failedAt when it last stopped.
	worked   bool
	failedAt time.Time
	// strikes counts the failures that make the hold-down longer; see holdDown.
	strikes    int
	lastStrike time.Time
	// heldUntil is when anything may return to it, aliveSince when it began to work,
	// returned whether that was after a failure.
	heldUntil, aliveSince time.Time
	returned              bool
	// missedUntil is until when it counts against a BACKUP that had chosen it and that it has
	// failed: the MASTER, which may have chosen it as well, is given the time to notice.
	missedUntil time.Time
}

// judge weighs the evidence. End-to-end counts for more than the gateway: what the gateway says
// counts without targets, or if it falls silent and no target has answered since. The third result
// is when time alone may change the judgement.
func (c *candidate) judge(now time.Time) (state State, reason string, again time.Time) {
	switch {
	case c.down() != "":
		return Dead, c.down(), time.Time{}
	case !c.up():
		return Unknown, "nothing is known of its port yet", time.Time{}
	case len(c.targets) > 0:
		return c.judgeTargets(now)
	case c.gateway == nil:
		return Working, "the link is up; there is nothing to ask", time.Time{}
	}
	state, reason = c.gateway.verdict()
	return state, reason, time.Time{}
}

// verdict is what a single monitor says.
func (m *monitor) verdict() (State, string) {
	what := "the gateway"
	if m.kind == EndToEnd {
		what = m.target.String()
	}
	switch {
	case m.state == Dead:
		return Dead, what + " does not answer: " + m.reason
	case m.state == Unknown:
		return Unknown, what + " has not been asked yet"
	case m.lossy:
		return Degraded, fmt.Sprintf("%.0f %% of the probes of %s are lost", 100*float64(m.lost(min(m.judged, window)))/float64(min(m.judged, window)), what)
	}
	return Working, what + " answers"
}

func (c *candidate) judgeTargets(now time.Time) (state State, reason string, again time.Time) {
	var answering, clean, open int
	var trouble string
	for _, m := range c.targets {
		state, why := m.verdict()
		if state == Degraded && trouble == "" || state == Dead {
			trouble = why
		}
		silent, at := c.silentWithGateway(now, m)
		again = earlier(again, at)
		switch {
		case silent:
			trouble = fmt.Sprintf("the gateway does not answer, nor does %s %s since", m.target.Kind, m.target.Host)
		case state == Unknown:
			open++
		case state == Degraded:
			answering++
		case state == Working:
			answering, clean = answering+1, clean+1
		}
	}
	count := fmt.Sprintf("%d of %d targets answer", answering, len(c.targets))
	if c.need > 1 || answering >= c.need && len(c.targets) > 1 {
		count += fmt.Sprintf(", %d must", c.need)
	}
	switch {
	case clean >= c.need:
		return Working, count, again
	case answering >= c.need:
		return Degraded, trouble, again
	case answering+open >= c.need:
		return Unknown, "targets have not been asked yet", again
	}
	return Dead, count + ": " + trouble, again
}

// silentWithGateway tells that a target that still counts as reachable has not answered since the
// gateway died, though it was asked often enough; or when that may be so.
func (f *family) silentWithGateway(now time.Time, m *monitor) (silent bool, at time.Time) {
	if f.gateway == nil || f.gateway.state != Dead || m.state != Working {
		return false, time.Time{}
	}
	since, dead := f.gateway.doubtful(now, gatewayDoubt)
	if !dead || !m.answeredStart.Before(since) {
		return false, time.Time{}
	}
	count, at := m.overdue(now, targetDoubt)
	return count >= min(targetDoubt, m.fall), at
}

// hurried tells that the gateway has fallen silent and that a target which counts as reachable has not
// answered since: it is asked at once.
func (f *family) hurried(now time.Time, m *monitor) bool {
	if m.kind == Gateway || m.state != Working || f.gateway == nil {
		return false
	}
	since, is := f.gateway.doubtful(now, gatewayDoubt)
	return is && m.answeredStart.Before(since)
}

// doubted tells that a candidate that works has not answered lately. A BACKUP counts that as a failure: if
// something dies for both nodes and the MASTER notices first, the role must not move to a node
// that is about to notice the same.
func (c *candidate) doubted(now time.Time) bool {
	if !c.state.Works() || !c.up() {
		return false
	}
	silentGateway := false
	if c.gateway != nil {
		_, silentGateway = c.gateway.doubtful(now, backupDoubt)
	}
	if len(c.targets) == 0 {
		return silentGateway
	}
	sound := 0
	for _, m := range c.targets {
		if _, is := m.doubtful(now, backupDoubt); !is && m.state == Working && !c.hurried(now, m) {
			sound++
		}
	}
	return sound < c.need
}

// fresh tells that enough of what a candidate is judged by has answered to probes since a time.
func (c *candidate) fresh(since time.Time) bool {
	if len(c.targets) == 0 {
		return c.gateway == nil || !c.gateway.answeredStart.Before(since)
	}
	fresh := 0
	for _, m := range c.targets {
		if m.state == Working && !m.answeredStart.Before(since) {
			fresh++
		}
	}
	return fresh >= c.need
}

// proven tells that it answers now.
func (c *candidate) proven(now time.Time) bool {
	if c.doubted(now) {
		return false
	}
	recent := func(m *monitor) bool {
		return m.state == Working && !m.answeredStart.Before(now.Add(-2*m.interval-m.timeout))
	}
	if len(c.targets) == 0 {
		return c.gateway == nil || recent(c.gateway)
	}
	count := 0
	for _, m := range c.targets {
		if recent(m) {
			count++
		}
	}
	return count >= c.need
}

// check asks at once what a candidate is judged by.
func (c *candidate) check(now time.Time) {
	for _, m := range c.targets {
		m.hurry(now)
	}
	if c.gateway != nil {
		c.gateway.hurry(now)
	}
}

// update takes a judgement. What was known once does not become unknown again: the last
// judgement stands until there is a new one.
func (c *candidate) update(now time.Time) (again time.Time) {
	state, reason, again := c.judge(now)
	if state == Unknown && c.state != Unknown {
		return again
	}
	c.reason = reason
	if state == c.state {
		return again
	}
	before := c.state
	c.state, c.since = state, now
	switch {
	case before > state && before.Works():
		c.fail(now)
	case state == Dead:
		c.failedAt = now
	}
	if state.Works() && !before.Works() {
		c.aliveSince, c.returned = now, c.worked
	}
	if state.Works() && before != Unknown && before < state && c.worked {
		c.heldUntil = now.Add(c.hold())
	}
	c.worked = c.worked || state.Works()
	return again
}

func (c *candidate) fail(now time.Time) {
	c.failedAt = now
	if now.Before(c.heldUntil) {
		return
	}
	c.strikes -= min(c.strikes, int(now.Sub(c.lastStrike)/strikePause))
	c.strikes, c.lastStrike = min(c.strikes+1, mostStrikes), now
}

// hold is the hold-down that a recovery begins now.
func (c *candidate) hold() time.Duration {
	return min(holdDown<<max(c.strikes-1, 0), longestHold)
}

// probation is how long a recovered uplink still counts against a BACKUP. The MASTER may notice the
// same recovery later by the time between two probes.
func (c *candidate) probation() time.Duration {
	var pause time.Duration
	for _, m := range c.targets {
		pause = max(pause, m.pause())
	}
	return c.hold()/probationShare + pause
}

// held tells that nothing returns to it while another one works.
func (c *candidate) held(now time.Time) bool { return now.Before(c.heldUntil) }

// settled tells that it works for long enough to be taken if nothing else works.
func (c *candidate) settled(now time.Time) bool {
	return !c.returned || !now.Before(c.aliveSince.Add(settling))
}
