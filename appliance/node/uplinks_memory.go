package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"tandem/router/uplink"
)

// selectionName is the file in which a node keeps the choice of uplinks over a restart.
const selectionName = "uplinks.json"

// keptChoice is one entry of that file.
type keptChoice struct {
	Network     string       `json:"network"`
	Destination netip.Prefix `json:"destination"`
	Uplink      string       `json:"uplink"`
}

func loadSelection(path string) (uplink.Selection, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the last choice of uplinks: %w", err)
	}
	var kept []keptChoice
	if err := json.Unmarshal(text, &kept); err != nil {
		return nil, fmt.Errorf("read the last choice of uplinks from %s: %w", path, err)
	}
	chosen := make(uplink.Selection, len(kept))
	for _, k := range kept {
		chosen[uplink.Path{Network: k.Network, Destination: k.Destination}] = k.Uplink
	}
	return chosen, nil
}

// saveSelection replaces the file at once, so that a process that dies leaves the old one or the new one.
func saveSelection(path string, chosen uplink.Selection) error {
	kept := make([]keptChoice, 0, len(chosen))
	for p, name := range chosen {
		kept = append(kept, keptChoice{p.Network, p.Destination, name})
	}
	text, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	fresh := path + ".new"
	if err := os.WriteFile(fresh, text, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}
