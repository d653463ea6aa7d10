package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/ti-mo/conntrack"

	"tandem/appliance/lab"
)

const (
	// briefTimeout bounds the table while flows come and go, keepTimeout keeps those that
	// are compared, both in seconds.
	briefTimeout = 2
	keepTimeout  = 900
	// idleTime is for how long it is measured what the daemons do without load.
	idleTime = 3 * time.Second
	// keptTime is for how long flows begin that are kept until they are compared.
	keptTime = time.Second
	// quietPatience is how long the tables may take to be equal after the load.
	quietPatience = 12 * time.Second
	// drainPatience is how long the flows may take to go.
	drainPatience = 40 * time.Second
	// fewFlows are those of the nodes themselves, at most.
	fewFlows = 50
)

// loader has what experiments with the replication need.
type loader struct {
	*stand
	replicator
	// next is the number of the next flow.
	next uint64
}

func newLoader(s *stand) (*loader, error) {
	r, ok := s.product.(replicator)
	if !ok {
		return nil, errors.New("this product has no replication to be measured")
	}
	if err := s.Namespace(lab.Server).Do(installReflector); err != nil {
		return nil, err
	}
	return &loader{stand: s, replicator: r}, s.Namespace(lab.Client).Do(installSink)
}

// setTimeouts is for both nodes.
func (l *loader) setTimeouts(seconds int) error {
	var errs []error
	for _, node := range nodes() {
		errs = append(errs, setTimeouts(l.Namespace(node), seconds))
	}
	return errors.Join(errs...)
}

