package configdef

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Type is a setting's type, numbered as DescribeConfigs v3+ sends it.
type Type int8

// Kafka's ConfigType numbers.
const (
	TypeBoolean  Type = 1
	TypeString   Type = 2
	TypeInt      Type = 3
	TypeShort    Type = 4
	TypeLong     Type = 5
	TypeDouble   Type = 6
	TypeList     Type = 7
	TypeClass    Type = 8
	TypePassword Type = 9
)

var typeNames = [...]string{"UNKNOWN", "BOOLEAN", "STRING", "INT", "SHORT", "LONG", "DOUBLE", "LIST", "CLASS", "PASSWORD"}

// String is the name that Kafka prints in error messages.
func (t Type) String() string {
	if t < 0 || int(t) >= len(typeNames) {
		return typeNames[0]
	}
	return typeNames[t]
}

// Mode says when a broker setting may change (KIP-226). Topic and group
// settings are always changeable.
type Mode int8

// The update modes of broker settings.
const (
	ReadOnly    Mode = iota // read at start
	PerBroker               // may be set for one broker, or as the default of all
	ClusterWide             // as PerBroker; meant to be the same on all brokers
)

// Synonym names a broker setting that gives a topic or group setting its
// default. Factor converts the broker's unit: hours to milliseconds and so on.
type Synonym struct {
	Name   string
	Factor int64 // 1 where units agree
}

// Key is the definition of one setting. Keys are shared: read only.
type Key struct {
	Name string
	Type Type
	// Default is the text of the default. HasDefault is false where Kafka's is null.
	Default    string
	HasDefault bool
	Doc        string
	Mode       Mode
	// Firn marks a setting that Kafka does not have.
	Firn bool
	// Synonyms of a topic or group setting: broker settings, strongest first.
	// Of a broker setting: all that mean the same in some unit, strongest first.
	Synonyms []Synonym

	min, max *float64
	// aliases are broker settings with the same meaning and unit.
	aliases []string
	// unless is a value outside [min, max] that is valid all the same.
	unless *int64
	oneOf  []string
	check  func(value string) error
	// Group settings lie between two broker settings, by name; "" = unbounded.
	minFrom, maxFrom string
}

// Aliases are the broker settings with the same meaning and unit. Read only.
func (k *Key) Aliases() []string { return k.aliases }

// Sensitive settings are never shown.
func (k *Key) Sensitive() bool { return k.Type == TypePassword }

// ErrInvalid is matched by every error of this package. The API answers
// INVALID_CONFIG for it.
var ErrInvalid = errors.New("invalid configuration")

// Error is one mistake in one setting.
type Error struct {
	Name    string // the setting; "" when the mistake lies between several
	Message string // whole sentence, fit for a Kafka error message
	Reason  string // of a bad value: what is wrong with it, by itself
}

func (e *Error) Error() string { return e.Message }

// Is makes errors.Is(err, ErrInvalid) hold.
func (e *Error) Is(target error) bool { return target == ErrInvalid }

// Errors is every mistake that was found, at least one, in the order of the
// settings' names.
type Errors []*Error

func (es Errors) Error() string {
	parts := make([]string, len(es))
	for i, e := range es {
		parts[i] = e.Message
	}
	return strings.Join(parts, "; ")
}

// Is makes errors.Is(err, ErrInvalid) hold.
func (es Errors) Is(target error) bool { return target == ErrInvalid }

func (es Errors) orNil() error {
	if len(es) == 0 {
		return nil
	}
	return es
}

func invalidValue(name, value, why string) *Error {
	return &Error{Name: name, Message: fmt.Sprintf("Invalid value %s for configuration %s: %s", value, name, why), Reason: why}
}

// Normalize checks a value and returns it as Kafka prints it: trimmed, booleans
// in lower case, numbers in decimal, lists without spaces around commas. The
// error is an *[Error] with Kafka's wording.
func (k *Key) Normalize(value string) (string, error) {
	text := strings.TrimSpace(value)
	var number float64
	switch k.Type {
	case TypeBoolean:
		switch {
		case strings.EqualFold(text, "true"):
			text = "true"
		case strings.EqualFold(text, "false"):
			text = "false"
		default:
			return "", invalidValue(k.Name, value, "Expected value to be either true or false")
		}
	case TypeInt, TypeShort, TypeLong:
		bits := map[Type]int{TypeInt: 32, TypeShort: 16, TypeLong: 64}[k.Type]
		n, err := strconv.ParseInt(text, 10, bits)
		if err != nil {
			return "", invalidValue(k.Name, value, "Not a number of type "+k.Type.String())
		}
		text, number = strconv.FormatInt(n, 10), float64(n)
	case TypeDouble:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return "", invalidValue(k.Name, value, "Not a number of type DOUBLE")
		}
		text, number = formatDouble(f), f
	case TypeList:
		parts := SplitList(text)
		if slices.Contains(parts, "") {
			return "", &Error{Name: k.Name, Message: "Configuration '" + k.Name + "' values must not be empty.", Reason: "expected no empty value between commas"}
		}
		text = strings.Join(parts, ",")
	case TypeString, TypeClass, TypePassword:
	}
	if why := k.outOfRange(text, number); why != "" {
		return "", invalidValue(k.Name, value, why)
	}
	if k.check != nil {
		if err := k.check(text); err != nil {
			return "", invalidValue(k.Name, value, err.Error())
		}
	}
	return text, nil
}

