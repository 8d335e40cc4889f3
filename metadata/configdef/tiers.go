package configdef

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// HotTier is the local disk, the first rung of every ladder.
const HotTier = "hot"

// Forever is the age of a rung that records never leave.
const Forever int64 = -1

// Rung is one step of a tier ladder: records stay in Tier until they are
// UntilMs old. Forever is allowed for the last rung only.
type Rung struct {
	Tier    string
	UntilMs int64
}

// Ladder is a parsed retention.tiers: hot first, ages rising.
type Ladder []Rung

var ladderUnits = []struct {
	suffix string
	ms     int64
}{
	{"y", 365 * dayMs}, {"w", 7 * dayMs}, {"d", dayMs}, {"h", hourMs}, {"m", minuteMs}, {"s", 1000}, {"ms", 1},
}

// maxRungs bounds a ladder; no installation has so many stores.
const maxRungs = 8

// ParseTiers reads a ladder such as "hot:1d,warm:30d,cold:7y". Each age is
// counted from the record's timestamp, as retention.ms is: with this ladder a
// record is local for a day, in warm until it is 30 days old, in cold until it
// is 7 years old, and then gone. Units are ms, s, m, h, d, w and y (365 days);
// the last age may be "forever". Errors name the mistake and the fix.
func ParseTiers(value string) (Ladder, error) {
	parts := SplitList(value)
	if len(parts) == 0 {
		return nil, fmt.Errorf("a ladder needs at least hot:AGE, for example hot:1d,warm:30d")
	}
	if len(parts) > maxRungs {
		return nil, fmt.Errorf("%d tiers are too many, at most %d", len(parts), maxRungs)
	}
	ladder := make(Ladder, 0, len(parts))
	for i, part := range parts {
		name, age, ok := strings.Cut(part, ":")
		name, age = strings.TrimSpace(name), strings.TrimSpace(age)
		if !ok || name == "" || age == "" {
			return nil, fmt.Errorf("%q is not TIER:AGE, write for example warm:30d", part)
		}
		if err := checkRungName(ladder, i, name); err != nil {
			return nil, err
		}
		ms, err := ParseAge(age)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", part, err)
		}
		if err := checkRungAge(ladder, parts, i, ms); err != nil {
			return nil, err
		}
		ladder = append(ladder, Rung{Tier: name, UntilMs: ms})
	}
	return ladder, nil
}

func checkRungName(above Ladder, i int, name string) error {
	if i == 0 && name != HotTier {
		return fmt.Errorf("the ladder begins with %s, but records land on local disk first: begin with hot:AGE", name)
	}
	if !tierName.MatchString(name) {
		return fmt.Errorf("%q cannot be a tier: its name is lower-case letters, digits and '-', beginning with a letter", name)
	}
	if slices.ContainsFunc(above, func(r Rung) bool { return r.Tier == name }) {
		return fmt.Errorf("%s is named twice: give each tier one age", name)
	}
	return nil
}

func checkRungAge(above Ladder, parts []string, i int, ms int64) error {
	if ms == Forever {
		if i != len(parts)-1 {
			return fmt.Errorf("%s never ends, so nothing would reach %s: only the last tier may be forever", parts[i], parts[i+1])
		}
		return nil
	}
	if i > 0 && ms <= above[i-1].UntilMs {
		return fmt.Errorf("%s is not older than %s: an age counts from when the record was written, so ages must rise along the ladder", parts[i], parts[i-1])
	}
	return nil
}

// ParseAge reads a number with a unit (ms, s, m, h, d, w, y) as ms, or "forever"
// as [Forever].
func ParseAge(s string) (int64, error) {
	if s == "forever" {
		return Forever, nil
	}
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	n, err := strconv.ParseInt(s[:digits], 10, 64)
	if digits == 0 || (err == nil && digits == len(s)) {
		return 0, fmt.Errorf("%q is no age, write a number and a unit (ms, s, m, h, d, w, y) or forever", s)
	}
	if err != nil {
		return 0, fmt.Errorf("%q is too long an age, write forever to keep records for good", s)
	}
	for _, u := range ladderUnits {
		if u.suffix != s[digits:] {
			continue
		}
		if n > math.MaxInt64/u.ms {
			return 0, fmt.Errorf("%q is too long an age, write forever to keep records for good", s)
		}
		return n * u.ms, nil
	}
	return 0, fmt.Errorf("%q has no unit that is known, use one of ms, s, m, h, d, w, y", s)
}

// String writes the ladder in the shortest form that ParseTiers reads back.
func (l Ladder) String() string {
	parts := make([]string, len(l))
	for i, r := range l {
		parts[i] = r.Tier + ":" + FormatAge(r.UntilMs)
	}
	return strings.Join(parts, ",")
}

// FormatAge writes a time in ms with the largest unit that divides it; a
// negative one is forever.
func FormatAge(ms int64) string {
	if ms < 0 {
		return "forever"
	}
	if ms == 0 {
		return "0s"
	}
	for _, u := range ladderUnits {
		// Weeks read worse than days, and years only help where they are exact.
		if u.suffix != "w" && ms%u.ms == 0 {
			return strconv.FormatInt(ms/u.ms, 10) + u.suffix
		}
	}
	return strconv.FormatInt(ms, 10) + "ms"
}

// Settings are the Kafka settings that say the same as the ladder.
func (l Ladder) Settings() map[string]string {
	local, total := l[0].UntilMs, l[len(l)-1].UntilMs
	settings := map[string]string{
		RetentionMs:   strconv.FormatInt(total, 10),
		RemoteStorage: strconv.FormatBool(len(l) > 1),
	}
	if len(l) > 1 {
		settings[LocalRetentionMs] = strconv.FormatInt(local, 10)
	}
	return settings
}

// unknownStores returns an error when the ladder names a tier that the
// broker's tier.stores does not.
func (l Ladder) unknownStores(stores []string) error {
	for _, r := range l[1:] {
		if !slices.Contains(stores, r.Tier) {
			return fmt.Errorf("the tier %s is not known here: %s is %s", r.Tier, TierStores, strings.Join(stores, ", "))
		}
	}
	return nil
}
