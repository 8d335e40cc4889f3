// Package docscheck has a test alone: what the pages say exists, does. It checks
// the files that they link to, and the tests and files that they name.
package docscheck
