package fsm

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm/statepb"
)

// ApplyBatch applies commands of the log in order and returns one outcome for
// each. A command at or below the applied index changes nothing and has an empty
// outcome. After a failure (see Failed) every outcome is the failure, and nothing
// of the batch was applied.
//
// REQUIRES: one goroutine; indexes increase.
func (f *FSM) ApplyBatch(entries []Entry) []Outcome {
	out := make([]Outcome, len(entries))
	if err := f.Failed(); err != nil {
		return failAll(out, err)
	}
	old := f.Image()
	if len(entries) == 0 || entries[len(entries)-1].Index <= old.Index() {
		return out
	}
	t := f.begin(old)
	for i, e := range entries {
		if e.Index <= t.index {
			continue
		}
		o, err := t.apply(e)
		if err != nil {
			err = fmt.Errorf("apply metadata command %d: %w", e.Index, err)
			f.fail(errors.Join(err, t.batch.Close()))
			return failAll(out, err)
		}
		out[i] = o
	}
	img, delta, err := f.commit(t)
	if err != nil {
		f.fail(err)
		return failAll(out, err)
	}
	f.publish(img, delta)
	return out
}

func failAll(out []Outcome, err error) []Outcome {
	for i := range out {
		out[i] = Outcome{Err: err}
	}
	return out
}

// txn is one batch of commands under way. It reads its own writes.
type txn struct {
	ed    *metadata.Editor
	batch *pebble.Batch // indexed
	// index and version are those of the command under way, or of the last one.
	index        uint64
	version      byte
	cluster      clusterState
	clusterDirty bool
	requests     requestTable
}

func (f *FSM) begin(img *metadata.Image) *txn {
	return &txn{ed: img.Edit(), batch: f.db.NewIndexedBatch(), index: img.Index(), cluster: f.cluster, requests: f.requests}
}

// commit writes the batch with the applied index and makes the image.
func (f *FSM) commit(t *txn) (*metadata.Image, metadata.Delta, error) {
	if t.clusterDirty {
		m := &statepb.Cluster{ClusterId: t.ed.ClusterID(), FeaturesEpoch: t.ed.FeaturesEpoch(), NextProducerId: t.cluster.nextProducerID}
		if features := t.ed.Features(); len(features) > 0 {
			m.Features = make(map[string]int32, len(features))
			for name, level := range features {
				m.Features[name] = int32(level)
			}
		}
		if err := t.put([]byte(keyCluster), m); err != nil {
			return nil, metadata.Delta{}, err
		}
	}
	if err := t.batch.Set([]byte(keyApplied), putUint(t.index), nil); err != nil {
		return nil, metadata.Delta{}, err
	}
	if err := t.batch.Commit(pebble.NoSync); err != nil {
		return nil, metadata.Delta{}, fmt.Errorf("commit metadata state at index %d: %w", t.index, err)
	}
	if err := t.batch.Close(); err != nil {
		return nil, metadata.Delta{}, err
	}
	f.cluster, f.requests = t.cluster, t.requests
	img, delta := t.ed.Commit(t.index)
	return img, delta, nil
}

// apply applies one command. A refusal is in the outcome; the error is a failure
// of the state machine itself.
func (t *txn) apply(e Entry) (Outcome, error) {
	cmd, err := command.Decode(e.Data)
	if err != nil {
		return Outcome{}, err
	}
	t.index, t.version = e.Index, command.VersionOf(e.Data)
	id := command.RequestIDOf(cmd)
	if id != uuid.Nil {
		if o, ok, err := t.recall(id); err != nil || ok {
			return o, err
		}
	}
	res, err := t.dispatch(cmd)
	res.Index = e.Index
	o := Outcome{Result: res}
	if err != nil {
		refusal, ok := asRefusal(err)
		if !ok {
			return Outcome{}, err
		}
		o = Outcome{Result: command.Result{Index: e.Index}, Err: refusal}
	}
	if id != uuid.Nil {
		if err := t.remember(id, &o); err != nil {
			return Outcome{}, err
		}
	}
	return o, nil
}

