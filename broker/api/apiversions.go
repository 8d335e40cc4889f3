package api

import (
	"math"
	"regexp"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// clientSoftware is what KIP-511 allows as a client's name and version.
var clientSoftware = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?$`)

// features are what this broker supports: by Kafka's names, a level once the work
// behind it is done, and Firn's own.
var features = []struct {
	name             string
	min, max, atMake int16
}{
	{"metadata.version", 7, 33, 33},
	{command.Feature, int16(command.Level1), int16(command.MaxLevel), int16(command.MaxLevel)},
}

// apiVersions answers which APIs are served (KIP-35, KIP-511, KIP-584, KIP-1242).
// wire lets a version above the maximum through with an empty body, to be
// answered in the layout of version 0.
func (s *Server) apiVersions(r *wire.Request, req *kmsg.ApiVersionsRequest) {
	resp := kmsg.NewPtrApiVersionsResponse()
	if api := s.routes[r.Key]; r.Version > api.max || r.Version < api.min {
		resp.ErrorCode = kerr.UnsupportedVersion.Code
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = api.key, api.min, api.max
		resp.ApiKeys = append(resp.ApiKeys, k)
		r.Reply(resp)
		return
	}
	if err := s.checkApiVersions(r.Version, req); err != nil {
		resp.ErrorCode = err.Code
		r.Reply(resp)
		return
	}
	if r.Version >= 3 {
		r.Conn.SetClientSoftware(req.ClientSoftwareName, req.ClientSoftwareVersion)
	}
	resp.ApiKeys = s.advertised
	img := s.Meta.Image()
	// Java keeps the features of the highest epoch it has seen, so the epoch must
	// be the same on all brokers and never go back.
	resp.FinalizedFeaturesEpoch = max(img.FeaturesEpoch(), 0)
	for _, f := range features {
		// Parsers of version 3 and below throw on a minimum of 0.
		if f.min > 0 || r.Version >= 4 {
			k := kmsg.NewApiVersionsResponseSupportedFeature()
			k.Name, k.MinVersion, k.MaxVersion = f.name, f.min, f.max
			resp.SupportedFeatures = append(resp.SupportedFeatures, k)
		}
		if level := img.Features()[f.name]; level > 0 {
			k := kmsg.NewApiVersionsResponseFinalizedFeature()
			k.Name, k.MinVersionLevel, k.MaxVersionLevel = f.name, level, level
			resp.FinalizedFeatures = append(resp.FinalizedFeatures, k)
		}
	}
	r.Reply(resp)
}

func (s *Server) checkApiVersions(version int16, req *kmsg.ApiVersionsRequest) *kerr.Error {
	if version >= 3 && (!clientSoftware.MatchString(req.ClientSoftwareName) ||
		!clientSoftware.MatchString(req.ClientSoftwareVersion)) {
		return kerr.InvalidRequest
	}
	if version < 5 {
		return nil
	}
	if (req.ClusterID == nil) != (req.NodeID == -1) {
		return kerr.InvalidRequest
	}
	if req.ClusterID != nil && (*req.ClusterID != s.Meta.Image().ClusterID() || req.NodeID != s.nodeID()) {
		return kerr.RebootstrapRequired
	}
	return nil
}

// Features returns the feature levels of a new cluster.
func Features() map[string]int16 {
	m := make(map[string]int16, len(features))
	for _, f := range features {
		m[f.name] = f.atMake
	}
	return m
}

// SupportedFeatures returns the ranges that this broker registers with.
func SupportedFeatures() map[string]metadata.VersionRange {
	m := make(map[string]metadata.VersionRange, len(features))
	for _, f := range features {
		m[f.name] = metadata.VersionRange{Min: f.min, Max: f.max}
	}
	return m
}

// noAuthorizedOperations is the default of the authorized-operations fields.
const noAuthorizedOperations = math.MinInt32

// All operations on the cluster and on a topic, by their ACL codes. Without an
// authorizer everybody may do them.
const (
	// create, alter, describe, cluster action, describe configs, alter configs,
	// idempotent write
	clusterOperations = 1<<5 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12
	// read, write, create, delete, alter, describe, describe configs, alter configs
	topicOperations = 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<11
)
