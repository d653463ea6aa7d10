package vrrp

import (
	"bytes"
	"testing"
	"time"
)

// sealed is an authenticated advert as it arrives, with padding behind it.
func sealed(t testing.TB, c *AdvertChannel, a Advertisement, h Header) []byte {
	t.Helper()
	b, err := a.Append([]byte("kept"), h, ChecksumPlain)
	if err != nil {
		t.Fatal(err)
	}
	return append(c.Seal(b, 4, h)[4:], 0, 0, 0)
}

func TestAdvertChannel(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	a, h := advertisement4(), header4()
	send, receive := NewAdvertChannel(key, 1), NewAdvertChannel(key, 2)
	now := epoch()
	check := func(what string, payload []byte, h Header, alive uint64, want AdvertVerdict) {
		t.Helper()
		parsed, _, why := ParseAdvertisement(payload, h)
		if why != DropNone {
			t.Fatalf("%s: dropped for %v", what, why)
		}
		if got := receive.Open(now, payload, parsed, h, alive, quiet); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	first := sealed(t, send, a, h)
	check("the first", first, h, 0, AdvertTrusted)
	check("the first again", first, h, 0, AdvertReplayed)
	check("the next", sealed(t, send, a, h), h, 0, AdvertTrusted)
	check("IPv6", sealed(t, send, advertisement6(), header6()), header6(), 0, AdvertTrusted)
	plain, err := a.Append(nil, h, ChecksumPlain)
	if err != nil {
		t.Fatal(err)
	}
	check("without authenticator", plain, h, 0, AdvertUnsigned)
	check("padded", append(bytes.Clone(plain), make([]byte, 40)...), h, 0, AdvertUnsigned)
	check("another key", sealed(t, NewAdvertChannel(bytes.Repeat([]byte{8}, 32), 1), a, h), h, 0, AdvertForged)
	elsewhere := h
	elsewhere.Source = elsewhere.Source.Next()
	check("from another source", sealed(t, send, a, h), elsewhere, 0, AdvertForged)
	loud := a
	loud.Priority = 254
	grafted, err := loud.Append(nil, h, ChecksumPlain)
	if err != nil {
		t.Fatal(err)
	}
	check("another advert", append(grafted, sealed(t, send, a, h)[len(plain):]...), h, 0, AdvertForged)
	check("our own", sealed(t, NewAdvertChannel(key, 2), a, h), h, 0, AdvertReplayed)

	// A new process of the peer is believed when heartbeats vouch for it, or when the
	// old one has been silent; the old one never again.
	second := NewAdvertChannel(key, 3)
	check("another process while the first speaks", sealed(t, second, a, h), h, 0, AdvertReplayed)
	check("another process that heartbeats prove", sealed(t, second, a, h), h, 3, AdvertTrusted)
	check("the first process again", sealed(t, send, a, h), h, 0, AdvertReplayed)
	now = now.Add(time.Hour)
	check("the first process after silence", sealed(t, send, a, h), h, 0, AdvertReplayed)
	third := NewAdvertChannel(key, 4)
	check("a process that heartbeats deny", sealed(t, third, a, h), h, 3, AdvertReplayed)
	check("a third process after silence", sealed(t, third, a, h), h, 0, AdvertTrusted)
}

func TestAdvertVerdictNames(t *testing.T) {
	seen := map[string]bool{}
	for v := AdvertTrusted; v <= AdvertReplayed; v++ {
		if name := v.String(); seen[name] || name == "unknown" {
			t.Errorf("verdict %d is called %q", v, name)
		} else {
			seen[name] = true
		}
	}
}

func FuzzAdvertChannelOpen(f *testing.F) {
	key := bytes.Repeat([]byte{7}, 32)
	f.Add(sealed(f, NewAdvertChannel(key, 1), advertisement4(), header4()))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, payload []byte) {
		a, _, why := ParseAdvertisement(payload, header4())
		if why != DropNone {
			return
		}
		c := NewAdvertChannel(bytes.Repeat([]byte{9}, 32), 5)
		if got := c.Open(epoch(), payload, a, header4(), 0, quiet); got == AdvertTrusted {
			t.Fatalf("trusted %x without the key", payload)
		}
	})
}
