package group

import (
	"encoding/binary"
	"testing"
	"testing/synctest"

	"github.com/firnlog/firn/record"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
)

// openTxn writes an offset commit of an open transaction.
func openTxn(log *fakeLog, producer int64, group, topic string, partition int32, offset int64) {
	bb := record.NewBuilder(record.BuilderOptions{Idempotent: true, ProducerID: producer, Transactional: true})
	r := offsetRecord(group, topic, partition, &committed{offset: offset, leaderEpoch: -1, expireAt: -1})
	bb.Append(0, r.Key, r.Value)
	log.write(0, 1, bb.Build())
}

func endTxn(log *fakeLog, producer int64, commit bool) {
	log.write(0, 1, record.EndTxnMarker{Commit: commit}.Batch(producer, 0, 0))
}

func plain(log *fakeLog, records ...Record) {
	bb := record.NewBuilder(record.BuilderOptions{Codec: record.CodecGzip})
	for _, r := range records {
		bb.Append(0, r.Key, r.Value)
	}
	log.write(0, 1, bb.Build())
}

func plainOffset(group, topic string, partition int32, offset int64) Record {
	return offsetRecord(group, topic, partition, &committed{offset: offset, leaderEpoch: -1, expireAt: -1})
}

func TestLoadTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		plain(log, plainOffset("g", "t", 0, 1), plainOffset("g", "t", 1, 1), plainOffset("g", "t", 2, 1))
		openTxn(log, 1, "g", "t", 0, 10)
		openTxn(log, 1, "other", "t", 0, 10)
		endTxn(log, 1, true)
		openTxn(log, 2, "g", "t", 1, 20)
		endTxn(log, 2, false)
		openTxn(log, 3, "g", "t", 2, 30) // still open
		openTxn(log, 4, "g", "t", 3, 40) // older than the plain commit that follows
		plain(log, plainOffset("g", "t", 3, 41))
		endTxn(log, 4, true)
		openTxn(log, 5, "g", "t", 4, 50) // ended by a tombstone
		plain(log, Record{Key: offsetKey("g", "t", 4)})
		endTxn(log, 5, true)
		endTxn(log, 99, true) // of whom nothing is known
		c := reload(t, log)
		defer c.Close()
		require.Equal(t, "t-0=10 t-1=1 t-2=1 t-3=41", offsetsOf(t, c, "g"))
		require.Equal(t, "t-0=10", offsetsOf(t, c, "other"))
		r := fetchAll(c, "g", true).get(t)
		for _, p := range r.Topics[0].Partitions {
			if p.Partition == 2 {
				require.Equal(t, FetchedOffset{Partition: 2, Offset: -1, LeaderEpoch: -1, Err: kerr.UnstableOffsetCommit}, p)
			} else {
				require.NoError(t, p.Err)
			}
		}
		// Deleting the group ends the open transaction's offsets with it.
		require.NoError(t, deleteGroup(c, "g").get(t))
		endTxn(log, 3, true)
		again := reload(t, log)
		defer again.Close()
		require.Equal(t, []string{"other"}, groupsOf(t, again))
	})
}

func TestLoadSkipsGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		plain(log, plainOffset("g", "t", 0, 1))
		hugeTags := append(plainOffset("g", "t", 0, 2).Value[:], 0)
		hugeTags = binary.AppendUvarint(hugeTags[:len(hugeTags)-2], 1<<31)
		plain(log,
			Record{Key: []byte{0, 3, 0, 1, 'x'}, Value: []byte("a KIP-848 group")},
			Record{Key: []byte{0, 99}, Value: []byte("of the future")},
			Record{Key: nil, Value: []byte("x")},
			Record{Key: []byte{0}, Value: []byte("x")},
			Record{Key: []byte{0, 1, 0xff}, Value: []byte("x")},
			Record{Key: offsetKey("g", "t", 0), Value: []byte{0, 9}},
			Record{Key: offsetKey("g", "t", 0), Value: hugeTags},
			Record{Key: groupKey("g"), Value: []byte{0, 3, 0, 1, 'x', 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff}},
			Record{Key: groupKey("gone"), Value: nil},
			Record{Key: append(offsetKey("g", "t", 0), 1), Value: plainOffset("g", "t", 0, 3).Value},
		)
		r := newReplay()
		require.NoError(t, log.Scan(t.Context(), 0, r.batch))
		require.Equal(t, 7, r.bad, r.firstBad)
		require.ErrorIs(t, r.firstBad, ErrCorrupt)

		// A batch that is broken inside does not end the load either.
		plain(log, plainOffset("g", "t", 0, 9))
		last := log.parts[0].batches[len(log.parts[0].batches)-1]
		last[record.HeaderSize] ^= 0xff
		plain(log, plainOffset("g", "t", 1, 1))
		c := reload(t, log)
		defer c.Close()
		require.Equal(t, "t-0=1 t-1=1", offsetsOf(t, c, "g"))
	})
}

func FuzzReplay(f *testing.F) {
	f.Add(groupKey("g"), goldenGroup().record().Value, true)
	f.Add(offsetKey("g", "t", 1), plainOffset("g", "t", 1, 5).Value, false)
	f.Add(offsetKey("g", "t", 1), []byte(nil), true)
	f.Add([]byte{0, 3, 0, 0}, []byte{0, 0}, false)
	f.Fuzz(func(t *testing.T, key, value []byte, txn bool) {
		r := newReplay()
		bb := record.NewBuilder(record.BuilderOptions{Idempotent: txn, ProducerID: 5, Transactional: txn})
		bb.Append(0, key, value)
		b, err := record.ReadBatch(bb.Build())
		require.NoError(t, err)
		require.NoError(t, r.batch(&b))
		marker, err := record.ReadBatch(record.EndTxnMarker{Commit: true}.Batch(5, 0, 0))
		require.NoError(t, err)
		require.NoError(t, r.batch(&marker))
		require.Empty(t, r.offsets.txns)
		cfg := DefaultConfig()
		for id, v := range r.groups {
			g := restoreGroup(id, v, &cfg, nil, epoch)
			again, err := decodeGroup(g.record().Value)
			require.NoError(t, err)
			if len(again.members) != len(g.members) {
				t.Fatalf("%d members written, %d read", len(g.members), len(again.members))
			}
		}
	})
}
