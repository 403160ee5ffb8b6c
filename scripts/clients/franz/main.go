// franz-go. Arguments of produce, consume, group and admin: README.md beside this folder; `kill` is what scripts/kill.sh runs, `load` scripts/cluster-replicas.sh,
// `member` what scripts/groups.sh runs.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const timeout = 20 * time.Second

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(1)
}

func check(ok bool, format string, arguments ...any) {
	if !ok {
		fail(format, arguments...)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		fail("%v", err)
	}
	return value
}

func within(limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	context.AfterFunc(ctx, cancel)
	return ctx
}

func pointer(s string) *string { return &s }

func createTopic(bootstrap, topic string, partitions int, configs map[string]*string) *kadm.Client {
	admin := kadm.NewClient(must(kgo.NewClient(kgo.SeedBrokers(strings.Split(bootstrap, ",")...))))
	// -1: as many replicas as the brokers' default.replication.factor says.
	created := must(admin.CreateTopic(within(timeout), int32(partitions), -1, configs, topic))
	check(created.Err == nil, "%v", created.Err)
	waitForLeaders(admin, topic, partitions)
	return admin
}

func waitForLeaders(admin *kadm.Client, topic string, partitions int) kadm.TopicDetail {
	for deadline := time.Now().Add(timeout); ; time.Sleep(50 * time.Millisecond) {
		detail := must(admin.ListTopics(within(timeout), topic))[topic]
		ready := detail.Err == nil && len(detail.Partitions) == partitions
		for _, p := range detail.Partitions {
			ready = ready && p.Err == nil && p.Leader >= 0
		}
		// Kafka may name a leader before that leader has its log; a produce with acks=0 in between is lost without a word.
		if ready {
			listed, err := admin.ListEndOffsets(within(timeout), topic)
			ready = err == nil && listed.Error() == nil
		}
		if ready {
			return detail
		}
		check(time.Now().Before(deadline), "%s: no leaders after %s", topic, timeout)
	}
}

var codecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

func producerOptions(bootstrap, codec, acks string) []kgo.Opt {
	options := []kgo.Opt{
		kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.ProducerBatchCompression(codecs[codec]), kgo.ProducerLinger(5 * time.Millisecond),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(100_000), kgo.MaxBufferedBytes(256 << 20),
	}
	switch acks {
	case "0":
		options = append(options, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	case "1":
		options = append(options, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	}
	return options
}

// produce writes; a pace is in records a second, 0 for as fast as it goes.
func produce(bootstrap, topic string, partitions, count int, codec, acks, style string, pace int) {
	createTopic(bootstrap, topic, partitions, map[string]*string{"retention.ms": pointer("-1")}).Close()
	contents := newContent(topic, style)
	client := must(kgo.NewClient(producerOptions(bootstrap, codec, acks)...))
	// franz-go calls back in the order of a partition's records; the callbacks of one client do not overlap.
	next := make([]int64, partitions)
	delivered := 0
	pauses := newPauses(partitions)
	started := time.Now()
	for i := 0; i < count; i++ {
		if pace > 0 {
			time.Sleep(time.Until(started.Add(time.Duration(i) * time.Second / time.Duration(pace))))
		}
		record := contents.record(i)
		record.Partition = int32(i % partitions)
		client.Produce(context.Background(), record, func(r *kgo.Record, err error) {
			check(err == nil, "%s-%d: %v", topic, r.Partition, err)
			if acks != "0" {
				check(r.Offset == next[r.Partition], "%s-%d: acknowledged at %d where %d is next", topic, r.Partition, r.Offset, next[r.Partition])
			}
			next[r.Partition]++
			delivered++
			pauses.acknowledged(r.Partition)
		})
	}
	if err := client.Flush(within(2 * time.Minute)); err != nil {
		fail("%s: flush: %v", topic, err)
	}
	client.Close()
	check(delivered == count, "%s: %d of %d records were delivered", topic, delivered, count)
	if pace > 0 {
		fmt.Println(pauses)
	}
}

// pauses are the longest times between two acknowledgements.
type pauses struct {
	last, longest   []time.Duration
	began           time.Time
	lastOfAll, most time.Duration
}

func newPauses(partitions int) *pauses {
	return &pauses{last: make([]time.Duration, partitions), longest: make([]time.Duration, partitions), began: time.Now()}
}

func (p *pauses) acknowledged(partition int32) {
	now := time.Since(p.began)
	p.longest[partition] = max(p.longest[partition], now-p.last[partition])
	p.most = max(p.most, now-p.lastOfAll)
	p.last[partition], p.lastOfAll = now, now
}

func (p *pauses) String() string {
	return fmt.Sprintf("longest pause between acknowledgements in ms: of all %d, of a partition %d to %d",
		p.most.Milliseconds(), slices.Min(p.longest).Milliseconds(), slices.Max(p.longest).Milliseconds())
}

func read(client *kgo.Client, checker *checker) {
	for checker.seen < checker.count {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		fetches := client.PollFetches(ctx)
		cancel()
		fetches.EachError(func(topic string, partition int32, err error) {
			check(errors.Is(err, context.DeadlineExceeded), "%s-%d: %v", topic, partition, err)
		})
		fetches.EachRecord(checker.take)
		checker.checkIdle()
	}
}

func ends(admin *kadm.Client, topic string, partitions int) []int64 {
	listed := must(admin.ListEndOffsets(within(timeout), topic))
	offsets := make([]int64, partitions)
	for p := range offsets {
		offset, _ := listed.Lookup(topic, int32(p))
		check(offset.Err == nil, "%v", offset.Err)
		offsets[p] = offset.Offset
	}
	return offsets
}

func consume(bootstrap, topic string, partitions, count int, style string) {
	assigned := map[int32]kgo.Offset{}
	for p := range partitions {
		assigned[int32(p)] = kgo.NewOffset().At(0)
	}
	client := must(kgo.NewClient(kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: assigned}), kgo.FetchMaxWait(100*time.Millisecond)))
	checker := newChecker(topic, partitions, count, style)
	read(client, checker)
	checker.checkEnd("the end", ends(kadm.NewClient(client), topic, partitions))
	client.Close()
}

