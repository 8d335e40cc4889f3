package raftnode

import (
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/firnlog/firn/metadata/fsm"
)

// machine shows the state machine to Raft.
type machine struct {
	fsm *fsm.FSM
}

var _ raft.BatchingFSM = (*machine)(nil)

// Apply implements raft.FSM.
func (m *machine) Apply(log *raft.Log) any { return m.ApplyBatch([]*raft.Log{log})[0] }

// ApplyBatch implements raft.BatchingFSM. Changes of Raft's own configuration pass
// by: the state machine's index is that of its last command.
func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	entries := make([]fsm.Entry, 0, len(logs))
	for _, l := range logs {
		if l.Type == raft.LogCommand {
			entries = append(entries, fsm.Entry{Index: l.Index, Data: l.Data})
		}
	}
	outcomes := m.fsm.ApplyBatch(entries)
	out := make([]any, len(logs))
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			out[i], outcomes = outcomes[0], outcomes[1:]
		}
	}
	return out
}

// Snapshot implements raft.FSM.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	s, err := m.fsm.Snapshot()
	if err != nil {
		return nil, err
	}
	return &machineSnapshot{s}, nil
}

// Restore implements raft.FSM. Raft closes r.
func (m *machine) Restore(r io.ReadCloser) error { return m.fsm.Restore(r) }

type machineSnapshot struct {
	snap *fsm.Snapshot
}

// Persist implements raft.FSMSnapshot. It flushes the state machine first, so that
// the log which the snapshot covers may be cut.
func (s *machineSnapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := s.snap.WriteTo(sink); err != nil {
		if cerr := sink.Cancel(); cerr != nil {
			return fmt.Errorf("%w (and cancel: %w)", err, cerr)
		}
		return err
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (s *machineSnapshot) Release() {
	if err := s.snap.Release(); err != nil {
		panic(fmt.Sprintf("release of a metadata snapshot: %v", err)) // only on a second release
	}
}
