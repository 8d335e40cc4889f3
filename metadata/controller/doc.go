// Package controller holds what the metadata leader decides about brokers and
// placement, and the brokers' side of it.
//
// Leases and the plans (Decide, Place, PlanDrain, PlanRebalance, PlanGrowth,
// PlanBalance) are pure: image and time in, commands out. Controller runs them as the
// leader's task and answers heartbeats; Heartbeater registers a broker, sends its
// heartbeats and keeps its Lease. What follows from a broker's state for partitions
// is decided in the state machine (metadata/fsm), not here.
//
// Always:
//
//   - the log is written only for a change, never for a heartbeat;
//   - a broker is fenced for silence only when its own lease has ended: it counts
//     from before it sent a heartbeat, the controller from when it arrived, or later;
//   - a new metadata leader waits for a whole session, counted from the last moment at
//     which an earlier one can have granted a lease, before it fences anybody for
//     silence; one whose process was paused waits for a whole session;
//   - a lease is granted only by a node to which a majority of the voters has
//     acknowledged, since it heard the heartbeat, that it leads;
//   - a broker that is heard but applies nothing for a session, while there is
//     something to apply, gets no lease, and is fenced when its last one has ended;
//   - who is to be fenced gets no lease before it is fenced.
//
// # When a new leader may fence
//
// A metadata leader that falls silent takes its broker with it. Whoever succeeds it,
// an election later, knows nothing of the leases that it gave. Waiting for a whole
// session from then on would add the election to the session. Instead the voters tell,
// in their heartbeats, when they last lent themselves to an earlier leader
// (raftnode.Contacts): when one of its requests last arrived; for a node that led, when
// it last sent a heartbeat, or had an answer; for a process that began since, when it
// began. Let N lead in
// term t, and t0 < t be the term of an earlier leader C. Claim: any lease that C
// granted on a heartbeat sent at s has ended by T + Grant, where T is the latest of the
// contacts told by any majority of the voters, N among them, in heartbeats that carry
// t or a later term.
//
//  1. C granted it after a majority M of the voters, C perhaps among them, had
//     acknowledged heartbeats of Raft that C sent after it heard the broker's, so after
//     s, and after C found its own term to be t0 still (raftnode.AsLeader.Verify). Each
//     member of M noted this contact, when it arrived or was sent, before it looked
//     whether its own term was above t0, and its term was not. So each noted a time
//     after s while its term was t0 at most. C, which may need nobody, notes that it
//     made sure.
//  2. Terms do not go back, and a process that begins notes that as contact. So whoever
//     of M tells of its contacts before t, when its term is t or more, tells of a time
//     after s.
//  3. Any two majorities share a member, so T is after s. The lease ends at s + Grant.
//
// The voters change by one server at a time, and majorities of neighbouring
// configurations meet. Where C's and N's are no neighbours, N's log has a change by some
// leader L of a term between t0 and t. L made it after it had committed an entry of its
// own term under a configuration that is a neighbour of C's. From then on no M could be
// found, so s is before that; and N has the change from a request that arrived later, or
// was L itself, and had the answers by which it committed: N's own contact is after s.
// That is why N must be among those who tell. Where N itself has changed the voters in t
// before it came to ask for them, they are not those of its election, and it waits for a
// whole session (raftnode.AsLeader.Reign).
//
// Contacts are told as ages, rounded down, and counted back from when they arrive, on
// clocks that stop while a machine sleeps: errors make T later, and N more patient.
// A leadership that was handed over, with the old leader alive, makes T late by itself:
// the old one led until then. Leases given in N's own term are those that N heard; a
// node that leads again, or twice in its turn, has other terms, and a heartbeat that was
// heard as the leader of one is not granted as that of another, nor is a decision of one
// carried out in another (raftnode.AsLeader.Propose).
//
// Session and Grant are those of the node that leads. Where N's session is shorter than
// C's grant was, as while broker.session.timeout.ms is set below 3 s at one broker after
// the other, a lease of C may outlast it.
//
// What this leaves of a broker's time to be heard may be nothing, after a long
// election: it has a third of a session from the beginning of N's leadership in any case.
//
// Controller.Run and Heartbeater.Run are run by their owner and start no goroutine
// that outlives them.
package controller
