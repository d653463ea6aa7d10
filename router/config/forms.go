package config

import (
	"net/netip"
	"strconv"
	"strings"
)

// former is a value that is written in another form than that of its fields.
type former interface{ form() any }

// targetForm is how a [Target] is written: the key is its kind.
type targetForm struct {
	ICMP   string `yaml:"icmp"`
	TCP    string `yaml:"tcp"`
	DNS    string `yaml:"dns"`
	HTTP   string `yaml:"http"`
	Status *int   `yaml:"status"`
	Body   string `yaml:"body"`
}

func (t Target) form() any {
	f := targetForm{Body: t.Body}
	switch t.Kind {
	case ProbeICMP:
		f.ICMP = t.Host
	case ProbeTCP:
		f.TCP = joinHostPort(t.Host, t.Port)
	case ProbeDNS:
		f.DNS = t.Host
	case ProbeHTTP:
		f.HTTP = t.Host
	}
	if t.Status != 0 {
		f.Status = &t.Status
	}
	return f
}

// Asked returns what is asked without its kind, such as "192.0.2.1:443".
func (t Target) Asked() string {
	if t.Kind == ProbeTCP {
		return joinHostPort(t.Host, t.Port)
	}
	return t.Host
}

// String returns the kind and what is asked, such as "tcp 192.0.2.1:443".
func (t Target) String() string { return t.Kind + " " + t.Asked() }

func joinHostPort(host string, port uint16) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(int(port))
}

// forwardForm is how a [Forward] is written.
type forwardForm struct {
	Protocol string         `yaml:"protocol"`
	Port     PortRange      `yaml:"port"`
	To       netip.AddrPort `yaml:"to"`
	Address  netip.Addr     `yaml:"address"`
	From     []netip.Prefix `yaml:"from"`
}

func (f Forward) form() any {
	return forwardForm{f.Protocol, PortRange{f.First, f.Last}, f.To, f.Address, f.From}
}

// String returns the range as it is written.
func (p PortRange) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return strconv.Itoa(int(p.First)) + "-" + strconv.Itoa(int(p.Last))
}

func (p PortRange) overlaps(other PortRange) bool {
	return p.First <= other.Last && other.First <= p.Last
}

// bitRateUnits are the units of a [BitRate], the largest first.
func bitRateUnits() []bitRateUnit {
	return []bitRateUnit{{"Gbit", 1e9}, {"Mbit", 1e6}, {"kbit", 1e3}}
}

type bitRateUnit struct {
	name string
	bits BitRate
}

// String returns the rate in the largest unit that leaves no fraction.
func (r BitRate) String() string {
	for _, unit := range bitRateUnits() {
		if r%unit.bits == 0 {
			return strconv.FormatUint(uint64(r/unit.bits), 10) + unit.name
		}
	}
	return strconv.FormatUint(uint64(r), 10) + "bit"
}
