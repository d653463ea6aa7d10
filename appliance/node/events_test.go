package node

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"tandem/appliance/status"
)

// quickLimits are those of the API's server in the tests; a stream of events must
// outlive them.
const quickLimits = 100 * time.Millisecond

// eventServer serves a node's API on a Unix socket, as the node does.
func eventServer(t *testing.T, n *node) *http.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api.sock")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := n.server()
	server.ReadTimeout, server.WriteTimeout = quickLimits, quickLimits
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
}

// stream is an open subscription.
type stream struct {
	t     *testing.T
	body  io.ReadCloser
	lines *bufio.Scanner
}

func openStream(t *testing.T, client *http.Client, query, last string) *stream {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://node/v1/events"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		request.Header.Set("Last-Event-ID", last)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s, %v", response.Status, response.Header)
	}
	return &stream{t: t, body: response.Body, lines: bufio.NewScanner(response.Body)}
}

// next returns the next event; false at the end of the stream.
func (s *stream) next() (status.Event, bool) {
	s.t.Helper()
	var id, kind string
	for s.lines.Scan() {
		name, value, _ := strings.Cut(s.lines.Text(), ": ")
		switch name {
		case "id":
			id = value
		case "event":
			kind = value
		case "data":
			var e status.Event
			if err := json.Unmarshal([]byte(value), &e); err != nil {
				s.t.Fatal(err)
			}
			if e.ID != id || e.Kind != kind || e.Time.IsZero() || e.Node != "alpha" {
				s.t.Fatalf("id %q, event %q, %+v", id, kind, e)
			}
			return e, true
		}
	}
	return status.Event{}, false
}

// reads checks that the next events have these reasons.
func (s *stream) reads(reasons ...string) (last string) {
	s.t.Helper()
	for _, want := range reasons {
		e, ok := s.next()
		if !ok || e.Reason != want {
			s.t.Fatalf("%+v, %v; want %q", e, ok, want)
		}
		last = e.ID
	}
	return last
}

func (s *stream) ends() {
	s.t.Helper()
	if e, ok := s.next(); ok {
		s.t.Errorf("another event: %+v", e)
	}
}

func said(n *node, reasons ...string) {
	for _, reason := range reasons {
		n.events.add(status.Event{Kind: status.EventNode, Reason: reason})
	}
}

func TestEventsAreResumed(t *testing.T) {
	n := pairOf(t)["alpha"]
	client := eventServer(t, n)
	said(n, "one", "two")
	s := openStream(t, client, "", "")
	last := s.reads("one", "two")
	said(n, "three")
	s.reads("three")
	_ = s.body.Close()
	said(n, "four")
	resumed := openStream(t, client, "", last)
	resumed.reads("three", "four")
	openStream(t, client, "?history=1", "").reads("four")
	none := openStream(t, client, "?history=0", "")
	said(n, "five")
	none.reads("five")
	past := openStream(t, client, "?follow=false", "")
	past.reads("one", "two", "three", "four", "five")
	past.ends()
}

// The limits of other requests do not end a stream.
func TestEventsLast(t *testing.T) {
	n := pairOf(t)["alpha"]
	s := openStream(t, eventServer(t, n), "", "")
	<-time.After(3 * quickLimits)
	said(n, "late")
	s.reads("late")
}

func TestEventsOfAnotherRun(t *testing.T) {
	n := pairOf(t)["alpha"]
	client := eventServer(t, n)
	said(n, "one")
	for _, id := range []string{"0-17", "nonsense", n.events.id(99), "-", n.events.run + "-18446744073709551616"} {
		s := openStream(t, client, "?follow=false", id)
		if e, ok := s.next(); !ok || e.Kind != status.EventMissed || e.ID != "" {
			t.Errorf("%s: %+v", id, e)
		}
		s.reads("one")
		s.ends()
	}
}

// Who was away for longer than the memory reaches is told so and gets the rest.
func TestEventsForgotten(t *testing.T) {
	n := pairOf(t)["alpha"]
	client := eventServer(t, n)
	said(n, "one")
	last := openStream(t, client, "", "").reads("one")
	for i := range eventMemory + 5 {
		said(n, fmt.Sprint(i))
	}
	s := openStream(t, client, "?follow=false", last)
	if e, ok := s.next(); !ok || e.Kind != status.EventMissed || e.Numbers["events"] != 5 {
		t.Errorf("%+v", e)
	}
	for i := range eventMemory {
		s.reads(fmt.Sprint(i + 5))
	}
	s.ends()
}

// A subscriber that does not read holds up nobody, and its last event says why it ends.
func TestSlowSubscriber(t *testing.T) {
	n := pairOf(t)["alpha"]
	client := eventServer(t, n)
	slow, quick := openStream(t, client, "", ""), openStream(t, client, "", "")
	filler := strings.Repeat("x", 1000)
	const total = 10 * eventMemory
	for i := range total {
		said(n, fmt.Sprint(i, filler)) // returns, though nobody reads
		quick.reads(fmt.Sprint(i, filler))
	}
	count := 0
	for {
		e, ok := slow.next()
		if !ok {
			t.Fatalf("the stream ended after %d events without a word", count)
		}
		if e.Kind == status.EventDropped {
			if missed := int(e.Numbers["events"]); missed <= 0 || count+missed > total-eventMemory || e.ID != "" {
				t.Errorf("read %d events, then %+v", count, e)
			}
			break
		}
		count++
	}
	slow.ends()
}

func TestEventsRefuse(t *testing.T) {
	n := pairOf(t)["alpha"]
	client := eventServer(t, n)
	refused := func(path string, code int, words string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://node"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }() // it was read
		var failure status.Failure
		if err := json.NewDecoder(response.Body).Decode(&failure); err != nil || response.StatusCode != code || !strings.Contains(failure.Error, words) {
			t.Errorf("%s: %s, %+v, %v", path, response.Status, failure, err)
		}
	}
	refused("/v1/events?follow=perhaps", http.StatusBadRequest, "follow=perhaps is neither true nor false")
	refused("/v1/events?history=-1", http.StatusBadRequest, "history=-1 is not the number")
	for range maxSubscribers {
		openStream(t, client, "", "")
	}
	refused("/v1/events", http.StatusServiceUnavailable, "64 clients follow the events")
}

// A subscriber that leaves makes room for another.
func TestSubscribersAreCounted(t *testing.T) {
	n := pairOf(t)["alpha"]
	client := eventServer(t, n)
	s := openStream(t, client, "", "")
	_ = s.body.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for n.subscribers.Load() != 0 {
		if ctx.Err() != nil {
			t.Fatal("a subscriber that left is still counted")
		}
		runtime.Gosched()
	}
}
