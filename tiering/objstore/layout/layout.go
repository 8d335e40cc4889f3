// Package layout is where Firn's objects are in a bucket; see
// docs/format/bucket-layout.md. Nothing else makes or reads keys.
//
//	<prefix>/<cluster id>/data/<2 hex>/<uuid>   segment objects
//	<prefix>/<cluster id>/owner/<generation>    who may delete
//	<prefix>/<cluster id>/probe/<uuid>          gone within seconds
package layout

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/firnlog/firn/tiering/objstore"
)

// Layout names the objects of one cluster. Make one with New.
type Layout struct {
	root string // ends in a slash
}

// New checks prefix (which may be "") and cluster id.
func New(prefix, clusterID string) (Layout, error) {
	if clusterID == "" || strings.Contains(clusterID, "/") {
		return Layout{}, fmt.Errorf("cluster id %q cannot name a part of a bucket", clusterID)
	}
	root := clusterID
	if prefix != "" {
		root = prefix + "/" + clusterID
	}
	if err := objstore.ValidateKey(root); err != nil {
		return Layout{}, fmt.Errorf("object store prefix %q: %w", prefix, err)
	}
	if len(root) > objstore.MaxKeyLen/2 {
		return Layout{}, errors.New("object store prefix is too long")
	}
	return Layout{root: root + "/"}, nil
}

// DataPrefix is what the keys of all segment objects begin with, and no other.
func (l Layout) DataPrefix() string { return l.root + "data/" }

// OwnerPrefix is what the keys of all claims begin with, and no other.
func (l Layout) OwnerPrefix() string { return l.root + "owner/" }

// Owner is the key of a generation's claim: 19 decimal digits, so that keys
// sort by generation.
func (l Layout) Owner(generation int64) string {
	return fmt.Sprintf("%s%019d", l.OwnerPrefix(), generation)
}

// ParseOwner is the inverse of Owner, false for any other key.
func (l Layout) ParseOwner(key string) (generation int64, ok bool) {
	digits, ok := strings.CutPrefix(key, l.OwnerPrefix())
	generation, err := strconv.ParseInt(digits, 10, 64)
	return generation, ok && err == nil && generation > 0 && l.Owner(generation) == key
}

// Probe is a key for objstore.Probe.
func (l Layout) Probe(id uuid.UUID) string { return l.root + "probe/" + id.String() }

// Object is the key of the segment object with this id. The two hex digits
// before it spread the objects over the store's partitions, and over
// directories; they are the id's last byte, which is random in every version
// of UUID in use.
func (l Layout) Object(id uuid.UUID) string {
	return l.DataPrefix() + hex.EncodeToString(id[15:]) + "/" + id.String()
}

// ParseObject is the inverse of Object. It is false for any key that Object
// does not make, so that what others left below our prefix is not ours.
func (l Layout) ParseObject(key string) (uuid.UUID, bool) {
	rest, ok := strings.CutPrefix(key, l.DataPrefix())
	if !ok || len(rest) != 2+1+36 {
		return uuid.UUID{}, false
	}
	id, err := uuid.Parse(rest[3:])
	if err != nil || l.Object(id) != key {
		return uuid.UUID{}, false
	}
	return id, true
}
