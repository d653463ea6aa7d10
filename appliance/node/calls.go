package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"tandem/conntracksync/peer"
	"tandem/router"
	"tandem/router/config"
)

const (
	// reconnectDelay is the pause between attempts to connect by the same link,
	// otherDelay where there is another. A stream that lasted steadyTime is followed by
	// the next one without a pause.
	reconnectDelay = 250 * time.Millisecond
	otherDelay     = 50 * time.Millisecond
	steadyTime     = time.Second
	// listenAnew is how long a listener may hear nothing while there is no stream.
	listenAnew = 5 * time.Second
	// nextWay is how long a call by one link may go unanswered before the next link is
	// tried as well.
	nextWay = 300 * time.Millisecond
	// callLimit is how long a call may take where there is another link.
	callLimit = 1500 * time.Millisecond
	// minReturn is how long a stream stays on a link that is not the preferred one; it
	// doubles up to maxReturn while the preferred one does not last.
	minReturn = 5 * time.Second
	maxReturn = 5 * time.Minute
)

var (
	errReplaced = errors.New("replaced by a newer stream")
	errUnread   = errors.New("the peer does not read what it is told: check it and the HA link")
	errCarrier  = errors.New("the link is down on this node: check the cable")
)

// way is an HA link by which the peer can be called.
type way struct {
	name string
	cfg  peer.Config
}

// call is a channel to the peer on which nothing was said yet.
type call struct {
	channel *peer.Channel
	link    string
}

// ways returns the HA links, the preferred one first.
func (n *node) ways(other config.Member) ([]way, error) {
	links, err := router.HALinks(n.doc(), n.opts.Name)
	if err != nil {
		return nil, err
	}
	var list []way
	for _, l := range links {
		list = append(list, way{name: l.Name, cfg: peer.Config{
			Interface: l.Interface, Identity: n.identity, PeerKey: other.PublicKey,
			Local: netip.AddrPortFrom(l.Prefix.Addr(), l.Port), Remote: netip.AddrPortFrom(l.Peer, l.Port),
		}})
	}
	return list, nil
}

// connect keeps a stream to the peer open until ctx ends: the member whose name sorts
// first calls by the best link that works, the other one listens on all of them.
func (r *replication) connect(ctx context.Context) error {
	// Before, this node does not even have its addresses on the HA links.
	select {
	case <-ctx.Done():
		return nil
	case <-r.node.programmed:
	}
	if r.node.opts.Name < r.peer.Name {
		r.call(ctx)
		return nil
	}
	var wait sync.WaitGroup
	for _, w := range r.ways {
		wait.Go(func() { r.answer(ctx, w) })
	}
	wait.Wait()
	return nil
}

// call calls the peer again and again.
func (r *replication) call(ctx context.Context) {
	order := slices.Clone(r.ways)
	returnAfter := minReturn
	for ctx.Err() == nil {
		began := time.Now()
		c, err := dialFirst(ctx, order)
		if err == nil {
			began = time.Now()
			order, err = r.serve(ctx, c, &returnAfter)
		}
		if ctx.Err() != nil {
			return
		}
		r.noteTrouble(err)
		switch {
		case time.Since(began) >= steadyTime:
		case len(order) > 1:
			pause(ctx, otherDelay)
		default:
			pause(ctx, reconnectDelay)
		}
	}
}

// conversation is a stream that is served in the background.
type conversation struct {
	link string
	// rank is the link's place in the order of preference.
	rank  int
	began time.Time
	ended chan error
}

func (r *replication) begin(ctx context.Context, c call) *conversation {
	v := &conversation{
		link: c.link, rank: slices.IndexFunc(r.ways, func(w way) bool { return w.name == c.link }),
		began: time.Now(), ended: make(chan error, 1),
	}
	go func() { v.ended <- r.converse(ctx, c) }()
	return v
}

// serve holds a stream until it breaks, and moves it to a better link when that works.
// It returns the order in which the links are to be tried next: the one that broke last.
func (r *replication) serve(ctx context.Context, c call, returnAfter *time.Duration) ([]way, error) {
	v := r.begin(ctx, c)
	for {
		looking, stop := context.WithCancel(ctx)
		better := r.lookForBetter(looking, r.ways[:v.rank], *returnAfter)
		select {
		case err := <-v.ended:
			stop()
			closeLate(better)
			if v.rank == 0 {
				*returnAfter = nextReturn(*returnAfter, time.Since(v.began))
			}
			order := slices.DeleteFunc(slices.Clone(r.ways), func(w way) bool { return w.name == v.link })
			return append(order, r.ways[v.rank]), err
		case c, ok := <-better:
			stop()
			if !ok {
				return r.ways, ctx.Err()
			}
			next := r.begin(ctx, c)
			select {
			case err := <-v.ended: // replaced
				r.node.log.Info("the replication stream moved to a better link", "link", c.link, "before", v.link, "end", err)
				v = next
			case err := <-next.ended: // not even a hello: the old one goes on
				r.node.log.Debug("the replication stream stays", "link", v.link, "error", err)
			}
		}
	}
}