func group(bootstrap, topic string, partitions, count int, style, name string) {
	client := must(kgo.NewClient(kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.ConsumerGroup(name), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond)))
	checker := newChecker(topic, partitions, count, style)
	read(client, checker)
	if err := client.CommitUncommittedOffsets(within(timeout)); err != nil {
		fail("commit: %v", err)
	}
	admin := kadm.NewClient(client)
	committed := must(admin.FetchOffsets(within(timeout), name))
	offsets := make([]int64, partitions)
	for p := range offsets {
		offset, _ := committed.Lookup(topic, int32(p))
		offsets[p] = offset.At
	}
	checker.checkEnd("what was committed", offsets)
	checker.checkEnd("the end", ends(admin, topic, partitions))
	client.Close()
}

func main() {
	arguments := os.Args[1:]
	if len(arguments) == 0 {
		fail("produce, consume, group, admin, member, kill, load")
	}
	number := func(i int) int { return must(strconv.Atoi(arguments[i])) }
	optional := func(i, otherwise int) int {
		if len(arguments) > i {
			return number(i)
		}
		return otherwise
	}
	switch {
	case arguments[0] == "produce" && (len(arguments) == 8 || len(arguments) == 9):
		produce(arguments[1], arguments[2], number(3), number(4), arguments[5], arguments[6], arguments[7], optional(8, 0))
	case arguments[0] == "consume" && len(arguments) == 6:
		consume(arguments[1], arguments[2], number(3), number(4), arguments[5])
	case arguments[0] == "group" && len(arguments) == 7:
		group(arguments[1], arguments[2], number(3), number(4), arguments[5], arguments[6])
	case arguments[0] == "admin" && (len(arguments) == 3 || len(arguments) == 4):
		admin(arguments[1], arguments[2], optional(3, 1))
	case arguments[0] == "member" && (len(arguments) == 6 || len(arguments) == 7):
		check(member(arguments[1:]) == nil, "member: wrong arguments: %v", arguments)
	case arguments[0] == "kill":
		kill(arguments[1:])
	case arguments[0] == "load":
		load(arguments[1:])
	default:
		fail("wrong arguments: %v", arguments)
	}
}

