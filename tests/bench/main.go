package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"tandem/appliance/lab"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run is one of three programs: coordinator, worker and busy loop.
func run(arguments []string) error {
	if len(arguments) > 0 && arguments[0] == "worker" {
		return enterAndWork(arguments[1:])
	}
	if len(arguments) == 2 && arguments[0] == "loop" {
		return loop(arguments[1])
	}
	if len(arguments) > 0 && arguments[0] == "generate" {
		return generate(arguments[1:], os.Stdout)
	}
	p, err := parsePlan(arguments, os.Stderr)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return p.carryOut(ctx, os.Stdout)
}

func enterAndWork(arguments []string) error {
	opts, err := parseWorker(arguments)
	if err != nil {
		return err
	}
	if lab.Inside() {
		return work(opts, os.Stdin, os.Stdout)
	}
	code, err := lab.Enter(context.Background(), lab.EnterOptions{Input: os.Stdin})
	if err == nil && code != 0 {
		err = fmt.Errorf("the worker ended with code %d", code)
	}
	return err
}

// The parts of the benchmark.
const (
	partFaults      = "faults"
	partCPU         = "cpu"
	partStress      = "stress"
	partReplication = "replication"
)

// partNames are the parts in their order.
func partNames() []string { return []string{partFaults, partCPU, partStress, partReplication} }

// plan is what to measure.
type plan struct {
	parts   []string
	systems []string
	adverts []setting
	faults  []string
	runs    int
	cpu     time.Duration
	stress  time.Duration
	// stressAdvert and loops are the conditions of the stress.
	stressAdvert setting
	loops        int
	// replicators are the products whose replication is compared, quick leaves out what
	// takes long.
	replicators []string
	quick       bool
	binary      string
	results     string
	table       string
	logs        string
}

// has tells whether a part is wanted.
func (p plan) has(part string) bool { return slices.Contains(p.parts, part) }

// parsePlan reads flags, whose defaults come from the environment: BENCH_RUNS for -runs.
func parsePlan(arguments []string, complaints io.Writer) (plan, error) {
	var p plan
	names := faultNames()
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(complaints)
	parts := flags.String("parts", strings.Join(partNames(), ","), "what to measure; empty only makes the table anew")
	products := flags.String("systems", strings.Join(systems(), ","), "the products")
	intervals := flags.String("intervals", "10ms,100ms,default", "the advertisement intervals")
	broken := flags.String("faults", strings.Join(names, ","), "the faults")
	flags.IntVar(&p.runs, "runs", 20, "experiments per product, interval and fault")
	flags.DurationVar(&p.cpu, "cpu", 10*time.Second, "for how long processor time is measured")
	flags.DurationVar(&p.stress, "stress", 10*time.Minute, "for how long the busy loops run")
	stressAdvert := flags.String("stress-interval", "10ms", "the advertisement interval under busy loops")
	flags.IntVar(&p.loops, "loops", 4, "the number of busy loops")
	replication := flags.String("replicators", strings.Join(replicators(), ","), "the products whose replication is compared")
	flags.BoolVar(&p.quick, "quick", false, "measure the replication in a few minutes, with fewer sessions and for a shorter time")
	flags.StringVar(&p.binary, "tandem", "bin/tandem", "the program under test")
	flags.StringVar(&p.results, "results", "docs/benchmark.jsonl", "the file of results")
	flags.StringVar(&p.table, "table", "docs/benchmark.md", "the document with the table")
	flags.StringVar(&p.logs, "logs", "bin", "where the logs of failed experiments go")
	var errs []error
	flags.VisitAll(func(f *flag.Flag) {
		name := "BENCH_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if value, ok := os.LookupEnv(name); ok {
			if err := f.Value.Set(value); err != nil {
				errs = append(errs, fmt.Errorf("read %s: %w", name, err))
			}
		}
	})
	if err := flags.Parse(arguments); err != nil {
		return p, err
	}
	note := func(list []string, err error) []string {
		errs = append(errs, err)
		return list
	}
	if *parts != "" {
		p.parts = note(parseList("part", *parts, partNames()))
	}
	p.systems = note(parseList("system", *products, systems()))
	p.replicators = note(parseList("product", *replication, replicators()))
	p.faults = note(parseList("fault", *broken, names))
	for text := range strings.SplitSeq(*intervals, ",") {
		advert, err := parseSetting(strings.TrimSpace(text))
		errs = append(errs, err)
		p.adverts = append(p.adverts, advert)
	}
	var err error
	p.stressAdvert, err = parseSetting(*stressAdvert)
	errs = append(errs, err, p.check(flags.Args()))
	return p, errors.Join(errs...)
}

// check also makes paths absolute: a worker must find them.
func (p *plan) check(rest []string) error {
	var errs []error
	if len(rest) > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q", rest[0]))
	}
	if p.runs < 1 || p.cpu <= 0 || p.stress <= 0 || p.loops < 1 {
		errs = append(errs, errors.New("runs, loops and durations must be positive"))
	}
	for _, path := range []*string{&p.binary, &p.logs} {
		absolute, err := filepath.Abs(*path)
		errs = append(errs, err)
		*path = absolute
	}
	return errors.Join(errs...)
}
