package soak

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func (s *soak) named(name string) *topic {
	for _, t := range s.topics {
		if t.name == name {
			return t
		}
	}
	panic(name)
}

// admin changes topics under the load.
func (s *soak) admin() {
	s.run(s.cuts)
	s.run(s.alterations)
	for n := range 3 {
		s.run(func() { s.churn(n) })
	}
}

// cuts deletes records and adds partitions.
func (s *soak) cuts() {
	r := s.newReader(700)
	defer r.close()
	adm := s.adm()
	defer adm.Close()
	t := s.named("cut")
	for s.pause(time.Duration(100+r.random.IntN(1500)) * time.Millisecond) {
		j := t.part(r.random.Int32N(t.count()))
		start, ok := r.start(j)
		end, ok2 := r.end(j)
		if !ok || !ok2 {
			return
		}
		to := start + r.random.Int64N((end-start)/2+1)
		if r.random.IntN(10) == 0 {
			to = -1 // all
		}
		os := kadm.Offsets{}
		os.Add(kadm.Offset{Topic: t.name, Partition: j.partition, At: to})
		resp, err := adm.DeleteRecords(s.ctx, os)
		if err == nil {
			err = resp.Error()
		}
		if err != nil {
			s.unexpected("DeleteRecords", err)
		} else {
			got, _ := resp.Lookup(t.name, j.partition)
			if got.LowWatermark < to || to < 0 && got.LowWatermark < end {
				s.fail("%v: records were deleted up to %d, asked was %d (end %d)", j, got.LowWatermark, to, end)
			}
			j.raise(got.LowWatermark, 0)
			s.count("DeleteRecords")
		}
		if n := t.count(); n < 6 && r.random.IntN(15) == 0 {
			resp, err := adm.UpdatePartitions(s.ctx, int(n+1), t.name)
			if err == nil {
				err = resp.Error()
			}
			if err != nil && !errors.Is(err, kerr.InvalidPartitions) { // a retry of one that was done
				s.unexpected("CreatePartitions", err)
				continue
			}
			t.grow(n + 1)
			s.count("CreatePartitions")
		}
	}
}

// alterations changes settings to and fro, and asks for what is described.
func (s *soak) alterations() {
	random := s.random(710)
	adm := s.adm()
	defer adm.Close()
	changes := map[string][][]string{
		"toggle": {{"remote.storage.enable", "false"}, {"remote.storage.enable", "true"}, {"segment.ms", "700"}, {"local.retention.ms", "100"}, {"remote.log.copy.disable", "true"}, {"remote.log.copy.disable", "false"}},
		"flip":   {{"cleanup.policy", "delete"}, {"cleanup.policy", "compact"}, {"cleanup.policy", "compact,delete"}, {"remote.storage.enable", "true"}, {"remote.storage.enable", "false"}, {"delete.retention.ms", "4000"}},
		"small":  {{"retention.bytes", "4194304"}, {"retention.bytes", "9437184"}, {"durability", "fsync"}, {"durability", "replicated"}},
		"short":  {{"retention.ms", "8000"}, {"retention.ms", "20000"}, {"local.retention.ms", "10"}},
		"cached": {{"compression.type", "gzip"}, {"compression.type", "producer"}, {"segment.bytes", "2097152"}, {"segment.bytes", "1048576"}},
	}
	names := slices.Sorted(maps.Keys(changes))
	for s.pause(time.Duration(200+random.IntN(1200)) * time.Millisecond) {
		name := names[random.IntN(len(names))]
		of := changes[name]
		set := of[random.IntN(len(of))]
		resp, err := adm.AlterTopicConfigs(s.ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: set[0], Value: &set[1]}}, name)
		if err == nil {
			for _, x := range resp {
				err = errors.Join(err, x.Err)
			}
		}
		s.count("AlterConfigs")
		s.unexpected(fmt.Sprintf("alter %s %v", name, set), err)
		switch random.IntN(4) {
		case 0:
			_, err = adm.DescribeAllLogDirs(s.ctx, nil)
		case 1:
			_, err = adm.DescribeTopicConfigs(s.ctx, names...)
		case 2:
			_, err = adm.ListTopicsWithInternal(s.ctx)
		case 3:
			_, err = adm.ListGroups(s.ctx)
		}
		s.unexpected("describe", err)
	}
}

