package wire

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

//go:embed layouts.txt
var layoutText string

// layout is a request of one key as layouts.txt describes it.
type layout struct {
	key, max int16
	flexible int16 // first flexible version, past max for none
	fields   []field
}

type field struct {
	name     string
	kind     string // scalar type, or "struct"
	array    bool
	nullable int16 // first version that allows null, never for none
	min, max int16
	tag      int // -1 for a field in the body
	size     int // memory of one decoded struct
	fields   []field
}

const never = 1<<15 - 1

// layouts is the parsed layouts.txt. Its text is part of the program, so an
// error in it is a panic, which every test of the package would meet.
var layouts = sync.OnceValue(func() map[int16]*layout {
	all, err := parseLayouts(layoutText)
	if err != nil {
		panic(err)
	}
	return all
})

func parseLayouts(text string) (map[int16]*layout, error) {
	all := make(map[int16]*layout)
	var open []*[]field // open[d] takes the fields of depth d
	for n, line := range strings.Split(text, "\n") {
		body := strings.TrimLeft(line, " ")
		words := strings.Fields(body)
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		depth := (len(line) - len(body)) / 2
		if depth == 0 {
			l, err := parseAPI(words)
			if err != nil {
				return nil, fmt.Errorf("layouts line %d: %w", n+1, err)
			}
			all[l.key] = l
			open = []*[]field{nil, &l.fields}
			continue
		}
		f, err := parseField(words)
		if err == nil && depth >= len(open) {
			err = fmt.Errorf("indented too far")
		}
		if err != nil {
			return nil, fmt.Errorf("layouts line %d: %w", n+1, err)
		}
		at := open[depth]
		*at = append(*at, f)
		open = append(open[:depth+1], &(*at)[len(*at)-1].fields)
	}
	return all, nil
}

func parseAPI(words []string) (*layout, error) {
	if len(words) != 4 {
		return nil, fmt.Errorf("want key, name, versions, flexible: %q", words)
	}
	key, err := strconv.ParseInt(words[0], 10, 16)
	if err != nil {
		return nil, err
	}
	_, hi, err := parseVersions(words[2])
	if err != nil {
		return nil, err
	}
	l := &layout{key: int16(key), max: hi, flexible: never}
	if words[3] != "-" {
		l.flexible, err = parseVersion(words[3])
	}
	return l, err
}

func parseField(words []string) (field, error) {
	f := field{nullable: never, max: never, tag: -1}
	if len(words) < 2 || len(words) > 3 {
		return f, fmt.Errorf("want name, type and versions or tag: %q", words)
	}
	f.name = words[0]
	kind := words[1]
	var err error
	if rest, ok := strings.CutPrefix(kind, "?"); ok {
		from, kindAfter, found := strings.Cut(rest, "+")
		if !found {
			from, kindAfter = "0", rest
		}
		if f.nullable, err = parseVersion(from); err != nil {
			return f, err
		}
		kind = kindAfter
	}
	kind, f.array = strings.CutPrefix(kind, "[]")
	kind, size, hasSize := strings.Cut(kind, ":")
	f.kind = kind
	if hasSize {
		if f.size, err = strconv.Atoi(size); err != nil {
			return f, err
		}
	}
	if _, ok := fixedSize[kind]; !ok && kind != "string" && kind != "bytes" && (kind != "struct" || f.size == 0) {
		return f, fmt.Errorf("unknown type %q", words[1])
	}
	if len(words) == 3 {
		if tag, ok := strings.CutPrefix(words[2], "tag"); ok {
			f.tag, err = strconv.Atoi(tag)
		} else {
			f.min, f.max, err = parseVersions(words[2])
		}
	}
	return f, err
}

func parseVersion(s string) (int16, error) {
	v, err := strconv.ParseInt(s, 10, 16)
	return int16(v), err
}

