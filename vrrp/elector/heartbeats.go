package elector

import (
	"errors"
	"reflect"
	"slices"
	"time"

	"tandem/vrrp"
)

// heartbeats are exchanged with the peer's elector, each by every HA link.
type heartbeats struct {
	key     []byte
	channel *vrrp.HeartbeatChannel
	links   []*heartbeatLink
	// sent and received count heartbeats, however many links they took.
	sent, received uint64
	dropped        map[string]uint64
	// introducedAt is when a heartbeat last came from a peer that does not hear this
	// process, or did not yet.
	introducedAt time.Time
}

func newHeartbeats(key []byte, nonce uint64) *heartbeats {
	return &heartbeats{key: key, channel: vrrp.NewHeartbeatChannel(key, nonce), dropped: make(map[string]uint64)}
}

// replaceHeartbeats keeps every link that did not change, with its sockets. The channel
// stays, too, with the key: the peer takes no counter again that it has seen.
func (e *elector) replaceHeartbeats(cfg *Heartbeat) {
	if cfg == nil {
		if e.beats != nil {
			e.beats.close()
			e.beats = nil
		}
		return
	}
	if e.beats == nil || !slices.Equal(e.beats.key, cfg.Key) {
		var links []*heartbeatLink
		if e.beats != nil {
			links = e.beats.links
		}
		e.beats = newHeartbeats(cfg.Key, e.nonce)
		e.beats.links = links
	}
	old := e.beats.links
	e.beats.links = nil
	for i, want := range cfg.links() {
		if i < len(old) && reflect.DeepEqual(old[i].cfg, want) {
			e.beats.links = append(e.beats.links, old[i])
			continue
		}
		if i < len(old) {
			old[i].close() // its slot is needed
		}
		e.beats.links = append(e.beats.links, newHeartbeatLink(want, e.slots[i]))
	}
	for i := len(e.beats.links); i < len(old); i++ {
		old[i].close()
	}
}

func (h *heartbeats) open() {
	for _, l := range h.links {
		if l.fd < 0 {
			l.open()
		}
	}
}

func (h *heartbeats) close() {
	for _, l := range h.links {
		l.close()
	}
}

// broken tells that a link waits for its interface.
func (h *heartbeats) broken() bool {
	return slices.ContainsFunc(h.links, func(l *heartbeatLink) bool { return l.fd < 0 })
}

// descriptors appends what a heartbeat or an echo can come in by.
func (h *heartbeats) descriptors(fds []int) []int {
	for _, l := range h.links {
		if l.fd >= 0 {
			fds = append(fds, l.fd)
		}
		if l.echoes != nil {
			fds = append(fds, l.echoes.fd)
		}
	}
	return fds
}

// send sends one heartbeat by every link.
func (h *heartbeats) send(beat vrrp.Heartbeat) {
	b := h.channel.Seal(beat)
	sent := false
	for _, l := range h.links {
		sent = l.send(b) || sent
	}
	if sent {
		h.sent++
	}
}

// ask asks the peer's kernel by every link whether it lives.
func (h *heartbeats) ask() {
	for _, l := range h.links {
		if l.echoes != nil {
			l.echoes.ask()
		}
	}
}

// refusalBeats is for how many beats another link's heartbeat outweighs a refusal: one
// may be lost, and it is shorter than the silence after which a BACKUP sends a heartbeat
// to find out.
const refusalBeats = 2

// drainHeartbeats reads what waits on the HA links and gives it to the group.
func (e *elector) drainHeartbeats(now time.Time) {
	if e.group == nil {
		return
	}
	var buf [vrrp.MaxHeartbeat + 1]byte
	for i, l := range e.beats.links {
		for range maxDrain {
			n, err := l.receive(buf[:])
			if errors.Is(err, errRefused) {
				e.refused(now, i)
				continue
			}
			if err != nil {
				break
			}
			e.receiveHeartbeat(now, i, buf[:n])
		}
		if l.echoes != nil && l.echoes.answered() {
			e.step(now, vrrp.Input{Echo: true, Link: i})
		}
	}
}

func (e *elector) refused(now time.Time, link int) {
	if e.beats.channel.Refused(now, link, refusalBeats*e.cfg.Beat) {
		e.step(now, vrrp.Input{Refusal: true, Link: link})
	}
}

func (e *elector) receiveHeartbeat(now time.Time, link int, b []byte) {
	h, l := e.beats, e.beats.links[link]
	beat, verdict := h.channel.Open(now, link, b, e.group.DownInterval())
	switch verdict {
	case vrrp.HeartbeatTrusted:
		l.received++
		l.heardAt = now
		h.received++
		before := e.group.Peer()
		e.step(now, vrrp.Input{Heartbeat: &beat, Link: link})
		// Whether the peer could take over decides at once what the node does about an uplink that died.
		if after := e.group.Peer(); after.Priority != before.Priority || after.Ready != before.Ready || after.Configuration != before.Configuration {
			e.reportAt = now
		}
	case vrrp.HeartbeatRepeated:
		l.received++
		l.heardAt = now
	case vrrp.HeartbeatIntroduction:
		h.introducedAt, l.introducedAt = now, now
		h.dropped[verdict.String()]++
	case vrrp.HeartbeatMalformed, vrrp.HeartbeatForged, vrrp.HeartbeatReplayed:
		h.dropped[verdict.String()]++
	}
}
