package ctnetlink

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// limitFile holds the greatest number of entries. Network namespaces may read it.
const limitFile = "/proc/sys/net/netfilter/nf_conntrack_max"

// Limit returns how many entries the table may have.
func (r *Reader) Limit() (int, error) {
	text, err := os.ReadFile(limitFile)
	if err != nil {
		return 0, fmt.Errorf("read the limit of conntrack: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read the limit of conntrack in %s: %w", limitFile, err)
	}
	return n, nil
}
