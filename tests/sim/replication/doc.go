// Package replication is tests: the Sender and the Receiver of two nodes on a virtual
// clock, with model kernels, seeded clients and seeded faults. As in the simulation of
// the election, one goroutine, one source of random numbers and one heap of events make
// a run a function of its seed.
//
// A model kernel has a table of flows whose time-outs run, one queue of events that can
// overrun as a netlink socket does, and dumps that run beside the events and are not
// atomic. Clients open flows with translated addresses, let them change, fall silent and
// end, and use their ports again. The stream between the nodes has a delay and a speed,
// stalls, and breaks at any byte. What can go wrong is in faults_test.go, what must hold
// in invariants_test.go, for how long it may not hold in bounds_test.go: each bound is
// computed from what is configured and from the kernels and the link of the run.
//
// A failure prints the command that replays it:
//
//	go test ./tests/sim/replication -run TestSeeds -seed=N -v
//
// With -seeds=N the test runs N seeds, from -from on. TestMutants breaks a rule of the
// product's code at a time and demands that some seed finds it.
package replication
