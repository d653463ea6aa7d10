package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

func TestMetricsCommand(t *testing.T) {
	dir := fakeNode(t, t.TempDir(), func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/metrics" {
			t.Errorf("asked %s %s", r.Method, r.URL)
		}
		_, _ = io.WriteString(w, "tandem_term 4\n")
	})
	code, stdout, stderr := tandem(t, "metrics", "--state-dir", dir)
	if code != 0 || stdout != "tandem_term 4\n" || stderr != "" {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
}

const oneEvent = `id: 5-%[1]d
event: role
data: {"id":"5-%[1]d","time":"2030-01-02T03:04:05.678Z","node":"alpha","kind":"role","from":"BACKUP","to":"MASTER","reason":"the MASTER is silent","numbers":{"term":%[1]d}}

`

func TestEventsCommand(t *testing.T) {
	dir := fakeNode(t, t.TempDir(), func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() != "/v1/events?follow=false" {
			t.Errorf("asked %s", r.URL)
		}
		_, _ = fmt.Fprintf(w, "retry: 1000\n\n: alive\n\n"+oneEvent+oneEvent, 1, 2)
	})
	code, stdout, stderr := tandem(t, "events", "--state-dir", dir)
	if code != 0 || stderr != "" || strings.Count(stdout, "alpha  role BACKUP → MASTER: the MASTER is silent (term 1)\n") != 2 {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
	code, stdout, _ = tandem(t, "events", "--json", "--state-dir", dir)
	if code != 0 || strings.Count(stdout, `"kind":"role"`) != 2 || strings.Count(stdout, "\n") != 2 {
		t.Errorf("exit code %d, %q", code, stdout)
	}
}

// A node that is restarted is followed on, from the last event that it had told.
func TestEventsAreFollowed(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var asks atomic.Int32
	dir := fakeNode(t, t.TempDir(), func(w http.ResponseWriter, r *http.Request) {
		asked := asks.Add(1)
		switch last := r.Header.Get("Last-Event-ID"); {
		case asked == 1 && last != "", asked > 1 && last != "5-1":
			t.Errorf("request %d has Last-Event-ID %q", asked, last)
		}
		if asked == 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if asked > 2 {
			cancel()
			<-r.Context().Done()
			return
		}
		_, _ = fmt.Fprintf(w, oneEvent, 1)
	})
	var out, complaints bytes.Buffer
	if err := followEvents(ctx, &complaints, &nodeFlags{stateDir: dir}, eventPrinter(&out, false)); err != nil {
		t.Error(err)
	}
	if asked := asks.Load(); asked < 3 || strings.Count(out.String(), "\n") != 1 || complaints.String() != "tandem: the node answered 503 Service Unavailable; asking again\n" {
		t.Errorf("asked %d times, %q, %q", asked, out.String(), complaints.String())
	}
}