// generate begins flows and returns when all have begun.
func (l *loader) generate(count uint64, rate int) (generated, error) {
	b := burst{First: l.next, Count: count, Rate: rate}
	cmd := exec.Command("/proc/self/exe", b.arguments()...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := l.Namespace(lab.Client).Run(cmd); err != nil {
		return generated{}, fmt.Errorf("generate flows: %w: %s", err, bytes.TrimSpace(complaints.Bytes()))
	}
	var said generated
	if err := json.Unmarshal(out.Bytes(), &said); err != nil {
		return said, fmt.Errorf("read what the generator says: %w", err)
	}
	l.next += said.Sent
	if said.Error != "" {
		return said, errors.New(said.Error)
	}
	return said, nil
}

// reading is what is counted from the begin of a load to its end.
type reading struct {
	at  time.Time
	cpu map[string]ran
	// wire is in bytes on the HA link, answers are frames that came to the client.
	wire, answers uint64
}

func (l *loader) read() (r reading, err error) {
	r = reading{at: time.Now(), cpu: make(map[string]ran)}
	for _, node := range nodes() {
		if r.cpu[node], err = processorTime(l.Processes(node)); err != nil {
			return r, err
		}
	}
	received, sent, _, err := linkCounters(l.Namespace(lab.Alpha), "ha0")
	if err != nil {
		return r, err
	}
	r.wire = received + sent
	_, _, r.answers, err = linkCounters(l.Namespace(lab.Client), "eth0")
	return r, err
}

// linkCounters are the bytes received and sent by a link, and the frames received.
func linkCounters(node lab.Namespace, name string) (received, sent, frames uint64, err error) {
	handle, err := node.Netlink()
	if err != nil {
		return 0, 0, 0, err
	}
	defer handle.Close()
	link, err := handle.LinkByName(name)
	if err != nil {
		return 0, 0, 0, fmt.Errorf("find link %s of %s: %w", name, node.Name(), err)
	}
	s := link.Attrs().Statistics
	return s.RxBytes, s.TxBytes, s.RxPackets, nil
}

// usedBetween is the processor time that daemons of a node used, by program.
func usedBetween(before, after ran) map[string]time.Duration {
	used := make(map[string]time.Duration)
	for pid, ran := range after {
		used[processName(pid)] += ran - before[pid]
	}
	return used
}

// load lets flows begin at a rate, come to an end, and measures what that cost.
func (l *loader) load(ctx context.Context, rate int, over time.Duration) (*loadUse, error) {
	use := &loadUse{Rate: rate}
	master, err := l.prepare(ctx)
	if err != nil {
		return use, err
	}
	before, err := l.read()
	if err != nil {
		return use, err
	}
	if err := pause(ctx, idleTime); err != nil {
		return use, err
	}
	start, err := l.read()
	if err != nil {
		return use, err
	}
	use.note(before, start, master, true)
	said, err := l.generateAndKeep(ctx, rate, over)
	if err != nil {
		return use, err
	}
	use.Flows, use.Over = said.Sent, said.Over
	if use.Lag, err = l.lag(ctx, master); err != nil {
		return use, err
	}
	kept, err := l.untilEqual(ctx, master, use)
	if err != nil {
		return use, err
	}
	if err := l.remove(kept, master, rate); err != nil {
		return use, err
	}
	if err := l.drain(ctx, master); err != nil {
		use.Note = err.Error() // what is left over differs, but the rest is measured
	}
	end, err := l.read()
	if err != nil {
		return use, err
	}
	use.note(start, end, master, false)
	if l.role(ctx, master) != roleMaster {
		return use, errors.New("the MASTER changed during the load")
	}
	return use, nil
}

// prepare waits for a pair that is ready and has no flows of an earlier load.
func (l *loader) prepare(ctx context.Context) (master string, err error) {
	if err := l.untilReady(ctx); err != nil {
		return "", err
	}
	if err := l.setTimeouts(briefTimeout); err != nil {
		return "", err
	}
	if master, err = l.master(ctx, ""); err != nil {
		return "", err
	}
	return master, l.drain(ctx, master)
}

// generateAndKeep has the flows of the last moments stay.
func (l *loader) generateAndKeep(ctx context.Context, rate int, over time.Duration) (said generated, err error) {
	done := make(chan error, 1)
	go func() {
		var err error
		said, err = l.generate(uint64(float64(rate)*over.Seconds()), rate)
		done <- err
	}()
	if err := pause(ctx, over-keptTime); err != nil {
		return said, err
	}
	err = l.setTimeouts(keepTimeout)
	return said, errors.Join(<-done, err)
}

// untilEqual waits until the BACKUP has caught up, compares the tables, and returns
// what is left of the flows.
func (l *loader) untilEqual(ctx context.Context, master string, use *loadUse) (sessionTable, error) {
	begin := time.Now()
	for {
		if err := l.untilStill(ctx, master, quietPatience); err != nil {
			return nil, err
		}
		at := time.Since(begin)
		own, err := kernelTable(l.Namespace(master))
		if err != nil {
			return nil, err
		}
		theirs, err := l.replicaTable(ctx, other(master))
		if err != nil {
			return nil, err
		}
		use.Kept, use.Difference = len(own), compare(own, theirs)
		use.EqualAfter = at
		if use.Difference.none() || time.Since(begin) > quietPatience {
			return own, nil
		}
		if err := pause(ctx, time.Second); err != nil {
			return nil, err
		}
	}
}

// untilStill waits until neither number of flows changes any more, or patience ends.
func (l *loader) untilStill(ctx context.Context, master string, patience time.Duration) error {
	const look, still = 250 * time.Millisecond, 4
	var last [2]int
	same := 0
	for end := time.Now().Add(patience); same < still && time.Now().Before(end); {
		own, theirs, err := l.counts(ctx, master)
		if err != nil {
			return err
		}
		if near(own, last[0]) && near(theirs, last[1]) {
			same++
		} else {
			same = 0
		}
		last = [2]int{own, theirs}
		if err := pause(ctx, look); err != nil {
			return err
		}
	}
	return nil
}

// near allows for flows of the nodes themselves.
func near(a, b int) bool { return a-b < 5 && b-a < 5 }

func (l *loader) counts(ctx context.Context, master string) (own, theirs int, err error) {
	if own, err = kernelFlows(l.Namespace(master)); err != nil {
		return 0, 0, err
	}
	theirs, err = l.replicaCount(ctx, other(master))
	return own, theirs, err
}

// remove deletes flows of the MASTER at the rate at which they began, as if they
// expired.
func (l *loader) remove(table sessionTable, master string, rate int) error {
	return l.Namespace(master).Do(func() error {
		conn, err := conntrack.Dial(nil)
		if err != nil {
			return fmt.Errorf("open ctnetlink: %w", err)
		}
		defer func() { _ = conn.Close() }() // nothing is left to be said
		start := time.Now()
		done := 0
		for ports := range table {
			for float64(done) > time.Since(start).Seconds()*float64(rate) {
				time.Sleep(time.Millisecond)
			}
			if err := conn.Delete(flowOf(ports)); err != nil && !isGone(err) {
				return fmt.Errorf("delete a flow: %w", err)
			}
			done++
		}
		return nil
	})
}

// drain waits until no flows of the load are left at either node.
func (l *loader) drain(ctx context.Context, master string) error {
	ctx, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	return poll(ctx, func(ctx context.Context) error {
		own, theirs, err := l.counts(ctx, master)
		if err == nil && (own > fewFlows || theirs > fewFlows) {
			err = fmt.Errorf("%d and %d flows are left", own, theirs)
		}
		if err != nil {
			return errors.Join(err, pause(ctx, 10*look))
		}
		return nil
	})
}
