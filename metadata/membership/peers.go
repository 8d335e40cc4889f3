package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/firnlog/firn/commitlog/segment"
)

// The file of peers: docs/format/cluster-files.md.
const (
	peersFormat = "firn-peers"
	peersV1     = 1
	peersLimit  = 1 << 20
	maxPeers    = 1024
)

type peersFile struct {
	Format  string   `json:"format"`
	Version int      `json:"version"`
	Peers   []string `json:"peers"`
}

// readPeers reads where members gossiped; nothing where there is no file. A file that
// cannot be read is an error to tell, and no more: peers are a hint.
func readPeers(fs vfs.FS, path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	b, err := segment.ReadFile(fs, path, peersLimit)
	if segment.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("membership: %w", err)
	}
	peers, err := parsePeers(b)
	if err != nil {
		return nil, fmt.Errorf("membership: %s: %w", path, err)
	}
	return peers, nil
}

func parsePeers(b []byte) ([]string, error) {
	var f peersFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, err
	}
	switch {
	case f.Format != peersFormat:
		return nil, errors.New("not a list of peers")
	case f.Version != peersV1:
		return nil, fmt.Errorf("unknown version %d", f.Version)
	case len(f.Peers) > maxPeers:
		return nil, fmt.Errorf("%d peers", len(f.Peers))
	}
	for _, peer := range f.Peers {
		if _, err := netip.ParseAddrPort(peer); err != nil {
			return nil, fmt.Errorf("peer %q: %w", peer, err)
		}
	}
	return f.Peers, nil
}

// Remember lets the node keep its peers' addresses on disk, from now on. It is
// called once the node knows that it belongs here.
func (m *Membership) Remember() {
	m.mu.Lock()
	m.keepers = true
	m.mu.Unlock()
	m.remember()
}

// remember replaces the file where the members' addresses changed. It is synced,
// which is rare: a restart after power loss finds the peers as well.
func (m *Membership) remember() {
	m.saving.Lock()
	defer m.saving.Unlock()
	m.mu.Lock()
	var peers []string
	for _, other := range m.others {
		if other.Status != Left && len(peers) < maxPeers {
			peers = append(peers, other.GossipAddr.String())
		}
	}
	slices.Sort(peers)
	skip := !m.keepers || m.opts.PeersFile == "" || len(peers) == 0 || slices.Equal(peers, m.saved)
	m.mu.Unlock()
	if skip {
		return
	}
	b, err := json.MarshalIndent(peersFile{Format: peersFormat, Version: peersV1, Peers: peers}, "", "  ")
	if err == nil {
		err = m.opts.FS.MkdirAll(filepath.Dir(m.opts.PeersFile), 0o755)
	}
	if err == nil {
		err = segment.WriteFile(m.opts.FS, m.opts.PeersFile, append(b, '\n'), true)
	}
	if err != nil {
		m.log.Warn("gossip: peers are not remembered; a restart needs cluster.join", "file", m.opts.PeersFile, "err", err)
		return // the next change of a member tries again
	}
	m.mu.Lock()
	m.saved = peers
	m.mu.Unlock()
}
