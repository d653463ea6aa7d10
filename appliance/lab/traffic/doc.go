// Package traffic is an adapter: it makes the live traffic that crosses a router
// under test, and measures what became of it.
//
// A Server echoes TCP, UDP and datagrams in packets of other protocols of IP, and sends
// downloads; a Client keeps many TCP sessions, UDP flows and one download busy, pings,
// has associations of SCTP, opens further connections at a rate, checks every byte that
// returns, and measures the silence of each flow. Both run as child processes in network
// namespaces of their own and talk JSON lines with the parent: ServerMain and
// ClientMain are the children's entry points, StartServer and StartClient the
// parent's side. It decides nothing: what silence is acceptable is the reader's
// business.
//
// # Silence
//
// The silence of a flow is the longest time without anything received on it
// within the observation window that the last mark began. A gap that is still open
// counts. It is therefore never shorter than the interval at which the flow sends.
// UDP shows what the network did. TCP adds its retransmission timer, which starts
// at 200 ms and doubles; no TCP setting is changed here.
//
// # Loss
//
// A TCP session is lost when it is reset or closed, when wrong bytes return, or
// when nothing returns within the client's patience. A flow of datagrams is lost when
// nothing returns for as long, when wrong bytes return, or when the server sees it
// from another address than before: its NAT mapping is gone then, though echoes
// still flow. A lost flow stays lost.
//
// # New connections
//
// A new connection is a handshake of TCP from a port that is free at that moment, and a
// reset as soon as the client has sent the last segment of it: four packets, and in the
// router five events of connection tracking until the flow is forgotten. What does not
// stand within three seconds has failed. Neither end has a goroutine for it, and the
// server's kernel hands it to nobody, so that the rate says what the router can do, and
// not what it costs to take a connection.
//
// # End of life
//
// A child ends when its standard input ends, that is with its parent however that
// one dies. This does not hang on the thread that started it, as a parent death
// signal would: that one fires when the thread ends, and threads that entered a
// network namespace do.
package traffic
