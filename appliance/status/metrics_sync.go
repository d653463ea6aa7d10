package status

// ofSync exports nothing for a single router, which replicates nothing.
func ofSync(collect func(y Sync) []reading) func(Status) []reading {
	return func(s Status) []reading {
		if s.Peer == nil {
			return nil
		}
		return collect(s.Sync)
	}
}

func syncMetrics() []metric {
	return []metric{
		{"tandem_replication_connected", gauge, "Whether the stream of sessions is up.", nil, ofSync(func(y Sync) []reading { return whether(y.Connected) })},
		{"tandem_replication_connected_since_timestamp_seconds", gauge, "When the stream last came up or broke.", nil, ofSync(func(y Sync) []reading { return moment(y.Since) })},
		{"tandem_replication_link", gauge, "The HA link that the stream takes; always 1.", []string{"link"}, ofSync(func(y Sync) []reading {
			if y.Link == "" {
				return nil
			}
			return []reading{{1, []string{y.Link}}}
		})},
		{"tandem_replication_complete", gauge, "Whether both tables are equal but for what is in flight.", nil, ofSync(func(y Sync) []reading { return whether(y.Connected && y.Complete) })},
		{"tandem_replication_different_buckets", gauge, "How many of the 4096 parts of the tables differ, as far as is known.", nil, ofSync(func(y Sync) []reading {
			if y.Repair == nil {
				return one(0)
			}
			return one(y.Repair.Buckets)
		})},
		{"tandem_replication_lag_seconds", gauge, "On the MASTER, percentiles over the last minute of the time from the kernel's event to the peer's acknowledgement; 100 is the greatest.", []string{"percentile"}, func(s Status) []reading {
			if s.Peer == nil || s.Role != "MASTER" {
				return nil
			}
			return []reading{
				{s.Sync.LagP50.Seconds(), []string{"50"}}, {s.Sync.LagP99.Seconds(), []string{"99"}}, {s.Sync.LagMax.Seconds(), []string{"100"}},
			}
		}},
		{"tandem_replication_backlog_records", gauge, "Records that wait to be sent.", nil, ofSync(func(y Sync) []reading { return one(y.Backlog) })},
		{"tandem_replication_flows", gauge, "Flows that are known to be in the BACKUP's kernel or were told to it.", nil, ofSync(func(y Sync) []reading { return one(y.Flows) })},
		{"tandem_replication_sent_bytes_total", counter, "Bytes sent over the stream, before encryption.", nil, ofSync(func(y Sync) []reading { return one(y.BytesSent) })},
		{"tandem_replication_received_bytes_total", counter, "Bytes received over the stream, before encryption.", nil, ofSync(func(y Sync) []reading { return one(y.BytesReceived) })},
	}
}

func flowMetrics() []metric {
	return []metric{
		{"tandem_replication_events_total", counter, "Events of the kernel that were taken in for the peer.", nil, ofSync(func(y Sync) []reading { return one(y.Events) })},
		{"tandem_replication_records_sent_total", counter, "Records sent to the peer.", nil, ofSync(func(y Sync) []reading { return one(y.Sent) })},
		{"tandem_replication_records_applied_total", counter, "Flows created, changed or deleted in the kernel for the peer.", nil, ofSync(func(y Sync) []reading { return one(y.Applied) })},
		{"tandem_replication_refused_total", counter, "Flows that the kernel refused; ENOMEM is a full table.", []string{"reason"}, ofSync(func(y Sync) []reading { return byReason(y.RefusedBy) })},
		{"tandem_replication_skipped_total", counter, "Flows that are not replicated.", []string{"reason"}, ofSync(func(y Sync) []reading { return byReason(y.Skipped) })},
		{"tandem_replication_stripped_total", counter, "Parts of flows that the kernel did not take; the flows are there without.", []string{"part"}, ofSync(func(y Sync) []reading { return byReason(y.Stripped) })},
		{"tandem_replication_overruns_total", counter, "Losses of the kernel's events, each of which was repaired.", nil, ofSync(func(y Sync) []reading { return one(y.Overruns) })},
		{"tandem_replication_overflows_total", counter, "Losses of the queue to the peer, each of which was repaired.", nil, ofSync(func(y Sync) []reading { return one(y.Overflows) })},
		{"tandem_replication_resyncs_total", counter, "Repairs of the tables, in parts or as a whole.", nil, ofSync(func(y Sync) []reading { return one(y.Resyncs) })},
		{"tandem_replication_repaired_buckets_total", counter, "Parts of the tables that were repaired.", nil, ofSync(func(y Sync) []reading { return one(y.RepairedBuckets) })},
		{"tandem_replication_swept_total", counter, "Flows that the BACKUP deleted because the MASTER does not have them.", nil, ofSync(func(y Sync) []reading { return one(y.Swept) })},
		{"tandem_replication_verified_total", counter, "Flows read back after they were written to the kernel.", nil, ofSync(func(y Sync) []reading { return one(y.Verified) })},
		{"tandem_replication_verification_failures_total", counter, "Flows that were then not as written.", nil, ofSync(func(y Sync) []reading { return one(y.VerificationFailed) })},
	}
}

