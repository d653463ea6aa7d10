package peer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func newKey(t *testing.T) *Identity {
	t.Helper()
	id, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestSaveAndLoad(t *testing.T) {
	id, path := newKey(t), filepath.Join(t.TempDir(), "node.key")
	if err := id.Save(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	loaded, err := LoadIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	if loaded.PublicKey() != id.PublicKey() || !strings.HasPrefix(id.PublicKey(), "tandem-p256:") {
		t.Errorf("saved %s, loaded %s", id.PublicKey(), loaded.PublicKey())
	}

	before, _ := os.ReadFile(path)
	err = newKey(t).Save(path)
	after, _ := os.ReadFile(path)
	if !errors.Is(err, fs.ErrExist) || !bytes.Equal(before, after) {
		t.Errorf("overwriting: %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	if err := id.Save(filepath.Join(t.TempDir(), "none", "node.key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

func TestLoadSaysWhatToDo(t *testing.T) {
	der := func(key any) []byte {
		b, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: b})
	}
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	for name, c := range map[string]struct {
		content []byte
		mode    os.FileMode
		want    string
	}{
		"missing":     {nil, 0, "tandem keygen --out"},
		"group reads": {der(newKey(t).key), 0o640, "chmod 600"},
		"world reads": {der(newKey(t).key), 0o604, "chmod 600"},
		"not PEM":     {[]byte("hello"), 0o600, "not a PEM file"},
		"damaged":     {pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: []byte{1}}), 0o600, "no key that"},
		"Ed25519":     {der(ed), 0o600, "not an ECDSA key on P-256"},
		"P-384":       {der(p384), 0o600, "not an ECDSA key on P-256"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "node.key")
			if c.mode != 0 {
				if err := os.WriteFile(path, c.content, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(path, c.mode); err != nil {
					t.Fatal(err)
				}
			}
			_, err := LoadIdentity(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want %q and the path", err, c.want)
			}
		})
	}
}

func TestParsePublicKey(t *testing.T) {
	good := newKey(t).PublicKey()
	if _, err := ParsePublicKey(good); err != nil {
		t.Fatal(err)
	}
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	other, _ := x509.MarshalPKIXPublicKey(&p384.PublicKey)
	for name, bad := range map[string]string{
		"empty":     "",
		"no prefix": strings.TrimPrefix(good, keyPrefix),
		"cut":       good[:len(good)-5],
		"newline":   good + "\n",
		"inside":    good[:40] + "\n" + good[40:],
		"changed":   good[:60] + "!" + good[61:],
		"P-384":     keyPrefix + base64.StdEncoding.EncodeToString(other),
	} {
		if _, err := ParsePublicKey(bad); err == nil || !strings.Contains(err.Error(), "tandem keygen") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParsePublicKey(f *testing.F) {
	id, err := GenerateKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(id.PublicKey())
	f.Add(keyPrefix)
	f.Fuzz(func(t *testing.T, text string) {
		key, err := ParsePublicKey(text)
		if err != nil {
			return
		}
		if again, err := formatPublicKey(key); err != nil || again != text {
			t.Errorf("%q is also %q (%v)", text, again, err)
		}
	})
}

func TestSharedSecret(t *testing.T) {
	a, b, c := newKey(t), newKey(t), newKey(t)
	secret := func(mine, theirs *Identity, label string) string {
		s, err := mine.SharedSecret(theirs.PublicKey(), label)
		if err != nil || len(s) != 32 {
			t.Fatalf("%d bytes, %v", len(s), err)
		}
		return string(s)
	}
	if secret(a, b, "x") != secret(b, a, "x") {
		t.Error("the two ends differ")
	}
	if secret(a, b, "x") == secret(a, b, "y") || secret(a, b, "x") == secret(a, c, "x") {
		t.Error("the label or the peer does not matter")
	}
	if _, err := a.SharedSecret("tandem-p256:", "x"); err == nil {
		t.Error("no key gives a secret")
	}
}
