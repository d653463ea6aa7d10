package peer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	keyPrefix = "tandem-p256:"
	// pemType is the PEM label of PKCS #8 (RFC 5958 §5).
	pemType = "PRIVATE KEY"
	// secretLength is the length of a shared secret in bytes.
	secretLength = 32
)

// Identity is a node's private key.
type Identity struct {
	key         *ecdsa.PrivateKey
	public      string
	certificate tls.Certificate
}

// GenerateKey makes a new identity.
func GenerateKey() (*Identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return newIdentity(key)
}

// newIdentity wraps the key in a certificate, because TLS wants one. Its validity
// spans all times that X.509 can express; nobody looks at it.
func newIdentity(key *ecdsa.PrivateKey) (*Identity, error) {
	public, err := formatPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 §4.1.2.5
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	return &Identity{
		key: key, public: public,
		certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
	}, nil
}

// LoadIdentity reads a private key that Save has written. The errors say what to
// do when the file is missing, is readable by others, or holds something else.
func LoadIdentity(path string) (*Identity, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no private key at %s, make one with `tandem keygen --out %s`: %w", path, path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("the private key %s is accessible to others (mode %04o): run `chmod 600 %s`, or make a new one if it may have been read", path, mode, path)
	}
	b := make([]byte, 16<<10) // ten times what it needs
	n, err := f.Read(b)
	if err != nil {
		return nil, fmt.Errorf("read private key %s: %w", path, err)
	}
	id, err := parseIdentity(b[:n])
	if err != nil {
		return nil, fmt.Errorf("%s holds no key that `tandem keygen` makes: %w", path, err)
	}
	return id, nil
}

func parseIdentity(b []byte) (*Identity, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemType {
		return nil, fmt.Errorf("not a PEM file with a %q", pemType)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("not an ECDSA key on P-256")
	}
	return newIdentity(key)
}

// Save writes the private key as PKCS #8 in PEM, readable by the owner only. An
// existing file stays as it is and the error is fs.ErrExist.
func (id *Identity) Save(path string) error {
	der, err := x509.MarshalPKCS8PrivateKey(id.key)
	if err != nil {
		return fmt.Errorf("encode private key: %w", err)
	}
	b := pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})
	if err := writeOnce(path, b); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s exists already and a key is never overwritten, choose another file or move it away: %w", path, fs.ErrExist)
		}
		return fmt.Errorf("save private key: %w", err)
	}
	return nil
}

// writeOnce makes the file whole or not at all, also across a crash.
func writeOnce(path string, b []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".key-*") // made with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the first error says more
		}
	}()
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = renameNew(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// renameNew is rename that does not replace. File systems without that flag get a
// check first, which is good enough against an operator's slip.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fs.ErrExist, err)
	}
	return os.Rename(from, to)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// PublicKey returns the text that stands as public_key in the document:
// "tandem-p256:" and the SubjectPublicKeyInfo in DER, in standard base64.
func (id *Identity) PublicKey() string { return id.public }

func formatPublicKey(key *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode public key: %w", err)
	}
	return keyPrefix + base64.StdEncoding.EncodeToString(der), nil
}

// ParsePublicKey reads what PublicKey returns.
func ParsePublicKey(text string) (*ecdsa.PublicKey, error) {
	encoded, ok := strings.CutPrefix(text, keyPrefix)
	if !ok {
		return nil, fmt.Errorf("a public key begins with %q: copy the line that `tandem keygen` printed", keyPrefix)
	}
	der, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return nil, fmt.Errorf("the public key is damaged, copy the whole line that `tandem keygen` printed: %w", err)
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("the public key is damaged, copy the whole line that `tandem keygen` printed: %w", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the public key is not an ECDSA key on P-256: use the line that `tandem keygen` printed")
	}
	// There is one text for each key, so that texts can be compared.
	if again, err := formatPublicKey(key); err != nil || again != text {
		return nil, errors.New("the public key is not in the form that `tandem keygen` prints: copy that line")
	}
	return key, nil
}

// SharedSecret returns 32 bytes that only this node and the owner of the peer's
// public key can compute, different for each label: HKDF-SHA256 (RFC 5869) of the
// static Diffie-Hellman secret.
func (id *Identity) SharedSecret(peer, label string) ([]byte, error) {
	theirs, err := ParsePublicKey(peer)
	if err != nil {
		return nil, err
	}
	public, err := theirs.ECDH()
	if err != nil {
		return nil, fmt.Errorf("use peer's key: %w", err)
	}
	private, err := id.key.ECDH()
	if err != nil {
		return nil, fmt.Errorf("use own key: %w", err)
	}
	secret, err := private.ECDH(public)
	if err != nil {
		return nil, fmt.Errorf("agree on secret: %w", err)
	}
	return hkdf.Key(sha256.New, secret, nil, label, secretLength)
}
