//! What a member finds on its disk, and what it founds there.

use std::collections::VecDeque;

use millstream_storage::{BLOCK_BYTES, DiskError, DiskOp, DiskReply};

use super::Quorum;
use super::disk::{LogFile, begin_file, log_path, snapshot_index_of, snapshot_path};
use super::entry::{Payload, payload};
use super::file::{HardState, Header, Position, Scan, scan};
use super::members::{Member, MemberId, Members};
use super::ready::replay;
use super::snapshot::{Snapshot, decode_snapshot, encode_snapshot, version};
use super::store::Store;
use crate::image::ClusterImage;
use crate::log::{self, Corrupt, DIRECTORY, FileId, Io, OpenError, run};
use crate::record::MetadataRecord;

/// Where a cluster's first entry stands, which is in its first snapshot.
const FIRST: Position = Position { index: 1, term: 1 };

/// What a new cluster begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// All that it knows.
    pub image: ClusterImage,
    /// Its voters.
    pub voters: Vec<Member>,
}

impl Founding {
    /// A cluster of which nothing is known but its identity.
    pub fn new(cluster_id: [u8; 16], voters: Vec<Member>) -> Founding {
        let mut image = ClusterImage::new();
        image.replay(&MetadataRecord::Cluster { cluster_id });
        Founding { image, voters }
    }

    /// Its first snapshot, which every one of its voters begins with.
    pub fn snapshot(self) -> Snapshot {
        let Position { index, term } = FIRST;
        Snapshot { index, term, members: Members::of_voters(self.voters), image: self.image }
    }
}

