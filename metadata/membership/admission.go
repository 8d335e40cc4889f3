package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata"
)

// CallJoin is the name of the call by which a node asks a member of a cluster
// whether it may run beside it: before it joins, and at each start after that.
const CallJoin = "join"

// Why a node may not run here, besides ErrForeignCluster and ErrDuplicateNode.
var (
	// ErrChangedNode: the data directory belongs to another node id.
	ErrChangedNode = errors.New("node.id changed")
	// ErrSameAddress: another broker is reached at the node's cluster.advertised.
	ErrSameAddress = errors.New("address is taken")
	// ErrClock: the clocks are too far apart.
	ErrClock = errors.New("clock is off")
	// ErrOldVersion: the program does not know what the cluster uses.
	ErrOldVersion = errors.New("older version than the cluster")
	// ErrChangedStore: the object store is not the one that holds the cluster's data.
	ErrChangedStore = errors.New("another object store")
)

// refusals are the errors that travel, by code.
var refusals = map[string]error{
	"foreign_cluster": ErrForeignCluster, "duplicate_node": ErrDuplicateNode, "changed_node": ErrChangedNode,
	"same_address": ErrSameAddress, "clock": ErrClock, "old_version": ErrOldVersion, "changed_store": ErrChangedStore,
}

// Refusal says why a node may not run, and what to do about it. It wraps one of
// the package's errors.
type Refusal struct {
	Kind error
	Text string
}

func (r *Refusal) Error() string { return r.Kind.Error() + ": " + r.Text }
func (r *Refusal) Unwrap() error { return r.Kind }

