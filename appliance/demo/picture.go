package demo

import (
	"fmt"
	"strings"
	"time"

	"tandem/appliance/lab"
)

const (
	// pictureWidth and pictureHeight are the columns and rows of the picture.
	pictureWidth  = 79
	pictureHeight = 22
	// Columns of the parts of the pair.
	clientX, hostWidth   = 1, 15
	leftBus, rightBus    = 20, 58
	nodeX, nodeWidth     = 25, 29
	serverX              = 63
	haX                  = nodeX + nodeWidth/2
	alphaY, haY, bravoY  = 2, 6, 7
	statsY, nowY, chipsY = 12, 17, 20
)

// picture draws a scene.
func picture(sc scene) *canvas {
	c := newCanvas(pictureWidth, pictureHeight)
	c.text(1, 0, strong, "Tandem")
	c.text(8, 0, faint, "what the traffic notices when a router dies")
	c.right(pictureWidth-1, 0, faint, clock(sc.elapsed))
	sc.drawHosts(c)
	sc.drawLinks(c)
	sc.drawNode(c, 0, alphaY)
	sc.drawNode(c, 1, bravoY)
	sc.drawHA(c)
	sc.drawStats(c)
	sc.drawNow(c)
	sc.drawChips(c)
	return c
}

// mute tells that node i cannot answer, whatever it said a moment ago.
func (sc scene) mute(i int) bool {
	return sc.nodes[i].err != nil || sc.struck(i, lab.Poweroff, lab.Crash, lab.Hang)
}

// masterIndex is the only node that says it is MASTER, or -1.
func (sc scene) masterIndex() int {
	found := -1
	for i, n := range sc.nodes {
		if !sc.mute(i) && n.status.Role == roleMaster {
			if found >= 0 {
				return -1
			}
			found = i
		}
	}
	return found
}

// struck tells that the fault in force is one of those given, at node i.
func (sc scene) struck(i int, faults ...lab.Fault) bool {
	if !sc.broken || sc.nodes[i].name != sc.target {
		return false
	}
	for _, f := range faults {
		if sc.fault == f {
			return true
		}
	}
	return false
}

func (sc scene) drawHosts(c *canvas) {
	mid := haY
	c.box(clientX, mid-2, hostWidth, 5, plain)
	c.set(clientX+hostWidth-1, mid, plain, '├')
	c.text(clientX+2, mid-1, strong, "client LAN")
	c.text(clientX+2, mid, plain, fmt.Sprintf("%d TCP", sc.snap.TCP.Total))
	c.text(clientX+2, mid+1, plain, fmt.Sprintf("%d UDP", sc.snap.UDP.Total))
	c.box(serverX, mid-2, hostWidth, 5, plain)
	c.set(serverX, mid, plain, '┤')
	c.text(serverX+2, mid-1, strong, "upstream")
	c.text(serverX+2, mid, plain, "echo server")
	c.text(serverX+2, mid+1, plain, "beyond NAT")
}

// drawLinks draws the two networks; the way of the traffic is bold.
func (sc scene) drawLinks(c *canvas) {
	active := sc.masterIndex()
	for _, side := range []struct {
		bus, host, hostEnd, node, nodeEnd int
		cutX                              int
		cut                               lab.Fault
		right                             bool
	}{
		{leftBus, clientX + hostWidth, leftBus, leftBus + 1, nodeX, leftBus + 3, lab.LAN, false},
		{rightBus, rightBus + 1, serverX, nodeX + nodeWidth, rightBus, rightBus - 3, lab.WAN, true},
	} {
		for y := alphaY + 2; y <= bravoY+2; y++ {
			c.set(side.bus, y, faint, '│')
		}
		for i, y := range []int{alphaY + 2, bravoY + 2} {
			for x := side.node; x < side.nodeEnd; x++ {
				c.set(x, y, faint, '─')
			}
			c.set(side.bus, y, faint, corner(i, side.right, false))
		}
		for x := side.host; x < side.hostEnd; x++ {
			c.set(x, haY, faint, '─')
		}
		c.set(side.bus, haY, faint, junction(-1, side.right))
		if active >= 0 {
			sc.drawWay(c, active, side.bus, side.host, side.hostEnd, side.node, side.nodeEnd, side.right)
		}
		for i, y := range []int{alphaY + 2, bravoY + 2} {
			if sc.struck(i, side.cut, lab.Poweroff) {
				c.set(side.cutX, y, broken, '╳')
			}
		}
	}
}

