package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/configdef"
)

// alterTimeout bounds a change of configs, whose requests carry no timeout.
const alterTimeout = 30 * time.Second

// layers are this broker's settings as they hold now.
func (s *Server) layers(img *metadata.Image) configdef.Layers {
	return partition.Layers(img, s.nodeID(), s.Static)
}

// brokerValue is one broker setting as it holds now.
func (s *Server) brokerValue(img *metadata.Image, name string) string {
	v, _ := configdef.BrokerValue(s.layers(img).Flat(), name)
	return v
}

// brokerInt is a whole-number broker setting; configdef has validated it.
func (s *Server) brokerInt(img *metadata.Image, name string) int {
	n, _ := strconv.Atoi(s.brokerValue(img, name))
	return n
}

// describeConfigs shows settings with their sources and synonyms (KIP-226).
func (s *Server) describeConfigs(r *wire.Request, req *kmsg.DescribeConfigsRequest) {
	img := s.Meta.Image()
	resp := kmsg.NewPtrDescribeConfigsResponse()
	for i := range req.Resources {
		rr := &req.Resources[i]
		out := kmsg.NewDescribeConfigsResponseResource()
		out.ResourceType, out.ResourceName = rr.ResourceType, rr.ResourceName
		entries, err := s.configEntries(img, rr.ResourceType, rr.ResourceName)
		out.ErrorMessage = ptr("")
		if err != nil {
			out.ErrorCode, out.ErrorMessage = codeOf(err), messageOf(err)
		}
		for j := range entries {
			if len(rr.ConfigNames) == 0 || slices.Contains(rr.ConfigNames, entries[j].Key.Name) {
				out.Configs = append(out.Configs, describeEntry(&entries[j], req))
			}
		}
		resp.Resources = append(resp.Resources, out)
	}
	r.Reply(resp)
}

func (s *Server) configEntries(img *metadata.Image, kind kmsg.ConfigResourceType, name string) ([]configdef.Entry, error) {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		if err := validTopicName(name); err != nil {
			return nil, err
		}
		t := img.TopicByName(name)
		if t == nil {
			return nil, kerr.UnknownTopicOrPartition
		}
		return configdef.DescribeTopic(t.Configs, s.topicLayers(img, topicFactor(img, t))), nil
	case kmsg.ConfigResourceTypeBroker:
		if name == "" {
			return configdef.DescribeClusterDefaults(s.layers(img)), nil
		}
		if err := s.checkBrokerResource(name); err != nil {
			return nil, err
		}
		return configdef.DescribeBroker(s.shownLayers(img, int(s.defaultReplication(img)))), nil
	case kmsg.ConfigResourceTypeBrokerLogger:
		return nil, s.checkBrokerResource(name) // there are no named loggers: an empty list
	case kmsg.ConfigResourceTypeGroupConfig:
		if name == "" {
			return nil, fmt.Errorf("%w: group id must not be empty", kerr.InvalidRequest)
		}
		return configdef.DescribeGroup(img.Configs(metadata.ResourceGroup, name), s.layers(img)), nil
	default:
		return nil, fmt.Errorf("%w: unsupported resource type %d", kerr.InvalidRequest, kind)
	}
}

func (s *Server) checkBrokerResource(name string) error {
	id, err := strconv.ParseInt(name, 10, 32)
	if err != nil {
		return fmt.Errorf("%w: Broker id must be an integer, but it is: %s", kerr.InvalidRequest, name)
	}
	if int32(id) != s.nodeID() {
		return fmt.Errorf("%w: Unexpected broker id, expected %d or empty string, but received %s", kerr.InvalidRequest, s.nodeID(), name)
	}
	return nil
}

func describeEntry(e *configdef.Entry, req *kmsg.DescribeConfigsRequest) kmsg.DescribeConfigsResponseResourceConfig {
	k := kmsg.NewDescribeConfigsResponseResourceConfig()
	k.Name, k.Value, k.ReadOnly = e.Key.Name, e.Text, e.ReadOnly
	k.IsSensitive = e.Key.Sensitive()
	k.Source, k.ConfigType = kmsg.ConfigSource(e.Source), kmsg.ConfigType(e.Key.Type)
	k.IsDefault = e.Source == configdef.SourceDefault
	if k.IsSensitive {
		k.Value = nil
	}
	if req.IncludeSynonyms {
		for _, v := range e.Synonyms {
			syn := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
			syn.Name, syn.Value, syn.Source = v.Name, v.Text, kmsg.ConfigSource(v.Source)
			if k.IsSensitive {
				syn.Value = nil
			}
			k.ConfigSynonyms = append(k.ConfigSynonyms, syn)
		}
	}
	if req.IncludeDocumentation {
		k.Documentation = ptr(e.Key.Doc)
	}
	return k
}

// configChange is one resource of an alteration, and its outcome.
type configChange struct {
	kind    kmsg.ConfigResourceType
	name    string
	replace map[string]*string // AlterConfigs: the whole set
	changes []configdef.Change // IncrementalAlterConfigs
	err     error
}

