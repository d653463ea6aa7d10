package consult

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"tandem/appliance/doctor"
	"tandem/appliance/doctor/examine"
	"tandem/appliance/status"
	"tandem/router/config"
)

const (
	// probes and probeGap are the ARP requests for each address.
	probes   = 4
	probeGap = 250 * time.Millisecond
)

// Options say what to examine.
type Options struct {
	Document *config.Document
	// Node is the member that this machine is, Version that of this program.
	Node, Version string
	// Key is the path of the private key, StateDir the node's state directory.
	Key, StateDir string
	// PeerWait is how long to wait for the doctor on the peer; none if zero.
	PeerWait time.Duration
	// Listen is for how long to listen for VRRP routers.
	Listen time.Duration
	// Status asks the running node.
	Status func(context.Context) (status.Status, error)
	// Progress gets a few words before everything that takes long; it may be nil.
	Progress func(string)
}

// exam is one run.
type exam struct {
	Options
	carriers []carrier
	other    config.Member
	pair     bool
	running  bool
	// state is what the running node says; nil if it does not, unanswered says why.
	state      *status.Status
	unanswered string

	interfaces *examine.Links
	ports      map[string]doctor.Port
	stations   map[string]*examine.Station
	// deaf says why there is no station on a carrier.
	deaf     map[string]string
	segments []doctor.Segment
	report   doctor.Report
}

// Run examines this machine and its network and, if the peer's doctor can be met, the
// network between both. The error is for what kept it from starting, and for the end
// of ctx; everything else is a finding.
func Run(ctx context.Context, o Options) (doctor.Report, error) {
	start := time.Now()
	carriers, err := carriersOf(o.Document, o.Node)
	if err != nil {
		return doctor.Report{}, err
	}
	e := &exam{
		Options: o, carriers: carriers, running: examine.Runs(o.Document.Group),
		ports: map[string]doctor.Port{}, stations: map[string]*examine.Station{}, deaf: map[string]string{},
	}
	e.other, e.pair = o.Document.Peer(o.Node)
	e.report = doctor.Report{
		Group: o.Document.Group, Node: o.Node, Version: o.Version, Peer: e.other.Name, Running: e.running,
	}
	defer e.close()
	if err := e.examine(ctx); err != nil {
		return doctor.Report{}, err
	}
	if err := context.Cause(ctx); err != nil {
		return doctor.Report{}, fmt.Errorf("the examination was interrupted: %w", err)
	}
	e.report.Took = time.Since(start)
	return e.report, nil
}

func (e *exam) needs() doctor.Needs {
	return doctor.Needs{Interval: e.Document.Election.AdvertisementInterval, Pair: e.pair}
}

func (e *exam) say(format string, args ...any) {
	if e.Progress != nil {
		e.Progress(fmt.Sprintf(format, args...))
	}
}

func (e *exam) add(list []doctor.Finding) { e.report.Findings = append(e.report.Findings, list...) }

func (e *exam) close() {
	for _, s := range e.stations {
		_ = s.Close() // the process is ending
	}
}

