package configdef

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// The rules between settings of one topic. Each reports into resolved.errs and
// leaves values that can be worked with.

// applyTiers lets an explicit ladder set the three Kafka settings that it
// stands for. An explicit setting that says otherwise is a contradiction.
func (r *resolved) applyTiers(brokerSet map[string]string) Ladder {
	text := r.values[RetentionTiers]
	if text == "" {
		return nil
	}
	ladder, err := ParseTiers(text)
	if err == nil {
		stores, _ := BrokerValue(brokerSet, TierStores)
		err = ladder.unknownStores(SplitList(stores))
	}
	if err != nil {
		r.errs = append(r.errs, invalidValue(RetentionTiers, text, err.Error()))
		return nil
	}
	says := ladder.Settings()
	for _, name := range sortedNames(says) {
		if r.explicit[name] && r.values[name] != says[name] {
			r.fail(RetentionTiers, "%s=%s means %s=%s, but %s=%s is set too: remove one of the two",
				RetentionTiers, text, name, says[name], name, r.values[name])
			return nil
		}
	}
	for name, value := range says {
		r.values[name], r.explicit[name] = value, true
	}
	return ladder
}

// durability joins durability with flush.messages=1, which means fsync unless
// the topic itself says otherwise in the stronger word.
func (r *resolved) durability() (fsync bool) {
	fsync = r.values[DurabilityName] == "fsync"
	if r.values[FlushMessages] != "1" || fsync {
		return fsync
	}
	switch {
	case r.explicit[FlushMessages] && r.explicit[DurabilityName]:
		r.fail(DurabilityName, "%s=1 means %s=fsync, but %s=replicated is set too: remove one of the two",
			FlushMessages, DurabilityName, DurabilityName)
		return true
	case r.explicit[DurabilityName]:
		return false
	}
	return true
}

func (r *resolved) checkCompactionLag() {
	if low, high := r.int(MinCompactionLagMs), r.int(MaxCompactionLagMs); low > high {
		r.fail(MinCompactionLagMs, "conflict topic config setting %s (%d) > %s (%d)", MinCompactionLagMs, low, MaxCompactionLagMs, high)
	}
}

// inheritRemote keeps the broker's default of tiering away from compacted
// topics: they are tiered only when they say so themselves.
func (r *resolved) inheritRemote() {
	if !r.explicit[RemoteStorage] && slices.Contains(SplitList(r.values[CleanupPolicy]), "compact") {
		r.values[RemoteStorage] = "false"
	}
}

func (r *resolved) checkRemoteSystem(brokerSet map[string]string) {
	if enabled, _ := BrokerValue(brokerSet, RemoteSystemEnable); enabled == "true" {
		return
	}
	if r.explicit[RemoteStorage] {
		r.fail(RemoteStorage, "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage.")
	}
	r.values[RemoteStorage] = "false"
}

// local is the effective local retention, by time or by size. Kafka's rules
// hold for what the topic sets itself; a default of the broker that would break
// them is cut to the total instead, since the topic's owner did not write it.
func (r *resolved) local(name, totalName string) int64 {
	local, total := r.int(name), max(r.int(totalName), -1)
	if local == -2 || !r.bool(RemoteStorage) {
		return total
	}
	if r.bool(RemoteCopyDisable) {
		if r.explicit[name] && local != total {
			r.fail(name, "When `%s` is set to true, the `%s` and `%s` must be set to the identical value because there will be no more logs copied to the remote storage.",
				RemoteCopyDisable, name, totalName)
		}
		return total
	}
	if total == -1 || (local != -1 && local <= total) {
		return local
	}
	if r.explicit[name] {
		why := fmt.Sprintf("Value must not be more than %s property value: %d", totalName, total)
		if local == -1 {
			why = fmt.Sprintf("Value must not be -1 as %s value is set as %d.", totalName, total)
		}
		r.errs = append(r.errs, invalidValue(name, strconv.FormatInt(local, 10), why))
	}
	return total
}

// copyLag is the effective remote.copy.lag, by time or by size: -1 stands for
// the local retention, which an explicit one may not exceed.
func (r *resolved) copyLag(name, localName string, local int64) int64 {
	lag := r.int(name)
	switch {
	case lag == -1:
		return local
	case !r.bool(RemoteStorage) || local == -1 || lag <= local:
		return lag
	case r.explicit[name]:
		r.errs = append(r.errs, invalidValue(name, r.values[name], fmt.Sprintf("Value must not exceed %s (effective value: %d)", localName, local)))
	}
	return local
}

// ValidateBrokerChange checks one dynamic broker setting. perBroker is true for
// a single broker's, false for the default of all.
func ValidateBrokerChange(name, value string, perBroker bool) error {
	k, ok := brokerTable.byName[name]
	switch {
	case !ok:
		return &Error{Name: name, Message: "Unknown broker config name: " + name}
	case k.Mode == ReadOnly:
		return &Error{Name: name, Message: "Cannot update these configs dynamically: Set(" + name + ")"}
	case name == MinInsyncReplicas && perBroker:
		// KIP-966: with eligible leader replicas all brokers must agree on it.
		return &Error{Name: name, Message: "Broker-level min.insync.replicas cannot be altered while ELR is enabled."}
	}
	_, err := k.Normalize(value)
	return err
}

// ValidateGroupChange checks all overrides that a group would have against
// their own rules and the broker's bounds (KIP-848, KIP-932).
func ValidateGroupChange(overrides, brokerSet map[string]string) error {
	var errs Errors
	for _, name := range sortedNames(overrides) {
		k, ok := groupTable.byName[name]
		if !ok {
			errs = append(errs, &Error{Name: name, Message: "Unknown group config name: " + name})
			continue
		}
		value, err := k.Normalize(overrides[name])
		if err != nil {
			errs = append(errs, &Error{Name: name, Message: err.Error()})
			continue
		}
		if e := k.outOfBrokerBounds(value, brokerSet); e != nil {
			errs = append(errs, e)
		}
	}
	return errs.orNil()
}

func (k *Key) outOfBrokerBounds(value string, brokerSet map[string]string) *Error {
	if k.minFrom == "" && k.maxFrom == "" {
		return nil
	}
	n, low, high := number(value), int64(math.MinInt64), int64(math.MaxInt64)
	if text, ok := BrokerValue(brokerSet, k.minFrom); ok {
		low = number(text)
	}
	if text, ok := BrokerValue(brokerSet, k.maxFrom); ok {
		high = number(text)
	}
	switch {
	case n < low:
		return &Error{Name: k.Name, Message: k.Name + " must be greater than or equal to " + k.minFrom}
	case n > high:
		return &Error{Name: k.Name, Message: k.Name + " must be less than or equal to " + k.maxFrom}
	}
	return nil
}

// number reads a value that Normalize has passed.
func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic("configdef: not a number after Normalize: " + text)
	}
	return n
}

func saturatingMul(n, factor int64) int64 {
	if n > math.MaxInt64/factor {
		return math.MaxInt64
	}
	return n * factor
}

func sortedNames(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
