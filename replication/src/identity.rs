//! Whose a data directory is, and how the last process that used it ended: `docs/directory-format.md`.
//!
//! `meta.properties` ties the directory to a cluster and a node and gives it an identity of its own, as Kafka's file of
//! that name does. It is written once, when the directory's log of the quorum is there, and never changes.
//! `.millstream_candidate` is there only before that: it keeps the identity that a new directory has drawn.
//! `.millstream_cleanshutdown` is there only between a clean stop and the next start (Kafka: `.kafka_cleanshutdown`,
//! KIP-966).
//!
//! [`open`] finds out whether the directory may be used at all, and opens its log of the quorum.

use bytes::Bytes;
use millstream_storage::{DiskError, DiskOp, DiskReply, TopicId};

use crate::log::{self, Corrupt, FileId, Io};
use crate::quorum::{self, Founding, Member, MemberId, Quorum, Snapshot};
use crate::random_id;

/// The file that says whose the directory is, below the data directory.
pub const META_PROPERTIES: &str = "meta.properties";
/// The file that a clean stop leaves, below the data directory.
pub const CLEAN_SHUTDOWN: &str = ".millstream_cleanshutdown";
/// The file of a directory that belongs to no cluster yet, below the data directory.
pub const CANDIDATE: &str = ".millstream_candidate";
/// What holds partitions, below the data directory: where one of them is not empty there are records to lose.
const DATA_DIRECTORIES: [&str; 3] = ["shards", "topics", "strays"];

/// The version of both files that is written.
const VERSION: u32 = 1;
/// Either file is shorter, in bytes.
const FILE_BYTES_MAX: usize = 1024;
/// The name of the last property: the checksum of all lines before it.
const CHECKSUM: &str = "crc32c=";

/// What a directory's `meta.properties` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaProperties {
    /// The cluster that its records belong to.
    pub cluster_id: [u8; 16],
    /// The node that it was made for.
    pub node_id: i32,
    /// The directory itself: drawn when it was made, so that one that was lost and made anew is another.
    pub directory_id: [u8; 16],
}

impl MetaProperties {
    /// The file's bytes.
    pub fn encode(&self) -> Bytes {
        seal(&[
            ("version", VERSION.to_string()),
            ("cluster.id", TopicId(self.cluster_id).to_base64()),
            ("node.id", self.node_id.to_string()),
            ("directory.id", TopicId(self.directory_id).to_base64()),
        ])
    }

    /// Reads the file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<MetaProperties, Corrupt> {
        let corrupt = |why| Corrupt { path: META_PROPERTIES.into(), position: 0, why };
        let [cluster_id, node_id, directory_id] =
            unseal(bytes, ["cluster.id", "node.id", "directory.id"]).map_err(corrupt)?;
        let found = MetaProperties {
            cluster_id: identity(cluster_id).map_err(corrupt)?,
            node_id: number(node_id).map_err(corrupt)?,
            directory_id: identity(directory_id).map_err(corrupt)?,
        };
        if found.encode() != bytes { Err(corrupt("it is not as Millstream writes it".into())) } else { Ok(found) }
    }

    /// The operation that marks the directory after a clean stop: everything acknowledged is where it belongs, and
    /// nothing is under way any more. `broker_epoch` is that of the registration that ends.
    pub fn mark_clean_shutdown(&self, broker_epoch: i64) -> DiskOp {
        let mark = CleanShutdown { directory_id: self.directory_id, broker_epoch };
        DiskOp::Replace { path: CLEAN_SHUTDOWN.into(), data: mark.encode() }
    }
}

/// What the file of a directory says that belongs to no cluster yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node that it was made for.
    pub node_id: i32,
    /// The directory itself.
    pub directory_id: [u8; 16],
}

impl Candidate {
    /// The member of a quorum that the directory becomes.
    pub fn member(&self, endpoint: Option<(String, u16)>) -> Member {
        Member::new(self.node_id, self.directory_id, endpoint)
    }

