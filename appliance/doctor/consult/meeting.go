package consult

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"tandem/appliance/doctor/examine"
	"tandem/conntracksync/peer"
	"tandem/router"
)

const (
	// protocol is the version of the conversation.
	protocol = 1
	// callGap is the pause between two calls.
	callGap = 300 * time.Millisecond
	// helloPatience is how long the other doctor may still be busy by itself,
	// stepPatience how long one step may take.
	helloPatience = time.Minute
	stepPatience  = 20 * time.Second
)

// meeting is the search for the other doctor.
type meeting struct {
	found chan encounter
	// address is where the other doctor is expected, from since when.
	address netip.AddrPort
	from    time.Time
	end     func()
}

// encounter is how it ended.
type encounter struct {
	channel *peer.Channel
	err     error
}

// doctorPort is the port after the document's.
func doctorPort(port uint16) uint16 {
	if port == math.MaxUint16 {
		return port - 1
	}
	return port + 1
}

// startMeeting looks for the other doctor in the background. The node's address on the
// HA link is set for that time if it does not stand there yet.
func (e *exam) startMeeting(ctx context.Context) *meeting {
	m := &meeting{found: make(chan encounter, 1), from: time.Now(), end: func() {}}
	if !e.pair || e.Document.HALink == nil {
		return m
	}
	ha := e.carriers[0]
	port := doctorPort(e.Document.HALink.Port)
	m.address = netip.AddrPortFrom(ha.other, port)
	if e.PeerWait <= 0 {
		m.found <- encounter{err: errors.New("it was not to be waited for")}
		return m
	}
	if why := e.deaf[router.HACarrier]; why != "" || e.claimed(ha) {
		if why == "" {
			why = "this node's address on the HA link is in use by another host"
		}
		m.found <- encounter{err: errors.New(why)}
		return m
	}
	giveBack, err := examine.Borrow(ha.iface, ha.own)
	if err != nil {
		m.found <- encounter{err: err}
		return m
	}
	identity, err := peer.LoadIdentity(e.Key)
	cfg := peer.Config{
		Interface: ha.iface, Identity: identity, PeerKey: e.other.PublicKey,
		Local: netip.AddrPortFrom(ha.own.Addr(), port), Remote: m.address,
	}
	ctx, cancel := context.WithTimeout(ctx, e.PeerWait)
	m.end = func() {
		cancel()
		_ = giveBack() // the kernel does so soon in any case
	}
	if err != nil {
		m.found <- encounter{err: err}
		return m
	}
	go func() {
		channel, err := call(ctx, cfg, e.Node < e.other.Name)
		m.found <- encounter{channel, err}
	}()
	return m
}

// call is for the member whose name comes first to call and for the other one to
// listen.
func call(ctx context.Context, cfg peer.Config, first bool) (*peer.Channel, error) {
	if !first {
		return answer(ctx, cfg)
	}
	for {
		channel, err := peer.Dial(ctx, cfg)
		if err == nil || final(err) {
			return channel, err
		}
		select {
		case <-time.After(callGap):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func answer(ctx context.Context, cfg peer.Config) (*peer.Channel, error) {
	listener, err := peer.Listen(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { _ = listener.Close() }() // channels stay
	last := errors.New("nobody called")
	for {
		channel, err := listener.Accept(ctx)
		switch {
		case err == nil || final(err):
			return channel, err
		case ctx.Err() != nil:
			return nil, last
		}
		last = err
	}
}

// final tells that waiting longer is of no use.
func final(err error) bool {
	var wrong *peer.WrongKeyError
	var refused *peer.RefusedError
	return errors.As(err, &wrong) || errors.As(err, &refused)
}

// conversation is in step with the other doctor.
type conversation struct {
	channel *peer.Channel
	buffer  []byte
}

// message is one side's part of a step.
type message struct {
	Step string          `json:"step"`
	Body json.RawMessage `json:"body"`
}

// exchange tells the other doctor mine and fills theirs, or waits for it at least if
// that is nil.
func (c *conversation) exchange(step string, patience time.Duration, mine, theirs any) error {
	body, err := json.Marshal(mine)
	if err != nil {
		return fmt.Errorf("encode %s: %w", step, err)
	}
	frame, err := json.Marshal(message{step, body})
	if err != nil {
		return fmt.Errorf("encode %s: %w", step, err)
	}
	if err := c.channel.Send(frame); err != nil {
		return err
	}
	if c.buffer, err = c.channel.Receive(c.buffer, time.Now().Add(patience)); err != nil {
		return err
	}
	var m message
	if json.Unmarshal(c.buffer, &m) != nil || m.Step != step {
		return errSpeech
	}
	if theirs == nil {
		return nil
	}
	if json.Unmarshal(m.Body, theirs) != nil {
		return errSpeech
	}
	return nil
}

// step waits until both have come so far.
func (c *conversation) step(name string) error {
	return c.exchange(name, stepPatience, struct{}{}, nil)
}
