package node

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"tandem/appliance/status"
	"tandem/router/config"
)

// reload puts the document into force as it is on disk now, while traffic flows. What it
// cannot do it refuses before anything is touched; if the kernel refuses, the document before stays in force.
func (n *node) reload(ctx context.Context) (status.Reload, error) {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	doc, err := loadDocument(n.opts.Document)
	if err != nil {
		return status.Reload{}, err
	}
	before := n.current.Load()
	if err := lasting(before.document, doc); err != nil {
		return status.Reload{}, fmt.Errorf("%s was not put into force: %w", n.opts.Document, err)
	}
	next, err := newSetup(doc, n.opts.Name)
	if err != nil {
		return status.Reload{}, err
	}
	result := status.Reload{Before: before.hash, Hash: next.hash}
	if next.hash == before.hash {
		return result, nil
	}
	// Whoever asked may go away: a document is not put into force by half.
	ctx = context.WithoutCancel(ctx)
	if err := n.install(ctx, next); err != nil {
		return result, errors.Join(fmt.Errorf("the document was not put into force: %w", err), n.install(ctx, before))
	}
	n.log.Info("a changed document is in force", "hash", status.Short(next.hash), "before", status.Short(before.hash))
	n.events.add(status.Event{Kind: status.EventDocument, Reason: fmt.Sprintf(
		"the document %s is in force, instead of %s", status.Short(next.hash), status.Short(before.hash))})
	return result, nil
}

// install makes everything follow a document: the kernel first, so that there are links for the adverts.
func (n *node) install(ctx context.Context, s *setup) error {
	if err := n.uplinks.reconfigure(s); err != nil {
		return err
	}
	if n.sync != nil {
		n.sync.reconfigure()
	}
	if !n.reconcile(ctx) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.state.kernelErr == "" {
			return errors.New("the kernel could not be brought into its state in time")
		}
		return errors.New(n.state.kernelErr)
	}
	cfg, err := n.electorConfiguration()
	if err != nil {
		return err
	}
	n.elector.configure(cfg)
	n.judge(time.Now())
	return nil
}

// lasting names the first part of a document that differs and that a running node cannot
// change.
func lasting(before, after *config.Document) error {
	for _, part := range []struct {
		key           string
		before, after any
	}{
		{"group", before.Group, after.Group},
		{"election.advertisement_interval", before.Election.AdvertisementInterval, after.Election.AdvertisementInterval},
		{"members", memberKeys(before), memberKeys(after)},
		{"ha_link", before.HALink, after.HALink},
		{"second_ha_link", before.SecondHALink, after.SecondHALink},
	} {
		if !reflect.DeepEqual(part.before, part.after) {
			return fmt.Errorf("%s cannot change while the node runs; restart the node with the new document, or put back what was there", part.key)
		}
	}
	return nil
}

// memberKeys are who the members are.
func memberKeys(doc *config.Document) map[string]string {
	keys := make(map[string]string, len(doc.Members))
	for _, m := range doc.Members {
		keys[m.Name] = m.PublicKey
	}
	return keys
}
