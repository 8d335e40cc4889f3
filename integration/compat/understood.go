package main

import "regexp"

// rule makes an understood difference. why is a sentence of
// docs/compatibility.md; step and field are regular expressions.
func rule(why, step, field string) *understood {
	return &understood{reason: why, step: regexp.MustCompile(step), field: regexp.MustCompile(field)}
}

// The reasons. Each stands word for word in docs/compatibility.md; a test holds
// the two together.
const (
	newer       = "Firn speaks the versions of Kafka 4.4; the running Kafka may be older."
	missing     = "What is not served is not advertised."
	ownFeature  = "firn.version is a feature of Firn's own: how much the metadata's commands may say."
	noTx        = "Transactions are refused with TRANSACTIONAL_ID_AUTHORIZATION_FAILED."
	noQuotas    = "Changing quotas is refused with UNSUPPORTED_VERSION."
	saysWhy     = "Refusals carry a message where Kafka leaves it null."
	minusOne    = "Where Kafka answers UNKNOWN_SERVER_ERROR or nothing at all to a broken request, Firn names the mistake or does what was meant."
	twice       = "A partition named twice in one request is answered twice."
	stricter    = "A client's batch may not claim LogAppendTime or a producer id without an epoch."
	baseOffset  = "The base offset of a client's batch is ignored, not checked."
	logStart    = "Produce tells the log start offset of successful partitions only."
	nullAborted = "The list of aborted transactions is null in an answer that is an error."
	brokersPort = "Followers fetch on the port between brokers alone."
	ownTopic    = "Topics have settings of Firn's own, and of a Kafka newer than the one compared with."
	devDefaults = "The dev profile has defaults of its own: tiered storage on, small segments, little kept on disk."
	synonyms    = "A setting's synonyms name all broker settings that it inherits from."
	ownBroker   = "Broker settings of parts that Firn does not have are not listed, those of its own are."
	staticOnly  = "Fewer broker settings can be changed at run time, and unknown ones are refused."
	brokerCode  = "A refused broker setting is INVALID_REQUEST, min.insync.replicas under ELR too."
	pending     = "With tiered storage on, the earliest pending offset is told and a local retention above the total is refused."
	duplicate   = "A duplicate batch on a CreateTime topic has no log append time; Kafka gives the batch's own time."
	metrics     = "Client metrics are no resource yet."
	elr         = "Kafka keeps min.insync.replicas as a dynamic default of the cluster."
)

const anyErrorMessage = `(^|\.)ErrorMessage$`

var rules = []*understood{
	rule(newer, `^api-versions/`, `^ApiKeys\[(18|42)\]\.MaxVersion$`),
	rule(newer, `^api-versions/`, `Features\[metadata\.version\]`),
	rule(newer, `^api-versions/.* v5$`, ``),
	rule(newer, `^group-errors/delete several v3$`, `^fate$`),
	rule(missing, `^api-versions/`, `^ApiKeys\[\d+\]$`),
	rule(ownFeature, `^api-versions/`, `Features\[firn\.version\]$`),
	rule(missing, `^api-versions/`, `Features\[(eligible\.leader\.replicas|group|kraft|share|streams|transaction)\.version\]$`),
	rule(missing, `^api-versions/`, `^FinalizedFeaturesEpoch$`),
	rule(noTx, `^transactions/`, ``),
	rule(noQuotas, `^quotas/alter`, ``),

	rule(stricter, `^produce-errors/(append time|epoch -1 with a producer)`, ``),
	rule(baseOffset, `^produce-errors/base offset 7`, ``),
	rule(minusOne, `^produce-errors/([a-z0-9]+ garbage|codec [57]|null records)`, ``),
	rule(minusOne, `^fetch/(negative bytes|isolation level 7)`, ``),
	rule(minusOne, `^metadata/by no name and no id`, ``),
	rule(minusOne, `^create-partitions/far too many`, ``),
	rule(minusOne, `^alter-configs/unknown operation`, ``),
	rule(logStart, `^(produce-|idempotent/)`, `\.LogStartOffset$`),
	rule(duplicate, `^idempotent/(first again|second again|duplicate of the fifth last)`, `\.LogAppendTime$`),
	rule(twice, `^(produce-errors|fetch-errors|list-offsets|delete-records)/partition twice`, ``),
	rule(nullAborted, `^fetch-`, `\.AbortedTransactions$`),
	rule(brokersPort, `^fetch-errors/as a stranger's replica`, ``),
	rule(metrics, `^configs/client metrics v`, ``),
	rule(newer, `^configs/group v`, `Configs\[[a-z.]+\]$`),
	rule(saysWhy, `^configs/unknown topic`, anyErrorMessage),
	rule(saysWhy, `^(produce-errors|produce-settings|idempotent|create-partitions|coordinators)/`, anyErrorMessage),

	rule(pending, `^list-offsets/.*timestamp -6 v11$`, ``),
	rule(pending, `^create-topics/config (local over total|remote.storage.enable=true) v7$`, ``),
	rule(ownTopic, `^(create-topics|configs)/`, `Configs\[(durability|errors\.deadletterqueue\.group\.enable|max\.decompressed\.message\.bytes|record\.validation|remote\.copy\.lag\.(bytes|ms)|retention\.tiers)\]$`),
	rule(devDefaults, `^(create-topics|configs)/`, `Configs\[(local\.retention\.bytes|remote\.storage\.enable|segment\.bytes)\]\.(Value|Source)$`),
	rule(elr, `^(create-topics|configs)/`, `\[min\.insync\.replicas(#2)?\](\.Source)?$`),
	rule(synonyms, `^(configs|alter-configs)/`, `\.ConfigSynonyms`),
	rule(ownBroker, `^configs/broker v`, `Configs\[[a-z0-9._]+\](\.(Value|Source|ReadOnly))?$`),
	rule(ownBroker, `^configs/broker defaults`, ``),
	rule(staticOnly, `^alter-configs/(broker|broker default|broker, read-only) v1$`, ``),
	rule(brokerCode, `^alter-configs/broker, min.insync.replicas`, `ErrorCode$`),
}
