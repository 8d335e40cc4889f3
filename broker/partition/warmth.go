package partition

import (
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/record"
)

// localLog is the log as replica.Judge looks at it.
type localLog struct{ *commitlog.Log }

// Below implements replica.Local. It allocates: it is asked only where a follower's log
// begins later than this one.
func (l localLog) Below(at record.Offset) (segments int, bytes, of int64) {
	for _, s := range l.Segments() {
		of += s.Bytes
		if s.End <= at && s.Bytes > 0 {
			segments, bytes = segments+1, bytes+s.Bytes
		}
	}
	return segments, bytes, of
}
