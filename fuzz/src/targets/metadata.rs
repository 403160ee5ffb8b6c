//! The metadata log and whose it is. The first byte chooses: a snapshot file, a log file, a whole directory of both with a
//! `meta.properties` or without that is opened, a directory of version 1, or the files of the identity.

use millstream_replication::identity::{
    self, Candidate, CleanShutdown, META_PROPERTIES, MetaProperties, OpenedDirectory,
};
use millstream_replication::log::{DIRECTORY, FileId};
use millstream_replication::quorum::{
    Header, Member, MemberId, Output, Position, Quorum, Snapshot, decode_snapshot, encode_header, encode_snapshot, scan,
};
use millstream_replication::{
    Broker, ClusterImage, ConfigOwner, Endpoint, METADATA_VERSIONS, MetadataRecord, Partition,
};
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
    match choice % 6 {
        0 => bounded(bytes_max, || snapshot(bytes)),
        1 => bounded(bytes_max, || snapshot(&sealed_snapshot(&mut Input::new(bytes)).1)),
        2 => log(bytes, &log_file(&mut Input::new(bytes), 1), bytes_max),
        3 => directory(Input::new(bytes), bytes_max),
        4 => old_directory(Input::new(bytes), bytes_max),
        _ => bounded(bytes_max, || identity_files(bytes)),
    }
}

/// A snapshot file of the input's index, offset, members, count and records, with everything else right; and its index.
fn sealed_snapshot(input: &mut Input<'_>) -> (u64, Vec<u8>) {
    let (index, term, offset) = (u64::from(input.byte()), u64::from(input.byte()), u64::from(input.byte()));
    let mut file = b"MSTRSNAP".to_vec();
    file.extend(2u32.to_le_bytes());
    [index, term, offset].iter().for_each(|number| file.extend(number.to_le_bytes()));
    if input.byte() & 1 == 0 {
        // This member and nobody else.
        file.extend(1u32.to_le_bytes());
        file.push(1);
        file.extend(META.node_id.to_le_bytes());
        file.extend(META.directory_id);
        file.push(0);
    } else {
        file.extend(u32::from(input.byte()).to_le_bytes());
        file.extend(input.piece());
    }
    file.extend(u32::from(input.byte()).to_le_bytes());
    file.extend(input.piece());
    let crc = crc32c::crc32c(&file);
    file.extend(crc.to_le_bytes());
    (index, file)
}

fn snapshot(file: &[u8]) {
    if let Ok(found) = decode_snapshot("s", file) {
        let Snapshot { index, term, members, image } = &found;
        let again = decode_snapshot("s", &encode_snapshot(*index, *term, members, image)).expect("we wrote it");
        assert_eq!(again, found);
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
        if let Ok(candidate) = Candidate::decode(bytes) {
            assert_eq!(candidate.encode(), bytes);
        }
    }
}

/// A log file that the input fills with frames: their checksums and numbers are right.
fn log_file(input: &mut Input<'_>, snapshot_index: u64) -> Vec<u8> {
    let base = Position { index: snapshot_index, term: u64::from(input.byte()) };
    let mut file = encode_header(&Header { file_id: FILE_ID, snapshot_index, base }).to_vec();
    let mut number = 0u64;
    while !input.is_empty() {
        let state = [u64::from(input.byte()), u64::from(input.byte()), u64::from(input.byte())];
        let count = input.byte() % 4;
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.extend(u64::from(input.byte()).to_le_bytes());
            entries.extend(u64::from(input.byte()).to_le_bytes());
            entries.push(input.byte() % 4);
            let payload = entry_payload(input);
            entries.extend((payload.len() as u32).to_le_bytes());
            entries.extend(payload);
        }
        let mut frame = vec![0; 4];
        frame.extend((entries.len() as u32).to_le_bytes());
        frame.extend(number.to_le_bytes());
        state.iter().for_each(|number| frame.extend(number.to_le_bytes()));
        frame.extend(u32::from(count).to_le_bytes());
        frame.extend(entries);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&FILE_ID.0), &frame[4..]);
        frame[..4].copy_from_slice(&crc.to_le_bytes());
        frame.resize(frame.len().next_multiple_of(BLOCK_BYTES), 0);
        file.extend(frame);
        number += 1;
    }
    file
}

