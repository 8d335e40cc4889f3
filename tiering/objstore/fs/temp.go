package fs

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// createTemp makes a locked temporary file; the caller closes and removes it.
// Between creation and lock a cleaner of another process may take the file
// for a dead writer's, so the file counts only if it still has its name.
func (s *Store) createTemp() (*os.File, error) {
	for range 10 {
		f, err := os.CreateTemp(filepath.Join(s.root, tempDir), "put-*")
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			err = unix.Fstat(int(f.Fd()), &st)
		}
		if err == nil && st.Nlink == 1 {
			return f, nil
		}
		lost := err == nil || errors.Is(err, unix.EWOULDBLOCK)
		if closeErr := f.Close(); closeErr != nil {
			return nil, errors.Join(err, closeErr)
		}
		if !lost {
			return nil, err
		}
	}
	return nil, fmt.Errorf("temporary files in %s are removed as fast as they are made", filepath.Join(s.root, tempDir))
}

// removeStaleTemps removes the temporary files that no living process locks.
func (s *Store) removeStaleTemps() error {
	dir := filepath.Join(s.root, tempDir)
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, d := range names {
		if err := removeIfUnlocked(filepath.Join(dir, d.Name())); err != nil {
			return err
		}
	}
	return nil
}

func removeIfUnlocked(path string) (err error) {
	f, err := os.Open(path)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil // its writer finished
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil // its writer lives
	case err != nil:
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	return nil
}

// mkdirs is MkdirAll that also makes the new directories' names durable.
func (s *Store) mkdirs(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	var made []string // directories whose parent gets a new name
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil || filepath.Dir(d) == d {
			break
		}
		made = append(made, filepath.Dir(d))
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	for _, parent := range made {
		if err := syncDir(parent); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(dir string) (err error) {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}
