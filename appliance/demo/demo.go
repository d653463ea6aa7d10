package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"tandem/appliance/lab"
	"tandem/appliance/lab/traffic"
	"tandem/appliance/status"
)

// Defaults of the fields of Options that are zero.
const (
	// DefaultInterval is the calm before each fault.
	DefaultInterval = time.Second
	// DefaultObserve is how long each fault is observed at least.
	DefaultObserve = 3 * time.Second
	// DefaultPatience is how long a fault is observed at most, while flows are silent
	// or the MASTER has not moved.
	DefaultPatience = 10 * time.Second
)

const (
	// readyPatience bounds each wait for the pair or the traffic to be ready.
	readyPatience = 45 * time.Second
	// masterPatience bounds the search for the MASTER after a fault.
	masterPatience = 3 * time.Second
	// answerPatience bounds each question to the traffic.
	answerPatience = 5 * time.Second
	// lookInterval is how often the traffic is looked at while observing.
	lookInterval = 50 * time.Millisecond
)

// Lab is the pair that the demo breaks.
type Lab interface {
	// Status asks one node how it is.
	Status(ctx context.Context, node string) (status.Status, error)
	// WaitReady waits until one node is MASTER, the other BACKUP, and both hold the
	// same sessions.
	WaitReady(ctx context.Context) error
	// Master names the node that is MASTER.
	Master(ctx context.Context) (string, error)
	// Inject breaks a node and returns when it did.
	Inject(ctx context.Context, fault lab.Fault, node string) (time.Time, error)
	// Heal undoes a fault.
	Heal(ctx context.Context, fault lab.Fault, node string) error
}

// Traffic is what crosses the pair.
type Traffic interface {
	// Ready waits until every flow is established.
	Ready(ctx context.Context) error
	// Latest returns the newest snapshot without asking.
	Latest() traffic.Snapshot
	// Mark begins an observation window.
	Mark(ctx context.Context) error
	// Fault tells when a fault happened.
	Fault(ctx context.Context, at time.Time) error
	// Report asks for a snapshot.
	Report(ctx context.Context) (traffic.Snapshot, error)
}

// Options say what to show and how.
type Options struct {
	// Faults are the names of the faults in their order; none means all.
	Faults []string
	// Sessions and Flows are how many TCP sessions and UDP flows the traffic opens;
	// they are shown while it does so.
	Sessions, Flows int
	// Interval is the calm before each fault, Observe the least and Patience the most
	// time for which each is observed; 0 is the default of each.
	Interval, Observe, Patience time.Duration
	// JSON asks for one JSON document in place of everything else.
	JSON bool
	// Keep asks to go on after the last fault until the context ends.
	Keep bool
	// Out gets everything that is shown.
	Out io.Writer
	// Terminal tells that Out is a terminal; it gets a live view then, plain lines
	// else. Colour tells that it may be coloured.
	Terminal, Colour bool
	// Size returns the columns and rows of the terminal; nil is 80 by 24.
	Size func() (columns, rows int)
}

func (o Options) withDefaults() Options {
	if o.Interval == 0 {
		o.Interval = DefaultInterval
	}
	if o.Observe == 0 {
		o.Observe = DefaultObserve
	}
	if o.Patience == 0 {
		o.Patience = DefaultPatience
	}
	if o.Size == nil {
		o.Size = func() (int, int) { return 80, 24 }
	}
	return o
}

// parseFaults reads the names of the faults, or lists all faults if there are none.
func parseFaults(names []string) ([]lab.Fault, error) {
	if len(names) == 0 {
		return lab.Faults(), nil
	}
	faults := make([]lab.Fault, 0, len(names))
	var wrong []error
	for _, name := range names {
		f, err := lab.ParseFault(name)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		faults = append(faults, f)
	}
	return faults, errors.Join(wrong...)
}

// Run shows all faults and prints the outcome to Out. The pair runs and the traffic
// has been started already; both are left running. When ctx ends, Run returns
// soon, with an interrupted Result and without an error. An error says what was
// being done; the Result then holds what was seen before.
func Run(ctx context.Context, opts Options, pair Lab, flows Traffic) (Result, error) {
	opts = opts.withDefaults()
	faults, err := parseFaults(opts.Faults)
	if err != nil {
		return Result{Error: err.Error()}, err
	}
	s := &show{opts: opts, pair: pair, traffic: flows, faults: faults, stage: newStage(len(faults))}
	audience := newAudience(opts, s.stage)
	s.audience = audience

	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	finished := s.stage.watch(watching, pair, flows, audience.frame)
	result, err := s.run(ctx)
	stopWatching()
	<-finished
	audience.close()

	if ctx.Err() != nil {
		result.Interrupted, err = true, nil
	}
	if err != nil {
		result.Error = err.Error()
	}
	result.Passed = result.OK()
	if said := audience.finish(result, s.stage.doing()); said != nil && err == nil {
		err = fmt.Errorf("print the outcome: %w", said)
	}
	if opts.Keep && err == nil && !result.Interrupted {
		audience.keep()
		<-ctx.Done()
	}
	return result, err
}
