// Package archive moves sealed ranges of the partitions that this broker leads
// into the object store.
//
// One copy goes through five steps, each recorded before the next begins:
//
//	range → intent (CopyStarted) → upload (If-None-Match) → verify → commit (CopyFinished)
//
// Machine decides, and does no I/O: events and the time go in, ordered effects
// come out. Archiver is the loop that carries the effects out, each on a
// goroutine of its own, and feeds back what came of them. It owns those
// goroutines; Run returns when all have ended.
//
// Invariants, whatever fails and whenever the process dies:
//
//   - at most one copy of a partition is under way, and at most Concurrency of all;
//   - an object's bytes are sent only after its intent is committed, under a
//     UUID drawn for this attempt alone; so every byte in the bucket has a name
//     in the metadata or is an orphan that nobody will ever refer to;
//   - CopyFinished is proposed only for bytes that the store vouches for, or
//     that were read back, with the size and checksum of what was built;
//   - a copy that is given up is said to be (CopyAbandoned), so that its object
//     goes to deletion. Where nobody is left to say so (a crash, a deposed
//     leader), package reclaim does.
//
// Crash cases: before CopyStarted commits nothing exists. After it, the intent
// of an ended broker epoch names the object, uploaded or not, and reclaim gives
// it up. After CopyFinished commits, the copy is whole. A PUT that lands after
// its object was deleted is found by reclaim's listing.
package archive

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/objstore"
)

// ErrSource says that the local range cannot be made into an object: it is
// gone, or damaged. Builders wrap it; another attempt waits long.
var ErrSource = errors.New("archive: local range cannot be copied")

// Led is one partition that this broker leads and whose topic is tiered, as
// the log and the metadata show it now.
type Led struct {
	Partition record.TopicPartition
	// Topic is the topic's name, for the log.
	Topic string
	Fence command.Fence
	// Store names the store that the topic's objects go to.
	Store string
	// Generation is the cluster's recovery generation.
	Generation int64
	// Start is where the next copy begins: max(remoteEnd, logStart).
	Start record.Offset
	// Sealed are the sealed segments that hold anything at or above Start and
	// end at or below min(lastStable, highWatermark), in order of offsets.
	Sealed []Sealed
}

// Sealed is a sealed segment, from Led.Start on.
type Sealed struct {
	End   record.Offset
	Bytes int64     // at or above Led.Start
	At    time.Time // when it was sealed
}

// PartitionSource shows what there is to copy.
type PartitionSource interface {
	// Leads lists the tiered partitions that this broker leads, also those with
	// nothing to copy. A partition that is missing is led no longer.
	Leads() []Led
}

// Copy is one attempt to copy one range.
type Copy struct {
	Led    Led // as it was when the copy began; Sealed is cleared
	Object uuid.UUID
	Start  record.Offset
	End    record.Offset
	Intent uint64 // log index of CopyStarted
	Bytes  int64  // of the range in the local log
}

// Built is an object ready to be uploaded.
type Built struct {
	Body     io.ReaderAt
	Size     int64 // bytes
	Checksum objstore.Checksum
	Footer   int64          // its position in the object
	Entry    manifest.Entry // of the copied range
	Close    func() error   // frees what the body reads from
}

// Builder makes the object of a copy from the local log. ObjectBuilder is the
// one in use.
type Builder interface {
	Build(ctx context.Context, c Copy) (*Built, error)
}

// Metadata commits the copy commands; metadata.Client is one.
type Metadata interface {
	Propose(ctx context.Context, cmd command.Command) (command.Result, error)
}

// Effect is something that the Machine wants done. The implementations are
// Propose, Upload, Verify and Cancel.
type Effect interface{ effect() }

// Propose commits a command. Its outcome comes back as Proposed.
type Propose struct {
	Copy    Copy
	Command command.Command
}

// Upload builds the object and puts it into the store, if absent. Its outcome
// comes back as Uploaded.
type Upload struct{ Copy Copy }

// Verify checks size and checksum of the object in the store. Its outcome
// comes back as Verified.
type Verify struct {
	Copy     Copy
	Uploaded UploadedObject
}

// Cancel stops the effect that is under way for the partition; that effect's
// outcome still comes back.
type Cancel struct{ Partition record.TopicPartition }

func (Propose) effect() {}
func (Upload) effect()  {}
func (Verify) effect()  {}
func (Cancel) effect()  {}

// UploadedObject is what CopyFinished says of the object.
type UploadedObject struct {
	Size     int64
	Checksum objstore.Checksum
	Footer   int64
	Entry    manifest.Entry
}

// Event is the outcome of an effect. The implementations are Proposed,
// Uploaded and Verified.
type Event interface{ of() Copy }

// Proposed is the outcome of Propose.
type Proposed struct {
	Copy   Copy
	Result command.Result
	Err    error
}

// Uploaded is the outcome of Upload.
type Uploaded struct {
	Copy   Copy
	Object UploadedObject
	Err    error
}

// Verified is the outcome of Verify.
type Verified struct {
	Copy Copy
	Err  error
}

func (e Proposed) of() Copy { return e.Copy }
func (e Uploaded) of() Copy { return e.Copy }
func (e Verified) of() Copy { return e.Copy }
