package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"tandem/appliance/lab"
)

// order is a line from the coordinator to a worker, answered by one line.
type order struct {
	Do    string        `json:"do"`
	Fault string        `json:"fault,omitempty"`
	Over  time.Duration `json:"over_ns,omitempty"`
	Loops int           `json:"loops,omitempty"`
	// Rate and Sessions are what the replication has to cope with.
	Rate     int `json:"rate,omitempty"`
	Sessions int `json:"sessions,omitempty"`
}

// What a worker does.
const (
	doTrial       = "trial"
	doCPU         = "cpu"
	doMasterships = "masterships"
	doLoops       = "loops"
	doLoad        = "load"
	doSessions    = "sessions"
)

// answer is what a worker has to say.
type answer struct {
	Error       string       `json:"error,omitempty"`
	Felt        felt         `json:"felt,omitzero"`
	CPU         []cpuUse     `json:"cpu,omitempty"`
	Masterships uint64       `json:"masterships,omitempty"`
	RealTime    []string     `json:"real_time,omitempty"`
	Load        *loadUse     `json:"load,omitempty"`
	Sessions    *sessionsUse `json:"sessions,omitempty"`
}

// workerOptions are the command line of a worker.
type workerOptions struct {
	system string
	advert setting
	binary string
	logs   string
}

// work is the life of a worker inside its laboratory. It ends with the input, whatever
// it does at that moment, and the kernel cleans up.
func work(opts workerOptions, in io.Reader, out io.Writer) error {
	// The namespaces end with this process, but files on the disk would not.
	if err := os.Setenv("TMPDIR", "/run"); err != nil {
		return err
	}
	orders := make(chan order)
	lines := bufio.NewScanner(in)
	go func() {
		for lines.Scan() {
			var o order
			if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
				o.Do = lines.Text()
			}
			orders <- o
		}
		os.Exit(0)
	}()
	ctx := context.Background()
	s, err := newStand(ctx, opts.system, opts.advert, opts.binary)
	say := json.NewEncoder(out)
	if err := say.Encode(answer{Error: sentence(err)}); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	for o := range orders {
		said, err := s.obey(ctx, o)
		said.Error = sentence(err)
		if err != nil || said.Felt.Lost > 0 || o.Do == doMasterships {
			s.keepLogs(opts)
		}
		if err := say.Encode(said); err != nil {
			return err
		}
	}
	return nil
}

func sentence(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (s *stand) obey(ctx context.Context, o order) (said answer, err error) {
	switch o.Do {
	case doTrial:
		fault, err := lab.ParseFault(o.Fault)
		if err != nil {
			return said, err
		}
		said.Felt, err = s.try(ctx, fault)
		return said, err
	case doCPU:
		said.CPU, err = s.measureCPU(ctx, o.Over)
	case doMasterships:
		said.RealTime = s.realTime()
		said.Masterships, err = s.masterships(ctx)
	case doLoops:
		err = startLoops(o.Loops, o.Over)
	case doLoad, doSessions:
		err = s.replicate(ctx, o, &said)
	default:
		err = fmt.Errorf("unknown order %q", o.Do)
	}
	return said, err
}

// replicate measures the replication.
func (s *stand) replicate(ctx context.Context, o order, said *answer) (err error) {
	if s.loader == nil {
		if s.loader, err = newLoader(s); err != nil {
			return err
		}
	}
	if o.Do == doSessions {
		said.Sessions, err = s.loader.sessions(ctx, o.Sessions)
		return err
	}
	said.Load, err = s.loader.load(ctx, o.Rate, o.Over)
	return err
}

// keepLogs copies what the nodes said out of the laboratory.
func (s *stand) keepLogs(opts workerOptions) {
	for _, node := range nodes() {
		content, err := os.ReadFile(s.LogPath(node))
		if err != nil {
			continue
		}
		name := fmt.Sprintf("%s-%s-%s.log", opts.system, opts.advert, node)
		// The failure is reported without them, too.
		_ = os.WriteFile(filepath.Join(opts.logs, name), content, 0o644)
	}
}

// startLoops starts processes that do nothing but use a processor.
func startLoops(count int, over time.Duration) error {
	for range count {
		cmd := exec.Command("/proc/self/exe", "loop", over.String())
		// Its environment must not say that it is in a laboratory.
		cmd.Env = []string{}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start a busy loop: %w", err)
		}
		go func() { _ = cmd.Wait() }() // it is reaped, there is nothing else to know
	}
	return nil
}

// loop keeps one processor busy.
func loop(text string) error {
	over, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	for end := time.Now().Add(over); time.Now().Before(end); {
		for range 1_000_000 {
			continue
		}
	}
	return nil
}

// workerArguments are how a coordinator starts a worker.
func (o workerOptions) arguments() []string {
	return []string{"worker", o.system, string(o.advert), o.binary, o.logs}
}

func parseWorker(arguments []string) (workerOptions, error) {
	if len(arguments) != 4 {
		return workerOptions{}, fmt.Errorf("start worker: got %q", strings.Join(arguments, " "))
	}
	return workerOptions{arguments[0], setting(arguments[1]), arguments[2], arguments[3]}, nil
}
