package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tandem/appliance/status"
	"tandem/conntracksync/peer"
	"tandem/router/config"
)

// requestTimeout bounds a question to a node.
const requestTimeout = 20 * time.Second

// nodeFlags choose a running node of this machine.
type nodeFlags struct {
	stateDir string
	// root is where the only node is looked for.
	root string
}

func (f *nodeFlags) add(cmd *cobra.Command) {
	f.root = defaultStateRoot
	cmd.Flags().StringVar(&f.stateDir, "state-dir", "", "the node's state directory (default: the only one below "+defaultStateRoot+")")
}

// socket returns the path of the node's API.
func (f *nodeFlags) socket() (string, error) {
	if f.stateDir != "" {
		return filepath.Join(f.stateDir, status.SocketName), nil
	}
	found, err := filepath.Glob(filepath.Join(f.root, "*", status.SocketName))
	if err != nil {
		return "", fmt.Errorf("look for nodes: %w", err)
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		if hidden, err := f.hidden(); err == nil && hidden != "" {
			return "", fmt.Errorf("you may not look into %s, where a node may run: ask as root", hidden)
		}
		return "", fmt.Errorf("no node runs here: nothing below %s; start one with `tandem run`, or give --state-dir", f.root)
	}
	return "", fmt.Errorf("several nodes run here (%s): choose one with --state-dir", strings.Join(found, ", "))
}

// hidden returns a state directory that this user may not look into; empty if there
// is none.
func (f *nodeFlags) hidden() (string, error) {
	entries, err := os.ReadDir(f.root)
	for _, e := range entries {
		path := filepath.Join(f.root, e.Name())
		if _, err := os.ReadDir(path); errors.Is(err, os.ErrPermission) {
			return path, nil
		}
	}
	return "", err
}

// call asks a node and decodes its answer into out.
func (f *nodeFlags) call(ctx context.Context, method, path string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, err := f.open(ctx, method, path, nil)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // it was read
	if err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("decode the node's answer: %w", err)
	}
	return nil
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 8 << 20

// open asks a node and returns the body of its answer; every answer but a success is an
// error.
func (f *nodeFlags) open(ctx context.Context, method, path string, header http.Header) (io.ReadCloser, error) {
	socket, err := f.socket()
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
	request, err := http.NewRequestWithContext(ctx, method, "http://node"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("build request: %w", err)
	}
	if header != nil {
		request.Header = header
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("no node answers at %s: %w; is `tandem run` running, and may you open its socket?", socket, err)
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, nil
	}
	defer func() { _ = response.Body.Close() }() // it was read
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the node's answer: %w", err)
	}
	var failure status.Failure
	if json.Unmarshal(body, &failure) == nil && failure.Error != "" {
		return nil, errors.New(failure.Error)
	}
	return nil, fmt.Errorf("the node answered %s", response.Status)
}

// colours tells whether standard output takes colours.
func colours() bool {
	_, refused := os.LookupEnv("NO_COLOR")
	return !refused && term.IsTerminal(int(os.Stdout.Fd()))
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func statusCommand() *cobra.Command {
	var f nodeFlags
	var asJSON, watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how a running node is",
		Example: `  tandem status
  tandem status --watch
  tandem status --json | jq .role`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return watchStatus(cmd.Context(), cmd.OutOrStdout(), &f, asJSON)
			}
			var s status.Status
			if err := f.call(cmd.Context(), http.MethodGet, "/v1/status", &s); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s)
			}
			_, err := io.WriteString(cmd.OutOrStdout(), status.Render(s, colours()))
			return err
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON; with --watch one line per change of second")
	cmd.Flags().BoolVar(&watch, "watch", false, "repaint until interrupted")
	cmd.AddCommand(statusUplinksCommand())
	return cmd
}

