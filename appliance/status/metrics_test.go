package status

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// everything is a status in which every metric has a value.
func everything(t *testing.T) Status {
	t.Helper()
	s := outside(t)
	s.Version, s.Transitions, s.BecameMaster, s.ReleasedMaster = "v1", 3, 2, 1
	s.Conditions = []Condition{{Name: CarrierSilent, Text: "x"}}
	s.Problems = []string{"x"}
	s.Heartbeats = &Heartbeats{Sent: 1, Received: 2, Dropped: map[string]uint64{"heartbeat-forged": 3}, Age: time.Second}
	s.Carriers[0].Dropped = map[string]uint64{"ttl": 4, "interval": 5}
	s.Sync.Kernel = Kernel{Found: 1, Invalid: 2, Ignored: 3, Inserted: 4, InsertFailed: 5, Dropped: 6, EarlyDropped: 7, SearchRestarted: 8}
	s.Sync.RefusedBy, s.Sync.Skipped = map[string]uint64{TableFull: 9}, map[string]uint64{"clash": 10, "address": 11}
	s.Sync.Stripped = map[string]uint64{"helper": 3}
	s.Sync.Repair = &Repair{Buckets: 12, Of: Buckets}
	s.Sync.FirstPackets = &FirstPackets{Holding: true, Held: 20, Acknowledged: 17, Expired: 3, Waited: 34 * time.Millisecond}
	return s
}

func TestMetrics(t *testing.T) {
	got := Metrics(everything(t))
	for _, want := range []string{
		"# HELP tandem_role Whether the node has the role.\n# TYPE tandem_role gauge\n" +
			"tandem_role{role=\"INITIALIZE\"} 0\ntandem_role{role=\"BACKUP\"} 0\ntandem_role{role=\"MASTER\"} 1\n",
		`tandem_info{group="edge",node="alpha",version="v1"} 1`,
		"tandem_transitions_total 3\n",
		`tandem_condition{condition="carrier-silent"} 1`, `tandem_condition{condition="replication-broken"} 0`,
		`tandem_adverts_dropped_total{carrier="ha",interface="ha0",vrid="30",reason="checksum"} 2`,
		`tandem_replication_lag_seconds{percentile="99"} 0.002`,
		`tandem_replication_refused_total{reason="ENOMEM"} 9`,
		"tandem_replication_skipped_total{reason=\"address\"} 11\ntandem_replication_skipped_total{reason=\"clash\"} 10\n",
		`tandem_first_packets_total{reason="acknowledged"} 17`, `tandem_first_packets_total{reason="expired"} 3`,
		"tandem_first_packets_wait_seconds_total 0.034\n",
		"tandem_replication_different_buckets 12\n", "tandem_replication_complete 1\n", "tandem_replication_sent_bytes_total 1.23e+06\n",
		`tandem_heartbeats_dropped_total{reason="heartbeat-forged"} 3`,
		`keepalived_vrrp_state{iname="lan",intf="lan0",vrid="10",ip_address="10.0.0.1"} 2`,
		`keepalived_ip_ttl_errors_total{iname="lan",intf="lan0",vrid="10"} 4`, `keepalived_become_master_total{iname="lan",intf="lan0",vrid="10"} 2`,
		`tandem_uplink_up{uplink="wan",interface="eth1"} 1`, `tandem_uplink_state{uplink="wan",family="ipv6",state="dead"} 1`,
		`tandem_uplink_state{uplink="wan",family="ipv6",state="working"} 0`, `tandem_uplink_cost{uplink="lte"} 90`,
		`tandem_probe_rtt_seconds{uplink="wan",family="ipv4",probe="tcp",target="www.example.com:443"} 0.008`,
		`tandem_probe_loss_ratio{uplink="lte",family="ipv4",probe="tcp",target="www.example.com:443"} 0.2`,
		`tandem_probes_failed_total{uplink="wan",family="ipv6",probe="gateway",target=""} 94`,
		`tandem_network_uplink{network="office",destination="0.0.0.0/0",uplink="wan"} 1`, `tandem_network_uplink{network="office",destination="0.0.0.0/0",uplink="lte"} 0`,
		`tandem_network_outside_works{network="office",destination="::/0"} 0`, `tandem_network_draining{network="office",destination="0.0.0.0/0",uplink="lte"} 1`,
		`tandem_network_switches_total{network="office",destination="0.0.0.0/0"} 3`, `tandem_network_switch_seconds{network="office",destination="0.0.0.0/0"} 0.031`,
		"node_nf_conntrack_entries 612\n", "node_nf_conntrack_entries_limit 262144\n", "node_nf_conntrack_stat_early_drop 7\n",
		"tandem_role_since_timestamp_seconds 1.893553", "tandem_failover_felt 0\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	for _, m := range metrics() {
		if !strings.Contains(got, "# TYPE "+m.name+" "+string(m.kind)+"\n") {
			t.Errorf("%s has no value, though everything is known", m.name)
		}
	}
	if strings.Contains(got, `keepalived_advertisements_sent_total{iname="ha"`) {
		t.Error("the HA link is no instance of keepalived")
	}
}

