package kernel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"tandem/router"
)

// memory is what must survive the process, because the kernel has no place for
// it. It lies in the state directory as JSON.
type memory struct {
	// Sysctls holds by path what was before our first change.
	Sysctls map[string]original `json:"sysctls"`
	// Addresses are ours although the kernel cannot mark them: before Linux 5.18
	// addresses have no protocol.
	Addresses []router.PortAddress `json:"addresses"`
}

// original is a sysctl's value before Tandem and the one that Tandem gave it.
type original struct {
	Original string `json:"original"`
	Set      string `json:"set"`
}

func (m memory) clone() memory {
	return memory{Sysctls: maps.Clone(m.Sysctls), Addresses: slices.Clone(m.Addresses)}
}

func (m memory) equal(other memory) bool {
	return maps.Equal(m.Sysctls, other.Sysctls) && slices.Equal(m.Addresses, other.Addresses)
}

func loadMemory(path string) (memory, error) {
	m := memory{Sysctls: make(map[string]original)}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("read the original sysctls: %w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("read the original sysctls: %s is damaged, delete it to take today's values for the original ones: %w", path, err)
	}
	if m.Sysctls == nil {
		m.Sysctls = make(map[string]original)
	}
	return m, nil
}

// save writes the file so that a crash leaves the old one or the new one.
func (m memory) save(path string) error {
	b, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return fmt.Errorf("encode the original sysctls: %w", err)
	}
	if err := replaceFile(path, append(b, '\n')); err != nil {
		return fmt.Errorf("write the original sysctls: %w", err)
	}
	return nil
}

func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDirectory(filepath.Dir(path))
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// remember updates the memory before sysctls change: the original of those that
// are new, and what they are set to.
func (m *memory) remember(list []setting, values map[string]string) {
	for _, s := range list {
		value, exists := values[s.path]
		o, known := m.Sysctls[s.path]
		switch {
		case known:
			o.Set = s.value
		case exists:
			o = original{Original: value, Set: s.value}
		default:
			continue
		}
		m.Sysctls[s.path] = o
	}
}
