package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Parse reads a document in YAML or JSON. name is the name of the file, for the
// messages only. Defaults are filled in, so that what Parse returns is complete
// and free of contradictions.
//
// The error is always a [*Faults], which holds everything that is wrong.
func Parse(name string, text []byte) (*Document, error) {
	r := newReport()
	node := root(text, r)
	if node == nil {
		return nil, r.failure(name)
	}
	d := decoder{r}
	doc := d.document(node)
	normalize(doc, r)
	resolveUplinks(doc, r)
	validate(doc, r)
	if err := r.failure(name); err != nil {
		return nil, err
	}
	return doc, nil
}

// decoder turns syntax into a Document. It reports what is wrong with a single
// value and leaves the field zero then, so that the validation, which looks at
// values together, passes over zero fields in silence.
type decoder struct{ *report }

// field is a key that a mapping may have.
type field struct {
	key string
	// missing says what to give when the key is absent; empty for an optional key.
	missing string
	// decode is nil for a key that belongs elsewhere; missing says where then.
	decode func(path string, value ast.Node)
}

// entry is a key of a mapping as it stands in the text.
type entry struct {
	key, path string
	value     ast.Node
}

// entries returns the keys of a mapping that have a value, each once.
func (d decoder) entries(path string, node ast.Node) []entry {
	mapping, ok := node.(*ast.MappingNode)
	if !ok {
		d.kind(path, node, aMapping)
		return nil
	}
	var entries []entry
	seen := map[string]int{}
	for _, value := range mapping.Values {
		line := lineOf(value.Key, 1)
		text, ok := value.Key.(*ast.StringNode)
		if !ok {
			d.addAt(path, line, "the key "+shorten(value.Key.String())+" is not text; put it in quotes if it is a name")
			continue
		}
		e := entry{text.Value, join(path, text.Value), value.Value}
		if first, ok := seen[e.key]; ok {
			d.addAt(e.path, line, fmt.Sprintf("stands a second time, first on line %d; remove one of them", first))
			continue
		}
		seen[e.key] = line
		d.stand(e.path, line)
		if _, null := e.value.(*ast.NullNode); null || e.value == nil {
			d.add(e.path, "has no value; give one or remove the key")
			e.value = nil
		}
		entries = append(entries, e)
	}
	return entries
}

// fields decodes a mapping whose keys are known.
func (d decoder) fields(path string, node ast.Node, fields ...field) {
	if _, ok := node.(*ast.MappingNode); !ok {
		d.kind(path, node, aMapping)
		return
	}
	given := map[string]bool{}
	for _, e := range d.entries(path, node) {
		given[e.key] = true
		known := false
		for _, f := range fields {
			if f.key != e.key {
				continue
			}
			known = true
			switch {
			case f.decode == nil:
				d.add(e.path, f.missing)
			case e.value != nil:
				f.decode(e.path, e.value)
			}
		}
		if !known {
			here := slices.DeleteFunc(slices.Clone(fields), func(f field) bool { return f.decode == nil })
			d.add(e.path, "is not a known key; "+suggest(e.key, here))
		}
	}
	for _, f := range fields {
		if !given[f.key] && f.missing != "" && f.decode != nil {
			d.add(join(path, f.key), "is missing; "+f.missing)
		}
	}
}

// items calls decode for every item of a list.
func (d decoder) items(path string, node ast.Node, decode func(path string, value ast.Node)) {
	list, ok := node.(*ast.SequenceNode)
	if !ok {
		d.kind(path, node, "a list")
		return
	}
	for i, value := range list.Values {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.stand(at, lineOf(value, d.lines[path]))
		decode(at, value)
	}
}

// kind reports a value of the wrong kind.
func (d decoder) kind(path string, node ast.Node, want string) {
	d.add(path, "must be "+want+", but is "+kindOf(node))
}

const aMapping = "a mapping of keys to values"

func kindOf(node ast.Node) string {
	switch n := node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return aMapping
	case *ast.SequenceNode:
		return "a list"
	case *ast.LiteralNode:
		return "a block of text; write it on one line"
	case *ast.StringNode:
		return fmt.Sprintf("the text %q", shorten(n.Value))
	case *ast.IntegerNode:
		return "the number " + shorten(n.Token.Value)
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a fraction"
	case *ast.BoolNode:
		return "a truth value"
	default:
		return "nothing"
	}
}

// join appends a key to a path.
func join(path, key string) string {
	plain := key != ""
	for _, char := range key {
		letter := char >= 'a' && char <= 'z' || char >= 'A' && char <= 'Z'
		digit := char >= '0' && char <= '9'
		plain = plain && (letter || digit || char == '_' || char == '-')
	}
	if !plain || len(key) > 64 {
		return fmt.Sprintf("%s[%q]", path, shorten(key))
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// shorten keeps a message readable whatever stands in the document.
func shorten(text string) string {
	const most = 64
	runes := 0
	for i := range text {
		if runes == most {
			return text[:i] + "..."
		}
		runes++
	}
	return text
}

// suggest names the known key that an unknown one was probably meant to be, or
// all of them.
func suggest(key string, fields []field) string {
	known := make([]string, 0, len(fields))
	best, nearest := "", 1+len(key)/3
	for _, f := range fields {
		known = append(known, f.key)
		if len(key) > 64 {
			continue
		}
		typed := strings.ReplaceAll(strings.ToLower(key), "-", "_")
		if far := distance(typed, f.key); far <= nearest {
			best, nearest = f.key, far-1
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "here may stand " + strings.Join(known, ", ")
}

// distance counts the characters to insert, delete or replace to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
