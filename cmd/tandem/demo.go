package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tandem/appliance/demo"
	"tandem/appliance/lab"
	"tandem/appliance/lab/traffic"
)

// Ports of the laboratory's server.
const (
	echoTCPPort = 7001
	echoUDPPort = 7002
	bulkPort    = 7003
)

// statusError ends the program with a code and without a word: all has been said.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// exitStatus returns the code of a statusError.
func exitStatus(err error) (int, bool) {
	var s statusError
	if errors.As(err, &s) {
		return int(s), true
	}
	if isUsage(err) {
		return exitUsage, false
	}
	return 1, false
}

// demoFlags are the demo's flags.
type demoFlags struct {
	faults          []string
	sessions, flows int
	interval        time.Duration
	asJSON, keep    bool
}

func demoCommand() *cobra.Command {
	var f demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Kill the MASTER of a pair under live traffic and watch nobody notice",
		Long: `Set up a redundant pair in network namespaces of its own, send live traffic
through its NAT, break the MASTER in every way and show what the traffic felt.
It needs root or unprivileged user namespaces and leaves nothing behind.

The exit code is 0 only if no session was lost.`,
		Example: `  tandem demo
  tandem demo --fault poweroff,hang --sessions 2000
  tandem demo --interval 10ms --json
  tandem demo --keep`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range f.faults {
				if _, err := lab.ParseFault(name); err != nil {
					return err
				}
			}
			if lab.Inside() {
				return f.show(cmd.Context(), cmd.OutOrStdout())
			}
			code, err := lab.Enter(cmd.Context(), lab.EnterOptions{Detach: f.keep, OnDetach: sayKept})
			if err == nil && code != 0 {
				err = statusError(code)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.faults, "fault", nil, "faults to inject, in order: poweroff, crash, hang, lan, wan, halink, handover (default: all)")
	flags.IntVar(&f.sessions, "sessions", 500, "number of TCP sessions")
	flags.IntVar(&f.flows, "flows", 100, "number of UDP flows")
	flags.DurationVar(&f.interval, "interval", 0, "advertisement interval, 10ms to 40.95s (default 100ms)")
	flags.BoolVar(&f.asJSON, "json", false, "print one JSON document instead of the view and the table")
	flags.BoolVar(&f.keep, "keep", false, "leave the pair standing and say how to look around")
	return cmd
}

// show is the demo inside the laboratory's namespaces.
func (f demoFlags) show(ctx context.Context, out io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	if !f.asJSON {
		_, _ = fmt.Fprintf(out, "Building a pair in network namespaces (by right of: %s) …\n", lab.Privilege()) // the view follows
	}
	l, err := lab.New(ctx, lab.Options{Binary: self, Interval: f.interval})
	if err != nil {
		return err
	}
	closed := false
	defer func() {
		if !closed && !f.keep {
			_ = l.Close() // the namespaces end with this process in any case
		}
	}()
	for _, name := range []string{lab.Alpha, lab.Bravo} {
		if err := l.StartNode(ctx, name); err != nil {
			return err
		}
	}
	// The first connections need a MASTER.
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := l.WaitReady(ready); err != nil {
		return err
	}
	client, stop, err := f.startTraffic(ctx, l, self)
	if err != nil {
		return err
	}
	defer stop()
	result, err := demo.Run(ctx, f.options(out), l, client)
	if err != nil {
		return err
	}
	if f.keep && !result.Interrupted {
		closed = true
		return stay(ctx)
	}
	if !result.OK() {
		return statusError(1)
	}
	return nil
}

func (f demoFlags) options(out io.Writer) demo.Options {
	terminal := term.IsTerminal(int(os.Stdout.Fd()))
	return demo.Options{
		Faults: f.faults, Sessions: f.sessions, Flows: f.flows, JSON: f.asJSON, Out: out,
		Terminal: terminal, Colour: colours(),
		Size: func() (int, int) {
			columns, rows, err := term.GetSize(int(os.Stdout.Fd()))
			if err != nil {
				return 80, 24
			}
			return columns, rows
		},
	}
}

// startTraffic starts the server and the client in their namespaces.
func (f demoFlags) startTraffic(ctx context.Context, l *lab.Lab, self string) (*traffic.Client, func(), error) {
	address := netip.MustParseAddr(lab.ServerAddress)
	var server *traffic.Server
	var client *traffic.Client
	stop := func() {
		if client != nil {
			_ = client.Stop() // the namespaces end with this process in any case
		}
		if server != nil {
			_ = server.Stop()
		}
	}
	err := l.Namespace(lab.Server).Do(func() (err error) {
		server, err = traffic.StartServer(exec.Command(self, "traffic", "server"), traffic.ServerConfig{
			Address: address, TCPPort: echoTCPPort, UDPPort: echoUDPPort, BulkPort: bulkPort,
		})
		return err
	})
	if err == nil {
		_, err = server.Ready(ctx)
	}
	if err == nil {
		err = l.Namespace(lab.Client).Do(func() (err error) {
			client, err = traffic.StartClient(exec.Command(self, "traffic", "client"), traffic.ClientConfig{
				Server: address, TCPPort: echoTCPPort, UDPPort: echoUDPPort, BulkPort: bulkPort,
				TCPSessions: f.sessions, UDPFlows: f.flows, Download: true,
			})
			return err
		})
	}
	if err != nil {
		stop()
		return nil, nil, err
	}
	return client, stop, nil
}

// stay keeps the laboratory standing after the program that the user started has
// returned.
func stay(ctx context.Context) error {
	if err := lab.Detach(); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// sayKept tells the user how to look around in a laboratory that was kept.
func sayKept(pid int) {
	enter := fmt.Sprintf("nsenter -t %d -a", pid)
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0] // good enough to be copied
	}
	fmt.Printf(`
The pair is left standing. Look around:

  %[1]s %[3]s status --state-dir /run/tandem-lab/alpha
  %[1]s ip netns exec alpha ip -br addr
  %[1]s ip netns exec client ping 198.51.100.7

It ends with: kill %[2]d
`, enter, pid, self)
}

// trafficCommand is a child process of the demo.
func trafficCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "traffic client|server",
		Short:     "Be one end of the demo's traffic (started by `tandem demo`)",
		Hidden:    true,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"client", "server"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "server" {
				return traffic.ServerMain(cmd.Context(), os.Stdin, os.Stdout)
			}
			return traffic.ClientMain(cmd.Context(), os.Stdin, os.Stdout)
		},
	}
}
