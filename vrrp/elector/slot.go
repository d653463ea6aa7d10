package elector

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// slot is a descriptor with a high number that is kept free for a socket. The kernel
// closes what a dead process has left from the highest number down, and takes ten
// milliseconds and more for each socket for adverts. The sockets for heartbeats must go
// first: from then on the kernel refuses the peer's heartbeats, which tells it of the
// death.
type slot struct{ fd, filler int }

// slotNumber is more than an elector ever has descriptors, and small enough for the
// kernel's table of them.
const slotNumber = 4095

// reserve returns the slot of a heartbeat link; the filler, which it keeps, is what lies in
// it while it is free.
func reserve(filler, link int) (slot, error) {
	number := slotNumber
	var limit unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	if err == nil && limit.Cur <= slotNumber {
		number = int(limit.Cur) - 1
	}
	fd, err := unix.FcntlInt(uintptr(filler), unix.F_DUPFD_CLOEXEC, number-link)
	if err != nil {
		return slot{}, fmt.Errorf("reserve a descriptor for heartbeats: %w", err)
	}
	return slot{fd: fd, filler: filler}, nil
}

// take moves a descriptor to the slot.
func (s slot) take(fd int) (int, error) {
	err := unix.Dup3(fd, s.fd, unix.O_CLOEXEC)
	_ = unix.Close(fd) // the slot has it, or nobody
	if err != nil {
		return -1, fmt.Errorf("move to descriptor %d: %w", s.fd, err)
	}
	return s.fd, nil
}

// free closes what is in the slot.
func (s slot) free() {
	_ = unix.Dup3(s.filler, s.fd, unix.O_CLOEXEC) // both are open, so it cannot fail
}
