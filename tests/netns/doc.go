// Package netns is tests: real nodes, real kernels and live traffic in network
// namespaces, while everything is done to the nodes that a machine room does.
//
// The program under test is built by the test itself and runs in the laboratory
// of appliance/lab, which needs root or user namespaces; where a machine grants
// neither the tests skip. With -race the program is built with it, too, and a
// race that a node reports fails the test.
//
// Nothing here sleeps: what shall happen is polled for, and what shall not
// happen is looked for in captures, whose time stamps are the kernel's.
package netns
