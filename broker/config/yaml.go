package config

import (
	"errors"
	"fmt"
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
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, []Problem{yamlSyntax(path, err)}
	}
	if doc.Kind == 0 { // an empty file
		return nil, nil
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
		l, err := readListener(item)
		if err != nil {
			r.wrong(item, "listeners", kindName(item), err.Error())
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

func readListener(n *yaml.Node) (map[string]string, error) {
	const want = "name and bind, and if clients connect elsewhere advertised"
	if n.Kind != yaml.MappingNode {
		return nil, errors.New(want)
	}
	l := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch key.Value {
		case "name", "bind", "advertised", "security":
		default:
			return nil, fmt.Errorf("%s; %q is none of name, bind, advertised, security", want, key.Value)
		}
		if value.Kind != yaml.ScalarNode || strings.Contains(value.Value, ",") {
			return nil, fmt.Errorf("one HOST:PORT or word for %s", key.Value)
		}
		l[key.Value] = value.Value
	}
	if l["name"] == "" || l["bind"] == "" {
		return nil, errors.New(want)
	}
	return l, nil
}