// ofFirst exports nothing for pairs that hold no first packets.
func ofFirst(collect func(f FirstPackets) []reading) func(Status) []reading {
	return ofSync(func(y Sync) []reading {
		if y.FirstPackets == nil {
			return nil
		}
		return collect(*y.FirstPackets)
	})
}

func firstMetrics() []metric {
	return []metric{
		{"tandem_first_packets_holding", gauge, "Whether first packets wait for the BACKUP now.", nil, ofFirst(func(f FirstPackets) []reading { return whether(f.Holding) })},
		{"tandem_first_packets_waiting", gauge, "First packets that wait now.", nil, ofFirst(func(f FirstPackets) []reading { return one(f.Waiting) })},
		{"tandem_first_packets_total", counter, "First packets that went on, by why: their flow was acknowledged, their time was up, too many waited, the stream ended, or there was none.", []string{"reason"}, ofFirst(func(f FirstPackets) []reading {
			return []reading{
				{float64(f.Acknowledged), []string{"acknowledged"}},
				{float64(f.Expired), []string{"expired"}},
				{float64(f.Displaced), []string{"displaced"}},
				{float64(f.Abandoned), []string{"abandoned"}},
				{float64(f.Unprotected), []string{"unprotected"}},
			}
		})},
		{"tandem_first_packets_wait_seconds_total", counter, "How long the acknowledged ones waited in all.", nil, ofFirst(func(f FirstPackets) []reading { return seconds(f.Waited) })},
		{"tandem_first_packets_wait_seconds_max", gauge, "The longest wait of an acknowledged one.", nil, ofFirst(func(f FirstPackets) []reading { return seconds(f.LongestWait) })},
		{"tandem_first_packets_picked_total", counter, "First packets that the kernel's rules met, since these were made.", nil, ofFirst(func(f FirstPackets) []reading { return one(f.Picked) })},
		{"tandem_first_packets_early_total", counter, "Those that could not wait because connection tracking is older than the rules.", nil, ofFirst(func(f FirstPackets) []reading { return one(f.Early) })},
	}
}

// kernelMetrics have the names and types that node_exporter gives the same numbers.
func kernelMetrics() []metric {
	known := func(collect func(k Kernel) uint64) func(Status) []reading {
		return func(s Status) []reading {
			if s.Sync.Limit == 0 {
				return nil
			}
			return one(collect(s.Sync.Kernel))
		}
	}
	return []metric{
		{"node_nf_conntrack_entries", gauge, "Sessions in this node's kernel.", nil, func(s Status) []reading { return one(s.Sync.Sessions) }},
		{"node_nf_conntrack_entries_limit", gauge, "How many sessions the kernel takes.", nil, func(s Status) []reading {
			if s.Sync.Limit == 0 {
				return nil
			}
			return one(s.Sync.Limit)
		}},
		{"node_nf_conntrack_stat_found", gauge, "Lookups that met a session.", nil, known(func(k Kernel) uint64 { return k.Found })},
		{"node_nf_conntrack_stat_invalid", gauge, "Packets that fit no session.", nil, known(func(k Kernel) uint64 { return k.Invalid })},
		{"node_nf_conntrack_stat_ignore", gauge, "Packets that were not tracked.", nil, known(func(k Kernel) uint64 { return k.Ignored })},
		{"node_nf_conntrack_stat_insert", gauge, "Sessions entered.", nil, known(func(k Kernel) uint64 { return k.Inserted })},
		{"node_nf_conntrack_stat_insert_failed", gauge, "Sessions that were not entered, mostly for a clash of tuples.", nil, known(func(k Kernel) uint64 { return k.InsertFailed })},
		{"node_nf_conntrack_stat_drop", gauge, "Packets dropped because their session could not be entered.", nil, known(func(k Kernel) uint64 { return k.Dropped })},
		{"node_nf_conntrack_stat_early_drop", gauge, "Sessions sacrificed to make room in a full table.", nil, known(func(k Kernel) uint64 { return k.EarlyDropped })},
		{"node_nf_conntrack_stat_search_restart", gauge, "Lookups that a change of the table disturbed.", nil, known(func(k Kernel) uint64 { return k.SearchRestarted })},
	}
}
