package hostile

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// wallClock are the functions and methods of package time that make a wall-clock time
// of a monotonic one, or out of nothing, with the reason why a place may use them.
func wallClock() map[string]map[string]string {
	const certificate = "the validity that nobody looks at"
	return map[string]map[string]string{
		"time.Unix": {
			"conntracksync/peer/identity.go":    certificate,
			"conntracksync/ctnetlink/socket.go": "a deadline that has passed, whatever the time",
			"conntracksync/nfqueue/queue.go":    "a deadline that has passed, whatever the time",
			"router/probe/socket.go":            "a deadline that has passed, whatever the time",
			"conntracksync/pass.go":             "a moment that has passed, whatever the time",
		},
		"time.Date":      {"conntracksync/peer/identity.go": certificate},
		"time.Parse":     {},
		"time.UnixMilli": {}, "time.UnixMicro": {},
		".Unix":     {"conntracksync/lag.go": "the last minute's statistics, which a jump empties"},
		".UnixNano": {}, ".UnixMilli": {}, ".UnixMicro": {},
		".UTC": {}, ".AddDate": {}, ".Weekday": {}, ".YearDay": {},
	}
}

// TestNoWallClock holds that what runs on a node never computes with the wall clock, so
// that a clock that jumps decides nothing. (Kernel clocks cannot be set for a namespace,
// and the machine's own is not a test's to set.) That the pure packages read no clock
// at all is held by tests/arch; that certificates of the future are accepted, by
// conntracksync/peer.
//
// Times that cross a process boundary lose their monotonic reading; the elector's
// reports are such, and [TestReportsDecideNothingByTime] looks at them.
func TestNoWallClock(t *testing.T) {
	seen := 0
	for _, dir := range []string{"vrrp", "conntracksync", "router", "appliance/node"} {
		eachFile(t, dir, func(path string, file *ast.File) {
			seen++
			ast.Inspect(file, func(n ast.Node) bool {
				selector, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				name := "." + selector.Sel.Name
				if x, ok := selector.X.(*ast.Ident); ok && x.Name == "time" {
					name = "time" + name
				}
				if places, watched := wallClock()[name]; watched && places[path] == "" {
					t.Errorf("%s uses %s: no decision may hang on the wall clock", path, name)
				}
				return true
			})
		})
	}
	if seen < 50 {
		t.Errorf("looked at %d files only", seen)
	}
}

// TestReportsDecideNothingByTime holds that the times in the elector's reports reach
// the status and nothing else of the node.
func TestReportsDecideNothingByTime(t *testing.T) {
	times := map[string]bool{"Since": true, "HeardAt": true, "LeaseUntil": true}
	found := 0
	eachFile(t, "appliance/node", func(path string, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			if selector, ok := n.(*ast.SelectorExpr); ok && times[selector.Sel.Name] {
				found++
				x, isName := selector.X.(*ast.Ident)
				// The diagnosis is a part of the status, and so is what it remembers.
				forPeople := path == "appliance/node/status.go" || path == "appliance/node/diagnosis.go" || path == "appliance/node/observe.go"
				if !forPeople && (!isName || x.Name != "time") {
					t.Errorf("%s uses %s of a report: it is wall-clock time, for people only", path, selector.Sel.Name)
				}
			}
			return true
		})
	})
	if found == 0 {
		t.Error("nothing found: have the fields other names now?")
	}
}

// eachFile parses the files below a directory of the repository, without tests.
func eachFile(t *testing.T, dir string, look func(path string, file *ast.File)) {
	t.Helper()
	const root = "../.."
	err := filepath.WalkDir(filepath.Join(root, dir), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		short, err := filepath.Rel(root, path)
		look(short, file)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
