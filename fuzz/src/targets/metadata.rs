//! The metadata log and whose it is. The first byte chooses: a snapshot file, a log file, a whole directory of both with a
//! `meta.properties` or without that is opened, or the two files of the identity.

use millstream_replication::identity::{self, CleanShutdown, META_PROPERTIES, MetaProperties, OpenedDirectory};
use millstream_replication::log::{
    DIRECTORY, FileId, Snapshot, decode_snapshot, encode_entry, encode_header, encode_snapshot, scan,
};
use millstream_replication::{Broker, ClusterImage, ConfigOwner, Endpoint, MetadataRecord, Partition};
use millstream_storage::{BLOCK_BYTES, TopicId};

use crate::Target;
use crate::disk::Disk;
use crate::input::{Input, piece};
use crate::memory::{BASE_BYTES, bounded};

pub const TARGET: Target = Target { name: "metadata", run, seeds };

/// The smallest record takes 6 bytes and 120 in memory; a topic in the image is in three maps and a list.
const MEMORY_PER_BYTE: usize = 256;

const FILE_ID: FileId = FileId([5; 16]);

const META: MetaProperties = MetaProperties { cluster_id: [2; 16], node_id: 1, directory_id: [6; 16] };

fn run(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let bytes_max = BASE_BYTES + MEMORY_PER_BYTE * bytes.len();
    match choice % 5 {
        0 => bounded(bytes_max, || snapshot(bytes)),
        1 => bounded(bytes_max, || snapshot(&sealed_snapshot(&mut Input::new(bytes)))),
        2 => log(bytes, &log_file(&mut Input::new(bytes), 0), bytes_max),
        3 => directory(Input::new(bytes), bytes_max),
        _ => bounded(bytes_max, || identity_files(bytes)),
    }
}

/// A snapshot file of the input's offset, count and records, with everything else right.
fn sealed_snapshot(input: &mut Input<'_>) -> Vec<u8> {
    let (offset, count) = (u64::from(input.byte()), u32::from(input.byte()));
    let records = input.piece();
    let mut file = b"MSTRSNAP".to_vec();
    file.extend(1u32.to_le_bytes());
    file.extend(offset.to_le_bytes());
    file.extend(count.to_le_bytes());
    file.extend((records.len() as u64).to_le_bytes());
    file.extend(records);
    let crc = crc32c::crc32c(&file);
    file.extend(crc.to_le_bytes());
    file
}

fn snapshot(file: &[u8]) {
    if let Ok(Snapshot { image, .. }) = decode_snapshot("s", file) {
        let again = decode_snapshot("s", &encode_snapshot(&image)).expect("we wrote it");
        assert_eq!(again, Snapshot { image, node_id: None });
    }
}

/// The bytes as they are, and under a right checksum. What is taken is exactly what would be written.
fn identity_files(raw: &[u8]) {
    let mut sealed = raw.to_vec();
    sealed.extend(format!("crc32c={:08x}\n", crc32c::crc32c(raw)).into_bytes());
    for bytes in [raw, &sealed] {
        if let Ok(meta) = MetaProperties::decode(bytes) {
            assert_eq!(meta.encode(), bytes);
        }
        if let Ok(mark) = CleanShutdown::decode(bytes) {
            assert_eq!(mark.encode(), bytes);
        }
    }
}

/// A log file that the input fills with entries: their headers are right but for the count of records, which it says.
fn log_file(input: &mut Input<'_>, base_offset: u64) -> Vec<u8> {
    let mut file = encode_header(FILE_ID, base_offset).to_vec();
    let mut offset = base_offset + 1;
    while !input.is_empty() {
        let count = u32::from(input.byte());
        let records = input.piece();
        let mut entry = vec![0; 4];
        entry.extend((records.len() as u32).to_le_bytes());
        entry.extend(offset.to_le_bytes());
        entry.extend(count.to_le_bytes());
        entry.extend(records);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&FILE_ID.0), &entry[4..]);
        entry[..4].copy_from_slice(&crc.to_le_bytes());
        entry.resize(entry.len().next_multiple_of(BLOCK_BYTES), 0);
        file.extend(entry);
        offset += u64::from(count);
    }
    file
}

/// The bytes as they are, and the file made of them.
fn log(raw: &[u8], file: &[u8], bytes_max: usize) {
    let _ = bounded(bytes_max, || scan("l", raw));
    let Ok(found) = bounded(bytes_max, || scan("l", file)) else { return };
    let mut again = encode_header(found.file_id, found.base_offset).to_vec();
    let mut offset = found.base_offset + 1;
    for entry in &found.entries {
        // Records of retired types and layouts are not written any more; the second are longer as they are written now.
        let is_old = |record: &MetadataRecord| matches!(record, MetadataRecord::Broker(b) if b.incarnation == [0; 16]);
        if entry.records.is_empty() || entry.retired > 0 || entry.records.iter().any(is_old) {
            return;
        }
        again.extend(encode_entry(found.file_id, offset, &entry.records));
        offset += entry.count();
    }
    assert_eq!(scan("l", &again).as_ref(), Ok(&found));
}

