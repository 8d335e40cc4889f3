package configdef

// The small constructors that the tables are written with. Each returns a key
// that the chained methods complete.

func newKey(name string, t Type, def, doc string) *Key {
	return &Key{Name: name, Type: t, Default: def, HasDefault: true, Doc: doc}
}

func boolean(name, def, doc string) *Key { return newKey(name, TypeBoolean, def, doc) }
func text(name, def, doc string) *Key    { return newKey(name, TypeString, def, doc) }
func list(name, def, doc string) *Key    { return newKey(name, TypeList, def, doc) }
func integer(name, def, doc string) *Key { return newKey(name, TypeInt, def, doc) }
func short(name, def, doc string) *Key   { return newKey(name, TypeShort, def, doc) }
func long(name, def, doc string) *Key    { return newKey(name, TypeLong, def, doc) }
func double(name, def, doc string) *Key  { return newKey(name, TypeDouble, def, doc) }

func (k *Key) atLeast(min float64) *Key { k.min = &min; return k }

func (k *Key) between(min, max float64) *Key { k.min, k.max = &min, &max; return k }

// or allows one value outside the range.
func (k *Key) or(value int64) *Key { k.unless = &value; return k }

func (k *Key) in(values ...string) *Key { k.oneOf = values; return k }

func (k *Key) checked(check func(string) error) *Key { k.check = check; return k }

// null makes the default null.
func (k *Key) null() *Key { k.Default, k.HasDefault = "", false; return k }

// own marks a setting that Kafka does not have.
func (k *Key) own() *Key { k.Firn = true; return k }

func (k *Key) clusterWide() *Key { k.Mode = ClusterWide; return k }

// from names the broker settings that give a default, strongest first.
func (k *Key) from(names ...string) *Key {
	for _, name := range names {
		k.Synonyms = append(k.Synonyms, Synonym{Name: name, Factor: 1})
	}
	return k
}

// alias names broker settings with the same meaning and unit.
func (k *Key) alias(names ...string) *Key { k.aliases = names; return k }

const (
	minuteMs = 60 * 1000
	hourMs   = 60 * minuteMs
	dayMs    = 24 * hourMs
)

// hours and minutes add a weaker synonym in another unit.
func (k *Key) hours(name string) *Key {
	k.Synonyms = append(k.Synonyms, Synonym{Name: name, Factor: hourMs})
	return k
}

func (k *Key) minutes(name string) *Key {
	k.Synonyms = append(k.Synonyms, Synonym{Name: name, Factor: minuteMs})
	return k
}

// within bounds a group setting by two broker settings.
func (k *Key) within(minFrom, maxFrom string) *Key {
	k.minFrom, k.maxFrom = minFrom, maxFrom
	return k
}
