package status

import (
	"maps"
	"slices"
	"strconv"
)

// metrics are all that a node exports, in the order of the output. docs/metrics.md says
// the same; a test compares.
func metrics() []metric {
	return slices.Concat(roleMetrics(), peerMetrics(), fenceMetrics(), carrierMetrics(), uplinkMetrics(), networkMetrics(), syncMetrics(), flowMetrics(), firstMetrics(), partMetrics(), keepalivedMetrics(), kernelMetrics())
}

// Roles and conditions are exported whether they hold or not, so that an alarm can tell
// "no" from "unknown".
func roles() []string { return []string{"INITIALIZE", "BACKUP", "MASTER"} }

func conditions() []string {
	return []string{
		HALinkSilent, HALinkOneWay, CarrierSilent, Partitioned, PeerSilent, BothMaster, StrangerAbove, StrangerMaster,
		OwnAddressHeard, DifferentDocument, ReplicationBroken, ReplicationIncomplete, SessionTableFull,
		FirstPacketsNotHeld, NetworkWithoutUplink, UplinkDead, UplinkDegraded,
	}
}

func roleSamples(is string) []reading {
	var list []reading
	for _, role := range roles() {
		list = append(list, reading{truth(role == is), []string{role}})
	}
	return list
}

func roleMetrics() []metric {
	return []metric{
		{"tandem_info", gauge, "What runs here; always 1.", []string{"group", "node", "version"}, func(s Status) []reading {
			return []reading{{1, []string{s.Group, s.Node, s.Version}}}
		}},
		{"tandem_role", gauge, "Whether the node has the role.", []string{"role"}, func(s Status) []reading { return roleSamples(s.Role) }},
		{"tandem_role_since_timestamp_seconds", gauge, "When the role began.", nil, func(s Status) []reading { return moment(s.Since) }},
		{"tandem_term", gauge, "The number of the group's mastership.", nil, func(s Status) []reading { return one(s.Term) }},
		{"tandem_priority", gauge, "The priority that the node advertises or would advertise.", nil, func(s Status) []reading { return one(s.Priority) }},
		{"tandem_transitions_total", counter, "Changes of the role since the elector started.", nil, func(s Status) []reading { return one(s.Transitions) }},
		{"tandem_failover_felt", gauge, "Whether the death of the MASTER would be felt now.", nil, func(s Status) []reading { return whether(Felt(s) != "") }},
		{"tandem_condition", gauge, "Whether the condition holds.", []string{"condition"}, func(s Status) []reading {
			var list []reading
			for _, name := range conditions() {
				list = append(list, reading{truth(HasCondition(s.Conditions, name)), []string{name}})
			}
			return list
		}},
		{"tandem_problems", gauge, "The number of problems in the status.", nil, func(s Status) []reading { return one(len(s.Problems)) }},
	}
}

// ofPeer exports nothing for a single router.
func ofPeer(collect func(p Peer) []reading) func(Status) []reading {
	return func(s Status) []reading {
		if s.Peer == nil {
			return nil
		}
		return collect(*s.Peer)
	}
}

func peerMetrics() []metric {
	return []metric{
		{"tandem_peer_alive", gauge, "Whether the peer was heard within the down interval.", nil, ofPeer(func(p Peer) []reading { return whether(p.Alive) })},
		{"tandem_peer_ready", gauge, "Whether the peer would take over without losing sessions.", nil, ofPeer(func(p Peer) []reading { return whether(p.Ready) })},
		{"tandem_peer_role", gauge, "Whether the peer says that it has the role.", []string{"role"}, ofPeer(func(p Peer) []reading { return roleSamples(p.Role) })},
		{"tandem_peer_priority", gauge, "The priority that the peer last reported.", nil, ofPeer(func(p Peer) []reading { return one(p.Priority) })},
		{"tandem_peer_heard_age_seconds", gauge, "The age of the newest heartbeat or advert of the peer.", nil, ofPeer(func(p Peer) []reading { return ageOf(p.LastHeard) })},
		{"tandem_heartbeats_sent_total", counter, "Heartbeats sent since the elector started.", nil, ofHeartbeats(func(h Heartbeats) []reading { return one(h.Sent) })},
		{"tandem_heartbeats_received_total", counter, "Heartbeats received since the elector started.", nil, ofHeartbeats(func(h Heartbeats) []reading { return one(h.Received) })},
		{"tandem_heartbeats_dropped_total", counter, "Heartbeats that did not count.", []string{"reason"}, ofHeartbeats(func(h Heartbeats) []reading { return byReason(h.Dropped) })},
		{"tandem_heartbeat_age_seconds", gauge, "The age of the peer's newest authenticated heartbeat.", nil, ofHeartbeats(func(h Heartbeats) []reading { return ageOf(h.Age) })},
	}
}

