package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ran is the processor time that each process has used so far.
type ran map[int]time.Duration

// processorTime sums up what the scheduler says of every thread of the processes.
func processorTime(pids []int) (ran, error) {
	used := make(ran)
	for _, pid := range pids {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if errors.Is(err, os.ErrNotExist) {
				continue // the thread has ended meanwhile
			}
			if err != nil {
				return nil, fmt.Errorf("read processor time: %w", err)
			}
			// The first field of schedstat is nanoseconds on a processor.
			first, _, _ := strings.Cut(string(content), " ")
			ns, err := strconv.ParseInt(first, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("read processor time in %s: %w", file, err)
			}
			used[pid] += time.Duration(ns)
		}
	}
	if len(used) == 0 {
		return nil, errors.New("read processor time: no process runs there, or the kernel keeps no schedstat")
	}
	return used, nil
}

// processName is the name of the program with its first word, such as "tandem elect".
func processName(pid int) string {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	words := strings.Split(strings.TrimRight(string(content), "\x00"), "\x00")
	name := filepath.Base(words[0])
	if len(words) > 1 && !strings.HasPrefix(words[1], "-") {
		name += " " + words[1]
	}
	return name
}

// measureCPU measures both idle nodes at the same time.
func (s *stand) measureCPU(ctx context.Context, over time.Duration) ([]cpuUse, error) {
	if err := s.untilReady(ctx); err != nil {
		return nil, fmt.Errorf("the pair did not become ready: %w", err)
	}
	if err := pause(ctx, time.Second); err != nil { // what getting ready has cost is no idling
		return nil, err
	}
	before := make(map[string]ran)
	start := time.Now()
	for _, node := range nodes() {
		var err error
		if before[node], err = processorTime(s.Processes(node)); err != nil {
			return nil, err
		}
	}
	if err := pause(ctx, over); err != nil {
		return nil, err
	}
	var all []cpuUse
	for _, node := range nodes() {
		after, err := processorTime(s.Processes(node))
		if err != nil {
			return nil, err
		}
		use := cpuUse{Role: s.role(ctx, node), Over: time.Since(start), Used: make(map[string]time.Duration)}
		for pid, used := range after {
			use.Used[processName(pid)] += used - before[node][pid]
		}
		all = append(all, use)
	}
	return all, nil
}

// realTime names the programs of both nodes with a thread in real time.
func (s *stand) realTime() []string {
	var names []string
	for _, node := range nodes() {
		for _, pid := range s.Processes(node) {
			if name := processName(pid); isRealTime(pid) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// isRealTime looks for a scheduling policy SCHED_FIFO or SCHED_RR among the threads.
func isRealTime(pid int) bool {
	const (
		policyField = 41 // proc_pid_stat(5) counts from 1, the name is the second field
		fifo, rr    = "1", "2"
	)
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(content), ") ")
		fields := strings.Fields(rest)
		if i := policyField - 3; i < len(fields) && (fields[i] == fifo || fields[i] == rr) {
			return true
		}
	}
	return false
}
