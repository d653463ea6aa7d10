package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
)

// The flows of the load are numbered. Their ports follow from the number, so that no
// two have the same ports as long as the benchmark runs, and the router needs not
// translate the source port.
const (
	firstSourcePort      = 1024
	sourcePorts          = 60000
	firstDestinationPort = 20000
)

// ports are those of a flow of the load.
func ports(number uint64) (source, destination uint16) {
	return uint16(firstSourcePort + number%sourcePorts), uint16(firstDestinationPort + number/sourcePorts)
}

// virtualMAC is the one that RFC 9568 (section 7.3) gives a virtual router of IPv4.
func virtualMAC(vrid byte) net.HardwareAddr { return net.HardwareAddr{0, 0, 0x5e, 0, 1, vrid} }

// The virtual routers of both products in the laboratory.
const (
	lanVRID = 10
	wanVRID = 20
)

const (
	ethernetHeader = 14
	ipHeader       = 20
	udpHeader      = 8
	payloadSize    = 18
	frameSize      = ethernetHeader + ipHeader + udpHeader + payloadSize
)

// frame makes a UDP datagram in an Ethernet frame. It has no checksum of UDP, which
// IPv4 leaves to the sender, so that the ports can be changed in place.
func frame(to, from net.HardwareAddr, source, destination netip.Addr) []byte {
	f := make([]byte, frameSize)
	copy(f, to)
	copy(f[6:], from)
	binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
	ip := f[ethernetHeader:]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], ipHeader+udpHeader+payloadSize)
	ip[8], ip[9] = 64, unix.IPPROTO_UDP
	copy(ip[12:], source.AsSlice())
	copy(ip[16:], destination.AsSlice())
	var sum uint32
	for i := 0; i < ipHeader; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(ip[ipHeader+4:], udpHeader+payloadSize)
	return f
}

// setPorts changes the ports of a frame.
func setPorts(f []byte, source, destination uint16) {
	udp := f[ethernetHeader+ipHeader:]
	binary.BigEndian.PutUint16(udp, source)
	binary.BigEndian.PutUint16(udp[2:], destination)
}

// batchSize is how many frames one system call sends.
const batchSize = 32

// message is struct mmsghdr.
type message struct {
	header unix.Msghdr
	length uint32
	_      [4]byte
}

// batch sends frames by a raw socket, many by one system call.
type batch struct {
	socket   int
	frames   [][]byte
	vectors  []unix.Iovec
	messages []message
}

// openBatch opens a socket that sends by a link of this thread's namespace and
// receives nothing.
func openBatch(link string, model []byte) (*batch, error) {
	device, err := net.InterfaceByName(link)
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", link, err)
	}
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	b := &batch{socket: socket, vectors: make([]unix.Iovec, batchSize), messages: make([]message, batchSize)}
	err = errors.Join(
		unix.Bind(socket, &unix.SockaddrLinklayer{Ifindex: device.Index}),
		unix.SetsockoptInt(socket, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bind packet socket to %s: %w", link, err), unix.Close(socket))
	}
	for i := range batchSize {
		b.frames = append(b.frames, append([]byte(nil), model...))
		b.vectors[i].Base = &b.frames[i][0]
		b.vectors[i].SetLen(len(model))
		b.messages[i].header.Iov = &b.vectors[i]
		b.messages[i].header.SetIovlen(1)
	}
	return b, nil
}

// send sends the first count frames and returns how many went out.
func (b *batch) send(count int) (int, error) {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(b.socket), uintptr(unsafe.Pointer(&b.messages[0])), uintptr(count), 0, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR && errno != unix.EAGAIN && errno != unix.ENOBUFS {
			return 0, fmt.Errorf("send frames: %w", errno)
		}
	}
}

// burst is what a generator is to do.
type burst struct {
	// First is the number of the first flow, Count how many there are.
	First, Count uint64
	// Rate is how many a second begin; zero is as many as possible.
	Rate int
}

// generated is what a generator says when it is done.
type generated struct {
	Error string        `json:"error,omitempty"`
	Sent  uint64        `json:"sent"`
	Over  time.Duration `json:"over_ns"`
}

// length is how long it should take.
func (b burst) length() time.Duration {
	return time.Duration(float64(b.Count) / float64(b.Rate) * float64(time.Second))
}

func (b burst) arguments() []string {
	return []string{"generate", strconv.FormatUint(b.First, 10), strconv.FormatUint(b.Count, 10), strconv.Itoa(b.Rate)}
}

func parseBurst(arguments []string) (b burst, err error) {
	if len(arguments) != 3 {
		return b, fmt.Errorf("generate flows: got %q", arguments)
	}
	var errs [3]error
	b.First, errs[0] = strconv.ParseUint(arguments[0], 10, 64)
	b.Count, errs[1] = strconv.ParseUint(arguments[1], 10, 64)
	b.Rate, errs[2] = strconv.Atoi(arguments[2])
	return b, errors.Join(errs[:]...)
}

// generate is the program that begins flows: it runs at the client and sends the
// first datagram of each. Who answers is the reflector.
func generate(arguments []string, out io.Writer) error {
	b, err := parseBurst(arguments)
	if err != nil {
		return err
	}
	client, err := net.InterfaceByName("eth0")
	if err != nil {
		return fmt.Errorf("find the client's link: %w", err)
	}
	model := frame(virtualMAC(lanVRID), client.HardwareAddr, netip.MustParseAddr(loadClient), netip.MustParseAddr(lab.ServerAddress))
	sender, err := openBatch("eth0", model)
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := goFirst(); err != nil {
		return err
	}
	start := time.Now()
	said := generated{}
	said.Sent, err = sender.pace(start, b)
	said.Over, said.Error = time.Since(start), sentence(err)
	return errors.Join(json.NewEncoder(out).Encode(said), unix.Close(sender.socket))
}

// generatorPriority is above that of the daemons.
const generatorPriority = 60

// goFirst schedules this thread in real time, so that the packets go before every
// daemon, as those of a network card do, which the kernel forwards in softirq.
func goFirst() error {
	err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: generatorPriority}, 0)
	if err != nil && !errors.Is(err, unix.EPERM) { // without root, it does without
		return fmt.Errorf("schedule the generator in real time: %w", err)
	}
	return nil
}

// tick is the pause between two looks at what is due, as long as network cards let
// packets wait before they interrupt.
const tick = 100 * time.Microsecond

// rest pauses this thread. The pauses of package time cost several times as much.
func rest() error {
	pause := unix.NsecToTimespec(int64(tick))
	if err := unix.Nanosleep(&pause, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("pause between frames: %w", err)
	}
	return nil
}

// lateness is how much longer than planned a generator goes on that is too slow.
const lateness = 50 * time.Millisecond

// pace sends as many frames as are due, and then pauses. It ends in time, however many
// are missing then.
func (b *batch) pace(start time.Time, plan burst) (sent uint64, err error) {
	for sent < plan.Count {
		due := plan.Count
		if plan.Rate > 0 {
			elapsed := time.Since(start)
			if elapsed > plan.length()+lateness {
				break
			}
			due = min(due, uint64(elapsed.Seconds()*float64(plan.Rate)))
		}
		if sent >= due {
			if err := rest(); err != nil {
				return sent, err
			}
			continue
		}
		count := int(min(due-sent, batchSize))
		for i := range count {
			source, destination := ports(plan.First + sent + uint64(i))
			setPorts(b.frames[i], source, destination)
		}
		n, err := b.send(count)
		sent += uint64(n)
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}
