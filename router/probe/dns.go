package probe

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

const (
	portDNS = 53
	// answerSize is what servers may send over UDP to those who announce nothing (RFC 1035
	// §2.3.4), and some more for those who do not keep to it.
	answerSize = 1500
)

// lookup is what a server has answered.
type lookup struct {
	addresses []netip.Addr
	ttl       time.Duration
	rtt       time.Duration
	server    netip.Addr
	rcode     dnsmessage.RCode
}

func (p *Prober) askDNS(ctx context.Context, r *Request) (answer, error) {
	if servers, source := r.servers(); len(servers) > 0 && source.IsValid() {
		r.to = servers[0]
	}
	found, err := p.lookUp(ctx, r, r.Probe.Target.Host)
	if err != nil {
		return answer{}, err
	}
	got := answer{rtt: found.rtt}
	if found.rcode != dnsmessage.RCodeSuccess {
		got.note = fmt.Sprintf("%v answers %s, which counts as alive", found.server, rcode(found.rcode))
	}
	return got, nil
}

func rcode(r dnsmessage.RCode) string {
	names := map[dnsmessage.RCode]string{
		dnsmessage.RCodeFormatError: "FORMERR", dnsmessage.RCodeServerFailure: "SERVFAIL", dnsmessage.RCodeNameError: "NXDOMAIN",
		dnsmessage.RCodeNotImplemented: "NOTIMP", dnsmessage.RCodeRefused: "REFUSED",
	}
	if name, ok := names[r]; ok {
		return name
	}
	return fmt.Sprintf("code %d", uint16(r))
}

// servers returns the name servers to ask and the source to ask them from. Those of the other
// family, if there are no others, are asked from the address that the kernel chooses.
func (r *Request) servers() (list []netip.Addr, source netip.Addr) {
	for _, s := range r.DNS {
		if s.Is6() == r.Source.Is6() {
			list = append(list, s)
		}
	}
	if len(list) > 0 {
		return list, r.Source
	}
	return r.DNS, netip.Addr{}
}

// lookUp asks the name servers, the first one first and each further one when those before have
// been silent for a while or have failed. The first good answer counts.
func (p *Prober) lookUp(ctx context.Context, r *Request, name string) (lookup, error) {
	servers, source := r.servers()
	if len(servers) == 0 {
		return lookup{}, local("the uplink has no name servers to ask about %s", name)
	}
	question, err := newQuestion(name, r.Probe.IPv6)
	if err != nil {
		return lookup{}, localError{err}
	}
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		lookup
		err error
	}
	results := make(chan result, len(servers))
	under, next := 0, 0
	defer func() {
		cancel()
		for ; under > 0; under-- {
			<-results
		}
	}()
	patience := time.NewTicker(max(r.Probe.Timeout/time.Duration(2*len(servers)), time.Millisecond))
	defer patience.Stop()
	var failed error
	start := time.Now()
	for {
		if next < len(servers) {
			server := servers[next]
			under, next = under+1, next+1
			go func() {
				found, err := p.askServer(ctx, r, source, server, question)
				results <- result{found, err}
			}()
		}
	wait:
		for {
			select {
			case got := <-results:
				under--
				if got.err == nil {
					got.rtt = time.Since(start)
					return got.lookup, nil
				}
				failed = worse(failed, got.err)
				switch {
				case next < len(servers):
					break wait
				case under == 0:
					return lookup{}, failed
				}
			case <-patience.C:
				if next < len(servers) {
					break wait
				}
			}
		}
	}
}

// worse returns the error that says more about the uplink: an answer more than silence, that more
// than a fault of this node.
func worse(a, b error) error {
	rank := func(err error) int {
		var here localError
		switch {
		case err == nil:
			return 0
		case errors.As(err, &here):
			return 1
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
			return 2
		}
		return 3
	}
	if rank(b) > rank(a) {
		return b
	}
	return a
}

func (p *Prober) askServer(ctx context.Context, r *Request, source, server netip.Addr, q dnsmessage.Question) (lookup, error) {
	id := uint16(rand.Uint32())
	query := dnsmessage.Message{Header: dnsmessage.Header{ID: id, RecursionDesired: true}, Questions: []dnsmessage.Question{q}}
	b, err := query.Pack()
	if err != nil {
		return lookup{}, local("encode query: %w", err)
	}
	file, err := p.connect(ctx, r, source, netip.AddrPortFrom(server, portDNS), unix.SOCK_DGRAM)
	if err != nil {
		return lookup{}, err
	}
	c, err := conn(file)
	if err != nil {
		return lookup{}, err
	}
	defer func() { _ = c.Close() }()
	defer onEnd(ctx, c.SetDeadline)()
	if _, err := c.Write(b); err != nil {
		if ctx.Err() != nil {
			return lookup{}, ctx.Err()
		}
		return lookup{}, local("cannot send: %w", plain(err))
	}
	b = make([]byte, answerSize)
	for {
		n, err := c.Read(b)
		switch {
		case ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded):
			return lookup{}, ctx.Err()
		case err != nil:
			return lookup{}, fmt.Errorf("name server %v: %w", server, plain(err))
		}
		found, ok := parseAnswer(b[:n], id, q)
		switch {
		case !ok:
			continue // it may be the late answer to another question
		case found.rcode == dnsmessage.RCodeServerFailure:
			return lookup{}, fmt.Errorf("name server %v answers SERVFAIL", server)
		}
		found.server = server
		return found, nil
	}
}

func newQuestion(host string, ipv6 bool) (dnsmessage.Question, error) {
	name, err := dnsmessage.NewName(strings.TrimSuffix(host, ".") + ".")
	if err != nil {
		return dnsmessage.Question{}, fmt.Errorf("%q is no name: %w", host, err)
	}
	kind := dnsmessage.TypeA
	if ipv6 {
		kind = dnsmessage.TypeAAAA
	}
	return dnsmessage.Question{Name: name, Type: kind, Class: dnsmessage.ClassINET}, nil
}

// parseAnswer reads the answer to a question. Of the records those count that have addresses,
// whatever names of aliases they bear.
func parseAnswer(b []byte, id uint16, q dnsmessage.Question) (lookup, bool) {
	var parser dnsmessage.Parser
	header, err := parser.Start(b)
	if err != nil || !header.Response || header.ID != id {
		return lookup{}, false
	}
	asked, err := parser.Question()
	if err != nil || asked.Type != q.Type || asked.Class != q.Class || !strings.EqualFold(asked.Name.String(), q.Name.String()) {
		return lookup{}, false
	}
	if parser.SkipAllQuestions() != nil {
		return lookup{}, false
	}
	found := lookup{rcode: header.RCode, ttl: longestTTL}
	for {
		h, err := parser.AnswerHeader()
		switch {
		case errors.Is(err, dnsmessage.ErrSectionDone):
			return found, true
		case err != nil:
			// A part of an answer is good enough if the server says that it is one.
			return found, header.Truncated
		}
		found.ttl = min(found.ttl, time.Duration(h.TTL)*time.Second)
		switch {
		case h.Type == dnsmessage.TypeA && q.Type == h.Type:
			a, err := parser.AResource()
			if err != nil {
				return found, header.Truncated
			}
			found.addresses = append(found.addresses, netip.AddrFrom4(a.A))
		case h.Type == dnsmessage.TypeAAAA && q.Type == h.Type:
			a, err := parser.AAAAResource()
			if err != nil {
				return found, header.Truncated
			}
			found.addresses = append(found.addresses, netip.AddrFrom16(a.AAAA))
		default:
			if parser.SkipAnswer() != nil {
				return found, header.Truncated
			}
		}
	}
}
