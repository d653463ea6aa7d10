// Package demo is a shell: it shows that nobody notices when a router of the pair
// dies.
//
// It breaks the MASTER of a laboratory in one way after the other while live
// traffic crosses the pair, draws what happens on the terminal, and says at the end
// what the traffic saw of it. The laboratory and the traffic are handed in.
//
// Each fault runs through the same phases: wait until the pair is ready, begin an
// observation window, one calm second, inject the fault at the MASTER, observe
// until every flow echoes again what was sent after the fault, report, heal, wait
// until the pair is ready again. What is lost while healing counts for the fault.
package demo
