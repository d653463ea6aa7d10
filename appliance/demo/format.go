package demo

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// span writes a duration as people read it.
func span(d time.Duration) string {
	switch {
	case d == 0:
		return "0 ms"
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < 10*time.Second:
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	default:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
}

// spans writes a median and a maximum in one unit.
func spans(p50, most time.Duration) string {
	if most >= 10*time.Second {
		return fmt.Sprintf("%.1f / %.1f s", p50.Seconds(), most.Seconds())
	}
	return fmt.Sprintf("%d / %d ms", p50.Round(time.Millisecond).Milliseconds(), most.Round(time.Millisecond).Milliseconds())
}

// clock writes a time since the start as minutes and seconds.
func clock(d time.Duration) string {
	s := int(d / time.Second)
	return fmt.Sprintf("%02d:%02d", s/60, s%60)
}

// bits writes a rate in bits per second.
func bits(rate uint64) string {
	switch {
	case rate >= 1_000_000_000:
		return fmt.Sprintf("%.2f Gbit/s", float64(rate)/1e9)
	case rate >= 1_000_000:
		return fmt.Sprintf("%d Mbit/s", (rate+500_000)/1_000_000)
	default:
		return fmt.Sprintf("%d kbit/s", (rate+500)/1000)
	}
}

// count writes a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// reasons adds up why flows were lost.
func reasons(all ...Flows) string {
	sum := map[string]int{}
	for _, f := range all {
		for reason, n := range f.Reasons {
			sum[reason] += n
		}
	}
	parts := make([]string, 0, len(sum))
	for _, reason := range slices.Sorted(maps.Keys(sum)) {
		parts = append(parts, fmt.Sprintf("%d %s", sum[reason], reason))
	}
	return strings.Join(parts, ", ")
}

// sparkline draws the newest rates, scaled to the highest of them; a pause is a
// dot.
func sparkline(rates []uint64, width int) string {
	if len(rates) > width {
		rates = rates[len(rates)-width:]
	}
	if len(rates) == 0 {
		return ""
	}
	steps := []rune("▁▂▃▄▅▆▇█")
	most := max(slices.Max(rates), 1)
	line := make([]rune, len(rates))
	for i, r := range rates {
		if r == 0 {
			line[i] = '·'
			continue
		}
		line[i] = steps[min(r*uint64(len(steps))/most, uint64(len(steps)-1))]
	}
	return string(line)
}
