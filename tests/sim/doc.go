// Package sim is tests: two real election machines and their heartbeat channels
// on a virtual clock, with a seeded network, seeded faults and a model of the
// kernel's fence. One goroutine, one source of random numbers and one heap of
// events make a run a function of its seed.
//
// What must hold, always and within computed bounds, is in invariants_test.go;
// the faults are in faults_test.go. A failure prints the command that replays it:
//
//	go test ./tests/sim -run TestSeeds -seed=N -v
//
// With -seeds=N the test runs the first N seeds. TestMutations breaks a rule of
// the machine at a time and demands that some seed finds it, so that a simulation
// that has gone blind fails too.
package sim