    /// The file's bytes.
    pub fn encode(&self) -> Bytes {
        seal(&[
            ("version", VERSION.to_string()),
            ("node.id", self.node_id.to_string()),
            ("directory.id", TopicId(self.directory_id).to_base64()),
        ])
    }

    /// Reads the file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Candidate, Corrupt> {
        let corrupt = |why| Corrupt { path: CANDIDATE.into(), position: 0, why };
        let [node_id, directory_id] = unseal(bytes, ["node.id", "directory.id"]).map_err(corrupt)?;
        let found = Candidate {
            node_id: number(node_id).map_err(corrupt)?,
            directory_id: identity(directory_id).map_err(corrupt)?,
        };
        if found.encode() != bytes { Err(corrupt("it is not as Millstream writes it".into())) } else { Ok(found) }
    }
}

/// The operation that takes the mark of a clean stop away. It has to be durable before anything is acknowledged.
pub fn unmark_clean_shutdown() -> DiskOp {
    DiskOp::Remove { path: CLEAN_SHUTDOWN.into() }
}

/// What the mark of a clean stop says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanShutdown {
    /// The directory that was marked: a mark that was copied from another one does not count.
    pub directory_id: [u8; 16],
    /// The epoch of the registration that ended with the stop.
    pub broker_epoch: i64,
}

impl CleanShutdown {
    /// The file's bytes.
    pub fn encode(&self) -> Bytes {
        seal(&[
            ("version", VERSION.to_string()),
            ("directory.id", TopicId(self.directory_id).to_base64()),
            ("broker.epoch", self.broker_epoch.to_string()),
        ])
    }

    /// Reads the file's bytes; the error says what is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<CleanShutdown, String> {
        let [directory_id, broker_epoch] = unseal(bytes, ["directory.id", "broker.epoch"])?;
        let found = CleanShutdown { directory_id: identity(directory_id)?, broker_epoch: number(broker_epoch)? };
        if found.encode() != bytes { Err("it is not as Millstream writes it".into()) } else { Ok(found) }
    }
}

/// Properties, one a line, under a checksum in the last one.
fn seal(properties: &[(&str, String)]) -> Bytes {
    let mut text = String::new();
    for (name, value) in properties {
        text.push_str(&format!("{name}={value}\n"));
    }
    let checksum = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("{CHECKSUM}{checksum:08x}\n"));
    assert!(text.len() <= FILE_BYTES_MAX);
    text.into()
}

/// The values of the properties of these names, which follow the version in this order and are all there are.
fn unseal<'a, const N: usize>(bytes: &'a [u8], names: [&str; N]) -> Result<[&'a str; N], String> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("the file is larger than {FILE_BYTES_MAX} bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "the file is not text")?;
    let at = text.rfind(CHECKSUM).ok_or("the file has no checksum: Millstream has not written it")?;
    let (sealed, checksum) = text.split_at(at);
    if checksum.trim_end() != format!("{CHECKSUM}{:08x}", crc32c::crc32c(sealed.as_bytes())) {
        return Err("the checksum is wrong".into());
    }
    let mut lines = sealed.lines();
    let mut value = |name: &str| {
        let line = lines.next().unwrap_or_default();
        line.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')).ok_or(format!("it does not say {name}"))
    };
    let version = value("version")?;
    if version != VERSION.to_string() {
        return Err(format!(
            "format version {version} is not known to this version of Millstream, which writes {VERSION}"
        ));
    }
    let mut values = [""; N];
    for (place, name) in values.iter_mut().zip(names) {
        *place = value(name)?;
    }
    Ok(values)
}

