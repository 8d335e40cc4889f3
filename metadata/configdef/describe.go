package configdef

// Source says where a value comes from, numbered as DescribeConfigs sends it.
type Source int8

// Kafka's ConfigSource numbers.
const (
	SourceTopic          Source = 1
	SourceBroker         Source = 2
	SourceClusterDefault Source = 3
	SourceStatic         Source = 4
	SourceDefault        Source = 5
	SourceGroup          Source = 8
)

// String is the name that Kafka's tools print.
func (s Source) String() string {
	switch s {
	case SourceTopic:
		return "DYNAMIC_TOPIC_CONFIG"
	case SourceBroker:
		return "DYNAMIC_BROKER_CONFIG"
	case SourceClusterDefault:
		return "DYNAMIC_DEFAULT_BROKER_CONFIG"
	case SourceStatic:
		return "STATIC_BROKER_CONFIG"
	case SourceDefault:
		return "DEFAULT_CONFIG"
	case SourceGroup:
		return "DYNAMIC_GROUP_CONFIG"
	}
	return "UNKNOWN"
}

// Value is one place where a setting's value could come from. Text is nil for
// null and for sensitive values.
type Value struct {
	Name   string
	Text   *string
	Source Source
}

// Entry is a setting as DescribeConfigs shows it. Synonyms run from the
// strongest, which is in force, to the default.
type Entry struct {
	Key      *Key
	Text     *string
	Source   Source
	ReadOnly bool
	Synonyms []Value
}

// DescribeTopic describes all settings of a topic, by name. A setting that
// retention.tiers stands for shows the ladder's value, as the topic's own.
func DescribeTopic(overrides map[string]string, layers Layers) []Entry {
	// Mistakes in stored values were reported when they were made or loaded.
	r := resolve(overrides, layers.defaulted())
	r.applyTiers(layers.Flat())
	r.inheritRemote()
	return describeOverridden(topicTable, r.values, r.explicit, SourceTopic, layers)
}

// DescribeGroup describes all settings of a group, by name.
func DescribeGroup(overrides map[string]string, layers Layers) []Entry {
	flat := layers.Flat()
	values, explicit := make(map[string]string, len(groupTable.sorted)), make(map[string]bool, len(overrides))
	for _, k := range groupTable.sorted {
		own, ok := overrides[k.Name]
		if ok {
			values[k.Name], explicit[k.Name] = normalOrRaw(k, own), true
			continue
		}
		// As for topics: what the broker has wrong gives way to the default.
		values[k.Name], _ = k.inherited(flat)
	}
	return describeOverridden(groupTable, values, explicit, SourceGroup, layers)
}

// describeOverridden describes the settings of a table that brokers give the
// defaults of: values in force, and which of them the resource sets itself.
func describeOverridden(t *table, values map[string]string, explicit map[string]bool, source Source, layers Layers) []Entry {
	entries := make([]Entry, 0, len(t.sorted))
	for _, k := range t.sorted {
		e := Entry{Key: k, Text: k.value(k.Name, values[k.Name], source).Text}
		if explicit[k.Name] {
			e.Synonyms = append(e.Synonyms, k.value(k.Name, values[k.Name], source))
		}
		for _, s := range k.Synonyms {
			e.Synonyms = append(e.Synonyms, brokerTable.byName[s.Name].layered(layers)...)
		}
		if len(k.Synonyms) == 0 {
			e.Synonyms = append(e.Synonyms, k.value(k.Name, k.Default, SourceDefault))
		}
		e.Source = e.Synonyms[0].Source
		entries = append(entries, e)
	}
	return entries
}

// DescribeBroker describes all settings of this broker, by name.
func DescribeBroker(layers Layers) []Entry {
	entries := make([]Entry, 0, len(brokerTable.sorted))
	for _, k := range brokerTable.sorted {
		e := Entry{Key: k, Source: SourceDefault, ReadOnly: k.Mode == ReadOnly}
		e.Synonyms = k.layered(layers)
		for _, alias := range k.aliases {
			e.Synonyms = append(e.Synonyms, brokerTable.byName[alias].set(layers)...)
		}
		if k.aliases != nil {
			e.Synonyms = strongestFirst(e.Synonyms)
		}
		if len(e.Synonyms) > 0 {
			e.Text, e.Source = e.Synonyms[0].Text, e.Synonyms[0].Source
		}
		for _, s := range k.Synonyms {
			if s.Name != k.Name {
				e.Synonyms = append(e.Synonyms, brokerTable.byName[s.Name].layered(layers)...)
			}
		}
		entries = append(entries, e)
	}
	return entries
}

// DescribeClusterDefaults describes the dynamic defaults of all brokers: what
// Kafka answers for the broker resource with an empty name.
func DescribeClusterDefaults(layers Layers) []Entry {
	var entries []Entry
	for _, name := range sortedNames(layers.ClusterDefault) {
		k, ok := brokerTable.byName[name]
		if !ok {
			continue
		}
		v := k.value(name, layers.ClusterDefault[name], SourceClusterDefault)
		entries = append(entries, Entry{Key: k, Text: v.Text, Source: v.Source, ReadOnly: k.Mode == ReadOnly, Synonyms: []Value{v}})
	}
	return entries
}

func (k *Key) value(name, text string, source Source) Value {
	v := Value{Name: name, Source: source}
	if !k.Sensitive() {
		v.Text = &text
	}
	return v
}

// set lists the layers that set a broker setting, strongest first.
func (k *Key) set(layers Layers) []Value {
	var values []Value
	for _, l := range []struct {
		settings map[string]string
		source   Source
	}{{layers.Broker, SourceBroker}, {layers.ClusterDefault, SourceClusterDefault}, {layers.Static, SourceStatic}} {
		if text, ok := l.settings[k.Name]; ok {
			values = append(values, k.value(k.Name, normalOrRaw(k, text), l.source))
		}
	}
	return values
}

// layered is set with the default, unless that is null.
func (k *Key) layered(layers Layers) []Value {
	values := k.set(layers)
	if text, ok := layers.Defaults[k.Name]; ok {
		return append(values, k.value(k.Name, text, SourceDefault))
	}
	if k.HasDefault {
		values = append(values, k.value(k.Name, k.Default, SourceDefault))
	}
	return values
}

// strongestFirst moves defaults behind what is set, keeping the order otherwise.
func strongestFirst(values []Value) []Value {
	sorted := make([]Value, 0, len(values))
	for _, wantDefault := range []bool{false, true} {
		for _, v := range values {
			if (v.Source == SourceDefault) == wantDefault {
				sorted = append(sorted, v)
			}
		}
	}
	return sorted
}
