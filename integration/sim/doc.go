// Package sim runs a whole cluster in one goroutine of virtual time: brokers,
// their disks, the network between them, the metadata log, the bucket, clients,
// and faults, all drawn from one seed. It drives the machines that run in
// production, and holds the invariants of design.md §8 against the state after
// each event. The same seed gives the same run, event for event.
//
// # What is production code here
//
//   - broker/replica: leader and follower of each partition
//   - metadata/command, metadata/fsm, metadata: every command is encoded, decoded and
//     applied, on Pebble in memory; brokers have the images of the log's prefixes
//   - metadata/controller: Leases, with the answers to heartbeats, and Decide
//   - metadata/raftnode: Contacts, from which a new controller knows how old leases can
//     be; who votes, and who confirms a leader, is drawn
//   - tiering/archive (Machine), tiering/manifest
//   - commitlog.EpochCache, commitlog/producer.State
//
// # What is modelled
//
// What carries these machines out (broker/partition, broker/peer, the controller's
// and heartbeater's loops, the archiver's effects, the sweeper) is written here
// again, each function naming the one that it follows; where those change, these
// have to. A log is a list of batches with a synced end. Raft is a list of commands
// with a leader wherever a majority is up and connected: a committed command is
// never lost, one whose outcome its proposer did not learn may be committed later.
// A call between brokers may be lost, late, doubled or overtaken; clocks of the wall
// jump, those for leases and lags do not.
//
// Not modelled: files and their damage, compaction, transactions, groups, quotas,
// authorization, the bytes of records and of the protocol, Raft itself, Serf itself
// (its hints are drawn), formation, retention by time or size.
//
// # Goroutines
//
// A run has none of its own; Pebble has some, which change nothing that is seen.
// TestSeeds runs as many seeds at the same time as there are processors.
//
// # Use
//
//	go test ./integration/sim                             many seeds
//	go test ./integration/sim -run TestSeeds -sim.seeds=10000 -sim.from=1
//	go test ./integration/sim -run 'TestSeed$' -sim.seed=7    one, with a trace of all that happens
//
// A seed that fails prints the line that replays it.
package sim
