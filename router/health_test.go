package router

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestHealth(t *testing.T) {
	t0 := time.Unix(1000, 0)
	type step struct {
		after    time.Duration
		link     string
		up       bool
		failed   []string
		recover  []string
		isolated bool
		deadline time.Duration // since t0; 0 = none
	}
	const sec = time.Second
	lan := []string{"lan"}
	tests := []struct {
		name  string
		steps []step
	}{
		{"a first sight counts as it is", []step{
			{0, "lan", true, nil, nil, false, 0},
			{0, "wan", false, []string{"wan"}, nil, false, 0},
		}},
		{"failure counts at once, recovery after a while", []step{
			{0, "lan", true, nil, nil, false, 0},
			{sec, "lan", false, lan, nil, true, 0},
			{2 * sec, "lan", true, nil, lan, false, 4 * sec},
			{4*sec - 1, "lan", true, nil, lan, false, 4 * sec},
			{4 * sec, "lan", true, nil, nil, false, 0},
		}},
		{"a flap starts the wait anew", []step{
			{0, "lan", true, nil, nil, false, 0},
			{1 * sec, "lan", false, lan, nil, true, 0},
			{2 * sec, "lan", true, nil, lan, false, 4 * sec},
			{3 * sec, "lan", false, lan, nil, true, 0},
			{3500 * time.Millisecond, "lan", true, nil, lan, false, 5500 * time.Millisecond},
			{5 * sec, "lan", true, nil, lan, false, 5500 * time.Millisecond},
		}},
		{"names are sorted", []step{
			{0, "z", false, []string{"z"}, nil, true, 0},
			{0, "a", false, []string{"a", "z"}, nil, true, 0},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var h Health
			for i, s := range tt.steps {
				now := t0.Add(s.after)
				h.Observe(now, s.link, s.up)
				if diff := cmp.Diff(s.failed, h.Failed()); diff != "" {
					t.Errorf("step %d: Failed (-want +got):\n%s", i, diff)
				}
				if diff := cmp.Diff(s.recover, h.Recovering(now)); diff != "" {
					t.Errorf("step %d: Recovering (-want +got):\n%s", i, diff)
				}
				if got := h.Isolated(); got != s.isolated {
					t.Errorf("step %d: Isolated = %v, want %v", i, got, s.isolated)
				}
				var want time.Time
				if s.deadline != 0 {
					want = t0.Add(s.deadline)
				}
				if got := h.Deadline(now); !got.Equal(want) {
					t.Errorf("step %d: Deadline = %v, want %v", i, got, want)
				}
			}
		})
	}
}

func TestHealthForget(t *testing.T) {
	var h Health
	now := time.Unix(0, 0)
	if h.Isolated() {
		t.Error("a node without links counts as isolated")
	}
	h.Observe(now, "lan", false)
	h.Observe(now, "wan", true)
	h.Forget([]string{"wan"})
	if got := h.Failed(); len(got) != 0 {
		t.Errorf("Failed = %v after Forget, want none", got)
	}
}
