package main

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// difference is one field, or one fate, in which the two brokers differ.
type difference struct {
	step, field string
	kafka, ours string
	wording     bool // both give an error message, in different words
}

// understood is a difference that is meant. Its reason stands in
// docs/compatibility.md under the same words.
type understood struct {
	reason      string // a sentence of docs/compatibility.md, or its beginning
	step, field *regexp.Regexp
	uses        int
}

// absent is the value of a field that one broker's answer does not have.
const absent = "absent"

// compare returns the differences between two runs of the same chapters.
func compare(kafka, ours []step) []difference {
	var out []difference
	mine := make(map[string]step, len(ours))
	for _, s := range ours {
		mine[s.name] = s
	}
	for _, k := range kafka {
		o, ok := mine[k.name]
		if !ok {
			out = append(out, difference{step: k.name, field: "step", kafka: string(k.fate), ours: absent})
			continue
		}
		delete(mine, k.name)
		out = append(out, compareStep(k, o)...)
	}
	for _, name := range slices.Sorted(maps.Keys(mine)) {
		out = append(out, difference{step: name, field: "step", kafka: absent, ours: string(mine[name].fate)})
	}
	return out
}

func compareStep(k, o step) []difference {
	var out []difference
	if kf, of := outcome(k), outcome(o); kf != of {
		return []difference{{step: k.name, field: "fate", kafka: kf, ours: of}}
	}
	fields := make(map[string]bool)
	for f := range k.answer {
		fields[f] = true
	}
	for f := range o.answer {
		fields[f] = true
	}
	for _, f := range slices.Sorted(maps.Keys(fields)) {
		kv, kok := k.answer[f]
		ov, ook := o.answer[f]
		if !kok {
			kv = absent
		}
		if !ook {
			ov = absent
		}
		if kv == ov || (strings.HasSuffix(f, ".order") && !promisedOrder.MatchString(k.name)) {
			continue
		}
		// The fields of an element that only one side has are told by the element.
		if (!kok || !ook) && underAbsent(f, k.answer, o.answer) {
			continue
		}
		wording := strings.HasSuffix(f, "ErrorMessage") && kv != absent && ov != absent && kv != "null" && ov != "null" && kv != `""` && ov != `""`
		out = append(out, difference{step: k.name, field: f, kafka: kv, ours: ov, wording: wording})
	}
	return out
}

func sortedFields(a answer) []string { return slices.Sorted(maps.Keys(a)) }

func outcome(s step) string {
	if s.err != nil {
		return string(s.fate) + ": " + s.err.Error()
	}
	return string(s.fate)
}

// promisedOrder are the steps whose lists come in an order that clients rely on.
var promisedOrder = regexp.MustCompile(`^describe-topic-partitions/`)

// underAbsent reports whether a field belongs to a list's element that only one
// of the answers has.
func underAbsent(field string, a, b answer) bool {
	for i := len(field) - 1; i > 0; i-- {
		if field[i] != ']' || i == len(field)-1 {
			continue
		}
		element := field[:i+1]
		_, in := a[element]
		_, too := b[element]
		if in != too {
			return true
		}
	}
	return false
}

// explain marks the differences that are understood and returns the others. The
// words of messages are not compared: both brokers have one, and that is enough.
func explain(diffs []difference, rules []*understood) []difference {
	var open []difference
	for _, d := range diffs {
		if d.wording {
			continue
		}
		found := false
		for _, r := range rules {
			if r.step.MatchString(d.step) && r.field.MatchString(d.field) {
				r.uses++
				found = true
				break
			}
		}
		if !found {
			open = append(open, d)
		}
	}
	return open
}
