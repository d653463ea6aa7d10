package elector

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// waiter lets the elector sleep until a descriptor is readable or a time has come. It
// waits by the Go runtime's poller and not in a system call of its own: while a
// goroutine blocks in one, the runtime's monitor wakes up thousands of times a second.
// The time is a timerfd's, because the poller's own timers are a millisecond coarse.
type waiter struct {
	epoll int
	file  *os.File
	raw   syscall.RawConn
	timer int
	// wake becomes readable when the elector shall end.
	wake int
}

// newWaiter returns a waiter that also wakes up when ctx ends.
func newWaiter(ctx context.Context) (*waiter, error) {
	w := &waiter{epoll: -1, timer: -1, wake: -1}
	if err := w.open(); err != nil {
		w.close()
		return nil, fmt.Errorf("prepare to wait for adverts: %w", err)
	}
	context.AfterFunc(ctx, func() {
		_, _ = unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // cannot fail: the counter is far from full
	})
	return w, nil
}

func (w *waiter) open() (err error) {
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if err = unix.SetNonblock(w.epoll, true); err != nil { // or the runtime would not poll it
		return err
	}
	if w.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return err
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return err
	}
	w.file = os.NewFile(uintptr(w.epoll), "elector's events")
	w.raw, err = w.file.SyscallConn()
	return err
}

// close leaves wake open: the end of the context may still write to it.
func (w *waiter) close() {
	if w.file != nil {
		_ = w.file.Close() // and the epoll descriptor with it
	} else if w.epoll >= 0 {
		_ = unix.Close(w.epoll)
	}
	if w.timer >= 0 {
		_ = unix.Close(w.timer)
	}
}

// sleep returns when a descriptor is readable or the time is over.
func (w *waiter) sleep(wait time.Duration, descriptors ...int) error {
	if wait <= 0 {
		return nil
	}
	for _, fd := range append(descriptors, w.timer, w.wake) {
		// What was closed is gone by itself, and what is there stays.
		event := &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, event); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("wait for adverts: %w", err)
		}
	}
	// A new time also ends the readiness of the one before.
	spec := &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(wait))}
	if err := unix.TimerfdSettime(w.timer, 0, spec, nil); err != nil {
		return fmt.Errorf("wait for adverts: %w", err)
	}
	var events [1]unix.EpollEvent
	var failed error
	err := w.raw.Read(func(uintptr) bool {
		n, err := unix.EpollWait(w.epoll, events[:], 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			failed = err
		}
		return n > 0 || failed != nil
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("wait for adverts: %w", err)
	}
	return nil
}
