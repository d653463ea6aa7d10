package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	"tandem/conntracksync"
)

const (
	// deafPort hears and says nothing, echoPort echoes datagrams of any size.
	deafPort, echoPort = 7005, "7006"
	// unhurried is an advertisement interval with which the role moves when it is told to,
	// and not when a busy machine stalls.
	unhurried = 10 * interval
	// suspension is for how long a node process does not run.
	suspension = 10 * time.Second
	// burstFlows begin at once.
	burstFlows = 30_000
)

// TestTrouble does to a pair what administrators, hostile hosts and busy machines do,
// while connections come and go. Each time the tables are equal afterwards without
// anybody's help, and no session was lost.
func TestTrouble(t *testing.T) {
	for _, tool := range []string{"conntrack", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the test needs %s", tool)
		}
	}
	s := newPairOf(t, lab.Options{Interval: unhurried, Clients: 10, LAN: []string{"helpers: [ftp]"}})
	for _, node := range nodes() {
		s.tune(node, "nf_conntrack_tcp_timeout_close", "1")
	}
	const each = 100
	flows := s.traffic(calmLoad(each))
	s.hearsDatagrams()
	s.ftp()
	s.equalTables(2 * each)
	for _, c := range []struct {
		name string
		run  func(s *stand)
	}{
		{"the MASTER's node process is suspended", (*stand).suspendMaster},
		{"ten failovers in a row", (*stand).tenFailovers},
		{"many flows at once", (*stand).burst},
		{"the same flow with another translation", (*stand).translateAnew},
		{"fragments", (*stand).fragments},
		{"nonsense on a control connection", (*stand).nonsenseToHelper},
		{"foreign zones, labels and marks", (*stand).foreignFlows},
		{"conntrack on the MASTER", func(s *stand) { master, _ := s.roles(); s.edit(master) }},
		{"conntrack on the BACKUP", func(s *stand) { _, backup := s.roles(); s.edit(backup) }},
	} {
		passed := t.Run(c.name, func(t *testing.T) {
			on := s.on(t)
			defer on.consistent()()
			churn := on.newConnections(moderate)
			c.run(on)
			on.ready()
			on.must(churn.Stop())
			on.equalTables(2 * each)
			flows.on(on).report()
		})
		if !passed {
			return // what follows would fail for the same reason
		}
	}
}

// suspendMaster: whether the elector has given the role away meanwhile or not, what the
// process believes when it runs again is old.
func (s *stand) suspendMaster() {
	master, _ := s.roles()
	pid := s.nodePID(master)
	s.signal(pid, unix.SIGSTOP)
	s.pass(suspension)
	s.signal(pid, unix.SIGCONT)
}

func (s *stand) tenFailovers() {
	for range 10 {
		master, backup := s.roles()
		s.inject(lab.Handover, master)
		s.becomes(backup, roleMaster)
		s.ready()
	}
}

// hearsDatagrams has the server hear datagrams, and echo those of any size.
func (s *stand) hearsDatagrams() {
	s.t.Helper()
	listen := func(port string) (c net.PacketConn) {
		s.must(s.Namespace(lab.Server).Do(func() (err error) {
			c, err = net.ListenPacket("udp4", net.JoinHostPort(lab.ServerAddress, port))
			return err
		}))
		s.t.Cleanup(func() { _ = c.Close() })
		return c
	}
	listen(strconv.Itoa(deafPort))
	echo := listen(echoPort)
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := echo.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(buf[:n], from) // the client hears what is lost
		}
	}()
}

