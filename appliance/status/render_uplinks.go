package status

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"tandem/router/config"
	"tandem/router/uplink"
)

func stateColour(s uplink.State) string {
	switch s {
	case uplink.Working:
		return green
	case uplink.Dead:
		return red
	case uplink.Unknown, uplink.Degraded:
	}
	return yellow
}

func (r *renderer) state(s uplink.State) string { return r.paint(stateColour(s), s.String()) }

// uplinks writes a line for each uplink and, where there is a choice, for each network.
func (r *renderer) uplinks(s Status) {
	if len(s.Uplinks) == 0 {
		return
	}
	if !slices.ContainsFunc(s.Uplinks, func(u Uplink) bool { return len(u.Families) > 0 }) {
		rows := [][]string{{"UPLINK", "INTERFACE", "LINK", "GATEWAY", "ADDRESSES", "NETWORKS"}}
		for _, u := range s.Uplinks {
			rows = append(rows, []string{u.Name, u.Interface, r.link(u.Up), u.gateways(), list(u.Addresses), list(u.Networks)})
		}
		r.table(rows)
		return
	}
	rows := [][]string{{"UPLINK", "COST", "STATE", "INTERFACE", "LINK", "GATEWAY", "ADDRESSES", "USED BY"}}
	for _, u := range s.Uplinks {
		rows = append(rows, []string{
			u.Name, fmt.Sprint(u.Cost), r.states(u), u.Interface, r.link(u.Up), u.gateways(), list(u.Addresses), list(u.UsedBy),
		})
	}
	r.table(rows)
	if len(s.Uplinks) > 1 {
		r.networks(s)
	}
}

func (u Uplink) gateways() string { return strings.TrimSpace(u.Gateway + " " + u.GatewayIPv6) }

func list(words []string) string { return orDash(strings.Join(words, " ")) }

// states tells the families apart where they differ.
func (r *renderer) states(u Uplink) string {
	if len(u.Families) < 2 || u.Families[0].State == u.Families[1].State {
		return r.state(u.State())
	}
	var parts []string
	for _, f := range u.Families {
		parts = append(parts, familyText(f.IPv6)+" "+r.state(f.State))
	}
	return strings.Join(parts, ", ")
}

func familyText(ipv6 bool) string {
	if ipv6 {
		return "IPv6"
	}
	return "IPv4"
}

// shownNetworks is how many lines about networks the view of the whole node has; of more only
// those are shown that do not go their usual way.
const shownNetworks = 12

// networks writes a line for each network, and for what does not go the way of the rest.
func (r *renderer) networks(s Status) {
	var usual, others []uplink.PathStatus
	for _, w := range s.Networks {
		for _, p := range w.Paths {
			if usually(p) {
				usual = append(usual, p)
			} else {
				others = append(others, p)
			}
		}
	}
	all := len(usual) + len(others)
	shown := slices.Concat(others, usual)
	if all > shownNetworks {
		shown = shown[:max(1, min(len(others), shownNetworks))]
	}
	r.paths(shown, s.Time)
	if hidden := all - len(shown); hidden > 0 {
		fmt.Fprintf(&r.b, "  %s\n", r.paint(dim, fmt.Sprintf("and %d more; `tandem network` shows all", hidden)))
	}
}

// usually tells whether a path takes the uplink that it should, and that works.
func usually(p uplink.PathStatus) bool {
	wanted := slices.ContainsFunc(p.Candidates, func(c uplink.CandidateStatus) bool { return c.Wanted && c.Chosen })
	return wanted && p.State == uplink.Working && p.Note == "" && len(p.Draining) == 0
}

func (r *renderer) paths(paths []uplink.PathStatus, now time.Time) {
	rows := [][]string{{"NETWORK", "TAKES", "STATE", "FOR", "WHY"}}
	for _, p := range paths {
		rows = append(rows, []string{pathName(p.Network, p.Destination), orDash(p.Uplink), r.state(p.State), since(p.Since, now), orDash(firstOf(p.Note, p.Why))})
	}
	if len(rows) > 1 {
		r.table(rows)
	}
}