// examine goes from the inside to the outside.
func (e *exam) examine(ctx context.Context) error {
	var machine doctor.Machine
	var aside sync.WaitGroup
	defer aside.Wait()
	e.say("looking at this machine and listening for VRRP routers, %v …", e.Listen)
	public := ""
	if member, ok := e.Document.Member(e.Node); ok && e.pair {
		public = member.PublicKey
	}
	aside.Go(func() {
		machine = examine.Machine(ctx, examine.MachineConfig{
			StateDirectory: e.StateDir, Key: e.Key, PublicKey: public,
			IPv6: slices.ContainsFunc(e.carriers, func(c carrier) bool { return c.ipv6 }),
		})
	})
	ears := time.Now()
	if err := e.open(); err != nil {
		return err
	}
	e.probe(ctx)
	if e.running {
		e.askNode(ctx)
	}
	meeting := e.startMeeting(ctx)
	defer meeting.end()
	wait(ctx, e.Listen-time.Since(ears))
	e.hear(time.Since(ears))
	aside.Wait()
	e.add(doctor.JudgeMachine(machine, e.needs()))
	e.add(doctor.JudgePorts(e.portList(), e.running))
	e.add(doctor.JudgeSegments(e.segments))
	if e.pair {
		e.add(doctor.JudgePair(e.consult(ctx, meeting), e.needs()))
	}
	if e.running {
		e.askAgain(ctx)
		e.add(doctor.JudgeRunning(e.runningNode(), e.needs()))
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// open looks at the interfaces and opens a station on each that works.
func (e *exam) open() (err error) {
	if e.interfaces, err = examine.ReadLinks(); err != nil {
		return err
	}
	for _, c := range e.carriers {
		p := e.port(c)
		e.ports[c.name] = p
		switch {
		case !p.Found:
			e.deaf[c.name] = "there is no interface " + c.iface
		case !p.Up || !p.HasCarrier:
			e.deaf[c.name] = c.iface + " is down"
		default:
			s, err := examine.OpenStation(c.iface, c.ipv6)
			if err != nil {
				e.deaf[c.name] = err.Error()
				continue
			}
			e.stations[c.name] = s
		}
	}
	return nil
}

// port looks at one interface.
func (e *exam) port(c carrier) doctor.Port {
	cfg := examine.PortConfig{Group: e.Document.Group, Carrier: c.name, Interface: c.iface, Own: c.addresses, Virtual: c.virtual}
	for _, l := range c.links {
		cfg.VirtualLinks = append(cfg.VirtualLinks, l.name)
	}
	return e.interfaces.Port(cfg)
}

// probe asks for all addresses that must be free, and then the gateways: an address
// that somebody else has must not be used even for that.
func (e *exam) probe(ctx context.Context) {
	for range probes {
		for _, c := range e.carriers {
			if s := e.stations[c.name]; s != nil {
				for _, a := range c.probed() {
					_ = s.Ask(nobody(a), a) // one that is not sent is not answered
				}
			}
		}
		wait(ctx, probeGap)
	}
	for _, c := range e.carriers {
		if e.stations[c.name] == nil {
			continue
		}
		p := e.ports[c.name]
		p.Claims = e.claims(c)
		e.ports[c.name] = p
	}
	for range probes {
		for _, c := range e.carriers {
			s := e.stations[c.name]
			if s == nil || e.claimed(c) {
				continue
			}
			for _, gateway := range c.gateways {
				_ = s.Ask(c.source(gateway), gateway) // as above
			}
		}
		wait(ctx, probeGap/2)
	}
}

func (e *exam) claims(c carrier) []doctor.Claim {
	var list []doctor.Claim
	for _, a := range c.probed() {
		for _, mac := range e.stations[c.name].Answers(a) {
			list = append(list, doctor.Claim{
				Address: a.String(), MAC: macText(mac), Virtual: c.isVirtual(mac) && !slices.Contains(c.addresses, a),
			})
		}
	}
	return list
}

// claimed tells whether somebody else has an address of the node's own.
func (e *exam) claimed(c carrier) bool {
	return slices.ContainsFunc(e.ports[c.name].Claims, func(claim doctor.Claim) bool {
		return slices.ContainsFunc(c.addresses, func(a netip.Addr) bool { return a.String() == claim.Address })
	})
}

// hear sums up what was heard on the segments.
func (e *exam) hear(listened time.Duration) {
	for _, c := range e.carriers {
		station := e.stations[c.name]
		s := doctor.Segment{Carrier: c.name, Interface: c.iface, Own: c.routers, Problem: e.deaf[c.name]}
		if station != nil {
			s.Listened = listened
			s.Routers = foreign(c, station.Routers())
		}
		for _, address := range c.gateways {
			g := doctor.Gateway{Address: address.String(), Asked: station != nil && !e.claimed(c)}
			if g.Asked {
				if macs := station.Answers(address); len(macs) > 0 {
					g.Answered, g.MAC = true, macText(macs[0])
				}
			}
			s.Gateways = append(s.Gateways, g)
		}
		e.segments = append(e.segments, s)
	}
}

// foreign leaves out the members.
func foreign(c carrier, routers []doctor.Router) []doctor.Router {
	return slices.DeleteFunc(routers, func(r doctor.Router) bool {
		return slices.ContainsFunc(c.sources, func(a netip.Addr) bool { return a.String() == r.Source })
	})
}

func (e *exam) portList() []doctor.Port {
	var list []doctor.Port
	for _, c := range e.carriers {
		list = append(list, e.ports[c.name])
	}
	return list
}

func (e *exam) askNode(ctx context.Context) {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := e.Status(ctx)
	if err != nil {
		e.unanswered = err.Error()
		return
	}
	e.state = &s
}

// askAgain lets problems of a moment pass: a node on a busy machine, say, hears late.
func (e *exam) askAgain(ctx context.Context) {
	const times, gap = 3, time.Second
	for i := 0; i < times && (i == 0 || e.state != nil && len(e.state.Problems) > 0); i++ {
		if i > 0 {
			wait(ctx, gap)
		}
		e.state, e.unanswered = nil, ""
		e.askNode(ctx)
	}
}

// runningNode is what the node said, in the doctor's words.
func (e *exam) runningNode() doctor.Running {
	s := e.state
	if s == nil {
		return doctor.Running{Problem: e.unanswered}
	}
	r := doctor.Running{
		Role: s.Role, Since: s.Time.Sub(s.Since), Pair: s.Peer != nil,
		LeaseOpen: s.Lease.Open, LeaseTime: s.Lease.Duration,
		Connected: s.Sync.Connected, Complete: s.Sync.Complete, Sessions: s.Sync.Sessions, SyncError: s.Sync.Error,
		ElectorAlive: s.Elector.Alive, RealTime: s.Elector.RealTime, MemoryLocked: s.Elector.MemoryLocked,
		RealTimeError: s.Elector.RealTimeError,
		Hash:          s.Config.Hash, PeerHash: s.Config.PeerHash, FileHash: e.Document.Hash(), Problems: s.Problems,
	}
	if s.Peer != nil {
		r.Peer, r.PeerRole, r.Alive = s.Peer.Name, s.Peer.Role, s.Peer.Alive
	}
	for _, c := range s.Carriers {
		r.Carriers = append(r.Carriers, doctor.Hearing{Carrier: c.Name, Up: c.Up, Heard: c.PeerHeard, Dropped: c.Dropped})
	}
	return r
}

// errSpeech tells that the other doctor does not speak this one's language.
var errSpeech = errors.New("the doctor there is of another version: run the same version on both members")
