package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// The forms of output.
const (
	formatTable = "table"
	formatJSON  = "json"
	formatYAML  = "yaml"
)

func checkFormat(format string) error {
	switch format {
	case formatTable, formatJSON, formatYAML:
		return nil
	}
	return fmt.Errorf("--output %q is not known: it is table, json or yaml", format)
}

// print writes a result: as it is in JSON and YAML, by the given function
// otherwise.
func (a *app) print(value any, table func(w io.Writer) error) error {
	switch a.format {
	case formatJSON:
		text, err := json.MarshalIndent(value, "", "  ")
		if err != nil {
			return fmt.Errorf("write JSON: %w", err)
		}
		_, err = fmt.Fprintln(a.out, string(text))
		return err
	case formatYAML:
		text, err := yamlOf(value)
		if err != nil {
			return fmt.Errorf("write YAML: %w", err)
		}
		_, err = a.out.Write(text)
		return err
	}
	return table(a.out)
}

// yamlOf goes by way of JSON, so that names, order and omissions are the same.
func yamlOf(value any) ([]byte, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(text, &node); err != nil {
		return nil, err
	}
	blockStyle(&node)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return nil, err
	}
	return b.Bytes(), enc.Close()
}

// blockStyle undoes JSON's braces and quotes; text that looks like something
// else keeps its quotes.
func blockStyle(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		n.Style = textStyle(n.Value)
	}
	for _, child := range n.Content {
		blockStyle(child)
	}
}

// textStyle leaves the choice of quotes to the encoder of strings, which also
// knows the words that older YAML takes for booleans (yes, off).
func textStyle(s string) yaml.Style {
	text, err := yaml.Marshal(s)
	switch {
	case err != nil || text[0] == '"' || text[0] == '\'':
		return yaml.DoubleQuotedStyle
	case text[0] == '|':
		return yaml.LiteralStyle
	}
	return 0
}

// grid is a table of text. Columns whose cells are all numbers are aligned right.
type grid struct {
	header []string
	rows   [][]string
}

func (g *grid) add(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = fmt.Sprint(c)
	}
	g.rows = append(g.rows, row)
}

func (g *grid) write(w io.Writer) error {
	width, right := make([]int, len(g.header)), make([]bool, len(g.header))
	for i, h := range g.header {
		width[i] = utf8.RuneCountInString(h)
		numbers, words := 0, 0
		for _, row := range g.rows {
			width[i] = max(width[i], utf8.RuneCountInString(row[i]))
			switch {
			case looksNumeric(row[i]):
				numbers++
			case row[i] != "-" && row[i] != "":
				words++
			}
		}
		right[i] = numbers > 0 && words == 0
	}
	var b strings.Builder
	line := func(cells []string) {
		var l strings.Builder
		for i, c := range cells {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			if right[i] {
				l.WriteString(pad + c)
			} else {
				l.WriteString(c + pad)
			}
			l.WriteString("  ")
		}
		b.WriteString(strings.TrimRight(l.String(), " ") + "\n")
	}
	line(g.header)
	for _, row := range g.rows {
		line(row)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func looksNumeric(s string) bool {
	s = strings.TrimPrefix(s, "-")
	return s != "" && s[0] >= '0' && s[0] <= '9' && !strings.ContainsAny(s, ":,") && !strings.Contains(s, "..")
}

// plural counts things: 1 partition, 2 partitions.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// size writes bytes for people: 1.5 GiB.
func size(n int64) string {
	if n < 1024 && n > -1024 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n)
	for _, unit := range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		f /= 1024
		if f < 1024 && f > -1024 || unit == "PiB" {
			return fmt.Sprintf("%.1f %s", f, unit)
		}
	}
	return ""
}
