package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits of what is given to the YAML parser, which is recursive and takes time
// quadratic in the number of keys of a mapping. A document with 255 VRIDs in use and some
// thousand rules has 30000 keys, and a mapping of it at most one for each uplink.
const (
	maxSize     = 1 << 20
	maxTokens   = 1 << 18
	maxKeys     = 1 << 16
	maxTogether = 1 << 10
	// maxDepth bounds nested brackets, maxColumn nested lists: a list inside a
	// list stands further to the right.
	maxDepth  = 16
	maxColumn = 128
)

// invalid begins the message of a syntax error; the parser's own words follow.
const invalid = "the text is not valid YAML or JSON: "

// root reads the text into a syntax tree. It returns nil after reporting why
// there is none.
func root(text []byte, r *report) ast.Node {
	if len(text) > maxSize {
		r.add("", fmt.Sprintf("the document has %d bytes; at most %d are read", len(text), maxSize))
		return nil
	}
	// The parser counts lines wrongly when they end in CR LF.
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	if at := invalidByte(text); at >= 0 {
		line := 1 + bytes.Count(text[:at], []byte("\n"))
		r.addAt("", line, fmt.Sprintf("byte %#02x is not text; save the document as UTF-8", text[at]))
		return nil
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	if bytes.IndexByte(text, '\t') >= 0 && json.Valid(text) {
		// JSON may be indented with tabs, YAML may not. Valid JSON has no bare tab
		// inside of a string.
		text = bytes.ReplaceAll(text, []byte("\t"), []byte(" "))
	}
	file := parse(string(text), r)
	if file == nil {
		return nil
	}
	if len(file.Docs) > 1 {
		r.addAt("", lineOf(file.Docs[1], 1), "a second document begins here; put everything into one document")
		return nil
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		r.add("", fmt.Sprintf("the document is empty; begin with `version: %d`", Version))
		return nil
	}
	return file.Docs[0].Body
}

// invalidByte returns the offset of the first byte that is not part of a
// printable UTF-8 text, or -1.
func invalidByte(text []byte) int {
	for at := 0; at < len(text); {
		char, size := utf8.DecodeRune(text[at:])
		control := char < ' ' && char != '\t' && char != '\n'
		if control || char == utf8.RuneError && size <= 1 {
			return at
		}
		at += size
	}
	return -1
}

// parse runs the YAML parser on tokens that were found harmless.
func parse(text string, r *report) (file *ast.File) {
	last := 1
	// The parser is not ours and meets hostile text here; a fault of its own must
	// not stop a router.
	defer func() {
		if recover() != nil {
			file = nil
			r.addAt("", last, "the text cannot be read as YAML; correct its structure")
		}
	}()
	tokens := lexer.Tokenize(text)
	if !harmless(tokens, r) {
		return nil
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err == nil {
		return file
	}
	message := "it cannot be parsed"
	var syntax interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if errors.As(err, &syntax) {
		message = syntax.GetMessage()
		if tk := syntax.GetToken(); tk != nil && tk.Position != nil {
			last = tk.Position.Line
		}
	}
	r.addAt("", last, invalid+message)
	return nil
}

// harmless refuses what the parser could choke on and every construct of YAML
// that a reader of the document would have to look up.
func harmless(tokens token.Tokens, r *report) bool {
	keys := 0
	together := togetherness{}
	for _, tk := range tokens {
		if tk.Type == token.MappingValueType {
			keys++
		}
		if together.add(tk) > maxTogether {
			r.addAt("", tk.Position.Line, fmt.Sprintf("more than %d keys stand in one mapping; arrange them as in the reference document", maxTogether))
			return false
		}
	}
	if keys > maxKeys || len(tokens) > maxTokens {
		r.add("", fmt.Sprintf("the document has %d keys and %d tokens; at most %d and %d are read",
			keys, len(tokens), maxKeys, maxTokens))
		return false
	}
	before := len(r.faults)
	for _, tk := range tokens {
		if message := refusal(tk.Type); message != "" {
			r.addAt("", tk.Position.Line, message)
		}
	}
	return shallow(tokens, r) && len(r.faults) == before
}

// togetherness counts the keys of the mappings that a token stands in: by the depth of the
// brackets or, outside of any, by the column of the key. A comma between brackets counts as a
// key, because it may make one without a value.
type togetherness struct {
	brackets []int
	// columns stand further to the right one after the other.
	columns []column
}

type column struct{ at, keys int }

// aList stands for a bracket that holds no keys.
const aList = -1

// add returns how many keys the token's mapping has up to here, at least.
func (t *togetherness) add(tk *token.Token) int {
	deepest := len(t.brackets) - 1
	switch tk.Type { //nolint:exhaustive // the other types make no key
	case token.MappingStartType:
		t.brackets = append(t.brackets, 0)
	case token.SequenceStartType:
		t.brackets = append(t.brackets, aList)
	case token.MappingEndType, token.SequenceEndType:
		t.brackets = t.brackets[:max(0, deepest)]
	case token.CollectEntryType:
		if deepest >= 0 && t.brackets[deepest] != aList {
			t.brackets[deepest]++
			return t.brackets[deepest]
		}
	case token.SequenceEntryType:
		t.forget(tk.Position.Column)
	case token.MappingValueType:
		if deepest >= 0 {
			return 0 // the comma is counted
		}
		at := tk.Position.Column
		if tk.Prev != nil && tk.Prev.Position.Line == tk.Position.Line {
			at = tk.Prev.Position.Column
		}
		t.forget(at)
		if last := len(t.columns) - 1; last < 0 || t.columns[last].at < at {
			t.columns = append(t.columns, column{at: at})
		}
		last := &t.columns[len(t.columns)-1]
		last.keys++
		return last.keys
	}
	return 0
}

// forget ends the mappings that stand further to the right.
func (t *togetherness) forget(at int) {
	for len(t.columns) > 0 && t.columns[len(t.columns)-1].at > at {
		t.columns = t.columns[:len(t.columns)-1]
	}
}

// shallow checks that lists and mappings are not nested without end.
func shallow(tokens token.Tokens, r *report) bool {
	const arrange = "the values are nested too deep here; arrange them as in the reference document"
	depth, opened := 0, 0
	for _, tk := range tokens {
		line := tk.Position.Line
		switch tk.Type { //nolint:exhaustive // the other types do not nest
		case token.MappingStartType, token.SequenceStartType:
			depth++
			opened = line
			if depth > maxDepth {
				r.addAt("", line, arrange)
				return false
			}
		case token.MappingEndType, token.SequenceEndType:
			depth = max(0, depth-1)
		case token.SequenceEntryType:
			if depth > 0 {
				r.addAt("", line, fmt.Sprintf("a dash stands between brackets; close the bracket that was opened on line %d", opened))
				return false
			}
			if tk.Position.Column > maxColumn {
				r.addAt("", line, arrange)
				return false
			}
		case token.InvalidType:
			r.addAt("", line, invalid+tk.Error)
			return false
		}
	}
	return true
}

// refusal says why a token of this type may not stand in a document; it is
// empty for those that may.
func refusal(t token.Type) string {
	switch t { //nolint:exhaustive // everything that is not refused is allowed
	case token.AnchorType:
		return "an anchor (&) is not allowed; write the value out wherever it is used"
	case token.AliasType:
		return "an alias (*) is not allowed; write the value out, or put text that begins with * in quotes"
	case token.MergeKeyType:
		return "a merge key (<<) is not allowed; write the keys out"
	case token.TagType:
		return "a tag (!) is not allowed; remove it, or put text that begins with ! in quotes"
	case token.DirectiveType:
		return "a directive (%) is not allowed; remove the line"
	case token.MappingKeyType:
		return "an explicit key (?) is not allowed; write `key: value`"
	default:
		return ""
	}
}

// lineOf returns the line of a node, or another if the node does not know.
func lineOf(n ast.Node, otherwise int) int {
	if n == nil {
		return otherwise
	}
	if document, ok := n.(*ast.DocumentNode); ok {
		if document.Start != nil && document.Start.Position != nil {
			return document.Start.Position.Line
		}
		return lineOf(document.Body, otherwise)
	}
	tk := n.GetToken()
	if tk == nil || tk.Position == nil {
		return otherwise
	}
	return tk.Position.Line
}
