package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// mostBody is how much of an answer is looked at for a text, mostHeader how long its
	// header may be.
	mostBody   = 64 << 10
	mostHeader = 64 << 10
)

func (p *Prober) askHTTP(ctx context.Context, r *Request) (answer, error) {
	target := &r.Probe.Target
	address, err := url.Parse(target.Host)
	if err != nil || address.Hostname() == "" {
		return answer{}, local("%q is not a URL", target.Host)
	}
	host, err := p.resolve(ctx, r, address.Hostname())
	if err != nil {
		return answer{}, err
	}
	r.to = host
	to, err := endpoint(address, host)
	if err != nil {
		return answer{}, localError{err}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.Host, nil)
	if err != nil {
		return answer{}, local("%q is not a URL: %w", target.Host, err)
	}
	request.Header.Set("User-Agent", "tandem")
	start := time.Now()
	file, err := p.connect(ctx, r, r.Source, to, unix.SOCK_STREAM)
	if err != nil {
		return answer{}, p.failed(r, address.Hostname(), err)
	}
	c, err := conn(file)
	if err != nil {
		return answer{}, err
	}
	// Whatever the transport may still be doing with it ends with it.
	defer func() { _ = c.Close() }()
	transport := &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return c, nil },
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: mostHeader,
	}
	// Redirections are not followed: what they lead to is another target.
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	response, err := client.Do(request)
	if err != nil {
		return p.withoutResponse(ctx, r, address.Hostname(), err, time.Since(start))
	}
	defer func() { _ = response.Body.Close() }()
	if err := matches(r, response); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return answer{}, p.failed(r, address.Hostname(), err)
	}
	return answer{rtt: time.Since(start)}, nil
}

// endpoint is where the server of a URL listens.
func endpoint(address *url.URL, host netip.Addr) (netip.AddrPort, error) {
	port := uint16(80)
	if address.Scheme == "https" {
		port = 443
	}
	if text := address.Port(); text != "" {
		number, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("%q is not a port", text)
		}
		port = uint16(number)
	}
	return netip.AddrPortFrom(host, port), nil
}

// withoutResponse judges an error in the place of a response.
func (p *Prober) withoutResponse(ctx context.Context, r *Request, host string, err error, rtt time.Duration) (answer, error) {
	target := &r.Probe.Target
	var certificate *tls.CertificateVerificationError
	var inner *url.Error
	if errors.As(err, &inner) {
		err = inner.Err
	}
	switch {
	case ctx.Err() != nil:
		return answer{}, p.failed(r, host, ctx.Err())
	case errors.As(err, &certificate):
		trouble := "its certificate is not valid"
		if certificate.Err != nil {
			trouble += ": " + certificate.Err.Error()
		}
		if target.Status == 0 && target.Body == "" {
			return answer{rtt: rtt, note: trouble + "; the way there counts as alive"}, nil
		}
		return answer{}, p.failed(r, host, errors.New(trouble))
	}
	return answer{}, p.failed(r, host, plain(err))
}

// matches tells whether a response is what is expected.
func matches(r *Request, response *http.Response) error {
	target := &r.Probe.Target
	switch code := response.StatusCode; {
	case target.Status != 0 && code != target.Status:
		return fmt.Errorf("status %d instead of %d", code, target.Status)
	case target.Status == 0 && (code < 200 || code > 399):
		return fmt.Errorf("status %d", code)
	case target.Body == "":
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, mostBody))
	switch {
	case strings.Contains(string(body), target.Body):
		return nil
	case err != nil:
		return fmt.Errorf("read the answer: %w", plain(err))
	}
	return fmt.Errorf("the answer does not contain %q", target.Body)
}
