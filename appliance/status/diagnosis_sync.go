package status

import (
	"fmt"
	"strings"
	"time"
)

// The names of conditions of the session replication.
const (
	// ReplicationBroken: the peer lives, but there is no stream of sessions to or from
	// it.
	ReplicationBroken = "replication-broken"
	// ReplicationIncomplete: the stream works, but the tables have not been equal for a
	// while.
	ReplicationIncomplete = "replication-incomplete"
	// SessionTableFull: the kernel has no room for further sessions.
	SessionTableFull = "session-table-full"
	// FirstPacketsNotHeld: a network asks for first packets to be held, but they pass.
	FirstPacketsNotHeld = "first-packets-not-held"
)

const (
	// startPatience is how long a peer that has just come to life may take to open the
	// stream.
	startPatience = 3 * time.Second
	// repairPatience is how long the tables may differ before it is a condition: small
	// repairs are daily business.
	repairPatience = 2 * time.Second
)

// SyncView is what a node knows about its session replication.
type SyncView struct {
	Now    time.Time
	Master bool
	// Peer is the other member's name, empty for a single router.
	Peer      string
	PeerAlive bool
	// PeerSince is when it came to life.
	PeerSince time.Time
	// KeyTrouble tells that a key is the reason for which there is no stream: then the
	// peer is not heard at all, though it may be alive.
	KeyTrouble bool
	Sync       Sync
	// FullAt is when a flow last found no room in the kernel's table; zero if never.
	FullAt time.Time
}

// DiagnoseSync names what is the case with the sessions. A broken stream is named at
// once; a peer that has just started gets some time to open it.
func DiagnoseSync(v SyncView) []Condition {
	list := v.full()
	if v.Peer == "" {
		return list
	}
	s := v.Sync
	if f := s.FirstPackets; f != nil && f.Error != "" {
		list = append(list, Condition{Name: FirstPacketsNotHeld, Text: fmt.Sprintf(
			"first packets do not wait for %s, though a network asks for it: %s", v.Peer, f.Error)})
	}
	switch {
	case !s.Connected:
		if !v.PeerAlive && !v.KeyTrouble {
			return list // peer-silent says all
		}
		broke := s.Since.After(v.PeerSince)
		if broke || v.KeyTrouble || v.Now.Sub(v.PeerSince) >= startPatience {
			list = append(list, v.broken())
		}
	case !s.Complete && !s.CompleteSince.IsZero() && v.Now.Sub(s.CompleteSince) >= repairPatience:
		list = append(list, v.incomplete())
	}
	return list
}

func (v SyncView) broken() Condition {
	why := v.Sync.Error
	if why == "" {
		why = "the channel to the peer is not connected"
	}
	return Condition{Name: ReplicationBroken, Text: fmt.Sprintf(
		"sessions are not replicated: %s; until the stream to %s is up again a failover loses the sessions that have begun since", why, v.Peer)}
}

func (v SyncView) incomplete() Condition {
	text := fmt.Sprintf("the session tables have differed for %s: %s", span(v.Now.Sub(v.Sync.CompleteSince).Truncate(time.Second)), v.Sync.lacks())
	if v.Sync.RefusedBy[TableFull] > 0 && !v.Master {
		text += "; the kernel refused flows because its table is full: " + raiseLimit
	} else if refused := counts(v.Sync.RefusedBy); refused != "" && !v.Master {
		text += "; the kernel refused flows (" + refused + ")"
	}
	return Condition{Name: ReplicationIncomplete, Text: text + "; a failover now may lose sessions"}
}

func (v SyncView) full() []Condition {
	s := v.Sync
	now := s.Limit > 0 && s.Sessions >= s.Limit
	lately := !v.FullAt.IsZero() && v.Now.Sub(v.FullAt) < memory
	if !now && !lately {
		return nil
	}
	text := "the kernel's table of sessions is full"
	if s.Limit > 0 {
		text += fmt.Sprintf(" (%d of %d)", s.Sessions, s.Limit)
	}
	follows := "flows of the MASTER are refused here and would be lost in a failover"
	if v.Master || v.Peer == "" {
		follows = "new sessions are refused or old ones sacrificed for them"
	}
	return []Condition{{Name: SessionTableFull, Text: strings.Join([]string{text, follows}, ": ") + "; " + raiseLimit}}
}
