package elector

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"tandem/vrrp"
)

// heartbeats is the UDP socket to the peer's elector.
type heartbeats struct {
	cfg      Heartbeat
	channel  *vrrp.HeartbeatChannel
	slot     slot
	fd       int
	sent     uint64
	received uint64
	dropped  map[string]uint64
	// introducedAt is when a heartbeat last came from a peer that does not hear this
	// process, or did not yet.
	introducedAt time.Time
	err          string
	// echoes is nil while there is no socket for them: then the peer's kernel counts as
	// silent.
	echoes *echoes
	// refused tells that the peer's kernel has refused a heartbeat, and the group has not
	// heard of it yet.
	refused bool
}

func newHeartbeats(cfg Heartbeat, nonce uint64, s slot) *heartbeats {
	return &heartbeats{
		cfg: cfg, channel: vrrp.NewHeartbeatChannel(cfg.Key, nonce), slot: s, fd: -1, dropped: make(map[string]uint64),
	}
}

// open makes the socket; it fails while the interface or its address is missing.
func (h *heartbeats) open() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		h.err = fmt.Sprintf("make heartbeat socket: %v", err)
		return
	}
	err = unix.BindToDevice(fd, h.cfg.Interface)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, 6)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: h.cfg.Local.Addr().As4(), Port: int(h.cfg.Local.Port())})
	}
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: h.cfg.Remote.Addr().As4(), Port: int(h.cfg.Remote.Port())})
	}
	if err != nil {
		_ = unix.Close(fd) // the first error says more
		h.err = fmt.Sprintf("open heartbeat socket on %s: %v", h.cfg.Interface, err)
		return
	}
	if h.fd, err = h.slot.take(fd); err != nil {
		h.err = fmt.Sprintf("open heartbeat socket: %v", err)
		return
	}
	h.err = ""
	if h.echoes, err = openEchoes(h.cfg); err != nil {
		h.err = err.Error()
	}
}

func (h *heartbeats) close() {
	if h.fd >= 0 {
		h.slot.free()
		h.fd = -1
	}
	if h.echoes != nil {
		h.echoes.close()
		h.echoes = nil
	}
}

// send sends one heartbeat. A refused or unreachable peer is its own affair.
func (h *heartbeats) send(beat vrrp.Heartbeat) {
	if h.fd < 0 {
		return
	}
	_, err := unix.Write(h.fd, h.channel.Seal(beat))
	switch {
	case err == nil:
		h.sent++
		h.err = ""
	case errors.Is(err, unix.ECONNREFUSED):
		h.refused = true // it is about the one before
	case errors.Is(err, unix.EAGAIN):
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		h.close()
		h.err = fmt.Sprintf("the interface %s is gone", h.cfg.Interface)
	default:
		h.err = fmt.Sprintf("send heartbeat on %s: %v", h.cfg.Interface, err)
	}
}

// drainHeartbeats reads what waits on the HA link and gives it to the group.
func (e *elector) drainHeartbeats(now time.Time) {
	h := e.beats
	if h.fd < 0 || e.group == nil {
		return
	}
	if h.refused {
		h.refused = false
		e.step(now, vrrp.Input{Refusal: true})
	}
	var buf [vrrp.MaxHeartbeat + 1]byte
	for range maxDrain {
		n, err := unix.Read(h.fd, buf[:])
		if errors.Is(err, unix.ECONNREFUSED) {
			e.step(now, vrrp.Input{Refusal: true})
			continue
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			break
		}
		beat, verdict := h.channel.Open(now, buf[:n], e.group.DownInterval())
		if verdict != vrrp.HeartbeatTrusted {
			h.dropped[verdict.String()]++
			if verdict == vrrp.HeartbeatIntroduction {
				h.introducedAt = now
			}
			continue
		}
		h.received++
		e.step(now, vrrp.Input{Heartbeat: &beat})
	}
	if h.echoes != nil && h.echoes.answered() {
		e.step(now, vrrp.Input{Echo: true})
	}
}
