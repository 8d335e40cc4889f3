package broker

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// TestEpochsOfARange: a broker that was started twice without a record in
// between has an epoch without records. Its range named two epochs that begin at
// one offset, the metadata refused the copy ("epochs do not increase"), and the
// partition never got past it.
func TestEpochsOfARange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// The epoch of each offset, and the log's epochs, empty ones included.
		var of []record.Epoch
		var all []commitlog.EpochStart
		for epoch := range record.Epoch(rapid.IntRange(1, 8).Draw(t, "epochs")) {
			all = append(all, commitlog.EpochStart{Epoch: epoch, Start: record.Offset(len(of))})
			for range rapid.IntRange(0, 3).Draw(t, "records") {
				of = append(of, epoch)
			}
		}
		if len(of) == 0 {
			return
		}
		start := rapid.IntRange(0, len(of)-1).Draw(t, "start")
		end := rapid.IntRange(start+1, len(of)).Draw(t, "end")
		got := epochsIn(all, record.Offset(start), record.Offset(end))
		entry := manifest.Entry{Start: record.Offset(start), End: record.Offset(end), Object: uuid.New()}
		for _, e := range got {
			entry.Epochs = append(entry.Epochs, manifest.EpochStart{Epoch: e.Epoch, Start: e.Start})
		}
		require.NoError(t, entry.Validate())
		for o := start; o < end; o++ {
			epoch := record.Epoch(-1)
			for _, e := range got {
				if e.Start <= record.Offset(o) {
					epoch = e.Epoch
				}
			}
			require.Equal(t, of[o], epoch, "offset %d of %v", o, all)
		}
	})
}
