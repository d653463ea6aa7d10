package status

import (
	"time"

	"tandem/router/uplink"
)

func states() []uplink.State {
	return []uplink.State{uplink.Unknown, uplink.Dead, uplink.Degraded, uplink.Working}
}

func familyLabel(ipv6 bool) string {
	if ipv6 {
		return "ipv6"
	}
	return "ipv4"
}

func probeLabels() []string { return []string{"uplink", "family", "probe", "target"} }

// perProbe collects a reading of each probe for which there is a value.
func perProbe(value func(p uplink.ProbeStatus) (float64, bool)) func(Status) []reading {
	return func(s Status) []reading {
		var list []reading
		for _, u := range s.Uplinks {
			for _, f := range u.Families {
				for _, p := range f.Probes {
					if v, ok := value(p); ok {
						list = append(list, reading{v, []string{u.Name, familyLabel(f.IPv6), p.Kind, p.Target}})
					}
				}
			}
		}
		return list
	}
}

func uplinkMetrics() []metric {
	return []metric{
		{"tandem_uplink_up", gauge, "Whether the uplink's interface is up and has a link.", []string{"uplink", "interface"}, func(s Status) []reading {
			var list []reading
			for _, u := range s.Uplinks {
				list = append(list, reading{truth(u.Up), []string{u.Name, u.Interface}})
			}
			return list
		}},
		{"tandem_uplink_state", gauge, "Whether the uplink is in the state, by all that its probes say.", []string{"uplink", "family", "state"}, func(s Status) []reading {
			var list []reading
			for _, u := range s.Uplinks {
				for _, f := range u.Families {
					for _, state := range states() {
						list = append(list, reading{truth(f.State == state), []string{u.Name, familyLabel(f.IPv6), state.String()}})
					}
				}
			}
			return list
		}},
		{"tandem_uplink_cost", gauge, "The cost of the uplink that is in force.", []string{"uplink"}, func(s Status) []reading {
			var list []reading
			for _, u := range s.Uplinks {
				list = append(list, reading{float64(u.Cost), []string{u.Name}})
			}
			return list
		}},
		{"tandem_probe_rtt_seconds", gauge, "The mean time until an answer, over the newest probes.", probeLabels(), perProbe(func(p uplink.ProbeStatus) (float64, bool) {
			return p.RTT.Seconds(), p.RTT > 0
		})},
		{"tandem_probe_jitter_seconds", gauge, "The mean difference between two such times.", probeLabels(), perProbe(func(p uplink.ProbeStatus) (float64, bool) {
			return p.Jitter.Seconds(), p.RTT > 0
		})},
		{"tandem_probe_loss_ratio", gauge, "The share of the newest probes that failed.", probeLabels(), perProbe(func(p uplink.ProbeStatus) (float64, bool) {
			return p.Loss, p.Window > 0
		})},
		{"tandem_probe_last_success_timestamp_seconds", gauge, "When the probe was last answered.", probeLabels(), perProbe(func(p uplink.ProbeStatus) (float64, bool) {
			return float64(p.LastOK.UnixMilli()) / 1000, !p.LastOK.IsZero()
		})},
		{"tandem_probes_sent_total", counter, "Probes sent.", probeLabels(), perProbe(func(p uplink.ProbeStatus) (float64, bool) { return float64(p.Sent), true })},
		{"tandem_probes_failed_total", counter, "Probes that were not answered as they should be.", probeLabels(), perProbe(func(p uplink.ProbeStatus) (float64, bool) { return float64(p.Failed), true })},
	}
}

// perPath collects readings of each path, with the labels of the path first.
func perPath(value func(w Network, p uplink.PathStatus) []reading) func(Status) []reading {
	return func(s Status) []reading {
		var list []reading
		for _, w := range s.Networks {
			for _, p := range w.Paths {
				for _, v := range value(w, p) {
					list = append(list, reading{v.value, append([]string{p.Network, p.Destination}, v.labels...)})
				}
			}
		}
		return list
	}
}

func pathLabels(more ...string) []string { return append([]string{"network", "destination"}, more...) }

func networkMetrics() []metric {
	return []metric{
		{"tandem_network_uplink", gauge, "Whether the network's new flows take the uplink, of those that they may.", pathLabels("uplink"), perPath(func(_ Network, p uplink.PathStatus) []reading {
			var list []reading
			for _, c := range p.Candidates {
				list = append(list, reading{truth(c.Chosen), []string{c.Uplink}})
			}
			return list
		})},
		{"tandem_network_outside_works", gauge, "Whether the uplink that they take works.", pathLabels(), perPath(func(_ Network, p uplink.PathStatus) []reading {
			return whether(p.Uplink != "" && p.State.Works())
		})},
		{"tandem_network_uplink_since_timestamp_seconds", gauge, "When it was chosen.", pathLabels(), perPath(func(_ Network, p uplink.PathStatus) []reading { return moment(p.Since) })},
		{"tandem_network_draining", gauge, "Uplinks that were left and on which older flows may still stay; always 1.", pathLabels("uplink"), perPath(func(_ Network, p uplink.PathStatus) []reading {
			var list []reading
			for _, d := range p.Draining {
				list = append(list, reading{1, []string{d.Uplink}})
			}
			return list
		})},
		{"tandem_network_switches_total", counter, "Changes of the uplink.", pathLabels(), perPath(func(_ Network, p uplink.PathStatus) []reading { return one(p.Switches) })},
		{"tandem_network_switch_seconds", gauge, "How long the last switch after a failure took, from when it was noticed until new flows took the other uplink.", pathLabels(), perPath(func(w Network, p uplink.PathStatus) []reading {
			if took := lastTook(w, p.Destination); took > 0 {
				return seconds(took)
			}
			return nil
		})},
	}
}

func lastTook(w Network, destination string) time.Duration {
	for _, s := range w.Switches {
		if s.Destination == destination && s.Took > 0 {
			return s.Took
		}
	}
	return 0
}
