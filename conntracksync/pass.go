package conntracksync

import "time"

const (
	// passShare bounds what regular passes cost: one starts no sooner than this many
	// times its length after it ended, but no later than passLongest.
	passShare   = 30
	passLongest = 2 * time.Minute
	// passAgain is how soon a pass looks again at what one did not show.
	passAgain = 2 * time.Second
)

type passState uint8

const (
	passIdle passState = iota
	passRunning
	// passDiscarding: the pass was given up while the shell reads on.
	passDiscarding
)

// pass tells when the kernel's table is to be read, and holds what of it the Sender
// and the Receiver have in common.
type pass struct {
	interval, spacing time.Duration
	state             passState
	began             time.Time
	length            time.Duration
	// regular is when the next one is due, soon when there is a reason to have it
	// earlier; zero means not at all.
	regular, soon time.Time
	// overrun: events were lost since it began.
	overrun bool
}

// want asks for a pass no later than at.
func (p *pass) want(at time.Time) { p.soon = earliest(p.soon, at) }

// atOnce is a time that is over, for a wish that knows no time.
func atOnce() time.Time { return time.Unix(0, 0) }

// due returns when the next pass should start; zero means never.
func (p *pass) due(regular bool) time.Time {
	if p.state != passIdle {
		return time.Time{}
	}
	at := p.soon
	if regular {
		at = earliest(at, p.regular)
	}
	if at.IsZero() || p.began.IsZero() {
		return at
	}
	if least := p.began.Add(max(p.spacing, 2*p.length)); least.After(at) {
		return least
	}
	return at
}

func (p *pass) begin(now time.Time) {
	p.state, p.began, p.overrun = passRunning, now, false
	p.regular, p.soon = time.Time{}, time.Time{}
}

// finish plans the next regular pass.
func (p *pass) finish(now time.Time) {
	p.state = passIdle
	p.length = max(now.Sub(p.began), 0)
	p.regular = now.Add(min(max(p.interval, passShare*p.length), max(p.interval, passLongest)))
}

// abandon gives up what is under way and plans nothing.
func (p *pass) abandon() {
	if p.state == passRunning {
		p.state = passDiscarding
	}
	p.regular, p.soon = time.Time{}, time.Time{}
}

// ended tells that the shell has ended a pass; it is true if that still matters.
func (p *pass) ended() bool {
	running := p.state == passRunning
	p.state = passIdle
	return running
}

// earliest treats zero as never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
