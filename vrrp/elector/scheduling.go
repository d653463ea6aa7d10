package elector

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// Scheduling says which of the elector's guarantees the system granted.
type Scheduling struct {
	// RealTime tells that the whole process is SCHED_FIFO; else RealTimeError says
	// why not.
	RealTime      bool   `json:"real_time"`
	RealTimeError string `json:"real_time_error,omitempty"`
	MemoryLocked  bool   `json:"memory_locked"`
}

// realTimePriority is low among real-time priorities: above everything ordinary,
// below the kernel's own threads.
const realTimePriority = 10

// realTimeLimit is how long, in microseconds, a thread may run without sleeping
// before the kernel ends the process. The elector's rounds take microseconds; one
// that does not end would starve the whole machine, which is worse than a failover.
const realTimeLimit = 300_000

// realTimeVariable carries the outcome of the attempt over the exec.
const realTimeVariable = "TANDEM_ELECTOR_SCHEDULING"

// memoryLimit bounds the heap, in bytes. The garbage collector rests until then:
// the elector's live heap is a few hundred kilobytes.
const memoryLimit = 48 << 20

// BecomeRealTime makes the whole process SCHED_FIFO and returns. It has to
// execute the program anew for that: every thread inherits the policy of the one
// that calls exec, and the Go runtime has started threads already. A single
// real-time thread would not do, because a garbage collection waits for the
// ordinary ones: gaps of 32 ms between adverts under load against 0.3 ms.
func BecomeRealTime() Scheduling {
	s := Scheduling{}
	switch outcome, tried := os.LookupEnv(realTimeVariable); {
	case !tried:
		s.RealTimeError = execRealTime().Error()
	case outcome == "":
		s.RealTime = true
	default:
		s.RealTimeError = outcome
	}
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(memoryLimit)
	s.MemoryLocked = lockMemory() == nil
	return s
}

// execRealTime does not return if it works.
func execRealTime() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: realTimePriority}
	if err := unix.SchedSetAttr(0, attr, 0); err != nil {
		return fmt.Errorf("real-time scheduling is not permitted: %w (grant CAP_SYS_NICE or LimitRTPRIO)", err)
	}
	limit := &unix.Rlimit{Cur: realTimeLimit, Max: realTimeLimit}
	if err := unix.Setrlimit(unix.RLIMIT_RTTIME, limit); err != nil {
		return fmt.Errorf("limit real-time scheduling: %w", err)
	}
	self, err := os.Executable()
	if err == nil {
		err = syscall.Exec(self, os.Args, append(os.Environ(), realTimeVariable+"="))
	}
	return fmt.Errorf("execute with real-time scheduling: %w", err)
}

// lockMemory keeps the process in memory. It cannot half succeed: the kernel
// refuses a process whose address space exceeds the limit of locked memory, and a
// Go program's always does unless the limit is infinite or does not apply.
func lockMemory() error {
	inf := &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, inf) // with CAP_IPC_LOCK there is no limit anyway
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("lock memory: %w", err)
	}
	return nil
}
