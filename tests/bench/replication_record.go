package main

import "time"

// lagUse is how late flows arrived at the BACKUP; zero where the product does not say.
type lagUse struct {
	P50 time.Duration `json:"p50_ns"`
	P99 time.Duration `json:"p99_ns"`
	Max time.Duration `json:"max_ns"`
}

// loadUse is what replication did and cost while flows came and went.
type loadUse struct {
	System string `json:"system"`
	// Rate is how many flows should begin in a second.
	Rate int `json:"rate"`
	// Step tells that only the highest rate was looked for.
	Step bool `json:"step,omitempty"`
	// Flows began in that time, Answered is how many got their answer.
	Flows    uint64        `json:"flows"`
	Over     time.Duration `json:"over_ns"`
	Answered uint64        `json:"answered"`
	// Master and Backup are the processor time of the daemons, by program, from the first
	// flow until the last was gone from both nodes, which took Elapsed.
	Master  map[string]time.Duration `json:"master_ns,omitempty"`
	Backup  map[string]time.Duration `json:"backup_ns,omitempty"`
	Elapsed time.Duration            `json:"elapsed_ns"`
	// Wire is bytes on the HA link in the same time, both directions.
	Wire uint64 `json:"wire"`
	// Idle is the same without any load.
	IdleMaster  map[string]time.Duration `json:"idle_master_ns,omitempty"`
	IdleBackup  map[string]time.Duration `json:"idle_backup_ns,omitempty"`
	IdleElapsed time.Duration            `json:"idle_elapsed_ns"`
	IdleWire    uint64                   `json:"idle_wire"`
	Lag         lagUse                   `json:"lag"`
	// Kept flows were compared, EqualAfter the end of the load.
	Kept       int           `json:"kept"`
	Difference difference    `json:"difference"`
	EqualAfter time.Duration `json:"equal_after_ns"`
	// Note is something that went wrong beside the measurement, Error makes it void.
	Note  string `json:"note,omitempty"`
	Error string `json:"error,omitempty"`
}

// note is what was counted between two readings.
func (u *loadUse) note(from, to reading, master string, idle bool) {
	own := usedBetween(from.cpu[master], to.cpu[master])
	theirs := usedBetween(from.cpu[other(master)], to.cpu[other(master)])
	if idle {
		u.IdleMaster, u.IdleBackup, u.IdleElapsed, u.IdleWire = own, theirs, to.at.Sub(from.at), to.wire-from.wire
		return
	}
	u.Master, u.Backup, u.Elapsed, u.Wire = own, theirs, to.at.Sub(from.at), to.wire-from.wire
	u.Answered = to.answers - from.answers
}

// perFlow is what a flow cost beyond idling, zero if nothing was measured.
func (u *loadUse) perFlow(role string) time.Duration {
	used, idle := u.Master, u.IdleMaster
	if role == roleBackup {
		used, idle = u.Backup, u.IdleBackup
	}
	if u.Flows == 0 || u.IdleElapsed == 0 {
		return 0
	}
	net := sumOf(used) - time.Duration(float64(sumOf(idle))*u.Elapsed.Seconds()/u.IdleElapsed.Seconds())
	return max(0, net/time.Duration(u.Flows))
}

// wirePerFlow is bytes beyond those of idling.
func (u *loadUse) wirePerFlow() float64 {
	if u.Flows == 0 || u.IdleElapsed == 0 {
		return 0
	}
	idle := float64(u.IdleWire) * u.Elapsed.Seconds() / u.IdleElapsed.Seconds()
	return max(0, (float64(u.Wire)-idle)/float64(u.Flows))
}

// reached is how many flows a second began and were answered.
func (u *loadUse) reached() float64 {
	if u.Over <= 0 {
		return 0
	}
	return float64(min(u.Flows, u.Answered)) / u.Over.Seconds()
}

func sumOf(used map[string]time.Duration) (sum time.Duration) {
	for _, d := range used {
		sum += d
	}
	return sum
}

// sessionsUse is what replication did with that many sessions that stay.
type sessionsUse struct {
	System string `json:"system"`
	// Wanted sessions should have been there, Sessions were.
	Wanted   int `json:"wanted"`
	Sessions int `json:"sessions"`
	// Resync is how long a BACKUP that was switched on took from the start of its daemons
	// until it had all sessions, ResyncLinked from when it was connected to the MASTER.
	Resync       time.Duration `json:"resync_ns"`
	ResyncLinked time.Duration `json:"resync_linked_ns"`
	// Replicated is how many it had then, Difference what differed.
	Replicated int        `json:"replicated"`
	Difference difference `json:"difference"`
	// MasterCPU and BackupCPU are the processor time of the daemons for that.
	MasterCPU time.Duration `json:"master_cpu_ns"`
	BackupCPU time.Duration `json:"backup_cpu_ns"`
	// The memory is resident and of all daemons, in bytes, Peak is the largest it was.
	MasterMemory uint64 `json:"master_memory"`
	BackupMemory uint64 `json:"backup_memory"`
	MasterPeak   uint64 `json:"master_peak"`
	BackupPeak   uint64 `json:"backup_peak"`
	// First, Median and Last are when sampled sessions passed again after the death of
	// the MASTER, Sampled how many were looked at, Lost those that did not.
	First   time.Duration `json:"first_ns"`
	Median  time.Duration `json:"median_ns"`
	Last    time.Duration `json:"last_ns"`
	Sampled int           `json:"sampled"`
	Lost    int           `json:"lost"`
	// Commit is how long conntrackd took to bring its cache into the kernel.
	Commit time.Duration `json:"commit_ns"`
	Error  string        `json:"error,omitempty"`
}
