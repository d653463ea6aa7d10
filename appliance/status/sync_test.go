package status

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRenderSync(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Status)
		want   []string
		lacks  []string
	}{
		{"healthy", func(*Status) {}, []string{"612 of 262144  complete", "up for 3.0 s by ha"}, []string{"Losses", "Skipped", "Repair", "First"}},
		{"a BACKUP has no lag", func(s *Status) { s.Role = "BACKUP" }, []string{"612 of 262144  complete\n"}, []string{"p50"}},
		{"down", func(s *Status) { s.Sync.Connected, s.Sync.Error = false, "the peer is silent" }, []string{"not replicated", "down for 3.0 s  the peer is silent"}, []string{"events/s"}},
		{"down from the start", func(s *Status) { s.Sync = Sync{} }, []string{"Sessions   0  not replicated", "Stream     down\n"}, []string{"Sessions   0 of "}},
		{"repairing", func(s *Status) {
			s.Sync.Complete, s.Sync.CompleteSince = false, s.Time.Add(-1500*time.Millisecond)
			s.Sync.Repair = &Repair{Buckets: 12, Of: Buckets, Sent: 30, Flows: 40}
		}, []string{"INCOMPLETE", "12 of 4096 parts of the tables differ  30 of 40 flows sent again (75%)  for 1.5 s"}, nil},
		{"losses", func(s *Status) {
			s.Sync.Overruns, s.Sync.Overflows, s.Sync.VerificationFailed, s.Sync.Resyncs = 1, 2, 3, 4
			s.Sync.Refused, s.Sync.RefusedBy = 7, map[string]uint64{"EEXIST": 2, TableFull: 5}
		}, []string{"Losses     1 overrun of the kernel's events  2 overflows of the queue  7 flows refused by the kernel (table full 5, EEXIST 2)  3 flows not as written  4 repairs"}, nil},
		{"stripped", func(s *Status) { s.Sync.Stripped = map[string]uint64{"helper": 3} }, []string{"Losses     written without helper 3\n"}, nil},
		{"repairs alone are no loss", func(s *Status) { s.Sync.Resyncs = 4 }, nil, []string{"Losses"}},
		{"first packets wait", func(s *Status) {
			s.Sync.FirstPackets = &FirstPackets{Holding: true, Acknowledged: 17, MeanWait: 2 * time.Millisecond, LongestWait: 9 * time.Millisecond, Expired: 3}
		}, []string{"First      packets are held  17 acknowledged after 2.0 ms, 9.0 ms at most  3 in vain\n"}, []string{"displaced"}},
		{"first packets pass", func(s *Status) { s.Sync.FirstPackets = &FirstPackets{Abandoned: 2} }, []string{"First      packets pass  0 acknowledged  2 abandoned\n"}, nil},
		{"first packets cannot wait", func(s *Status) { s.Sync.FirstPackets = &FirstPackets{Error: "this kernel cannot"} }, []string{"First      packets are not held  0 acknowledged\n"}, nil},
		{"skipped", func(s *Status) { s.Sync.Skipped = map[string]uint64{"address": 3, "handshake": 12, "clash": 0} }, []string{"Skipped    handshake 12, address 3\n"}, []string{"clash"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := sample()
			s.Carriers, s.Uplinks = nil, nil
			tt.change(&s)
			got := Render(s, false)
			for _, w := range tt.want {
				if !strings.Contains(got, w) {
					t.Errorf("lacks %q:\n%s", w, got)
				}
			}
			for _, w := range tt.lacks {
				if strings.Contains(got, w) {
					t.Errorf("says %q:\n%s", w, got)
				}
			}
			if coloured := Render(s, true); stripColour(coloured) != got {
				t.Errorf("colours change more than colours:\n%s", coloured)
			}
		})
	}
}

