package status

import "time"

// Status is a node's answer to "how are you".
type Status struct {
	// Time is the node's wall clock when the answer was made.
	Time time.Time `json:"time"`
	// Group and Node name the pair and this node.
	Group string `json:"group"`
	Node  string `json:"node"`
	// Version is the build's version.
	Version string `json:"version"`
	// Role is MASTER, BACKUP or INITIALIZE.
	Role string `json:"role"`
	// Since is when Role began; Reason says why.
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
	// Priority is what the node advertises now (or would, as MASTER).
	Priority uint8 `json:"priority"`
	// Term counts masterships of the group.
	Term uint64 `json:"term"`
	// Transitions counts changes of role since the elector started.
	Transitions uint64 `json:"transitions"`
	// BecameMaster and ReleasedMaster count since the node started.
	BecameMaster   uint64 `json:"became_master"`
	ReleasedMaster uint64 `json:"released_master"`
	// Peer is what is known of the other node; nil for a single router.
	Peer *Peer `json:"peer,omitempty"`
	// Heartbeats are nil for a single router.
	Heartbeats *Heartbeats `json:"heartbeats,omitempty"`
	// Carriers are the links that carry adverts.
	Carriers []Carrier `json:"carriers"`
	Lease    Lease     `json:"lease"`
	Sync     Sync      `json:"sync"`
	Uplinks  []Uplink  `json:"uplinks"`
	// Networks are the networks' ways to the outside.
	Networks []Network `json:"networks,omitempty"`
	Config   Config    `json:"config"`
	Elector  Elector   `json:"elector"`
	// Recovering names carriers that are up again, but have not been for long
	// enough to count: until then this node does not take the role from a healthy
	// one.
	Recovering []string `json:"recovering,omitempty"`
	// Conditions name what is the case between the members; they stand among the
	// problems, too.
	Conditions []Condition `json:"conditions,omitempty"`
	// Problems are sentences about what is wrong and what to do; empty is good.
	Problems []string `json:"problems"`
}

// Peer is what the node knows of the other one.
type Peer struct {
	Name string `json:"name"`
	// Alive tells that a heartbeat or an advert came within the down interval.
	Alive bool `json:"alive"`
	// Role and Priority as the peer last reported them.
	Role     string `json:"role"`
	Priority uint8  `json:"priority"`
	// Ready tells that the peer would take over without losing sessions.
	Ready bool `json:"ready"`
	// LastHeard is the age of the newest advert or heartbeat.
	LastHeard time.Duration `json:"last_heard_ns"`
}

// Heartbeats are what the members exchange over the HA links, each counted once.
type Heartbeats struct {
	// Sent, Received and Dropped count since the elector started.
	Sent     uint64            `json:"sent"`
	Received uint64            `json:"received"`
	Dropped  map[string]uint64 `json:"dropped,omitempty"`
	// Age is that of the newest authenticated one; negative if none came.
	Age time.Duration `json:"age_ns"`
}

// Carrier is one way for adverts: a link, a virtual router on it and an address family.
type Carrier struct {
	// Name is that of the network or uplink, or "ha", followed by "/" and the VRID for a
	// further virtual router and by "/ipv6" for IPv6.
	Name string `json:"name"`
	// Kind is "network", "uplink" or "ha".
	Kind      string `json:"kind"`
	Interface string `json:"interface"`
	VRID      uint8  `json:"vrid"`
	// IPv6 is the family of the adverts and addresses.
	IPv6 bool `json:"ipv6"`
	// Up tells that the interface is there, up and has a carrier.
	Up bool `json:"up"`
	// Addresses are the virtual addresses.
	Addresses []string `json:"addresses"`
	// Sent, Received and Dropped count adverts since the elector started.
	Sent     uint64            `json:"sent"`
	Received uint64            `json:"received"`
	Dropped  map[string]uint64 `json:"dropped,omitempty"`
	// HeardByPeer tells whether the peer, as BACKUP, hears this node here; nil if it has
	// not said so.
	HeardByPeer *bool `json:"heard_by_peer,omitempty"`
	// Checksums counts the received adverts by the way in which they were summed up.
	Checksums map[string]uint64 `json:"checksums,omitempty"`
	// PeerHeard is the age of the peer's newest advert here; negative if never.
	PeerHeard time.Duration `json:"peer_heard_ns"`
}

// Lease is the state of the fence in the kernel.
type Lease struct {
	// Open tells that frames of the virtual MAC addresses pass.
	Open bool `json:"open"`
	// Remaining is until when, if nothing renews it.
	Remaining time.Duration `json:"remaining_ns"`
	// Protected tells that no other program can change or flush the fence; else it is
	// watched, and put up again at once. Tampered counts how often that was needed.
	Protected bool   `json:"protected"`
	Tampered  uint64 `json:"tampered"`
	// Duration is how long an advert opens it.
	Duration time.Duration `json:"duration_ns"`
}

// Config says which document is in force.
type Config struct {
	Hash string `json:"hash"`
	// PeerHash is empty while the peer is not connected.
	PeerHash string `json:"peer_hash"`
}

// Elector is the state of the elector process.
type Elector struct {
	PID int `json:"pid"`
	// Alive tells that the node is connected to it.
	Alive bool `json:"alive"`
	// RealTime tells that it is scheduled SCHED_FIFO; if not, RealTimeError says
	// why.
	RealTime      bool   `json:"real_time"`
	RealTimeError string `json:"real_time_error,omitempty"`
	MemoryLocked  bool   `json:"memory_locked"`
}

// SocketName is the name of the API's Unix socket in a node's state directory.
const SocketName = "api.sock"

// Failover is the answer to a handover that worked.
type Failover struct {
	From string        `json:"from"`
	To   string        `json:"to"`
	Took time.Duration `json:"took_ns"`
}

// Reload is the answer to a document that was put into force: the hashes of the one before
// and of that one, which are equal if nothing has changed.
type Reload struct {
	Before string `json:"before"`
	Hash   string `json:"hash"`
}

// Failure is the body of every answer that is not a success.
type Failure struct {
	// Error is one sentence that says what, where and what to do.
	Error string `json:"error"`
}
