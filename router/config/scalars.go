package config

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

const (
	minPriority = 100
	maxPriority = int(OwnerPriority)
	// minInterval and maxInterval bound the advertisement interval: the field on
	// the wire counts centiseconds in 12 bits (RFC 9568 §5.2.7).
	minInterval = 10 * time.Millisecond
	maxInterval = 4095 * centisecond
	centisecond = 10 * time.Millisecond

	maxPreemptDelay    = 1000 * time.Second
	minAnnounceRefresh = time.Second
	maxAnnounceRefresh = time.Hour

	maxName = 32
	// maxInterfaceName is IFNAMSIZ less the terminating zero.
	maxInterfaceName = 15
	// virtualLinkPrefix begins the names of the macvlans that the router makes.
	virtualLinkPrefix = "vmac"

	publicKeyPrefix = "tandem-p256:"
	// publicKeySize is the length of a P-256 key in SubjectPublicKeyInfo form.
	publicKeySize = 91
)

// text decodes a string.
func (d decoder) text(path string, node ast.Node, want string) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode:
		d.add(path, fmt.Sprintf("must be %s, but is a number; if %s is meant as text, put it in quotes",
			want, shorten(n.Token.Value)))
	case *ast.BoolNode:
		d.add(path, fmt.Sprintf("must be %s, but is a truth value; if %s is meant as text, put it in quotes",
			want, n.Token.Value))
	default:
		d.kind(path, node, want)
	}
	return "", false
}

// number decodes a decimal integer from low to high, or reports and returns 0.
func (d decoder) number(path string, node ast.Node, low, high int) int {
	want := fmt.Sprintf("a whole number from %d to %d", low, high)
	n, ok := node.(*ast.IntegerNode)
	if !ok {
		d.kind(path, node, want)
		return 0
	}
	// Octal, hexadecimal, +1 and 1_000 are what YAML makes of a slip.
	value, err := strconv.Atoi(n.Token.Value)
	if n.Token.Type != token.IntegerType || err != nil || strconv.Itoa(value) != n.Token.Value || value < low || value > high {
		d.add(path, fmt.Sprintf("must be %s in decimal digits, but is %s", want, shorten(n.Token.Value)))
		return 0
	}
	return value
}

func (d decoder) vrid(path string, node ast.Node) uint8 {
	return uint8(d.number(path, node, 1, 255))
}

func (d decoder) version(path string, node ast.Node) int {
	n, ok := node.(*ast.IntegerNode)
	if !ok {
		d.kind(path, node, "the number "+strconv.Itoa(Version))
		return 0
	}
	if n.Token.Value != strconv.Itoa(Version) {
		d.add(path, fmt.Sprintf("is %s, but this program reads version %d only; convert the document or use another release",
			shorten(n.Token.Value), Version))
		return 0
	}
	return Version
}

func (d decoder) truth(path string, node ast.Node) bool {
	n, ok := node.(*ast.BoolNode)
	if !ok {
		d.kind(path, node, "true or false")
		return false
	}
	return n.Value
}

// choice decodes one of several words.
func (d decoder) choice(path string, node ast.Node, words ...string) string {
	want := strings.Join(words, " or ")
	text, ok := d.text(path, node, want)
	if ok && !slices.Contains(words, text) {
		d.add(path, fmt.Sprintf("must be %s, but is %q", want, shorten(text)))
		return ""
	}
	return text
}

// interval decodes the advertisement interval.
func (d decoder) interval(path string, node ast.Node) time.Duration {
	value, _ := d.duration(path, node, "a duration from 10ms to 40.95s in whole steps of 10ms, such as 100ms", func(v time.Duration) bool {
		return v >= minInterval && v <= maxInterval && v%centisecond == 0
	})
	return value
}

func (d decoder) preemptDelay(path string, node ast.Node) time.Duration {
	value, _ := d.duration(path, node, "a duration from 0s to 1000s, such as 30s", func(v time.Duration) bool {
		return v >= 0 && v <= maxPreemptDelay
	})
	return value
}

func (d decoder) announceRefresh(path string, node ast.Node) time.Duration {
	value, _ := d.duration(path, node, "a duration from 1s to 1h, such as 60s, or 0s for never", func(v time.Duration) bool {
		return v == 0 || v >= minAnnounceRefresh && v <= maxAnnounceRefresh
	})
	return value
}

func (d decoder) duration(path string, node ast.Node, want string, valid func(time.Duration) bool) (time.Duration, bool) {
	if n, ok := node.(*ast.IntegerNode); ok {
		d.add(path, fmt.Sprintf("must be %s; the number %s lacks its unit", want, shorten(n.Token.Value)))
		return 0, false
	}
	text, ok := d.text(path, node, want)
	if !ok {
		return 0, false
	}
	value, err := time.ParseDuration(text)
	if err != nil || !valid(value) {
		d.add(path, fmt.Sprintf("must be %s, but is %q", want, shorten(text)))
		return 0, false
	}
	return value, true
}

// name decodes a DNS label in lower case.
func (d decoder) name(path string, node ast.Node) string {
	name, ok := d.text(path, node, "a name")
	if !ok {
		return ""
	}
	valid := name != "" && len(name) <= maxName && name[0] != '-' && name[len(name)-1] != '-'
	for _, char := range name {
		valid = valid && (char >= 'a' && char <= 'z' || char >= '0' && char <= '9' || char == '-')
	}
	if !valid {
		d.add(path, fmt.Sprintf("%q is not a name: use small letters, digits and inner hyphens, at most %d characters",
			shorten(name), maxName))
		return ""
	}
	return name
}

// interfaceName decodes the name of a physical interface or VLAN.
func (d decoder) interfaceName(path string, node ast.Node) string {
	name, ok := d.text(path, node, "the name of an interface")
	if !ok {
		return ""
	}
	valid := name != "" && len(name) <= maxInterfaceName && strings.Trim(name, ".") != "" && name[0] != '-'
	for _, char := range name {
		letter := char >= 'a' && char <= 'z' || char >= 'A' && char <= 'Z'
		valid = valid && (letter || char >= '0' && char <= '9' || strings.ContainsRune("._-", char))
	}
	switch {
	case !valid:
		d.add(path, fmt.Sprintf("%q is not the name of an interface: use at most %d letters, digits, dots, hyphens and underscores",
			shorten(name), maxInterfaceName))
	case name == "lo", name == "all", name == "default":
		d.add(path, fmt.Sprintf("%q cannot be a port; name the interface that leads to this segment", name))
	case strings.HasPrefix(name, virtualLinkPrefix):
		d.add(path, fmt.Sprintf("%q could be one of the router's own virtual links; use an interface whose name does not begin with %q",
			name, virtualLinkPrefix))
	default:
		return name
	}
	return ""
}

// publicKey checks the form only; the key itself is for those who use it.
func (d decoder) publicKey(path string, node ast.Node) string {
	const want = "the line that `tandem keygen` prints on the node, which begins with " + publicKeyPrefix
	text, ok := d.text(path, node, want)
	if !ok {
		return ""
	}
	encoded, ok := strings.CutPrefix(text, publicKeyPrefix)
	if !ok {
		d.add(path, "must be "+want)
		return ""
	}
	key, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || base64.StdEncoding.EncodeToString(key) != encoded || len(key) != publicKeySize {
		d.add(path, "is damaged; copy again "+want)
		return ""
	}
	return text
}
