package commitlog

import (
	"context"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// This file holds the signatures while the package is being filled in.

type Dir struct{}
type DirOptions struct{ BootID string }

func OpenDir(fs vfs.FS, path string, o DirOptions) (*Dir, error)                    { panic("soon") }
func (d *Dir) Path() string                                                         { panic("soon") }
func (d *Dir) DirectoryID() uuid.UUID                                               { panic("soon") }
func (d *Dir) ClusterID() string                                                    { panic("soon") }
func (d *Dir) SetClusterID(id string) error                                         { panic("soon") }
func (d *Dir) SameBoot() bool                                                       { panic("soon") }
func (d *Dir) Clean() bool                                                          { panic("soon") }
func (d *Dir) Untrusted() bool                                                      { panic("soon") }
func (d *Dir) MarkUntrusted() error                                                 { panic("soon") }
func (d *Dir) PathOf(tp record.TopicPartition) string                               { panic("soon") }
func (d *Dir) ListPartitions() ([]record.TopicPartition, error)                     { panic("soon") }
func (d *Dir) SetAsideStray(tp record.TopicPartition, at time.Time) (string, error) { panic("soon") }
func (d *Dir) RemoveStrays(before time.Time) (int, error)                           { panic("soon") }
func (d *Dir) RemovePartition(tp record.TopicPartition) error                       { panic("soon") }
func (d *Dir) Close(clean bool) error                                               { panic("soon") }

type FlusherOptions struct {
	Workers int
	// OnFatal is called once per failed sync or write, off any lock.
	OnFatal func(dir string, err error)
}
type Flusher struct{}

func NewFlusher(o FlusherOptions) *Flusher { panic("soon") }
func (f *Flusher) Close()                  { panic("soon") }

type Log struct{}

func Open(o Options) (*Log, error)                                                { panic("soon") }
func (l *Log) SetConfig(c Config)                                                 { panic("soon") }
func (l *Log) Config() Config                                                     { panic("soon") }
func (l *Log) Append(batches []record.Batch) error                                { panic("soon") }
func (l *Log) CheckProducer(h *record.Header) (producer.Verdict, error)           { panic("soon") }
func (l *Log) ForgetChecks()                                                      { panic("soon") }
func (l *Log) CheckMarker(producerID int64, epoch int16, coordinator int32) error { panic("soon") }
func (l *Log) Start() record.Offset                                               { panic("soon") }
func (l *Log) End() record.Offset                                                 { panic("soon") }
func (l *Log) FlushedEnd() record.Offset                                          { panic("soon") }
func (l *Log) FirstUnstable() record.Offset                                       { panic("soon") }
func (l *Log) LastStable(highWatermark record.Offset) record.Offset               { panic("soon") }

type Slice struct {
	Extents []Extent
	Bytes   int64
	First   record.Offset
	Next    record.Offset
}
type Extent struct {
	File *segment.File
	Pos  int64
	Len  int64
}

func (s *Slice) Release()                           { panic("soon") }
func (s *Slice) ReadAll(buf []byte) ([]byte, error) { panic("soon") }
func (l *Log) Read(from, upTo record.Offset, maxBytes int, atLeastOne bool) (Slice, error) {
	panic("soon")
}
func (l *Log) LookupTime(ts int64) (record.Offset, int64, record.Epoch, bool, error) { panic("soon") }
func (l *Log) MaxTimestamp() (record.Offset, int64, record.Epoch, bool, error)       { panic("soon") }

type EpochStart struct {
	Epoch record.Epoch
	Start record.Offset
}

func (l *Log) EpochEnd(e record.Epoch) (record.Epoch, record.Offset)                  { panic("soon") }
func (l *Log) LastEpoch() record.Epoch                                                { panic("soon") }
func (l *Log) AssignEpoch(e record.Epoch, start record.Offset) error                  { panic("soon") }
func (l *Log) Epochs() []EpochStart                                                   { panic("soon") }
func (l *Log) TruncateTo(off record.Offset) error                                     { panic("soon") }
func (l *Log) ResetTo(off record.Offset, epochs []EpochStart, producers []byte) error { panic("soon") }
func (l *Log) TrimTo(off record.Offset) (int64, error)                                { panic("soon") }

type SegmentInfo struct {
	Base         record.Offset
	End          record.Offset
	Bytes        int64
	MinTimestamp int64
	MaxTimestamp int64
	Sealed       bool
	LastAppend   time.Time
}

func (l *Log) Segments() []SegmentInfo                                        { panic("soon") }
func (l *Log) Size() int64                                                    { panic("soon") }
func (l *Log) MaybeRoll(now time.Time) (bool, error)                          { panic("soon") }
func (l *Log) AbortedTxns(from, to record.Offset) ([]producer.Aborted, error) { panic("soon") }
func (l *Log) ProducerSnapshotAt(end record.Offset) ([]byte, error)           { panic("soon") }
func (l *Log) Producers() []producer.Info                                     { panic("soon") }
func (l *Log) ExpireProducers(now time.Time) int                              { panic("soon") }

type CompactOptions struct {
	Now            time.Time
	UpTo           record.Offset
	BytesPerSecond int64
	MapBytes       int64
}
type CompactStats struct {
	Cleaned                 bool
	SegmentsIn, SegmentsOut int
	BytesIn, BytesOut       int64
	RecordsIn, RecordsOut   int64
	CleanedEnd              record.Offset
}

func (l *Log) Compact(ctx context.Context, o CompactOptions) (CompactStats, error) { panic("soon") }
func (l *Log) Flush(ctx context.Context) error                                     { panic("soon") }
func (l *Log) Close(clean bool) error                                              { panic("soon") }
func (l *Log) Failed() error                                                       { panic("soon") }