// What is not known, or is not there, has no sample: a zero would be a lie.
func TestMetricsOfASingleRouter(t *testing.T) {
	s := everything(t)
	s.Peer, s.Heartbeats, s.Sync, s.Config.PeerHash = nil, nil, Sync{Sessions: 5}, ""
	s.Carriers[0].HeardByPeer, s.Carriers[1].HeardByPeer = nil, nil
	got := Metrics(s)
	for _, name := range []string{"tandem_replication_", "tandem_first_packets", "tandem_peer_", "tandem_heartbeat", "tandem_config_in_sync", "heard_by_peer", "_entries_limit", "_stat_"} {
		if strings.Contains(got, name) {
			t.Errorf("exports %s:\n%s", name, got)
		}
	}
	if !strings.Contains(got, "node_nf_conntrack_entries 5\n") {
		t.Error("the sessions of the kernel are missing")
	}
}

func TestEscaped(t *testing.T) {
	s := sample()
	s.Version = "a\"b\\c\nd"
	if want := `version="a\"b\\c\nd"} 1`; !strings.Contains(Metrics(s), want) {
		t.Errorf("no %s", want)
	}
}

// Every condition that a node can name is exported.
func TestConditionsAreExported(t *testing.T) {
	known := strings.Join(conditions(), " ") + " "
	for _, file := range []string{"diagnosis.go", "diagnosis_sync.go", "diagnosis_uplinks.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`(?m)^\t\w+ += "([a-z-]+)"$`).FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(known, match[1]+" ") {
				t.Errorf("the condition %s of %s is no metric", match[1], file)
			}
		}
	}
	if n := len(conditions()); n < 17 {
		t.Errorf("%d conditions", n)
	}
}

// table is what docs/metrics.md says of the metrics.
func table() string {
	var b strings.Builder
	b.WriteString("| name | type | labels | meaning |\n| --- | --- | --- | --- |\n")
	for _, m := range metrics() {
		labels := "-"
		if len(m.labels) > 0 {
			labels = "`" + strings.Join(m.labels, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, m.kind, labels, m.help)
	}
	return b.String()
}

// The document and the code say the same.
func TestMetricsDocument(t *testing.T) {
	const path = "../../docs/metrics.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "| name | type |", "\n\n"
	start := bytes.Index(text, []byte(begin))
	if start < 0 {
		t.Fatalf("%s has no table of metrics", path)
	}
	length := bytes.Index(text[start:], []byte(end))
	if length < 0 {
		length = len(text) - start - 1
	}
	if got := string(text[start : start+length+1]); got != table() {
		if os.Getenv("UPDATE") != "" {
			changed := append(append(append([]byte{}, text[:start]...), table()...), text[start+length+1:]...)
			if err := os.WriteFile(path, changed, 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		t.Errorf("%s differs from the code; run `UPDATE=1 go test ./appliance/status -run TestMetricsDocument`. It says:\n%s\nwant:\n%s", path, got, table())
	}
}

// TestPromtool lets Prometheus's own checker judge the output.
func TestPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is missing: install Debian's package prometheus, or run `make test` as root")
	}
	single := sample()
	single.Peer, single.Sync = nil, Sync{}
	for name, s := range map[string]Status{"everything": everything(t), "a single router": single, "nothing": {}} {
		cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
		cmd.Stdin = strings.NewReader(Metrics(s))
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader("tandem_broken{ 1\n")
	if cmd.Run() == nil {
		t.Error("promtool accepts everything")
	}
}
