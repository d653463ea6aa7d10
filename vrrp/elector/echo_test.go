package elector

import (
	"bytes"
	"testing"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// echoReply is an echo reply as a raw socket gets it: with its IP header.
func echoReply(t testing.TB, kind ipv4.ICMPType, header int, data []byte) []byte {
	t.Helper()
	m := icmp.Message{Type: kind, Body: &icmp.Echo{ID: 7, Seq: 9, Data: data}}
	b, err := m.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	ip := make([]byte, header)
	ip[0] = 0x40 | byte(header/4)
	return append(ip, b...)
}

func TestParseReply(t *testing.T) {
	nonce := bytes.Repeat([]byte{0xa5}, nonceSize)
	good := echoReply(t, ipv4.ICMPTypeEchoReply, ipv4.HeaderLen, nonce)
	for name, tt := range map[string]struct {
		packet []byte
		want   bool
	}{
		"reply":                     {good, true},
		"with options":              {echoReply(t, ipv4.ICMPTypeEchoReply, 60, nonce), true},
		"request":                   {echoReply(t, ipv4.ICMPTypeEcho, ipv4.HeaderLen, nonce), false},
		"too short":                 {echoReply(t, ipv4.ICMPTypeEchoReply, ipv4.HeaderLen, nonce[1:]), false},
		"too long":                  {echoReply(t, ipv4.ICMPTypeEchoReply, ipv4.HeaderLen, append(nonce, 1)), false},
		"header longer than packet": {append([]byte{0x4f}, good[1:30]...), false},
		"header too short":          {append([]byte{0x44}, good[1:]...), false},
		"no more than a header":     {good[:ipv4.HeaderLen], false},
		"nothing":                   {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := parseReply(tt.packet)
			if ok != tt.want || ok && !bytes.Equal(got[:], nonce) {
				t.Errorf("got %x, %v, want %v", got, ok, tt.want)
			}
		})
	}
}

func FuzzParseReply(f *testing.F) {
	f.Add(echoReply(f, ipv4.ICMPTypeEchoReply, ipv4.HeaderLen, make([]byte, nonceSize)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if nonce, ok := parseReply(b); ok && !bytes.Contains(b, nonce[:]) {
			t.Errorf("%x is not in the packet", nonce)
		}
	})
}
