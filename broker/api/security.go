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

// Delegation tokens: who has not logged in may not ask for one, and Kafka finds
// that out before it looks whether tokens are switched on.

func (s *Server) createDelegationToken(r *wire.Request, _ *kmsg.CreateDelegationTokenRequest) {
	resp := kmsg.NewPtrCreateDelegationTokenResponse()
	resp.ErrorCode, resp.HMAC = kerr.DelegationTokenRequestNotAllowed.Code, []byte{}
	resp.PrincipalType, resp.PrincipalName = "User", "ANONYMOUS"
	resp.TokenRequesterPrincipalType, resp.TokenRequesterPrincipalName = "User", "ANONYMOUS"
	resp.IssueTimestamp, resp.ExpiryTimestamp, resp.MaxTimestamp = -1, -1, -1
	r.Reply(resp)
}

func (s *Server) renewDelegationToken(r *wire.Request, _ *kmsg.RenewDelegationTokenRequest) {
	resp := kmsg.NewPtrRenewDelegationTokenResponse()
	resp.ErrorCode, resp.ExpiryTimestamp = kerr.DelegationTokenRequestNotAllowed.Code, -1
	r.Reply(resp)
}

func (s *Server) expireDelegationToken(r *wire.Request, _ *kmsg.ExpireDelegationTokenRequest) {
	resp := kmsg.NewPtrExpireDelegationTokenResponse()
	resp.ErrorCode, resp.ExpiryTimestamp = kerr.DelegationTokenRequestNotAllowed.Code, -1
	r.Reply(resp)
}

func (s *Server) describeDelegationToken(r *wire.Request, _ *kmsg.DescribeDelegationTokenRequest) {
	resp := kmsg.NewPtrDescribeDelegationTokenResponse()
	resp.ErrorCode = kerr.DelegationTokenRequestNotAllowed.Code
	r.Reply(resp)
}

// quotaEntities are the kinds of client that Kafka has quotas for.
var quotaEntities = map[string]bool{"user": true, "client-id": true, "ip": true}

// describeClientQuotas: there are no quotas, and that is the whole answer.
func (s *Server) describeClientQuotas(r *wire.Request, req *kmsg.DescribeClientQuotasRequest) {
	resp := kmsg.NewPtrDescribeClientQuotasResponse()
	resp.ErrorMessage, resp.Entries = ptr(""), []kmsg.DescribeClientQuotasResponseEntry{}
	for i := range req.Components {
		if kind := req.Components[i].EntityType; !quotaEntities[kind] {
			resp.ErrorCode, resp.Entries = kerr.UnsupportedVersion.Code, nil
			resp.ErrorMessage = ptr("Unsupported entity type " + kind)
			break
		}
	}
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
	resp.ErrorMessage = ptr("")
	at := make(map[string]int, len(req.Users))
	for _, u := range req.Users {
		if i, twice := at[u.Name]; twice {
			resp.Results[i].ErrorCode = kerr.DuplicateResource.Code
			resp.Results[i].ErrorMessage = ptr("Cannot describe SCRAM credentials for the same user twice in a single request: " + u.Name)
			continue
		}
		at[u.Name] = len(resp.Results)
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
	refuse := func(user string, err *kerr.Error, why string) {
		if done[user] {
			return
		}
		done[user] = true
		if user == "" {
			err, why = kerr.UnacceptableCredential, "Username must not be empty"
		}
		k := kmsg.NewAlterUserSCRAMCredentialsResponseResult()
		k.User, k.ErrorCode, k.ErrorMessage = user, err.Code, &why
		resp.Results = append(resp.Results, k)
	}
	for _, u := range req.Upsertions {
		refuse(u.Name, kerr.UnsupportedVersion, noScram)
	}
	for _, d := range req.Deletions {
		refuse(d.Name, kerr.ResourceNotFound, "Attempt to delete a user credential that does not exist")
	}
	r.Reply(resp)
}
