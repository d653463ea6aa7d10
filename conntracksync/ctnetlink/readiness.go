package ctnetlink

import (
	"errors"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// readiness tells those who wait for it that a file can be read. It is a set of
// epoll(7) that has just this file, and that Go's poller watches in turn. The set looks
// at the file once per wait (EPOLLONESHOT), so that what comes while nobody waits wakes
// nobody: a wake-up costs more than many events.
type readiness struct {
	set *os.File
	raw syscall.RawConn
	fd  int
	// armed tells that the set looks at the file.
	armed bool
	found unix.EpollEvent
}

// watch returns the readiness of fd.
func watch(fd int) (*readiness, error) {
	set, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create", err)
	}
	event := unix.EpollEvent{Events: unix.EPOLLONESHOT, Fd: int32(fd)}
	err = os.NewSyscallError("epoll_ctl", unix.EpollCtl(set, unix.EPOLL_CTL_ADD, fd, &event))
	if err == nil {
		err = unix.SetNonblock(set, true) // or Go's poller would not watch it
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(set))
	}
	r := &readiness{set: os.NewFile(uintptr(set), "epoll"), fd: fd}
	if r.raw, err = r.set.SyscallConn(); err != nil {
		return nil, errors.Join(err, r.set.Close())
	}
	return r, nil
}

// wait calls try until it returns true: now, and whenever the file can be read. The
// error is os.ErrDeadlineExceeded for the deadline of the set, or os.ErrClosed.
func (r *readiness) wait(try func() bool) error {
	var failed error
	err := r.raw.Read(func(set uintptr) (done bool) {
		done, failed = r.look(set, try)
		return done
	})
	return errors.Join(failed, err)
}

// look returns false to be called again when the set has something to say.
func (r *readiness) look(set uintptr, try func() bool) (done bool, err error) {
	if r.armed {
		// By saying so the set stops looking.
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, set, uintptr(unsafe.Pointer(&r.found)), 1, 0, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return true, os.NewSyscallError("epoll_wait", errno)
		}
		r.armed = errno != 0 || n == 0
	}
	if try() {
		return true, nil
	}
	if r.armed {
		return false, nil
	}
	// The set looks at once, so that nothing is missed that has come since try.
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(r.fd)}
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, set, unix.EPOLL_CTL_MOD, uintptr(r.fd), uintptr(unsafe.Pointer(&event)), 0, 0)
	if errno != 0 {
		return true, os.NewSyscallError("epoll_ctl", errno)
	}
	r.armed = true
	return false, nil
}

func (r *readiness) close() error { return r.set.Close() }
