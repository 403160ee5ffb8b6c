//! The command line against a broker, as people use it: what it prints, and with which code it ends.

mod process;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use process::{Broker, Data};

/// What a command printed and how it ended.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// What it printed, when it succeeded.
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// What it said, when it ended with this code.
    #[track_caller]
    fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.stderr
    }
}

/// The program with arguments separated by spaces, for a broker.
fn program(port: u16, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(arguments.split(' ')).arg("--bootstrap-server").arg(format!("127.0.0.1:{port}"));
    command
}

fn run(port: u16, arguments: &str) -> Ran {
    run_with(port, arguments, "")
}

/// With this as its input.
fn run_with(port: u16, arguments: &str, input: &str) -> Ran {
    let mut command = program(port, arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    // A command that fails early does not read everything.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().expect("ended");
    writer.join().expect("written");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

#[test]
fn topics_are_made_shown_changed_and_deleted() {
    let data = Data::new("cli_topics");
    let broker = Broker::start(&[&data.log_dirs()]);
    let port = broker.port();
    assert_eq!(run(port, "topic list").ok(), "no topics; `millstream topic create NAME` makes one\n");
    assert_eq!(run(port, "topic create a b --partitions 2 --dry-run").ok(), "could create a\ncould create b\n");
    assert_eq!(run(port, "topic list --json").ok(), "[]\n");
    let created = run(port, "topic create a b --partitions 2 --config retention.ms=5000 -c segment.ms=60000").ok();
    assert_eq!(created, "created a\ncreated b\n");

    // One of two is refused: the other is made.
    let partly = run(port, "topic create a c --partitions 2");
    assert_eq!(partly.stdout, "created c\n");
    let error = partly.failed(1);
    assert!(error.contains("topic a: ") && error.contains("(TOPIC_ALREADY_EXISTS; --if-not-exists"), "{error}");
    assert_eq!(run(port, "topic create a --if-not-exists").ok(), "a: TOPIC_ALREADY_EXISTS\n");
    let error = run(port, "topic create d --config retention.m=1").failed(1);
    assert!(error.contains("INVALID_CONFIG"), "{error}");

    let list = run(port, "topic list").ok();
    assert_eq!(
        list,
        "TOPIC  PARTITIONS  REPLICAS  UNDER-REPLICATED  OFFLINE\n\
         a               2         1                 0        0\n\
         b               2         1                 0        0\n\
         c               2         1                 0        0\n"
    );
    assert_eq!(run(port, "topic list b --json").ok().matches("\"topic\"").count(), 1);

    assert_eq!(
        run(port, "topic alter a --partitions 3 --set retention.bytes=1000 --unset retention.ms").ok(),
        "altered a\n"
    );
    let described = run(port, "topic describe a").ok();
    assert!(described.starts_with("a: 3 partitions, id "), "{described}");
    assert!(described.contains("own configurations: retention.bytes=1000 segment.ms=60000\n"), "{described}");
    assert_eq!(described.lines().count(), 2 + 3 + 1, "{described}");
    let json = run(port, "topic describe a --json").ok();
    assert!(json.contains("\"configs\":{\"retention.bytes\":\"1000\",\"segment.ms\":\"60000\"}"), "{json}");
    assert!(
        json.contains(
            "{\"partition\":2,\"leader\":1,\"replicas\":[1],\"in_sync\":[1],\
         \"under_replicated\":false,\"offline\":false,\"first\":0,\"next\":0}"
        ),
        "{json}"
    );
    assert_eq!(run(port, "topic list --under-replicated").ok(), "no partition is under-replicated\n");
    assert_eq!(run(port, "topic describe --offline").ok(), "no partition is offline\n");
    assert_eq!(run(port, "topic describe a --under-replicated --offline --json").ok(), "[]\n");
    let error = run(port, "topic alter a --partitions 1").failed(1);
    assert!(error.contains("INVALID_PARTITIONS"), "{error}");
    let error = run(port, "topic describe missing").failed(1);
    assert!(error.contains("topic missing: UNKNOWN_TOPIC_OR_PARTITION; `millstream topic list`"), "{error}");

    assert_eq!(run(port, "config describe --topic a --json").ok().matches("\"from\":\"topic\"").count(), 2);
    run(port, "config set --topic a retention.ms=7 cleanup.policy=delete").ok();
    run(port, "config unset --topic a segment.ms").ok();
    let table = run(port, "config describe --topic a").ok();
    assert!(table.contains("\nretention.ms     7       topic\n") && !table.contains("segment.ms"), "{table}");
    run(port, "config set --broker 1 log.retention.ms=5000000").ok();
    run(port, "config set --all-brokers log.retention.ms=6000000").ok();
    let own = run(port, "config describe --broker 1").ok();
    assert!(own.contains("\nlog.retention.ms  5000000  broker\n"), "{own}");
    assert!(run(port, "config describe --topic b --all").ok().contains("\nmax.message.bytes "));

    assert_eq!(run(port, "topic delete a b").ok(), "deleted a\ndeleted b\n");
    assert!(run(port, "topic delete a").failed(1).contains("UNKNOWN_TOPIC_OR_PARTITION"));
    run(port, "topic delete a --if-exists").ok();
}

#[test]
fn what_is_produced_is_consumed() {
    let data = Data::new("cli_records");
    let broker = Broker::start(&[&data.log_dirs()]);
    let port = broker.port();
    let mut input = String::new();
    for number in 0..50_000 {
        input.push_str(&format!("key {}\tvalue {number}\n", number % 100));
    }
    for codec in ["uncompressed", "gzip", "snappy", "lz4", "zstd"] {
        run(port, &format!("topic create {codec} --partitions 3 --config compression.type={codec}")).ok();
        let mut produce = program(port, &format!("produce {codec} --header origin=test"));
        produce.args(["--key-separator", "\t"]);
        let written = {
            let mut child = produce.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
            child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
            String::from_utf8(child.wait_with_output().expect("ended").stdout).expect("text")
        };
        assert_eq!(written, format!("wrote 50000 records to {codec}\n"));
        let consumed = run(port, &format!("consume {codec} --show key")).ok();
        // Records of a key are in one partition, in their order.
        let mut last = [-1i64; 100];
        for line in consumed.lines() {
            let (key, value) = line.split_once('\t').expect("a key");
            let key: usize = key.strip_prefix("key ").expect("a key").parse().expect("a number");
            let value: i64 = value.strip_prefix("value ").expect("a value").parse().expect("a number");
            assert_eq!(value.rem_euclid(100), key as i64);
            assert!(value > last[key], "{value} follows {}", last[key]);
            last[key] = value;
        }
        assert_eq!(consumed.lines().count(), 50_000);
    }
    let one = run(port, "consume lz4 --partition 1 --offset 7 --count 1 --json").ok();
    assert!(one.starts_with("{\"topic\":\"lz4\",\"partition\":1,\"offset\":7,\"timestamp\":"), "{one}");
    assert!(one.contains("\"headers\":[{\"name\":\"origin\",\"value\":\"test\"}],\"key\":\"key "), "{one}");
    assert_eq!(run(port, "consume lz4 --last 2").ok().lines().count(), 6);
    assert_eq!(run(port, "consume lz4 --time -1h").ok().lines().count(), 50_000);
    assert_eq!(run(port, "consume lz4 --time 2100-01-01").ok(), "");
    let error = run(port, "consume lz4 --offset 1000000").failed(1);
    assert!(error.contains("of topic lz4 has the offsets from 0 to before "), "{error}");

    let offsets = run(port, "offsets lz4 gzip").ok();
    assert_eq!(offsets.lines().count(), 1 + 6, "{offsets}");
    let at = run(port, "offsets lz4 --time 2001-01-01 --json").ok();
    assert_eq!(at.matches("\"offset\":0,").count(), 3, "{at}");
    let none = run(port, "offsets lz4 --time 2100-01-01T00:00:00Z --partition 0").ok();
    assert!(none.contains("lz4            0       -  -\n"), "{none}");
    assert_eq!(run(port, "offsets lz4 --max-timestamp --json").ok().matches("\"offset\":").count(), 3);

    let first = run(port, "topic delete-records lz4 --partition 2 --before 100").ok();
    assert_eq!(first, "PARTITION  FIRST\n        2    100\n");
    assert!(run(port, "offsets lz4 --partition 2").ok().contains("lz4            2    100  "));
    run(port, "topic delete-records lz4 --all-partitions --before latest").ok();
    assert_eq!(run(port, "consume lz4").ok(), "");
    assert!(run(port, "topic delete-records lz4 -p 9 --before 1").failed(1).contains("topic lz4 has no partition 9"));
}

#[test]
fn a_follower_sees_what_is_written_later() {
    let data = Data::new("cli_follow");
    let broker = Broker::start(&[&data.log_dirs()]);
    let port = broker.port();
    run(port, "topic create t --partitions 2").ok();
    run_with(port, "produce t --partition 0", "before\n").ok();
    let mut follower = program(port, "consume t --follow --count 3").stdout(Stdio::piped()).spawn().expect("started");
    let mut lines = BufReader::new(follower.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("read");
    assert_eq!(next(), "before");
    // One that waits for more input writes what it has got.
    let mut producer =
        program(port, "produce t --acks 1").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("started");
    let mut input = producer.stdin.take().expect("piped");
    input.write_all(b"one\n").expect("written");
    assert_eq!(next(), "one");
    input.write_all(b"without an end of line").expect("written");
    drop(input);
    assert_eq!(next(), "without an end of line");
    assert_eq!(follower.wait().expect("ended").code(), Some(0));
    assert_eq!(producer.wait().expect("ended").code(), Some(0));
    assert_eq!(run_with(port, "produce t --acks 0", "a\nb\n").ok(), "wrote 2 records to t\n");
}

#[test]
fn what_cannot_be_written_is_reported() {
    let data = Data::new("cli_refused");
    let broker = Broker::start(&[&data.log_dirs()]);
    let port = broker.port();
    run(port, "topic create small --config max.message.bytes=1000").ok();
    let mixed = run_with(port, "produce small --json", &format!("{}\n", "x".repeat(2000)));
    assert!(mixed.stdout.starts_with("{\"topic\":\"small\",\"written\":0,\"failed\":1,"), "{mixed:?}");
    let error = mixed.failed(1);
    assert!(error.contains("partition 0: 1 records of lines 1 to 1 were not written: "), "{error}");
    assert!(
        error.contains("MESSAGE_TOO_LARGE") && error.ends_with("millstream: 1 record was not written\n"),
        "{error}"
    );
    assert_eq!(run_with(port, "produce small", "short\n").ok(), "wrote 1 record to small\n");

    let error = run_with(port, "produce small --key-separator =", "a=1\nb\n").failed(1);
    assert!(error.contains("line 2 has no \"=\" between key and value"), "{error}");
    assert_eq!(run(port, "consume small").ok(), "short\n1\n", "what came before it was written");
    let error = run_with(port, "produce missing", "a\n").failed(1);
    assert!(error.contains("there is no topic missing; `millstream topic create missing` makes it"), "{error}");
    assert!(run_with(port, "produce small --partition 1", "").failed(1).contains("has no partition 1"));
    assert!(run(port, "produce small --file /nowhere").failed(1).contains("cannot read /nowhere: "));
}

#[test]
fn groups_are_shown_and_reset() {
    let data = Data::new("cli_groups");
    let broker = Broker::start(&[&data.log_dirs()]);
    let port = broker.port();
    run(port, "topic create t --partitions 2").ok();
    run(port, "topic create u").ok();
    run_with(port, "produce t --partition 0", &"line\n".repeat(100)).ok();
    assert_eq!(run(port, "group list").ok(), "no groups\n");
    assert!(run(port, "group describe g").failed(1).contains("GROUP_ID_NOT_FOUND"));

    let plan = run(port, "group reset-offsets g --topic t --to-latest");
    assert!(plan.stderr.contains("nothing was changed: --execute does it"), "{plan:?}");
    assert_eq!(
        plan.ok(),
        "TOPIC  PARTITION  COMMITTED  NEW\nt              0          -  100\nt              1          -    0\n"
    );
    assert_eq!(run(port, "group list").ok(), "no groups\n");
    run(port, "group reset-offsets g --topic t --topic u --to-offset 40 --execute").ok();
    assert_eq!(run(port, "group list").ok(), "GROUP  STATE  PROTOCOL\ng      Empty\n");
    let described = run(port, "group describe g").ok();
    assert!(described.starts_with("g: Empty, 0 members, 60 records behind\n"), "{described}");
    assert!(described.contains("\nt              0         40   100   60\n"), "{described}");
    run(port, "group reset-offsets g --topic t:0 --shift-by -15 --execute").ok();
    let json = run(port, "group describe g --json").ok();
    assert!(
        json.contains("{\"topic\":\"t\",\"partition\":0,\"committed\":25,\"next\":100,\"lag\":75,\"member\":null}"),
        "{json}"
    );
    // What is not there cannot be read: as far as there is something.
    let far = run(port, "group reset-offsets g --all-topics --to-offset 1000 --execute --json").ok();
    assert!(far.starts_with("{\"group\":\"g\",\"executed\":true,") && far.contains("\"new\":100}"), "{far}");
    let past = run(port, "group reset-offsets g --all-topics --to-time 2001-01-01 --execute").ok();
    assert!(past.contains("\nt              0        100    0\n"), "{past}");

    run(port, "topic delete u").ok();
    assert!(run(port, "group describe g").ok().starts_with("g: Empty, 0 members, 100 records behind\n"));
    let deleted = run(port, "group delete-offsets g --topic t:1").ok();
    assert_eq!(deleted, "TOPIC  PARTITION  DELETED\nt              1        0\n");
    assert!(!run(port, "group describe g").ok().contains("\nt              1 "));
    assert_eq!(run(port, "group delete g").ok(), "deleted g\n");
    assert!(run(port, "group delete g").failed(1).contains("group g: GROUP_ID_NOT_FOUND"));
}

#[test]
fn mistakes_have_their_own_exit_codes() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
    let error = run(free, "topic list").failed(3);
    assert!(error.contains(&format!("cannot connect to 127.0.0.1:{free}: ")), "{error}");
    assert!(error.contains("--bootstrap-server"), "{error}");
    run(free, "group reset-offsets g --topic t").failed(2);
    run(free, "offsets t --time yesterday").failed(2);
    run(free, "consume t --latest --offset 3").failed(2);

    // Something that is no broker.
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = other.local_addr().expect("bound").port();
    let answer = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().expect("a connection");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("sent");
        let mut rest = Vec::new();
        // Until the program has seen it.
        let _ = stream.read_to_end(&mut rest);
    });
    assert!(run(port, "topic list").failed(3).contains("does not speak the Kafka protocol"));
    answer.join().expect("ended");
}

