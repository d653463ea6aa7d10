package traffic

import (
	"slices"
	"time"
)

// Reason says why a flow is lost.
type Reason uint8

const (
	// NotLost is the reason of a flow that lives.
	NotLost Reason = iota
	// Reset is a TCP RST from the other side or from a router.
	Reset
	// Closed is an end of stream that nobody asked for.
	Closed
	// WrongData is an echo or a download that differs from what was sent.
	WrongData
	// OutOfOrder is a TCP echo that skips or repeats a message.
	OutOfOrder
	// Silent is nothing received for as long as the client's patience.
	Silent
	// Remapped is a UDP flow that the server suddenly saw from another address.
	Remapped
	// Broken is any other error of the socket.
	Broken
)

// String returns the reason in lower-case words.
func (r Reason) String() string {
	switch r {
	case NotLost:
		return "not lost"
	case Reset:
		return "reset"
	case Closed:
		return "closed"
	case WrongData:
		return "wrong data"
	case OutOfOrder:
		return "out of order"
	case Silent:
		return "silent"
	case Remapped:
		return "remapped"
	case Broken:
		return "broken"
	}
	return "unknown"
}

// Snapshot is the state of all flows of a client at one moment.
type Snapshot struct {
	// Time is the client's wall clock.
	Time time.Time `json:"time"`
	// Uptime is how long the client has run.
	Uptime time.Duration `json:"uptime_ns"`
	// ReplyTo is the identifier of the command that this answers; 0 for none.
	ReplyTo uint64 `json:"reply_to,omitempty"`
	// Ready tells that every flow was established and has echoed at least once.
	Ready bool `json:"ready"`
	// Error says why the client ends; it is set in the last snapshot only.
	Error string `json:"error,omitempty"`
	// WindowStart is when the observation window began.
	WindowStart time.Time `json:"window_start"`
	// Fault is the moment after which Resumed counts: the newest mark or fault.
	Fault time.Time `json:"fault"`
	// TCP, UDP and Bulk are the flows by kind. Bulk is the download.
	TCP  Group `json:"tcp"`
	UDP  Group `json:"udp"`
	Bulk Group `json:"bulk"`
	// Downlink are the UDP flows on which only the server sends, Ping those of ICMP,
	// SCTP the associations and Other the flows of other protocols.
	Downlink Group `json:"downlink,omitzero"`
	Ping     Group `json:"ping,omitzero"`
	SCTP     Group `json:"sctp,omitzero"`
	Other    Group `json:"other,omitzero"`
	// Opened and Failed count the further TCP connections.
	Opened uint64 `json:"opened,omitempty"`
	Failed uint64 `json:"failed,omitempty"`
	// BulkRate is what the download received since the snapshot before, in bits per
	// second, and BulkBytes all it received.
	BulkRate  uint64 `json:"bulk_rate"`
	BulkBytes uint64 `json:"bulk_bytes"`
	// Stall is by how much the client's own timers were late at worst within the
	// window. Silence of that order is the machine's, not the network's.
	Stall time.Duration `json:"stall_ns"`
}

// Group is the state of all flows of one kind.
type Group struct {
	// Total is the flows established, Alive those not lost, Lost the others.
	Total int `json:"total"`
	Alive int `json:"alive"`
	Lost  int `json:"lost"`
	// Resumed counts living flows on which something arrived that was sent after
	// Snapshot.Fault.
	Resumed int `json:"resumed"`
	// Reasons counts lost flows by Reason's words.
	Reasons map[string]int `json:"reasons,omitempty"`
	// Examples are the first few losses in full.
	Examples []Loss `json:"examples,omitempty"`
	// Sent and Echoes count messages over the whole run; for a download, blocks.
	Sent   uint64 `json:"sent"`
	Echoes uint64 `json:"echoes"`
	// Missing counts datagrams that were overtaken by later ones and have not come
	// back; Duplicates those that came more than once.
	Missing    uint64 `json:"missing"`
	Duplicates uint64 `json:"duplicates"`
	// SendErrors counts datagrams that the client's kernel refused to send.
	SendErrors uint64 `json:"send_errors"`
	// SilenceP50 and SilenceMax are the median and the maximum over the flows of
	// each flow's longest silence within the window. Flows lost before it are not
	// counted.
	SilenceP50 time.Duration `json:"silence_p50_ns"`
	SilenceMax time.Duration `json:"silence_max_ns"`
}

// Loss is one lost flow.
type Loss struct {
	Flow   int           `json:"flow"`
	Reason string        `json:"reason"`
	Detail string        `json:"detail,omitempty"`
	After  time.Duration `json:"after_ns"`
}

// maxExamples bounds Group.Examples.
const maxExamples = 5

// Lost is the number of lost flows of all kinds.
func (s Snapshot) Lost() int { return s.sum(func(g Group) int { return g.Lost }) }

// Alive is the number of living flows of all kinds.
func (s Snapshot) Alive() int { return s.sum(func(g Group) int { return g.Alive }) }

// Resumed is the number of living flows of all kinds that were heard after Fault.
func (s Snapshot) Resumed() int { return s.sum(func(g Group) int { return g.Resumed }) }

// Named is a group and what one of its flows is called.
type Named struct {
	Name string
	Group
}

// Groups returns the groups of all kinds.
func (s Snapshot) Groups() []Named {
	return []Named{
		{"TCP session", s.TCP},
		{"UDP flow", s.UDP},
		{"download", s.Bulk},
		{"UDP downlink", s.Downlink},
		{"ping", s.Ping},
		{"SCTP association", s.SCTP},
		{"flow of another protocol", s.Other},
	}
}

func (s Snapshot) sum(count func(Group) int) int {
	n := 0
	for _, g := range s.Groups() {
		n += count(g.Group)
	}
	return n
}

// summarise counts flows of one kind. fault is in nanoseconds since 1970.
func summarise(flows []*flow, now, started time.Time, fault int64) Group {
	g := Group{Total: len(flows)}
	silences := make([]time.Duration, 0, len(flows))
	for _, f := range flows {
		f.mu.Lock()
		g.Sent += f.next
		g.Echoes += f.echoes
		g.Duplicates += f.duplicates
		g.SendErrors += f.sendErrors
		if f.kind.datagrams() {
			g.Missing += f.expect - f.echoes
		}
		if f.lost == NotLost {
			g.Alive++
			if f.newestSent > fault {
				g.Resumed++
			}
		} else {
			g.addLoss(f, started)
		}
		if s, ok := f.silence(now); ok {
			silences = append(silences, s)
		}
		f.mu.Unlock()
	}
	if len(silences) > 0 {
		slices.Sort(silences)
		g.SilenceP50 = silences[len(silences)/2]
		g.SilenceMax = silences[len(silences)-1]
	}
	return g
}

func (g *Group) addLoss(f *flow, started time.Time) {
	g.Lost++
	if g.Reasons == nil {
		g.Reasons = make(map[string]int)
	}
	g.Reasons[f.lost.String()]++
	if len(g.Examples) < maxExamples {
		g.Examples = append(g.Examples, Loss{
			Flow: int(f.id), Reason: f.lost.String(), Detail: f.detail, After: f.lostAt.Sub(started),
		})
	}
}
