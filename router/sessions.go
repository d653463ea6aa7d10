package router

import (
	"net/netip"
	"slices"

	"tandem/router/config"
)

// Numbers of transport protocols (IANA).
const (
	protocolTCP  = 6
	protocolUDP  = 17
	protocolGRE  = 47
	protocolSCTP = 132
)

// kernelHelper is one of the kernel's connection tracking helpers, with the port that
// IANA gave its protocol.
type kernelHelper struct {
	word, name string
	protocol   uint8
	port       uint16
	// ipv4Only tells that the kernel has it for IPv4 alone.
	ipv4Only bool
}

// kernelHelpers returns the helpers behind the words of a document, in a fixed order.
func kernelHelpers() []kernelHelper {
	return []kernelHelper{
		{word: config.HelperFTP, name: "ftp", protocol: protocolTCP, port: 21},
		{word: config.HelperH323, name: "Q.931", protocol: protocolTCP, port: 1720},
		{word: config.HelperH323, name: "RAS", protocol: protocolUDP, port: 1719},
		{word: config.HelperIRC, name: "irc", protocol: protocolTCP, port: 6667, ipv4Only: true},
		{word: config.HelperPPTP, name: "pptp", protocol: protocolTCP, port: 1723, ipv4Only: true},
		{word: config.HelperSIP, name: "sip", protocol: protocolTCP, port: 5060},
		{word: config.HelperSIP, name: "sip", protocol: protocolUDP, port: 5060},
		{word: config.HelperTFTP, name: "tftp", protocol: protocolUDP, port: 69},
	}
}

// helpers returns the helpers that networks ask for, each with the links of all of
// them.
func helpers(all []segment) []Helper {
	var list []Helper
	for _, k := range kernelHelpers() {
		for _, ipv6 := range []bool{false, true} {
			if ipv6 && k.ipv4Only {
				continue
			}
			h := Helper{Application: k.word, Name: k.name, IPv6: ipv6, Protocol: k.protocol, Port: k.port}
			for _, s := range all {
				if slices.Contains(s.helpers, k.word) {
					h.Links = append(h.Links, s.links(ipv6)...)
				}
			}
			if len(h.Links) > 0 {
				list = append(list, h)
			}
		}
	}
	return list
}

// links returns the links by which the packets of a segment's hosts come in, of one
// family: the hosts choose by which of its virtual routers.
func (s segment) links(ipv6 bool) []string {
	var links []string
	for _, c := range s.carriers() {
		if c.IPv6 == ipv6 && !slices.Contains(links, c.Link) {
			links = append(links, c.Link)
		}
	}
	return links
}

func unreplicated(all []segment) []Unreplicated {
	var list []Unreplicated
	for _, s := range all {
		if !s.unreplicated {
			continue
		}
		u := Unreplicated{Links: s.linksOfBoth(), Prefixes: []netip.Prefix{s.prefix}}
		if s.ipv6 != nil {
			u.Prefixes = append(u.Prefixes, s.ipv6.Prefix)
		}
		list = append(list, u)
	}
	return list
}

// linksOfBoth returns the links of both families.
func (s segment) linksOfBoth() []string {
	links := s.links(false)
	for _, link := range s.links(true) {
		if !slices.Contains(links, link) { // without virtual MAC addresses it is the same
			links = append(links, link)
		}
	}
	return links
}

func held(all []segment) []string {
	var links []string
	for _, s := range all {
		if s.held {
			links = append(links, s.linksOfBoth()...)
		}
	}
	return links
}
