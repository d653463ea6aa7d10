package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tandem/appliance/status"
)

// resumePause is how long `tandem events --follow` waits before it asks a node again
// that went away.
const resumePause = time.Second

func metricsCommand() *cobra.Command {
	var f nodeFlags
	cmd := &cobra.Command{
		Use:   "metrics",
		Short: "Print a running node's metrics in Prometheus's text format",
		Long: `Print what GET /metrics answers on the node's API socket. The names are explained
in docs/metrics.md.`,
		Example: `  tandem metrics
  tandem metrics | promtool check metrics`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), requestTimeout)
			defer cancel()
			body, err := f.open(ctx, http.MethodGet, "/metrics", nil)
			if err != nil {
				return err
			}
			defer func() { _ = body.Close() }() // it was read
			_, err = io.Copy(cmd.OutOrStdout(), body)
			return err
		},
	}
	f.add(cmd)
	return cmd
}

func eventsCommand() *cobra.Command {
	var f nodeFlags
	var follow, asJSON bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what happened on a running node",
		Long: `Show the events that a running node remembers: changes of the role, conditions that
begin and end, and what became of the replication. With --follow go on until
interrupted, also when the node is restarted; no event is shown twice.`,
		Example: `  tandem events
  tandem events --follow
  tandem events --follow --json | jq 'select(.kind == "role")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			show := eventPrinter(cmd.OutOrStdout(), asJSON)
			if !follow {
				_, err := readEvents(cmd.Context(), &f, "?follow=false", "", show)
				return err
			}
			return followEvents(cmd.Context(), cmd.ErrOrStderr(), &f, show)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&follow, "follow", false, "go on until interrupted")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one event a line")
	return cmd
}

func eventPrinter(w io.Writer, asJSON bool) func(status.Event) error {
	if asJSON {
		encoder := json.NewEncoder(w)
		return func(e status.Event) error { return encoder.Encode(e) }
	}
	return func(e status.Event) error {
		_, err := fmt.Fprintf(w, "%s  %s  %s\n", e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Node, e.Text())
		return err
	}
}

// followEvents goes on after the last event that was shown, until ctx ends. A node that
// does not answer is said once.
func followEvents(ctx context.Context, complaints io.Writer, f *nodeFlags, show func(status.Event) error) error {
	last, said := "", ""
	for {
		shown := func(e status.Event) error { said = ""; return show(e) }
		id, err := readEvents(ctx, f, "", last, shown)
		if id != "" {
			last = id
		}
		if ctx.Err() != nil {
			return nil
		}
		var broken *printError
		if errors.As(err, &broken) {
			return broken.error
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			_, _ = fmt.Fprintf(complaints, "tandem: %s; asking again\n", said) // there is nowhere else to say it
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(resumePause):
		}
	}
}

// printError tells that an event could not be shown.
type printError struct{ error }

// readEvents shows events until the stream ends and returns the last one's ID.
func readEvents(ctx context.Context, f *nodeFlags, query, after string, show func(status.Event) error) (last string, err error) {
	body, err := f.open(ctx, http.MethodGet, "/v1/events"+query, http.Header{"Last-Event-ID": {after}})
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }() // it was read
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e status.Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return last, fmt.Errorf("decode the node's event: %w", err)
		}
		if err := show(e); err != nil {
			return last, &printError{err}
		}
		if e.ID != "" {
			last = e.ID
		}
	}
	if err := lines.Err(); err != nil {
		return last, fmt.Errorf("the node's events broke off: %w", err)
	}
	return last, nil
}
