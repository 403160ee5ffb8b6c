package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Members of a consumer group that say what happens to them, in the lines that group_check.py reads.
//
//	franz member BOOTSTRAP GROUP TOPIC MEMBERS PROTOCOL [INSTANCE]
//
// PROTOCOL: eager, cooperative, consumer (KIP-848, which this client tries only when it is asked to). SIGTERM: commit, leave
// and end.
func member(args []string) error {
	bootstrap, group, topic, protocol := args[0], args[1], args[2], args[4]
	members, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	var wait sync.WaitGroup
	for number := range members {
		name, instance := fmt.Sprintf("franz-%s-%d-%d", protocol, os.Getpid(), number), ""
		if len(args) > 5 {
			instance = fmt.Sprintf("%s-%d", args[5], number)
			name = instance
		}
		wait.Add(1)
		go func() {
			defer wait.Done()
			if err := groupMember(stop, bootstrap, group, topic, protocol, name, instance); err != nil {
				fmt.Fprintln(os.Stderr, name, err)
			}
		}()
	}
	wait.Wait()
	return nil
}

var sayLock sync.Mutex

func say(event, name string, partition int32, first, last int64) {
	sayLock.Lock()
	defer sayLock.Unlock()
	fmt.Printf("%s %d %s %d %d %d\n", event, time.Now().UnixMicro(), name, partition, first, last)
}

func groupMember(stop context.Context, bootstrap, group, topic, protocol, name, instance string) error {
	ctx := context.Background()
	if protocol == "consumer" {
		ctx = context.WithValue(ctx, "opt_in_kafka_next_gen_balancer_beta", true)
	}
	positions := map[int32]int64{}
	commit := func(client *kgo.Client) {
		if len(positions) == 0 {
			return
		}
		offsets := map[string]map[int32]kgo.EpochOffset{topic: {}}
		for partition, position := range positions {
			offsets[topic][partition] = kgo.EpochOffset{Epoch: -1, Offset: position}
		}
		timeout, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		client.CommitOffsetsSync(timeout, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, response *kmsg.OffsetCommitResponse, err error) {
			if err != nil {
				return
			}
			for _, topic := range response.Topics {
				for _, part := range topic.Partitions {
					if part.ErrorCode == 0 {
						say("commit", name, part.Partition, positions[part.Partition], -1)
					}
				}
			}
		})
	}
	forget := func(event string, parts map[string][]int32) {
		for _, partition := range parts[topic] {
			delete(positions, partition)
			say(event, name, partition, -1, -1)
		}
	}
	options := []kgo.Opt{
		kgo.WithContext(ctx), kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.ClientID(name), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.SessionTimeout(6 * time.Second),
		kgo.HeartbeatInterval(500 * time.Millisecond), kgo.BlockRebalanceOnPoll(), kgo.FetchMaxWait(200 * time.Millisecond),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, parts map[string][]int32) {
			for _, partition := range parts[topic] {
				say("assign", name, partition, -1, -1)
			}
		}),
		kgo.OnPartitionsRevoked(func(_ context.Context, client *kgo.Client, parts map[string][]int32) {
			commit(client)
			forget("revoke", parts)
		}),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, parts map[string][]int32) { forget("lost", parts) }),
	}
	switch protocol {
	case "eager":
		options = append(options, kgo.Balancers(kgo.RangeBalancer()))
	case "cooperative", "consumer":
		options = append(options, kgo.Balancers(kgo.CooperativeStickyBalancer()))
	default:
		return fmt.Errorf("no protocol %q", protocol)
	}
	if instance != "" {
		options = append(options, kgo.InstanceID(instance))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return err
	}
	for stop.Err() == nil {
		poll, cancel := context.WithTimeout(stop, 300*time.Millisecond)
		fetches := client.PollRecords(poll, 500)
		cancel()
		fetches.EachPartition(func(part kgo.FetchTopicPartition) {
			if len(part.Records) == 0 || !strings.EqualFold(part.Topic, topic) {
				return
			}
			first, last := part.Records[0].Offset, part.Records[len(part.Records)-1].Offset
			say("read", name, part.Partition, first, last)
			positions[part.Partition] = last + 1
		})
		commit(client)
		client.AllowRebalance()
	}
	client.CloseAllowingRebalance()
	return nil
}
