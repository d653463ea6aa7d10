package doctor

import (
	"strings"
	"time"
)

// Running is what the running node says about itself.
type Running struct {
	// Problem says why it could not be asked; the rest is empty then.
	Problem  string
	Role     string
	Since    time.Duration
	Pair     bool
	Peer     string
	PeerRole string
	Alive    bool
	Carriers []Hearing
	// LeaseOpen and LeaseTime are the fence's.
	LeaseOpen bool
	LeaseTime time.Duration
	// Connected, Complete and Sessions are the replication's, SyncError its trouble.
	Connected, Complete bool
	Sessions            int
	SyncError           string
	// RealTime and the rest are the elector's.
	ElectorAlive, RealTime, MemoryLocked bool
	RealTimeError                        string
	// Hash and PeerHash are the documents in force, FileHash that of the file that
	// the doctor was given.
	Hash, PeerHash, FileHash string
	// Problems are the node's own.
	Problems []string
}

// Hearing is what the node hears on one carrier.
type Hearing struct {
	Carrier string
	Up      bool
	// Heard is the age of the peer's newest advert; negative if there was none.
	Heard time.Duration
	// Dropped counts adverts that were ignored, by reason.
	Dropped map[string]uint64
}

const roleMaster, roleBackup = "MASTER", "BACKUP"

// JudgeRunning says what is to say about a running node.
func JudgeRunning(r Running, n Needs) []Finding {
	f := &findings{section: SectionNode}
	if r.Problem != "" {
		f.trouble("answer", "", "the node runs and does not answer (%s): look into its log, and ask as its user", r.Problem)
		return f.list
	}
	if r.Role == roleMaster || r.Role == roleBackup {
		f.ok("role", "", "the node is %s for %v", r.Role, r.Since.Round(time.Second))
	} else {
		f.trouble("role", "", "the node is %s and takes no part in the election: look into its log", r.Role)
	}
	for _, c := range r.Carriers {
		judgeHearing(f, r, c, n)
	}
	judgeLease(f, r)
	if r.Pair {
		judgeReplication(f, r)
	}
	judgeElector(f, r)
	judgeForce(f, r)
	for _, p := range r.Problems {
		f.trouble("problem", "", "%s", p)
	}
	return f.list
}

// judgeHearing knows that only the MASTER advertises: a MASTER hears nobody.
func judgeHearing(f *findings, r Running, c Hearing, n Needs) {
	switch {
	case !c.Up:
		f.trouble("hears", c.Carrier, "the link is down: check cable and switch port")
	case r.Role != roleBackup || !r.Pair:
	case c.Heard < 0:
		f.trouble("hears", c.Carrier, "the adverts of %s have never been heard here: run `tandem doctor` on both members to see what stops them", r.Peer)
	case c.Heard > n.silence():
		f.trouble("hears", c.Carrier, "the last advert of %s was heard %v ago: run `tandem doctor` on both members to see what stops them", r.Peer, c.Heard.Round(time.Millisecond))
	default:
		f.ok("hears", c.Carrier, "%s is heard", r.Peer)
	}
}

func judgeLease(f *findings, r Running) {
	switch {
	case r.Role == roleMaster && !r.LeaseOpen:
		f.trouble("lease", "", "the node is MASTER and its lease is closed, so nothing passes: look for what removes the table of the fence or stops its adverts")
	case r.Role == roleMaster:
		f.ok("lease", "", "the lease is open, %v per advert", r.LeaseTime)
	case r.LeaseOpen:
		f.trouble("lease", "", "the node is not MASTER and its lease is open: ask again; if it stays so, restart the node")
	default:
		f.ok("lease", "", "the lease is closed, as it must be for a %s", r.Role)
	}
}

func judgeReplication(f *findings, r Running) {
	switch {
	case !r.Alive:
		f.trouble("peer", "", "%s is not heard at all: check that it runs, and the links to it", r.Peer)
	case r.PeerRole == r.Role:
		f.trouble("peer", "", "%s is %s like this node: ask again; if it stays so, run `tandem doctor` on both members", r.Peer, r.PeerRole)
	default:
		f.ok("peer", "", "%s is heard and is %s", r.Peer, r.PeerRole)
	}
	switch {
	case !r.Connected && r.SyncError != "":
		f.trouble("sessions", "", "sessions are not replicated: %s", r.SyncError)
	case !r.Connected:
		f.trouble("sessions", "", "sessions are not replicated: check that %s runs, and the HA link", r.Peer)
	case !r.Complete:
		f.warn("sessions", "", "the first transfer of sessions is under way: wait for it before a failover")
	default:
		f.ok("sessions", "", "%d sessions are the same on both members", r.Sessions)
	}
}

func judgeElector(f *findings, r Running) {
	switch {
	case !r.ElectorAlive:
		f.trouble("elector", "", "the elector does not run: look into the node's log")
	case !r.RealTime:
		f.warn("elector", "", "the elector is not scheduled in real time and can be late under load: %s", r.RealTimeError)
	case !r.MemoryLocked:
		f.warn("elector", "", "the elector's memory is not locked and it may wait for the disk: grant CAP_IPC_LOCK or LimitMEMLOCK=infinity")
	default:
		f.ok("elector", "", "the elector is scheduled in real time and its memory is locked")
	}
}

func judgeForce(f *findings, r Running) {
	switch {
	case r.Hash != r.FileHash:
		f.warn("document-in-force", "", "the node runs with the document %s and the file is %s: restart the node, or ask with the right --config", short(r.Hash), short(r.FileHash))
	case r.Pair && r.PeerHash != "" && r.PeerHash != r.Hash:
		f.trouble("document-in-force", "", "%s runs with another document, %s instead of %s: copy one to the other member", r.Peer, short(r.PeerHash), short(r.Hash))
	default:
		f.ok("document-in-force", "", "the node runs with this document")
	}
	if dropped := drops(r.Carriers); dropped != "" {
		f.ok("ignored", "", "adverts that were ignored since the start: %s", dropped)
	}
}

func drops(carriers []Hearing) string {
	var parts []string
	for _, c := range carriers {
		var n uint64
		for _, count := range c.Dropped {
			n += count
		}
		if n > 0 {
			parts = append(parts, plural(int(n), "advert")+" on "+c.Carrier)
		}
	}
	return strings.Join(parts, ", ")
}
