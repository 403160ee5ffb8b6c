package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The content of record i of a topic: README.md beside this folder.
const (
	poolBytes        = 524288
	firstTimestampMs = 1_700_000_000_000
	// Nothing new for this long ends a run with a failure.
	idleMax = 30 * time.Second
)

type content struct {
	topic, style string
	base         uint32
	pool         []byte
}

func newContent(topic, style string) *content {
	pool := make([]byte, 0, poolBytes)
	state := uint32(0x2545F491)
	for chunk := 0; chunk < poolBytes/64; chunk++ {
		if chunk%2 == 1 {
			pool = append(pool, bytes.Repeat([]byte{byte('a' + chunk%26)}, 64)...)
			continue
		}
		for word := 0; word < 16; word++ {
			state ^= state << 13
			state ^= state >> 17
			state ^= state << 5
			pool = binary.LittleEndian.AppendUint32(pool, state)
		}
	}
	base := uint32(0x811C9DC5)
	for _, b := range []byte(topic) {
		base = (base ^ uint32(b)) * 0x01000193
	}
	return &content{topic, style, base, pool}
}

func mix(x uint32) uint32 {
	x ^= x >> 16
	x *= 0x85EBCA6B
	x ^= x >> 13
	x *= 0xC2B2AE35
	return x ^ x>>16
}

// record gives record i; in kcat's styles its timestamp is zero.
func (c *content) record(i int) *kgo.Record {
	h := mix(c.base + uint32(i)*0x9E3779B1)
	r := &kgo.Record{Topic: c.topic}
	switch k := h & 7; k {
	case 0:
	case 1:
		r.Key = []byte{}
	default:
		r.Key = strconv.AppendUint([]byte("key-"), uint64(h>>3&1023), 10)
	}
	switch v := h >> 3 & 31; v {
	case 0:
	case 1:
		r.Value = []byte{}
	default:
		size := 8 + int(h>>8)%185
		if i%5000 == 4999 {
			size = 100_000 + int(h>>8)%200_000
		} else if i%100 == 99 {
			size = 1024 + int(h>>8)%7168
		}
		start := int(mix(h+1)) % (poolBytes - size)
		r.Value = make([]byte, 0, len(c.topic)+12+size)
		r.Value = append(r.Value, c.topic...)
		r.Value = append(r.Value, '/')
		r.Value = strconv.AppendInt(r.Value, int64(i), 10)
		r.Value = append(r.Value, '/')
		r.Value = append(r.Value, c.pool[start:start+size]...)
	}
	switch c.style {
	case "full", "plain":
		if h>>29 == 0 {
			r.Headers = []kgo.RecordHeader{{Key: "h", Value: []byte(strconv.Itoa(i))}, {Key: "h", Value: []byte("again")}, {Key: "empty", Value: []byte{}}}
			if c.style == "full" {
				r.Headers = append(r.Headers, kgo.RecordHeader{Key: "null"})
			}
		}
		if c.style == "plain" && r.Key == nil && r.Value == nil {
			r.Key = []byte{}
		}
		r.Timestamp = time.UnixMilli(firstTimestampMs + int64(i))
	case "nulls":
		if len(r.Key) == 0 {
			r.Key = nil
		}
		if len(r.Value) == 0 {
			r.Value = nil
		}
	default:
		if r.Key == nil {
			r.Key = []byte{}
		}
		if r.Value == nil {
			r.Value = []byte{}
		}
	}
	return r
}

func sameBytes(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func same(got, expected *kgo.Record) bool {
	if !sameBytes(got.Key, expected.Key) || !sameBytes(got.Value, expected.Value) || len(got.Headers) != len(expected.Headers) {
		return false
	}
	for i, header := range got.Headers {
		if header.Key != expected.Headers[i].Key || !sameBytes(header.Value, expected.Headers[i].Value) {
			return false
		}
	}
	return expected.Timestamp.IsZero() || got.Timestamp.UnixMilli() == expected.Timestamp.UnixMilli()
}

func shown(r *kgo.Record) string {
	value := r.Value
	if len(value) > 80 {
		value = value[:80]
	}
	return fmt.Sprintf("key %q (null: %t) value %q… (%d bytes, null: %t) headers %q at %d", r.Key, r.Key == nil, value, len(r.Value), r.Value == nil, r.Headers, r.Timestamp.UnixMilli())
}

func partitionCount(count, partitions, partition int) int {
	return (count - partition + partitions - 1) / partitions
}

// checker takes the records of all partitions as they come; every one must be the next of its partition, at the next offset.
type checker struct {
	content           *content
	partitions, count int
	next              []int
	seen              int
	lastProgress      time.Time
}

func newChecker(topic string, partitions, count int, style string) *checker {
	return &checker{newContent(topic, style), partitions, count, make([]int, partitions), 0, time.Now()}
}

func (c *checker) take(r *kgo.Record) {
	p := int(r.Partition)
	position := c.next[p]
	if r.Offset != int64(position) {
		fail("%s-%d: offset %d where %d is next", r.Topic, p, r.Offset, position)
	}
	index := p + position*c.partitions
	if index >= c.count {
		fail("%s-%d: more records than were written: offset %d", r.Topic, p, r.Offset)
	}
	if expected := c.content.record(index); !same(r, expected) {
		fail("%s-%d@%d (record %d):\n got      %s\n expected %s", r.Topic, p, r.Offset, index, shown(r), shown(expected))
	}
	c.next[p]++
	c.seen++
	c.lastProgress = time.Now()
}

func (c *checker) checkIdle() {
	if time.Since(c.lastProgress) > idleMax {
		fail("%s: nothing new for %s, at %v, %d of %d records", c.content.topic, idleMax, c.next, c.seen, c.count)
	}
}

func (c *checker) checkEnd(what string, ends []int64) {
	for p, end := range ends {
		if want := partitionCount(c.count, c.partitions, p); end != int64(want) {
			fail("%s-%d: %s is %d, expected %d", c.content.topic, p, what, end, want)
		}
	}
}
