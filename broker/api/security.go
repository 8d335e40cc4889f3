package api

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
)

// Security and quotas are not served yet. Kafka advertises these APIs always and
// refuses them, where they are switched off, with the errors given here; clients
// judge a broker's version by the keys.

var (
	noAuthorizer = "No Authorizer is configured on the broker."
	noQuotas     = "Client quotas are not served by this broker."
	noScram      = "SCRAM credentials are not served by this broker."
)

func (s *Server) saslHandshake(r *wire.Request, _ *kmsg.SASLHandshakeRequest) {
	resp := kmsg.NewPtrSASLHandshakeResponse()
	resp.ErrorCode, resp.SupportedMechanisms = kerr.IllegalSaslState.Code, []string{}
	r.Reply(resp)
}

func (s *Server) saslAuthenticate(r *wire.Request, _ *kmsg.SASLAuthenticateRequest) {
	resp := kmsg.NewPtrSASLAuthenticateResponse()
	resp.ErrorCode = kerr.IllegalSaslState.Code
	resp.ErrorMessage = ptr("SaslAuthenticate request received after successful authentication or on a listener without SASL")
	resp.SASLAuthBytes = []byte{}
	r.Reply(resp)
}

func (s *Server) describeACLs(r *wire.Request, _ *kmsg.DescribeACLsRequest) {
	resp := kmsg.NewPtrDescribeACLsResponse()
	resp.ErrorCode, resp.ErrorMessage = kerr.SecurityDisabled.Code, &noAuthorizer
	r.Reply(resp)
}

func (s *Server) createACLs(r *wire.Request, req *kmsg.CreateACLsRequest) {
	resp := kmsg.NewPtrCreateACLsResponse()
	for range req.Creations {
		k := kmsg.NewCreateACLsResponseResult()
		k.ErrorCode, k.ErrorMessage = kerr.SecurityDisabled.Code, &noAuthorizer
		resp.Results = append(resp.Results, k)
	}
	r.Reply(resp)
}

func (s *Server) deleteACLs(r *wire.Request, req *kmsg.DeleteACLsRequest) {
	resp := kmsg.NewPtrDeleteACLsResponse()
	for range req.Filters {
		k := kmsg.NewDeleteACLsResponseResult()
		k.ErrorCode, k.ErrorMessage = kerr.SecurityDisabled.Code, &noAuthorizer
		resp.Results = append(resp.Results, k)
	}
	r.Reply(resp)
}

func (s *Server) createDelegationToken(r *wire.Request, _ *kmsg.CreateDelegationTokenRequest) {
	resp := kmsg.NewPtrCreateDelegationTokenResponse()
	resp.ErrorCode, resp.HMAC = kerr.DelegationTokenAuthDisabled.Code, []byte{}
	r.Reply(resp)
}

func (s *Server) renewDelegationToken(r *wire.Request, _ *kmsg.RenewDelegationTokenRequest) {
	resp := kmsg.NewPtrRenewDelegationTokenResponse()
	resp.ErrorCode = kerr.DelegationTokenAuthDisabled.Code
	r.Reply(resp)
}

func (s *Server) expireDelegationToken(r *wire.Request, _ *kmsg.ExpireDelegationTokenRequest) {
	resp := kmsg.NewPtrExpireDelegationTokenResponse()
	resp.ErrorCode = kerr.DelegationTokenAuthDisabled.Code
	r.Reply(resp)
}

func (s *Server) describeDelegationToken(r *wire.Request, _ *kmsg.DescribeDelegationTokenRequest) {
	resp := kmsg.NewPtrDescribeDelegationTokenResponse()
	resp.ErrorCode = kerr.DelegationTokenAuthDisabled.Code
	r.Reply(resp)
}

// describeClientQuotas: there are no quotas, and that is the whole answer.
func (s *Server) describeClientQuotas(r *wire.Request, _ *kmsg.DescribeClientQuotasRequest) {
	resp := kmsg.NewPtrDescribeClientQuotasResponse()
	resp.Entries = []kmsg.DescribeClientQuotasResponseEntry{}
	r.Reply(resp)
}

func (s *Server) alterClientQuotas(r *wire.Request, req *kmsg.AlterClientQuotasRequest) {
	resp := kmsg.NewPtrAlterClientQuotasResponse()
	for i := range req.Entries {
		k := kmsg.NewAlterClientQuotasResponseEntry()
		k.ErrorCode, k.ErrorMessage = kerr.UnsupportedVersion.Code, &noQuotas
		for _, e := range req.Entries[i].Entity {
			n := kmsg.NewAlterClientQuotasResponseEntryEntity()
			n.Type, n.Name = e.Type, e.Name
			k.Entity = append(k.Entity, n)
		}
		resp.Entries = append(resp.Entries, k)
	}
	r.Reply(resp)
}

// describeScram: no user has credentials.
func (s *Server) describeScram(r *wire.Request, req *kmsg.DescribeUserSCRAMCredentialsRequest) {
	resp := kmsg.NewPtrDescribeUserSCRAMCredentialsResponse()
	for _, u := range req.Users {
		k := kmsg.NewDescribeUserSCRAMCredentialsResponseResult()
		k.User, k.ErrorCode = u.Name, kerr.ResourceNotFound.Code
		k.ErrorMessage = ptr("Attempt to describe a user credential that does not exist: " + u.Name)
		resp.Results = append(resp.Results, k)
	}
	r.Reply(resp)
}

func (s *Server) alterScram(r *wire.Request, req *kmsg.AlterUserSCRAMCredentialsRequest) {
	resp := kmsg.NewPtrAlterUserSCRAMCredentialsResponse()
	done := make(map[string]bool)
	refuse := func(user string) {
		if done[user] {
			return
		}
		done[user] = true
		k := kmsg.NewAlterUserSCRAMCredentialsResponseResult()
		k.User, k.ErrorCode, k.ErrorMessage = user, kerr.UnsupportedVersion.Code, &noScram
		resp.Results = append(resp.Results, k)
	}
	for _, d := range req.Deletions {
		refuse(d.Name)
	}
	for _, u := range req.Upsertions {
		refuse(u.Name)
	}
	r.Reply(resp)
}
