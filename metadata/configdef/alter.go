package configdef

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Op is an incremental change, numbered as IncrementalAlterConfigs sends it (KIP-339).
type Op int8

// The incremental operations. Append and Subtract are for lists.
const (
	OpSet      Op = 0
	OpDelete   Op = 1
	OpAppend   Op = 2
	OpSubtract Op = 3
)

func (op Op) String() string {
	if op < OpSet || op > OpSubtract {
		return fmt.Sprintf("UNKNOWN(%d)", int8(op))
	}
	return [...]string{"SET", "DELETE", "APPEND", "SUBTRACT"}[op]
}

// Resource is the kind of thing that settings belong to.
type Resource int8

// Kinds of resources, numbered as Kafka's ConfigResource.
const (
	TopicResource  Resource = 2
	BrokerResource Resource = 4
	GroupResource  Resource = 32
)

func (r Resource) table() *table {
	switch r {
	case BrokerResource:
		return brokerTable
	case GroupResource:
		return groupTable
	case TopicResource:
	}
	return topicTable
}

// Change is one incremental operation. Value nil is null, which only OpDelete takes.
type Change struct {
	Name  string
	Op    Op
	Value *string
}

// Apply carries out the changes in order on a copy of the overrides and returns
// it. Values are stored in their normal form when they are valid and as they
// came when not: the validators refuse them afterwards, with all other mistakes.
// brokerSet gives the value that a list has before its first override.
func Apply(r Resource, overrides map[string]string, changes []Change, brokerSet map[string]string) (map[string]string, error) {
	next := maps.Clone(overrides)
	if next == nil {
		next = make(map[string]string, len(changes))
	}
	for _, c := range changes {
		if c.Op == OpDelete {
			delete(next, c.Name)
			continue
		}
		if c.Value == nil {
			return nil, &Error{Name: c.Name, Message: "Null value not supported for : " + c.Name}
		}
		k := r.table().byName[c.Name]
		switch c.Op {
		case OpSet:
			next[c.Name] = normalOrRaw(k, *c.Value)
		case OpAppend, OpSubtract:
			if k == nil || k.Type != TypeList {
				return nil, &Error{Name: c.Name, Message: fmt.Sprintf("Can't %s to key %s because its type is not LIST.", c.Op, c.Name)}
			}
			current, ok := next[c.Name]
			if !ok {
				// A broken broker value is reported where it belongs; here the default does.
				current, _ = k.inherited(brokerSet)
			}
			next[c.Name] = combineLists(c.Op, current, *c.Value)
		default:
			return nil, &Error{Name: c.Name, Message: fmt.Sprintf("Unknown config operation %d", c.Op)}
		}
	}
	return next, nil
}

func normalOrRaw(k *Key, value string) string {
	if k == nil {
		return value
	}
	if normal, err := k.Normalize(value); err == nil {
		return normal
	}
	return value
}

func combineLists(op Op, current, value string) string {
	parts := slices.DeleteFunc(SplitList(current), func(s string) bool { return s == "" })
	for _, v := range SplitList(value) {
		at := slices.Index(parts, v)
		switch {
		case op == OpAppend && at < 0:
			parts = append(parts, v)
		case op == OpSubtract && at >= 0:
			parts = slices.Delete(parts, at, at+1)
		}
	}
	return strings.Join(parts, ",")
}

// Normal returns the overrides with every valid value in its normal form; pass
// the whole set of an AlterConfigs or CreateTopics request through it.
func Normal(r Resource, overrides map[string]string) map[string]string {
	out := make(map[string]string, len(overrides))
	for name, value := range overrides {
		out[name] = normalOrRaw(r.table().byName[name], value)
	}
	return out
}
