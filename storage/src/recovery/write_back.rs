//! What only the journals hold is brought to segments. A file system commits one sync in a millisecond or ten, and many at
//! once in hardly more: so first all directories are made, then everything is written, and then all of it is made durable
//! by one operation. Nothing relies on any of it before that has ended.

use bytes::{Bytes, BytesMut};

use super::disk::Disk;
use super::replay::ReplayedPartition;
use super::{RecoveryError, WRITE_BYTES_MAX};
use crate::bug::{Bug, is_planted};
use crate::disk::FilePath;
use crate::segment::segment_path;

/// A partition, and the directory that it is written back to.
pub(super) type Destination<'a> = (&'a str, &'a mut ReplayedPartition);

/// What has been written and is not durable yet.
#[derive(Default)]
struct Unsynced {
    files: Vec<FilePath>,
    /// Where files were created.
    directories: Vec<FilePath>,
}

/// Brings bytes that only the journals hold to their segments, durably. Returns how many.
pub(super) fn write_back(disk: &mut Disk<'_, '_>, partitions: &mut [Destination<'_>]) -> Result<u64, RecoveryError> {
    let mut unsynced = Unsynced::default();
    for (directory, partition) in &*partitions {
        if has_new_segment(partition) {
            unsynced.directories.push((*directory).into());
        }
    }
    disk.create_directories("creating the directories of partitions", unsynced.directories.clone())?;
    let mut written = 0;
    for (directory, partition) in &mut *partitions {
        written += write_partition(disk, directory, partition, &mut unsynced.files)?;
    }
    if is_planted(Bug::ForgetNames) {
        unsynced.directories.clear();
    }
    if !is_planted(Bug::BeginBeforeSync) {
        disk.sync_all("syncing segments", unsynced.files, unsynced.directories)?;
    }
    for segment in partitions.iter_mut().flat_map(|(_, partition)| &mut partition.state.segments) {
        segment.synced = segment.bytes;
    }
    Ok(written)
}

/// Whether bytes of the partition go to a segment of which nothing is durable: its file may be missing, or its name may not
/// be durable.
fn has_new_segment(partition: &ReplayedPartition) -> bool {
    let mut new = partition.state.segments.iter().filter(|segment| segment.synced == 0);
    new.any(|segment| partition.bytes.binary_search_by_key(&segment.base_offset, |(base, ..)| *base).is_ok())
}

fn is_new(partition: &ReplayedPartition, base: i64) -> bool {
    let segments = &partition.state.segments;
    let index = segments.binary_search_by_key(&base, |segment| segment.base_offset);
    segments[index.expect("bytes are kept of segments that are there")].synced == 0
}

/// Writes what only the journal holds of a partition, and notes the files. Returns how many bytes that were.
fn write_partition(
    disk: &mut Disk<'_, '_>,
    directory: &str,
    partition: &mut ReplayedPartition,
    files: &mut Vec<FilePath>,
) -> Result<u64, RecoveryError> {
    let mut written = 0;
    for (base, position, run) in runs(std::mem::take(&mut partition.bytes)) {
        let path = segment_path(directory, base, 0);
        disk.overlay(&path, position, &run, is_new(partition, base))?;
        written += run.len() as u64;
        if files.last() != Some(&path) {
            files.push(path);
        }
    }
    Ok(written)
}

/// Joins bytes that follow each other.
fn runs(bytes: Vec<(i64, u64, Bytes)>) -> Vec<(i64, u64, BytesMut)> {
    let mut runs: Vec<(i64, u64, BytesMut)> = Vec::new();
    for (segment, position, data) in bytes {
        match runs.last_mut() {
            Some((base, start, run))
                if *base == segment && *start + run.len() as u64 == position && run.len() < WRITE_BYTES_MAX =>
            {
                run.extend_from_slice(&data);
            }
            _ => runs.push((segment, position, BytesMut::from(&data[..]))),
        }
    }
    runs
}