// alterConfigs replaces the whole set of overrides of each resource.
func (s *Server) alterConfigs(r *wire.Request, req *kmsg.AlterConfigsRequest) {
	all := make([]configChange, len(req.Resources))
	for i := range req.Resources {
		rr := &req.Resources[i]
		all[i] = configChange{kind: rr.ResourceType, name: rr.ResourceName, replace: make(map[string]*string, len(rr.Configs))}
		for _, c := range rr.Configs {
			if _, twice := all[i].replace[c.Name]; twice {
				all[i].err = fmt.Errorf("%w: Error due to duplicate config keys", kerr.InvalidRequest)
			}
			all[i].replace[c.Name] = c.Value
		}
	}
	s.slow(alterTimeout, func(ctx context.Context) {
		s.alter(ctx, all, req.ValidateOnly)
		resp := kmsg.NewPtrAlterConfigsResponse()
		for i := range all {
			k := kmsg.NewAlterConfigsResponseResource()
			k.ResourceType, k.ResourceName = all[i].kind, all[i].name
			k.ErrorCode, k.ErrorMessage = codeOf(all[i].err), messageOf(all[i].err)
			resp.Resources = append(resp.Resources, k)
		}
		r.Reply(resp)
	})
}

// incrementalAlterConfigs sets, deletes, appends and subtracts (KIP-339).
func (s *Server) incrementalAlterConfigs(r *wire.Request, req *kmsg.IncrementalAlterConfigsRequest) {
	all := make([]configChange, len(req.Resources))
	for i := range req.Resources {
		rr := &req.Resources[i]
		all[i] = configChange{kind: rr.ResourceType, name: rr.ResourceName, changes: []configdef.Change{}}
		named := make(map[string]bool, len(rr.Configs))
		for _, c := range rr.Configs {
			if named[c.Name] {
				all[i].err = fmt.Errorf("%w: Error due to duplicate config keys: %s", kerr.InvalidRequest, c.Name)
			}
			named[c.Name] = true
			if c.Value == nil && c.Op != kmsg.IncrementalAlterConfigOpDelete {
				all[i].err = fmt.Errorf("%w: Null value not supported for : %s", kerr.InvalidRequest, c.Name)
			}
			all[i].changes = append(all[i].changes, configdef.Change{Name: c.Name, Op: configdef.Op(c.Op), Value: c.Value})
		}
	}
	s.slow(alterTimeout, func(ctx context.Context) {
		s.alter(ctx, all, req.ValidateOnly)
		resp := kmsg.NewPtrIncrementalAlterConfigsResponse()
		for i := range all {
			k := kmsg.NewIncrementalAlterConfigsResponseResource()
			k.ResourceType, k.ResourceName = all[i].kind, all[i].name
			k.ErrorCode, k.ErrorMessage = codeOf(all[i].err), messageOf(all[i].err)
			resp.Resources = append(resp.Resources, k)
		}
		r.Reply(resp)
	})
}

// alterAttempts bounds how often a change is worked out anew because another
// overtook it.
const alterAttempts = 10

// alter validates each change and proposes those that stand, in one command. What
// is appended to a list is worked out from the image, so a change that another
// overtook, at this broker or elsewhere, is worked out again.
func (s *Server) alter(ctx context.Context, all []configChange, validateOnly bool) {
	refuseRepeated(all)
	todo := make([]int, 0, len(all))
	for i := range all {
		if all[i].err == nil {
			todo = append(todo, i)
		}
	}
	for attempt := 1; len(todo) > 0; attempt++ {
		todo = s.alterOnce(ctx, all, todo, validateOnly)
		if attempt == alterAttempts {
			return // with the conflict as the answer
		}
	}
}

// alterOnce makes one attempt at the changes named by todo and returns those that
// were overtaken.
func (s *Server) alterOnce(ctx context.Context, all []configChange, todo []int, validateOnly bool) (overtaken []int) {
	img := s.current(ctx)
	cmd := &command.AlterConfigs{Request: command.Request{RequestID: uuid.New()}}
	var slots []int
	for _, i := range todo {
		change, err := s.resolveChange(img, &all[i])
		if err != nil {
			if all[i].err = configError(err); all[i].kind == kmsg.ConfigResourceTypeBroker && errors.Is(err, configdef.ErrInvalid) {
				all[i].err = &withCode{kerr.InvalidRequest, err} // as Kafka has it for brokers
			}
			continue
		}
		if change.Resource.Kind != 0 {
			cmd.Changes = append(cmd.Changes, change)
			slots = append(slots, i)
		}
	}
	if validateOnly || len(cmd.Changes) == 0 {
		return nil
	}
	res, err := s.Meta.Propose(ctx, cmd)
	if err == nil {
		err = s.Meta.Delivered(ctx, res.Index)
	}
	for n, i := range slots {
		if all[i].err = err; err == nil {
			all[i].err = res.Items[n].Err
		}
		if errors.Is(all[i].err, command.ErrConflict) {
			overtaken = append(overtaken, i)
		}
	}
	return overtaken
}

