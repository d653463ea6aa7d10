// Package elector is a shell: the elector process and the socket by which the
// node talks to it.
//
// The elector is small on purpose: a state machine, advert sockets and the lease,
// nothing else. It is one loop around its sockets and a timer, with real-time scheduling and
// locked memory where the system permits it, so that neither load nor garbage
// collection nor the death or upgrade of the node costs an advert.
package elector