func parseVersions(s string) (lo, hi int16, err error) {
	if from, ok := strings.CutSuffix(s, "+"); ok {
		lo, err = parseVersion(from)
		return lo, never, err
	}
	from, to, ranged := strings.Cut(s, "-")
	if !ranged {
		to = from
	}
	if lo, err = parseVersion(from); err == nil {
		hi, err = parseVersion(to)
	}
	return lo, hi, err
}

// fixedSize is the size on the wire of the types that have one; kmsg's types
// take the same in memory.
var fixedSize = map[string]int{
	"bool": 1, "int8": 1, "int16": 2, "uint16": 2, "int32": 4, "int64": 8, "float64": 8, "uuid": 16,
}

type opKind uint8

const (
	opSkip       opKind = iota // size bytes of anything
	opBool                     // a byte, 0 or 1
	opString                   // int16 length, compact: uvarint length+1
	opBytes                    // int32 length, compact: uvarint length+1
	opFixedArray               // entries of size bytes
	opBoolArray
	opStringArray
	opStructArray
	opNullStruct // int8: -1 null, 1 present
	opStruct     // without any mark
)

// op is one step of the walk over a struct at one version.
type op struct {
	kind     opKind
	nullable bool
	size     int // wire size of opSkip's bytes or of an opFixedArray's entry
	memory   int // of one decoded entry or struct, beside its owner
	elem     *program
}

// program is a struct's layout at one version.
type program struct {
	ops      []op
	tags     []tagged
	flexible bool
	minSize  int  // least bytes on the wire
	aliases  bool // kmsg's struct aliases the input: it has byte fields
}

type tagged struct {
	tag uint32
	op  op
}

const (
	stringHeader = 16
	sliceHeader  = 24
)

// compile flattens fields at one version.
func compile(fields []field, version int16, flexible bool) *program {
	p := &program{flexible: flexible}
	for i := range fields {
		f := &fields[i]
		if f.tag < 0 && (version < f.min || version > f.max) || f.tag >= 0 && !flexible {
			continue
		}
		o, least := compileField(f, version, flexible)
		p.aliases = p.aliases || f.kind == "bytes" || o.elem != nil && o.elem.aliases
		if f.tag >= 0 {
			p.tags = append(p.tags, tagged{uint32(f.tag), o})
			continue
		}
		p.minSize += least
		if last := len(p.ops) - 1; o.kind == opSkip && last >= 0 && p.ops[last].kind == opSkip {
			p.ops[last].size += o.size
			continue
		}
		p.ops = append(p.ops, o)
	}
	if flexible {
		p.minSize++ // the count of tags
	}
	return p
}

func compileField(f *field, version int16, flexible bool) (o op, least int) {
	o.nullable = version >= f.nullable
	if f.kind == "struct" {
		o.elem = compile(f.fields, version, flexible)
		o.memory = f.size
	}
	fixed := fixedSize[f.kind]
	prefix := func(classic int) int {
		if flexible {
			return 1
		}
		return classic
	}
	switch {
	case f.array:
		switch f.kind {
		case "struct":
			o.kind = opStructArray
		case "string":
			o.kind, o.memory = opStringArray, stringHeader
		case "bool":
			o.kind, o.size, o.memory = opBoolArray, 1, 1
		default:
			o.kind, o.size, o.memory = opFixedArray, fixed, fixed
		}
		return o, prefix(4)
	case f.kind == "struct" && o.nullable:
		o.kind = opNullStruct
		return o, 1
	case f.kind == "struct":
		o.kind, o.memory = opStruct, 0
		return o, o.elem.minSize
	case f.kind == "string":
		o.kind = opString
		if o.nullable || f.nullable != never {
			o.memory = stringHeader // kmsg keeps a pointer to it
		}
		return o, prefix(2)
	case f.kind == "bytes":
		o.kind = opBytes
		return o, prefix(4)
	case f.kind == "bool":
		o.kind = opBool
		return o, 1
	}
	o.kind, o.size = opSkip, fixed
	return o, fixed
}
