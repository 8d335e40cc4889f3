package main

import (
	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var chapters = []chapter{
	{"coordinators", coordinators}, // makes the offsets topic, which others write to
	{"api-versions", apiVersions},
	{"frames", frames},
	{"sasl", sasl},
	{"security", security},
	{"quotas", quotas},
	{"create-topics", createTopics},
	{"delete-topics", deleteTopics},
	{"create-partitions", createPartitions},
	{"metadata", metadata},
	{"describe-cluster", describeCluster},
	{"describe-topic-partitions", describeTopicPartitions},
	{"configs", configs},
	{"alter-configs", alterConfigs},
	{"produce", produce},
	{"produce-errors", produceErrors},
	{"produce-settings", produceSettings},
	{"idempotent", idempotent},
	{"fetch", fetchRecords},
	{"fetch-errors", fetchErrors},
	{"fetch-sessions", fetchSessions},
	{"list-offsets", listOffsets},
	{"epochs", epochs},
	{"delete-records", deleteRecords},
	{"log-dirs", logDirs},
	{"reassignments", reassignments},
	{"elections", leaderElections},
	{"features", featureUpdates},
	{"brokers", brokers},
	{"producer-ids", producerIDs},
	{"groups", groups},
	{"group-errors", groupErrors},
	{"offsets", offsets},
	{"transactions", transactions},
}

// apiVersions asks what is served, well and badly.
func apiVersions(s *script) {
	s.each("served", 0, 4, func(int16) kmsg.Request { return software("compat", "1.0") })
	s.ask("served", 5, software("compat", "1.0"))
	for _, v := range []int16{6, 99, 32767} {
		// Above the maximum the body is not read, and the answer is one of version 0.
		c := s.connected()
		frame := c.header(apiVersionsKey, v, true, s.client)
		if err := c.write(append(frame, 0xff, 0xff)); err != nil {
			s.fail("%w", err)
		}
		body, f, err := c.read(answerLimit)
		var a answer
		if f == answered && err == nil {
			resp := kmsg.NewPtrApiVersionsResponse()
			err = resp.ReadFrom(body)
			a = s.namer.flatten(resp)
		}
		s.note("too new", v, f, a, err)
	}
	for _, bad := range [][2]string{{"", "1"}, {"a", ""}, {"-a", "1"}, {"a-", "1"}, {"a b", "1"}, {"a", "1_0"}, {"a.b-c", "1-.2"}, {"ä", "1"}} {
		s.ask("name "+bad[0]+" version "+bad[1], 3, software(bad[0], bad[1]))
	}
	s.client = nil
	s.ask("null client id", 3, software("compat", "1.0"))
	s.client = kmsg.StringPtr("compat")
	foreign := software("compat", "1.0")
	foreign.ClusterID, foreign.NodeID = kmsg.StringPtr("somewhere-else"), 1
	s.ask("another cluster", 5, foreign)
	half := software("compat", "1.0")
	half.NodeID = 1
	s.ask("a node id without a cluster", 5, half)
}

func software(name, version string) *kmsg.ApiVersionsRequest {
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = name, version
	return req
}

// frames sends what no client should.
func frames(s *script) {
	header := func(key, version int16, flexible bool) []byte {
		return s.connected().header(key, version, flexible, s.client)
	}
	s.frame("unknown key", header(999, 0, false))
	s.frame("negative key", header(-1, 0, false))
	s.frame("controller's key", header(52, 0, true))
	s.frame("retired key", header(4, 0, false))
	s.frame("metadata too new", header(3, 14, true))
	s.frame("fetch too old", header(1, 3, false))
	s.frame("produce too old", header(0, 2, false))
	s.frame("negative version", header(3, -1, false))
	s.frame("cut off in the header", []byte{0, 3})
	s.frame("cut off in the client id", append(kbin.AppendInt32([]byte{0, 3, 0, 1}, 1), 0, 20, 'x'))
	s.frame("metadata cut off", append(header(3, 1, false), 0, 0, 0, 5, 0, 3, 'a'))
	s.frame("metadata of too many topics", append(header(3, 1, false), 0x7f, 0xff, 0xff, 0xff))
	req := kmsg.NewPtrListGroupsRequest()
	req.SetVersion(0)
	s.frame("trailing bytes", append(req.AppendTo(header(16, 0, false)), 1, 2, 3))
	c := s.connected()
	if _, err := c.nc.Write([]byte{0xff, 0xff, 0xff, 0xff}); err != nil {
		s.fail("%w", err)
	}
	_, f, err := c.read(answerLimit)
	s.note("negative length", -1, f, nil, err)
	s.hangUp()
	c = s.connected()
	if _, err := c.nc.Write([]byte{0x7f, 0xff, 0xff, 0xff, 0, 0}); err != nil {
		s.fail("%w", err)
	}
	_, f, err = c.read(answerLimit)
	s.note("a length of 2 GiB", -1, f, nil, err)
	s.hangUp()
}

// sasl logs in where nobody has to.
func sasl(s *script) {
	for v := int16(0); v <= 1; v++ {
		req := kmsg.NewPtrSASLHandshakeRequest()
		req.Mechanism = "PLAIN"
		s.ask("handshake", v, req)
	}
	for v := int16(0); v <= 2; v++ {
		req := kmsg.NewPtrSASLAuthenticateRequest()
		req.SASLAuthBytes = []byte("\x00user\x00password")
		s.ask("authenticate", v, req)
	}
}

// security asks for what is off: authorization and delegation tokens.
func security(s *script) {
	any := kmsg.StringPtr("User:any")
	s.each("describe acls", 1, 3, func(int16) kmsg.Request {
		req := kmsg.NewPtrDescribeACLsRequest()
		req.ResourceType, req.ResourcePatternType = kmsg.ACLResourceTypeAny, kmsg.ACLResourcePatternTypeAny
		req.Operation, req.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
		return req
	})
	s.each("create acls", 1, 3, func(int16) kmsg.Request {
		req := kmsg.NewPtrCreateACLsRequest()
		for _, name := range []string{"a", "b"} {
			c := kmsg.NewCreateACLsRequestCreation()
			c.ResourceType, c.ResourceName, c.ResourcePatternType = kmsg.ACLResourceTypeTopic, name, kmsg.ACLResourcePatternTypeLiteral
			c.Principal, c.Host, c.Operation, c.PermissionType = *any, "*", kmsg.ACLOperationRead, kmsg.ACLPermissionTypeAllow
			req.Creations = append(req.Creations, c)
		}
		return req
	})
	s.each("delete acls", 1, 3, func(int16) kmsg.Request {
		req := kmsg.NewPtrDeleteACLsRequest()
		f := kmsg.NewDeleteACLsRequestFilter()
		f.ResourceType, f.ResourcePatternType, f.Principal = kmsg.ACLResourceTypeTopic, kmsg.ACLResourcePatternTypeAny, any
		f.Operation, f.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
		req.Filters = append(req.Filters, f)
		return req
	})
	s.each("create token", 1, 3, func(int16) kmsg.Request {
		req := kmsg.NewPtrCreateDelegationTokenRequest()
		req.MaxLifetimeMillis = 1000
		return req
	})
	s.each("renew token", 1, 2, func(int16) kmsg.Request {
		req := kmsg.NewPtrRenewDelegationTokenRequest()
		req.HMAC, req.RenewTimeMillis = []byte("x"), 1000
		return req
	})
	s.each("expire token", 1, 2, func(int16) kmsg.Request {
		req := kmsg.NewPtrExpireDelegationTokenRequest()
		req.HMAC, req.ExpiryPeriodMillis = []byte("x"), 1000
		return req
	})
	s.each("describe tokens", 1, 3, func(int16) kmsg.Request { return kmsg.NewPtrDescribeDelegationTokenRequest() })
}

// quotas asks for quotas and SCRAM credentials.
func quotas(s *script) {
	s.each("describe all", 0, 1, func(int16) kmsg.Request { return kmsg.NewPtrDescribeClientQuotasRequest() })
	s.each("describe a user's", 0, 1, func(int16) kmsg.Request {
		req := kmsg.NewPtrDescribeClientQuotasRequest()
		c := kmsg.NewDescribeClientQuotasRequestComponent()
		c.EntityType, c.MatchType, c.Match = "user", kmsg.QuotasMatchTypeExact, kmsg.StringPtr(s.name("nobody"))
		req.Components = append(req.Components, c)
		return req
	})
	s.each("describe of an unknown kind", 0, 1, func(int16) kmsg.Request {
		req := kmsg.NewPtrDescribeClientQuotasRequest()
		c := kmsg.NewDescribeClientQuotasRequestComponent()
		c.EntityType, c.MatchType, c.Match = "colour", kmsg.QuotasMatchTypeExact, kmsg.StringPtr("red")
		req.Components = append(req.Components, c)
		return req
	})
	s.each("alter", 0, 1, func(int16) kmsg.Request {
		req := kmsg.NewPtrAlterClientQuotasRequest()
		req.ValidateOnly = true
		e := kmsg.NewAlterClientQuotasRequestEntry()
		who := kmsg.NewAlterClientQuotasRequestEntryEntity()
		who.Type, who.Name = "user", kmsg.StringPtr(s.name("somebody"))
		e.Entity = append(e.Entity, who)
		op := kmsg.NewAlterClientQuotasRequestEntryOp()
		op.Key, op.Value = "producer_byte_rate", 1e6
		e.Ops = append(e.Ops, op)
		req.Entries = append(req.Entries, e)
		return req
	})
	s.ask("describe scram of all", 0, kmsg.NewPtrDescribeUserSCRAMCredentialsRequest())
	req := kmsg.NewPtrDescribeUserSCRAMCredentialsRequest()
	u := kmsg.NewDescribeUserSCRAMCredentialsRequestUser()
	u.Name = s.name("nobody")
	twice := u
	twice.Name = s.name("twice")
	req.Users = append(req.Users, u, twice, twice)
	s.ask("describe scram", 0, req)
	alter := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
	del := kmsg.NewAlterUserSCRAMCredentialsRequestDeletion()
	del.Name, del.Mechanism = s.name("nobody"), 1
	alter.Deletions = append(alter.Deletions, del)
	s.ask("delete scram", 0, alter)
	alter = kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
	up := kmsg.NewAlterUserSCRAMCredentialsRequestUpsertion()
	up.Name, up.Mechanism, up.Iterations, up.Salt, up.SaltedPassword = "", 1, 4096, []byte("salt"), []byte("password")
	alter.Upsertions = append(alter.Upsertions, up)
	s.ask("upsert scram of no name", 0, alter)
}