fn identity(text: &str) -> Result<[u8; 16], String> {
    TopicId::from_base64(text).map(|id| id.0).ok_or(format!("{text:?} is no identity"))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

/// A data directory that may be used.
pub struct OpenedDirectory {
    /// Whose it is.
    pub meta: MetaProperties,
    /// The mark of a clean stop, if the last process left one.
    pub clean_shutdown: Option<CleanShutdown>,
    /// Its log of the quorum, with what it says.
    pub quorum: Quorum,
}

/// Why a data directory cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The metadata log, or `meta.properties`, cannot be read or trusted.
    Log(log::OpenError),
    /// The data directory belongs to another node.
    AnotherNode {
        /// The `node.id` that the directory was made with.
        stored: i32,
        /// The `node.id` given now.
        given: i32,
    },
    /// `meta.properties` is of one cluster, the metadata log of another.
    AnotherCluster {
        /// The cluster that `meta.properties` names.
        directory: [u8; 16],
        /// The cluster that the log names.
        log: [u8; 16],
    },
    /// There is metadata, and nothing says whose.
    IdentityMissing,
    /// There is no metadata, but there are partitions, or there was metadata before.
    MetadataMissing,
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Log(error) => write!(f, "{error}"),
            OpenError::AnotherNode { stored, given } => write!(
                f,
                "the data directory belongs to node.id {stored}, not {given}: set node.id={stored}, or give another directory"
            ),
            OpenError::AnotherCluster { directory, log } => write!(
                f,
                "{META_PROPERTIES} belongs to cluster {}, but the `{}` directory to cluster {}; nothing was changed: restore \
                 both from one copy",
                TopicId(*directory).to_base64(),
                log::DIRECTORY,
                TopicId(*log).to_base64()
            ),
            OpenError::IdentityMissing => write!(
                f,
                "the data directory holds metadata but {META_PROPERTIES} is missing; nothing was changed: restore that file \
                 from a copy, or start with an empty data directory"
            ),
            OpenError::MetadataMissing => write!(
                f,
                "the data directory was in use but its metadata is missing: there is no {}; nothing was changed: restore the \
                 `{}` directory from a copy, or start with an empty data directory",
                log::SNAPSHOT,
                log::DIRECTORY
            ),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<log::OpenError> for OpenError {
    fn from(error: log::OpenError) -> OpenError {
        OpenError::Log(error)
    }
}

/// What a directory is found to be.
pub enum Found {
    /// It belongs to a cluster.
    Member(Box<OpenedDirectory>),
    /// It belongs to none yet, and holds nothing.
    Candidate(Candidate),
}

/// Random bytes as identities: a cluster's, a directory's, a log file's.
struct Ids([u8; 48]);

impl Ids {
    fn third(&self, third: usize) -> [u8; 16] {
        self.0[third * 16..][..16].try_into().expect("a third of 48 bytes")
    }

    fn cluster(&self) -> [u8; 16] {
        random_id::uuid(u128::from_be_bytes(self.third(0)))
    }

    fn directory(&self) -> [u8; 16] {
        random_id::uuid(u128::from_be_bytes(self.third(1)))
    }

    fn file(&self) -> FileId {
        FileId(self.third(2))
    }

    /// What election time-outs are drawn from.
    fn seed(&self) -> u64 {
        let [high, low] = random_id::halves(u128::from_be_bytes(self.third(2)));
        random_id::mix(high ^ random_id::mix(low))
    }
}

/// Opens the directory of the node that is configured as `node_id`, like [`find`]. An empty one becomes that of a new
/// cluster, whose only voter it is and whose identity is made out of `random`.
pub fn open(io: &mut Io<'_>, node_id: i32, random: [u8; 48]) -> Result<OpenedDirectory, OpenError> {
    match find(io, node_id, random)? {
        Found::Member(opened) => Ok(*opened),
        Found::Candidate(candidate) => {
            let founding = Founding::new(Ids(random).cluster(), vec![candidate.member(None)]);
            begin(io, candidate, founding.snapshot(), random)
        }
    }
}

/// Opens the directory of the node that is configured as `node_id`: reads what is there and finishes what a crash
/// interrupted. An empty one becomes a candidate, with an identity out of `random` that it keeps. One that a node kept for
/// itself before there was a quorum becomes that of a quorum of one.
pub fn find(io: &mut Io<'_>, node_id: i32, random: [u8; 48]) -> Result<Found, OpenError> {
    let ids = Ids(random);
    let stored = read_meta_properties(io)?;
    let candidate = read_candidate(io)?;
    let owner = stored.map(|meta| meta.node_id).or(candidate.map(|candidate| candidate.node_id));
    check_node(owner, node_id)?;
    let directory_id = stored.map(|meta| meta.directory_id).or(candidate.map(|candidate| candidate.directory_id));
    let directory_id = directory_id.unwrap_or_else(|| ids.directory());
    let me = MemberId::of_directory(directory_id);
    if let Some(quorum) = quorum::open(io, me, ids.seed())? {
        if stored.is_none() && candidate.is_none() {
            return Err(OpenError::IdentityMissing);
        }
        return finish(io, stored, Candidate { node_id, directory_id }, quorum).map(Box::new).map(Found::Member);
    }
    let Some(old) = log::v1::open(io)? else {
        if stored.is_some() || holds_data(io)? {
            return Err(OpenError::MetadataMissing);
        }
        let candidate = Candidate { node_id, directory_id };
        log::run(io, DiskOp::Replace { path: CANDIDATE.into(), data: candidate.encode() })?;
        return Ok(Found::Candidate(candidate));
    };
    check_node(old.node_id, node_id)?;
    let cluster_id = old.image.cluster().ok_or(OpenError::IdentityMissing)?;
    if stored.is_none() && old.node_id.is_none() {
        return Err(OpenError::IdentityMissing);
    }
    // Before the old log, which says whose it is, goes.
    let meta = stored.unwrap_or(MetaProperties { cluster_id, node_id, directory_id });
    check_cluster(&meta, Some(cluster_id))?;
    if stored.is_none() {
        log::run(io, DiskOp::Replace { path: META_PROPERTIES.into(), data: meta.encode() })?;
    }
    let voters = vec![Member::new(node_id, directory_id, None)];
    let snapshot = Founding { image: old.image, voters }.snapshot();
    let quorum = quorum::create(io, me, ids.file(), snapshot, ids.seed())?;
    finish(io, Some(meta), Candidate { node_id, directory_id }, quorum).map(Box::new).map(Found::Member)
}

/// Makes a candidate's directory that of a member of the quorum which this snapshot names it in.
pub fn begin(
    io: &mut Io<'_>,
    candidate: Candidate,
    snapshot: Snapshot,
    random: [u8; 48],
) -> Result<OpenedDirectory, OpenError> {
    let ids = Ids(random);
    let me = MemberId::of_directory(candidate.directory_id);
    assert!(snapshot.members.get(me).is_some(), "a snapshot of a quorum to which the directory belongs");
    let quorum = quorum::create(io, me, ids.file(), snapshot, ids.seed())?;
    finish(io, None, candidate, quorum)
}

/// The log of the quorum is there: now the directory says to whom it belongs.
fn finish(
    io: &mut Io<'_>,
    stored: Option<MetaProperties>,
    candidate: Candidate,
    quorum: Quorum,
) -> Result<OpenedDirectory, OpenError> {
    let cluster = quorum.image().cluster();
    let meta = match stored {
        Some(meta) => meta,
        None => {
            let cluster_id = cluster.ok_or(OpenError::IdentityMissing)?;
            let Candidate { node_id, directory_id } = candidate;
            let meta = MetaProperties { cluster_id, node_id, directory_id };
            log::run(io, DiskOp::Replace { path: META_PROPERTIES.into(), data: meta.encode() })?;
            meta
        }
    };
    check_cluster(&meta, cluster)?;
    log::run(io, DiskOp::Remove { path: CANDIDATE.into() })?;
    let clean_shutdown = read_clean_shutdown(io)?.filter(|mark| mark.directory_id == meta.directory_id);
    Ok(OpenedDirectory { meta, clean_shutdown, quorum })
}

fn check_node(stored: Option<i32>, given: i32) -> Result<(), OpenError> {
    match stored {
        Some(stored) if stored != given => Err(OpenError::AnotherNode { stored, given }),
        _ => Ok(()),
    }
}

fn check_cluster(meta: &MetaProperties, log: Option<[u8; 16]>) -> Result<(), OpenError> {
    if log == Some(meta.cluster_id) {
        return Ok(());
    }
    Err(OpenError::AnotherCluster { directory: meta.cluster_id, log: log.unwrap_or_default() })
}

fn read_meta_properties(io: &mut Io<'_>) -> Result<Option<MetaProperties>, OpenError> {
    match read_small(io, META_PROPERTIES)? {
        Some(bytes) => MetaProperties::decode(&bytes).map(Some).map_err(|why| log::OpenError::Corrupt(why).into()),
        None => Ok(None),
    }
}

fn read_candidate(io: &mut Io<'_>) -> Result<Option<Candidate>, OpenError> {
    match read_small(io, CANDIDATE)? {
        Some(bytes) => Candidate::decode(&bytes).map(Some).map_err(|why| log::OpenError::Corrupt(why).into()),
        None => Ok(None),
    }
}

/// A mark that cannot be read is none: the stop may not have come to its end.
fn read_clean_shutdown(io: &mut Io<'_>) -> Result<Option<CleanShutdown>, OpenError> {
    Ok(read_small(io, CLEAN_SHUTDOWN)?.and_then(|bytes| CleanShutdown::decode(&bytes).ok()))
}

/// A file of at most [`FILE_BYTES_MAX`] bytes, or the beginning of a longer one; none where there is none.
fn read_small(io: &mut Io<'_>, path: &str) -> Result<Option<Bytes>, OpenError> {
    match log::run(io, DiskOp::Read { path: path.into(), position: 0, bytes: FILE_BYTES_MAX + 1 }) {
        Ok(DiskReply::Data(bytes)) => Ok(Some(bytes)),
        Ok(other) => panic!("a read brings data, not {other:?}"),
        Err(log::OpenError::Disk { error: DiskError::NotFound, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether there is anything of any partition.
fn holds_data(io: &mut Io<'_>) -> Result<bool, OpenError> {
    for directory in DATA_DIRECTORIES {
        match log::run(io, DiskOp::List { path: directory.into() })? {
            DiskReply::Names(names) if names.is_empty() => {}
            DiskReply::Names(_) => return Ok(true),
            other => panic!("a list brings names, not {other:?}"),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millstream_storage::random::Random;

    use super::*;
    use crate::image::ClusterImage;
    use crate::log::disk::Disk;
    use crate::log::samples::{frozen, testdata};
    use crate::log::v1::tests::first_log;
    use crate::record::MetadataRecord;

    const NODE: i32 = 3;
    /// The log of a directory that was made before there was a quorum.
    const OLD_LOG: &str = "metadata/00000000000000000000.log";
    const FIRST_LOG: &str = "metadata/quorum-00000000000000000001.log";

    fn meta() -> MetaProperties {
        MetaProperties {
            cluster_id: 0x0123_4567_89ab_4def_bedc_ba98_7654_3210u128.to_be_bytes(),
            node_id: NODE,
            directory_id: 0x0f0f_0f0f_0f0f_4f0f_8f0f_0f0f_0f0f_0f0fu128.to_be_bytes(),
        }
    }

    fn mark() -> CleanShutdown {
        CleanShutdown { directory_id: meta().directory_id, broker_epoch: 42 }
    }

    /// What of a directory can be compared.
    #[derive(Debug, PartialEq)]
    struct Opened {
        meta: MetaProperties,
        clean_shutdown: Option<CleanShutdown>,
        image: ClusterImage,
    }

    fn open_on(disk: &mut Disk, node_id: i32, random: u8) -> Result<Opened, OpenError> {
        let random = std::array::from_fn(|at| random ^ at as u8);
        let OpenedDirectory { meta, clean_shutdown, quorum } = open(&mut |op| disk.run(op), node_id, random)?;
        Ok(Opened { meta, clean_shutdown, image: quorum.image().clone() })
    }

    /// Opens a copy of these files; the directory must be refused, and stay as it is.
    fn refused(files: &BTreeMap<String, Vec<u8>>, node_id: i32) -> OpenError {
        let mut disk = Disk { files: files.clone(), ..Disk::new() };
        let why = open_on(&mut disk, node_id, 9).expect_err("it is refused");
        assert_eq!(&disk.files, files, "nothing is changed");
        why
    }

    /// A directory that was made before there was a `meta.properties`: that of node 3, with a topic.
    fn old_directory() -> BTreeMap<String, Vec<u8>> {
        BTreeMap::from([(OLD_LOG.to_string(), testdata("cluster-v1-node.bin"))])
    }

    fn new_directory() -> BTreeMap<String, Vec<u8>> {
        let mut disk = Disk::new();
        open_on(&mut disk, NODE, 7).expect("an empty directory");
        disk.files
    }

    #[test]
    fn the_files_have_the_bytes_they_always_had() {
        frozen("meta-properties-v1.txt", &meta().encode());
        assert_eq!(MetaProperties::decode(&meta().encode()), Ok(meta()));
        let candidate = Candidate { node_id: NODE, directory_id: meta().directory_id };
        frozen("candidate-v1.txt", &candidate.encode());
        assert_eq!(Candidate::decode(&candidate.encode()), Ok(candidate));
        frozen("cleanshutdown-v1.txt", &mark().encode());
        assert_eq!(CleanShutdown::decode(&mark().encode()), Ok(mark()));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_refused() {
        let is_refused = |bytes: &[u8]| MetaProperties::decode(bytes).is_err() && CleanShutdown::decode(bytes).is_err();
        for bytes in [meta().encode(), mark().encode()] {
            for length in 0..bytes.len() {
                assert!(is_refused(&bytes[..length]), "{length}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(is_refused(&flipped), "{bit}");
            }
            assert!(is_refused(&[&bytes[..], b"\n"].concat()), "one line more");
        }
    }

    #[test]
    fn what_is_not_ours_is_refused_by_what_is_wrong() {
        let why = |bytes: &[u8]| MetaProperties::decode(bytes).expect_err("refused").to_string();
        let kafkas = b"#\n#Fri Nov 27 10:00:00 UTC 2026\nnode.id=3\nversion=1\ncluster.id=ASNFZ4mrTe--3LqYdlQyEA\n";
        assert!(why(kafkas).contains("Millstream has not written it"), "{}", why(kafkas));
        let later = seal(&[("version", "2".into()), ("everything", "else".into())]);
        assert!(why(&later).contains("version 2"), "{}", why(&later));
        let odd = seal(&[
            ("version", "1".into()),
            ("cluster.id", TopicId(meta().cluster_id).to_base64()),
            ("node.id", "+3".into()),
            ("directory.id", TopicId(meta().directory_id).to_base64()),
        ]);
        assert!(why(&odd).contains("not as Millstream writes it"), "{}", why(&odd));
        assert!(why(&[b'x'; FILE_BYTES_MAX + 1]).contains("larger"), "too long");
    }

    #[test]
    fn a_first_start_makes_a_cluster_and_later_ones_keep_it() {
        let mut disk = Disk::new();
        let Opened { meta, image, clean_shutdown } = open_on(&mut disk, NODE, 7).expect("empty");
        assert!(!disk.files.contains_key(CANDIDATE), "it belongs to a cluster now");
        assert_eq!((image.offset(), image.cluster(), clean_shutdown), (1, Some(meta.cluster_id), None));
        assert_eq!(image.cluster_id().len(), 22);
        assert_ne!(meta.cluster_id, meta.directory_id);
        let again = open_on(&mut disk, NODE, 8).expect("it is ours");
        assert_eq!((again.meta, again.image), (meta, image));

        let why = refused(&disk.files, 2);
        assert_eq!(why, OpenError::AnotherNode { stored: NODE, given: 2 });
        assert!(why.to_string().contains("set node.id=3"));
    }

    #[test]
    fn a_directory_of_before_is_given_its_identity() {
        let mut disk = Disk { files: old_directory(), ..Disk::new() };
        let opened = open_on(&mut disk, NODE, 7).expect("it is ours");
        assert_eq!(opened.image.cluster_id(), "t_CvKGZVTbimfONNNDnrzg");
        assert_eq!(opened.meta.cluster_id, opened.image.cluster().expect("it has one"));
        assert_eq!(opened.image.offset(), 7, "the record that names the node counts");
        assert_eq!(opened.image.topic("orders").expect("it is there").partitions.len(), 2);
        let again = open_on(&mut disk, NODE, 8).expect("it is ours");
        assert_eq!((again.meta, &again.image), (opened.meta, &opened.image));

        // What it has become does not name the node any more.
        assert!(!disk.files.contains_key(OLD_LOG));
        disk.files.remove(META_PROPERTIES);
        assert_eq!(refused(&disk.files, NODE), OpenError::IdentityMissing);

        assert_eq!(refused(&old_directory(), 1), OpenError::AnotherNode { stored: NODE, given: 1 });
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let whole = new_directory();
        let without = |name: &str| {
            let mut files = whole.clone();
            files.remove(name).expect("it was there");
            files
        };
        let with_data = |mut files: BTreeMap<String, Vec<u8>>, name: &str| {
            files.insert(name.into(), vec![1]);
            files
        };
        assert_eq!(refused(&without(META_PROPERTIES), NODE), OpenError::IdentityMissing);
        for name in ["topics/t/i/0/0.log", "shards/gen-1/shard-0/checkpoint", "strays/t-0.i-stray/checkpoint"] {
            let mut gone = with_data(without(FIRST_LOG), name);
            gone.remove(log::SNAPSHOT);
            assert_eq!(refused(&gone, NODE), OpenError::MetadataMissing);
            assert_eq!(refused(&with_data(BTreeMap::new(), name), NODE), OpenError::MetadataMissing);
            // A log that holds nothing is none.
            let mut empty = with_data(BTreeMap::new(), name);
            empty.insert(OLD_LOG.into(), first_log(&[]));
            assert_eq!(refused(&empty, NODE), OpenError::MetadataMissing);
        }
        let mut mixed = whole.clone();
        mixed.insert(META_PROPERTIES.into(), meta().encode().to_vec());
        let why = refused(&mixed, NODE);
        assert!(matches!(why, OpenError::AnotherCluster { directory, .. } if directory == meta().cluster_id), "{why}");
        let mut migrated = old_directory();
        migrated.insert(META_PROPERTIES.into(), MetaProperties { node_id: 4, ..meta() }.encode().to_vec());
        assert_eq!(refused(&migrated, 4), OpenError::AnotherNode { stored: NODE, given: 4 });
        let mut damaged = whole.clone();
        damaged.get_mut(META_PROPERTIES).expect("it is there")[30] ^= 1;
        assert!(refused(&damaged, NODE).to_string().starts_with("meta.properties is damaged"));

        // Found by fuzzing: a history that names a node and no cluster, and the other way round.
        let no_cluster = first_log(&[MetadataRecord::ProducerIds { next: 1 }]);
        let no_node = first_log(&[MetadataRecord::Cluster { cluster_id: [1; 16] }]);
        for log in [no_cluster, no_node] {
            assert_eq!(refused(&BTreeMap::from([(OLD_LOG.into(), log)]), NODE), OpenError::IdentityMissing);
        }
    }

    /// A directory whose log is gone was somebody: it may have voted, and must not begin anew under its name.
    #[test]
    fn an_identity_without_its_log_is_refused() {
        let files = BTreeMap::from([(META_PROPERTIES.to_string(), meta().encode().to_vec())]);
        assert_eq!(refused(&files, NODE), OpenError::MetadataMissing);
    }

    #[test]
    fn a_candidate_keeps_its_identity_until_it_belongs_to_a_cluster() {
        let candidate = Candidate { node_id: NODE, directory_id: meta().directory_id };
        let mut disk = Disk::new();
        disk.files.insert(CANDIDATE.into(), candidate.encode().to_vec());
        assert_eq!(refused(&disk.files, 4), OpenError::AnotherNode { stored: NODE, given: 4 });
        let opened = open_on(&mut disk, NODE, 7).expect("it is ours");
        assert_eq!(opened.meta.directory_id, candidate.directory_id);
    }

    #[test]
    fn a_crash_within_any_operation_of_a_first_start_or_a_migration_is_recovered_from() {
        for files in [BTreeMap::new(), old_directory()] {
            let mut whole = Disk { files: files.clone(), ..Disk::new() };
            let expected = open_on(&mut whole, NODE, 1).expect("it opens").image;
            assert!(whole.changes >= 5, "{}", whole.changes);
            for crash in 0..whole.changes {
                for lot in 0..8 {
                    let torn = Random::new(crash << 8 | lot);
                    let mut disk = Disk { files: files.clone(), until_crash: Some(crash), torn, ..Disk::new() };
                    let mut restarts = 0;
                    let opened = loop {
                        match open_on(&mut disk, NODE, 2 + restarts as u8) {
                            Ok(opened) => break opened,
                            Err(OpenError::Log(log::OpenError::Disk { .. })) => {}
                            Err(why) => panic!("crash {crash}, lot {lot}: {why}"),
                        }
                        assert!(disk.crashed);
                        disk = disk.restarted();
                        restarts += 1;
                        // The next start may crash as well, within each of its own operations.
                        disk.until_crash = (restarts < lot).then_some(lot % 5);
                        disk.torn = Random::new(lot);
                    };
                    disk.until_crash = None;
                    let image = &opened.image;
                    assert_eq!(image.cluster(), Some(opened.meta.cluster_id), "crash {crash}, lot {lot}");
                    assert_eq!(image.offset(), expected.offset());
                    assert!(files.is_empty() || *image == expected);
                    let again = open_on(&mut disk, NODE, 99).expect("it is ours");
                    assert_eq!((again.meta, &again.image), (opened.meta, image));
                }
            }
        }
    }

    #[test]
    fn a_clean_stop_is_known_until_its_mark_is_taken_away() {
        let mut disk = Disk::new();
        let opened = open_on(&mut disk, NODE, 7).expect("empty");
        disk.run(opened.meta.mark_clean_shutdown(5)).expect("the disk has room");
        let mark = open_on(&mut disk, NODE, 8).expect("it is ours").clean_shutdown.expect("it was stopped");
        assert_eq!(mark, CleanShutdown { directory_id: opened.meta.directory_id, broker_epoch: 5 });
        disk.run(unmark_clean_shutdown()).expect("it works");
        assert_eq!(open_on(&mut disk, NODE, 9).expect("it is ours").clean_shutdown, None);

        // Neither the mark of another directory nor a damaged one counts.
        let mut of_another = self::mark().encode().to_vec();
        disk.files.insert(CLEAN_SHUTDOWN.into(), of_another.clone());
        assert_eq!(open_on(&mut disk, NODE, 9).expect("it is ours").clean_shutdown, None);
        of_another.truncate(10);
        disk.files.insert(CLEAN_SHUTDOWN.into(), of_another);
        assert_eq!(open_on(&mut disk, NODE, 9).expect("it is ours").clean_shutdown, None);
    }
}
