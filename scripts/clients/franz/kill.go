package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Idempotent producers write without pause while the broker is killed again and again. Each record says who wrote it, for
// which partition and as which one; what was acknowledged is remembered with its offset. A verifier then reads everything.

const killTopic = "killed"
const fillTopic = "filled"

// What a run without progress is given up after.
const killPatience = 60 * time.Second

// journalOfProducer remembers, for each partition, the offset that each record was acknowledged at.
type journalOfProducer struct {
	sync.Mutex
	offsets [][]int64
}

const (
	notAcknowledged = -2
	// Acknowledged, but the answer held no offset (a duplicate too old for the broker to know where it is).
	offsetUnknown = -1
)

type killRun struct {
	command                        []string
	data, bootstrap, ready         string
	partitions, producers, bytes   int
	readyMax                       time.Duration
	shards                         []string
	random                         *rand.Rand
	process                        *exec.Cmd
	exited                         chan error
	output                         *os.File
	said                           string // the end of the broker's last ready line: how long it recovered
	starts                         int
	readyTimes                     []time.Duration
	journals                       []*journalOfProducer
	clients                        []*kgo.Client
	acknowledged, unknown, written atomic.Int64
	load                           sync.RWMutex // held for reading by each produce; taken for writing to pause the load
	stop                           atomic.Bool
	pool                           []byte
	pace                           int // records a second of a producer; 0: as fast as it goes
	filled                         []int64
	verifiedTo                     []int64
}

func (k *killRun) start() {
	shards := k.shards[k.starts%len(k.shards)]
	k.starts++
	replace := strings.NewReplacer("{data}", k.data, "{port}", k.bootstrap[strings.LastIndex(k.bootstrap, ":")+1:], "{shards}", shards)
	arguments := make([]string, len(k.command))
	for i, argument := range k.command {
		arguments[i] = replace.Replace(argument)
	}
	k.process = exec.Command(arguments[0], arguments[1:]...)
	k.process.Stderr = k.output
	k.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout := must(k.process.StdoutPipe())
	started := time.Now()
	check(k.process.Start() == nil, "cannot run %v", arguments)
	ready := make(chan time.Duration, 1)
	readyLine := ""
	process, exited := k.process, make(chan error, 1)
	k.exited = exited
	go func() {
		lines := bufio.NewReader(stdout)
		for {
			line, err := lines.ReadString('\n')
			io.WriteString(k.output, line)
			if strings.Contains(line, k.ready) && readyLine == "" {
				readyLine = strings.TrimSpace(line)
				ready <- time.Since(started)
			}
			if err != nil {
				break
			}
		}
		exited <- process.Wait()
	}()
	select {
	case took := <-ready:
		k.readyTimes = append(k.readyTimes, took)
		k.said = readyLine[strings.LastIndex(readyLine, ",")+1:]
		if k.readyMax > 0 && took > k.readyMax && k.starts > 1 {
			k.give("start %d: ready after %s, the limit is %s", k.starts, took.Round(time.Millisecond), k.readyMax)
		}
	case err := <-exited:
		exited <- err
		k.give("start %d: the broker ended before it was ready: %v", k.starts, err)
	case <-time.After(killPatience):
		k.give("start %d: not ready after %s", k.starts, killPatience)
	}
}

// give gives up: kills the broker, shows the end of its output, and fails.
func (k *killRun) give(format string, arguments ...any) {
	k.stop.Store(true)
	if k.process != nil && k.process.Process != nil {
		k.process.Process.Kill()
	}
	if k.output == nil {
		fail(format, arguments...)
	}
	k.output.Seek(-min(4000, must(k.output.Seek(0, io.SeekEnd))), io.SeekEnd)
	tail, _ := io.ReadAll(k.output)
	fmt.Fprintf(os.Stderr, "the end of the broker's output:\n%s\n", tail)
	fail(format, arguments...)
}

func (k *killRun) kill() {
	select {
	case err := <-k.exited:
		k.give("the broker ended by itself: %v", err)
	default:
	}
	k.process.Process.Signal(syscall.SIGKILL)
	<-k.exited
}

