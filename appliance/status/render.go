package status

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Render returns the status as text for people. With colour it uses ANSI colours
// and nothing else of a terminal's abilities.
func Render(s Status, colour bool) string {
	r := renderer{colour: colour}
	r.head(s)
	r.facts(s)
	r.carriers(s)
	r.uplinks(s)
	r.verdict(s)
	return r.b.String()
}

// renderer collects the text.
type renderer struct {
	b      strings.Builder
	colour bool
}

// The ANSI colours in use.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (r *renderer) paint(colour, s string) string {
	if !r.colour {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

func roleColour(role string) string {
	switch role {
	case "MASTER":
		return green
	case "BACKUP":
		return yellow
	}
	return red
}

func (r *renderer) head(s Status) {
	since := ""
	if !s.Since.IsZero() {
		since = " for " + span(s.Time.Sub(s.Since))
	}
	fmt.Fprintf(&r.b, "%s %s is %s%s\n", r.paint(roleColour(s.Role), "●"), r.paint(bold, s.Node), r.paint(roleColour(s.Role), s.Role), since)
	fmt.Fprintf(&r.b, "  %s\n\n", r.paint(dim, fmt.Sprintf("group %s · priority %d · term %d · %s", s.Group, s.Priority, s.Term, s.Reason)))
}

func (r *renderer) fact(name, format string, args ...any) {
	fmt.Fprintf(&r.b, "  %-10s %s\n", name, fmt.Sprintf(format, args...))
}

func (r *renderer) facts(s Status) {
	if p := s.Peer; p != nil {
		switch {
		case !p.Alive:
			r.fact("Peer", "%s  %s", p.Name, r.paint(red, "not heard"))
		default:
			r.fact("Peer", "%s  %s  priority %d  %s  heard %s ago", p.Name,
				r.paint(roleColour(p.Role), p.Role), p.Priority, r.readiness(*p), span(p.LastHeard))
		}
	}
	if s.Lease.Open {
		r.fact("Lease", "%s  %s left of %s", r.paint(green, "open"), span(s.Lease.Remaining), span(s.Lease.Duration))
	} else {
		r.fact("Lease", "closed  nothing leaves with a virtual MAC")
	}
	if s.Peer != nil {
		r.sync(s)
		r.fact("Document", "%s  %s", Short(s.Config.Hash), r.comparison(s.Config))
	} else {
		r.fact("Document", "%s", Short(s.Config.Hash))
	}
	r.fact("Elector", "%s", r.elector(s.Elector))
}

func (r *renderer) readiness(p Peer) string {
	if p.Ready {
		return r.paint(green, "ready")
	}
	if p.Role == "MASTER" {
		return "in charge"
	}
	return r.paint(yellow, "not ready")
}

func (r *renderer) comparison(c Config) string {
	switch c.PeerHash {
	case "":
		return r.paint(yellow, "the peer's is unknown")
	case c.Hash:
		return "the same on both nodes"
	}
	return r.paint(red, "the peer has "+Short(c.PeerHash))
}

func (r *renderer) elector(e Elector) string {
	if !e.Alive {
		return r.paint(red, "not running")
	}
	text := fmt.Sprintf("pid %d", e.PID)
	if e.RealTime {
		text += "  real-time"
	} else {
		text += "  " + r.paint(yellow, "not real-time")
	}
	if e.MemoryLocked {
		text += "  memory locked"
	}
	return text
}

func (r *renderer) carriers(s Status) {
	rows := [][]string{{"CARRIER", "KIND", "INTERFACE", "VRID", "LINK", "ADDRESSES", "SENT", "RECEIVED", "DROPPED", "PEER"}}
	// With one family there is nothing to tell apart.
	dual := slices.ContainsFunc(s.Carriers, func(c Carrier) bool { return c.IPv6 })
	if dual {
		rows[0] = slices.Insert(rows[0], familyColumn, "FAMILY")
	}
	for _, c := range s.Carriers {
		var dropped uint64
		for _, n := range c.Dropped {
			dropped += n
		}
		row := []string{
			c.Name, c.Kind, c.Interface, fmt.Sprint(c.VRID), r.link(c.Up), orDash(strings.Join(c.Addresses, " ")),
			fmt.Sprint(c.Sent), fmt.Sprint(c.Received), fmt.Sprint(dropped), r.heard(s, c),
		}
		if dual {
			row = slices.Insert(row, familyColumn, c.family())
		}
		rows = append(rows, row)
	}
	r.table(rows)
}

// heard says whether adverts pass between the members: a MASTER knows it from its peer.
func (r *renderer) heard(s Status, c Carrier) string {
	switch {
	case s.Role == "MASTER" && c.HeardByPeer != nil && *c.HeardByPeer:
		return r.paint(green, "hears us")
	case s.Role == "MASTER" && c.HeardByPeer != nil:
		return r.paint(red, "does not hear us")
	case s.Role == "MASTER" || s.Peer == nil:
		return "-"
	case c.PeerHeard < 0:
		return r.paint(red, "never heard")
	}
	return "heard " + span(c.PeerHeard) + " ago"
}

// familyColumn is the place of the family among a carrier's columns, behind the VRID:
// both together are what the virtual router is called on the wire.
const familyColumn = 4

func (c Carrier) family() string {
	if c.IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

func (r *renderer) link(up bool) string {
	if up {
		return r.paint(green, "up")
	}
	return r.paint(red, "down")
}

// table aligns columns by what is seen, not by the bytes of colour codes.
func (r *renderer) table(rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], visible(cell))
		}
	}
	r.b.WriteByte('\n')
	for n, row := range rows {
		line := " "
		for i, cell := range row {
			line += " " + cell + strings.Repeat(" ", widths[i]-visible(cell)+1)
		}
		line = strings.TrimRight(line, " ")
		if n == 0 {
			line = r.paint(dim, line)
		}
		r.b.WriteString(line + "\n")
	}
}

