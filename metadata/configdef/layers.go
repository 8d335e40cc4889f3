package configdef

import (
	"maps"
	"strconv"
)

// Layers are the places where a broker setting may come from, as Kafka tells
// them apart. A stronger layer hides a weaker one name by name. Nil is empty.
type Layers struct {
	Broker         map[string]string // dynamic, of this broker (source 2)
	ClusterDefault map[string]string // dynamic, of all brokers (source 3)
	Static         map[string]string // file, environment, flags (source 4)
	// Defaults are broker settings whose default in this cluster, at this time, is
	// another than their key has. They are shown (source 5); Flat is without them.
	Defaults map[string]string
}

// defaulted is Flat over Defaults.
func (l Layers) defaulted() map[string]string {
	flat := maps.Clone(l.Defaults)
	if flat == nil {
		return l.Flat()
	}
	maps.Copy(flat, l.Flat())
	return flat
}

// Flat is what the layers amount to: the strongest value of each name that is
// set anywhere. Pass it to ParseTopic and the validators.
func (l Layers) Flat() map[string]string {
	flat := make(map[string]string, len(l.Static)+len(l.ClusterDefault)+len(l.Broker))
	maps.Copy(flat, l.Static)
	maps.Copy(flat, l.ClusterDefault)
	maps.Copy(flat, l.Broker)
	return flat
}

// BrokerValue is a broker setting's value: from set, under its own name or
// another of the same meaning, or its default. A value that is not valid counts
// as unset. It reports false for null and for names that are not known.
func BrokerValue(set map[string]string, name string) (string, bool) {
	k, known := brokerTable.byName[name]
	if !known {
		return "", false
	}
	for _, alias := range append([]string{name}, k.aliases...) {
		v, ok := set[alias]
		if !ok {
			continue
		}
		if normal, err := k.Normalize(v); err == nil {
			return normal, true
		}
	}
	return k.Default, k.HasDefault
}

// inherited is the value that a topic or group setting has without an override:
// of the strongest synonym that is set, or whose default is not null.
func (k *Key) inherited(set map[string]string) (string, error) {
	for _, s := range k.Synonyms {
		if v, ok := set[s.Name]; ok {
			return k.convert(s, v)
		}
	}
	return k.Default, nil
}

// convert turns a broker setting's value into this key's unit. Negative values
// mean the same in every unit; what overflows becomes the largest value.
func (k *Key) convert(s Synonym, value string) (string, error) {
	if s.Factor != 1 {
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return k.Default, invalidValue(s.Name, value, "Not a number of type INT")
		}
		if n >= 0 {
			n = saturatingMul(n, s.Factor)
		}
		value = strconv.FormatInt(n, 10)
	}
	normal, err := k.Normalize(value)
	if err != nil {
		return k.Default, err
	}
	return normal, nil
}