// value of a record: who, where, which one, and bytes that follow from these.
func (k *killRun) value(producer, partition int, sequence int64) []byte {
	mixed := mix(uint32(producer)<<24 ^ uint32(partition)<<16 ^ uint32(sequence))
	size := k.bytes/2 + int(mixed)%(k.bytes/2)
	start := int(mix(mixed)) % (poolBytes - size)
	value := make([]byte, 0, 16+size)
	value = binary.BigEndian.AppendUint32(value, uint32(producer))
	value = binary.BigEndian.AppendUint32(value, uint32(partition))
	value = binary.BigEndian.AppendUint64(value, uint64(sequence))
	return append(value, k.pool[start:start+size]...)
}

func (k *killRun) killClient(extra ...kgo.Opt) *kgo.Client {
	return must(kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(strings.Split(k.bootstrap, ",")...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(time.Millisecond),
		kgo.MaxBufferedRecords(5000),
		kgo.MetadataMinAge(50 * time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		// A broker that has forgotten a producer must not pass: the client would quietly begin anew.
		kgo.StopProducerOnDataLossDetected(),
	}, extra...)...))
}

// Starts the producers, each with a journal of its own; the group is done when all have stopped.
func (k *killRun) startProducers() *sync.WaitGroup {
	var producing sync.WaitGroup
	for producer := range k.producers {
		k.journals = append(k.journals, &journalOfProducer{offsets: make([][]int64, k.partitions)})
		k.clients = append(k.clients, k.killClient())
		producing.Add(1)
		go func() { defer producing.Done(); k.produceForever(producer) }()
	}
	return &producing
}

func (k *killRun) produceForever(producer int) {
	client, journal := k.clients[producer], k.journals[producer]
	started := time.Now()
	for n := 0; !k.stop.Load(); n++ {
		if k.pace > 0 {
			time.Sleep(time.Until(started.Add(time.Duration(n) * time.Second / time.Duration(k.pace))))
		}
		partition := (n / 16) % k.partitions
		k.load.RLock()
		journal.Lock()
		sequence := int64(len(journal.offsets[partition]))
		journal.offsets[partition] = append(journal.offsets[partition], notAcknowledged)
		journal.Unlock()
		record := &kgo.Record{Topic: killTopic, Partition: int32(partition), Value: k.value(producer, partition, sequence)}
		client.Produce(context.Background(), record, func(r *kgo.Record, err error) {
			if err != nil {
				if !k.stop.Load() {
					k.give("producer %d, partition %d, record %d: %v", producer, partition, sequence, err)
				}
				return
			}
			offset := r.Offset
			if offset < 0 {
				offset = offsetUnknown
				k.unknown.Add(1)
			}
			journal.Lock()
			journal.offsets[partition][sequence] = offset
			journal.Unlock()
			k.acknowledged.Add(1)
		})
		k.written.Add(1)
		k.load.RUnlock()
	}
}

