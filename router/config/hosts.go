package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml/ast"
)

const (
	// maxHostName and maxLabel are RFC 1035's, §2.3.4.
	maxHostName = 253
	maxLabel    = 63
	maxURL      = 1024
	maxBody     = 256

	inQuotes = "; put an address with colons in quotes here"
)

// host decodes the address or name of a host that is asked.
func (d decoder) host(path string, node ast.Node) string {
	const want = "an address or a name"
	text, ok := d.textOfHost(path, node, want)
	if !ok {
		return ""
	}
	return d.parseHost(path, text, want+", such as 192.0.2.1 or www.example.com")
}

// textOfHost takes note of what YAML makes of some places of colons between braces.
func (d decoder) textOfHost(path string, node ast.Node, want string) (string, bool) {
	if kind := kindOf(node); kind == aMapping {
		d.add(path, "must be "+want+", but is "+kind+inQuotes)
		return "", false
	}
	return d.text(path, node, want)
}

func (d decoder) parseHost(path, text, want string) string {
	address, err := netip.ParseAddr(text)
	if err != nil {
		name, ok := nameOfHost(text)
		if !ok {
			d.add(path, fmt.Sprintf("%q is not %s", shorten(text), want))
		}
		return name
	}
	before := len(d.faults)
	if address = d.plain(path, address); len(d.faults) > before {
		return ""
	}
	if !askable(address) {
		d.add(path, fmt.Sprintf("%s is not an address that an uplink leads to; give that of a host outside", address))
		return ""
	}
	return address.String()
}

// hostPort decodes HOST:PORT.
func (d decoder) hostPort(path string, node ast.Node) (string, uint16) {
	const want = "HOST:PORT"
	text, ok := d.textOfHost(path, node, want)
	if !ok {
		return "", 0
	}
	host, port, ok := splitHostPort(text)
	if !ok {
		d.add(path, fmt.Sprintf("%q is not %s, such as www.example.com:443 or [2001:db8::1]:443", shorten(text), want))
		return "", 0
	}
	if host = d.parseHost(path, host, "HOST:PORT, such as www.example.com:443"); host == "" {
		return "", 0
	}
	return host, port
}

// splitHostPort takes the brackets from an IPv6 address, and wants them.
func splitHostPort(text string) (string, uint16, bool) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return "", 0, false
	}
	host, end := text[:i], text[i+1:]
	port, err := strconv.ParseUint(end, 10, 16)
	if err != nil || port == 0 || strconv.FormatUint(port, 10) != end {
		return "", 0, false
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host, ok = strings.CutSuffix(inner, "]")
		return host, uint16(port), ok && strings.Contains(host, ":")
	}
	return host, uint16(port), host != "" && !strings.Contains(host, ":")
}

// hostName decodes a name that is to be resolved.
func (d decoder) hostName(path string, node ast.Node) string {
	text, ok := d.text(path, node, "a name")
	if !ok {
		return ""
	}
	name, ok := nameOfHost(text)
	if !ok {
		d.add(path, fmt.Sprintf("%q is not a name such as www.example.com", shorten(text)))
	}
	return name
}

// nameOfHost returns a domain name in lower case and without the final dot. Its last label is not
// a number: that would be a slip in an address.
func nameOfHost(text string) (string, bool) {
	name := strings.ToLower(strings.TrimSuffix(text, "."))
	if name == "" || len(name) > maxHostName {
		return "", false
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return "", false
		}
		for _, char := range label {
			if (char < 'a' || char > 'z') && (char < '0' || char > '9') && char != '-' && char != '_' {
				return "", false
			}
		}
	}
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return "", false
	}
	return name, true
}

// url decodes what is asked by HTTP or HTTPS.
func (d decoder) url(path string, node ast.Node) string {
	const want = "a URL such as https://www.example.com/"
	text, ok := d.text(path, node, want)
	if !ok {
		return ""
	}
	for _, char := range text {
		ok = ok && char > ' ' && char < 0x7f
	}
	_, rest, scheme := cutScheme(text)
	switch {
	case !ok || !scheme || len(text) > maxURL:
		d.add(path, fmt.Sprintf("%q is not %s of printable ASCII characters, at most %d", shorten(text), want, maxURL))
		return ""
	case strings.Contains(text, "#"):
		d.add(path, "has a fragment (#), which no server gets to see; remove it")
		return ""
	}
	authority := rest[:endOfAuthority(rest)]
	if strings.Contains(authority, "@") {
		d.add(path, "has a user's name; the document is no place for secrets, so ask for something that is open to all")
		return ""
	}
	if d.parseHost(path, HostOfURL(text), want) == "" {
		return ""
	}
	if host, port := splitAuthority(authority); port != "" {
		if _, _, ok := splitHostPort(host + ":" + port); !ok {
			d.add(path, fmt.Sprintf("%q is not a port; give one from 1 to 65535", shorten(port)))
			return ""
		}
	}
	return text
}

func cutScheme(url string) (scheme, rest string, ok bool) {
	for _, scheme := range []string{"http", "https"} {
		if rest, ok := strings.CutPrefix(url, scheme+"://"); ok {
			return scheme, rest, true
		}
	}
	return "", "", false
}

func endOfAuthority(rest string) int {
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		return i
	}
	return len(rest)
}

// splitAuthority leaves an IPv6 address its brackets. The port is empty if there is none.
func splitAuthority(authority string) (host, port string) {
	if i := strings.LastIndexByte(authority, ':'); i > strings.LastIndexByte(authority, ']') {
		return authority[:i], authority[i+1:]
	}
	return authority, ""
}

// HostOfURL returns the name or address in the URL of an http target.
func HostOfURL(url string) string {
	_, rest, _ := cutScheme(url)
	host, _ := splitAuthority(rest[:endOfAuthority(rest)])
	if inner, ok := strings.CutPrefix(host, "["); ok {
		return strings.TrimSuffix(inner, "]")
	}
	return host
}

// Address returns the address that a target names, or none if that is a name to be resolved.
func (t Target) Address() netip.Addr {
	host := t.Host
	switch t.Kind {
	case ProbeDNS:
		return netip.Addr{}
	case ProbeHTTP:
		host = HostOfURL(host)
	}
	address, _ := netip.ParseAddr(host)
	return address
}

// body decodes a text that an answer must contain.
func (d decoder) body(path string, node ast.Node) string {
	text, ok := d.text(path, node, "a text")
	if !ok {
		return ""
	}
	printable := text != "" && len(text) <= maxBody
	for _, char := range text {
		printable = printable && (unicode.IsPrint(char) && char != unicode.ReplacementChar)
	}
	if !printable {
		d.add(path, fmt.Sprintf("must be a text of printable characters on one line, 1 to %d bytes of them", maxBody))
		return ""
	}
	return text
}
