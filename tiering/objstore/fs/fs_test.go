package fs_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/fs"
	"github.com/firnlog/firn/tiering/objstore/storetest"
)

func open(t *testing.T, root string) *fs.Store {
	t.Helper()
	s, err := fs.Open(root)
	require.NoError(t, err)
	return s
}

func TestStore(t *testing.T) {
	storetest.Suite{Open: func(t *testing.T) objstore.Store { return open(t, t.TempDir()) }}.Run(t)
}

// The checksum is found without the attribute, too: a file that came with cp
// or from a bucket is a good object.
func TestForeignFile(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	require.NoError(t, os.WriteFile(filepath.Join(root, "k"), []byte("hello"), 0o600))
	info, err := s.Head(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, objstore.ChecksumOf([]byte("hello")), info.Checksum)
}

// Flipped bits on disk keep the recorded checksum, so only a deep check, or a
// reader that verifies, can see them; that it does is what this holds.
func TestVerifyFindsFlippedBits(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	body := storetest.Body(1, 4096)
	storetest.Put(t, s, "k", body)
	f, err := os.OpenFile(filepath.Join(root, "k"), os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{body[100] ^ 4}, 100)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, err = objstore.Verify(t.Context(), s, "k", 4096, objstore.ChecksumOf(body), true)
	require.ErrorIs(t, err, objstore.ErrChecksum)
}

func temps(t *testing.T, root string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(root, ".firn-tmp"))
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A writer killed half-way leaves a temporary file; the next Open removes it,
// and leaves the file of a writer that lives.
func TestOpenRemovesTempsOfTheDead(t *testing.T) {
	root := t.TempDir()
	open(t, root)
	dead := filepath.Join(root, ".firn-tmp", "put-dead")
	require.NoError(t, os.WriteFile(dead, []byte("half"), 0o600))
	alive, err := os.Create(filepath.Join(root, ".firn-tmp", "put-alive"))
	require.NoError(t, err)
	require.NoError(t, unix.Flock(int(alive.Fd()), unix.LOCK_EX))
	s := open(t, root)
	require.Equal(t, []string{"put-alive"}, temps(t, root))
	keys, err := storetest.Keys(t.Context(), s, "", "")
	require.NoError(t, err)
	require.Empty(t, keys, "temporary files are no objects")
	require.NoError(t, alive.Close())
	open(t, root)
	require.Empty(t, temps(t, root))
}

// Puts leave nothing behind, whether they succeed or not.
func TestNoTempsLeft(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	storetest.Put(t, s, "a/b", []byte("x"))
	_, err := s.Put(t.Context(), "a/b", strings.NewReader("y"), 1, objstore.PutOptions{IfAbsent: true})
	require.ErrorIs(t, err, objstore.ErrExists)
	_, err = s.Put(t.Context(), "a/c", strings.NewReader("y"), 1, objstore.PutOptions{Checksum: objstore.CRC32C(1)})
	require.ErrorIs(t, err, objstore.ErrChecksum)
	require.Empty(t, temps(t, root))
}

// "a" as an object and as a directory cannot both be; the error says so and
// is not retried.
func TestKeyThatIsADirectory(t *testing.T) {
	s := open(t, t.TempDir())
	storetest.Put(t, s, "a", []byte("x"))
	_, err := s.Put(t.Context(), "a/b", strings.NewReader("y"), 1, objstore.PutOptions{})
	require.ErrorIs(t, err, objstore.ErrInvalid)
	require.False(t, objstore.Retryable(err))
}

// A full disk is a failure that time can heal, and it leaves no temporary file.
func TestFullDisk(t *testing.T) {
	root := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", root).CombinedOutput(); err != nil {
		t.Logf("no tmpfs here (%s): the limit on file size stands in for it", bytes.TrimSpace(out))
		limitFileSize(t, 1<<20)
	} else {
		t.Cleanup(func() { require.NoError(t, syscall.Unmount(root, 0)) })
	}
	s := open(t, root)
	_, err := s.Put(t.Context(), "k", bytes.NewReader(make([]byte, 3<<20)), 3<<20, objstore.PutOptions{})
	require.ErrorIs(t, err, objstore.ErrTransient)
	require.Empty(t, temps(t, root))
	storetest.Put(t, s, "small", []byte("fits"))
}

// limitFileSize makes writes past n bytes fail with EFBIG (Go ignores SIGXFSZ).
func limitFileSize(t *testing.T, n uint64) {
	t.Helper()
	var old syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old))
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: n, Max: old.Max}))
	t.Cleanup(func() { require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old)) })
}
