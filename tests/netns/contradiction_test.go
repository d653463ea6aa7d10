package netns

import (
	"context"
	"errors"
	"strings"
	"time"

	"tandem/appliance/status"
)

// consistent looks at the status of both nodes until the function that it returns is
// called. What it says of the sessions, in facts and in words, must not contradict
// itself at any moment.
func (s *stand) consistent() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(25 * look)
		defer tick.Stop()
		for {
			for _, node := range nodes() {
				answer, err := s.Status(ctx, node)
				if err != nil {
					continue // the node does not run, or is suspended
				}
				if err := contradiction(answer); err != nil {
					s.t.Errorf("%s: %v:\n%s", node, err, status.Render(answer, false))
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return func() { cancel(); <-done }
}

func contradiction(answer status.Status) error {
	y, text := answer.Sync, status.Render(answer, false)
	sessions := ""
	for line := range strings.Lines(text) {
		if strings.Contains(line, " Sessions ") {
			sessions = line
		}
	}
	var wrong []error
	for _, c := range []struct {
		what string
		is   bool
	}{
		{"the tables are equal without a stream", y.Complete && !y.Connected},
		{"the tables are equal and being repaired", y.Complete && y.Repair != nil},
		{"there is a stream and an error of it", y.Connected && y.Error != ""},
		{"a repair has sent more flows than there are", y.Repair != nil && y.Repair.Sent > y.Repair.Flows},
		{"flows were refused for no reason", y.Refused > 0 && len(y.RefusedBy) == 0},
		{"the text does not say that nothing is replicated", strings.Contains(sessions, "not replicated") == y.Connected},
		{"the text does not say that the tables differ", strings.Contains(sessions, "INCOMPLETE") != (y.Connected && !y.Complete)},
		{"the text hides a repair", strings.Contains(text, "parts of the tables differ") != (y.Connected && y.Repair != nil)},
	} {
		if c.is {
			wrong = append(wrong, errors.New(c.what))
		}
	}
	return errors.Join(wrong...)
}
