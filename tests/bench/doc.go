// Package main is a test: it measures what clients feel when a router fails, with
// Tandem and with keepalived and conntrackd from Debian's packages, one after the
// other in the same run and in laboratories of the same shape.
//
// A coordinator keeps one worker per product and advertisement interval. A worker is
// a process in namespaces of its own (package lab) with a pair of routers, and does
// one experiment at a time when the coordinator says so; the other pair idles
// meanwhile. A worker that fails or takes too long is killed, and the kernel removes
// all it made; a new one takes its place and the failure is recorded.
//
// The replication is compared apart: loads of short flows, the transfer of many
// sessions to a new BACKUP, and takeovers with many sessions, each with its own pair.
//
// Every experiment is appended to a file of JSON lines, from which the table in the
// documentation is made. Of every row the newest session counts, so that parts can be
// measured again. No measured time is asserted: an experiment fails only when the
// role did not move or the traffic did not go on.
package main