func refuse(kind error, format string, args ...any) *Refusal {
	return &Refusal{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

// Applicant is a node that wants to run in a cluster.
type Applicant struct {
	NodeID      int32     `json:"nodeId"`
	DirectoryID uuid.UUID `json:"directoryId"`
	Address     string    `json:"address"`
	// ClusterID is what its data directory or its configuration says, "" for any.
	ClusterID string                           `json:"clusterId,omitempty"`
	Version   string                           `json:"version"`
	Features  map[string]metadata.VersionRange `json:"features"`
	// Time is its clock, ms since the Unix epoch.
	Time int64 `json:"time"`
	// Store names its object store, "" for none.
	Store string `json:"store,omitempty"`
}

// MaxClockSkew is how far a node's clock may be from the cluster's.
const MaxClockSkew = 10 * time.Second

// Admit judges an applicant by the cluster's state: nil, or a *Refusal.
func Admit(img *metadata.Image, a *Applicant, now time.Time) error {
	if a.ClusterID != "" && a.ClusterID != img.ClusterID() {
		return refuse(ErrForeignCluster, "this node belongs to cluster %s, and the one that it found is %s: correct cluster.join or cluster.id, or give it a data.dir of its own", a.ClusterID, img.ClusterID())
	}
	if err := CheckNodeID(img, a.NodeID, a.DirectoryID); err != nil {
		return err
	}
	if known := img.Broker(a.NodeID); known != nil && known.DirectoryID != a.DirectoryID && !known.Fenced {
		return refuse(ErrDuplicateNode, "node.id %d is that of a broker that is alive, with the data directory %s: give this node an id of its own", a.NodeID, known.DirectoryID)
	}
	if err := checkAddress(img, a); err != nil {
		return err
	}
	if err := CheckFeatures(img, a.Features, a.Version); err != nil {
		return err
	}
	if err := CheckStore(img, a.Store); err != nil {
		return err
	}
	return CheckClock(time.UnixMilli(a.Time), now, 0)
}

// checkAddress refuses a newcomer that would be reached where another broker is. One
// that the cluster knows is let in: where all brokers move to new addresses at once,
// nobody may be there yet to hear of it from those who had them before.
func checkAddress(img *metadata.Image, a *Applicant) error {
	var at *metadata.Broker
	for known := range img.Brokers() {
		if known.DirectoryID == a.DirectoryID {
			return nil
		}
		if known.ClusterAddress == a.Address && known.ID != a.NodeID && !known.Fenced {
			at = known
		}
	}
	if at == nil || a.Address == "" {
		return nil
	}
	return refuse(ErrSameAddress, "broker %d, which is alive, is reached at %s: give this node a cluster.advertised of its own", at.ID, a.Address)
}

// CheckNodeID refuses a data directory that is known under another node id: the
// partitions in it are placed on that one.
func CheckNodeID(img *metadata.Image, id int32, dir uuid.UUID) error {
	for known := range img.Brokers() {
		if known.DirectoryID == dir && known.ID != id {
			return refuse(ErrChangedNode, "node.id is %d, and the data directory belongs to node %d: correct node.id or data.dir", id, known.ID)
		}
	}
	return nil
}

// CheckFeatures refuses a program that does not know a feature level that the
// cluster uses.
func CheckFeatures(img *metadata.Image, supported map[string]metadata.VersionRange, version string) error {
	var missing []string
	for name, level := range img.Features() {
		if r, ok := supported[name]; !ok || level < r.Min || level > r.Max {
			missing = append(missing, fmt.Sprintf("%s=%d (this program: %d to %d)", name, level, r.Min, r.Max))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return refuse(ErrOldVersion, "version %s does not know what the cluster uses: %s: install the version of the other brokers", version, strings.Join(missing, ", "))
}

// CheckClock refuses a clock too far from the cluster's. slack is what the way
// between the two readings may have taken.
func CheckClock(ours, theirs time.Time, slack time.Duration) error {
	off := ours.Sub(theirs)
	if off.Abs() <= MaxClockSkew+slack {
		return nil
	}
	side := "ahead of"
	if off < 0 {
		side = "behind"
	}
	return refuse(ErrClock, "the clock of this node is %s %s the cluster's, at most %s is allowed: set it, and keep it by NTP", off.Abs().Round(time.Second), side, MaxClockSkew)
}

// joinAnswer is what CallJoin answers.
type joinAnswer struct {
	ClusterID string `json:"clusterId"`
	// Time is the answering node's clock, ms since the Unix epoch.
	Time int64 `json:"time"`
	// Refusal is a code of refusals, Text the reason.
	Refusal string `json:"refusal,omitempty"`
	Text    string `json:"text,omitempty"`
	// NotReady: ask again, or another: it does not know the cluster's state yet.
	NotReady bool `json:"notReady,omitempty"`
}

// AdmissionOptions configure an Admission.
type AdmissionOptions struct {
	// Image is the state as this node knows it.
	Image func() *metadata.Image
	// Admitted is called for each applicant that may run, before it hears of it: it
	// may make it a non-voter at once. nil leaves that to KeepVoters.
	Admitted func(ctx context.Context, s Server) error
}

// Admission answers applicants. It has no state of its own.
type Admission struct{ o AdmissionOptions }

// NewAdmission makes the answering side of CallJoin.
func NewAdmission(o AdmissionOptions) *Admission { return &Admission{o} }

// Handle answers one call.
func (a *Admission) Handle(ctx context.Context, body []byte) ([]byte, error) {
	var who Applicant
	if err := json.Unmarshal(body, &who); err != nil {
		return nil, fmt.Errorf("membership: join: %w", err)
	}
	return json.Marshal(a.judge(ctx, &who))
}

func (a *Admission) judge(ctx context.Context, who *Applicant) joinAnswer {
	img, now := a.o.Image(), time.Now()
	answer := joinAnswer{ClusterID: img.ClusterID(), Time: now.UnixMilli()}
	if answer.ClusterID == "" {
		answer.NotReady = true
		return answer
	}
	var refused *Refusal
	if err := Admit(img, who, now); errors.As(err, &refused) {
		for code, kind := range refusals {
			if errors.Is(refused, kind) {
				answer.Refusal, answer.Text = code, refused.Text
			}
		}
		return answer
	}
	if a.o.Admitted != nil {
		if err := a.o.Admitted(ctx, Server{DirectoryID: who.DirectoryID, Address: who.Address}); err != nil {
			answer.NotReady, answer.Text = true, err.Error()
		}
	}
	return answer
}

// Calls is how a node asks others: metadata/link's Link.
type Calls interface {
	Call(ctx context.Context, addr, name string, body []byte) ([]byte, error)
}

// errNotReady: the member cannot say yet.
var errNotReady = errors.New("the member does not know the cluster's state yet")

// apply asks one member whether this node may run. The error is a *Refusal, or
// says why there is no answer.
func apply(ctx context.Context, calls Calls, addr string, who Applicant) (clusterID string, err error) {
	sent := time.Now()
	who.Time = sent.UnixMilli()
	body, err := json.Marshal(&who)
	if err != nil {
		return "", err
	}
	reply, err := calls.Call(ctx, addr, CallJoin, body)
	if err != nil {
		return "", err
	}
	took := time.Since(sent)
	var answer joinAnswer
	if err := json.Unmarshal(reply, &answer); err != nil {
		return "", fmt.Errorf("answer of %s: %w", addr, err)
	}
	if kind, known := refusals[answer.Refusal]; known {
		return "", &Refusal{Kind: kind, Text: answer.Text}
	}
	switch {
	case answer.Refusal != "":
		return "", refuse(ErrOldVersion, "refused for a reason that this version does not know (%s): %s", answer.Refusal, answer.Text)
	case answer.NotReady:
		return "", fmt.Errorf("%w %s", errNotReady, answer.Text)
	}
	if err := CheckClock(sent.Add(took/2), time.UnixMilli(answer.Time), took/2); err != nil {
		return "", err
	}
	return answer.ClusterID, nil
}