// RenderNetworks returns a line for each network's way to the outside as text for people.
func RenderNetworks(s Status, colour bool) string {
	r := renderer{colour: colour}
	var paths []uplink.PathStatus
	for _, w := range s.Networks {
		paths = append(paths, w.Paths...)
		if len(w.Paths) == 0 {
			paths = append(paths, uplink.PathStatus{Network: w.Name, Destination: "0.0.0.0/0", Why: "nothing is known yet, or it has no uplink"})
		}
	}
	if len(paths) == 0 {
		return "  The document has no networks.\n"
	}
	r.paths(paths, s.Time)
	return r.b.String()
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

// RenderUplinks returns all that is known of the uplinks as text for people.
func RenderUplinks(s Status, colour bool) string {
	r := renderer{colour: colour}
	if len(s.Uplinks) == 0 {
		return "  The document has no uplinks.\n"
	}
	rows := [][]string{{"UPLINK", "COST", "FAMILY", "STATE", "ASKED", "ANSWERS", "RTT", "JITTER", "LOSS", "USED BY"}}
	for _, u := range s.Uplinks {
		rows = append(rows, r.uplinkRows(u, s.Time)...)
	}
	r.table(rows)
	r.b.WriteByte('\n')
	for _, u := range s.Uplinks {
		r.uplinkNotes(u)
	}
	return r.b.String()
}

// uplinkRows are a line for the link and one for each probe.
func (r *renderer) uplinkRows(u Uplink, now time.Time) [][]string {
	cost := fmt.Sprint(u.Cost)
	if u.Metered {
		cost += " metered"
	}
	rows := [][]string{{u.Name, cost, "", r.state(u.State()), "link " + u.Interface, r.link(u.Up), "", "", "", list(u.UsedBy)}}
	for _, f := range u.Families {
		family, state := familyText(f.IPv6), r.state(f.State)
		for _, p := range f.Probes {
			gateway := u.Gateway
			if f.IPv6 {
				gateway = u.GatewayIPv6
			}
			row := []string{"", "", family, state, strings.TrimSpace(p.Kind + " " + firstOf(p.Target, gateway)), r.answers(p, now), "-", "-", "-", ""}
			if p.Window > 0 {
				row[8] = r.loss(p)
			}
			if p.RTT > 0 {
				row[6], row[7] = span(p.RTT), span(p.Jitter)
			}
			rows = append(rows, row)
			family, state = "", ""
		}
	}
	return rows
}

// answers says whether a probe is answered, and since when it is not.
func (r *renderer) answers(p uplink.ProbeStatus, now time.Time) string {
	switch {
	case p.Unhealthy != "":
		return r.paint(yellow, "cannot be asked")
	case p.LastOK.IsZero() && p.LastFailed.IsZero():
		return r.paint(dim, "not asked yet")
	case p.LastOK.IsZero():
		return r.paint(red, "never")
	case p.LastFailed.After(p.LastOK):
		return r.paint(stateColour(p.State), span(now.Sub(p.LastOK))+" ago")
	}
	return r.paint(green, "yes")
}

func (r *renderer) loss(p uplink.ProbeStatus) string {
	text := fmt.Sprintf("%.0f %%", 100*p.Loss)
	if p.Loss > 0 {
		return r.paint(stateColour(p.State), text)
	}
	return text
}

// uplinkNotes say what is wrong, in the words of the evidence.
func (r *renderer) uplinkNotes(u Uplink) {
	if !u.Up {
		r.note(red, "✗", "%s: %s", u.Name, firstOf(u.LinkReason, "the link of "+u.Interface+" is down"))
		return
	}
	for _, f := range u.Families {
		name := u.Name + " " + familyText(f.IPv6)
		if f.State != uplink.Working {
			r.note(stateColour(f.State), mark(f.State), "%s is %s: %s", name, f.State, f.Reason)
		}
		for _, p := range f.Probes {
			if why := firstOf(p.Unhealthy, p.Reason); why != "" && why != f.Reason {
				r.note(stateColour(p.State), mark(p.State), "%s: %s", name, why)
			}
		}
	}
}

func mark(s uplink.State) string {
	if s == uplink.Dead {
		return "✗"
	}
	return "!"
}

func (r *renderer) note(colour, sign, format string, args ...any) {
	fmt.Fprintf(&r.b, "  %s %s\n", r.paint(colour, sign), fmt.Sprintf(format, args...))
}

// RenderNetwork returns all that is known of a network's way to the outside as text for people, with
// times in the zone of now.
func RenderNetwork(w Network, now time.Time, colour bool) string {
	r := renderer{colour: colour}
	fmt.Fprintf(&r.b, "%s %s  %s  gateway %s  on %s\n", r.paint(stateColour(w.state()), "●"), r.paint(bold, w.Name), w.Prefix, w.Gateway, w.Interface)
	if w.PrefixIPv6 != "" {
		fmt.Fprintf(&r.b, "  %s\n", r.paint(dim, fmt.Sprintf("IPv6 %s  gateway %s", w.PrefixIPv6, w.GatewayIPv6)))
	}
	var rows [][]string
	for _, p := range w.Paths {
		rows = append(rows, r.choice(p, now)...)
	}
	for _, g := range w.PrivateGateways {
		rows = append(rows, []string{g.Destination, "via " + g.Via + ", its private gateway"})
	}
	r.aligned(append(rows, networkFacts(w)...))
	r.candidates(w, now)
	r.history(w, now)
	return r.b.String()
}

// state is that of the worst of its paths.
func (w Network) state() uplink.State {
	state := uplink.Working
	for _, p := range w.Paths {
		state = min(state, p.State)
	}
	return state
}

// pathTitle is what a path is called to people.
func pathTitle(destination string) string {
	switch destination {
	case "0.0.0.0/0":
		return "Outside"
	case "::/0":
		return "IPv6"
	}
	return destination
}

// choice says what a path takes, since when and why, and which flows are still elsewhere.
func (r *renderer) choice(p uplink.PathStatus, now time.Time) [][]string {
	text := r.paint(red, "no uplink")
	if p.Uplink != "" {
		text = "by " + r.paint(bold, p.Uplink)
	}
	if !p.Since.IsZero() {
		text += " for " + span(now.Sub(p.Since))
	}
	if p.Uplink != "" {
		text += "  " + r.state(p.State)
	}
	if p.Why != "" {
		text += "  " + p.Why
	}
	rows := [][]string{{pathTitle(p.Destination), text}}
	if p.Note != "" {
		rows = append(rows, []string{"", r.paint(yellow, p.Note)})
	}
	for _, d := range p.Draining {
		rows = append(rows, []string{"", fmt.Sprintf("older flows stay on %s for %s: %s", d.Uplink, span(d.Until.Sub(now)), d.Reason)})
	}
	return rows
}

func networkFacts(w Network) [][]string {
	var rows [][]string
	add := func(name, format string, args ...any) {
		rows = append(rows, []string{name, fmt.Sprintf(format, args...)})
	}
	if w.RoutedNATAddress != "" {
		add("Appears as", "%s on every uplink", w.RoutedNATAddress)
	} else if len(w.NATAddresses) > 0 {
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(w.NATAddresses)) {
			parts = append(parts, w.NATAddresses[name]+" on "+name)
		}
		add("Appears as", "%s", strings.Join(parts, ", "))
	}
	if len(w.Uplinks) > 1 {
		failback := "goes back to the cheapest"
		if w.Failback == config.FailbackKeep {
			failback = "stays until its uplink fails"
		}
		add("Chooses", "up to cost %d, %s; older flows may stay for %s", w.MaxCost, failback, span(w.DrainTime))
	}
	add("Inbound", "%s, %d static NAT", several(w.Forwards, "forward"), w.StaticNAT)
	add("Access", "ingress %s, egress %s", accessText(w.Ingress), accessText(w.Egress))
	if w.RateLimit != "" {
		add("Limit", "%s per second each way", w.RateLimit)
	}
	return rows
}

