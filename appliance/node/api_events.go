package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"tandem/appliance/status"
)

const (
	// maxSubscribers bounds those who read events at a time.
	maxSubscribers = 64
	// subscriberPatience is how long a subscriber may take to read what was written.
	subscriberPatience = 10 * time.Second
	// aliveComment is how often a subscriber hears that the node is there, when nothing
	// happens.
	aliveComment = 15 * time.Second
	// eventWrite is how many events are written at once.
	eventWrite = 64
)

// serveEvents streams events as server-sent events (WHATWG HTML, §9.2). It begins after
// the event that the header Last-Event-ID names, else with all that are remembered, or
// with as many as the query's "history" says; with "follow=false" it ends with the
// newest.
func (n *node) serveEvents(w http.ResponseWriter, r *http.Request) {
	if n.subscribers.Add(1) > maxSubscribers {
		n.subscribers.Add(-1)
		n.answer(w, http.StatusServiceUnavailable, status.Failure{Error: fmt.Sprintf(
			"%d clients follow the events of this node already: end one of them first", maxSubscribers)})
		return
	}
	defer n.subscribers.Add(-1)
	sub, err := n.subscribe(r)
	if err != nil {
		n.answer(w, http.StatusBadRequest, status.Failure{Error: err.Error()})
		return
	}
	control := http.NewResponseController(w)
	// The server's limit for reading a request would end the stream.
	if err := control.SetReadDeadline(time.Time{}); err != nil {
		n.log.Debug("a stream of events cannot last", "error", err)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	sub.write = func(b []byte) error {
		if err := control.SetWriteDeadline(time.Now().Add(subscriberPatience)); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		return control.Flush()
	}
	if err := sub.run(r.Context()); err != nil && r.Context().Err() == nil {
		n.log.Debug("a subscriber of the events went away", "error", err)
	}
}

// subscriber reads the events at its own pace.
type subscriber struct {
	log *eventLog
	// position is the number of the newest event that it has.
	position uint64
	follow   bool
	// lost tells that it had seen events that this process does not know.
	lost  bool
	write func([]byte) error
}

func (n *node) subscribe(r *http.Request) (*subscriber, error) {
	s := &subscriber{log: n.events, follow: true}
	query := r.URL.Query()
	if text := query.Get("follow"); text != "" {
		var err error
		if s.follow, err = strconv.ParseBool(text); err != nil {
			return nil, fmt.Errorf("follow=%s is neither true nor false", shortened(text))
		}
	}
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		known := false
		s.position, known = n.events.position(id)
		s.lost = !known
		return s, nil
	}
	history := uint64(eventMemory)
	if text := query.Get("history"); text != "" {
		var err error
		if history, err = strconv.ParseUint(text, 10, 31); err != nil {
			return nil, fmt.Errorf("history=%s is not the number of past events to begin with", shortened(text))
		}
	}
	s.position = n.events.newest(history)
	return s, nil
}

// run writes events until the subscriber goes away, is too slow or has what it wanted.
func (s *subscriber) run(ctx context.Context) error {
	if err := s.write([]byte("retry: 1000\n\n")); err != nil {
		return err
	}
	if s.lost {
		err := s.send(status.Event{Kind: status.EventMissed, Reason: "the node was restarted since; what it remembers follows"})
		if err != nil {
			return err
		}
	}
	first := true
	for ctx.Err() == nil {
		events, missed, changed := s.log.after(s.position, eventWrite)
		switch {
		case missed > 0 && first: // it was away for long
			err := s.send(status.Event{Kind: status.EventMissed, Reason: "older events are not remembered", Numbers: map[string]float64{"events": float64(missed)}})
			if err != nil {
				return err
			}
			s.position += missed
		case missed > 0:
			return s.send(status.Event{Kind: status.EventDropped, Reason: "this subscriber reads too slowly", Numbers: map[string]float64{"events": float64(missed)}})
		}
		first = false
		if len(events) > 0 {
			if err := s.send(events...); err != nil {
				return err
			}
			s.position += uint64(len(events))
			continue
		}
		if !s.follow {
			return nil
		}
		if err := s.wait(ctx, changed); err != nil {
			return err
		}
	}
	return nil
}

// wait returns when there is something to write.
func (s *subscriber) wait(ctx context.Context, changed <-chan struct{}) error {
	timer := time.NewTimer(aliveComment)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-changed:
		return nil
	case <-timer.C:
		return s.write([]byte(": alive\n\n"))
	}
}

// send writes events. Those about the subscriber itself have no ID, so that they do not
// become its Last-Event-ID.
func (s *subscriber) send(events ...status.Event) error {
	var b bytes.Buffer
	for _, e := range events {
		if e.ID != "" {
			fmt.Fprintf(&b, "id: %s\n", e.ID)
		}
		if e.Time.IsZero() {
			e.Time, e.Node = time.Now(), s.log.node
		}
		text, err := json.Marshal(e)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", e.Kind, text)
	}
	return s.write(b.Bytes())
}
