// Command tandem is a redundant virtual router: one binary that is a node, its
// elector, a demonstration and the tools around them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "development"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	if code, silent := exitStatus(err); silent {
		os.Exit(code)
	}
	fmt.Fprintf(os.Stderr, "tandem: %v\n", err)
	os.Exit(1)
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
		statusCommand(), failoverCommand(), checkCommand(), keygenCommand(),
	)
	return cmd
}
