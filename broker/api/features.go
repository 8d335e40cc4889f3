package api

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// The upgrade types of UpdateFeatures (KIP-584, KIP-778).
const (
	upgradeOnly     = 1
	safeDowngrade   = 2
	unsafeDowngrade = 3
)

// updateFeatures sets feature levels of the cluster: all of those asked for or
// none (KIP-1022).
func (s *Server) updateFeatures(r *wire.Request, req *kmsg.UpdateFeaturesRequest) {
	s.slow(millis(req.TimeoutMillis), func(ctx context.Context) {
		resp := kmsg.NewPtrUpdateFeaturesResponse()
		cmd, err := featureUpdates(s.Meta.Image(), r.Version, req)
		if err == nil && len(cmd.Updates) > 0 && !req.ValidateOnly {
			_, err = s.Meta.Propose(ctx, cmd)
			if errors.Is(err, command.ErrFeature) || errors.Is(err, command.ErrInvalid) {
				err = &withCode{kerr.InvalidUpdateVersion, err}
			}
		}
		resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
		for i := range req.FeatureUpdates {
			if err != nil || r.Version >= 2 {
				break // one error speaks for all
			}
			k := kmsg.NewUpdateFeaturesResponseResult()
			k.Feature = req.FeatureUpdates[i].Feature
			resp.Results = append(resp.Results, k)
		}
		r.Reply(resp)
	})
}

// featureUpdates checks the request against what every broker supports. An
// update to the level in force changes nothing.
func featureUpdates(img *metadata.Image, version int16, req *kmsg.UpdateFeaturesRequest) (*command.UpdateFeatures, error) {
	cmd := &command.UpdateFeatures{Request: command.Request{RequestID: uuid.New()}}
	supported, have := SupportedFeatures(), img.Features()
	seen := make(map[string]bool, len(req.FeatureUpdates))
	for i := range req.FeatureUpdates {
		u := &req.FeatureUpdates[i]
		down := u.AllowDowngrade
		if version >= 1 {
			switch u.UpgradeType {
			case upgradeOnly:
				down = false
			case safeDowngrade, unsafeDowngrade:
				down = true
			default:
				return nil, &withCode{kerr.InvalidUpdateVersion, errors.New("unknown type of upgrade for " + u.Feature)}
			}
		}
		limits, known := supported[u.Feature]
		switch {
		case seen[u.Feature]:
			return nil, &withCode{kerr.InvalidRequest, errors.New("feature " + u.Feature + " is named twice")}
		case !known:
			return nil, &withCode{kerr.InvalidUpdateVersion, errors.New("the brokers do not know feature " + u.Feature)}
		case u.MaxVersionLevel < 0 || u.MaxVersionLevel > limits.Max || u.MaxVersionLevel < limits.Min && u.MaxVersionLevel != 0:
			return nil, &withCode{kerr.InvalidUpdateVersion, errors.New("the brokers do not support this level of feature " + u.Feature)}
		case u.MaxVersionLevel < have[u.Feature] && !down:
			return nil, &withCode{kerr.InvalidUpdateVersion, errors.New("feature " + u.Feature + " would go down, which the type of upgrade does not allow")}
		}
		seen[u.Feature] = true
		if u.MaxVersionLevel != have[u.Feature] {
			cmd.Updates = append(cmd.Updates, command.FeatureUpdate{Name: u.Feature, Level: u.MaxVersionLevel, Downgrade: down})
		}
	}
	return cmd, nil
}