// aligned writes names and what there is to say of them.
func (r *renderer) aligned(rows [][]string) {
	width := 0
	for _, row := range rows {
		width = max(width, visible(row[0]))
	}
	r.b.WriteByte('\n')
	for _, row := range rows {
		fmt.Fprintf(&r.b, "  %-*s  %s\n", width, row[0], row[1])
	}
}

func accessText(l AccessList) string {
	if l.Rules == 0 {
		return l.Default
	}
	return fmt.Sprintf("%s after %s", l.Default, several(l.Rules, "rule"))
}

func several(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// candidates compares what each path may take.
func (r *renderer) candidates(w Network, now time.Time) {
	rows := [][]string{{"DESTINATION", "UPLINK", "COST", "STATE", "FOR", "TARGETS", "WHY"}}
	for _, p := range w.Paths {
		destination := p.Destination
		for _, c := range p.Candidates {
			rows = append(rows, []string{destination, r.chosen(c), fmt.Sprint(c.Cost), r.candidateState(c), since(c.Since, now), targetsText(c), r.reason(c, now)})
			destination = ""
		}
	}
	if len(rows) > 1 {
		r.table(rows)
	}
}

func since(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return span(now.Sub(t))
}

func (r *renderer) chosen(c uplink.CandidateStatus) string {
	if c.Chosen {
		return r.paint(bold, c.Uplink) + " ←"
	}
	return c.Uplink
}

func (r *renderer) candidateState(c uplink.CandidateStatus) string {
	if !c.Allowed {
		return r.paint(dim, "not allowed")
	}
	return r.state(c.State)
}

func targetsText(c uplink.CandidateStatus) string {
	if c.Targets == 0 {
		return "-"
	}
	return fmt.Sprintf("%d of %d answer, %d must", c.Answering, c.Targets, c.Need)
}

func (r *renderer) reason(c uplink.CandidateStatus, now time.Time) string {
	if c.HeldUntil.After(now) {
		return fmt.Sprintf("%s; taken again in %s", firstOf(c.Reason, "it has flapped"), span(c.HeldUntil.Sub(now)))
	}
	return orDash(c.Reason)
}

// history writes the newest switches.
func (r *renderer) history(w Network, now time.Time) {
	if len(w.Switches) == 0 {
		return
	}
	rows := [][]string{{"SWITCHED", "DESTINATION", "FROM", "TO", "TOOK", "WHY"}}
	for _, s := range w.Switches {
		took := "-"
		switch {
		case s.Took > 0:
			took = span(s.Took)
		case s.Planned:
			took = "planned"
		}
		rows = append(rows, []string{
			s.Time.In(now.Location()).Format("2006-01-02 15:04:05"), s.Destination, orDash(s.From), orDash(s.To), took, s.Reason,
		})
	}
	r.table(rows)
}

// RenderOperation returns which uplinks an operation may use as text for people.
func RenderOperation(o OperationUplinks, colour bool) string {
	r := renderer{colour: colour}
	rows := [][]string{{"UPLINK", "COST", o.column(), "WHY"}}
	for _, u := range o.Uplinks {
		usable := r.paint(red, "no")
		if u.Usable {
			usable = r.paint(green, "yes")
		}
		rows = append(rows, []string{u.Uplink, fmt.Sprint(u.Cost), usable, orDash(u.Reason)})
	}
	r.table(rows)
	return r.b.String()
}

func (o OperationUplinks) column() string { return "FOR " + strings.ToUpper(o.Operation) }
