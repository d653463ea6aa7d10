package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"tandem/appliance/lab"
)

// The products.
const (
	systemTandem     = "tandem"
	systemKeepalived = "keepalived"
)

func systems() []string { return []string{systemTandem, systemKeepalived} }

// setting is an advertisement interval as it is configured.
type setting string

const defaultSetting setting = "default"

// parseSetting reads "default" or a duration.
func parseSetting(text string) (setting, error) {
	if setting(text) == defaultSetting {
		return defaultSetting, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 10*time.Millisecond || d%(10*time.Millisecond) != 0 {
		return "", fmt.Errorf("parse interval %q: it must be \"default\" or a multiple of 10ms", text)
	}
	return setting(d.String()), nil
}

// interval is zero for the default.
func (s setting) interval() time.Duration {
	d, err := time.ParseDuration(string(s))
	if err != nil {
		return 0
	}
	return d
}

// faults are the ones that are compared, in the order of the table.
func faults() []lab.Fault {
	return []lab.Fault{lab.Poweroff, lab.Crash, lab.Hang, lab.LAN, lab.Handover}
}

// faultNames are the names of the faults in the order of the table.
func faultNames() []string {
	var names []string
	for _, f := range faults() {
		names = append(names, f.String())
	}
	return names
}

// entry is a line of the file of results: one of its pointers is set.
type entry struct {
	// Session is when the run of the benchmark began.
	Session string     `json:"session"`
	Machine *machine   `json:"machine,omitempty"`
	Trial   *trial     `json:"trial,omitempty"`
	CPU     *cpuUse    `json:"cpu,omitempty"`
	Stress  *endurance `json:"stress,omitempty"`
	// Load and Sessions are of the replication.
	Load     *loadUse     `json:"load,omitempty"`
	Sessions *sessionsUse `json:"sessions,omitempty"`
}

// machine is what the numbers of a session depend on.
type machine struct {
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
	// Software has the version of every product.
	Software []string `json:"software"`
}

// trial is one experiment with one fault.
type trial struct {
	System string  `json:"system"`
	Advert setting `json:"advert"`
	Fault  string  `json:"fault"`
	// Error says why the experiment failed; what was felt is not valid then.
	Error string `json:"error,omitempty"`
	felt
}

// felt is what clients felt of one fault.
type felt struct {
	UDP silence `json:"udp"`
	TCP silence `json:"tcp"`
	// Sessions were under way, of which Lost did not survive.
	Sessions int `json:"sessions"`
	Lost     int `json:"lost"`
	// Reasons counts the lost sessions by what happened to them.
	Reasons map[string]int `json:"reasons,omitempty"`
	// Missing is the number of datagrams that did not come back.
	Missing uint64 `json:"missing"`
	// Speakers is how many routers answered for the gateway afterwards; it should be 1.
	Speakers int `json:"speakers"`
	// MasterAfter is when the other node was first seen to be MASTER.
	MasterAfter time.Duration `json:"master_after_ns"`
	// Stall is by how much the measuring process itself was late at worst.
	Stall time.Duration `json:"stall_ns"`
}

// silence is the longest silence of the flows of one kind: of the flow in the middle,
// and of the one that suffered most.
type silence struct {
	Median time.Duration `json:"p50_ns"`
	Max    time.Duration `json:"max_ns"`
}

// cpuUse is the processor time of the daemons of one idle node.
type cpuUse struct {
	System string        `json:"system"`
	Advert setting       `json:"advert"`
	Role   string        `json:"role"`
	Over   time.Duration `json:"over_ns"`
	// Used is by the name of the program.
	Used  map[string]time.Duration `json:"used_ns,omitempty"`
	Error string                   `json:"error,omitempty"`
}

// endurance is what became of a pair whose processors had too much to do.
type endurance struct {
	System string        `json:"system"`
	Advert setting       `json:"advert"`
	Loops  int           `json:"loops"`
	Over   time.Duration `json:"over_ns"`
	// Failovers counts how often a node became MASTER without any reason.
	Failovers uint64 `json:"failovers"`
	// RealTime names the programs that were scheduled in real time.
	RealTime []string `json:"real_time,omitempty"`
	Error    string   `json:"error,omitempty"`
}

// appendEntry adds a line to the file of results.
func appendEntry(path string, e entry) (err error) {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open results: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// readEntries reads the file of results; a file that is not there has none.
func readEntries(path string) ([]entry, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open results: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	var all []entry
	lines := bufio.NewScanner(f)
	for number := 1; lines.Scan(); number++ {
		var e entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("read line %d of %s: %w; repair or remove it", number, path, err)
		}
		all = append(all, e)
	}
	return all, lines.Err()
}

// parseList reads words that must be among the allowed ones.
func parseList(what, text string, allowed []string) ([]string, error) {
	var list []string
	for word := range strings.SplitSeq(text, ",") {
		word = strings.TrimSpace(word)
		if !slices.Contains(allowed, word) {
			return nil, fmt.Errorf("parse %s %q: must be among %s", what, word, strings.Join(allowed, ", "))
		}
		if !slices.Contains(list, word) {
			list = append(list, word)
		}
	}
	return list, nil
}
