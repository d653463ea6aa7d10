package elector

import "time"

// RFC 9568 wants a router to log what is wrong with an advert "subject to rate
// limiting" (§7.1). A line of the log costs time that belongs to the adverts, and
// whoever is wrong is wrong many times a second.
const (
	// complaintPause is the least time between two lines of the whole process.
	complaintPause = time.Second
	// carrierPause is the least time between two lines about one carrier, and
	// repeatPause between two that are the same.
	carrierPause = time.Minute
	repeatPause  = time.Hour
)

// complain logs what is wrong with an advert that came in by a carrier, and why, unless
// that was done a moment ago. The counters and the report have it in any case.
func (e *elector) complain(now time.Time, c *carrier, what, why string) {
	pause := carrierPause
	if why == c.complaint {
		pause = repeatPause
	}
	if why == "" || since(now, c.complainedAt) < pause || since(now, e.complainedAt) < complaintPause {
		return
	}
	c.complaint, c.complainedAt, e.complainedAt = why, now, now
	e.opts.Log.Warn(what, "carrier", c.cfg.Name, "reason", why)
}

// since is how long something is ago; what never was is ago for ever.
func since(now, at time.Time) time.Duration {
	if at.IsZero() {
		return repeatPause
	}
	return now.Sub(at)
}
