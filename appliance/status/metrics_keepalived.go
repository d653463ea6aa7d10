package status

import "strconv"

// keepalivedMetrics have the names, labels and values that keepalived-exporter gives the
// same numbers: each carrier is an instance, the HA link not counted.
func keepalivedMetrics() []metric {
	instance := []string{"iname", "intf", "vrid"}
	per := func(value func(s Status, c Carrier) uint64) func(Status) []reading {
		return perCarrierButHA(func(s Status, c Carrier) float64 { return float64(value(s, c)) })
	}
	dropped := func(reasons ...string) func(Status) []reading {
		return per(func(_ Status, c Carrier) (n uint64) {
			for _, reason := range reasons {
				n += c.Dropped[reason]
			}
			return n
		})
	}
	return []metric{
		{"keepalived_up", gauge, "Whether the elector runs.", nil, func(s Status) []reading { return whether(s.Elector.Alive) }},
		{"keepalived_vrrp_state", gauge, "The role: 0 INITIALIZE, 1 BACKUP, 2 MASTER.", append(instance, "ip_address"), func(s Status) []reading {
			var list []reading
			for _, c := range s.Carriers {
				for _, address := range c.Addresses {
					list = append(list, reading{keepalivedState(s.Role), []string{c.Name, c.Interface, strconv.Itoa(int(c.VRID)), address}})
				}
			}
			return list
		}},
		{"keepalived_become_master_total", counter, "How often the node became MASTER.", instance, per(func(s Status, _ Carrier) uint64 { return s.BecameMaster })},
		{"keepalived_release_master_total", counter, "How often the node ceased to be MASTER.", instance, per(func(s Status, _ Carrier) uint64 { return s.ReleasedMaster })},
		{"keepalived_advertisements_received_total", counter, "Adverts received.", instance, per(func(_ Status, c Carrier) uint64 { return c.Received })},
		{"keepalived_advertisements_sent_total", counter, "Adverts sent.", instance, per(func(_ Status, c Carrier) uint64 { return c.Sent })},
		{"keepalived_advertisements_interval_errors_total", counter, "Adverts with an impossible interval.", instance, dropped("interval")},
		{"keepalived_ip_ttl_errors_total", counter, "Adverts that came from afar.", instance, dropped("ttl")},
		{"keepalived_invalid_type_received_total", counter, "Packets that were no adverts.", instance, dropped("type")},
		{"keepalived_packet_length_errors_total", counter, "Adverts shorter than they say.", instance, dropped("truncated")},
	}
}

func keepalivedState(role string) float64 {
	switch role {
	case "BACKUP":
		return 1
	case "MASTER":
		return 2
	}
	return 0
}

func perCarrierButHA(value func(s Status, c Carrier) float64) func(Status) []reading {
	return perCarrier(func(s Status, c Carrier) (float64, bool) { return value(s, c), c.Kind != "ha" })
}