// progress waits until so many more records have been acknowledged.
func (k *killRun) progress(records int64) {
	goal := k.acknowledged.Load() + records
	for deadline := time.Now().Add(killPatience); k.acknowledged.Load() < goal; time.Sleep(2 * time.Millisecond) {
		select {
		case err := <-k.exited:
			k.exited <- err
			k.give("the broker ended by itself: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			k.give("start %d: only %d of %d records acknowledged in %s", k.starts, records-(goal-k.acknowledged.Load()), records, killPatience)
		}
	}
}

// bite changes what the verifier sees of one partition at one offset; the verifier must notice.
type bite struct {
	kind      string
	partition int32
	offset    int64
}

// verify reads partitions from `from` to their ends. With the load paused and everything flushed it returns the first breach.
func (k *killRun) verify(from []int64, bite *bite) (records int64, ends []int64, breach error) {
	client := k.killClient()
	ends = ends64(kadm.NewClient(client), killTopic, k.partitions)
	client.Close()
	assigned := map[int32]kgo.Offset{}
	left := int64(0)
	for p, end := range ends {
		if from[p] < end {
			assigned[int32(p)] = kgo.NewOffset().At(from[p])
			left += end - from[p]
		}
	}
	// Where each producer stands in each partition: the last record seen.
	last := make([][]int64, k.partitions)
	counts := make([]int64, k.partitions)
	for p := range last {
		last[p] = make([]int64, k.producers)
		for producer, journal := range k.journals {
			last[p][producer] = -1
			// What lies before `from` has been verified: the last of it is the highest acknowledged below.
			for sequence, offset := range journal.offsets[p] {
				if offset >= 0 && offset < from[p] {
					last[p][producer] = int64(sequence)
				}
			}
		}
	}
	next := append([]int64(nil), from...)
	see := func(r *kgo.Record) error {
		p := int(r.Partition)
		at := fmt.Sprintf("%s-%d@%d", killTopic, p, r.Offset)
		if r.Offset != next[p] {
			return fmt.Errorf("%s: offset %d is next", at, next[p])
		}
		next[p]++
		if len(r.Value) < 16 {
			return fmt.Errorf("%s: %d bytes", at, len(r.Value))
		}
		producer, partition := int(binary.BigEndian.Uint32(r.Value)), int(binary.BigEndian.Uint32(r.Value[4:]))
		sequence := int64(binary.BigEndian.Uint64(r.Value[8:]))
		if producer >= k.producers || partition != p || sequence < 0 || sequence >= int64(len(k.journals[producer].offsets[p])) {
			return fmt.Errorf("%s: says producer %d, partition %d, record %d", at, producer, partition, sequence)
		}
		if !bytes.Equal(r.Value, k.value(producer, partition, sequence)) {
			return fmt.Errorf("%s: the content of producer %d's record %d has changed", at, producer, sequence)
		}
		before := last[p][producer]
		if sequence <= before {
			return fmt.Errorf("%s: record %d of producer %d after its record %d: a duplicate or out of order", at, sequence, producer, before)
		}
		for skipped := before + 1; skipped < sequence; skipped++ {
			if offset := k.journals[producer].offsets[p][skipped]; offset != notAcknowledged {
				return fmt.Errorf("%s: record %d of producer %d was acknowledged at %d and is not there", at, skipped, producer, offset)
			}
		}
		if offset := k.journals[producer].offsets[p][sequence]; offset >= 0 && offset != r.Offset {
			return fmt.Errorf("%s: record %d of producer %d was acknowledged at %d", at, sequence, producer, offset)
		}
		last[p][producer] = sequence
		counts[p]++
		return nil
	}
	var held *kgo.Record
	view := func(r *kgo.Record) error {
		if bite == nil || r.Partition != bite.partition {
			return see(r)
		}
		if held != nil && r.Offset == bite.offset+1 {
			first, second := *r, *held
			first.Offset, second.Offset = bite.offset, bite.offset+1
			if err := see(&first); err != nil {
				return err
			}
			return see(&second)
		}
		if r.Offset < bite.offset || (r.Offset > bite.offset && (bite.kind == "content" || bite.kind == "order")) {
			return see(r)
		}
		moved := *r
		switch bite.kind {
		case "loss": // the record is gone, the later ones have taken its place
			if r.Offset == bite.offset {
				return nil
			}
			moved.Offset--
		case "duplicate": // the record comes twice
			if r.Offset == bite.offset {
				if err := see(r); err != nil {
					return err
				}
			}
			moved.Offset++
		case "content":
			moved.Value = append([]byte(nil), r.Value...)
			moved.Value[len(moved.Value)-1] ^= 1
		case "order":
			held = r
			return nil
		}
		return see(&moved)
	}
	if left > 0 {
		reader := k.killClient(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{killTopic: assigned}), kgo.FetchMaxWait(100*time.Millisecond))
		defer reader.Close()
		for lastProgress := time.Now(); records < left; {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			fetches := reader.PollFetches(ctx)
			cancel()
			fetches.EachError(func(_ string, p int32, err error) {
				if !errors.Is(err, context.DeadlineExceeded) && breach == nil {
					breach = fmt.Errorf("%s-%d: %w", killTopic, p, err)
				}
			})
			fetches.EachRecord(func(r *kgo.Record) {
				records++
				lastProgress = time.Now()
				if breach == nil {
					breach = view(r)
				}
			})
			if breach != nil {
				return records, ends, breach
			}
			if time.Since(lastProgress) > killPatience {
				return records, ends, fmt.Errorf("nothing new for %s, at %v of %v", killPatience, next, ends)
			}
		}
	}
	for p := range k.partitions {
		for producer, journal := range k.journals {
			for sequence := last[p][producer] + 1; sequence < int64(len(journal.offsets[p])); sequence++ {
				if offset := journal.offsets[p][sequence]; offset != notAcknowledged {
					return records, ends, fmt.Errorf("%s-%d: record %d of producer %d was acknowledged at %d and is not there: the end is %d", killTopic, p, sequence, producer, offset, ends[p])
				}
			}
		}
	}
	return records, ends, nil
}