/// Opens the log of the member `me`: reads what is there and finishes what a crash interrupted; none where there is no
/// log of a quorum. `seed` is what its election time-outs are drawn from.
pub fn open(io: &mut Io<'_>, me: MemberId, seed: u64) -> Result<Option<Quorum>, OpenError> {
    let path = snapshot_path();
    let bytes = match log::read(io, &path) {
        Ok(bytes) => bytes,
        Err(OpenError::Disk { error: DiskError::NotFound, .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    if version(&bytes) == Some(log::v1::VERSION) {
        return Ok(None);
    }
    let snapshot = decode_snapshot(&path, &bytes).map_err(OpenError::Corrupt)?;
    let index = snapshot.index;
    let (found, file_bytes) = open_file(io, index)?;
    let path = log_path(index);
    let store = assemble(me, snapshot, &found).map_err(|why| corrupt(path.to_string(), why))?;
    clear_away(io, index)?;
    let mut allocated = file_bytes.len() as u64;
    let valid_bytes = usize::try_from(found.valid_bytes).expect("what was read");
    if file_bytes.get(valid_bytes..).unwrap_or_default().iter().any(|byte| *byte != 0) {
        // What a crash left of a write must not lie behind the next frame.
        run(io, DiskOp::Truncate { path, bytes: found.valid_bytes })?;
        allocated = found.valid_bytes;
    } else {
        // The last write may have been under way when the process ended: what can be read need not be durable, and must
        // be before anything is promised by it.
        run(io, DiskOp::Sync { path })?;
    }
    let file = LogFile::opened(&found.header, found.frames, found.valid_bytes, allocated, bytes.len() as u64);
    Ok(Some(Quorum::new(me, store, file, found.state, seed)))
}

/// Begins the log of the member `me` with a snapshot. What an interrupted attempt has left is written over; as long as the
/// snapshot is not there nothing of it counts.
pub fn create(
    io: &mut Io<'_>,
    me: MemberId,
    file_id: FileId,
    snapshot: Snapshot,
    seed: u64,
) -> Result<Quorum, OpenError> {
    run(io, DiskOp::CreateDirectory { path: DIRECTORY.into() })?;
    let base = Position { index: snapshot.index, term: snapshot.term };
    let header = Header { file_id, snapshot_index: base.index, base };
    let state = HardState { term: base.term, vote: 0, commit: base.index };
    let file = begin_file(&header, state, &[]);
    let position = file.len() as u64;
    run(io, DiskOp::Replace { path: log_path(base.index), data: file })?;
    let bytes = encode_snapshot(base.index, base.term, &snapshot.members, &snapshot.image);
    let snapshot_bytes = bytes.len() as u64;
    run(io, DiskOp::Replace { path: snapshot_path(), data: bytes })?;
    clear_away(io, base.index)?;
    let Snapshot { members, image, .. } = snapshot;
    let store = Store { base, entries: VecDeque::new(), state, applied: base, image, members };
    let file = LogFile::opened(&header, 1, position, position, snapshot_bytes);
    Ok(Quorum::new(me, store, file, state, seed))
}

/// Reads the log file that belongs to the snapshot at this index.
fn open_file(io: &mut Io<'_>, index: u64) -> Result<(Scan, Vec<u8>), OpenError> {
    let indexes = log_files(io)?;
    let path = log_path(index);
    if !indexes.contains(&index) {
        let why = format!("it is missing: the snapshot is at index {index}, there are the logs of {indexes:?}");
        return Err(corrupt(path.to_string(), why));
    }
    for newer in indexes.into_iter().filter(|other| *other > index) {
        // Made for a snapshot that was never written, so nothing was ever appended to it.
        let path = log_path(newer);
        let found = scan(&path, &log::read(io, &path)?).map_err(OpenError::Corrupt)?;
        if found.frames > 1 {
            let why = format!("it is old: it is at index {index}, and {path} was written to");
            return Err(corrupt(snapshot_path().to_string(), why));
        }
    }
    let bytes = log::read(io, &path)?;
    let found = scan(&path, &bytes).map_err(OpenError::Corrupt)?;
    if found.header.snapshot_index != index || found.frames == 0 {
        let why = format!(
            "its header says that it belongs to the snapshot at index {}, it holds {} frames",
            found.header.snapshot_index, found.frames
        );
        return Err(corrupt(path.to_string(), why));
    }
    Ok((found, bytes))
}

/// What the snapshot and the log come to.
fn assemble(me: MemberId, snapshot: Snapshot, found: &Scan) -> Result<Store, String> {
    let Snapshot { index, term, members, image } = snapshot;
    let mut store = Store {
        base: found.header.base,
        entries: found.entries.iter().cloned().collect(),
        state: found.state,
        applied: Position { index, term },
        image,
        members,
    };
    if store.term_at(index) != Some(term) {
        return Err(format!("it holds no entry at index {index} of term {term}, where its snapshot was taken"));
    }
    for entry in found.entries.iter().skip_while(|entry| entry.index <= index) {
        // What the only voter has written is committed.
        if entry.index > found.state.commit && !store.members.is_sole_voter(me) {
            break;
        }
        let at = entry.index;
        let applied = match payload(entry)? {
            Payload::Nothing => Ok(()),
            Payload::Records { offset, records } => replay(&mut store.image, offset, &records),
            Payload::Member(change) => store.members.check(&change).map(|()| store.members.apply(&change)),
        };
        applied.map_err(|why| format!("the entry at index {at}: {why}"))?;
        store.applied = Position { index: at, term: entry.term };
    }
    store.state.commit = store.state.commit.max(store.applied.index);
    Ok(store)
}

/// Removes what an interrupted snapshot or migration left beside the files that count.
fn clear_away(io: &mut Io<'_>, index: u64) -> Result<(), OpenError> {
    for other in log_files(io)?.into_iter().filter(|other| *other != index) {
        run(io, DiskOp::Remove { path: log_path(other) })?;
    }
    for path in log::v1::log_files(io)? {
        run(io, DiskOp::Remove { path })?;
    }
    Ok(())
}

/// The indexes of the snapshots to which the log files belong, in order.
fn log_files(io: &mut Io<'_>) -> Result<Vec<u64>, OpenError> {
    let DiskReply::Names(names) = run(io, DiskOp::List { path: DIRECTORY.into() })? else {
        panic!("a list brings names");
    };
    let mut indexes: Vec<u64> = names.iter().filter_map(|(name, _)| snapshot_index_of(name)).collect();
    indexes.sort_unstable();
    Ok(indexes)
}

fn corrupt(path: String, why: String) -> OpenError {
    OpenError::Corrupt(Corrupt { path, position: 0, why })
}

// Frames begin behind the header.
const _: () = assert!(BLOCK_BYTES > 64);
