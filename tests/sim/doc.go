// Package sim is tests: real election machines and their heartbeat channels on a virtual
// clock, with seeded networks, seeded faults and a model of the kernel's fence. One
// goroutine, one source of random numbers and one heap of events make a run a function
// of its seed.
//
// A run is a pair, sometimes with a foreign router on one of its networks, or with a
// third machine that takes the place of one. Every carrier has its own delay, loss,
// duplicates and order; every machine its own clock. What can go wrong, or be wished
// for, is in faults_test.go. What must hold is in invariants_test.go and causes_test.go,
// for how long it may not hold in bounds_test.go: each bound is computed from what is
// configured and from the links of the run.
//
// A failure prints the command that replays it:
//
//	go test ./tests/sim -run TestSeeds -seed=N -v
//
// With -seeds=N the test runs N seeds, from -from on. TestMutants breaks a rule of the
// product's code at a time and demands that some seed finds it, so that a simulation
// that has gone blind fails too.
package sim
