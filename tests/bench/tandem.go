package main

import (
	"context"
	"errors"
	"time"

	"tandem/appliance/lab"
)

// tandem is a pair of Tandem's nodes.
type tandem struct{ *lab.Lab }

func newTandem(ctx context.Context, advert setting, dir, binary string) (*tandem, error) {
	l, err := lab.New(ctx, lab.Options{Binary: binary, Dir: dir, Interval: advert.interval()})
	return &tandem{l}, err
}

func (t *tandem) ready(ctx context.Context) error { return t.WaitReady(ctx) }

// role asks a node; one that does not answer within a second has none.
func (t *tandem) role(ctx context.Context, node string) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	said, err := t.Status(ctx, node)
	if err != nil {
		return ""
	}
	return said.Role
}

func (t *tandem) replicated(ctx context.Context, node string) (int, error) {
	said, err := t.Status(ctx, node)
	if err != nil {
		return 0, err
	}
	if !said.Sync.Complete {
		return 0, errors.New("the session tables are not equal yet")
	}
	return said.Sync.Sessions, nil
}

func (t *tandem) masterships(ctx context.Context) (uint64, error) {
	var newest uint64
	for _, node := range nodes() {
		said, err := t.Status(ctx, node)
		if err != nil {
			return 0, err
		}
		newest = max(newest, said.Term)
	}
	return newest, nil
}

func (t *tandem) inject(ctx context.Context, fault lab.Fault, node string) (time.Time, error) {
	return t.Inject(ctx, fault, node)
}

func (t *tandem) heal(ctx context.Context, fault lab.Fault, node string) error {
	return t.Heal(ctx, fault, node)
}
