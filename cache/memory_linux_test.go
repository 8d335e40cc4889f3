package cache

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestMappedMemoryIsThere: no page is left to the first touch, by a goroutine that
// keeps its processor while the page is cleared.
func TestMappedMemoryIsThere(t *testing.T) {
	const n = 4<<20 + blockBytes // more than whole large pages
	whole, b, err := mapMemory(n)
	require.NoError(t, err)
	require.Len(t, b, n)
	pages := make([]byte, n/blockBytes)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(b))), n, uintptr(unsafe.Pointer(unsafe.SliceData(pages))))
	require.Zero(t, errno)
	for i, there := range pages {
		if there&1 == 0 {
			t.Fatalf("page %d of %d is not there", i, len(pages))
		}
	}
	require.NoError(t, unmapMemory(whole))
}
