package commitlog

import (
	"errors"
	"fmt"

	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/commitlog/segment"
)

var (
	// ErrOutOfRange: the offset is outside [Start, End].
	ErrOutOfRange = errors.New("commitlog: offset out of range")
	// ErrNoSpace: the disk is full. The log is exactly as it was before the
	// call and can be used again.
	ErrNoSpace = errors.New("commitlog: no space left on device")
	// ErrNoFiles: the process has as many files open as it may. The log is exactly
	// as it was before the call and can be used again.
	ErrNoFiles = errors.New("commitlog: no file descriptor left")
	// ErrFailed: an earlier write or sync failed, after which the disk's content
	// is unknown. The log takes no more changes until it is opened again.
	ErrFailed = errors.New("commitlog: log has failed")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("commitlog: log is closed")
	// ErrCorrupt: bytes below the recovery point are missing or damaged, or a
	// file of the data directory cannot be trusted.
	ErrCorrupt = segment.ErrCorrupt
	// ErrNotContiguous: a batch to append starts below the end of the log.
	ErrNotContiguous = errors.New("commitlog: batch does not follow the end of the log")
	// ErrLocked: another process uses the data directory.
	ErrLocked = errors.New("commitlog: data directory is in use by another process")

	// ErrOutOfOrderSequence is producer.ErrOutOfOrderSequence.
	ErrOutOfOrderSequence = producer.ErrOutOfOrderSequence
	// ErrStaleProducerEpoch is producer.ErrStaleEpoch.
	ErrStaleProducerEpoch = producer.ErrStaleEpoch
	// ErrInvalidTxnState is producer.ErrInvalidTxnState.
	ErrInvalidTxnState = producer.ErrInvalidTxnState
	// ErrStaleCoordinator is producer.ErrStaleCoordinator.
	ErrStaleCoordinator = producer.ErrStaleCoordinator
)

// isShort says whether err is ErrNoSpace or ErrNoFiles.
func isShort(err error) bool { return errors.Is(err, ErrNoSpace) || errors.Is(err, ErrNoFiles) }

// short makes ErrNoSpace or ErrNoFiles of an error that means one of them, and nil of
// any other.
//
// REQUIRES: the log is as it was.
func (l *Log) short(err error) error {
	switch {
	case errors.Is(err, ErrFailed):
		return nil
	case isShort(err):
		return err
	case segment.IsNoSpace(err):
		return fmt.Errorf("%w: %s: %w", ErrNoSpace, l.place.Dir, err)
	case segment.IsNoFiles(err):
		err = fmt.Errorf("%w: %s: %w", ErrNoFiles, l.place.Dir, err)
		l.place.FDs.GiveWay() // for the next attempt
		l.flusher.tellNoFiles(l.logger, err)
		return err
	}
	return nil
}

// shortOr is short, or err where that is nil.
func (l *Log) shortOr(err error) error {
	if s := l.short(err); s != nil {
		return s
	}
	return err
}
