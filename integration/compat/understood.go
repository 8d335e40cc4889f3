package main

import "regexp"

// rule makes an understood difference. reason begins a sentence of
// docs/compatibility.md; step and field are regular expressions.
func rule(reason, step, field string) *understood {
	return &understood{reason: reason, step: regexp.MustCompile(step), field: regexp.MustCompile(field)}
}

var rules = []*understood{}