func (t *txn) dispatch(cmd command.Command) (command.Result, error) {
	switch c := cmd.(type) {
	case *command.FormatCluster:
		return t.formatCluster(c)
	case *command.RegisterBroker:
		return t.registerBroker(c)
	case *command.UnregisterBroker:
		return t.unregisterBroker(c)
	case *command.SetBrokerState:
		return t.setBrokerState(c)
	case *command.AllocateProducerIDs:
		return t.allocateProducerIDs(c)
	case *command.UpdateFeatures:
		return t.updateFeatures(c)
	case *command.CreateTopics:
		return t.createTopics(c)
	case *command.DeleteTopics:
		return t.deleteTopics(c)
	case *command.PurgeTopic:
		return t.purgeTopic(c)
	case *command.CreatePartitions:
		return t.createPartitions(c)
	case *command.AlterConfigs:
		return t.alterConfigs(c)
	case *command.AlterPartition:
		return t.alterPartition(c)
	case *command.ElectLeaders:
		return t.electLeaders(c)
	case *command.AlterReassignments:
		return t.alterReassignments(c)
	case *command.AdvanceLogStart:
		return t.advanceLogStart(c)
	case *command.CopyStarted:
		return t.copyStarted(c)
	case *command.CopyFinished:
		return t.copyFinished(c)
	case *command.CopyAbandoned:
		return t.copyAbandoned(c)
	case *command.DeleteStarted:
		return t.deleteStarted(c)
	case *command.DeleteFinished:
		return t.deleteFinished(c)
	default:
		return command.Result{}, fmt.Errorf("%w: no apply for %s", command.ErrUnknownVersion, cmd.Kind())
	}
}

// atLevel2 says whether the command under way is of a version that says who is cold and
// who is full. One that is not makes nobody either, so that a build that knows no
// newer ones comes to the same state.
func (t *txn) atLevel2() bool { return t.version >= command.Level2.CommandVersion() }

// refuse makes a refusal. The message begins with the subject.
func refuse(kind *command.Error, format string, args ...any) error {
	return &command.Error{Code: kind.Code, Message: fmt.Sprintf(format, args...)}
}

func asRefusal(err error) (*command.Error, bool) {
	var refusal *command.Error
	ok := errors.As(err, &refusal)
	return refusal, ok
}

// item turns the error of one item into its result; any but a refusal is passed
// on as a failure.
func item(res command.ItemResult, err error) (command.ItemResult, error) {
	if err == nil {
		return res, nil
	}
	refusal, ok := asRefusal(err)
	if !ok {
		return command.ItemResult{}, err
	}
	return command.ItemResult{Err: refusal}, nil
}

// each runs fn for the n items of a batch command and gathers the results.
func each(n int, fn func(i int) (command.ItemResult, error)) (command.Result, error) {
	res := command.Result{Items: make([]command.ItemResult, n)}
	for i := range n {
		it, err := item(fn(i))
		if err != nil {
			return command.Result{}, err
		}
		res.Items[i] = it
	}
	return res, nil
}

func (t *txn) put(key []byte, m proto.Message) error {
	b, err := encodeValue(m)
	if err != nil {
		return err
	}
	return t.batch.Set(key, b, nil)
}

func (t *txn) delete(key []byte) error { return t.batch.Delete(key, nil) }

// recall returns the first outcome of a remembered request.
func (t *txn) recall(id uuid.UUID) (Outcome, bool, error) {
	var m statepb.Request
	ok, err := getValue(t.batch, requestKey(id), &m)
	if err != nil || !ok {
		return Outcome{}, false, err
	}
	o, err := outcomeFromProto(&m)
	return o, err == nil, err
}

// remember stores the outcome of a request and forgets the oldest one when there
// are too many.
func (t *txn) remember(id uuid.UUID, o *Outcome) error {
	m, err := outcomeToProto(o)
	if err != nil {
		return err
	}
	if err := t.put(requestKey(id), m); err != nil {
		return err
	}
	if err := t.batch.Set(reqOrderKey(t.index), id[:], nil); err != nil {
		return err
	}
	t.requests.order = append(t.requests.order, requestSlot{index: t.index, id: id})
	if len(t.requests.order) <= requestsKept {
		return nil
	}
	oldest := t.requests.order[0]
	t.requests.order = t.requests.order[1:]
	if err := t.delete(requestKey(oldest.id)); err != nil {
		return err
	}
	return t.delete(reqOrderKey(oldest.index))
}