// drawWay draws the way from a host to the MASTER.
func (sc scene) drawWay(c *canvas, active, bus, host, hostEnd, node, nodeEnd int, right bool) {
	end := []int{alphaY + 2, bravoY + 2}[active]
	for x := host; x < hostEnd; x++ {
		c.set(x, haY, master, '━')
	}
	for x := node; x < nodeEnd; x++ {
		c.set(x, end, master, '━')
	}
	for y := min(end, haY) + 1; y < max(end, haY); y++ {
		c.set(bus, y, master, '┃')
	}
	c.set(bus, end, master, corner(active, right, true))
	c.set(bus, haY, master, junction(active, right))
}

// corner is where a network turns to a node: 0 above, 1 below.
func corner(node int, right, bold bool) rune {
	corners := []rune("╭╰╮╯┏┗┓┛")
	if right {
		node += 2
	}
	if bold {
		node += 4
	}
	return corners[node]
}

// junction is where a host's cable meets its network, bold towards a node or
// nowhere.
func junction(active int, right bool) rune {
	junctions := []rune("┤┩┪├┡┢")
	if right {
		return junctions[active+4]
	}
	return junctions[active+1]
}

func (sc scene) drawNode(c *canvas, i, y int) {
	n := sc.nodes[i]
	look, symbol, role := backup, "○", n.status.Role
	switch {
	case n.asked.IsZero():
		look, symbol, role = faint, "·", "…"
	case sc.mute(i):
		look, symbol, role = broken, "✕", "no answer"
	case role == roleMaster:
		look, symbol = master, "●"
	case role != roleBackup:
		look = faint
	}
	c.box(nodeX, y, nodeWidth, 4, look)
	c.set(nodeX, y+2, look, '┤')
	c.set(nodeX+nodeWidth-1, y+2, look, '├')
	c.set(haX, y+3*(1-i), look, []rune("┬┴")[i])
	c.text(nodeX+2, y+1, strong, n.name)
	c.right(nodeX+nodeWidth-2, y+1, look, symbol+" "+role)
	words := condition(sc.fault)
	switch {
	case words != "" && sc.broken && n.name == sc.target:
		c.text(nodeX+2, y+2, broken, words)
	case sc.mute(i) || n.asked.IsZero():
	default:
		c.text(nodeX+2, y+2, plain, count(n.status.Sync.Sessions, "session"))
		if !n.status.Since.IsZero() {
			c.right(nodeX+nodeWidth-2, y+2, faint, "for "+age(sc.now.Sub(n.status.Since)))
		}
	}
}

// age writes a time in whole seconds or minutes.
func age(d time.Duration) string {
	d = max(d, 0)
	if d < 2*time.Minute {
		return fmt.Sprintf("%d s", int(d/time.Second))
	}
	return fmt.Sprintf("%d min", int(d/time.Minute))
}

// drawHA draws the cable between the nodes, which share their borders' rows.
func (sc scene) drawHA(c *canvas) {
	cut := sc.struck(0, lab.HALink, lab.Poweroff) || sc.struck(1, lab.HALink, lab.Poweroff)
	look, r := faint, '│'
	if cut {
		look, r = broken, '╳'
	}
	c.set(haX, haY, look, r)
	c.text(haX+2, haY, look, "HA link")
}

func (sc scene) drawStats(c *canvas) {
	for i, g := range []struct {
		name         string
		alive, total int
		most         time.Duration
	}{
		{"TCP sessions", sc.snap.TCP.Alive, sc.snap.TCP.Total, sc.snap.TCP.SilenceMax},
		{"UDP flows", sc.snap.UDP.Alive, sc.snap.UDP.Total, sc.snap.UDP.SilenceMax},
	} {
		y := statsY + i
		c.text(1, y, faint, g.name)
		look := plain
		if g.alive < g.total {
			look = broken
		}
		c.right(22, y, look, fmt.Sprint(g.alive))
		x := c.text(23, y, look, "alive")
		c.text(x+2, y, look, fmt.Sprintf("%d lost", g.total-g.alive))
		c.text(42, y, faint, "longest silence")
		c.right(pictureWidth-1, y, plain, span(g.most))
	}
	c.text(1, statsY+2, faint, "download")
	if sc.snap.Bulk.Total > 0 {
		look := plain
		if sc.snap.Bulk.Lost > 0 {
			look = broken
		}
		c.right(28, statsY+2, look, bits(sc.snap.BulkRate))
		line := sparkline(sc.rates, maxRates)
		c.right(pictureWidth-1, statsY+2, backup, line)
	}
	c.text(1, statsY+3, faint, "replication")
	if i := sc.masterIndex(); i >= 0 {
		sync := sc.nodes[i].status.Sync
		words := "lag p99 " + span(sync.LagP99)
		if !sync.Connected {
			words = "the MASTER runs alone"
		}
		c.text(17, statsY+3, plain, words)
		c.text(42, statsY+3, faint, "sessions in the kernels")
		c.right(pictureWidth-1, statsY+3, plain, sc.kernels())
	}
}

