package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"tandem/vrrp"
)

// maxRecord bounds a line of a recording, in bytes: a configuration with 510 carriers
// needs a tenth of it.
const maxRecord = 4 << 20

// replayOptions choose what is shown of a recording.
type replayOptions struct {
	all      bool
	from, to time.Duration
	step     bool
}

func replayCommand() *cobra.Command {
	var opts replayOptions
	cmd := &cobra.Command{
		Use:   "replay RECORDING",
		Short: "Step through the recorded inputs of an election",
		Long: `Feed a recording, made by ` + "`tandem run --record FILE`" + `, to the state machine of
the election and show what it made of each input. The same inputs at the same
times make the same decisions, so a recording shows why a node did what it did.

Shown are the inputs that changed something; with --all also those which only
kept things going. With --step, Enter shows the next one.`,
		Example: "  tandem replay election.jsonl\n  tandem replay --all --from 12s --to 13s election.jsonl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("open the recording: %w", err)
			}
			defer func() { _ = f.Close() }() // it is only read
			var keys io.Reader
			if opts.step {
				keys = cmd.InOrStdin()
			}
			if err := replay(f, keys, cmd.OutOrStdout(), opts); err != nil {
				return fmt.Errorf("replay %s: %w", args[0], err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&opts.all, "all", false, "show every input")
	cmd.Flags().DurationVar(&opts.from, "from", 0, "show nothing before this time of the recording")
	cmd.Flags().DurationVar(&opts.to, "to", 0, "end at this time of the recording (default: its end)")
	cmd.Flags().BoolVar(&opts.step, "step", false, "wait for Enter after every line")
	return cmd
}

// replay shows the steps of a recording. It waits for a line of keys after each of them
// unless keys is nil.
func replay(recording, keys io.Reader, out io.Writer, opts replayOptions) error {
	lines := bufio.NewScanner(recording)
	lines.Buffer(nil, maxRecord)
	var pause *bufio.Scanner
	if keys != nil {
		pause = bufio.NewScanner(keys)
	}
	var group vrrp.Replay
	var transitions, refused, taken int
	for line := 1; lines.Scan(); line++ {
		var record vrrp.Record
		decoder := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&record); err != nil {
			return fmt.Errorf("line %d is no record of an election: %w", line, err)
		}
		if opts.to > 0 && record.At > opts.to {
			break
		}
		s, err := group.Take(record)
		if err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		taken++
		if s.Output.Transition != nil {
			transitions++
		}
		if s.Refused != nil {
			refused++
		}
		if s.At < opts.from || !opts.all && dull(s) {
			continue
		}
		if err := show(out, line, s); err != nil {
			return err
		}
		if pause != nil && !pause.Scan() {
			break
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the recording: %w", err)
	}
	if taken == 0 {
		return errors.New("there is nothing in it")
	}
	_, err := fmt.Fprintf(out, "\n%d inputs, %d changes of role, %d refusals\n", taken, transitions, refused)
	return err
}

// dull tells that an input only kept things going.
func dull(s vrrp.Step) bool {
	o := s.Output
	return s.Refused == nil && o.Transition == nil && !o.Ask && !o.Announce && !o.Revoke &&
		s.Fitness == nil && s.Links == nil && s.Configure == nil && !s.Handover && !s.Start && s.Stop == nil
}

func show(out io.Writer, line int, s vrrp.Step) error {
	_, err := fmt.Fprintf(out, "%6d  %12.6fs  %-10s  %s\n", line, s.At.Seconds(), s.State, s.Input)
	if err == nil && s.Refused != nil {
		_, err = fmt.Fprintf(out, "%36s  refused: %v\n", "", s.Refused)
	}
	if text := s.Output.String(); err == nil && text != "" {
		_, err = fmt.Fprintf(out, "%36s  → %s\n", "", text)
	}
	return err
}