func ends64(admin *kadm.Client, topic string, partitions int) []int64 {
	for deadline := time.Now().Add(killPatience); ; time.Sleep(50 * time.Millisecond) {
		listed, err := admin.ListEndOffsets(within(timeout), topic)
		if err == nil && listed.Error() == nil && len(listed[topic]) == partitions {
			offsets := make([]int64, partitions)
			for p := range offsets {
				offsets[p] = listed[topic][int32(p)].Offset
			}
			return offsets
		}
		check(time.Now().Before(deadline), "%s: no end offsets: %v %v", topic, err, listed.Error())
	}
}

// pause stops the load and waits until every record has been answered.
func (k *killRun) pause() {
	k.load.Lock()
	for producer, client := range k.clients {
		if err := client.Flush(within(killPatience)); err != nil {
			k.give("producer %d: not everything was answered within %s: %v", producer, killPatience, err)
		}
	}
}

func (k *killRun) verifyFrom(from []int64, what string) {
	started := time.Now()
	records, ends, breach := k.verify(from, nil)
	if breach != nil {
		k.give("%v", breach)
	}
	k.verifiedTo = ends
	fmt.Printf("%s: %d records verified in %.1f s\n", what, records, time.Since(started).Seconds())
}

// fill writes so many gigabytes as fast as it goes.
func (k *killRun) fill(gigabytes int) {
	const partitions, size = 8, 16 << 10
	admin := createTopic(k.bootstrap, fillTopic, partitions, map[string]*string{"retention.ms": pointer("-1")})
	defer admin.Close()
	client := k.killClient(kgo.MaxBufferedRecords(8000), kgo.ProducerBatchCompression(kgo.NoCompression()))
	defer client.Close()
	started := time.Now()
	k.filled = make([]int64, partitions)
	records := int64(gigabytes) * 1e9 / size
	for i := range records {
		p := int32(i / 64 % partitions)
		client.Produce(context.Background(), &kgo.Record{Topic: fillTopic, Partition: p, Value: k.fillValue(p, k.filled[p], size)}, func(r *kgo.Record, err error) {
			if err != nil {
				k.give("%s-%d: %v", fillTopic, p, err)
			}
		})
		k.filled[p]++
	}
	if err := client.Flush(within(5 * time.Minute)); err != nil {
		k.give("filling: %v", err)
	}
	took := time.Since(started).Seconds()
	fmt.Printf("filled %d GB in %.0f s: %.0f MB/s\n", gigabytes, took, float64(gigabytes)*1000/took)
}

func (k *killRun) fillValue(partition int32, offset int64, size int) []byte {
	start := int(mix(uint32(partition)<<24^uint32(offset))) % (poolBytes - size)
	return k.pool[start : start+size]
}