/// Bytes, or records at an offset.
pub(super) fn entry_payload(input: &mut Input<'_>) -> Vec<u8> {
    match input.byte() % 3 {
        0 => Vec::new(),
        1 => input.piece().to_vec(),
        _ => {
            let mut payload = u64::from(input.byte()).to_le_bytes().to_vec();
            payload.extend(u32::from(input.byte()).to_le_bytes());
            payload.extend(input.piece());
            payload
        }
    }
}

/// The bytes as they are, and the file made of them.
fn log(raw: &[u8], file: &[u8], bytes_max: usize) {
    let _ = bounded(bytes_max, || scan("l", raw));
    let Ok(found) = bounded(bytes_max, || scan("l", file)) else { return };
    assert!(found.valid_bytes <= file.len() as u64 && found.last_frame <= found.valid_bytes);
    assert!(found.last().index >= found.header.base.index);
}

/// A directory with a snapshot or without, and up to two log files.
fn directory(mut input: Input<'_>, bytes_max: usize) {
    let choice = input.byte();
    let mut disk = Disk::default();
    if choice & 8 == 0 {
        disk.put(META_PROPERTIES, META.encode().to_vec());
    }
    let (index, file) = sealed_snapshot(&mut input);
    if choice & 1 != 0 {
        disk.put(&format!("{DIRECTORY}/snapshot"), file);
    }
    if choice & 2 != 0 {
        let next = index + 1;
        let file = log_file(&mut Input::new(input.piece()), next);
        disk.put(&format!("{DIRECTORY}/quorum-{next:020}.log"), file);
    }
    if choice & 4 != 0 {
        let mut file = log_file(&mut Input::new(input.piece()), index);
        file.extend(input.rest());
        disk.put(&format!("{DIRECTORY}/quorum-{index:020}.log"), file);
    }
    opened(disk, bytes_max);
}

/// A directory that was written before there was a quorum: a log file of version 1, and a snapshot or none.
fn old_directory(mut input: Input<'_>, bytes_max: usize) {
    let choice = input.byte();
    let mut disk = Disk::default();
    if choice & 8 == 0 {
        disk.put(META_PROPERTIES, META.encode().to_vec());
    }
    let mut base_offset = 0;
    if choice & 1 != 0 {
        base_offset = u64::from(input.byte());
        let mut file = b"MSTRSNAP".to_vec();
        file.extend(1u32.to_le_bytes());
        file.extend(base_offset.to_le_bytes());
        file.extend(u32::from(input.byte()).to_le_bytes());
        let records = input.piece();
        file.extend((records.len() as u64).to_le_bytes());
        file.extend(records);
        let crc = crc32c::crc32c(&file);
        file.extend(crc.to_le_bytes());
        disk.put(&format!("{DIRECTORY}/snapshot"), file);
    }
    let mut file = b"MSTRMETA".to_vec();
    file.extend(1u32.to_le_bytes());
    file.extend(base_offset.to_le_bytes());
    file.extend(FILE_ID.0);
    file.resize(BLOCK_BYTES - 4, 0);
    let crc = crc32c::crc32c(&file);
    file.extend(crc.to_le_bytes());
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
    disk.put(&format!("{DIRECTORY}/{base_offset:020}.log"), file);
    opened(disk, bytes_max);
}