// nextReturn is how long the preferred link is left alone after it has broken.
func nextReturn(before, lasted time.Duration) time.Duration {
	if lasted > before+minReturn {
		return minReturn
	}
	return min(2*before, maxReturn)
}

// lookForBetter calls by better links from time to time, until ctx ends, and returns
// where the first answered call comes.
func (r *replication) lookForBetter(ctx context.Context, ways []way, after time.Duration) <-chan call {
	found := make(chan call, 1)
	go func() {
		defer close(found)
		if len(ways) == 0 {
			<-ctx.Done() // there is none
			return
		}
		for pause(ctx, after); ctx.Err() == nil; pause(ctx, after) {
			if c, err := dialFirst(ctx, ways); err == nil {
				found <- c
				return
			}
		}
	}()
	return found
}

// closeLate closes a call that was answered when it was not wanted any more.
func closeLate(found <-chan call) {
	go func() {
		for c := range found {
			_ = c.channel.Close() // nothing was said on it
		}
	}()
}

// dialFirst calls by one link after the other, without waiting long for one that is
// silent, and returns the first that answers.
func dialFirst(ctx context.Context, ways []way) (call, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		call
		err error
	}
	outcomes := make(chan outcome)
	dial := func(w way) {
		limited, done := ctx, context.CancelFunc(func() {})
		if len(ways) > 1 {
			limited, done = context.WithTimeout(ctx, callLimit)
		}
		defer done()
		channel, err := peer.Dial(limited, w.cfg)
		select {
		case outcomes <- outcome{call{channel, w.name}, err}:
		case <-ctx.Done():
			if err == nil {
				_ = channel.Close() // another was faster
			}
		}
	}
	next := time.NewTimer(0)
	defer next.Stop()
	var errs []error
	for started := 0; ; {
		select {
		case <-next.C:
			if started < len(ways) {
				go dial(ways[started])
				started++
				next.Reset(nextWay)
			}
		case o := <-outcomes:
			if o.err == nil {
				return o.call, nil
			}
			if errs = append(errs, o.err); len(errs) == len(ways) {
				return call{}, firstTelling(errs)
			}
			next.Reset(0)
		case <-ctx.Done():
			return call{}, ctx.Err()
		}
	}
}

// firstTelling prefers an error about keys, which is about the peer and not about a link.
func firstTelling(errs []error) error {
	if i := slices.IndexFunc(errs, aboutKeys); i >= 0 {
		return errs[i]
	}
	return errs[0]
}

func aboutKeys(err error) bool {
	var wrong *peer.WrongKeyError
	var refused *peer.RefusedError
	return errors.As(err, &wrong) || errors.As(err, &refused)
}

// answer takes the peer's calls by one link. A call of a peer that has proved its key
// replaces the stream that there is: the peer has given that up, or moves it. A listener
// that hears nothing for a while is replaced: its interface may have been, too, and then
// it is deaf for ever.
func (r *replication) answer(ctx context.Context, w way) {
	var wait sync.WaitGroup
	defer wait.Wait()
	for ctx.Err() == nil {
		l, err := peer.Listen(ctx, w.cfg) // the interface may be missing at first
		if err != nil {
			r.noteOtherTrouble(err)
			pause(ctx, reconnectDelay)
			continue
		}
		for r.take(ctx, l, w, &wait) {
		}
		_ = l.Close() // it is of no more use
	}
}

// take waits for a call and returns whether the listener is still good.
func (r *replication) take(ctx context.Context, l *peer.Listener, w way, wait *sync.WaitGroup) bool {
	limited, cancel := context.WithTimeout(ctx, listenAnew)
	defer cancel()
	channel, err := l.Accept(limited)
	switch {
	case err == nil:
		wait.Go(func() { r.noteOtherTrouble(r.converse(ctx, call{channel, w.name})) })
		return true
	case ctx.Err() != nil, errors.Is(err, net.ErrClosed):
		return false
	case limited.Err() != nil:
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.conn != nil
	}
	r.noteOtherTrouble(err)
	pause(ctx, reconnectDelay)
	return true
}

// noteOtherTrouble notes trouble unless there is a stream all the same.
func (r *replication) noteOtherTrouble(err error) {
	r.mu.Lock()
	streams := r.conn != nil && (r.conn.failed() == nil || !errors.Is(err, r.conn.failed()))
	r.mu.Unlock()
	if streams || err == nil || errors.Is(err, errReplaced) || errors.Is(err, context.Canceled) {
		return
	}
	r.noteTrouble(err)
}

// failed returns what has ended the stream; nil while it lasts.
func (c *connection) failed() error {
	select {
	case <-c.done:
		return c.cause
	default:
		return nil
	}
}

// lostCarrier ends the stream if it takes a link whose cable is out on this node and
// there is another: that one need not wait for the silence.
func (r *replication) lostCarrier(up map[string]bool) {
	lost := func(link string) bool { works, known := up[link]; return known && !works }
	if len(r.ways) < 2 || !slices.ContainsFunc(r.ways, func(w way) bool { return lost(w.name) }) {
		return
	}
	r.mu.Lock()
	c := r.conn
	r.mu.Unlock()
	if c != nil && lost(c.link) {
		c.fail(errCarrier)
	}
}

// pause waits, but no longer than ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
