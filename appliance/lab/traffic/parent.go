package traffic

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

const (
	// stopPatience is how long a child may take to end before it is killed.
	stopPatience = 2 * time.Second
	// maxPending bounds the commands that wait for an answer.
	maxPending = 16
	// tailSize bounds what is kept of a child's standard error, in bytes.
	tailSize = 4 << 10
)

// ErrEnded is wrapped by errors that say that a child process has ended.
var ErrEnded = errors.New("traffic process ended")

// process is a child that talks lines.
type process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	tail  *tail
	// write serialises lines to the child.
	write sync.Mutex
	// done is closed when the child has ended; err is then its error.
	done chan struct{}
	err  error
}

// startProcess starts cmd, sends the configuration and passes each line to handle.
func startProcess(name string, cmd *exec.Cmd, handle func([]byte), send func(*json.Encoder) error) (*process, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, stdin: stdin, tail: &tail{}, done: make(chan struct{})}
	if cmd.Stderr == nil {
		cmd.Stderr = p.tail
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go p.read(stdout, handle)
	if err := send(json.NewEncoder(stdin)); err != nil {
		return nil, errors.Join(fmt.Errorf("configure %s: %w", name, err), p.stop())
	}
	return p, nil
}

// read passes on lines until the child closes its output, and then waits for it.
func (p *process) read(stdout io.Reader, handle func([]byte)) {
	defer close(p.done)
	lines := newLines(stdout)
	for lines.Scan() {
		handle(lines.Bytes())
	}
	// A line too long ends the scan; the child must not block on its output then.
	_, _ = io.Copy(io.Discard, bufio.NewReader(stdout))
	if err := p.cmd.Wait(); err != nil {
		p.err = fmt.Errorf("%s: %w", p.name, err)
		if said := p.tail.String(); said != "" {
			p.err = fmt.Errorf("%w: %s", p.err, said)
		}
	}
}

// ended returns the error of a child that has ended.
func (p *process) ended() error {
	if p.err != nil {
		return fmt.Errorf("%w: %w", ErrEnded, p.err)
	}
	return fmt.Errorf("%w: %s", ErrEnded, p.name)
}

// stop closes the child's input, waits a little and kills it if need be.
func (p *process) stop() error {
	p.write.Lock()
	_ = p.stdin.Close() // an error means that it is closed already
	p.write.Unlock()
	patience := time.NewTimer(stopPatience)
	defer patience.Stop()
	select {
	case <-p.done:
		return p.err
	case <-patience.C:
	}
	_ = p.cmd.Process.Kill() // an error means that it has just ended
	<-p.done
	return fmt.Errorf("stop %s: it did not end within %v and was killed", p.name, stopPatience)
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// Write keeps the last tailSize bytes.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if over := len(t.text) - tailSize; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(b), nil
}

// String returns what is kept, without white space around it.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}

// Client is the parent's side of a client's process.
type Client struct {
	process *process
	// ready is closed with the first snapshot that is ready.
	ready chan struct{}

	mu      sync.Mutex
	latest  Snapshot
	failure string
	nextID  uint64
	pending map[uint64]chan Snapshot
}

// StartClient starts cmd, which must end in ClientMain, and gives it its
// configuration. cmd must have neither input nor output set. The child ends when its
// input does; a parent death signal is left to the caller, who alone knows whether
// the thread that calls lives long enough.
func StartClient(cmd *exec.Cmd, cfg ClientConfig) (*Client, error) {
	c := &Client{ready: make(chan struct{}), pending: make(map[uint64]chan Snapshot)}
	var err error
	c.process, err = startProcess("traffic client", cmd, c.take,
		func(e *json.Encoder) error { return e.Encode(cfg) })
	if err != nil {
		return nil, err
	}
	return c, nil
}

// take keeps a snapshot that the child printed.
func (c *Client) take(line []byte) {
	var s Snapshot
	if err := json.Unmarshal(line, &s); err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.Error != "" && s.ReplyTo == 0 {
		c.failure = s.Error
		return
	}
	if s.Ready && !c.latest.Ready {
		close(c.ready)
	}
	c.latest = s
	if reply, ok := c.pending[s.ReplyTo]; ok {
		delete(c.pending, s.ReplyTo)
		reply <- s
	}
}