// watchStatus repaints the status until ctx ends. A node that does not answer is
// shown as such and asked again.
func watchStatus(ctx context.Context, w io.Writer, f *nodeFlags, asJSON bool) error {
	interval := 200 * time.Millisecond
	if asJSON {
		interval = time.Second
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		var s status.Status
		err := f.call(ctx, http.MethodGet, "/v1/status", &s)
		switch {
		case ctx.Err() != nil:
			return nil
		case asJSON && err != nil:
			return err
		case asJSON:
			err = json.NewEncoder(w).Encode(s)
		case err != nil:
			_, err = fmt.Fprintf(w, "\x1b[H\x1b[2J%v\n", err)
		default:
			// One write a frame, so that nothing flickers.
			text := strings.ReplaceAll(status.Render(s, colours()), "\n", "\x1b[K\n")
			_, err = io.WriteString(w, "\x1b[H"+text+"\x1b[J")
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func failoverCommand() *cobra.Command {
	var f nodeFlags
	cmd := &cobra.Command{
		Use:   "failover",
		Short: "Hand mastership over to the peer without a break",
		Long: `Ask the MASTER to hand its role to the peer: the peer first acknowledges every
session, then takes the virtual MAC addresses over, and only then the old MASTER
steps back. It is refused, with the reason, when it would be felt.`,
		Example: `  tandem failover
  tandem failover --state-dir /run/tandem/alpha`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var done status.Failover
			if err := f.call(cmd.Context(), http.MethodPost, "/v1/failover", &done); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is MASTER now; %s handed over in %v.\n", done.To, done.From, done.Took.Round(100*time.Microsecond))
			return err
		},
	}
	f.add(cmd)
	return cmd
}

func reloadCommand() *cobra.Command {
	var f nodeFlags
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Put the changed document into force on this node",
		Long: `Have the node read its document again and follow it, while traffic flows. A document
with a fault changes nothing; neither does one that differs in the group, the members, the
HA links or the advertisement interval, for which the node must be restarted. Do it on
both members: until then each says that the other has a different document.`,
		Example: `  tandem check /etc/tandem/pair.yaml && tandem reload`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var done status.Reload
			if err := f.call(cmd.Context(), http.MethodPost, "/v1/reload", &done); err != nil {
				return err
			}
			text := fmt.Sprintf("The document %s is in force, instead of %s.\n", status.Short(done.Hash), status.Short(done.Before))
			if done.Hash == done.Before {
				text = fmt.Sprintf("The document %s is in force already; nothing has changed.\n", status.Short(done.Hash))
			}
			_, err := io.WriteString(cmd.OutOrStdout(), text)
			return err
		},
	}
	f.add(cmd)
	return cmd
}

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "check FILE",
		Short:   "Check a document and list every fault in it",
		Example: "  tandem check /etc/tandem/pair.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read the document: %w", err)
			}
			doc, err := config.Parse(args[0], text)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is valid: group %s, %d members, %d networks, %d uplinks, hash %s\n",
				args[0], doc.Group, len(doc.Members), len(doc.Networks), len(doc.Uplinks), status.Short(doc.Hash()))
			return err
		},
	}
}

func keygenCommand() *cobra.Command {
	var out string
	var show bool
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make a node's private key and print its public key",
		Long: `Make the private key by which a node proves its identity to its peer, and print
the public key that belongs into the document. The private key never leaves its
file; an existing file is never overwritten.`,
		Example: `  tandem keygen --out /etc/tandem/alpha.key
  tandem keygen --show --out /etc/tandem/alpha.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var id *peer.Identity
			var err error
			if show {
				id, err = peer.LoadIdentity(out)
			} else if id, err = peer.GenerateKey(); err == nil {
				err = id.Save(out)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), id.PublicKey())
			return err
		},
	}
	cmd.Flags().StringVar(&out, "out", "/etc/tandem/node.key", "the file of the private key")
	cmd.Flags().BoolVar(&show, "show", false, "only print the public key of an existing file")
	return cmd
}
