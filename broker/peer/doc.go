// Package peer pulls: it keeps the partitions that this broker follows in step
// with their leaders, by Kafka's Fetch.
//
// # What it owns
//
// A Manager has sessions: for each leader some connections (num.replica.fetchers),
// each with one incremental fetch session (KIP-227), one request in flight, and the
// partitions that hash to it. What a reply means and what to ask next is decided in
// broker/replica and carried out by broker/partition; here is only how to ask for
// thousands of partitions at little cost: an incremental request names the ones
// whose position has changed, a reply the ones that have news.
//
// # Goroutines
//
// One for each session that has partitions, and none for a partition. It dials,
// asks, hands each partition its part of the reply, waits for the disk where the
// topic's durability asks for that, and asks again. Manager.Close ends them all.
//
// # Locks
//
// Manager.mu before Partition's, and that before session.mu: a partition tells its
// session under its own lock (FollowReady). A session calls no partition while it
// holds session.mu.
//
// # Always true
//
//   - A fetch is an acknowledgement: a position is asked for only when all below it
//     is durable to the topic's level (partition.Position).
//   - The batches of a reply alias the session's one frame buffer, which is read
//     into again only after every partition has appended its own.
//   - A partition that fails is taken out of the session and tried again by itself,
//     later and later; it holds up nobody.
//   - A partition that follows another leader, or the same in another epoch, takes
//     nothing from replies that were asked for before: they are not to its position.
//
// A request that waits at the leader is given up when partitions come that have
// not been asked for yet: after a failover thousands come at once, and those who
// wait for their acknowledgement should not wait for an idle poll to end.
package peer