/// What can be opened can be opened again, is written to, and is what was written.
fn opened(mut disk: Disk, bytes_max: usize) {
    // Files are read whole, in pieces of a MiB; the disk is in memory too.
    let bytes_max = bytes_max + (8 << 20);
    bounded(bytes_max, || {
        let mut open = |random| identity::open(&mut |op| disk.execute(op), 1, random);
        let Ok(OpenedDirectory { meta, quorum, .. }) = open([1; 48]) else { return };
        // What was cleared away does not come back.
        let again = open([2; 48]).expect("what was opened can be opened again");
        assert_eq!((again.meta, again.quorum.image()), (meta, quorum.image()));
        let mut quorum = again.quorum.with_log_bytes_max(2 * BLOCK_BYTES as u64);
        let next = MetadataRecord::ProducerIds { next: i64::MAX };
        if quorum.image().check(&next).is_err() || !quorum.members().is_sole_voter(quorum.me()) {
            return;
        }
        quorum.campaign();
        settle(&mut quorum, &mut disk);
        quorum.propose(quorum.image().offset() + 1, &[next]).expect("the only voter leads");
        settle(&mut quorum, &mut disk);
        let again = identity::open(&mut |op| disk.execute(op), 1, [3; 48]).expect("a directory of ours");
        assert_eq!(again.quorum.image(), quorum.image());
        assert_eq!(quorum.image().next_producer_id(), i64::MAX);
    });
}

/// Does what a member wants of the disk, until it wants nothing more.
fn settle(quorum: &mut Quorum, disk: &mut Disk) {
    loop {
        let op = quorum.outputs().into_iter().find_map(|output| match output {
            Output::Disk(op) => Some(op),
            Output::Failed { reason } => panic!("{reason}"),
            _ => None,
        });
        let Some(op) = op else { return };
        quorum.disk(disk.execute(op));
    }
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
        metadata_versions: METADATA_VERSIONS,
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
        MetadataRecord::MetadataVersion { level: 1 },
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
    let member = Member::new(META.node_id, META.directory_id, None);
    assert_eq!(member.id, MemberId::of_directory(META.directory_id));
    let members = millstream_replication::quorum::Members::of_voters([member]);
    let snapshot = [&[5, 1, image.offset() as u8, 0, kept.len() as u8], &piece(&bytes(&kept))[..]].concat();
    let records = |offset: u8, records: &[MetadataRecord]| {
        [&[2, offset, records.len() as u8], &piece(&bytes(records))[..]].concat()
    };
    let more = records(image.offset() as u8 + 1, &[MetadataRecord::ProducerIds { next: 3000 }]);
    // In term 2, voted for nobody, all committed: nothing, then records.
    let frames = [&[1, 2, 0, 5, 1, 6, 2, 0, 0, 2, 0, 6, 1, 7, 2, 1], &more[..]].concat();
    let old_snapshot = [&[image.offset() as u8, kept.len() as u8], &piece(&bytes(&kept))[..]].concat();
    let old_whole = [&[history.len() as u8], &piece(&bytes(&history))[..]].concat();
    // A record of the retired type that names the node, as the second of the first entry.
    let named = [&bytes(&history[..1])[..], &[2, 1, 1, 0, 0, 0]].concat();
    let named = [&[2], &piece(&named)[..]].concat();
    // A broker in the first layout: without endpoints and rack.
    let old = [&bytes(&history[..1])[..], &[3, 1, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
    let old = [&[2], &piece(&old)[..]].concat();
    let unsealed = |file: &[u8]| file[..file.len() - "crc32c=00000000\n".len()].to_vec();
    let mark = CleanShutdown { directory_id: META.directory_id, broker_epoch: 7 };
    vec![
        [&[0], &encode_snapshot(5, 1, &members, &image)[..]].concat(),
        [&[1], &snapshot[..]].concat(),
        [&[2], &frames[..]].concat(),
        [&[3, 5], &snapshot[..], &piece(&frames)[..]].concat(),
        [&[3, 5], &snapshot[..], &piece(&frames)[..], &[7; 30]].concat(),
        [&[3, 7], &snapshot[..], &piece(&[1]), &piece(&frames)[..]].concat(),
        [&[4, 0], &old_whole[..]].concat(),
        [&[4, 1], &old_snapshot[..]].concat(),
        [&[4, 8], &named[..]].concat(),
        [&[4, 0], &old[..]].concat(),
        [&[5], &META.encode()[..]].concat(),
        [&[5], &unsealed(&META.encode())[..]].concat(),
        [&[5], &unsealed(&mark.encode())[..]].concat(),
    ]
}
