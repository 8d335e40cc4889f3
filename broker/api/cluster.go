package api

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
)

// DescribeCluster's endpoint types (KIP-919).
const (
	endpointBrokers     = 1
	endpointControllers = 2
)

// describeCluster lists the brokers on the listener that was asked (KIP-700).
func (s *Server) describeCluster(r *wire.Request, req *kmsg.DescribeClusterRequest) {
	img := s.Meta.Image()
	resp := kmsg.NewPtrDescribeClusterResponse()
	resp.EndpointType, resp.ControllerID = endpointBrokers, -1
	resp.ClusterAuthorizedOperations = noAuthorizedOperations
	if r.Version >= 1 && req.EndpointType != endpointBrokers {
		resp.ErrorCode = kerr.UnsupportedEndpointType.Code
		resp.ErrorMessage = ptr(fmt.Sprintf("Unsupported endpoint type %d", req.EndpointType))
		if req.EndpointType == endpointControllers {
			resp.ErrorCode = kerr.MismatchedEndpointType.Code
			resp.ErrorMessage = ptr("The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER")
		}
		r.Reply(resp)
		return
	}
	resp.ClusterID, resp.ControllerID = img.ClusterID(), s.controllerID(r, img)
	if req.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = clusterOperations
	}
	for b := range img.Brokers() {
		if b.Fenced && (r.Version < 2 || !req.IncludeFencedBrokers) {
			continue
		}
		if host, port, rack, ok := s.brokerAddr(r, b.ID); ok {
			k := kmsg.NewDescribeClusterResponseBroker()
			k.NodeID, k.Host, k.Port, k.Rack, k.IsFenced = b.ID, host, port, rack, b.Fenced
			resp.Brokers = append(resp.Brokers, k)
		}
	}
	r.Reply(resp)
}
