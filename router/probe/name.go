package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

const (
	// Whatever a name's time to live is, it is kept for at least and at most so long.
	shortestTTL = 30 * time.Second
	longestTTL  = time.Hour
	// staleTime is how long a name that cannot be renewed stays of use.
	staleTime = 24 * time.Hour
	// mostNames bounds what is kept.
	mostNames = 1024
	// renewalTime bounds a renewal in the background.
	renewalTime = 5 * time.Second
)

// nameKey is a name as seen by one port.
type nameKey struct {
	port string
	host string
	ipv6 bool
}

type name struct {
	addresses []netip.Addr
	// turn is the index of the address in use.
	turn  int
	until time.Time
	// renewing tells that somebody is at it; retry is when the next one may try, after a failure.
	renewing bool
	retry    time.Time
}

// names are those that were resolved.
type names struct {
	mu    sync.Mutex
	known map[nameKey]*name
}

// resolve returns an address of host: itself, if it is one, or what the uplink's name servers
// say.
func (p *Prober) resolve(ctx context.Context, r *Request, host string) (netip.Addr, error) {
	if address, err := netip.ParseAddr(host); err == nil {
		address = address.Unmap()
		if address.Is6() != r.Probe.IPv6 {
			return netip.Addr{}, local("cannot send: %v is not an address of the probe's family", address)
		}
		return address.WithZone(""), nil
	}
	k := nameKey{r.Interface, host, r.Probe.IPv6}
	address, renew := p.names.get(k, time.Now())
	if address.IsValid() {
		if renew {
			p.renew(*r, k)
		}
		return address, nil
	}
	if err := p.learn(ctx, r, k); err != nil {
		return netip.Addr{}, err
	}
	address, _ = p.names.get(k, time.Now())
	return address, nil
}

// learn asks the name servers and keeps what they say.
func (p *Prober) learn(ctx context.Context, r *Request, k nameKey) error {
	found, err := p.lookUp(ctx, r, k.host)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer from the name servers about %s within %v", k.host, r.Probe.Timeout)
	case err != nil:
		return err
	case len(found.addresses) == 0:
		return fmt.Errorf("name server %v knows no address of %s", found.server, k.host)
	}
	p.names.put(k, found, time.Now())
	return nil
}

// renew asks in the background.
func (p *Prober) renew(r Request, k nameKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.background.Go(func() {
		ctx, cancel := context.WithTimeout(p.done, renewalTime)
		defer cancel()
		r.Probe.Timeout = renewalTime
		if err := p.learn(ctx, &r, k); err != nil {
			p.names.postpone(k, time.Now())
		}
	})
}

// get returns the address in use of a name, if it is known; renew tells that the caller has to
// see to its renewal.
func (n *names) get(k nameKey, now time.Time) (address netip.Addr, renew bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	known, ok := n.known[k]
	if !ok || now.After(known.until.Add(staleTime)) {
		return netip.Addr{}, false
	}
	renew = now.After(known.until) && !known.renewing && now.After(known.retry)
	known.renewing = known.renewing || renew
	return known.addresses[known.turn%len(known.addresses)], renew
}

func (n *names) put(k nameKey, found lookup, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) >= mostNames {
		clear(n.known)
	}
	n.known[k] = &name{addresses: found.addresses, until: now.Add(min(max(found.ttl, shortestTTL), longestTTL))}
}

// postpone has a name be renewed later.
func (n *names) postpone(k nameKey, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if known, ok := n.known[k]; ok {
		known.renewing, known.retry = false, now.Add(renewalTime)
	}
}

// failed is the error of a probe of host. A name with several addresses is asked at another
// one the next time.
func (p *Prober) failed(r *Request, host string, err error) error {
	var here localError
	if errors.As(err, &here) {
		return err
	}
	p.names.next(nameKey{r.Interface, host, r.Probe.IPv6})
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%s: %w", r.target(), err)
}

func (n *names) next(k nameKey) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if known, ok := n.known[k]; ok {
		known.turn++
	}
}
