package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tandem/appliance/doctor"
	"tandem/appliance/doctor/consult"
	"tandem/appliance/status"
	"tandem/router/config"
)

// Exit codes of the doctor.
const (
	exitTrouble = 1
	exitUsage   = 2
)

// usageError is a mistake in how the doctor was called.
type usageError struct{ error }

// Unwrap returns what was wrong.
func (e usageError) Unwrap() error { return e.error }

// doctorFlags are the doctor's flags.
type doctorFlags struct {
	document, node, key, stateDir string
	peerWait, listen              time.Duration
	asJSON                        bool
}

func doctorCommand() *cobra.Command {
	var f doctorFlags
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Tell whether this machine and its network will carry Tandem",
		Long: `Examine this machine, its interfaces and its segments before a node runs or while
it does, and say in one sentence each what is well, what is not and what to do.

Run it on both members at the same time: the two doctors meet over the HA link, on
the port after the document's (TCP and UDP), and test what passes between the
members in both directions. While a node runs, the virtual MACs are left alone.

The exit code is 0 if nothing is in trouble, 1 if something is, 2 for a mistake in
the call or the document.`,
		Example: `  tandem doctor --config /etc/tandem/pair.yaml --node alpha
  tandem doctor --peer-wait 2m
  tandem doctor --peer-wait 0 --json | jq '.findings[] | select(.grade == "trouble")'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("tandem doctor takes no arguments, only flags: leave out %q", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	flags := cmd.Flags()
	flags.StringVar(&f.document, "config", "/etc/tandem/pair.yaml", "the pair's document, YAML or JSON")
	flags.StringVar(&f.node, "node", "", "which member of the document this machine is (default: the host's name)")
	flags.StringVar(&f.key, "key", "/etc/tandem/node.key", "this node's private key, made by `tandem keygen`")
	flags.StringVar(&f.stateDir, "state-dir", "", "where the node keeps its sockets and state (default: "+defaultStateRoot+"/NODE)")
	flags.DurationVar(&f.peerWait, "peer-wait", 30*time.Second, "how long to wait for the doctor on the peer; 0 for not at all")
	flags.DurationVar(&f.listen, "listen", 3500*time.Millisecond, "how long to listen for other VRRP routers, which advertise every second or as seldom as every 40s")
	flags.BoolVar(&f.asJSON, "json", false, "print one JSON document")
	return cmd
}

// options reads the document and fills in what was not given.
func (f *doctorFlags) options() (consult.Options, error) {
	if f.peerWait < 0 || f.listen < 0 {
		return consult.Options{}, errors.New("--peer-wait and --listen take times of 0 or more")
	}
	text, err := os.ReadFile(f.document)
	if err != nil {
		return consult.Options{}, fmt.Errorf("read the document: %w", err)
	}
	doc, err := config.Parse(f.document, text)
	if err != nil {
		return consult.Options{}, err
	}
	if f.node == "" {
		if f.node, err = os.Hostname(); err != nil {
			return consult.Options{}, fmt.Errorf("find the node's name: %w; give it with --node", err)
		}
	}
	if _, ok := doc.Member(f.node); !ok {
		return consult.Options{}, fmt.Errorf("group %s has no member %q: give one of its names with --node", doc.Group, f.node)
	}
	if f.stateDir == "" {
		f.stateDir = filepath.Join(defaultStateRoot, f.node)
	}
	return consult.Options{
		Document: doc, Node: f.node, Version: version, Key: f.key, StateDir: f.stateDir, PeerWait: f.peerWait, Listen: f.listen,
		Status: f.status,
	}, nil
}

// status asks the running node.
func (f *doctorFlags) status(ctx context.Context) (status.Status, error) {
	var s status.Status
	err := (&nodeFlags{stateDir: f.stateDir}).call(ctx, http.MethodGet, "/v1/status", &s)
	return s, err
}

func (f *doctorFlags) run(ctx context.Context, out, errs io.Writer) error {
	options, err := f.options()
	if err != nil {
		return usageError{err}
	}
	if !f.asJSON && term.IsTerminal(int(os.Stderr.Fd())) {
		options.Progress = func(text string) { _, _ = fmt.Fprintln(errs, text) } // for whoever watches
	}
	report, err := consult.Run(ctx, options)
	if err != nil {
		return err
	}
	if f.asJSON {
		err = printJSON(out, report)
	} else {
		_, err = io.WriteString(out, doctor.Render(report, colours(), terminalWidth()))
	}
	if err == nil && report.Count(doctor.Trouble) > 0 {
		err = statusError(exitTrouble)
	}
	return err
}

// terminalWidth is 0 where standard output is no terminal.
func terminalWidth() int {
	columns, _, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

// isUsage tells whether an error is a mistake in the call of the doctor.
func isUsage(err error) bool {
	var usage usageError
	return errors.As(err, &usage)
}