#[test]
fn the_page_lists_what_there_is() {
    let data = Data::new("cli_page");
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let broker = Broker::start(&[&data.log_dirs(), "millstream.shards=2", &format!("millstream.http.listener={free}")]);
    let port = broker.port();
    // More than two pieces of each shard's list.
    run(port, "topic create many --partitions 1200").ok();
    run(port, "topic create few --partitions 2").ok();
    run_with(port, "produce few --partition 1", &"0123456789\n".repeat(100)).ok();
    run(port, "group reset-offsets readers --topic few --to-offset 30 --execute").ok();
    run(port, "group reset-offsets all --topic many --to-earliest --execute").ok();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(free).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {free}\r\n\r\n").expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("received");
        let (head, body) = response.split_once("\r\n\r\n").expect("a body");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        body.to_owned()
    };
    let all = get("/partitions.json?sort=records&order=descending&limit=2");
    // 50 are those of __consumer_offsets.
    assert!(all.starts_with("{\"total\":1252,\"matching\":1252,"), "{all}");
    assert_eq!(all.matches("\"topic\":").count(), 2);
    let few = get("/partitions.json?search=FEW");
    assert!(few.starts_with("{\"total\":1252,\"matching\":2,\"records\":100,\"bytes\":"), "{few}");
    assert!(
        few.contains("{\"topic\":\"few\",\"partition\":1,\"start\":0,\"end\":100,\"records\":100,\"bytes\":"),
        "{few}"
    );
    let last = get("/partitions.json?search=many&sort=partition&offset=1199");
    assert!(last.contains("\"rows\":[{\"topic\":\"many\",\"partition\":1199,"), "{last}");
    let groups = get("/groups.json?sort=lag&order=descending");
    let readers = "{\"group\":\"readers\",\"state\":\"Empty\",\"members\":0,\"partitions\":2,\"lag\":70,\
                   \"most\":{\"topic\":\"few\",\"partition\":1,\"lag\":70}}";
    assert!(groups.contains(&format!("\"rows\":[{readers},")), "{groups}");
    assert!(
        groups.contains("{\"group\":\"all\",\"state\":\"Empty\",\"members\":0,\"partitions\":1200,\"lag\":0,"),
        "{groups}"
    );
    assert!(get("/status.json").contains("\"millstream_partitions\":["));
    assert!(get("/").starts_with("<!doctype html>"));
}