// burst begins flows from that many ports as fast as one socket can.
func (s *stand) burst() {
	master, backup := s.roles()
	for _, node := range nodes() {
		s.tune(node, "nf_conntrack_udp_timeout", seconds(10*time.Minute)) // longer than the test
	}
	var raw net.PacketConn
	s.must(s.Namespace(lab.Client).Do(func() (err error) {
		raw, err = net.ListenPacket("ip4:udp", s.ClientAddresses()[0])
		return err
	}))
	defer func() { _ = raw.Close() }()
	to, began := &net.IPAddr{IP: net.ParseIP(lab.ServerAddress)}, time.Now()
	for i := range burstFlows {
		port := 30_000 + i
		datagram := []byte{byte(port >> 8), byte(port), deafPort >> 8, deafPort & 0xff, 0, 9, 0, 0, 'x'} // RFC 768; no checksum
		for {
			_, err := raw.WriteTo(datagram, to)
			if errors.Is(err, unix.ENOBUFS) {
				continue
			}
			s.must(err)
			break
		}
	}
	sent := time.Since(began)
	s.eventually("every flow is on the BACKUP", func(context.Context) error {
		n := 0
		for key := range s.table(backup).flows {
			if key.Original.DestinationPort == deafPort {
				n++
			}
		}
		if n < burstFlows {
			return fmt.Errorf("it has %d of %d", n, burstFlows)
		}
		return nil
	})
	y := s.status(master).Sync
	s.t.Logf("%d flows began within %v and were on the BACKUP after %v; %d overruns, %d overflows", burstFlows, sent, time.Since(began), y.Overruns, y.Overflows)
	s.conntrack(master, "-D", "-p", "udp", "--dport", strconv.Itoa(deafPort))
}

// translateAnew ends flows and begins them again with another port at once.
func (s *stand) translateAnew() {
	master, backup := s.roles()
	const count, rounds = 200, 20
	for round := range uint16(rounds) {
		var flows []conntracksync.Flow
		for i := range uint16(count) {
			flows = append(flows, made(1000+i, 20_000+i+round*count))
		}
		s.enters(master, conntracksync.OpReplace, flows...)
	}
	took := s.equalMade(count)
	s.t.Logf("equal %v after the last of %d translations", took, rounds)
	held := s.made(backup)
	for i := range uint16(count) {
		last := made(1000+i, 20_000+i+(rounds-1)*count)
		if have := held[last.Key]; have.reply != last.Reply {
			s.t.Errorf("the BACKUP holds %v for %v, want %v", have.reply, last.Key, last.Reply)
		}
	}
	s.conntrack(master, "-D", "-s", maker)
	s.equalMade(0)
}

// fragments: datagrams that need three packets, before and after the role moves.
func (s *stand) fragments() {
	var c net.Conn
	s.must(s.Namespace(lab.Client).Do(func() (err error) {
		c, err = net.Dial("udp4", net.JoinHostPort(lab.ServerAddress, echoPort))
		return err
	}))
	defer func() { _ = c.Close() }()
	talk := func() {
		s.t.Helper()
		want, have := bytes.Repeat([]byte("fragment"), 500), make([]byte, 1<<16)
		s.eventually("a datagram in fragments returns", func(context.Context) error {
			if _, err := c.Write(want); err != nil {
				return err
			}
			if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				return err
			}
			n, err := c.Read(have)
			if err == nil && !bytes.Equal(have[:n], want) {
				err = errors.New("it is another one")
			}
			return err
		})
	}
	talk()
	master, backup := s.roles()
	port := c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	s.eventually("the BACKUP knows the flow", func(context.Context) error {
		if !s.table(backup).has(unix.IPPROTO_UDP, port) {
			return errors.New("it does not")
		}
		return nil
	})
	reply := func(node string) (tuples []conntracksync.Tuple) {
		for key, flow := range s.table(node).flows {
			if key.Protocol == unix.IPPROTO_UDP && key.Original.SourcePort == port {
				tuples = append(tuples, flow.reply)
			}
		}
		return tuples
	}
	before := reply(master)
	s.inject(lab.Handover, master)
	s.becomes(backup, roleMaster)
	talk()
	if after := reply(backup); len(before) != 1 || len(after) != 1 || before[0] != after[0] {
		s.t.Errorf("the flow was %v on the old MASTER, and is %v on the new one", before, after)
	}
}

