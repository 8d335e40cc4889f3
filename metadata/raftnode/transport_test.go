package raftnode

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// fakeNetwork answers what it is told to.
type fakeNetwork struct {
	raft.Transport
	rpcs    chan raft.RPC
	err     error
	entries atomic.Int32 // requests that were no heartbeats
}

func (f *fakeNetwork) Consumer() <-chan raft.RPC { return f.rpcs }

func (f *fakeNetwork) LocalAddr() raft.ServerAddress { return "here" }

func (f *fakeNetwork) Close() error { return nil }

func (f *fakeNetwork) RequestPreVote(raft.ServerID, raft.ServerAddress, *raft.RequestPreVoteRequest, *raft.RequestPreVoteResponse) error {
	return nil
}

func (f *fakeNetwork) AppendEntries(_ raft.ServerID, _ raft.ServerAddress, r *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if !isHeartbeat(r) {
		f.entries.Add(1)
	}
	resp.LastLog = 7
	return f.err
}

// TestEntriesWaitForHeartbeats: entries for a peer that is silent are held until it
// answers a heartbeat, the leadership changes, or the node stops; not for ever.
func TestEntriesWaitForHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeNetwork{rpcs: make(chan raft.RPC)}
		tr := newTransport(f, nil, nil, &snapStore{fs: vfs.NewMem()}, testDirectory, func(_ raft.ServerID, a raft.ServerAddress) raft.ServerAddress { return a })
		beat := func(err error) {
			f.err = err
			require.Equal(t, err, tr.AppendEntries("p", "a", &raft.AppendEntriesRequest{Term: 1}, &raft.AppendEntriesResponse{}))
		}
		send := func() chan error {
			done := make(chan error, 1)
			go func() {
				done <- tr.AppendEntries("p", "a", &raft.AppendEntriesRequest{Term: 1, LeaderCommitIndex: 1}, &raft.AppendEntriesResponse{})
			}()
			synctest.Wait()
			return done
		}
		silent := errors.New("silent")
		beat(nil)
		require.NoError(t, <-send())
		require.Equal(t, uint64(7), tr.progress("p").lastIndex)
		for _, wake := range []func(){func() { beat(nil) }, tr.reset, func() { time.Sleep(holdTime) }, tr.stop} {
			beat(silent)
			f.err = nil
			f.entries.Store(0)
			held := send()
			require.Zero(t, f.entries.Load(), "sent to a peer that is silent")
			wake()
			require.NoError(t, <-held)
			require.Equal(t, int32(1), f.entries.Load())
		}
		beat(silent)
		f.err = nil
		require.NoError(t, <-send(), "held after stop")
		require.NoError(t, tr.Close())
	})
}
