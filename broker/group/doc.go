// Package group is the group coordinator: it keeps the members, generations
// and committed offsets of Kafka's classic consumer groups, and persists them
// in __consumer_offsets in Kafka's own record format
// (docs/format/consumer-offsets.md).
//
// # Shape
//
//   - [Coordinator] routes a group id to the shard of its offsets partition.
//   - A shard is one led offsets partition: its groups, committed offsets,
//     timers and writes under one lock. A shard that loads answers
//     COORDINATOR_LOAD_IN_PROGRESS, one that is not led NOT_COORDINATOR.
//   - classicGroup is the state machine of one group. It is pure: events come
//     in with their time, ordered effects (answers, records, timers) go out.
//   - offsetStore is what a replay of the log yields for offsets; the loader
//     and the live shard apply the same functions.
//
// # Writes
//
// Memory follows the log: a committed offset becomes readable, an assignment
// is handed out and a group disappears only when its record is in the log. A
// failed append changes nothing but what the failing event itself had changed,
// which is rolled back. A shard has at most one append in flight; what comes
// meanwhile is gathered into the next batch, so the order in memory is the
// order in the log. An operation that reads the state to decide what to delete
// runs alone in its group: it waits for the writes in flight, and later
// requests of that group wait for it.
//
// # Goroutines and locks
//
// There is no goroutine per group, member or partition. Events run on the
// caller's goroutine; a shard's deadlines share one time.AfterFunc. Each Lead
// starts one loading goroutine, bounded in number and ended by Resign or
// Close. Lock order: Coordinator.mu, then shard.mu, and never both across a
// call out. Log and the answers' callbacks are called without any lock.
//
// # Invariants
//
//   - Every request is answered exactly once, also by Resign and Close.
//   - A group has one generation at a time; generations only rise.
//   - Every member of a Stable group has the assignment of its generation.
//   - The state in memory equals the replay of the log, but for rebalances
//     under way, sessions and pending members, which are not persisted.
package group
