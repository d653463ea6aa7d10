// Package uplink is tests: the selectors of one node or two on a virtual clock, with model
// uplinks, seeded faults and the flows of the networks. As in the simulation of the
// election, one goroutine, one source of random numbers and one heap of events make a run
// a function of its seed.
//
// A node has a port on each uplink, with a carrier and an address of its own; gateways and
// what lies beyond may fail for one node or for both. A model of the arbiter moves the role to the
// node against which less speaks; other causes move it, too. Flows begin on the uplink that the
// MASTER has chosen, or from outside, and end when a duty says so. What can go wrong is in
// faults_test.go; what is true of each uplink, and since when, in truth_test.go; what
// must hold, and within which bounds of time, in invariants_test.go: each bound is computed from
// what is configured.
//
// A failure prints the command that replays it:
//
//	go test ./tests/sim/uplink -run TestSeeds -seed=N -v
//
// With -seeds=N the test runs N seeds, from -from on. TestMutants breaks a rule of the
// product's code at a time and demands that some seed finds it.
package uplink
