package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNetlink calls f with a handle on a namespace.
func (s *stand) inNetlink(namespace string, f func(h *netlink.Handle) error) {
	s.t.Helper()
	h, err := s.Namespace(namespace).Netlink()
	s.must(err)
	defer h.Close()
	s.must(f(h))
}

func (s *stand) deleteLink(node, name string) {
	s.t.Helper()
	s.inNetlink(node, func(h *netlink.Handle) error {
		l, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		return h.LinkDel(l)
	})
}

// returns waits until a link that was deleted is there again and up.
func (s *stand) returns(node, name string) {
	s.t.Helper()
	s.eventually(node+" makes "+name+" again", func(context.Context) error {
		h, err := s.Namespace(node).Netlink()
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName(name)
		if err == nil && l.Attrs().RawFlags&unix.IFF_UP == 0 {
			err = fmt.Errorf("%s is down", name)
		}
		return err
	})
}

// reconfigure gives a node another advertisement interval: the document is
// rewritten and the node process replaced, while its elector goes on.
func (s *stand) reconfigure(advertised, node string) {
	s.t.Helper()
	document, err := os.ReadFile(s.ConfigPath())
	s.must(err)
	key := regexp.MustCompile(`advertisement_interval: \w+`)
	document = key.ReplaceAll(document, []byte("advertisement_interval: "+advertised))
	if !bytes.Contains(document, []byte(advertised)) {
		s.t.Fatalf("the document has no advertisement interval:\n%s", document)
	}
	s.must(os.WriteFile(s.ConfigPath(), document, 0o600))
	s.killNode(node)
	s.restart(node)
}

// restart starts a node whose process has just been killed, and waits until it
// answers.
func (s *stand) restart(node string) {
	s.t.Helper()
	s.eventually(node+" starts again", func(ctx context.Context) error { return s.StartNode(ctx, node) })
	s.eventually(node+" answers", func(ctx context.Context) error {
		answer, err := s.Status(ctx, node)
		if err == nil && !answer.Elector.Alive {
			err = errors.New("it has no elector")
		}
		return err
	})
}

// killNode kills the node process and leaves its elector.
func (s *stand) killNode(node string) {
	s.t.Helper()
	pid := s.nodePID(node)
	s.signal(pid, unix.SIGKILL)
	s.gone(node, pid)
}