// nonsenseToHelper says what no client of FTP says, and then what one does.
func (s *stand) nonsenseToHelper() {
	f := s.ftpLogin(s.ClientAddresses()[1])
	for _, nonsense := range []string{
		"PORT 1,2,3", "PORT 999,999,999,999,999,999", "PORT 10,0,0,1,0,0", "PORT 127,0,0,1,0,22", "PORT 203,0,113,10,0,80",
		"PORT 10,255,0,1,0,22", "EPRT |1|255.255.255.255|65536|", "EPRT |2|::1|22|", "EPRT |9|x|y|", "PORT " + strings.Repeat("1,", 2000),
		strings.Repeat("\x00\xff", 700), "PORT \x00,\x00,\x00,\x00,\x00,\x00", strings.Repeat("PORT 10,0,0,9,1,1\n", 100),
	} {
		_, err := io.WriteString(f.control, nonsense+"\r\n")
		s.must(err)
	}
	// Each client asks for more than the kernel expects of one connection.
	for i := range 300 {
		_, err := fmt.Fprintf(f.control, "PORT %s,%d,%d\r\n", strings.ReplaceAll(s.ClientAddresses()[1], ".", ","), 100+i/256, i%256)
		s.must(err)
	}
	_, err := io.WriteString(f.control, "NOOP\r\n")
	s.must(err)
	good := s.ftpLogin(s.ClientAddresses()[2])
	fetch := func() { s.t.Helper(); s.must(good.passive(wordSize)); s.must(good.active(wordSize)) }
	fetch()
	master, backup := s.roles()
	s.inject(lab.Handover, master)
	s.becomes(backup, roleMaster)
	fetch()
	s.must(f.control.Close())
	s.must(good.control.Close())
}

// foreignFlows are flows with what this product gives none.
func (s *stand) foreignFlows() {
	master, backup := s.roles()
	for _, node := range nodes() { // a kernel without such a rule has no labels
		s.nft(node, "table ip labels { chain prerouting { type filter hook prerouting priority -150; udp dport 1 ct label set 1; }\n}\n")
	}
	const count = 50
	var flows []conntracksync.Flow
	for i := range uint16(count) {
		f := made(2000+i, 30_000+i)
		f.Mark = 0xdead0000 | uint32(i)
		f.Extra = &conntracksync.Extra{HasLabels: true}
		f.Extra.Labels[i%16] = byte(i) | 1
		in := f
		in.Zone = 7
		flows = append(flows, f, in)
	}
	s.enters(master, conntracksync.OpCreate, flows...)
	s.equalMade(2 * count)
	held := s.made(backup)
	for _, f := range flows {
		if want := (madeFlow{f.Reply, f.Mark, f.Extra.Labels}); held[f.Key] != want {
			s.t.Fatalf("%+v: the BACKUP holds %+v, want %+v", f.Key, held[f.Key], want)
		}
	}
	s.conntrack(master, "-D", "-s", maker)
	s.equalMade(0)
}

// edit changes and deletes flows on a node by hand. What the MASTER's administrator does
// holds for both nodes, what the BACKUP's does for neither. (That marks were changed
// there is only found by the next regular pass.)
func (s *stand) edit(node string) {
	master, _ := s.roles()
	const count = 100
	var flows []conntracksync.Flow
	for i := range uint16(count) {
		flows = append(flows, made(3000+i, 40_000+i))
	}
	s.enters(master, conntracksync.OpCreate, flows...)
	s.equalMade(count)
	if node == master {
		s.conntrack(node, "-U", "-s", maker, "-m", "77")
		s.t.Logf("equal %v after the marks were changed", s.equalMade(count))
	} else {
		s.conntrack(node, "-D", "-s", maker)
		s.t.Logf("equal %v after the flows were deleted", s.equalMade(count))
	}
	s.conntrack(master, "-D", "-s", maker)
	s.t.Logf("gone %v after the flows were deleted on the MASTER", s.equalMade(0))
}

