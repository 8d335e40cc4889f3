package raftnode

import (
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/firnlog/firn/metadata/command"
)

// inbound is a snapshot of another node, whole and on disk, that Raft has not seen.
type inbound struct {
	rpc  raft.RPC
	req  *raft.InstallSnapshotRequest
	file vfs.File
	path string
}

// receive reads a snapshot to disk, off Raft's main goroutine. Raft would read it
// from the network there, so that a leader which is paused half way would take this
// node's vote with it.
func (t *transport) receive(rpc raft.RPC, req *raft.InstallSnapshotRequest) {
	in, err := t.spool(rpc, req)
	if err != nil {
		// The stream is only good for the next request after all of this one.
		_, drained := io.Copy(io.Discard, rpc.Reader)
		rpc.Respond(nil, errors.Join(err, drained))
		return
	}
	select {
	case t.inbounds <- in:
	case <-t.quit:
		rpc.Respond(nil, errors.Join(raft.ErrTransportShutdown, in.drop(t.raft.fs)))
	}
}

// spool writes a snapshot under a name that is removed when the store is opened.
func (t *transport) spool(rpc raft.RPC, req *raft.InstallSnapshotRequest) (_ *inbound, err error) {
	fs := t.raft.fs
	in := &inbound{rpc: rpc, req: req, path: fs.PathJoin(t.raft.dir, "inbound-"+uuid.NewString()+snapTmpSuffix)}
	file, err := fs.Create(in.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("inbound snapshot: %w", err)
	}
	n, err := io.Copy(file, rpc.Reader)
	if err == nil && n != req.Size {
		err = fmt.Errorf("%w: %d bytes, not %d", command.ErrCorrupt, n, req.Size)
	}
	if err = errors.Join(err, file.Close()); err == nil {
		in.file, err = fs.Open(in.path, vfs.SequentialReadsOption)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("inbound snapshot: %w", err), fs.Remove(in.path))
	}
	return in, nil
}

func (in *inbound) drop(fs vfs.FS) error {
	return errors.Join(in.file.Close(), fs.Remove(in.path))
}

// install hands a snapshot to Raft, on the goroutine that hands it everything else.
//
// One that comes late, out of a stream that hung while another brought more, must
// not be installed: Raft would go back to it, and drop the entries above it that
// this node has acknowledged. If the log has what the snapshot ends with, there is
// nothing to install (Raft's own paper, §7).
func (t *transport) install(in *inbound) {
	answer := make(chan raft.RPCResponse, 1)
	switch held, err := t.holds(in.req.LastLogIndex, in.req.LastLogTerm); {
	case err != nil:
		answer <- raft.RPCResponse{Error: err}
	case held:
		answer <- raft.RPCResponse{Response: &raft.InstallSnapshotResponse{RPCHeader: t.raft.header, Term: t.raft.term(), Success: true}}
	default:
		rpc := raft.RPC{Command: in.req, Reader: in.file, RespChan: answer}
		select {
		case t.rpcs <- rpc:
		case <-t.quit:
			answer <- raft.RPCResponse{Error: raft.ErrTransportShutdown}
		}
	}
	t.answering.Go(func() {
		select {
		case r := <-answer:
			r.Error = errors.Join(r.Error, in.drop(t.raft.fs))
			in.rpc.RespChan <- r
		case <-t.quit:
			in.rpc.Respond(nil, errors.Join(raft.ErrTransportShutdown, in.drop(t.raft.fs)))
		}
	})
}

// holds reports whether the log, with all that Raft was handed before, has an entry,
// or has committed it long ago.
func (t *transport) holds(index, term uint64) (bool, error) {
	if t.raft.term() > 0 {
		// Raft answers an old term's request at once, in its turn: it is done with
		// those before.
		if err := t.ask(&raft.AppendEntriesRequest{RPCHeader: t.raft.header}); err != nil {
			return false, err
		}
	}
	if t.raft.committed() >= index {
		return true, nil
	}
	var entry raft.Log
	err := t.raft.logs.GetLog(index, &entry)
	if errors.Is(err, raft.ErrLogNotFound) {
		return false, nil
	}
	return err == nil && entry.Term == term, err
}
