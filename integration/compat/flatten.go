package main

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

// answer is an answer in comparable form: the value of each field by its path,
// such as Topics[orders].Partitions[0].ErrorCode.
type answer map[string]string

// namer gives the values that differ from run to run, such as a topic's id,
// names that do not.
type namer struct {
	names map[string]string
	port  int32
	drop  string // this run's suffix of topic and group names
}

func (n *namer) text(s string) string {
	s = strings.ReplaceAll(s, n.drop, "")
	for value, name := range n.names {
		s = strings.ReplaceAll(s, value, name)
	}
	return s
}

func (n *namer) id(id [16]byte) string {
	if id == ([16]byte{}) {
		return "-"
	}
	text := record.TopicID(id).String()
	if name, ok := n.names[text]; ok {
		return name
	}
	return "some id"
}

// keyFields name an element of a list, in the order of preference.
var keyFields = []string{"Topic", "TopicID", "Partition", "NodeID", "ApiKey", "ResourceName", "Group", "MemberID", "Name", "Key", "User", "RelativeOffset", "Type"}

// flatten turns a response into its comparable form. Lists are compared as sets
// by the names of their elements; the order is a field of its own, ending in
// ".order", for the few answers where it is promised.
func (n *namer) flatten(resp kmsg.Response) answer {
	out := make(answer)
	n.walk(out, "", reflect.ValueOf(resp).Elem())
	return out
}

func (n *namer) walk(out answer, path string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		n.walkStruct(out, path, v)
	case reflect.Pointer:
		if v.IsNil() {
			out[path] = "null"
			return
		}
		n.walk(out, path, v.Elem())
	case reflect.Array:
		out[path] = n.id(v.Interface().([16]byte))
	case reflect.Slice:
		n.walkSlice(out, path, v)
	case reflect.String:
		out[path] = strconv.Quote(n.text(v.String()))
	case reflect.Bool:
		out[path] = strconv.FormatBool(v.Bool())
	case reflect.Float64:
		out[path] = strconv.FormatFloat(v.Float(), 'g', -1, 64)
	default:
		out[path] = n.number(path, v.Int())
	}
}

func (n *namer) walkStruct(out answer, path string, v reflect.Value) {
	for i := range v.NumField() {
		switch name := v.Type().Field(i).Name; {
		case name == "Version" && path == "":
		case name == "Dir" && path != "":
			out[join(path, name)] = map[bool]string{true: "absolute", false: "relative"}[strings.HasPrefix(v.Field(i).String(), "/")]
		case name == "TotalBytes", name == "UsableBytes":
			out[join(path, name)] = map[bool]string{true: "some", false: "none"}[v.Field(i).Int() > 0]
		case name == "UnknownTags":
			tags := v.Field(i).Interface().(kmsg.Tags)
			if tags.Len() > 0 {
				out[join(path, name)] = strconv.Itoa(tags.Len())
			}
		default:
			n.walk(out, join(path, name), v.Field(i))
		}
	}
}

func (n *namer) walkSlice(out answer, path string, v reflect.Value) {
	if v.IsNil() {
		out[path] = "null"
		return
	}
	if raw, ok := v.Interface().([]byte); ok {
		if strings.HasSuffix(path, ".Records") || strings.HasSuffix(path, ".RecordBatches") {
			n.batches(out, path, raw)
			return
		}
		out[path] = fmt.Sprintf("%x", raw)
		return
	}
	if v.Type().Elem().Kind() != reflect.Struct {
		parts := make([]string, v.Len())
		for i := range parts {
			one := make(answer)
			n.walk(one, path, v.Index(i))
			parts[i] = one[path]
		}
		out[path] = "[" + strings.Join(parts, " ") + "]"
		return
	}
	if v.Len() == 0 {
		out[path] = "[]"
		return
	}
	var order []string
	for i := range v.Len() {
		key := n.key(v.Index(i), i)
		at := path + "[" + key + "]"
		for dup := 2; ; dup++ {
			if _, taken := out[at]; !taken {
				break
			}
			at = fmt.Sprintf("%s[%s#%d]", path, key, dup)
		}
		out[at] = "present"
		order = append(order, key)
		n.walk(out, at, v.Index(i))
	}
	out[path+".order"] = strings.Join(order, " ")
}

func (n *namer) key(v reflect.Value, i int) string {
	for _, name := range keyFields {
		f := v.FieldByName(name)
		if !f.IsValid() || (f.Kind() == reflect.Pointer && f.IsNil()) {
			continue
		}
		one := make(answer)
		n.walk(one, name, f)
		if s := strings.Trim(one[name], `"`); s != "" && s != "-" {
			return s
		}
	}
	return "#" + strconv.Itoa(i)
}

func (n *namer) number(path string, v int64) string {
	now := time.Now().UnixMilli()
	day := (24 * time.Hour).Milliseconds()
	switch field := path[strings.LastIndexByte(path, '.')+1:]; {
	case field == "Port" && v == int64(n.port):
		return "own port"
	case v > now-day && v < now+day:
		return "now"
	case field == "SessionID" && v > 0, field == "ProducerID" && v >= 0:
		return "some id"
	}
	return strconv.FormatInt(v, 10)
}

// batches describes the records of a Fetch by the headers of their batches.
func (n *namer) batches(out answer, path string, raw []byte) {
	i := 0
	for b, err := range record.Batches(raw) {
		at := fmt.Sprintf("%s[%d]", path, i)
		if err == nil {
			err = b.VerifyCRC()
		}
		if err != nil {
			out[at] = err.Error()
			return
		}
		out[at] = fmt.Sprintf("offset %d +%d epoch %d attributes %#x records %d time %s to %s sequence %d size %d", b.BaseOffset, b.LastOffsetDelta,
			b.LeaderEpoch, b.Attributes, b.NumRecords, n.number("", b.BaseTimestamp), n.number("", b.MaxTimestamp), b.BaseSequence, b.Size())
		i++
	}
	out[path] = fmt.Sprintf("%d batches", i)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