func TestDiagnoseSync(t *testing.T) {
	now := time.Unix(1000, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	healthy := func() SyncView {
		return SyncView{
			Now: now, Master: true, Peer: "bravo", PeerAlive: true, PeerSince: ago(time.Hour),
			Sync: Sync{Connected: true, Since: ago(time.Hour), Complete: true, CompleteSince: ago(time.Hour), Sessions: 10, Limit: 100},
		}
	}
	down := func(v *SyncView, since, alive time.Duration) {
		v.Sync.Connected, v.Sync.Complete, v.Sync.Since, v.PeerSince, v.Sync.Error = false, false, ago(since), ago(alive), "read: connection reset"
	}
	for name, c := range map[string]struct {
		change func(v *SyncView)
		want   []string
		says   string
	}{
		"healthy":                         {func(*SyncView) {}, nil, ""},
		"broken just now":                 {func(v *SyncView) { down(v, time.Millisecond, time.Hour) }, []string{ReplicationBroken}, "not replicated: read: connection reset; until the stream to bravo"},
		"nobody knows why":                {func(v *SyncView) { down(v, time.Second, time.Hour); v.Sync.Error = "" }, []string{ReplicationBroken}, "the channel to the peer is not connected"},
		"the peer has just started":       {func(v *SyncView) { down(v, time.Hour, time.Second) }, nil, ""},
		"the peer started without stream": {func(v *SyncView) { down(v, time.Hour, 3*time.Second) }, []string{ReplicationBroken}, ""},
		"this node has just started":      {func(v *SyncView) { down(v, 0, time.Second); v.Sync.Since = time.Time{} }, nil, ""},
		"a dead peer":                     {func(v *SyncView) { down(v, time.Hour, time.Hour); v.PeerAlive = false }, nil, ""},
		"a wrong key":                     {func(v *SyncView) { down(v, time.Hour, time.Hour); v.PeerAlive, v.KeyTrouble = false, true }, []string{ReplicationBroken}, "connection reset"},
		"a short repair":                  {func(v *SyncView) { v.Sync.Complete, v.Sync.CompleteSince = false, ago(time.Second) }, nil, ""},
		"a long repair": {func(v *SyncView) {
			v.Sync.Complete, v.Sync.CompleteSince, v.Sync.Repair = false, ago(2500*time.Millisecond), &Repair{Buckets: 3, Of: Buckets}
		}, []string{ReplicationIncomplete}, "have differed for 2.0 s: 3 of 4096 parts"},
		"a BACKUP that refuses": {func(v *SyncView) {
			v.Master, v.Sync.Complete, v.Sync.CompleteSince = false, false, ago(time.Minute)
			v.Sync.RefusedBy = map[string]uint64{"EINVAL": 3}
		}, []string{ReplicationIncomplete}, "the kernel refused flows (EINVAL 3)"},
		"a BACKUP without room": {func(v *SyncView) {
			v.Master, v.Sync.Complete, v.Sync.CompleteSince = false, false, ago(time.Minute)
			v.Sync.RefusedBy, v.FullAt = map[string]uint64{TableFull: 3}, ago(time.Second)
		}, []string{SessionTableFull, ReplicationIncomplete}, "(10 of 100): flows of the MASTER are refused here and would be lost in a failover; raise net.netfilter.nf_conntrack_max on both nodes"},
		"first packets pass": {func(v *SyncView) {
			v.Sync.FirstPackets = &FirstPackets{Error: "this kernel cannot"}
		}, []string{FirstPacketsNotHeld}, "first packets do not wait for bravo, though a network asks for it: this kernel cannot"},
		"first packets wait":    {func(v *SyncView) { v.Sync.FirstPackets = &FirstPackets{Holding: true} }, nil, ""},
		"a full MASTER":         {func(v *SyncView) { v.Sync.Sessions = 100 }, []string{SessionTableFull}, "old ones sacrificed"},
		"full long ago":         {func(v *SyncView) { v.FullAt = ago(time.Minute) }, nil, ""},
		"a full single router":  {func(v *SyncView) { *v = SyncView{Now: now, FullAt: now} }, []string{SessionTableFull}, "is full: new sessions"},
		"a quiet single router": {func(v *SyncView) { *v = SyncView{Now: now} }, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := healthy()
			c.change(&v)
			var names []string
			text := ""
			for _, got := range DiagnoseSync(v) {
				names = append(names, got.Name)
				text += got.Text + "\n"
			}
			if !slices.Equal(names, c.want) {
				t.Errorf("conditions %v, want %v", names, c.want)
			}
			if !strings.Contains(text, c.says) {
				t.Errorf("%q does not say %q", text, c.says)
			}
		})
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 9940: "9.9 kB", 9960: "10 kB", 999_499: "999 kB", 999_500: "1.0 MB", 1 << 63: "9.2 EB",
	} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q, want %q", n, got, want)
		}
	}
}
