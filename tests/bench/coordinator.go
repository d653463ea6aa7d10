package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// coordinator carries out a plan.
type coordinator struct {
	plan
	out     io.Writer
	session string
	begun   time.Time
	// workers are those that run, by product.
	workers map[string]*worker
	done    int
	failed  []string
}

// carryOut measures everything and makes the table, also from what there is when
// something went wrong.
func (p plan) carryOut(ctx context.Context, out io.Writer) error {
	now := time.Now()
	c := &coordinator{plan: p, out: out, begun: now, session: now.UTC().Format(time.RFC3339), workers: make(map[string]*worker)}
	var err error
	if len(p.parts) > 0 {
		err = c.measure(ctx)
	}
	c.dismiss()
	err = errors.Join(err, writeTable(p.results, p.table, out))
	if len(c.failed) > 0 {
		err = errors.Join(err, fmt.Errorf("%d experiments failed:\n\t%s", len(c.failed), strings.Join(c.failed, "\n\t")))
	}
	return err
}

func (c *coordinator) measure(ctx context.Context) error {
	m, err := describeMachine(ctx, c.plan)
	if err != nil {
		return err
	}
	if err := c.note(entry{Machine: &m}); err != nil {
		return err
	}
	c.say("%d cores, Linux %s; %s", m.Cores, m.Kernel, strings.Join(m.Software, ", "))
	if c.has(partFaults) || c.has(partCPU) {
		for _, advert := range c.adverts {
			if err := c.measureAt(ctx, advert); err != nil {
				return err
			}
			c.dismiss() // the next interval needs other pairs
		}
	}
	if c.has(partStress) {
		if err := c.endure(ctx); err != nil {
			return err
		}
		c.dismiss()
	}
	if c.has(partReplication) {
		return c.measureReplication(ctx)
	}
	return nil
}

// describeMachine names the machine by its cores and its kernel only.
func describeMachine(ctx context.Context, p plan) (machine, error) {
	m := machine{Cores: runtime.NumCPU()}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, fmt.Errorf("read the kernel's version: %w", err)
	}
	m.Kernel = regexp.MustCompile(`^[0-9.]*[0-9]`).FindString(unix.ByteSliceToString(u.Release[:]))
	for _, system := range p.systems {
		commands := [][]string{{p.binary, "--version"}}
		if system == systemKeepalived {
			commands = [][]string{{keepalivedProgram, "--version"}, {conntrackdProgram, "-v"}}
		}
		for _, command := range commands {
			said, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
			if err != nil {
				return m, fmt.Errorf("run %s: %w: is it installed?", strings.Join(command, " "), err)
			}
			m.Software = append(m.Software, softwareOf(filepath.Base(command[0]), string(said)))
		}
	}
	return m, nil
}

// softwareOf names a program with the version in the first line that it says, the word
// after a v or the last one.
func softwareOf(program, said string) string {
	first, _, _ := strings.Cut(said, "\n")
	words := strings.Fields(first)
	for _, word := range words {
		if match := regexp.MustCompile(`^v([0-9][0-9.]*[0-9])[.,]?$`).FindStringSubmatch(word); match != nil {
			return program + " " + match[1]
		}
	}
	if len(words) == 0 {
		return program
	}
	return program + " " + words[len(words)-1]
}

