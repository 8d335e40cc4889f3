// Package faults has tests alone: a real broker process whose world breaks.
// It is killed under load, its object store fails in every way, its disk fills
// up and loses power, and its clients send what no client should.
//
// Tests that need a file system of their own mount one, which takes root; as
// another user they say so and are skipped.
package faults
