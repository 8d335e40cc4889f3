// Package fleet runs the brokers of one cluster as processes of the firn program:
// `firn serve`, with a data directory, a log file and addresses for each, on
// loopback with consecutive ports or in network namespaces (package netns), where
// every node has the usual ports. It kills, pauses, stops, wipes and starts them
// again, and asks their admin servers how the cluster is.
//
// Tests use it by harness.Cluster, the bench as it is. A broker's methods must
// not be called at the same time as others of the same broker; different brokers
// may be handled at once. A fleet runs one goroutine for each process, which
// waits for its end; processes die with the one that made the fleet.
package fleet
