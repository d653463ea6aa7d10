package uplink

import (
	"slices"
	"time"

	"tandem/router/config"
)

// The schedule of gateway probes. A gateway that dies right after an answer is asked again
// within 250 ms; when that has no answer for 50 ms (100 ms if answers are slow), further attempts
// start every 50 ms, and the thirteenth has failed after 250 + 100 + 11·50 + 200 = 1100 ms.
//
// If each attempt fails by chance with probability 0.2, thirteen in a row begin with 4·0.2·0.2¹²
// per second, that is once in ten years of such loss; with 0.36, which is 20 % in either direction,
// once in two days. What loses that much is degraded anyway, and given up if there is something better.
const (
	gatewayInterval  = 250 * time.Millisecond
	gatewayTimeout   = 200 * time.Millisecond
	gatewayPace      = 50 * time.Millisecond
	gatewaySuspicion = 50 * time.Millisecond
	gatewayFall      = 13
	gatewayRise      = 3
)

// The schedule of end-to-end probes, by the configured interval I, timeout T and fall F. When an
// attempt has no answer for three mean round trips, at least 200 ms and at most T/2, further ones
// start every T/8, and F of them in a row are death: after at most I + T/2 + (F-2)·T/8 + T, that is
// 3 s with defaults. If probes get lost anyway, half as many again are asked for: 3.4 s with
// defaults, and loss of 20 % looks like death once in 22 days (0.2⁹ per second).
const (
	targetSuspicion = 200 * time.Millisecond
	shortestPace    = 20 * time.Millisecond
	// lossyShare is the percentage of lost probes from which on more are asked for.
	lossyShare = 5
)

const (
	// slower is how much less often the targets of an uplink are asked that is metered and
	// that no path uses, and seldom how long the time between two probes becomes by that at most.
	// Its gateway costs nothing, and is asked as often as any.
	slower = 5
	seldom = 5 * time.Second
	// lateness is how late after its timeout a failure may be told. One that comes later
	// tells of a stall of this node, not of the uplink.
	lateness = 500 * time.Millisecond
	// firstFall is how many failures in a row make a gateway dead that has not answered yet: a port that
	// has just come up loses its first packets.
	firstFall = 3
	// forgotten is how long after its timeout a probe is given up if no outcome comes.
	forgotten = 2 * time.Second
)

// key tells monitors apart: paths with equal ones share a monitor.
type key struct {
	uplink         string
	ipv6           bool
	kind           Kind
	target         config.Target
	interval       time.Duration
	timeout        time.Duration
	rise, fall     int
	lossLimit      int
	pace, earliest time.Duration
}

func gatewayKey(uplink string, ipv6 bool) key {
	return key{
		uplink: uplink, ipv6: ipv6, kind: Gateway, interval: gatewayInterval, timeout: gatewayTimeout, rise: gatewayRise, fall: gatewayFall,
		lossLimit: config.DefaultLossLimit, pace: gatewayPace, earliest: gatewaySuspicion,
	}
}

func targetKey(uplink string, ipv6 bool, t config.Target, p *config.Probe) key {
	return key{
		uplink: uplink, ipv6: ipv6, kind: EndToEnd, target: t, interval: p.Interval, timeout: p.Timeout, rise: p.Rise, fall: p.Fall,
		lossLimit: p.LossLimit, pace: min(max(p.Timeout/8, shortestPace), p.Interval), earliest: targetSuspicion,
	}
}

// attempt is a probe under way, or one that failed and whose failure counts.
type attempt struct {
	number          uint64
	start           time.Time
	regular, failed bool
}

// monitor asks one thing again and again, and judges the answers.
type monitor struct {
	key
	family *family
	state  State // never Degraded
	// lossy tells that too many probes are lost.
	lossy bool
	// enabled tells that it can be asked: there are a link and an address.
	enabled bool
	// sparing tells that it is asked less often; see slower.
	sparing bool
	// next is when the next regular probe is due; started is when the newest one began.
	next, started time.Time
	// attempts are under way or failed, in the order of their beginning. Once dead, failures are not kept.
	attempts []attempt
	// answered is the newest attempt that had an answer, and answeredStart when it began; zero if
	// there was none since the monitor was enabled.
	answered      uint64
	answeredStart time.Time
	// silent is when the attempts began that made it dead.
	silent time.Time
	rises  int
	// judged counts the results in history since it works.
	judged int
	history
	lastOK, lastFailed time.Time
	reason             string
	unhealthy          string
	sent, failures     uint64
}

