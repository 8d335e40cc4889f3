package membership

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/configdef"
)

// storeOf is the object store that the cluster's data belongs in, "" if none is noted.
func storeOf(img *metadata.Image) string {
	return img.Configs(metadata.ResourceBroker, "")[configdef.ObjectStore]
}

// hasTiered reports whether the cluster has data in its object store.
func hasTiered(img *metadata.Image) bool {
	for _, p := range img.AllPartitions() {
		if p.RemoteEnd > 0 {
			return true
		}
	}
	return false
}

// CheckStore refuses an object store that is not the one that the cluster noted: what
// its leaders copied there would be out of reach for this node, and what this node
// copies elsewhere for them. identity is "" where the configuration has no store. One
// who is alone may change while there is nothing to lose.
func CheckStore(img *metadata.Image, identity string) error {
	noted, tiered := storeOf(img), hasTiered(img)
	switch {
	case noted == "" || noted == identity, !tiered && (identity == "" || lone(img)):
		return nil
	case identity == "":
		return refuse(ErrChangedStore, "the cluster's tiered data is in %s, and the configuration of this node has no object store: set remote.log.storage.system.enable and object.store.url as they are on the others", noted)
	}
	return refuse(ErrChangedStore, "the cluster's object store is %s, and object.store.url of this node is %s: a leader could not read what another one has stored; correct object.store.url; where the cluster is to have another store, move the content there and alter %s, the default of all brokers, first", noted, identity, configdef.ObjectStore)
}

// lone reports whether there is at most one broker.
func lone(img *metadata.Image) bool {
	n := 0
	for range img.Brokers() {
		n++
	}
	return n <= 1
}

// Notes is what NoteStore needs of a metadata.Client.
type Notes interface {
	Image() *metadata.Image
	Propose(ctx context.Context, cmd command.Command) (command.Result, error)
	ReadBarrier(ctx context.Context) error
}

// NoteStore has the cluster remember the object store of the first node that has one.
// Of several that come at once with different ones, all others are refused, as by
// CheckStore.
func NoteStore(ctx context.Context, meta Notes, identity string) error {
	for {
		img := meta.Image()
		noted := storeOf(img)
		if err := CheckStore(img, identity); err != nil || identity == "" || identity == noted {
			return err
		}
		result, err := meta.Propose(ctx, &command.AlterConfigs{Request: command.Request{RequestID: uuid.New()}, Changes: []command.ConfigChange{{
			Resource: metadata.ConfigResource{Kind: metadata.ResourceBroker},
			Set:      map[string]string{configdef.ObjectStore: identity},
			Expect:   []command.ConfigExpectation{{Name: configdef.ObjectStore, Value: noted, Set: noted != ""}},
		}}})
		if err == nil {
			err = result.Items[0].Err
		}
		if errors.Is(err, command.ErrConflict) {
			err = meta.ReadBarrier(ctx)
		}
		patient := errors.Is(err, metadata.ErrNotLeader) || errors.Is(err, metadata.ErrUnknownOutcome)
		if err != nil && !(patient && ctx.Err() == nil) { // both have waited for a leader
			return fmt.Errorf("note the cluster's object store: %w", err)
		}
	}
}