// manyFlows are in a transfer that is cut off.
const manyFlows = 200_000

// TestTransferIsCutOff kills either node process in the middle of the transfer of a
// large table. The next transfer brings all of it.
func TestTransferIsCutOff(t *testing.T) {
	s := newPairOf(t, lab.Options{Interval: unhurried})
	flows := s.traffic(calmLoad(100))
	master, backup := s.roles()
	var large []conntracksync.Flow
	for i := range manyFlows {
		f := made(uint16(10_000+i%50_000), uint16(10_000+i%50_000))
		f.Original.DestinationPort, f.Reply.SourcePort = uint16(madePort+i/50_000), uint16(madePort+i/50_000)
		large = append(large, f)
	}
	s.enters(master, conntracksync.OpCreate, large...)
	s.ready()
	s.equalTables(manyFlows)
	defer s.consistent()()
	for _, victim := range []string{backup, master} {
		s.killNode(backup)
		s.flush(backup)
		s.restart(backup)
		s.inTransfer(backup)
		before := len(s.table(backup).flows)
		s.killNode(victim)
		after := len(s.table(backup).flows)
		s.restart(victim)
		began := time.Now()
		s.ready()
		s.equalTables(manyFlows)
		t.Logf("the node of %s was killed when the BACKUP had %d to %d flows, and all were there within %v", victim, before, after, time.Since(began))
		if now, _ := s.roles(); now != master {
			t.Fatalf("the role has moved to %s", now)
		}
	}
	flows.report()
}

// inTransfer waits until the repair of a BACKUP's table is under way.
func (s *stand) inTransfer(backup string) {
	s.t.Helper()
	s.eventually("the table is transferred", func(ctx context.Context) error {
		answer, err := s.Status(ctx, backup)
		switch y := answer.Sync; {
		case err != nil:
			return err
		case y.Repair != nil && y.Repair.Sent > 0, y.Complete:
			return nil
		}
		return errors.New("not yet")
	})
}

// fillable is the largest limit of a table that the test fills. To lower it would be felt
// in every network namespace of the machine.
const fillable = 1 << 19

// TestTableOfTheBackupIsFull fills the BACKUP's table with flows that are its own
// business. What the MASTER tells is refused, and both say so; when there is room again
// it is told again.
func TestTableOfTheBackupIsFull(t *testing.T) {
	s := newPairOf(t, lab.Options{Interval: unhurried})
	flows := s.traffic(calmLoad(100))
	s.equalTables(200)
	master, backup := s.roles()
	limit := s.status(backup).Sync.Limit
	if limit == 0 || limit > fillable {
		t.Skipf("this machine's tables take %d sessions", limit)
	}
	defer s.consistent()()
	own := map[string]string{lab.Alpha: "10.255.0.1", lab.Bravo: "10.255.0.2"}[backup]
	s.fill(backup, own, limit)
	const count = 100
	var refused []conntracksync.Flow
	for i := range uint16(count) {
		refused = append(refused, made(4000+i, 50_000+i))
	}
	s.enters(master, conntracksync.OpCreate, refused...)
	s.eventually("the BACKUP says that its table is full", func(ctx context.Context) error {
		answer, err := s.Status(ctx, backup)
		if err == nil && (answer.Sync.Complete || !strings.Contains(strings.Join(answer.Problems, "\n"), "nf_conntrack_max")) {
			err = fmt.Errorf("it says %q, complete: %v", answer.Problems, answer.Sync.Complete)
		}
		return err
	})
	s.conntrack(backup, "-D", "-s", own)
	t.Logf("equal %v after there was room", s.equalMade(count))
	s.ready()
	s.equalTables(200 + count)
	flows.report()
}
