package api

import (
	"context"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sys/unix"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/record"
)

// describeLogDirs tells how large each replica on this broker is (KIP-113,
// KIP-827). There is one directory.
func (s *Server) describeLogDirs(r *wire.Request, req *kmsg.DescribeLogDirsRequest) {
	s.slow(30*time.Second, func(context.Context) {
		resp := kmsg.NewPtrDescribeLogDirsResponse()
		dir := kmsg.NewDescribeLogDirsResponseDir()
		dir.Dir = s.Partitions.Dir().Path()
		if abs, err := filepath.Abs(dir.Dir); err == nil {
			dir.Dir = abs
		}
		dir.TotalBytes, dir.UsableBytes = diskSpace(dir.Dir)
		dir.Topics = s.replicaSizes(req)
		resp.Dirs = append(resp.Dirs, dir)
		r.Reply(resp)
	})
}

// diskSpace is the size of a path's file system and what is free for us, −1
// where the system does not say.
func diskSpace(path string) (total, usable int64) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return -1, -1
	}
	block := int64(st.Bsize) //nolint:unconvert // of other types on other systems
	return int64(st.Blocks) * block, int64(st.Bavail) * block
}

func (s *Server) replicaSizes(req *kmsg.DescribeLogDirsRequest) []kmsg.DescribeLogDirsResponseDirTopic {
	img := s.Meta.Image()
	asked := make(map[string]map[int32]bool)
	for i := range req.Topics {
		m := make(map[int32]bool)
		for _, p := range req.Topics[i].Partitions {
			m[p] = true
		}
		asked[req.Topics[i].Topic] = m
	}
	topics := []kmsg.DescribeLogDirsResponseDirTopic{}
	for t := range img.Topics() {
		want, named := asked[t.Name]
		if req.Topics != nil && !named {
			continue
		}
		out := kmsg.NewDescribeLogDirsResponseDirTopic()
		out.Topic = t.Name
		for n := range t.Partitions {
			p := s.Partitions.Get(record.TopicPartition{Topic: t.ID, Partition: n})
			if p == nil || (named && !want[n]) {
				continue
			}
			out.Partitions = append(out.Partitions, replicaSize(p))
		}
		if len(out.Partitions) > 0 {
			topics = append(topics, out)
		}
	}
	return topics
}

func replicaSize(p *partition.Partition) kmsg.DescribeLogDirsResponseDirTopicPartition {
	k := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
	st := p.State()
	k.Partition, k.Size = p.TP().Partition, p.Log().Size()
	k.OffsetLag = max(int64(st.HighWatermark-st.LogEnd), 0)
	return k
}

// alterReplicaLogDirs moves replicas between the directories of this broker
// (KIP-113). There is one: a replica is there already, and there is no other.
func (s *Server) alterReplicaLogDirs(r *wire.Request, req *kmsg.AlterReplicaLogDirsRequest) {
	resp := kmsg.NewPtrAlterReplicaLogDirsResponse()
	img := s.Meta.Image()
	own := s.Partitions.Dir().Path()
	if abs, err := filepath.Abs(own); err == nil {
		own = abs
	}
	at := make(map[string]int)
	for i := range req.Dirs {
		for j := range req.Dirs[i].Topics {
			t := &req.Dirs[i].Topics[j]
			if _, ok := at[t.Topic]; !ok {
				at[t.Topic] = len(resp.Topics)
				answer := kmsg.NewAlterReplicaLogDirsResponseTopic()
				answer.Topic = t.Topic
				resp.Topics = append(resp.Topics, answer)
			}
			for _, n := range t.Partitions {
				k := kmsg.NewAlterReplicaLogDirsResponseTopicPartition()
				k.Partition = n
				topic := img.TopicByName(t.Topic)
				switch {
				case req.Dirs[i].Dir != own:
					k.ErrorCode = kerr.LogDirNotFound.Code
				case topic == nil || s.Partitions.Get(record.TopicPartition{Topic: topic.ID, Partition: n}) == nil:
					k.ErrorCode = kerr.ReplicaNotAvailable.Code
				}
				answer := &resp.Topics[at[t.Topic]]
				answer.Partitions = append(answer.Partitions, k)
			}
		}
	}
	r.Reply(resp)
}