// enable begins anew, when there are a link and an address, or ends.
func (m *monitor) enable(on bool, first time.Time) {
	if m.enabled == on {
		return
	}
	m.enabled, m.next, m.started = on, first, time.Time{}
	m.attempts, m.answered, m.answeredStart = nil, 0, time.Time{}
	m.state, m.lossy, m.rises, m.judged, m.unhealthy = Unknown, false, 0, 0, ""
	m.silent = time.Time{}
}

// pause is the time between two regular probes.
func (m *monitor) pause() time.Duration {
	if m.sparing {
		return max(min(slower*m.interval, seldom), m.interval)
	}
	return m.interval
}

// spare makes it be asked less often; or at once and as often as configured again.
func (m *monitor) spare(now time.Time, on bool) {
	if m.sparing == on {
		return
	}
	m.sparing = on
	if !on {
		m.hurry(now)
	}
}

// hurry makes the next regular probe be due now.
func (m *monitor) hurry(now time.Time) {
	if m.enabled && m.next.After(now) {
		m.next = now
	}
}

// needed is how many failures in a row are death.
func (m *monitor) needed() int {
	if m.kind == EndToEnd && m.lost(min(m.judged, window))*100 > lossyShare*window {
		return m.fall + m.fall/2
	}
	return m.fall
}

// suspicion is how long an answer may be missing before further attempts start.
func (m *monitor) suspicion() time.Duration {
	slow := m.timeout / 2
	if m.rtts == 0 {
		return slow
	}
	return min(max(3*m.mean(), m.earliest), slow)
}

// run counts the attempts since the newest one that had an answer, and tells when the first of them began.
func (m *monitor) run() (attempts int, first time.Time, failed bool) {
	for _, a := range m.attempts {
		if a.number < m.answered {
			continue
		}
		if attempts == 0 {
			first = a.start
		}
		attempts++
		failed = failed || a.failed
	}
	return attempts, first, failed
}

// overdue counts the attempts of the run that have failed or that have no answer for long
// enough to be suspicious, and tells when the n-th of them is; zero if there are fewer.
func (m *monitor) overdue(now time.Time, n int) (count int, at time.Time) {
	wait := m.suspicion()
	for _, a := range m.attempts {
		if a.number < m.answered {
			continue
		}
		n--
		if n == 0 {
			at = a.start.Add(wait)
		}
		if a.failed || !now.Before(a.start.Add(wait)) {
			count++
		}
	}
	return count, at
}

// due tells when the next probe starts; zero for never. A doubt about the gateway asks for further attempts
// at once.
func (m *monitor) due(doubt bool) time.Time {
	if !m.enabled {
		return time.Time{}
	}
	attempts, first, failed := m.run()
	if m.state == Dead || attempts == 0 && !doubt || attempts >= m.fall && attempts >= m.needed() {
		return m.next
	}
	at := m.started.Add(m.pace)
	if suspicious := first.Add(m.suspicion()); !failed && !doubt && suspicious.After(at) {
		at = suspicious
	}
	return earlier(at, m.next)
}

// start begins an attempt.
func (m *monitor) start(now time.Time, number uint64) Probe {
	regular := !now.Before(m.next)
	if regular {
		m.next = m.next.Add(m.pause())
		if !m.next.After(now) {
			m.next = now.Add(m.pause())
		}
	}
	m.started = now
	m.sent++
	m.attempts = append(m.attempts, attempt{number: number, start: now, regular: regular})
	return Probe{Uplink: m.uplink, IPv6: m.ipv6, Kind: m.kind, Target: m.target, Timeout: m.timeout, Attempt: number}
}

