package netns

import "time"

const (
	// interval is the advertisement interval of all these tests, the default of the
	// document.
	interval = 100 * time.Millisecond
	// udpInterval is how often a UDP flow sends: no silence is shorter.
	udpInterval = 20 * time.Millisecond

	// takeoverTime is what a takeover may take after its decision: adverts, the
	// announcements, and the switches' learning.
	takeoverTime = 150 * time.Millisecond
	// handoverSilence bounds what a planned handover and a cut cable may cost: the
	// link is looked at every 20 ms, and the rest is a few messages.
	handoverSilence = 150 * time.Millisecond
	// overlapLimit bounds for how long both nodes speak during a handover: until the
	// old MASTER has taken the new one's advert from its socket.
	overlapLimit = 25 * time.Millisecond

	// aWhile is longer than any timer of the election.
	aWhile = 5 * interval

	// schedulingRoom is for two processors that client, server, both nodes and the
	// tests of other packages share; what the client itself was late by comes on top.
	schedulingRoom = 150 * time.Millisecond
	// tickRoom is how late the kernel may be with the end of a lease: two ticks of a
	// kernel with HZ=100.
	tickRoom = 20 * time.Millisecond
)

// downInterval is Active_Down_Interval (RFC 9568 §6.1) of a BACKUP.
func downInterval(priority uint8) time.Duration {
	return 3*interval + interval*time.Duration(256-int(priority))/256
}
