// Package node is a shell: one node of the pair. It owns the goroutines that wire
// the parts together: it keeps the kernel in the intended state, supervises the
// elector process, replicates sessions and answers the API.
package node
