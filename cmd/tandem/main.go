// Command tandem is a redundant virtual router: one binary that is a node, its
// elector, a demonstration and the tools around them.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "development"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// execute runs a command and returns its exit code: 0, or 1 with a sentence on stderr,
// or 2 for a usageError, or what a statusError says.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := root()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	code, silent := exitStatus(err)
	if !silent {
		_, _ = fmt.Fprintf(stderr, "tandem: %v\n", err) // there is nowhere else to say it
	}
	return code
}

// root is the command tree.
func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tandem",
		Short: "A redundant virtual router: nothing that happens to one box is felt behind it",
		Long: `Tandem turns two Linux machines into one router that does not fail. The pair
elects MASTER and BACKUP over VRRP, shares virtual MAC addresses and keeps the
connection tracking of both kernels equal, so NAT sessions survive.`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(
		runCommand(), electCommand(), demoCommand(), trafficCommand(),
		statusCommand(), eventsCommand(), metricsCommand(), failoverCommand(), reloadCommand(), checkCommand(), keygenCommand(), replayCommand(),
		doctorCommand(), networkCommand(), uplinksCommand(),
	)
	return cmd
}
