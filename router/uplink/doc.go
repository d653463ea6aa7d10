// Package uplink is pure: it selects, for each network and each of its routes, the uplink
// that new flows take. Results of probes and the state of links go in; a [Selection], what is to
// be done with the flows of an uplink that was left, and the evidence come out.
//
// A monitor asks one thing, a gateway or a target, again and again; paths that ask the same share it. What
// the monitors of an uplink say, its link and its address make a candidate of a path unknown, dead, degraded or
// working. Targets count for more than the gateway: a gateway alone neither saves an uplink beyond which everything is
// dead nor condemns one that leads to the targets. But when it falls silent, the targets are asked at once,
// and that none of them answers is enough.
//
// A path takes the cheapest candidate that works, and leaves it
//   - at once, when it is dead and another one works; a MASTER whose peer could take over waits a
//     moment, because a change of the role keeps all sessions;
//   - by plan, when a cheaper one works or when it is degraded and another one is not; the flows then have time
//     to end where they are;
//   - in any case, when it has become too dear or is the network's no more.
//
// It stays when there is no better place, when another is only as good, and when another has recovered
// too recently. When a target dies for all uplinks, each is asked once more before anything moves, and nothing does.
//
// Flows that are bound to an uplink which is dead, or whose time there is over, are a [Duty] of the MASTER for as long
// as that is so, whoever was MASTER when the path moved. And what is dead here and wanted speaks against this
// node in the comparison with its peer; see [Selector.Failures].
package uplink
