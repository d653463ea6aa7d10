package ctnetlink

import (
	"errors"
	"fmt"
	"sync"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"
)

// Statistics are the conntrack counters of the network namespace since it was made,
// summed over its processors.
type Statistics struct {
	// Found counts lookups that met an entry, Ignored packets that were not tracked,
	// Inserted new entries, SearchRestarted lookups that a change of the table disturbed.
	Found, Ignored, Inserted, SearchRestarted uint64
	// Invalid packets fitted no flow.
	Invalid uint64
	// InsertFailed counts flows that were not entered, mostly for a clash of tuples.
	InsertFailed uint64
	// Dropped counts packets dropped because their flow could not be entered.
	Dropped uint64
	// EarlyDropped counts flows sacrificed to make room in a full table.
	EarlyDropped uint64
}

// statistics asks for numbers beside a dump, on sockets of its own.
type statistics struct {
	mu       sync.Mutex
	s        *socket
	sequence uint32
	perCPU   *conntrack.Conn
}

func openStatistics() (*statistics, error) {
	perCPU, err := conntrack.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket for conntrack statistics: %w", err)
	}
	s, err := openSocket()
	if err != nil {
		return nil, errors.Join(err, perCPU.Close())
	}
	return &statistics{s: s, perCPU: perCPU}, nil
}

func (st *statistics) close() error { return errors.Join(st.s.close(), st.perCPU.Close()) }

// Count returns how many entries the table of the network namespace has.
func (r *Reader) Count() (uint32, error) {
	n, err := r.stats.entries()
	if err != nil {
		return 0, fmt.Errorf("count conntrack entries: %w", err)
	}
	return n, nil
}

// entries does by hand what the library's StatsGlobal is for: the kernel marks its one
// answer as a part of many and sends no end, for which the library waits for ever.
func (st *statistics) entries() (uint32, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.sequence++
	if err := st.s.write(appendRequest(nil, messageStats, 0, st.sequence)); err != nil {
		return 0, err
	}
	for {
		b, err := st.s.poll()
		if err != nil {
			return 0, err
		}
		m, _, ok := nextMessage(b)
		switch {
		case !ok:
			return 0, ReasonTruncated
		case m.sequence != st.sequence:
		case m.kind == unix.NLMSG_ERROR:
			return 0, m.errno()
		case m.kind == messageStats:
			return decodeEntries(m.payload)
		}
	}
}

func decodeEntries(msg []byte) (uint32, error) {
	if len(msg) < nfgenLength {
		return 0, ReasonTruncated
	}
	walk := attributes{rest: msg[nfgenLength:]}
	for {
		at, ok, err := walk.next()
		if err != nil {
			return 0, err
		}
		if !ok {
			return 0, ReasonType
		}
		if at.kind == statsEntries {
			var n uint32
			err := at.uint32(&n)
			return n, err
		}
	}
}

// Statistics returns the counters of the network namespace.
func (r *Reader) Statistics() (Statistics, error) {
	cpus, err := r.stats.perCPU.Stats()
	if err != nil {
		return Statistics{}, fmt.Errorf("read conntrack statistics: %w", err)
	}
	var sum Statistics
	for _, c := range cpus {
		sum.Found += uint64(c.Found)
		sum.Ignored += uint64(c.Ignore)
		sum.Inserted += uint64(c.Insert)
		sum.SearchRestarted += uint64(c.SearchRestart)
		sum.Invalid += uint64(c.Invalid)
		sum.InsertFailed += uint64(c.InsertFailed)
		sum.Dropped += uint64(c.Drop)
		sum.EarlyDropped += uint64(c.EarlyDrop)
	}
	return sum, nil
}
