package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"tandem/router/config"
	"tandem/router/uplink"
)

// Request is a probe and the port that it leaves by.
type Request struct {
	// Interface is the physical port.
	Interface string
	// Source is the node's own address there, of the probe's family.
	Source netip.Addr
	// Gateway is the next hop, which is asked by probes of that kind.
	Gateway netip.Addr
	// DNS are the uplink's name servers.
	DNS []netip.Addr
	// Mark is on all packets but those to the gateway.
	Mark uint32
	// Probe is what is asked.
	Probe uplink.Probe

	// to is the address that was asked, as soon as it is known.
	to netip.Addr
}

// Prober runs probes. Its methods are safe for concurrent use.
type Prober struct {
	namespace namespace
	names     names
	// background are goroutines that renew names; done ends them.
	background sync.WaitGroup
	done       context.Context
	cancel     context.CancelFunc

	mu         sync.Mutex
	neighbours map[neighbourKey]*neighbours
	echoes     map[echoKey]*echoes
	closed     bool
}

// New is for the current network namespace, with which the prober stays.
func New() (*Prober, error) {
	p := &Prober{neighbours: make(map[neighbourKey]*neighbours), echoes: make(map[echoKey]*echoes)}
	if err := p.namespace.open(); err != nil {
		return nil, err
	}
	p.names.known = make(map[nameKey]*name)
	p.done, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Close ends what is under way.
func (p *Prober) Close() error {
	p.cancel()
	p.mu.Lock()
	p.closed = true
	var err error
	for _, n := range p.neighbours {
		err = errors.Join(err, n.close())
	}
	for _, e := range p.echoes {
		err = errors.Join(err, e.close())
	}
	clear(p.neighbours)
	clear(p.echoes)
	p.mu.Unlock()
	p.background.Wait()
	return errors.Join(err, p.namespace.close())
}

// answer is a successful probe.
type answer struct {
	rtt time.Duration
	// note says why what came back counts as an answer, where that is not plain.
	note string
}

// localError is a fault of this node.
type localError struct{ err error }

func (e localError) Error() string { return e.err.Error() }
func (e localError) Unwrap() error { return e.err }

func local(format string, arguments ...any) error {
	return localError{fmt.Errorf(format, arguments...)}
}

var errClosed = localError{errors.New("the prober was closed")}

// Run asks and waits for the answer, for no longer than the probe's timeout. The outcome of a probe
// that ctx ends is local. Of a success the reason is empty, or says why it counts as one.
func (p *Prober) Run(ctx context.Context, r Request) uplink.Outcome {
	outcome := uplink.Outcome{Probe: r.Probe}
	within, cancel := context.WithTimeout(ctx, r.Probe.Timeout)
	defer cancel()
	stop := context.AfterFunc(p.done, cancel)
	defer stop()
	got, err := p.ask(within, &r)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = cmp.Or(p.check(&r), err)
	}
	var here localError
	switch {
	case err == nil:
		outcome.OK, outcome.RTT, outcome.Reason = true, got.rtt, got.note
	case p.done.Err() != nil || ctx.Err() != nil:
		outcome.Local, outcome.Reason = true, "the probe was cancelled"
	case errors.As(err, &here):
		outcome.Local, outcome.Reason = true, here.Error()
	case errors.Is(err, context.DeadlineExceeded):
		outcome.Reason = fmt.Sprintf("no answer from %s within %v", r.target(), r.Probe.Timeout)
	default:
		outcome.Reason = err.Error()
	}
	return outcome
}

func (p *Prober) ask(ctx context.Context, r *Request) (answer, error) {
	switch {
	case !r.Source.IsValid():
		return answer{}, local("cannot send: %s has no address of this node", r.Interface)
	case r.Source.Is6() != r.Probe.IPv6:
		return answer{}, local("cannot send: %v is not an address of the probe's family", r.Source)
	case r.Probe.Kind == uplink.Gateway:
		return p.askGateway(ctx, r)
	}
	switch r.Probe.Target.Kind {
	case config.ProbeICMP:
		return p.askEcho(ctx, r)
	case config.ProbeTCP:
		return p.askTCP(ctx, r)
	case config.ProbeDNS:
		return p.askDNS(ctx, r)
	case config.ProbeHTTP:
		return p.askHTTP(ctx, r)
	}
	return answer{}, local("there is no probe of kind %q", r.Probe.Target.Kind)
}

// target names what is asked.
func (r *Request) target() string {
	t := &r.Probe.Target
	switch {
	case r.Probe.Kind == uplink.Gateway:
		return r.Gateway.String()
	case t.Kind == config.ProbeTCP:
		return fmt.Sprintf("%s port %d", t.Host, t.Port)
	case t.Kind == config.ProbeDNS:
		return "the name servers"
	}
	return t.Host
}
