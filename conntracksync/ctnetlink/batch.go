package ctnetlink

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// An event has 100 to 500 bytes, and those of helpers and labels some more. A
// datagram that does not fit counts as truncated. The size is an odd number of cache
// lines: with a power of two all datagrams would share a few places of the cache.
const (
	batchDatagrams    = 64
	batchDatagramSize = 33 * 64
)

// multiMessage is struct mmsghdr, which golang.org/x/sys does not have.
type multiMessage struct {
	header unix.Msghdr
	length uint32
}

// batch receives many datagrams in one system call. On a busy machine the call costs
// more than the rest of the reading.
type batch struct {
	messages [batchDatagrams]multiMessage
	vectors  [batchDatagrams]unix.Iovec
	memory   []byte
	// count datagrams have been received; those from next on have not been looked at.
	count, next int
}

func newBatch() *batch {
	b := &batch{memory: make([]byte, batchDatagrams*batchDatagramSize)}
	for i := range b.messages {
		b.vectors[i].Base = &b.memory[i*batchDatagramSize]
		b.vectors[i].SetLen(batchDatagramSize)
		b.messages[i].header.Iov = &b.vectors[i]
		b.messages[i].header.SetIovlen(1)
	}
	return b
}

// receive calls recvmmsg(2). An error that the kernel meets after the first datagram
// is kept by it for the next call, so that an overrun is never lost.
func (b *batch) receive(fd int) (int, error) {
	b.count, b.next = 0, 0
	// The memory lives as long as b, and the kernel keeps no pointer to it. See rawCall
	// for why the scheduler is not told.
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd),
		uintptr(unsafe.Pointer(&b.messages)), batchDatagrams, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	b.count = int(n)
	return b.count, nil
}

// datagram returns the next datagram that has not been looked at.
func (b *batch) datagram() (d []byte, ok bool) {
	if b.next >= b.count {
		return nil, false
	}
	at := b.next * batchDatagramSize
	d = b.memory[at : at+int(b.messages[b.next].length)]
	b.next++
	return d, true
}

// full tells whether the last call may have left datagrams in the queue. It leaves an
// error as well, which the next call then returns.
func (b *batch) full() bool { return b.count == batchDatagrams }
