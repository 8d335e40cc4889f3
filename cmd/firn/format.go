package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

// recordFormat writes records as a format string says, with kcat's letters:
//
//	%t topic   %p partition   %o offset   %T timestamp in ms   %h headers k=v,k=v
//	%k key     %K its length  %v or %s value   %S its length (-1 for null)   %% a percent sign
//
// and the escapes \n \t \r \\ \0 and \xNN.
type recordFormat struct {
	steps []formatStep
}

// formatStep is literal text, or a letter when the text is empty.
type formatStep struct {
	text   string
	letter byte
}

const formatLetters = "tpoThkKvsS"

func parseFormat(format string) (recordFormat, error) {
	var f recordFormat
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			f.steps = append(f.steps, formatStep{text: text.String()})
			text.Reset()
		}
	}
	for i := 0; i < len(format); i++ {
		c := format[i]
		if (c == '%' || c == '\\') && i+1 == len(format) {
			return f, fmt.Errorf("the format ends in %q: write %%%% or \\\\ for the sign itself", string(c))
		}
		switch c {
		case '%':
			i++
			switch {
			case format[i] == '%':
				text.WriteByte('%')
			case strings.IndexByte(formatLetters, format[i]) >= 0:
				flush()
				f.steps = append(f.steps, formatStep{letter: format[i]})
			default:
				return f, fmt.Errorf("%%%s is not known in a format: it is one of %%t %%p %%o %%T %%h %%k %%K %%v %%s %%S %%%%", firstRune(format[i:]))
			}
		case '\\':
			i++
			width, b, err := unescape(format[i:])
			if err != nil {
				return f, err
			}
			text.WriteByte(b)
			i += width - 1
		default:
			text.WriteByte(c)
		}
	}
	flush()
	return f, nil
}

func firstRune(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return s[:n]
}

// unescape reads what follows a backslash and returns how many bytes it took.
func unescape(s string) (width int, b byte, err error) {
	switch s[0] {
	case 'n':
		return 1, '\n', nil
	case 't':
		return 1, '\t', nil
	case 'r':
		return 1, '\r', nil
	case '0':
		return 1, 0, nil
	case '\\':
		return 1, '\\', nil
	case 'x':
		if len(s) >= 3 {
			if n, err := strconv.ParseUint(s[1:3], 16, 8); err == nil {
				return 3, byte(n), nil
			}
		}
		return 0, 0, fmt.Errorf(`\x needs two hexadecimal digits, such as \x1f`)
	}
	return 0, 0, fmt.Errorf(`\%s is not known in a format: it is one of \n \t \r \0 \\ \xNN`, firstRune(s))
}

// unescapeText reads the escapes of a separator given on the command line.
func unescapeText(s string) (string, error) {
	f, err := parseFormat(strings.ReplaceAll(s, "%", "%%"))
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, step := range f.steps {
		b.WriteString(step.text)
	}
	return b.String(), nil
}

// append adds the record's text to b.
func (f recordFormat) append(b []byte, r *kgo.Record) []byte {
	for _, step := range f.steps {
		switch step.letter {
		case 0:
			b = append(b, step.text...)
		case 't':
			b = append(b, r.Topic...)
		case 'p':
			b = strconv.AppendInt(b, int64(r.Partition), 10)
		case 'o':
			b = strconv.AppendInt(b, r.Offset, 10)
		case 'T':
			b = strconv.AppendInt(b, r.Timestamp.UnixMilli(), 10)
		case 'h':
			for i, h := range r.Headers {
				if i > 0 {
					b = append(b, ',')
				}
				b = append(append(append(b, h.Key...), '='), h.Value...)
			}
		case 'k':
			b = append(b, r.Key...)
		case 'K':
			b = strconv.AppendInt(b, lengthOf(r.Key), 10)
		case 'v', 's':
			b = append(b, r.Value...)
		case 'S':
			b = strconv.AppendInt(b, lengthOf(r.Value), 10)
		}
	}
	return b
}

func lengthOf(b []byte) int64 {
	if b == nil {
		return -1
	}
	return int64(len(b))
}

// recordJSON is a record as consume -o json writes it, one a line. Keys, values
// and headers that are not UTF-8 go to the base64 fields instead.
type recordJSON struct {
	Topic       string       `json:"topic"`
	Partition   int32        `json:"partition"`
	Offset      int64        `json:"offset"`
	Timestamp   int64        `json:"timestamp"`
	Key         *string      `json:"key"`
	KeyBase64   []byte       `json:"key_base64,omitempty"`
	Value       *string      `json:"value"`
	ValueBase64 []byte       `json:"value_base64,omitempty"`
	Headers     []headerJSON `json:"headers,omitempty"`
}

type headerJSON struct {
	Key         string  `json:"key"`
	Value       *string `json:"value"`
	ValueBase64 []byte  `json:"value_base64,omitempty"`
}

func recordToJSON(r *kgo.Record) recordJSON {
	j := recordJSON{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli()}
	j.Key, j.KeyBase64 = textOrBytes(r.Key)
	j.Value, j.ValueBase64 = textOrBytes(r.Value)
	for _, h := range r.Headers {
		v := headerJSON{Key: h.Key}
		v.Value, v.ValueBase64 = textOrBytes(h.Value)
		j.Headers = append(j.Headers, v)
	}
	return j
}

func textOrBytes(b []byte) (*string, []byte) {
	switch {
	case b == nil:
		return nil, nil
	case utf8.Valid(b):
		s := string(b)
		return &s, nil
	}
	return nil, b
}

// recordWriter renders records in the form that -o and -f ask for.
func (a *app) recordWriter(format string) (func(b []byte, r *kgo.Record) ([]byte, error), error) {
	switch a.format {
	case formatJSON:
		return func(b []byte, r *kgo.Record) ([]byte, error) {
			text, err := json.Marshal(recordToJSON(r))
			return append(append(b, text...), '\n'), err
		}, nil
	case formatYAML:
		return func(b []byte, r *kgo.Record) ([]byte, error) {
			text, err := yamlOf(recordToJSON(r))
			return append(append(b, "---\n"...), text...), err
		}, nil
	}
	f, err := parseFormat(format)
	if err != nil {
		return nil, err
	}
	return func(b []byte, r *kgo.Record) ([]byte, error) { return f.append(b, r), nil }, nil
}
