package node

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"tandem/router/uplink"
)

func TestSelectionIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), selectionName)
	if chosen, err := loadSelection(path); err != nil || len(chosen) > 0 {
		t.Errorf("without a file: %v, %v", chosen, err)
	}
	want := uplink.Selection{
		{Network: "office", Destination: netip.MustParsePrefix("0.0.0.0/0")}: "wan",
		{Network: "office", Destination: netip.MustParsePrefix("::/0")}:      "lte",
	}
	if err := saveSelection(path, want); err != nil {
		t.Fatal(err)
	}
	if got, err := loadSelection(path); err != nil || !maps.Equal(got, want) {
		t.Errorf("kept %v, want %v (%v)", got, want, err)
	}
	if err := os.WriteFile(path, []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadSelection(path); err == nil {
		t.Error("a damaged file is no error")
	}
}