/// A directory with a snapshot or without, and up to two log files.
fn directory(mut input: Input<'_>, bytes_max: usize) {
    let choice = input.byte();
    let mut disk = Disk::default();
    let mut base_offset = 0;
    // Without it only a log that names its node is taken.
    if choice & 8 == 0 {
        disk.put(META_PROPERTIES, META.encode().to_vec());
    }
    if choice & 1 != 0 {
        let file = sealed_snapshot(&mut input);
        base_offset = u64::from_le_bytes(file[12..20].try_into().expect("8 bytes"));
        disk.put(&format!("{DIRECTORY}/snapshot"), file);
    }
    if choice & 2 != 0 {
        let next = base_offset + 1;
        let file = log_file(&mut Input::new(input.piece()), next);
        disk.put(&format!("{DIRECTORY}/{next:020}.log"), file);
    }
    if choice & 4 != 0 {
        let mut file = log_file(&mut Input::new(input.piece()), base_offset);
        file.extend(input.rest());
        disk.put(&format!("{DIRECTORY}/{base_offset:020}.log"), file);
    }
    // Files are read whole, in pieces of a MiB; the disk is in memory too.
    let bytes_max = bytes_max + (8 << 20);
    bounded(bytes_max, || {
        let mut open = |random| identity::open(&mut |op| disk.execute(op), 1, random);
        let Ok(OpenedDirectory { meta, image, .. }) = open([1; 48]) else { return };
        // What was cleared away does not come back.
        let again = open([2; 48]).expect("what was opened can be opened again");
        assert_eq!((again.meta, &again.image), (meta, &image));
        let mut log = again.log;
        let next = MetadataRecord::ProducerIds { next: i64::MAX };
        if image.check(&next).is_err() {
            return;
        }
        disk.execute(log.append(std::slice::from_ref(&next))).expect("the disk has room");
        log.committed();
        let mut image = image;
        image.replay(&next);
        for op in log.compact(&image) {
            disk.execute(op).expect("the disk has room");
        }
        disk.execute(log.compacted()).expect("the disk has room");
        let again = identity::open(&mut |op| disk.execute(op), 1, [3; 48]).expect("a snapshot of ours");
        assert_eq!(again.image, image);
    });
}

/// A history with every type of record.
fn history() -> Vec<MetadataRecord> {
    let topic_id = TopicId([1; 16]);
    let state = Partition { replicas: [1].into(), isr: [1].into(), leader: 1, leader_epoch: 0, partition_epoch: 0 };
    let endpoint = Endpoint { listener: "PLAINTEXT".into(), host: "h".into(), port: 9092 };
    let broker = Broker {
        node_id: 1,
        epoch: 3,
        incarnation: [7; 16],
        directory_id: [8; 16],
        shards: 2,
        is_fenced: true,
        in_controlled_shutdown: false,
        endpoints: vec![endpoint],
        rack: Some("r".into()),
    };
    let config = |owner| MetadataRecord::Config { owner, name: "retention.ms".into(), value: Some("5".into()) };
    vec![
        MetadataRecord::Cluster { cluster_id: [2; 16] },
        MetadataRecord::Broker(broker.clone()),
        MetadataRecord::Broker(Broker { node_id: 2, epoch: 4, ..broker }),
        MetadataRecord::BrokerChange { node_id: 1, epoch: 3, is_fenced: false, in_controlled_shutdown: true },
        MetadataRecord::UnregisterBroker { node_id: 2, epoch: 4 },
        MetadataRecord::Topic { topic_id, name: "t".into() },
        MetadataRecord::Partition { topic_id, partition: 0, state },
        config(ConfigOwner::Topic(topic_id)),
        config(ConfigOwner::Broker(1)),
        config(ConfigOwner::Cluster),
        MetadataRecord::ProducerIds { next: 1000 },
        MetadataRecord::Topic { topic_id: TopicId([4; 16]), name: "gone".into() },
        MetadataRecord::RemoveTopic { topic_id: TopicId([4; 16]) },
    ]
}

fn seeds() -> Vec<Vec<u8>> {
    let history = history();
    let bytes = |records: &[MetadataRecord]| {
        let mut bytes = Vec::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        bytes
    };
    let mut image = ClusterImage::new();
    history.iter().for_each(|record| image.replay(record));
    let kept = image.snapshot();
    let snapshot = [&[image.offset() as u8, kept.len() as u8], &piece(&bytes(&kept))[..]].concat();
    let whole = [&[history.len() as u8], &piece(&bytes(&history))[..]].concat();
    let split = [&[9], &piece(&bytes(&history[..9]))[..], &[2], &piece(&bytes(&history[9..]))[..]].concat();
    // A record of the retired type that names the node, as the second of the first entry.
    let named = [&bytes(&history[..1])[..], &[2, 1, 1, 0, 0, 0]].concat();
    let named = [&[2], &piece(&named)[..]].concat();
    // A broker in the first layout: without endpoints and rack.
    let old = [&bytes(&history[..1])[..], &[3, 1, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
    let old = [&[2], &piece(&old)[..]].concat();
    let unsealed = |file: &[u8]| file[..file.len() - "crc32c=00000000\n".len()].to_vec();
    let mark = CleanShutdown { directory_id: META.directory_id, broker_epoch: 7 };
    let more = [&[1], &piece(&bytes(&[MetadataRecord::ProducerIds { next: 3000 }]))[..]].concat();
    vec![
        [&[0], &encode_snapshot(&image)[..]].concat(),
        [&[1], &snapshot[..]].concat(),
        [&[2], &whole[..]].concat(),
        [&[2], &split[..]].concat(),
        [&[2], &old[..]].concat(),
        [&[3, 4], &piece(&split)[..]].concat(),
        [&[3, 5], &snapshot[..], &piece(&more)[..], &[7; 30]].concat(),
        [&[3, 7], &snapshot[..], &piece(&[]), &piece(&more)[..]].concat(),
        [&[3, 12], &piece(&named)[..]].concat(),
        [&[4], &META.encode()[..]].concat(),
        [&[4], &unsealed(&META.encode())[..]].concat(),
        [&[4], &unsealed(&mark.encode())[..]].concat(),
    ]
}
