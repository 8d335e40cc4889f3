// Package cluster has tests alone: real clusters of three and four brokers, as
// processes on loopback and in network namespaces, that lose brokers, disks,
// power and cables under load. Every test runs a workload (see workload_test.go)
// whose history package checker judges, and ends by holding what lies on the
// brokers' disks against each other.
//
// Programs with another clock or of another version are built by overlay: see
// buildFirn. No switch for them is in production code.
//
// `go test` runs each kind of fault once. With FIRN_TEST_LONG=1 each runs for
// several rounds, at random moments; the seed is logged, and FIRN_TEST_SEED
// repeats it.
package cluster
