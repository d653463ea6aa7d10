package demo

import "strings"

// style is how a cell looks.
type style uint8

const (
	plain style = iota
	faint
	strong
	// master, backup and broken are the colours of the three states of a node.
	master
	backup
	broken
	// notice is the colour of what happens now.
	notice
)

// code is the parameter of the escape sequence SGR (ECMA-48, 8.3.117).
func (s style) code() string {
	switch s {
	case plain:
		return "0"
	case faint:
		return "0;2"
	case strong:
		return "0;1"
	case master:
		return "0;1;32"
	case backup:
		return "0;36"
	case broken:
		return "0;1;31"
	case notice:
		return "0;1;33"
	}
	return "0"
}

type cell struct {
	r rune
	s style
}

// canvas is a grid of cells; what is drawn outside of it is lost. Every rune drawn
// must be one column wide.
type canvas struct {
	width int
	rows  [][]cell
}

func newCanvas(width, height int) *canvas {
	c := &canvas{width: width, rows: make([][]cell, height)}
	for y := range c.rows {
		c.rows[y] = make([]cell, width)
		for x := range c.rows[y] {
			c.rows[y][x].r = ' '
		}
	}
	return c
}

func (c *canvas) set(x, y int, s style, r rune) {
	if y >= 0 && y < len(c.rows) && x >= 0 && x < c.width {
		c.rows[y][x] = cell{r, s}
	}
}

// text draws from left to right and returns the column after it.
func (c *canvas) text(x, y int, s style, text string) int {
	for _, r := range text {
		c.set(x, y, s, r)
		x++
	}
	return x
}

// right draws so that the text ends before column x.
func (c *canvas) right(x, y int, s style, text string) {
	c.text(x-len([]rune(text)), y, s, text)
}

// box draws a frame with round corners.
func (c *canvas) box(x, y, width, height int, s style) {
	line := strings.Repeat("─", width-2)
	c.text(x, y, s, "╭"+line+"╮")
	for i := 1; i < height-1; i++ {
		c.set(x, y+i, s, '│')
		c.set(x+width-1, y+i, s, '│')
	}
	c.text(x, y+height-1, s, "╰"+line+"╯")
}

// lines renders the rows without the blanks at their ends.
func (c *canvas) lines(colour bool) []string {
	lines := make([]string, len(c.rows))
	for y, row := range c.rows {
		for len(row) > 0 && row[len(row)-1].r == ' ' {
			row = row[:len(row)-1]
		}
		var b strings.Builder
		now := plain
		for _, cell := range row {
			if colour && cell.s != now && cell.r != ' ' {
				now = cell.s
				b.WriteString("\x1b[" + now.code() + "m")
			}
			b.WriteRune(cell.r)
		}
		if now != plain {
			b.WriteString("\x1b[0m")
		}
		lines[y] = b.String()
	}
	return lines
}
