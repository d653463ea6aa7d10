package traffic

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// maxLine bounds a JSON line in either direction, in bytes.
const maxLine = 64 << 10

// serverLine is the only line that a server prints.
type serverLine struct {
	Listening *Listening `json:"listening,omitempty"`
	Error     string     `json:"error,omitempty"`
}

// ServerMain is the entry point of a server's process. It reads one ServerConfig as
// a JSON line from in, prints one line with the addresses, and serves until in or
// ctx ends. The error it returns is also in the line it prints.
func ServerMain(ctx context.Context, in io.Reader, out io.Writer) error {
	lines := newLines(in)
	var cfg ServerConfig
	if err := readLine(lines, &cfg); err != nil {
		return sayServer(out, serverLine{}, fmt.Errorf("read server configuration: %w", err))
	}
	s, err := listen(cfg)
	if err != nil {
		return sayServer(out, serverLine{}, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		for lines.Scan() {
			// Nothing is expected; the end of input is what counts.
			continue
		}
	}()
	at := s.listening()
	if err := sayServer(out, serverLine{Listening: &at}, nil); err != nil {
		s.close()
		return err
	}
	return s.run(ctx)
}

// sayServer prints a line, with the error if there is one, and returns that error or
// else the one of printing.
func sayServer(out io.Writer, line serverLine, cause error) error {
	if cause != nil {
		line.Error = cause.Error()
	}
	err := json.NewEncoder(out).Encode(line)
	if cause != nil {
		return cause
	}
	return err
}

// ClientMain is the entry point of a client's process. It reads one ClientConfig as
// a JSON line from in and then one Command per line, and prints one Snapshot per
// line, every 100 ms and as the answer to each command. It ends when in or ctx ends
// or Stop comes. The error it returns is also in the last line it prints.
func ClientMain(ctx context.Context, in io.Reader, out io.Writer) error {
	lines := newLines(in)
	say := &printer{enc: json.NewEncoder(out)}
	var cfg ClientConfig
	if err := readLine(lines, &cfg); err != nil {
		err = fmt.Errorf("read client configuration: %w", err)
		say.print(Snapshot{Error: err.Error()})
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	commands := make(chan Command)
	go func() {
		// The end of input also ends a client that is still opening its flows.
		defer cancel()
		for lines.Scan() {
			var c Command
			if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
				say.print(Snapshot{Error: fmt.Sprintf("read command: %v", err)})
				continue
			}
			select {
			case commands <- c:
			case <-ctx.Done():
				return
			}
		}
	}()
	err := Run(ctx, cfg, commands, say.print)
	if err != nil && ctx.Err() == nil {
		say.print(Snapshot{Error: err.Error()})
		return err
	}
	return say.failure()
}

// printer writes snapshots as lines from several goroutines.
type printer struct {
	mu  sync.Mutex
	enc *json.Encoder
	err error
}

func (p *printer) print(s Snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = p.enc.Encode(s)
	}
}

func (p *printer) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return fmt.Errorf("print snapshot: %w", p.err)
	}
	return nil
}

func newLines(in io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(in)
	s.Buffer(make([]byte, 0, 4096), maxLine)
	return s
}

func readLine[T any](lines *bufio.Scanner, into *T) error {
	if !lines.Scan() {
		if err := lines.Err(); err != nil {
			return err
		}
		return errors.New("no line came")
	}
	return json.Unmarshal(lines.Bytes(), into)
}
