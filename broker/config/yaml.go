package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxYAMLDepth bounds nesting; no setting's name has more parts.
const maxYAMLDepth = 16

// fileSetting is one setting of a file with the line that it stands on.
type fileSetting struct {
	key, value string
	line       int
}

// yamlReader flattens a YAML document into settings. Keys may be written whole
// (log.retention.ms: 5) or nested (log: {retention: {ms: 5}}).
type yamlReader struct {
	path     string
	settings []fileSetting
	lines    map[string]int
	problems []Problem
}

func readYAML(path string, text []byte) (settings []fileSetting, problems []Problem) {
	r := &yamlReader{path: path, lines: map[string]int{}}
	var doc, second yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) { // an empty file
		return nil, nil
	} else if err != nil {
		return nil, []Problem{yamlSyntax(path, err)}
	}
	if err := decoder.Decode(&second); err == nil {
		r.wrong(&second, "the file", "a second document after ---", "one document")
		return nil, r.problems
	} else if !errors.Is(err, io.EOF) {
		return nil, []Problem{yamlSyntax(path, err)}
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		r.wrong(root, "the file", kindName(root), "settings, as NAME: VALUE lines")
		return nil, r.problems
	}
	r.mapping("", root, 0)
	return r.settings, r.problems
}

// yamlSyntax turns the parser's "yaml: line 3: did not find ..." into a problem.
func yamlSyntax(path string, err error) Problem {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	where := path
	var line int
	if n, scanErr := fmt.Sscanf(text, "line %d:", &line); scanErr == nil && n == 1 {
		where = fmt.Sprintf("%s:%d", path, line)
		_, text, _ = strings.Cut(text, ": ")
	}
	return Problem{Where: where, Key: "not YAML", Want: text}
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
		return n.Value
	}
}

func (r *yamlReader) where(n *yaml.Node) string { return fmt.Sprintf("%s:%d", r.path, n.Line) }

func (r *yamlReader) wrong(n *yaml.Node, key, got, want string) {
	r.problems = append(r.problems, Problem{Where: r.where(n), Key: key, Got: got, Want: want})
}

func (r *yamlReader) mapping(prefix string, n *yaml.Node, depth int) {
	if depth >= maxYAMLDepth {
		r.wrong(n, prefix, "deeper nesting", fmt.Sprintf("at most %d levels", maxYAMLDepth))
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if name.Kind != yaml.ScalarNode {
			r.wrong(name, "a key", kindName(name), "a setting's name")
			continue
		}
		key := name.Value
		if prefix != "" {
			key = prefix + "." + key
		}
		switch value.Kind {
		case yaml.MappingNode:
			r.mapping(key, value, depth+1)
		case yaml.SequenceNode:
			r.sequence(key, name, value)
		case yaml.AliasNode:
			r.wrong(value, key, "*"+value.Value, "the value written out: aliases are not followed")
		default:
			if value.Tag != "!!null" { // "key:" alone leaves the default
				r.set(key, value.Value, name)
			}
		}
	}
}

func (r *yamlReader) set(key, value string, n *yaml.Node) {
	if first, twice := r.lines[key]; twice {
		r.wrong(n, key, "", fmt.Sprintf("set already on line %d", first))
		return
	}
	r.lines[key] = n.Line
	r.settings = append(r.settings, fileSetting{key: key, value: value, line: n.Line})
}

// sequence reads a list of words, or the long form of listeners.
func (r *yamlReader) sequence(key string, name, n *yaml.Node) {
	words, structured := make([]string, 0, len(n.Content)), false
	for _, item := range n.Content {
		structured = structured || item.Kind == yaml.MappingNode
	}
	if structured {
		if key != "listeners" {
			r.wrong(n, key, "a list of mappings", "a list of words")
			return
		}
		r.listeners(name, n)
		return
	}
	for _, item := range n.Content {
		if item.Kind != yaml.ScalarNode || strings.Contains(item.Value, ",") {
			r.wrong(item, key, kindName(item), "one word")
			return
		}
		words = append(words, item.Value)
	}
	r.set(key, strings.Join(words, ","), name)
}

// listeners turns the long form into Kafka's two texts.
func (r *yamlReader) listeners(name, n *yaml.Node) {
	var listeners, advertised, security []string
	whole := true
	for _, item := range n.Content {
		l, ok := r.listener(item)
		if !ok {
			whole = false
			continue
		}
		listeners = append(listeners, l["name"]+"://"+l["bind"])
		if l["advertised"] != "" {
			advertised = append(advertised, l["name"]+"://"+l["advertised"])
		}
		if l["security"] != "" {
			security = append(security, l["name"]+":"+l["security"])
		}
	}
	if !whole { // said already; half a list would bring mistakes that nobody made
		return
	}
	r.set("listeners", strings.Join(listeners, ","), name)
	if len(advertised) > 0 {
		r.set("advertised.listeners", strings.Join(advertised, ","), name)
	}
	if len(security) > 0 {
		r.set("listener.security.protocol.map", strings.Join(security, ","), name)
	}
}

// listener reads one mapping. What is wrong with it is told with the line that it
// stands on.
func (r *yamlReader) listener(n *yaml.Node) (l map[string]string, ok bool) {
	const want = "name and bind, and if clients connect elsewhere advertised"
	if n.Kind != yaml.MappingNode {
		r.wrong(n, "listeners", kindName(n), "a mapping with "+want)
		return nil, false
	}
	before := len(r.problems)
	l = map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := "listeners: " + key.Value
		switch {
		case key.Value != "name" && key.Value != "bind" && key.Value != "advertised" && key.Value != "security":
			r.wrong(key, "listeners", key.Value, "only name, bind, advertised and security")
		case value.Kind != yaml.ScalarNode || strings.Contains(value.Value, ","):
			r.wrong(value, name, kindName(value), "one HOST:PORT or word")
		case key.Value == "bind" || key.Value == "advertised" && value.Value != "":
			if err := checkAddress(value.Value); err != nil {
				r.wrong(value, name, value.Value, err.Error())
			}
		}
		l[key.Value] = value.Value
	}
	if len(r.problems) == before && (l["name"] == "" || l["bind"] == "") {
		missing := "bind"
		if l["name"] == "" {
			missing = "name"
		}
		r.wrong(n, "listeners", "a listener without "+missing, want)
	}
	return l, len(r.problems) == before
}

func checkAddress(text string) error {
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		return errors.New(wantAddress)
	}
	_, err = parsePort(port)
	return err
}