func ofHeartbeats(collect func(h Heartbeats) []reading) func(Status) []reading {
	return func(s Status) []reading {
		if s.Heartbeats == nil {
			return nil
		}
		return collect(*s.Heartbeats)
	}
}

func fenceMetrics() []metric {
	return []metric{
		{"tandem_lease_open", gauge, "Whether frames of the virtual MAC addresses pass.", nil, func(s Status) []reading { return whether(s.Lease.Open) }},
		{"tandem_lease_remaining_seconds", gauge, "How long they pass if nothing renews the lease.", nil, func(s Status) []reading { return seconds(s.Lease.Remaining) }},
		{"tandem_lease_duration_seconds", gauge, "How long an advert or beat opens the fence.", nil, func(s Status) []reading { return seconds(s.Lease.Duration) }},
		{"tandem_fence_protected", gauge, "Whether no other program can change the fence.", nil, func(s Status) []reading { return whether(s.Lease.Protected) }},
		{"tandem_fence_tampered_total", counter, "How often another program changed the fence.", nil, func(s Status) []reading { return one(s.Lease.Tampered) }},
	}
}

func carrierLabels() []string { return []string{"carrier", "interface", "vrid"} }

// perCarrier collects a reading of each carrier for which there is a value.
func perCarrier(value func(s Status, c Carrier) (float64, bool)) func(Status) []reading {
	return func(s Status) []reading {
		var list []reading
		for _, c := range s.Carriers {
			if v, ok := value(s, c); ok {
				list = append(list, reading{v, []string{c.Name, c.Interface, strconv.Itoa(int(c.VRID))}})
			}
		}
		return list
	}
}

func carrierMetrics() []metric {
	return []metric{
		{"tandem_carrier_up", gauge, "Whether the carrier's interface is up and has a link.", carrierLabels(), perCarrier(func(_ Status, c Carrier) (float64, bool) { return truth(c.Up), true })},
		{"tandem_carrier_heard_by_peer", gauge, "Whether the peer, as BACKUP, hears this node there; left out if it has not said so.", carrierLabels(), perCarrier(func(_ Status, c Carrier) (float64, bool) {
			return truth(c.HeardByPeer != nil && *c.HeardByPeer), c.HeardByPeer != nil
		})},
		{"tandem_carrier_peer_heard_age_seconds", gauge, "The age of the peer's newest advert there; left out if none came.", carrierLabels(), perCarrier(func(_ Status, c Carrier) (float64, bool) {
			return c.PeerHeard.Seconds(), c.PeerHeard >= 0
		})},
		{"tandem_adverts_sent_total", counter, "Adverts sent since the elector started.", carrierLabels(), perCarrier(func(_ Status, c Carrier) (float64, bool) { return float64(c.Sent), true })},
		{"tandem_adverts_received_total", counter, "Adverts received since the elector started.", carrierLabels(), perCarrier(func(_ Status, c Carrier) (float64, bool) { return float64(c.Received), true })},
		{"tandem_adverts_dropped_total", counter, "Adverts that did not count, and on the first HA link the heartbeats of both.", []string{"carrier", "interface", "vrid", "reason"}, func(s Status) []reading {
			var list []reading
			for _, c := range s.Carriers {
				for _, v := range byReason(c.Dropped) {
					v.labels = append([]string{c.Name, c.Interface, strconv.Itoa(int(c.VRID))}, v.labels...)
					list = append(list, v)
				}
			}
			return list
		}},
	}
}

// byReason exports counters that have the reason as their label.
func byReason(counts map[string]uint64) []reading {
	var list []reading
	for _, reason := range slices.Sorted(maps.Keys(counts)) {
		list = append(list, reading{float64(counts[reason]), []string{reason}})
	}
	return list
}

func partMetrics() []metric {
	return []metric{
		{"tandem_config_info", gauge, "The hash of the document in force; always 1.", []string{"hash"}, func(s Status) []reading { return []reading{{1, []string{s.Config.Hash}}} }},
		{"tandem_config_in_sync", gauge, "Whether both nodes run the same document; left out while the peer's is unknown.", nil, func(s Status) []reading {
			if s.Config.PeerHash == "" {
				return nil
			}
			return whether(s.Config.PeerHash == s.Config.Hash && !HasCondition(s.Conditions, DifferentDocument))
		}},
		{"tandem_elector_alive", gauge, "Whether the elector process runs and answers.", nil, func(s Status) []reading { return whether(s.Elector.Alive) }},
		{"tandem_elector_real_time", gauge, "Whether the elector has a real-time priority.", nil, func(s Status) []reading { return whether(s.Elector.RealTime) }},
		{"tandem_elector_memory_locked", gauge, "Whether the elector's memory is locked.", nil, func(s Status) []reading { return whether(s.Elector.MemoryLocked) }},
	}
}
