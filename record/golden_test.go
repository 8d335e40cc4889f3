package record

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldenSpec is the batch that each golden file holds.
func goldenSpec(codec Codec) spec {
	s := newSpec(codec,
		Record{Timestamp: 1_700_000_000_000, Key: []byte("flake"), Value: []byte("snow"), Headers: []RecordHeader{
			{Key: []byte("layer"), Value: []byte("firn")}, {Key: []byte("null")}, {Key: []byte{}, Value: []byte{}}}},
		Record{Timestamp: 1_700_000_000_007, Key: nil, Value: []byte(strings.Repeat("packs down ", 20))},
		Record{Timestamp: 1_699_999_999_999, Key: []byte{}, Value: nil},
	)
	s.base, s.epoch = 4242, 7
	s.producerID, s.producerEpoch, s.sequence = 1001, 3, 99
	s.attributes = attrTransactional
	for i := range s.records {
		s.records[i].Offset += s.base
	}
	return s
}

// The files hold batches that franz-go made. They pin the layout: a change of
// this package that cannot read them cannot read anybody's log.
func TestGolden(t *testing.T) {
	for _, codec := range allCodecs {
		t.Run(codec.String(), func(t *testing.T) {
			path := filepath.Join("testdata", "batch-v2-"+codec.String()+".hex")
			s := goldenSpec(codec)
			if *update {
				require.NoError(t, os.WriteFile(path, []byte(dump(s.oracleBatch(t))), 0o644))
			}
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			raw, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
			require.NoError(t, err)
			b, err := Validate(raw, looseRules())
			require.NoError(t, err)
			require.Equal(t, s.records, collect(t, &b))
			require.EqualValues(t, 4242, b.BaseOffset)
			require.EqualValues(t, 4245, b.NextOffset())
			require.EqualValues(t, 7, b.LeaderEpoch)
			require.EqualValues(t, 1001, b.ProducerID)
			require.EqualValues(t, 3, b.ProducerEpoch)
			require.EqualValues(t, 101, b.LastSequence())
			require.Equal(t, int64(1_700_000_000_007), b.MaxTimestamp)
			require.True(t, b.IsTransactional())
			require.Equal(t, codec, b.Codec())
			if codec == CodecNone { // whose bytes no library chooses
				built := s.built(0)
				mine, err := ReadBatch(built)
				require.NoError(t, err)
				mine.Stamp(s.base, s.epoch)
				require.Equal(t, raw, mine.Raw)
			}
		})
	}
}

// dump writes bytes as lines of 32 in hexadecimal.
func dump(b []byte) string {
	var s strings.Builder
	for len(b) > 0 {
		n := min(len(b), 32)
		fmt.Fprintf(&s, "%x\n", b[:n])
		b = b[n:]
	}
	return s.String()
}
