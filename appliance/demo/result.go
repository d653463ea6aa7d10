package demo

import (
	"fmt"
	"strings"
	"time"

	"tandem/appliance/lab/traffic"
)

// Result is what a run saw. It is also the JSON document.
type Result struct {
	// Passed is what OK says.
	Passed bool `json:"ok"`
	// Planned is the number of faults asked for; Rows has those that were shown.
	Planned int   `json:"planned"`
	Rows    []Row `json:"faults"`
	// Sessions, Flows and Downloads are how many were established, the others how
	// many of them were lost in the whole run.
	Sessions      int `json:"tcp_sessions"`
	Flows         int `json:"udp_flows"`
	Downloads     int `json:"downloads"`
	SessionsLost  int `json:"tcp_sessions_lost"`
	FlowsLost     int `json:"udp_flows_lost"`
	DownloadsLost int `json:"downloads_lost"`
	// Losses are the first losses in full, with a reason each.
	Losses []traffic.Loss `json:"losses,omitempty"`
	// Took is the duration of the run.
	Took time.Duration `json:"took_ns"`
	// Interrupted tells that the run was stopped from outside, Error why it failed.
	Interrupted bool   `json:"interrupted"`
	Error       string `json:"error,omitempty"`
}

// Row is one fault and what was seen of it.
type Row struct {
	Fault string `json:"fault"`
	// Node is the one that was broken: the MASTER at that time.
	Node string    `json:"node"`
	At   time.Time `json:"at"`
	// Recovery is the time from the fault until every living flow was heard again,
	// as seen in snapshots 100 ms apart; 0 if that did not happen.
	Recovery time.Duration `json:"recovery_ns"`
	// TCP, UDP and Bulk are the flows by kind.
	TCP  Flows `json:"tcp"`
	UDP  Flows `json:"udp"`
	Bulk Flows `json:"bulk"`
	// HealSilence is the longest silence of a UDP flow while the fault was healed.
	HealSilence time.Duration `json:"heal_silence_max_ns"`
	// Stall is by how much the measuring client itself was late at worst.
	Stall time.Duration `json:"client_stall_ns"`
	// MasterBefore, MasterAfter and MasterHealed name the MASTER before the fault,
	// after it and after healing; empty if there was none.
	MasterBefore string `json:"master_before"`
	MasterAfter  string `json:"master_after"`
	MasterHealed string `json:"master_healed"`
	// Passed tells that nothing was lost and the MASTER is where it should be; Note
	// says what went wrong or is worth knowing.
	Passed bool   `json:"ok"`
	Note   string `json:"note,omitempty"`
}

// Flows is what a fault did to all flows of one kind.
type Flows struct {
	// Lost flows died between the fault and the end of healing.
	Lost int `json:"lost"`
	// Silent flows live but were not heard before the patience ended.
	Silent int `json:"silent"`
	// Reasons counts the lost ones by reason.
	Reasons map[string]int `json:"reasons,omitempty"`
	// SilenceP50 and SilenceMax are the median and the maximum of the flows' longest
	// silences.
	SilenceP50 time.Duration `json:"silence_p50_ns"`
	SilenceMax time.Duration `json:"silence_max_ns"`
}

// OK tells that every fault was shown, nothing was lost and each fault ended as
// expected.
func (r Result) OK() bool {
	if r.Interrupted || r.Error != "" || len(r.Rows) != r.Planned || r.Planned == 0 {
		return false
	}
	if r.lost() != 0 || r.Sessions+r.Flows+r.Downloads == 0 {
		return false
	}
	for _, row := range r.Rows {
		if !row.Passed {
			return false
		}
	}
	return true
}

func (r Result) lost() int { return r.SessionsLost + r.FlowsLost + r.DownloadsLost }

// conclude fills the sums from the last snapshot.
func (r *Result) conclude(last traffic.Snapshot, took time.Duration) {
	r.Took = took
	r.Sessions, r.SessionsLost = last.TCP.Total, last.TCP.Lost
	r.Flows, r.FlowsLost = last.UDP.Total, last.UDP.Lost
	r.Downloads, r.DownloadsLost = last.Bulk.Total, last.Bulk.Lost
	for _, g := range []traffic.Group{last.TCP, last.UDP, last.Bulk} {
		r.Losses = append(r.Losses, g.Examples...)
	}
}

// measure notes silences at the end of the observation.
func (r *Row) measure(snap traffic.Snapshot) {
	take := func(g traffic.Group) Flows {
		return Flows{Silent: g.Alive - g.Resumed, SilenceP50: g.SilenceP50, SilenceMax: g.SilenceMax}
	}
	r.TCP, r.UDP, r.Bulk = take(snap.TCP), take(snap.UDP), take(snap.Bulk)
	r.Stall = snap.Stall
}

// countLost notes what was lost between two snapshots.
func (r *Row) countLost(before, after traffic.Snapshot) {
	count := func(f *Flows, before, after traffic.Group) {
		f.Lost = after.Lost - before.Lost
		for reason, n := range after.Reasons {
			if more := n - before.Reasons[reason]; more > 0 {
				if f.Reasons == nil {
					f.Reasons = make(map[string]int)
				}
				f.Reasons[reason] = more
			}
		}
	}
	count(&r.TCP, before.TCP, after.TCP)
	count(&r.UDP, before.UDP, after.UDP)
	count(&r.Bulk, before.Bulk, after.Bulk)
}

// lost counts lost flows of all kinds, silent living ones that did not come back.
func (r Row) lost() int   { return r.TCP.Lost + r.UDP.Lost + r.Bulk.Lost }
func (r Row) silent() int { return r.TCP.Silent + r.UDP.Silent + r.Bulk.Silent }

// judge decides whether the fault ended as expected.
func (r *Row) judge(moves bool) {
	var notes []string
	switch {
	case r.MasterAfter == "":
		notes = append(notes, "no single MASTER after the fault ("+r.Note+")")
	case moves && r.MasterAfter == r.MasterBefore:
		notes = append(notes, "the MASTER did not move away from "+r.MasterBefore)
	case !moves && r.MasterAfter != r.MasterBefore:
		notes = append(notes, "the MASTER moved, which this fault gives no reason for")
	}
	if n := r.lost(); n > 0 {
		notes = append(notes, fmt.Sprintf("%s lost (%s)", count(n, "flow"), reasons(r.TCP, r.UDP, r.Bulk)))
	}
	if n := r.silent(); n > 0 {
		notes = append(notes, count(n, "flow")+" not heard again while the fault was observed")
	}
	r.Passed = len(notes) == 0
	if r.MasterAfter != "" && r.MasterHealed != r.MasterAfter {
		notes = append(notes, "the MASTER moved once more when the fault was healed")
	}
	r.Note = strings.Join(notes, "; ")
}
