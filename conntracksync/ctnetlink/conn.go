package ctnetlink

import "errors"

// Config says how to open a [Conn].
type Config struct {
	// ReceiveBuffer is the size of the listener's receive buffer in bytes; 0 is
	// [DefaultReceiveBuffer].
	ReceiveBuffer int
	// Expectations has the listener report what helpers expect, too.
	Expectations bool
}

// Conn is a [Writer], a [Reader] and a [Listener] of one network namespace. The
// listener does not report what the writer changes.
type Conn struct {
	*Writer
	*Reader
	*Listener
}

// Open opens all three in the current network namespace. They stay with it, so that
// the methods may be called from any thread.
func Open(cfg Config) (*Conn, error) {
	w, err := NewWriter()
	if err != nil {
		return nil, err
	}
	r, err := NewReader()
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	l, err := Listen(ListenerConfig{
		ReceiveBuffer: cfg.ReceiveBuffer, IgnorePortID: w.PortID(), Expectations: cfg.Expectations,
	})
	if err != nil {
		return nil, errors.Join(err, r.Close(), w.Close())
	}
	return &Conn{Writer: w, Reader: r, Listener: l}, nil
}

// Close closes all three.
func (c *Conn) Close() error {
	return errors.Join(c.Listener.Close(), c.Reader.Close(), c.Writer.Close())
}

// Drops returns how many messages of events and dumps were dropped.
func (c *Conn) Drops() Drops {
	d := c.Listener.Drops()
	for i, n := range c.Reader.Drops() {
		d[i] += n
	}
	return d
}