#[test]
fn the_doctor_finds_what_keeps_a_broker_from_starting() {
    let data = Data::new("cli_doctor");
    let doctor = |overrides: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(["doctor", "--json", "--override", &data.log_dirs()]);
        for pair in overrides {
            command.args(["--override", pair]);
        }
        let output = command.output().expect("started");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let any_port = ["listeners=PLAINTEXT://127.0.0.1:0", "millstream.http.listener="];
    let (code, found) = doctor(&any_port);
    assert_eq!(code, Some(0), "{found}");
    for check in
        ["kernel", "io_uring", "locked memory", "open files", "memory", "time", "data directory", "free space", "ports"]
    {
        assert!(found.contains(&format!("{{\"check\":\"{check}\",\"status\":\"")), "{check} is missing: {found}");
    }
    assert!(found.contains("can be made, and written to with O_DIRECT"), "{found}");
    let (_, again) = doctor(&any_port);
    assert!(again.contains("can be made"), "nothing was left behind: {again}");

    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = format!("listeners=PLAINTEXT://{}", other.local_addr().expect("bound"));
    let (code, found) = doctor(&[&taken, "millstream.http.listener="]);
    assert_eq!(code, Some(1), "{found}");
    assert!(found.contains("{\"check\":\"ports\",\"status\":\"fail\",\"message\":\"listeners: 127.0.0.1:"), "{found}");
    let (code, found) = doctor(&["log.dirs=/proc/nowhere", any_port[0], any_port[1]]);
    assert_eq!(code, Some(1), "{found}");
    assert!(
        found.contains("\"status\":\"fail\",\"message\":\"cannot create the data directory /proc/nowhere: "),
        "{found}"
    );
    let (code, found) = doctor(&["num.partition=1"]);
    assert_eq!(code, Some(1), "{found}");
    assert!(found.contains("{\"check\":\"configuration\",\"status\":\"fail\""), "{found}");

    let broker = Broker::start(&[&data.log_dirs()]);
    let (code, found) = doctor(&any_port);
    assert_eq!(code, Some(0), "{found}");
    assert!(found.contains(&format!("is in use by process {}\"", broker.child.id())), "{found}");
}