// checkFilled looks at the offsets and at a few records at both ends of each partition.
func (k *killRun) checkFilled() {
	if k.filled == nil {
		return
	}
	client := k.killClient()
	admin := kadm.NewClient(client)
	if got := ends64(admin, fillTopic, len(k.filled)); fmt.Sprint(got) != fmt.Sprint(k.filled) {
		k.give("%s ends at %v, it was filled to %v", fillTopic, got, k.filled)
	}
	client.Close()
	for p, end := range k.filled {
		for _, from := range []int64{0, max(0, end-20)} {
			reader := k.killClient(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{fillTopic: {int32(p): kgo.NewOffset().At(from)}}))
			records := reader.PollRecords(within(timeout), 20).Records()
			reader.Close()
			if len(records) == 0 {
				k.give("%s-%d@%d: no records", fillTopic, p, from)
			}
			for i, r := range records {
				if r.Offset != from+int64(i) || !bytes.Equal(r.Value, k.fillValue(int32(p), r.Offset, len(r.Value))) {
					k.give("%s-%d@%d: offset %d, or other content than was written", fillTopic, p, from+int64(i), r.Offset)
				}
			}
		}
	}
}

func kill(arguments []string) {
	flags := flag.NewFlagSet("kill", flag.ExitOnError)
	times := flags.Int("times", 50, "kills")
	gigabytes := flags.Int("gigabytes", 0, "written before the first kill")
	bootstrap := flags.String("bootstrap", "", "host:port that the broker will listen on")
	data := flags.String("data", "", "data directory, {data} in the command")
	ready := flags.String("ready", "ready", "what the ready line on standard output contains")
	readyMax := flags.Duration("ready-max", time.Second, "limit from exec to the ready line; 0: none")
	partitions := flags.Int("partitions", 6, "")
	producers := flags.Int("producers", 4, "")
	size := flags.Int("record-bytes", 1200, "the largest record")
	seed := flags.Uint64("seed", uint64(time.Now().UnixNano()), "of the moments of the kills")
	every := flags.Int("verify-every", 10, "kills between two checks")
	bites := flags.Bool("bite", false, "also show that the verifier notices a loss, a duplicate, a changed order and changed content")
	shards := flags.String("shards", "1", "comma-separated: {shards} in the command, in turn")
	flags.Parse(arguments)
	check(flags.NArg() > 0 && *bootstrap != "" && *data != "", "no command, --bootstrap or --data")

	// The broker dies with the thread that started it: this one, kept for as long as the process lives.
	runtime.LockOSThread()
	fmt.Printf("seed %d\n", *seed)
	output := must(os.Create(*data + ".out"))
	k := &killRun{
		command: flags.Args(), data: *data, bootstrap: *bootstrap, ready: *ready, partitions: *partitions, producers: *producers,
		bytes: *size, readyMax: *readyMax, shards: strings.Split(*shards, ","), random: rand.New(rand.NewPCG(*seed, 1)),
		output: output, pool: newContent("", "full").pool, verifiedTo: make([]int64, *partitions),
	}
	k.start()
	fmt.Printf("first start: ready after %s\n", k.readyTimes[0].Round(time.Millisecond))
	createTopic(k.bootstrap, killTopic, k.partitions, map[string]*string{"retention.ms": pointer("-1"), "segment.bytes": pointer(strconv.Itoa(64 << 20))}).Close()
	if *gigabytes > 0 {
		k.fill(*gigabytes)
	}
	producing := k.startProducers()
	started := time.Now()
	for round := 1; round <= *times; round++ {
		before := k.acknowledged.Load()
		k.progress(2000)
		time.Sleep(time.Duration(100+k.random.IntN(1000)) * time.Millisecond)
		k.kill()
		acknowledged := k.acknowledged.Load() - before
		k.start()
		fmt.Printf("kill %d: %d records acknowledged before it; ready after %s (%s)\n", round, acknowledged, k.readyTimes[len(k.readyTimes)-1].Round(time.Millisecond), strings.TrimSpace(k.said))
		if round%*every == 0 && round < *times {
			k.pause()
			k.verifyFrom(k.verifiedTo, fmt.Sprintf("after kill %d", round))
			k.checkFilled()
			k.load.Unlock()
		}
	}
	k.progress(2000)
	k.pause()
	took := time.Since(started)
	k.stop.Store(true)
	k.load.Unlock()
	producing.Wait()
	for producer, client := range k.clients {
		if err := client.Flush(within(killPatience)); err != nil {
			k.give("producer %d: %v", producer, err)
		}
	}
	if k.acknowledged.Load() != k.written.Load() {
		k.give("%d records written, %d acknowledged", k.written.Load(), k.acknowledged.Load())
	}
	k.verifyFrom(make([]int64, k.partitions), "at the end, everything")
	k.checkFilled()
	if *bites {
		for _, kind := range []string{"loss", "duplicate", "order", "content"} {
			p := k.random.IntN(k.partitions)
			b := &bite{kind, int32(p), int64(k.random.IntN(int(k.verifiedTo[p]) - 2))}
			_, _, breach := k.verify(make([]int64, k.partitions), b)
			if breach == nil {
				k.give("the verifier did not notice a %s at %s-%d@%d", kind, killTopic, b.partition, b.offset)
			}
			fmt.Printf("noticed a %s at %s-%d@%d: %v\n", kind, killTopic, b.partition, b.offset, breach)
		}
	}
	for _, client := range k.clients {
		client.Close()
	}
	k.process.Process.Signal(syscall.SIGTERM)
	select {
	case <-k.exited:
	case <-time.After(killPatience):
		k.give("SIGTERM has not ended the broker in %s", killPatience)
	}
	slowest, sum := time.Duration(0), time.Duration(0)
	for _, one := range k.readyTimes[1:] {
		slowest = max(slowest, one)
		sum += one
	}
	if *times > 0 {
		fmt.Printf("%d kills in %.0f s; %d records acknowledged, each there once at its offset (%d acknowledged without an offset); ready again after %s on average, %s at most\n",
			*times, took.Seconds(), k.acknowledged.Load(), k.unknown.Load(), (sum / time.Duration(*times)).Round(time.Millisecond), slowest.Round(time.Millisecond))
	}
}

