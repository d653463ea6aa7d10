package node

import (
	"io"
	"net/http"
	"time"

	"tandem/appliance/status"
)

// serveMetrics answers Prometheus.
func (n *node) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", status.MetricsType)
	if _, err := io.WriteString(w, status.Metrics(n.status(time.Now()))); err != nil {
		n.log.Debug("an API client went away", "error", err)
	}
}