// measureAt measures everything at one interval, the products in turn.
func (c *coordinator) measureAt(ctx context.Context, advert setting) error {
	if c.has(partCPU) {
		if err := c.measureCPUs(ctx, advert); err != nil {
			return err
		}
	}
	if !c.has(partFaults) {
		return nil
	}
	for _, fault := range c.faults {
		for i := range c.runs {
			order := slices.Clone(c.systems)
			if i%2 == 1 { // neither is always the first
				slices.Reverse(order)
			}
			for _, system := range order {
				if err := c.try(ctx, system, advert, fault, i); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// trialPatience is more than all the bounds of an experiment together.
const trialPatience = 3*readyPatience + resumePatience + healPatience

// try has a worker do one experiment, and records it whatever came of it.
func (c *coordinator) try(ctx context.Context, system string, advert setting, fault string, i int) error {
	t := trial{System: system, Advert: advert, Fault: fault}
	said, err := c.tell(ctx, system, advert, order{Do: doTrial, Fault: fault}, trialPatience)
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	t.felt = said.Felt
	c.done++
	what := fmt.Sprintf("%d/%d %s at %s, %s, run %d", c.done, len(c.systems)*len(c.adverts)*len(c.faults)*c.runs, system, advert, fault, i+1)
	if err != nil {
		t.Error = err.Error()
		c.fail(what, err)
	} else {
		c.say("%s: UDP %s ms, TCP %s ms, %d of %d sessions %sand %d datagrams lost, %d answer for the gateway", what,
			milliseconds(t.UDP.Max), milliseconds(t.TCP.Max), t.Lost, t.Sessions, reasons(t.Reasons), t.Missing, t.Speakers)
	}
	return c.note(entry{Trial: &t})
}

// reasons is empty where nothing was lost.
func reasons(counts map[string]int) string {
	if len(counts) == 0 {
		return ""
	}
	return strings.TrimPrefix(fmt.Sprint(counts), "map") + " "
}

func (c *coordinator) measureCPUs(ctx context.Context, advert setting) error {
	for _, system := range c.systems {
		said, err := c.tell(ctx, system, advert, order{Do: doCPU, Over: c.cpu}, readyPatience+2*c.cpu+time.Minute)
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: %w", context.Cause(ctx))
		}
		if err != nil {
			c.fail(fmt.Sprintf("processor time of %s at %s", system, advert), err)
			said.CPU = []cpuUse{{Error: err.Error()}}
		}
		for _, use := range said.CPU {
			use.System, use.Advert = system, advert
			c.say("processor time of %s at %s, %s: %v in %v", system, advert, use.Role, use.Used, use.Over.Round(time.Millisecond))
			if err := c.note(entry{CPU: &use}); err != nil {
				return err
			}
		}
	}
	return nil
}

// endure keeps the processors busy beneath all pairs at the same time.
func (c *coordinator) endure(ctx context.Context) error {
	found := make(map[string]*endurance)
	before := make(map[string]uint64)
	count := func(system string) (answer, error) {
		return c.tell(ctx, system, c.stressAdvert, order{Do: doMasterships}, time.Minute)
	}
	for _, system := range c.systems {
		found[system] = &endurance{System: system, Advert: c.stressAdvert, Loops: c.loops, Over: c.stress}
		said, err := count(system)
		before[system], found[system].RealTime, found[system].Error = said.Masterships, said.RealTime, sentence(err)
	}
	c.say("%d busy loops for %v, adverts every %s", c.loops, c.stress, c.stressAdvert)
	// They end by themselves a little later than they are needed.
	if _, err := c.tell(ctx, c.systems[0], c.stressAdvert, order{Do: doLoops, Loops: c.loops, Over: c.stress + 5*time.Second}, time.Minute); err != nil {
		return fmt.Errorf("start the busy loops: %w", err)
	}
	for end := time.Now().Add(c.stress); time.Now().Before(end); {
		if err := pause(ctx, min(time.Until(end), time.Minute)); err != nil {
			return fmt.Errorf("interrupted: %w", err)
		}
		c.say("busy loops: %v left", max(0, time.Until(end)).Round(time.Second))
	}
	for _, system := range c.systems {
		e := found[system]
		if e.Error == "" {
			said, err := count(system)
			e.Failovers, e.Error = said.Masterships-before[system], sentence(err)
		}
		if e.Error != "" {
			c.fail(system+" under busy loops", errors.New(e.Error))
		}
		c.say("%s under %d busy loops for %v: %d false failovers, in real time: %s",
			system, e.Loops, e.Over, e.Failovers, strings.Join(e.RealTime, ", "))
		if err := c.note(entry{Stress: e}); err != nil {
			return err
		}
	}
	return nil
}

// tell gives an order to the product's worker, starting one if there is none. After
// any error the worker is dismissed, and the next order gets a new one.
func (c *coordinator) tell(ctx context.Context, system string, advert setting, o order, patience time.Duration) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w := c.workers[system]
	if w == nil {
		var err error
		if w, err = startWorker(workerOptions{system, advert, c.binary, c.logs}); err != nil {
			return answer{}, err
		}
		c.workers[system] = w
		if _, err := w.answer(ctx); err != nil {
			c.drop(system)
			return answer{}, fmt.Errorf("build the pair: %w", err)
		}
	}
	said, err := w.ask(ctx, o)
	if err != nil {
		c.drop(system)
	}
	return said, err
}

func (c *coordinator) drop(system string) {
	c.workers[system].dismiss()
	delete(c.workers, system)
}

func (c *coordinator) dismiss() {
	for system := range c.workers {
		c.drop(system)
	}
}

func (c *coordinator) note(e entry) error {
	e.Session = c.session
	return appendEntry(c.results, e)
}

func (c *coordinator) fail(what string, err error) {
	c.failed = append(c.failed, fmt.Sprintf("%s: %v", what, err))
	c.say("FAILED: %s: %v (logs of the nodes are in %s)", what, err, c.logs)
}

// say prints progress with the time since the start.
func (c *coordinator) say(format string, arguments ...any) {
	// Who closes the output does not want to know.
	_, _ = fmt.Fprintf(c.out, "%7s  %s\n", time.Since(c.begun).Round(time.Second), fmt.Sprintf(format, arguments...))
}

// worker is the coordinator's side of a worker.
type worker struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	answers chan answer
	ended   chan struct{}
	said    *bytes.Buffer
}

func startWorker(opts workerOptions) (*worker, error) {
	w := &worker{
		cmd:     exec.Command("/proc/self/exe", opts.arguments()...),
		answers: make(chan answer, 1), ended: make(chan struct{}), said: &bytes.Buffer{},
	}
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	if w.stdin, err = w.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	// Ctrl-C reaches the coordinator alone, which then closes the input.
	w.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	w.cmd.Stderr = w.said
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	go func() {
		defer close(w.ended)
		lines := json.NewDecoder(stdout)
		for {
			var said answer
			if err := lines.Decode(&said); err != nil {
				break
			}
			w.answers <- said
		}
		_ = w.cmd.Wait() // its own words say more than its exit code
	}()
	return w, nil
}

func (w *worker) ask(ctx context.Context, o order) (answer, error) {
	line, err := json.Marshal(o)
	if err != nil {
		return answer{}, fmt.Errorf("encode order: %w", err)
	}
	if _, err := w.stdin.Write(append(line, '\n')); err != nil {
		return answer{}, fmt.Errorf("tell the worker to do %s: %w", o.Do, err)
	}
	return w.answer(ctx)
}

func (w *worker) answer(ctx context.Context) (answer, error) {
	select {
	case said := <-w.answers:
		if said.Error != "" {
			return said, errors.New(said.Error)
		}
		return said, nil
	case <-w.ended:
		return answer{}, fmt.Errorf("the worker ended: %s", bytes.TrimSpace(w.said.Bytes()))
	case <-ctx.Done():
		return answer{}, fmt.Errorf("the worker does not answer: %w", context.Cause(ctx))
	}
}

// dismissGrace is how long a worker may take to end before it is killed.
const dismissGrace = 5 * time.Second

// dismiss ends the worker and all it made.
func (w *worker) dismiss() {
	_ = w.stdin.Close() // it is the sign to end; an error means that it has ended
	for {
		select {
		case <-w.answers: // too late
			continue
		case <-w.ended:
			return
		case <-time.After(dismissGrace):
		}
		_ = w.cmd.Process.Kill() // an error means that it has just ended
		<-w.ended
		return
	}
}