// load writes as kill does, for so many seconds to brokers that somebody else kills, and verifies then.
func load(arguments []string) {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	bootstrap := flags.String("bootstrap", "", "host:port,...")
	partitions := flags.Int("partitions", 6, "")
	producers := flags.Int("producers", 4, "each writes to every partition")
	pace := flags.Int("pace", 0, "records a second of all producers; 0: as fast as it goes")
	size := flags.Int("record-bytes", 1200, "the largest record")
	seconds := flags.Int("seconds", 60, "")
	flags.Parse(arguments)
	check(flags.NArg() == 0 && *bootstrap != "", "no --bootstrap, or too much")
	k := &killRun{
		bootstrap: *bootstrap, partitions: *partitions, producers: *producers, bytes: *size, pace: *pace / *producers,
		pool: newContent("", "full").pool, verifiedTo: make([]int64, *partitions),
	}
	createTopic(k.bootstrap, killTopic, k.partitions, map[string]*string{"retention.ms": pointer("-1")}).Close()
	producing := k.startProducers()
	time.Sleep(time.Duration(*seconds) * time.Second)
	k.pause()
	k.stop.Store(true)
	k.load.Unlock()
	producing.Wait()
	for producer, client := range k.clients {
		if err := client.Flush(within(killPatience)); err != nil {
			k.give("producer %d: %v", producer, err)
		}
		client.Close()
	}
	if k.acknowledged.Load() != k.written.Load() {
		k.give("%d records written, %d acknowledged", k.written.Load(), k.acknowledged.Load())
	}
	k.verifyFrom(make([]int64, k.partitions), "at the end, everything")
	fmt.Printf("%d records of %d producers acknowledged, %d of them without an offset\n", k.acknowledged.Load(), k.producers, k.unknown.Load())
}
