package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"tandem/appliance/status"
)

func statusUplinksCommand() *cobra.Command {
	var f nodeFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "uplinks",
		Short: "Show what a running node knows of its uplinks",
		Long: `Show for each uplink and family whether it works, and what that rests on: the link, the
gateway and every target that networks name, with the time to an answer and the loss, as this
node itself sees them. A BACKUP asks, too.`,
		Example: `  tandem status uplinks
  tandem status uplinks --json | jq '.[].families[].state'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s status.Status
			if err := f.call(cmd.Context(), http.MethodGet, "/v1/status", &s); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s.Uplinks)
			}
			_, err := io.WriteString(cmd.OutOrStdout(), status.RenderUplinks(s, colours()))
			return err
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func networkCommand() *cobra.Command {
	var f nodeFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "network [NAME]",
		Short: "Show which uplink a network takes, and why",
		Long: `Show a network's way to the outside: the uplink that it takes, since when and why, all that
it may take with the evidence, which older flows are still elsewhere, and the last switches. Without
a name show one line for each network.`,
		Example: `  tandem network
  tandem network office
  tandem network office --json | jq '.paths[].uplink'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var s status.Status
			if err := f.call(cmd.Context(), http.MethodGet, "/v1/status", &s); err != nil {
				return err
			}
			return showNetworks(cmd.OutOrStdout(), s, args, asJSON)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// showNetworks shows the network that was named, or all.
func showNetworks(w io.Writer, s status.Status, name []string, asJSON bool) error {
	if len(name) == 0 {
		if asJSON {
			return printJSON(w, s.Networks)
		}
		_, err := io.WriteString(w, status.RenderNetworks(s, colours()))
		return err
	}
	var names []string
	for _, n := range s.Networks {
		if n.Name != name[0] {
			names = append(names, n.Name)
			continue
		}
		if asJSON {
			return printJSON(w, n)
		}
		_, err := io.WriteString(w, status.RenderNetwork(n, s.Time.Local(), colours()))
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("there is no network %q, nor any other, in the document of %s", name[0], s.Node)
	}
	return fmt.Errorf("there is no network %q; name one of %s", name[0], strings.Join(names, ", "))
}

func uplinksCommand() *cobra.Command {
	var f nodeFlags
	var asJSON bool
	var operation string
	cmd := &cobra.Command{
		Use:   "uplinks --operation NAME",
		Short: "Show which uplinks an operation may use now",
		Long: `Show which uplinks an operation of the document may use now, the best one first, and why not
the others. The exit code is 1 if there is none, so that a script can wait for one.`,
		Example: `  tandem uplinks --operation updates && apt-get update
  tandem uplinks --operation updates --json | jq -r '.uplinks[] | select(.usable).uplink'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if operation == "" {
				return errors.New("which operation? name one of the document with --operation")
			}
			var o status.OperationUplinks
			if err := f.call(cmd.Context(), http.MethodGet, "/v1/operations/"+url.PathEscape(operation)+"/uplinks", &o); err != nil {
				return err
			}
			show := func() error {
				_, err := io.WriteString(cmd.OutOrStdout(), status.RenderOperation(o, colours()))
				return err
			}
			if asJSON {
				show = func() error { return printJSON(cmd.OutOrStdout(), o) }
			}
			if err := show(); err != nil {
				return err
			}
			if !o.Usable() {
				return fmt.Errorf("there is no uplink now that %s may use", operation)
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&operation, "operation", "", "the operation's name in the document")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