func admin(bootstrap, topic string, nodes int) {
	client := createTopic(bootstrap, topic, 2, map[string]*string{"retention.ms": pointer("-1"), "max.message.bytes": pointer("2000000")})
	again := client
	refused := func(what string, err, expected error) {
		check(errors.Is(err, expected), "%s: %v, expected %v", what, err, expected)
	}
	created, _ := again.CreateTopic(within(timeout), 2, 1, nil, topic)
	refused("a topic created twice", created.Err, kerr.TopicAlreadyExists)

	value := func(name string) string {
		described := must(client.DescribeTopicConfigs(within(timeout), topic))
		check(described[0].Err == nil, "%v", described[0].Err)
		for _, config := range described[0].Configs {
			if config.Key == name {
				return config.MaybeValue()
			}
		}
		fail("%s is not among the %d configs of the topic", name, len(described[0].Configs))
		return ""
	}
	check(value("retention.ms") == "-1" && value("max.message.bytes") == "2000000" && value("cleanup.policy") == "delete", "created with configs that are not described")

	altered := must(client.AlterTopicConfigs(within(timeout), []kadm.AlterConfig{
		{Op: kadm.SetConfig, Name: "segment.bytes", Value: pointer("2097152")}, {Op: kadm.DeleteConfig, Name: "max.message.bytes"},
	}, topic))
	check(altered[0].Err == nil, "%v", altered[0].Err)
	check(value("segment.bytes") == "2097152" && value("max.message.bytes") != "2000000", "the change is not described")
	altered = must(client.AlterTopicConfigsState(within(timeout), []kadm.AlterConfig{{Name: "retention.ms", Value: pointer("-1")}}, topic))
	check(altered[0].Err == nil, "%v", altered[0].Err)
	check(value("segment.bytes") != "2097152" && value("retention.ms") == "-1", "the whole state was not replaced")
	altered = must(client.AlterTopicConfigs(within(timeout), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "segment.bites", Value: pointer("1")}}, topic))
	refused("an unknown config", altered[0].Err, kerr.InvalidConfig)

	cluster := must(client.BrokerMetadata(within(timeout)))
	check(cluster.Cluster != "" && len(cluster.Brokers) == nodes, "cluster: %+v", cluster)
	brokers := must(client.DescribeBrokerConfigs(within(timeout), cluster.Brokers[0].NodeID))
	check(brokers[0].Err == nil && len(brokers[0].Configs) > 10, "the broker's configs: %+v", brokers)

	grown := must(client.UpdatePartitions(within(timeout), 4, topic))
	check(grown[topic].Err == nil, "%v", grown[topic].Err)
	detail := waitForLeaders(client, topic, 4)
	check(detail.ID != kadm.TopicID{}, "no topic id")
	shrunk := must(client.UpdatePartitions(within(timeout), 3, topic))
	refused("fewer partitions", shrunk[topic].Err, kerr.InvalidPartitions)

	producer := must(kgo.NewClient(producerOptions(bootstrap, "none", "all")...))
	for _, stamp := range []int64{100, 200, 300, 400, 5000, 600, 700, 800, 900, 1000} {
		record := &kgo.Record{Topic: topic, Partition: 3, Value: []byte("v"), Timestamp: time.UnixMilli(stamp)}
		must(producer.ProduceSync(within(timeout), record).First())
	}
	producer.Close()
	at := func(listed kadm.ListedOffsets, err error) int64 {
		offset, ok := must(listed, err).Lookup(topic, 3)
		check(ok && offset.Err == nil, "%+v", offset)
		return offset.Offset
	}
	after := func(ms int64) int64 { return at(client.ListOffsetsAfterMilli(within(timeout), ms, topic)) }
	// kadm gives the end offset for a time after the last record.
	found := []int64{
		at(client.ListStartOffsets(within(timeout), topic)), at(client.ListEndOffsets(within(timeout), topic)),
		at(client.ListMaxTimestampOffsets(within(timeout), topic)), after(300), after(301), after(500), after(6000),
	}
	check(fmt.Sprint(found) == "[0 10 4 2 3 4 10]", "offsets %v", found)

	var cut kadm.Offsets
	cut.AddOffset(topic, 3, 4, -1)
	deleted, err := client.DeleteRecords(within(timeout), cut)
	check(err == nil && deleted[topic][3].Err == nil && deleted[topic][3].LowWatermark == 4, "deleted: %+v %v", deleted, err)
	check(at(client.ListStartOffsets(within(timeout), topic)) == 4, "the first offset after the deletion")
	cut = nil
	cut.AddOffset(topic, 3, 11, -1)
	deleted, _ = client.DeleteRecords(within(timeout), cut)
	refused("records past the end deleted", deleted[topic][3].Err, kerr.OffsetOutOfRange)

	reader := must(kgo.NewClient(kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {3: kgo.NewOffset().AtStart()}})))
	first := reader.PollRecords(within(timeout), 1).Records()
	check(len(first) == 1 && first[0].Offset == 4, "the first record after the deletion: %v", first)
	reader.Close()

	epochs := must(client.OffsetForLeaderEpoch(within(timeout), func() kadm.OffsetForLeaderEpochRequest {
		var request kadm.OffsetForLeaderEpochRequest
		request.Add(topic, 3, detail.Partitions[3].LeaderEpoch)
		return request
	}()))
	check(epochs[topic][3].Err == nil && epochs[topic][3].EndOffset == 10, "the end of the leader epoch: %+v", epochs[topic][3])

	gone := must(client.DeleteTopics(within(timeout), topic))
	check(gone[topic].Err == nil, "%v", gone[topic].Err)
	for deadline := time.Now().Add(timeout); ; time.Sleep(100 * time.Millisecond) {
		if !must(client.ListTopics(within(timeout))).Has(topic) {
			break
		}
		check(time.Now().Before(deadline), "the topic is still listed")
	}
	gone, _ = client.DeleteTopics(within(timeout), topic)
	refused("a topic deleted twice", gone[topic].Err, kerr.UnknownTopicOrPartition)
	client.Close()
}