func (k *Key) outOfRange(text string, number float64) string {
	switch {
	case k.unless != nil && number == float64(*k.unless):
		return ""
	case k.unless != nil && (number < *k.min || number > *k.max):
		return fmt.Sprintf("Value must be between %s and %s or equal to %d", formatBound(*k.min), formatBound(*k.max), *k.unless)
	case k.min != nil && number < *k.min:
		return "Value must be at least " + formatBound(*k.min)
	case k.max != nil && number > *k.max:
		return "Value must be no more than " + formatBound(*k.max)
	}
	if k.oneOf == nil {
		return ""
	}
	values := []string{text}
	if k.Type == TypeList {
		values = SplitList(text)
	}
	for _, v := range values {
		if !slices.Contains(k.oneOf, v) {
			return "String must be one of: " + strings.Join(k.oneOf, ", ")
		}
	}
	return ""
}

// Want says in words what the key takes: its type and its range.
func (k *Key) Want() string {
	valid := k.Valid()
	switch {
	case k.Type == TypeBoolean:
		return "true or false"
	case k.Type == TypeList && k.oneOf != nil:
		return "a list of " + valid
	case k.oneOf != nil:
		return "one of " + valid
	}
	words := map[Type]string{TypeInt: "a whole number of 32 bits", TypeShort: "a whole number of 16 bits",
		TypeLong: "a whole number of 64 bits", TypeDouble: "a number", TypeList: "a list"}[k.Type]
	switch {
	case words == "":
		return "text"
	case valid == "":
		return words
	}
	return words + ", " + valid
}

// Valid describes the values that the key takes, for documentation.
func (k *Key) Valid() string {
	switch {
	case k.oneOf != nil:
		return strings.Join(k.oneOf, ", ")
	case k.unless != nil:
		return fmt.Sprintf("%s to %s, or %d", formatBound(*k.min), formatBound(*k.max), *k.unless)
	case k.min != nil && k.max != nil:
		return formatBound(*k.min) + " to " + formatBound(*k.max)
	case k.min != nil:
		return "at least " + formatBound(*k.min)
	case k.max != nil:
		return "at most " + formatBound(*k.max)
	case k.Type == TypeBoolean:
		return "true, false"
	}
	return ""
}

func formatBound(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// formatDouble keeps Java's habit of a decimal point: 1 is written 1.0.
func formatDouble(f float64) string {
	s := strconv.FormatFloat(f, 'g', -1, 64)
	if !strings.ContainsAny(s, ".e") {
		s += ".0"
	}
	return s
}

// SplitList splits a list value at commas and trims the parts. An empty value
// is an empty list, as in Kafka.
func SplitList(value string) []string {
	value = strings.TrimSpace(value)
	if value == "" {
		return nil
	}
	parts := strings.Split(value, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

// table is a set of keys by name with its sorted order.
type table struct {
	byName map[string]*Key
	sorted []*Key
}

// newTable panics on a definition that is wrong in itself: tables are constants
// of the program, and a test builds them all.
func newTable(keys ...*Key) *table {
	t := &table{byName: make(map[string]*Key, len(keys)), sorted: keys}
	for _, k := range keys {
		if _, twice := t.byName[k.Name]; twice {
			panic("configdef: defined twice: " + k.Name)
		}
		t.byName[k.Name] = k
		if !k.HasDefault {
			continue
		}
		text, err := k.Normalize(k.Default)
		if err != nil {
			panic("configdef: bad default: " + err.Error())
		}
		k.Default = text
	}
	sort.Slice(t.sorted, func(i, j int) bool { return t.sorted[i].Name < t.sorted[j].Name })
	return t
}

// Topic returns the definition of a topic setting.
func Topic(name string) (*Key, bool) { k, ok := topicTable.byName[name]; return k, ok }

// Broker returns the definition of a broker setting.
func Broker(name string) (*Key, bool) { k, ok := brokerTable.byName[name]; return k, ok }

// Group returns the definition of a group setting.
func Group(name string) (*Key, bool) { k, ok := groupTable.byName[name]; return k, ok }

// TopicKeys returns all topic settings by name. Read only.
func TopicKeys() []*Key { return topicTable.sorted }

// BrokerKeys returns all broker settings by name. Read only.
func BrokerKeys() []*Key { return brokerTable.sorted }

// GroupKeys returns all group settings by name. Read only.
func GroupKeys() []*Key { return groupTable.sorted }
