package status

import (
	"strconv"
	"strings"
	"time"
)

// metric is one name of the Prometheus text format and where its values come from.
type metric struct {
	name string
	kind metricKind
	help string
	// labels are the names of the labels of each reading, in their order.
	labels  []string
	collect func(s Status) []reading
}

type metricKind string

const (
	gauge   metricKind = "gauge"
	counter metricKind = "counter"
)

// reading is a value and those of its labels.
type reading struct {
	value  float64
	labels []string
}

// MetricsType is the media type of what [Metrics] returns.
const MetricsType = "text/plain; version=0.0.4; charset=utf-8"

// Metrics returns the status in the Prometheus text format.
func Metrics(s Status) string {
	var b strings.Builder
	for _, m := range metrics() {
		samples := m.collect(s)
		if len(samples) == 0 {
			continue
		}
		b.WriteString("# HELP " + m.name + " " + m.help + "\n# TYPE " + m.name + " " + string(m.kind) + "\n")
		for _, v := range samples {
			b.WriteString(m.name)
			for i, label := range v.labels {
				b.WriteByte("{,"[min(i, 1)])
				b.WriteString(m.labels[i] + `="` + escaped(label) + `"`)
			}
			if len(v.labels) > 0 {
				b.WriteByte('}')
			}
			b.WriteString(" " + strconv.FormatFloat(v.value, 'g', -1, 64) + "\n")
		}
	}
	return b.String()
}

// escaped is the value of a label as the text format wants it.
func escaped(label string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(label)
}

// one is a metric without labels.
func one[T int | uint8 | uint64 | float64](value T) []reading {
	return []reading{{value: float64(value)}}
}

func truth(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func whether(yes bool) []reading { return one(truth(yes)) }

func seconds(d time.Duration) []reading { return one(d.Seconds()) }

// ageOf leaves out what never was.
func ageOf(d time.Duration) []reading {
	if d < 0 {
		return nil
	}
	return seconds(d)
}

// moment is a time as Prometheus has them; what never was is left out.
func moment(t time.Time) []reading {
	if t.IsZero() {
		return nil
	}
	return one(float64(t.UnixMilli()) / 1000)
}