// kernels are the sessions in the kernels of both nodes.
func (sc scene) kernels() string {
	words := make([]string, len(sc.nodes))
	for i, n := range sc.nodes {
		words[i] = "–"
		if !sc.mute(i) && !n.asked.IsZero() {
			words[i] = fmt.Sprint(n.status.Sync.Sessions)
		}
	}
	return strings.Join(words, " and ")
}

// drawNow says what happens.
func (sc scene) drawNow(c *canvas) {
	look := strong
	if sc.phase == phaseObserve {
		look = notice
		c.right(pictureWidth-1, nowY, look, fmt.Sprintf("%.1f s", max(0, sc.now.Sub(sc.faultAt).Seconds())))
	}
	if sc.phase != phaseDone && sc.phase != phaseStart && sc.phase != phaseTraffic {
		c.text(1, nowY, faint, fmt.Sprintf("fault %d of %d", sc.index+1, sc.total))
	}
	c.text(16, nowY, look, sc.headline())
	c.text(16, nowY+1, faint, sc.detail())
}

func (sc scene) headline() string {
	switch sc.phase {
	case phaseStart, phaseReady:
		return sc.fault.String() + ": waiting until the pair is ready"
	case phaseTraffic:
		return "opening the traffic"
	case phaseCalm:
		return sc.fault.String() + " comes next"
	case phaseObserve:
		return sc.fault.String() + ": " + describe(sc.fault, sc.target)
	case phaseHeal:
		return sc.fault.String() + ": healing " + sc.target
	case phaseDone:
		return "all faults are through"
	}
	return ""
}

// detail is the line below the headline.
func (sc scene) detail() string {
	switch sc.phase {
	case phaseStart, phaseReady, phaseHeal:
		return sc.waitingFor()
	case phaseTraffic, phaseCalm, phaseDone:
	case phaseObserve:
		if sc.snap.Fault.Before(sc.faultAt) {
			return ""
		}
		if sc.snap.Resumed() == sc.snap.Alive() {
			return fmt.Sprintf("all %d flows echo what was sent after the fault", sc.snap.Alive())
		}
		return fmt.Sprintf("%d of %d flows echo what was sent after the fault", sc.snap.Resumed(), sc.snap.Alive())
	}
	return ""
}

// waitingFor says what keeps the pair from being ready, as far as the nodes say.
func (sc scene) waitingFor() string {
	var roles []string
	for _, n := range sc.nodes {
		switch {
		case n.asked.IsZero():
			return ""
		case n.err != nil:
			return n.name + " does not answer yet"
		case len(n.status.Problems) > 0:
			return n.name + ": " + n.status.Problems[0]
		case !n.status.Sync.Connected:
			return n.name + " is not connected to its peer yet"
		case !n.status.Sync.Complete:
			return n.name + " does not have all sessions yet"
		}
		roles = append(roles, n.status.Role)
	}
	if sc.masterIndex() < 0 {
		return "roles are " + strings.Join(roles, " and ")
	}
	return ""
}

// doing says what happens, for a sentence about the end of the run.
func (sc scene) doing() string {
	switch sc.phase {
	case phaseStart:
		return "while the pair started"
	case phaseTraffic:
		return "while the traffic was opened"
	case phaseDone:
		return "after the last fault"
	case phaseReady, phaseCalm, phaseObserve, phaseHeal:
	}
	return fmt.Sprintf("during fault %d of %d (%v)", sc.index+1, sc.total, sc.fault)
}

// drawChips draws the faults as a row of words, those done with what UDP saw.
func (sc scene) drawChips(c *canvas) {
	x, y := 1, chipsY
	for i := range sc.total {
		look, words := faint, "·"
		switch {
		case i < len(sc.rows) && sc.rows[i].Passed:
			look, words = master, "✓ "+sc.rows[i].Fault+" "+span(sc.rows[i].UDP.SilenceMax)
		case i < len(sc.rows):
			look, words = broken, "✕ "+sc.rows[i].Fault
		case i == sc.index:
			look, words = notice, "▸ "+sc.fault.String()
		}
		if x+len([]rune(words)) >= pictureWidth {
			x, y = 1, y+1
		}
		x = c.text(x, y, look, words) + 2
	}
}
