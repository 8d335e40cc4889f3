package broker

import "golang.org/x/sys/unix"

const (
	// maxLogFiles is how many descriptors logs keep open for the next read, where
	// the process may have that many.
	maxLogFiles = 4096
	// minLogFiles keeps a few logs open under the tightest limit.
	minLogFiles = 32
)

// logFiles is the same under the process's limit of descriptors: at least half of
// that is left to connections, to the metadata log and to files in use. The limit in
// force is the hard one: Go's runtime raises the soft one to it at start. A limit that
// cannot be asked for is none.
func logFiles() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return maxLogFiles
	}
	return max(minLogFiles, int(min(maxLogFiles, limit.Cur/2)))
}