// churn makes and deletes topics of one name, with records and readers.
func (s *soak) churn(n int) {
	random := s.random(720 + uint64(n))
	adm := s.adm()
	defer adm.Close()
	name := fmt.Sprintf("churn-%d", n)
	// A producer that knows nothing of incarnations.
	zombie := s.client(kgo.DefaultProduceTopic(name), kgo.RecordRetries(3), kgo.MaxBufferedRecords(100), kgo.UnknownTopicRetries(1), kgo.RecordDeliveryTimeout(2*time.Second))
	defer zombie.Close()
	s.run(func() {
		for s.pause(5 * time.Millisecond) {
			zombie.TryProduce(s.ctx, kgo.KeySliceRecord([]byte("zombie"), []byte(name)), nil)
		}
	})
	for s.ctx.Err() == nil {
		k := kind{parts: 1 + random.Int32N(3), settings: []string{"segment.bytes", "1048576", "segment.ms", "500"}}
		if random.IntN(2) == 0 {
			k.settings = append(k.settings, "remote.storage.enable", "true", "local.retention.ms", "10")
		} else {
			k.settings = append(k.settings, "cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0", "remote.storage.enable", "false")
			k.keys, k.compacted = 50, true
		}
		t := s.newTopic(name, k)
		resp, err := adm.CreateTopics(s.ctx, k.parts, 1, configs(k.settings), name)
		if err == nil {
			err = resp.Error()
		}
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) { // a retry of one that was done
			s.unexpected("CreateTopics", err)
			s.pause(50 * time.Millisecond)
			continue
		}
		s.count("topics made")
		s.live(t, random.Uint64())
		for s.pause(0) { // until it is known to be gone
			del, err := adm.DeleteTopics(s.ctx, name)
			if err == nil {
				err = del.Error()
			}
			if err == nil || errors.Is(err, kerr.UnknownTopicOrPartition) {
				break
			}
			s.unexpected("DeleteTopics", err)
			s.pause(50 * time.Millisecond)
		}
	}
}

// live fills one incarnation of a topic and reads some of it back.
func (s *soak) live(t *topic, stream uint64) {
	random := s.random(stream)
	ctx, cancel := context.WithTimeout(s.ctx, time.Duration(500+random.IntN(3000))*time.Millisecond)
	defer cancel()
	c := s.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.UnknownTopicRetries(-1), kgo.ProducerLinger(time.Millisecond), kgo.MaxBufferedRecords(500),
		kgo.ConsumeTopics(t.name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer c.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			f := c.PollFetches(ctx)
			f.EachRecord(func(r *kgo.Record) {
				if string(r.Key) == "zombie" {
					return
				}
				j := t.part(r.Partition)
				id, err := j.identify(r.Key, r.Value, r.Headers, r.Timestamp.UnixMilli())
				if err == nil {
					err = j.read(id, r.Offset, r.Timestamp.UnixMilli())
				}
				if err != nil {
					s.fail("%v (offset %d)", err, r.Offset)
				}
				s.count("records read of topics made anew")
			})
		}
	}()
	for seq := int64(0); ctx.Err() == nil; seq++ {
		p := random.Int32N(t.kind.parts)
		r, id := t.make(random, p, 9, seq)
		c.Produce(ctx, r, func(r *kgo.Record, err error) {
			if err == nil {
				if err := t.part(p).ack(id, r.Offset); err != nil {
					s.fail("%v", err)
				}
			} else if ctx.Err() == nil {
				s.unexpected("produce to a topic made anew", err)
			}
		})
		if seq%100 == 0 {
			s.pause(100 * time.Millisecond)
		}
	}
	<-done
}
