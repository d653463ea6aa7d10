package elector

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"

	"tandem/vrrp"
)

const (
	// recordQueue is how many inputs may wait to be written; what comes beyond is lost,
	// and with it the rest of the recording.
	recordQueue = 4096
	// recordFlush is how long the end of a recording may take.
	recordFlush = time.Second
	// maxRecording bounds a recording, in bytes.
	maxRecording = 256 << 20
)

// recorder writes the inputs of the election to a file, beside the thread that
// elects: a slow disk must not cost an advert.
type recorder struct {
	path    string
	since   time.Time
	queue   chan vrrp.Record
	written chan struct{}
	overrun bool
}

// newRecorder begins a recording with the configuration that the group has. The
// file must not be one that others can read or have prepared.
func newRecorder(path string, now time.Time, log *slog.Logger) (*recorder, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("record the election: %w", err)
	}
	r := &recorder{path: path, since: now, queue: make(chan vrrp.Record, recordQueue), written: make(chan struct{})}
	go func() {
		defer close(r.written)
		if err := write(f, r.queue); err != nil {
			log.Error("the recording of the election ends here", "file", path, "error", err)
		}
	}()
	return r, nil
}

// write writes until the queue is closed or the bound is reached; the queue fills
// and is dropped then.
func write(f *os.File, queue <-chan vrrp.Record) error {
	defer func() { _ = f.Close() }() // Flush has told
	w := bufio.NewWriter(f)
	written := 0
	for record := range queue {
		b, err := json.Marshal(record)
		if err != nil {
			return err
		}
		if written += len(b) + 1; written > maxRecording {
			return fmt.Errorf("it has reached %d MiB", maxRecording>>20)
		}
		if _, err := w.Write(append(b, '\n')); err != nil {
			return err
		}
		if len(queue) == 0 {
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
	return w.Flush()
}

func (r *recorder) record(now time.Time, in vrrp.Input) {
	if r.overrun {
		return
	}
	select {
	case r.queue <- vrrp.Record{At: now.Sub(r.since), Input: in}:
	default:
		r.overrun = true // with a gap the rest would mean nothing
	}
}

// close ends the recording and gives the disk a moment to take what is left.
func (r *recorder) close() {
	close(r.queue)
	select {
	case <-r.written:
	case <-time.After(recordFlush):
	}
}
