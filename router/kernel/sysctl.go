package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netns"
)

// procSys is where sysctls are files.
const procSys = "/proc/sys"

func readSysctl(path string) (string, error) {
	b, err := os.ReadFile(filepath.Join(procSys, path))
	return strings.TrimSpace(string(b)), err
}

func writeSysctl(path, value string) error {
	// No O_CREATE or O_TRUNC: these are not files.
	f, err := os.OpenFile(filepath.Join(procSys, path), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// readSysctls puts the values of those that exist into the map.
func readSysctls(paths []string, values map[string]string) error {
	for _, p := range paths {
		v, err := readSysctl(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read sysctl %s: %w", p, err)
		}
		values[p] = v
	}
	return nil
}

// inNamespace runs f on a thread that sees the /proc/sys/net of the network
// namespace in which the Reconciler was made. Usually that is the only one.
func (r *Reconciler) inNamespace(f func() error) error {
	runtime.LockOSThread()
	here, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open network namespace: %w", err)
	}
	same := here.Equal(r.namespace)
	err = here.Close()
	if err == nil && same {
		err = f()
	}
	runtime.UnlockOSThread()
	if same || err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		// Stays locked, so that the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := netns.Set(r.namespace); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}