// visible counts the characters of a cell without ANSI sequences.
func visible(s string) int {
	n := utf8.RuneCountInString(s)
	for rest := s; ; {
		start := strings.Index(rest, "\x1b[")
		if start < 0 {
			return n
		}
		end := strings.IndexByte(rest[start:], 'm')
		if end < 0 {
			return n
		}
		n -= end + 1
		rest = rest[start+end+1:]
	}
}

// healthyPriority is the least priority of a node that nothing is wrong with.
const healthyPriority = 100

// Felt says whether the death of the MASTER would be felt now: an empty string if
// not, else why.
func Felt(s Status) string {
	switch {
	case s.Peer == nil:
		return "this is a single router"
	case !s.Peer.Alive:
		return "the peer " + s.Peer.Name + " is not heard"
	case !s.Sync.Connected, !s.Sync.Complete:
		return "sessions " + s.Sync.Readiness()
	case s.Role == "MASTER" && !s.Peer.Ready:
		return "the peer " + s.Peer.Name + " is not ready"
	case s.Role == "MASTER" && s.Peer.Priority < healthyPriority:
		return "the peer " + s.Peer.Name + " is impaired"
	}
	// An HA link that is down and leaves the sessions complete is one of two.
	if down := slices.IndexFunc(s.Carriers, func(c Carrier) bool { return !c.Up && c.Kind != "ha" }); down >= 0 && s.Role == "BACKUP" {
		return "the link of " + s.Carriers[down].Name + " is down on this node"
	}
	if s.Role == "BACKUP" && s.Priority < healthyPriority {
		return "this node is impaired"
	}
	return ""
}

func (r *renderer) verdict(s Status) {
	r.b.WriteByte('\n')
	if why := Felt(s); why != "" {
		fmt.Fprintf(&r.b, "  %s If the MASTER died now it would be felt: %s.\n", r.paint(yellow, "!"), why)
	} else {
		fmt.Fprintf(&r.b, "  %s If the MASTER died now, no session would be lost: sessions %s.\n", r.paint(green, "✓"), s.Sync.Readiness())
	}
	if len(s.Recovering) > 0 {
		fmt.Fprintf(&r.b, "  %s The link of %s has just come back; it counts again in a moment.\n", r.paint(yellow, "!"), strings.Join(s.Recovering, " and "))
	}
	for _, p := range s.Problems {
		fmt.Fprintf(&r.b, "  %s %s\n", r.paint(red, "✗"), p)
	}
}

// Short returns the beginning of a document's hash, enough to tell two apart.
func Short(hash string) string { return hash[:min(len(hash), 12)] }

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// span writes a duration as people say it: two significant figures below a
// minute, whole units above.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0 s"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}
