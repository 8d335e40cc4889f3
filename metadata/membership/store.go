package membership

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/firnlog/firn/commitlog/segment"
)

// The file that names the object store: docs/format/cluster-files.md.
const (
	storeFormat = "firn-store"
	storeV1     = 1
	storeLimit  = 1 << 16
)

type storeFile struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Store   string `json:"store"`
}

func parseStore(b []byte) (string, error) {
	var f storeFile
	if err := json.Unmarshal(b, &f); err != nil {
		return "", err
	}
	switch {
	case f.Format != storeFormat:
		return "", errors.New("not the name of an object store")
	case f.Version != storeV1:
		return "", fmt.Errorf("unknown version %d", f.Version)
	}
	return f.Store, nil
}

// CheckStore refuses an object store that is not the one noted at path, where the
// cluster has data in that: it would be out of reach, and local copies of it are
// deleted already. identity is "" where the configuration has no store. Nothing is
// written. tiered says whether the cluster has data in its store.
func CheckStore(fs vfs.FS, path, identity string, tiered bool) error {
	b, err := segment.ReadFile(fs, path, storeLimit)
	if segment.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("membership: %w", err)
	}
	was, err := parseStore(b)
	if err != nil {
		return fmt.Errorf("membership: %s: %w", path, err)
	}
	switch {
	case was == identity || !tiered:
		return nil
	case identity == "":
		return refuse(ErrChangedStore, "tiered data of this node lies in %s, and its configuration has no object store by now: set remote.log.storage.system.enable and object.store.url as they were", was)
	}
	return refuse(ErrChangedStore, "tiered data of this node lies in %s, and object.store.url is %s by now: its topics would lose what is stored there; set it back, or move the bucket's content first and then delete %s", was, identity, path)
}

// NoteStore notes the object store that this node uses, once it may run.
func NoteStore(fs vfs.FS, path, identity string) error {
	b, err := json.MarshalIndent(storeFile{Format: storeFormat, Version: storeV1, Store: identity}, "", "  ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if old, err := segment.ReadFile(fs, path, storeLimit); err == nil && string(old) == string(b) {
		return nil
	}
	dir := fs.PathDir(path)
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("membership: make %s: %w", dir, err)
	}
	if err := segment.WriteFile(fs, path, b, true); err != nil {
		return fmt.Errorf("membership: %w", err)
	}
	if err := segment.SyncDir(fs, dir); err != nil {
		return fmt.Errorf("membership: %w", err)
	}
	return nil
}