func refuseRepeated(all []configChange) {
	type resource struct {
		kind kmsg.ConfigResourceType
		name string
	}
	seen := make(map[resource]int, len(all))
	for i := range all {
		seen[resource{all[i].kind, all[i].name}]++
	}
	for i := range all {
		if seen[resource{all[i].kind, all[i].name}] > 1 {
			all[i].err = fmt.Errorf("%w: Error due to duplicate config resources", kerr.InvalidRequest)
		}
	}
}

// configError gives a mistake in a setting Kafka's code.
func configError(err error) error {
	if errors.Is(err, configdef.ErrInvalid) {
		return &withCode{kerr.InvalidConfig, err}
	}
	return err
}

// withCode is an error whose text goes to the client as it is, under a code.
type withCode struct {
	code *kerr.Error
	err  error
}

func (e *withCode) Error() string   { return e.err.Error() }
func (e *withCode) Unwrap() []error { return []error{e.code, e.err} }

// resolveChange validates one resource's change and turns it into a command. A
// zero change means that there is nothing to do.
func (s *Server) resolveChange(img *metadata.Image, c *configChange) (command.ConfigChange, error) {
	var change command.ConfigChange
	kind, res, current, err := s.alterable(img, c)
	if err != nil || kind == 0 {
		return change, err
	}
	layers := s.layers(img)
	proposed, err := c.overrides(kind, current, layers.Flat())
	if err != nil {
		return change, err
	}
	switch kind {
	case configdef.TopicResource:
		err = configdef.ValidateTopicChange(current, proposed, layers.Flat())
	case configdef.GroupResource:
		err = configdef.ValidateGroupChange(proposed, layers.Flat())
	case configdef.BrokerResource:
		for _, name := range slices.Sorted(maps.Keys(proposed)) {
			if old, same := current[name]; same && old == proposed[name] {
				continue
			}
			if err = configdef.ValidateBrokerChange(name, proposed[name], c.name != ""); err != nil {
				break
			}
		}
	}
	if err != nil {
		return change, err
	}
	if c.replace != nil {
		return command.ConfigChange{Resource: res, Replace: true, Set: proposed}, nil
	}
	return configDiff(res, current, proposed), nil
}

// configDiff changes one set of overrides into another, on the condition that
// they are still what the change was worked out from.
func configDiff(res metadata.ConfigResource, current, proposed map[string]string) command.ConfigChange {
	change := command.ConfigChange{Resource: res, Set: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(current)) {
		change.Expect = append(change.Expect, command.ConfigExpectation{Name: name, Value: current[name], Set: true})
		if _, kept := proposed[name]; !kept {
			change.Delete = append(change.Delete, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(proposed)) {
		old, had := current[name]
		if !had {
			change.Expect = append(change.Expect, command.ConfigExpectation{Name: name})
		}
		if !had || old != proposed[name] {
			change.Set[name] = proposed[name]
		}
	}
	return change
}

// alterable finds the resource that is to change and its overrides of now.
func (s *Server) alterable(img *metadata.Image, c *configChange) (configdef.Resource, metadata.ConfigResource, map[string]string, error) {
	res := metadata.ConfigResource{Name: c.name}
	switch c.kind {
	case kmsg.ConfigResourceTypeTopic:
		if c.name == "" {
			return 0, res, nil, fmt.Errorf("%w: Default topic resources are not allowed.", kerr.InvalidRequest) //nolint:staticcheck // Kafka's wording
		}
		if err := validTopicName(c.name); err != nil {
			return 0, res, nil, err
		}
		t := img.TopicByName(c.name)
		if t == nil {
			return 0, res, nil, kerr.UnknownTopicOrPartition
		}
		res.Kind = metadata.ResourceTopic
		return configdef.TopicResource, res, t.Configs, nil
	case kmsg.ConfigResourceTypeBroker:
		if c.name != "" {
			if err := s.checkBrokerResource(c.name); err != nil {
				return 0, res, nil, err
			}
		}
		res.Kind = metadata.ResourceBroker
		return configdef.BrokerResource, res, img.Configs(res.Kind, c.name), nil
	case kmsg.ConfigResourceTypeGroupConfig:
		if c.name == "" {
			return 0, res, nil, fmt.Errorf("%w: group id must not be empty", kerr.InvalidRequest)
		}
		res.Kind = metadata.ResourceGroup
		return configdef.GroupResource, res, img.Configs(res.Kind, c.name), nil
	default:
		return 0, res, nil, fmt.Errorf("%w: resource type %d cannot be altered here", kerr.InvalidRequest, c.kind)
	}
}

// overrides is the set that the change would leave.
func (c *configChange) overrides(kind configdef.Resource, current, flat map[string]string) (map[string]string, error) {
	if c.changes != nil {
		return configdef.Apply(kind, current, c.changes, flat)
	}
	set := make(map[string]string, len(c.replace))
	for name, v := range c.replace {
		if v == nil {
			return nil, fmt.Errorf("%w: Null value not supported for : %s", kerr.InvalidRequest, name)
		}
		set[name] = *v
	}
	return configdef.Normal(kind, set), nil
}
