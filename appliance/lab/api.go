package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"tandem/appliance/status"
	"tandem/vrrp"
)

const (
	roleMaster = "MASTER"
	roleBackup = "BACKUP"
	// pollInterval is the pause between two looks at the pair.
	pollInterval = 50 * time.Millisecond
	// answerTimeout is when a node counts as not answering.
	answerTimeout = time.Second
	// maxAnswer bounds the answer of a node, in bytes.
	maxAnswer = 4 << 20
)

// Status asks a node how it is.
func (l *Lab) Status(ctx context.Context, name string) (status.Status, error) {
	var answer status.Status
	body, err := l.call(ctx, name, http.MethodGet, "/v1/status")
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return answer, fmt.Errorf("decode status of node %s: %w", name, err)
	}
	return answer, nil
}

// Failover asks a node, which must be MASTER, to hand its role to the other.
func (l *Lab) Failover(ctx context.Context, name string) error {
	_, err := l.call(ctx, name, http.MethodPost, "/v1/failover")
	return err
}

// call makes one request over the node's unix socket.
func (l *Lab) call(ctx context.Context, name, method, path string) ([]byte, error) {
	if !isNode(name) {
		return nil, fmt.Errorf("ask node %q: a node is %s or %s", name, Alpha, Bravo)
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", l.SocketPath(name))
		},
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://unix"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask node %s: %w", name, err)
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask node %s: %w", name, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read answer of node %s to %s %s: %w", name, method, path, err)
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return nil, fmt.Errorf("node %s refused %s %s: %s: %s", name, method, path, response.Status, bytes.TrimSpace(body))
	}
	return body, nil
}

// Reload has a node put the document into force that [Lab.ConfigPath] holds now.
func (l *Lab) Reload(ctx context.Context, name string) error {
	_, err := l.call(ctx, name, http.MethodPost, "/v1/reload")
	return err
}

// report is what one node answered.
type report struct {
	name   string
	status status.Status
	err    error
}

// ask asks both nodes at the same time.
func (l *Lab) ask(ctx context.Context) []report {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var wait sync.WaitGroup
	reports := make([]report, len(nodeNames()))
	for i, name := range nodeNames() {
		reports[i].name = name
		if exit := l.exitOf(name); exit != "" {
			reports[i].err = fmt.Errorf("node %s does not run: %s", name, exit)
			continue
		}
		wait.Go(func() { reports[i].status, reports[i].err = l.Status(ctx, name) })
	}
	wait.Wait()
	return reports
}

// Master names the node that says it is MASTER. A node that does not answer
// within a second is no obstacle; no MASTER, or two, is an error.
func (l *Lab) Master(ctx context.Context) (string, error) {
	var masters, found []string
	for _, r := range l.ask(ctx) {
		switch {
		case r.err != nil:
			found = append(found, r.err.Error())
		default:
			found = append(found, r.name+" is "+r.status.Role)
			if r.status.Role == roleMaster {
				masters = append(masters, r.name)
			}
		}
	}
	if len(masters) != 1 {
		return "", fmt.Errorf("find the MASTER: there are %d: %s", len(masters), strings.Join(found, "; "))
	}
	return masters[0], nil
}

// WaitReady waits until one node is MASTER and one is BACKUP, their session
// tables are equal and neither has a problem. It looks every 50 ms until ctx
// ends; the error then says what was still wrong.
func (l *Lab) WaitReady(ctx context.Context) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	wrong := []string{"nobody was asked yet"}
	for {
		reports := l.ask(ctx)
		// What a node says while ctx ends tells of ctx, not of the pair.
		if ctx.Err() == nil {
			wrong = shortcomings(reports)
		}
		if len(wrong) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until the pair is ready: %w: %s", context.Cause(ctx), strings.Join(wrong, "; "))
		case <-ticker.C:
		}
	}
}

// shortcomings lists what keeps the pair from being ready.
func shortcomings(reports []report) []string {
	var wrong, roles []string
	for _, r := range reports {
		if r.err != nil {
			wrong = append(wrong, r.err.Error())
			continue
		}
		roles = append(roles, r.status.Role)
		if !r.status.Sync.Connected {
			wrong = append(wrong, r.name+" is not connected to its peer")
		} else if !r.status.Sync.Complete {
			wrong = append(wrong, r.name+" has not synchronised its sessions")
		}
		if p := r.status.Priority; p > 0 && p < vrrp.HealthyPriority {
			wrong = append(wrong, fmt.Sprintf("%s is impaired, its priority is %d", r.name, p))
		}
		for _, carrier := range r.status.Recovering {
			wrong = append(wrong, r.name+" lets "+carrier+" prove that it is back")
		}
		for _, problem := range r.status.Problems {
			wrong = append(wrong, r.name+" says: "+problem)
		}
	}
	slices.Sort(roles)
	if len(roles) == len(nodeNames()) && !slices.Equal(roles, []string{roleBackup, roleMaster}) {
		wrong = append(wrong, "roles are "+strings.Join(roles, " and "))
	}
	return wrong
}
