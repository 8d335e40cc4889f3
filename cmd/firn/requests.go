package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The requests that kadm cannot make, or whose answers it cuts short: they alone are
// written as Kafka's messages here.

// probe sees that one server answers; kadm chooses whom it asks itself.
func probe(ctx context.Context, server *kgo.Broker) error {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{} // none; null stands for all
	_, err := server.Request(ctx, req)
	return err
}

// unregisterBroker makes the cluster forget a broker (KIP-746); kadm knows no such
// request.
func unregisterBroker(ctx context.Context, client *kgo.Client, id int32) error {
	req := kmsg.NewPtrUnregisterBrokerRequest()
	req.BrokerID = id
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return fmt.Errorf("forget broker %d: %w", id, err)
	}
	return refused(fmt.Sprintf("broker %d", id), kerr.ErrorForCode(resp.ErrorCode), deref(resp.ErrorMessage))
}

// upgradeOnly is UpdateFeatures' type of update that lowers nothing (KIP-778).
const upgradeOnly int8 = 1

// updateFeatures raises feature levels (KIP-584). kadm's call of the same name drops
// the words of a refusal, which name the feature and who cannot have it.
func updateFeatures(ctx context.Context, client *kgo.Client, timeout time.Duration, updates []kadm.FeatureUpdate) error {
	req := kmsg.NewPtrUpdateFeaturesRequest()
	req.TimeoutMillis = int32(timeout.Milliseconds())
	for _, u := range updates {
		f := kmsg.NewUpdateFeaturesRequestFeatureUpdate()
		f.Feature, f.MaxVersionLevel, f.UpgradeType = u.Feature, u.MaxVersionLevel, u.UpgradeType
		req.FeatureUpdates = append(req.FeatureUpdates, f)
	}
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return fmt.Errorf("raise features: %w", err)
	}
	if err := refused("features", kerr.ErrorForCode(resp.ErrorCode), deref(resp.ErrorMessage)); err != nil {
		return err
	}
	var failures []error
	for _, r := range resp.Results { // before version 2 each has a result of its own
		failures = append(failures, refused("feature "+r.Feature, kerr.ErrorForCode(r.ErrorCode), deref(r.ErrorMessage)))
	}
	return errors.Join(failures...)
}

func deref(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}
