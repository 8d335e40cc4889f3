package membership

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/firnlog/firn/commitlog/segment"
)

// Server is one of the nodes that begin a cluster: one of its first voters.
type Server struct {
	DirectoryID uuid.UUID `json:"directoryId"`
	// Address is HOST:PORT of its port between brokers.
	Address string `json:"address"`
}

// Ballot orders the tries to begin a cluster: by counter, then by proposer. The
// zero Ballot is below all.
type Ballot struct {
	Counter  uint64    `json:"counter"`
	Proposer uuid.UUID `json:"proposer"`
}

// Less orders ballots.
func (b Ballot) Less(other Ballot) bool {
	if b.Counter != other.Counter {
		return b.Counter < other.Counter
	}
	return bytes.Compare(b.Proposer[:], other.Proposer[:]) < 0
}

// Ledger is what a node must not forget while a cluster begins. It is on disk
// before anybody hears of it.
//
// INVARIANT: Accepted ≤ Promised. Value is set exactly where Accepted is not zero.
// Chosen never changes once set.
type Ledger struct {
	Promised Ballot   `json:"promised"`
	Accepted Ballot   `json:"accepted"`
	Value    []Server `json:"value,omitempty"`
	Chosen   []Server `json:"chosen,omitempty"`
}

func (l *Ledger) equal(other *Ledger) bool {
	return l.Promised == other.Promised && l.Accepted == other.Accepted &&
		slices.Equal(l.Value, other.Value) && slices.Equal(l.Chosen, other.Chosen)
}

// The ledger's file: docs/format/cluster-files.md.
const (
	ledgerFormat = "firn-formation"
	ledgerV1     = 1
	ledgerLimit  = 1 << 20
)

type ledgerFile struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Ledger
}

func readLedger(fs vfs.FS, path string) (Ledger, error) {
	b, err := segment.ReadFile(fs, path, ledgerLimit)
	if segment.IsNotExist(err) {
		return Ledger{}, nil
	}
	if err != nil {
		return Ledger{}, fmt.Errorf("membership: %w", err)
	}
	l, err := parseLedger(b)
	if err != nil {
		return Ledger{}, fmt.Errorf("membership: %s: %w", path, err)
	}
	return l, nil
}

func parseLedger(b []byte) (Ledger, error) {
	var f ledgerFile
	if err := json.Unmarshal(b, &f); err != nil {
		return Ledger{}, err
	}
	switch {
	case f.Format != ledgerFormat:
		return Ledger{}, errors.New("not the ledger of a cluster's beginning")
	case f.Version != ledgerV1:
		return Ledger{}, fmt.Errorf("unknown version %d", f.Version)
	case f.Promised.Less(f.Accepted), (f.Accepted == Ballot{}) != (len(f.Value) == 0):
		return Ledger{}, errors.New("contradicts itself")
	}
	return f.Ledger, nil
}

func writeLedger(fs vfs.FS, path string, l *Ledger) error {
	b, err := json.MarshalIndent(ledgerFile{Format: ledgerFormat, Version: ledgerV1, Ledger: *l}, "", "  ")
	if err != nil {
		return err
	}
	dir := fs.PathDir(path)
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("membership: make %s: %w", dir, err)
	}
	if err := segment.WriteFile(fs, path, append(b, '\n'), true); err != nil {
		return fmt.Errorf("membership: %w", err)
	}
	if err := segment.SyncDir(fs, dir); err != nil {
		return fmt.Errorf("membership: %w", err)
	}
	return nil
}