// ended returns why the child ended.
func (c *Client) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure != "" {
		return fmt.Errorf("%w: %s", ErrEnded, c.failure)
	}
	return c.process.ended()
}

// Ready waits until every flow is established and has echoed.
func (c *Client) Ready(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	case <-c.process.done:
		return c.ended()
	case <-ctx.Done():
		return fmt.Errorf("wait for the traffic to be established: %w", ctx.Err())
	}
}

// Latest returns the newest snapshot; its Time is zero before the first.
func (c *Client) Latest() Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.latest
}

// Mark begins a new observation window.
func (c *Client) Mark(ctx context.Context) error {
	_, err := c.ask(ctx, Command{Verb: Mark})
	return err
}

// Fault tells when a fault happened, so that Snapshot.Resumed counts from then.
func (c *Client) Fault(ctx context.Context, at time.Time) error {
	_, err := c.ask(ctx, Command{Verb: Fault, At: at})
	return err
}

// Wake makes each quiet flow send one message.
func (c *Client) Wake(ctx context.Context) error {
	_, err := c.ask(ctx, Command{Verb: Wake})
	return err
}

// Report returns a fresh snapshot.
func (c *Client) Report(ctx context.Context) (Snapshot, error) {
	return c.ask(ctx, Command{Verb: Report})
}

// ask sends a command and waits for its answer.
func (c *Client) ask(ctx context.Context, command Command) (Snapshot, error) {
	reply := make(chan Snapshot, 1)
	c.mu.Lock()
	if len(c.pending) >= maxPending {
		c.mu.Unlock()
		return Snapshot{}, fmt.Errorf("ask traffic client to %s: %d commands wait already", command.Verb, maxPending)
	}
	c.nextID++
	command.ID = c.nextID
	c.pending[command.ID] = reply
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.pending, command.ID)
		c.mu.Unlock()
	}()
	c.process.write.Lock()
	err := json.NewEncoder(c.process.stdin).Encode(command)
	c.process.write.Unlock()
	if err != nil {
		// The pipe breaks when the child ends, and its own words say more.
		select {
		case <-c.process.done:
			return Snapshot{}, c.ended()
		case <-ctx.Done():
			return Snapshot{}, fmt.Errorf("ask traffic client to %s: %w", command.Verb, err)
		}
	}
	select {
	case s := <-reply:
		if s.Error != "" {
			return s, fmt.Errorf("ask traffic client to %s: %s", command.Verb, s.Error)
		}
		return s, nil
	case <-c.process.done:
		return Snapshot{}, c.ended()
	case <-ctx.Done():
		return Snapshot{}, fmt.Errorf("ask traffic client to %s: %w", command.Verb, ctx.Err())
	}
}

// Stop ends the child, by force if it does not end within 2 s.
func (c *Client) Stop() error { return c.process.stop() }

// Server is the parent's side of a server's process.
type Server struct {
	process *process
	said    chan serverLine
}

// StartServer starts cmd, which must end in ServerMain, and gives it its
// configuration. The rules of StartClient apply.
func StartServer(cmd *exec.Cmd, cfg ServerConfig) (*Server, error) {
	s := &Server{said: make(chan serverLine, 1)}
	var err error
	s.process, err = startProcess("traffic server", cmd, func(line []byte) {
		var said serverLine
		if json.Unmarshal(line, &said) != nil {
			return
		}
		select {
		case s.said <- said:
		default:
		}
	}, func(e *json.Encoder) error { return e.Encode(cfg) })
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Ready waits until the server listens and returns where.
func (s *Server) Ready(ctx context.Context) (Listening, error) {
	var line serverLine
	select {
	case line = <-s.said:
	case <-ctx.Done():
		return Listening{}, fmt.Errorf("wait for the traffic server to listen: %w", ctx.Err())
	case <-s.process.done:
		select {
		case line = <-s.said:
		default:
			return Listening{}, s.process.ended()
		}
	}
	if line.Listening == nil {
		return Listening{}, fmt.Errorf("%w: %s", ErrEnded, line.Error)
	}
	select {
	case s.said <- line: // for whoever asks again
	default:
	}
	return *line.Listening, nil
}

// Stop ends the server, by force if it does not end within 2 s.
func (s *Server) Stop() error { return s.process.stop() }
