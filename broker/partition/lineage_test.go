package partition

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// bucket is a metadata client that knows nothing but remote entries.
type bucket struct {
	metadata.Client
	entries manifest.Manifest
}

func (b bucket) Entries(context.Context, record.TopicPartition) (manifest.Manifest, error) {
	return b.entries, nil
}

// A topic with durability=replicated was copied to the bucket as far as 10 when
// the power failed; of the local log 5 records had reached the disk. The log went
// on at 5: new records, acknowledged, got offsets at which the bucket had others,
// and were hidden by them as soon as the local segments went. The same happened
// behind a log start that DeleteRecords had raised above what survived.
func TestALogBelowWhatWasCommittedBeginsAnewThere(t *testing.T) {
	entry := manifest.Entry{Start: 0, End: 10, Object: uuid.New(), Bytes: 100, MinTimestamp: 1, MaxTimestamp: 2,
		Epochs: []manifest.EpochStart{{Epoch: 0, Start: 0}, {Epoch: 1, Start: 7}}}
	for name, c := range map[string]struct {
		wiped     bool // the disk was replaced
		remoteEnd record.Offset
		logStart  record.Offset
		want      record.Offset
	}{
		"tail lost":            {remoteEnd: 10, want: 10},
		"disk replaced":        {wiped: true, remoteEnd: 10, want: 10},
		"log start above":      {logStart: 8, want: 8},
		"log start above both": {remoteEnd: 10, logStart: 12, want: 12},
		"nothing lost":         {remoteEnd: 5, want: 5},
		"nothing remote":       {want: 5},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, map[string]string{"durability": "replicated", "remote.storage.enable": "true"})
			if !c.wiped {
				b.append(batch(5, plain()), true)
			}
			b.shut()
			if c.wiped {
				require.NoError(t, b.fs.RemoveAll("data"))
			}
			e := b.img.Edit()
			p := led(1, 2)
			p.RemoteEnd, p.LogStart = c.remoteEnd, c.logStart
			e.PutPartition(b.tp, p)
			b.img, _ = e.Commit(b.img.Index() + 1)

			b.open()
			var err error
			at := entry
			at.End = max(c.remoteEnd, 8)
			meta := bucket{}
			if c.remoteEnd > 0 {
				meta.entries, err = manifest.New(c.logStart, at.End, []manifest.Entry{at})
				require.NoError(t, err)
			}
			b.set.opts.Meta = meta
			b.set.Apply(metadata.Empty(), b.img, b.img.Everything())
			st := b.part().State()
			require.Equal(t, c.want, st.LogEnd)
			require.Equal(t, c.want, st.HighWatermark)
			a := b.append(batch(2, plain()), true)
			require.NoError(t, a.Err)
			require.Equal(t, c.want, a.Base)
			_, end := b.part().Log().EpochEnd(0)
			switch c.remoteEnd {
			case 10:
				require.EqualValues(t, 7, end, "the bucket knows where epoch 0 ended")
				if c.logStart == 0 {
					res, err := read(b.part(), 4)
					require.NoError(t, err)
					require.True(t, res.Remote)
				}
			case 0:
				require.EqualValues(t, c.want, end)
			}
			// It stays so over another restart.
			b.shut()
			b.open()
			b.set.opts.Meta = meta
			b.set.Apply(metadata.Empty(), b.img, b.img.Everything())
			require.Equal(t, c.want+2, b.part().State().LogEnd)
		})
	}
}
