// Package hostile is tests: bad circumstances and bad people. Missing rights,
// interfaces and keys, foreign objects where ours should be, a second instance,
// documents that differ, and everybody who can send a packet or open a socket.
//
// Each case demands two things: one sentence that says what is wrong, where, and
// what to do, on standard error, in the log or among the problems of the status;
// and no harm: the kernel, the roles, the sessions and the live traffic through
// the pair stay as they were, or recover by themselves.
//
// The program under test is built by the test and runs in the laboratory of
// appliance/lab, which needs root or user namespaces; where a machine grants
// neither the tests skip. Nothing here sleeps: what shall happen is polled for.
package hostile
