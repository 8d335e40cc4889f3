package group

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
)

// appendError is what a client is told when its record could not be appended
// (as Kafka's coordinator maps it). Clients retry all but the last.
func appendError(err error) error {
	switch {
	case errors.Is(err, kerr.NotCoordinator),
		errors.Is(err, kerr.NotLeaderForPartition),
		errors.Is(err, kerr.FencedLeaderEpoch),
		errors.Is(err, kerr.KafkaStorageError):
		return kerr.NotCoordinator
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return kerr.UnknownServerError
	}
	return kerr.CoordinatorNotAvailable
}

// commitError is appendError for an offset commit, which has its own error for
// more data than fits.
func commitError(err error) error {
	if e := appendError(err); !errors.Is(e, kerr.UnknownServerError) {
		return e
	}
	return kerr.InvalidCommitOffsetSize
}
