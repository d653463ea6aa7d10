package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"tandem/appliance/node"
	"tandem/vrrp/elector"
)

// gcPercent keeps a node with a million sessions below 64 MB. What it allocates is little,
// and its largest part, the index of the sessions, has no pointers, so that collecting
// more often costs next to nothing.
const gcPercent = 40

// defaultStateRoot is where nodes keep their state, one directory each.
const defaultStateRoot = "/run/tandem"

func runCommand() *cobra.Command {
	var opts node.Options
	var verbose bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Be a node of the pair",
		Long: `Run a node of the pair in this network namespace until SIGINT or SIGTERM. A
MASTER that is stopped hands over first; everything that Tandem made in the
kernel is removed and the sysctls are restored.`,
		Example: "  tandem run --config /etc/tandem/pair.yaml --node alpha --key /etc/tandem/alpha.key",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			debug.SetGCPercent(gcPercent)
			if opts.Name == "" {
				host, err := os.Hostname()
				if err != nil {
					return fmt.Errorf("find the node's name: %w; give it with --node", err)
				}
				opts.Name = host
			}
			if opts.StateDir == "" {
				opts.StateDir = filepath.Join(defaultStateRoot, opts.Name)
			}
			opts.Version = version
			opts.Log = logger(verbose).With("node", opts.Name)
			return node.Run(cmd.Context(), opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.Document, "config", "/etc/tandem/pair.yaml", "the pair's document, YAML or JSON")
	flags.StringVar(&opts.Name, "node", "", "which member of the document this node is (default: the host's name)")
	flags.StringVar(&opts.Key, "key", "/etc/tandem/node.key", "this node's private key, made by `tandem keygen`")
	flags.StringVar(&opts.StateDir, "state-dir", "", "where the node keeps its sockets and state (default: "+defaultStateRoot+"/NODE)")
	flags.StringVar(&opts.Record, "record", "", "write every input of the election to this file, for tandem replay (at most 256 MiB)")
	flags.BoolVar(&verbose, "verbose", false, "log details")
	return cmd
}

func logger(verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// electCommand is the elector process; the node starts it.
func electCommand() *cobra.Command {
	var listener int
	cmd := &cobra.Command{
		Use:    "elect",
		Short:  "Be the elector of a node (started by `tandem run`)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if listener < 3 {
				return errors.New("the elector is started by `tandem run`, not by hand")
			}
			// The node's death closes the pipe that the log goes to; that must not kill
			// the elector. A terminal's Ctrl-C is the node's to handle.
			signal.Ignore(syscall.SIGPIPE, syscall.SIGINT)
			scheduling := elector.BecomeRealTime()
			return elector.Run(cmd.Context(), elector.Options{
				Listener: listener, Log: logger(false).With("process", "elector"), Scheduling: scheduling,
			})
		},
	}
	cmd.Flags().IntVar(&listener, "listener", 0, "the descriptor of the elector's socket")
	return cmd
}