// finish takes an outcome and tells whether the verdict may have changed.
func (m *monitor) finish(now time.Time, o Outcome) bool {
	i := slices.IndexFunc(m.attempts, func(a attempt) bool { return a.number == o.Probe.Attempt && !a.failed })
	if i < 0 {
		return false
	}
	a := m.attempts[i]
	if !o.OK && !o.Local && now.Sub(a.start) > m.timeout+lateness {
		o.Local, o.Reason = true, "its failure came too late to tell anything: this machine was busy"
	}
	if o.Local {
		m.attempts = slices.Delete(m.attempts, i, i+1)
		changed := m.unhealthy != o.Reason
		m.unhealthy = o.Reason
		return changed
	}
	m.unhealthy = ""
	if a.regular {
		m.add(!o.OK)
		m.judged++
	}
	if o.OK {
		return m.success(now, i, o.RTT)
	}
	return m.failure(now, i, o.Reason)
}

func (m *monitor) success(now time.Time, i int, rtt time.Duration) bool {
	a := m.attempts[i]
	before, doubted := m.state, len(m.attempts) > 1
	m.lastOK = now
	m.history.answered(rtt)
	m.attempts = slices.DeleteFunc(m.attempts, func(b attempt) bool { return b.number == a.number || b.failed && b.number < a.number })
	first := m.answered == 0
	if a.number > m.answered {
		m.answered, m.answeredStart = a.number, a.start
	}
	m.rises++
	if m.state != Working && (first || m.rises >= m.rise) {
		m.state, m.judged, m.silent = Working, 1, time.Time{}
	}
	return m.weigh() || m.state != before || doubted
}

func (m *monitor) failure(now time.Time, i int, reason string) bool {
	a := m.attempts[i]
	m.failures++
	m.lastFailed, m.reason = now, reason
	if a.number < m.answered { // a later one had an answer
		m.attempts = slices.Delete(m.attempts, i, i+1)
		return m.weigh()
	}
	m.rises = 0
	m.attempts[i].failed = true
	switch {
	case m.state == Working && m.failed() < m.needed():
		m.weigh()
		return true
	case m.state == Unknown && m.kind == Gateway && m.failed() < firstFall:
		return true
	}
	before := m.state
	if before != Dead {
		_, m.silent, _ = m.run()
	}
	m.state, m.lossy = Dead, false
	m.attempts = slices.DeleteFunc(m.attempts, func(a attempt) bool { return a.failed })
	return before != Dead
}

func (m *monitor) failed() int {
	n := 0
	for _, a := range m.attempts {
		if a.failed {
			n++
		}
	}
	return n
}

// weigh judges the loss, and tells whether the judgement has changed. It ends well below the limit,
// so that a loss about the limit does not go back and forth.
func (m *monitor) weigh() bool {
	before := m.lossy
	n := min(m.judged, window)
	if m.state == Working && n >= enough {
		switch percent := 100 * m.lost(n); {
		case percent > m.lossLimit*n:
			m.lossy = true
		case 2*percent < m.lossLimit*n:
			m.lossy = false
		}
	}
	return m.lossy != before
}

// doubtful tells that so many attempts have no answer that chance is unlikely, before it is
// certain, and since when.
func (m *monitor) doubtful(now time.Time, attempts int) (since time.Time, is bool) {
	switch {
	case m.state == Dead && m.answered != 0:
		return m.silent, true
	case m.state == Working:
		count, _ := m.overdue(now, attempts)
		_, first, _ := m.run()
		return first, count >= attempts
	}
	return time.Time{}, false
}

// forget gives up attempts of which nothing was heard, and tells whether that is news.
func (m *monitor) forget(now time.Time) (changed bool) {
	limit := m.timeout + forgotten
	for i := 0; i < len(m.attempts); {
		a := m.attempts[i]
		if a.failed || now.Sub(a.start) < limit {
			i++
			continue
		}
		changed = m.finish(now, Outcome{Probe: Probe{Attempt: a.number}, Local: true, Reason: "no outcome of a probe came: the prober hangs"}) || changed
	}
	return changed
}

// earlier returns the earlier of two times, of which zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
