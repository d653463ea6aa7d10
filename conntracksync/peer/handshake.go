package peer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	handshakeTimeout = 3 * time.Second
	// greeting is what both sides say inside TLS. It tells the dialer that the
	// listener has accepted its key: with TLS 1.3 its own handshake ends before.
	greeting = "tandem replication\n"
	// badCertificate is how crypto/tls names the alert by which a peer refuses a
	// certificate (RFC 8446 §6.2).
	badCertificate = "tls: bad certificate"
)

// WrongKeyError tells that the other end has proved another key than the one in
// the document.
type WrongKeyError struct {
	// Remote is the other end's address.
	Remote string
	// Got is the key that it has proved, Want the one in the document.
	Got, Want string
}

// Error implements error.
func (e *WrongKeyError) Error() string {
	return fmt.Sprintf("the node at %s has the key %s and not %s as the document says: "+
		"if it is the right machine, correct its public_key in the document on both nodes", e.Remote, e.Got, e.Want)
}

// RefusedError tells that the other end does not accept this node's key.
type RefusedError struct {
	// Remote is the other end's address, Own this node's key.
	Remote, Own string
}

// Error implements error.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("the node at %s refuses this node's key: make sure that its document gives this member the public_key %s", e.Remote, e.Own)
}

// secure runs the TLS handshake and the greeting over a fresh connection, which
// it closes on error. now is nil but in tests: TLS must not depend on it.
func secure(ctx context.Context, raw net.Conn, cfg Config, server bool, now func() time.Time) (*Channel, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	remote := raw.RemoteAddr().String()
	settings := tlsConfig(cfg, remote, now)
	conn := tls.Client(newStream(raw), settings)
	if server {
		conn = tls.Server(newStream(raw), settings)
	}
	err := conn.HandshakeContext(ctx)
	if err == nil {
		err = greet(ctx, conn, server)
	}
	if err != nil {
		_ = raw.Close() // the first error says more
		return nil, explain(ctx, err, cfg, remote)
	}
	return &Channel{raw: raw, conn: conn}, nil
}

// greet lets the listener speak first. If the dialer did, a listener that closes
// the connection because of its key would do so with unread data, and the reset
// that follows from that could overtake the reason.
func greet(ctx context.Context, conn *tls.Conn, server bool) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.NetConn().Close() }) // ends the read
	defer stop()
	say := func() error { _, err := io.WriteString(conn, greeting); return err }
	hear := func() error {
		b := make([]byte, len(greeting))
		if _, err := io.ReadFull(conn, b); err != nil {
			return err
		}
		if string(b) != greeting {
			return errors.New("it does not speak this protocol")
		}
		return nil
	}
	first, second := hear, say
	if server {
		first, second = say, hear
	}
	if err := first(); err != nil {
		return err
	}
	return second()
}

func tlsConfig(cfg Config, remote string, now func() time.Time) *tls.Config {
	return &tls.Config{
		Time:                   now,
		Certificates:           []tls.Certificate{cfg.Identity.certificate},
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // the key is pinned by VerifyConnection
		SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			got := "none"
			if len(state.PeerCertificates) > 0 {
				got = presented(state)
			}
			if got != cfg.PeerKey {
				return &WrongKeyError{Remote: remote, Got: got, Want: cfg.PeerKey}
			}
			return nil
		},
	}
}

// presented returns the key of the certificate, whose possession TLS has proved.
func presented(state tls.ConnectionState) string {
	certificate := state.PeerCertificates[0]
	if key, ok := certificate.PublicKey.(*ecdsa.PublicKey); ok && key.Curve == elliptic.P256() {
		if text, err := formatPublicKey(key); err == nil {
			return text
		}
	}
	return fmt.Sprintf("of another kind (%s)", certificate.PublicKeyAlgorithm)
}

// explain turns what crypto/tls says into one sentence.
func explain(ctx context.Context, err error, cfg Config, remote string) error {
	var wrong *WrongKeyError
	if errors.As(err, &wrong) {
		return wrong
	}
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" && alert.Err.Error() == badCertificate {
		return &RefusedError{Remote: remote, Own: cfg.Identity.PublicKey()}
	}
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) {
		return fmt.Errorf("the node at %s does not speak TLS, check that nothing else uses this port: %w", remote, err)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("the node at %s does not finish the handshake within %v, check that it runs and is not overloaded: %w", remote, handshakeTimeout, context.DeadlineExceeded)
	}
	return fmt.Errorf("handshake with %s: %w", remote, err)
}
