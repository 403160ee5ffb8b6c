//! Disk operations with plain, blocking calls: for recovery at start and for the pool's threads.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic::resume_unwind;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;
use millstream_storage::block::Block;
use millstream_storage::compaction::Compaction;
use millstream_storage::{BLOCK_BYTES, DiskError, DiskOp, DiskReply, FilePath};
use rustix::fs::OFlags;

use super::sys::{self, Advice};

/// Threads that sync many files: so many syncs share a commit of the file system.
const THREADS_MAX: usize = 32;
/// A further thread is started for so many files.
const ITEMS_PER_THREAD_MIN: usize = 8;

/// Executes one operation below `root` and waits for it.
pub fn execute(root: &Path, operation: &DiskOp) -> Result<DiskReply, DiskError> {
    let done = |result: io::Result<()>| result.map(|()| DiskReply::Done).map_err(|error| failure(&error));
    match operation {
        DiskOp::Write { path, position, data, durable } => done(write(&resolve(root, path), *position, data, *durable)),
        DiskOp::Sync { path } => done(File::open(resolve(root, path)).and_then(|file| file.sync_data())),
        DiskOp::SyncAll { files, directories } => done(sync_all(root, files, directories)),
        DiskOp::Allocate { path, bytes } => done(allocate(&resolve(root, path), *bytes)),
        DiskOp::Read { path, position, bytes } => File::open(resolve(root, path))
            .and_then(|file| read(&file, *position, *bytes))
            .map(DiskReply::Data)
            .map_err(|error| failure(&error)),
        DiskOp::Replace { path, data } => done(replace(&resolve(root, path), data)),
        DiskOp::Truncate { path, bytes } => done(truncate(&resolve(root, path), *bytes)),
        DiskOp::Rename { from, to } => done(rename(&resolve(root, from), &resolve(root, to))),
        DiskOp::Remove { path } => done(remove(&resolve(root, path))),
        DiskOp::CreateDirectory { path } => done(create_directories(root, std::slice::from_ref(path))),
        DiskOp::CreateDirectories { paths } => done(create_directories(root, paths)),
        DiskOp::List { path } => list(&resolve(root, path)).map(DiskReply::Names).map_err(|error| failure(&error)),
        DiskOp::All(operations) => {
            in_parallel(operations, |operation| execute(root, operation).map(drop)).map(|()| DiskReply::Done)
        }
        DiskOp::Compact(_) => unreachable!("compactions are taken further by `compact`"),
    }
}

/// Takes a compaction a step further. It reads and writes past the page cache, which belongs to consumers.
pub fn compact(root: &Path, mut compaction: Box<Compaction>) -> Result<DiskReply, DiskError> {
    let step = compaction.step(&mut |operation| match &operation {
        DiskOp::Read { path, position, bytes } => {
            read_direct(&resolve(root, path), *position, *bytes).map(DiskReply::Data).map_err(|error| failure(&error))
        }
        DiskOp::Write { path, position, data, durable: false } => write_direct(&resolve(root, path), *position, data)
            .map(|()| DiskReply::Done)
            .map_err(|error| failure(&error)),
        other => execute(root, other),
    })?;
    Ok(DiskReply::Compacted(compaction, step))
}

/// Reads past the page cache, fewer bytes at the end of the file.
fn read_direct(path: &Path, position: u64, bytes: usize) -> io::Result<Bytes> {
    const BLOCK: u64 = BLOCK_BYTES as u64;
    let skip = (position % BLOCK) as usize;
    let mut block = Block::new((skip + bytes).next_multiple_of(BLOCK_BYTES));
    let file = open_direct(path)?;
    let start = position - skip as u64;
    let filled = fill(&mut block.spare_mut()[..(skip + bytes).next_multiple_of(BLOCK_BYTES)], |buffer, at| {
        // What is not a whole block is the end of the file.
        if at.is_multiple_of(BLOCK) { file.read_at(buffer, start + at) } else { Ok(0) }
    })?;
    block.commit(filled);
    Ok(block.slice(skip.min(filled)..(skip + bytes).min(filled)))
}

/// Writes past the page cache, padded to the end of the last block. The file exists.
fn write_direct(path: &Path, position: u64, data: &[Bytes]) -> io::Result<()> {
    let bytes: usize = data.iter().map(Bytes::len).sum();
    let mut block = Block::new(bytes.next_multiple_of(BLOCK_BYTES));
    data.iter().for_each(|part| block.append(part));
    block.append(&[0; BLOCK_BYTES][..bytes.next_multiple_of(BLOCK_BYTES) - bytes]);
    open_direct(path)?.write_all_at(block.filled(), position)
}

/// What an error means to the log.
pub fn failure(error: &io::Error) -> DiskError {
    match error.kind() {
        ErrorKind::NotFound => DiskError::NotFound,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DiskError::NoSpace,
        _ => DiskError::Failed(error.to_string()),
    }
}

/// The absolute place of a path below the data directory.
pub fn resolve(root: &Path, path: &str) -> PathBuf {
    let path = Path::new(path);
    assert!(
        path.components().all(|component| matches!(component, Component::Normal(_))),
        "{} leaves the data directory",
        path.display()
    );
    root.join(path)
}

/// Creates an empty file whose name survives a loss of power; one that exists stays as it is.
pub fn create(path: &Path) -> io::Result<()> {
    File::options().create(true).append(true).open(path)?;
    sync_directory_of(path)
}

/// Opens a file for writes past the page cache.
pub fn open_direct(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path)
}

/// Reads up to `bytes`, fewer at the end of the file.
pub fn read(file: &File, position: u64, bytes: usize) -> io::Result<Bytes> {
    // The file's length bounds the memory, whatever is asked for.
    let there = file.metadata()?.len().saturating_sub(position);
    let mut buffer = vec![0; bytes.min(usize::try_from(there).unwrap_or(usize::MAX))];
    let filled = fill(&mut buffer, |buffer, at| file.read_at(buffer, position + at))?;
    buffer.truncate(filled);
    Ok(Bytes::from(buffer))
}

/// Fills a buffer from a reader that may return less than asked for, until the reader returns nothing.
pub fn fill(buffer: &mut [u8], mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(&mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Brings a range of a file into the page cache.
pub fn prefetch(file: &File, position: u64, bytes: usize) -> io::Result<()> {
    static NOWHERE: OnceLock<File> = OnceLock::new();
    let nowhere = match NOWHERE.get() {
        Some(file) => file,
        None => {
            let file = File::options().write(true).open("/dev/null")?;
            NOWHERE.get_or_init(|| file)
        }
    };
    sys::advise(file, position, bytes, Advice::WillNeed);
    // The advice only starts the reading. Passing each page on is the one way to know that it has arrived: touching a byte
    // here and there left about one sendfile in three hundred waiting for a page between two of them. It copies nothing.
    let mut at = 0;
    while at < bytes {
        match sys::send_file(nowhere, file, position + at as u64, bytes - at) {
            Ok(0) => break,
            Ok(count) => at += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write(path: &Path, position: u64, data: &[Bytes], durable: bool) -> io::Result<()> {
    assert!(position.is_multiple_of(BLOCK_BYTES as u64), "writes begin at a block");
    let file = match File::options().write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if durable {
                create(path)?;
            }
            File::options().create(true).truncate(false).write(true).open(path)?
        }
        other => other?,
    };
    let mut at = position;
    for part in data {
        file.write_all_at(part, at)?;
        at += part.len() as u64;
    }
    let padding = at.next_multiple_of(BLOCK_BYTES as u64) - at;
    file.write_all_at(&[0; BLOCK_BYTES][..padding as usize], at)?;
    if durable {
        file.sync_data()?;
    }
    Ok(())
}

fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = File::options().create(true).append(true).open(path)?;
    if bytes > 0 {
        sys::allocate(&file, bytes)?;
    }
    file.sync_all()?;
    sync_directory_of(path)
}

fn replace(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let mut file = File::create(&temporary)?;
    file.write_all(data)?;
    file.sync_all()?;
    rename(&temporary, path)
}

fn truncate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.set_len(bytes)?;
    file.sync_all()
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_directory_of(to)?;
    if from.parent() != to.parent() {
        sync_directory_of(from)?;
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => sync_directory_of(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn create_directories(root: &Path, paths: &[FilePath]) -> io::Result<()> {
    for path in paths {
        fs::create_dir_all(resolve(root, path))?;
    }
    in_parallel(&holders(root, paths), |directory| File::open(directory)?.sync_all())
}

/// The directories that hold the names of directories and of all their parents up to `root`, each once. Those that existed
/// are among them: whoever made them may have been killed before their names were durable.
fn holders(root: &Path, paths: &[FilePath]) -> Vec<PathBuf> {
    let mut holders = BTreeSet::new();
    for path in paths {
        let path = resolve(root, path);
        let above = path.ancestors().skip(1).take_while(|directory| directory.starts_with(root));
        for directory in above {
            if !holders.insert(directory.to_owned()) {
                // And so are those above it.
                break;
            }
        }
    }
    holders.into_iter().collect()
}

/// Makes files and the names in directories durable. A file system commits the syncs together that wait at the same time.
fn sync_all(root: &Path, files: &[FilePath], directories: &[FilePath]) -> io::Result<()> {
    in_parallel(files, |path| File::open(resolve(root, path))?.sync_data())?;
    in_parallel(directories, |path| File::open(resolve(root, path))?.sync_all())
}

/// Does something with each of many items, on several threads at once. Fails if it does with any.
fn in_parallel<T: Sync, E: Send>(items: &[T], work: impl Fn(&T) -> Result<(), E> + Sync) -> Result<(), E> {
    let threads = (items.len() / ITEMS_PER_THREAD_MIN).clamp(1, THREADS_MAX);
    let next = AtomicUsize::new(0);
    let work_on = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(item)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().name("sync".to_owned()).spawn_scoped(scope, work_on).ok();
        // Without a thread that cannot be started the others do its part.
        let others: Vec<_> = (1..threads).map_while(spawn).collect();
        let mut result = work_on();
        for other in others {
            result = result.and(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        result
    })
}

fn list(path: &Path) -> io::Result<Vec<(String, bool)>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        // No file of ours has a name that is not text.
        if let Ok(name) = entry.file_name().into_string() {
            names.push((name, entry.file_type()?.is_dir()));
        }
    }
    Ok(names)
}

/// Makes the names in a path's directory survive a loss of power.
fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().expect("a path below the data directory has a parent");
    File::open(directory)?.sync_all()
}

/// Besides the tests of this file, what those of others need of a file system.
#[cfg(test)]
pub mod tests {
    use super::*;
    use std::sync::Arc;

    /// A directory that is removed when the test ends. On the disk, for direct writes need a real file system.
    pub struct TestDirectory(pub PathBuf);

    impl TestDirectory {
        /// A fresh one, whose name says which test it is for.
        pub fn new(name: &str) -> TestDirectory {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let unique = format!("{name}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(format!("millstream_{unique}"));
            fs::create_dir_all(&path).expect("created");
            TestDirectory(path)
        }
    }

    impl Drop for TestDirectory {
        fn drop(&mut self) {
            // What is left over harms no other test.
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn path(text: &str) -> Arc<str> {
        Arc::from(text)
    }

    #[test]
    fn writes_are_padded_and_read_back() {
        let root = TestDirectory::new("files_write");
        let data = vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let write = DiskOp::Write { path: path("log"), position: 4096, data, durable: true };
        assert_eq!(execute(&root.0, &write), Ok(DiskReply::Done));
        let read = |position, bytes| execute(&root.0, &DiskOp::Read { path: path("log"), position, bytes });
        assert_eq!(read(4096, 6), Ok(DiskReply::Data(Bytes::from_static(b"onetwo"))));
        assert_eq!(read(8190, 100), Ok(DiskReply::Data(Bytes::from_static(&[0, 0]))));
        assert_eq!(read(1 << 40, usize::MAX), Ok(DiskReply::Data(Bytes::new())));
        assert_eq!(fs::metadata(root.0.join("log")).expect("there").len(), 8192);
    }

    #[test]
    fn allocation_keeps_contents() {
        let root = TestDirectory::new("files_allocate");
        fs::write(root.0.join("a"), b"kept").expect("written");
        let allocate = DiskOp::Allocate { path: path("a"), bytes: 100_000 };
        assert_eq!(execute(&root.0, &allocate), Ok(DiskReply::Done));
        let contents = fs::read(root.0.join("a")).expect("there");
        assert_eq!((contents.len(), &contents[..5]), (100_000, b"kept\0".as_slice()));
    }

    #[test]
    fn names_come_and_go() {
        let root = TestDirectory::new("files_names");
        let run = |operation: DiskOp| execute(&root.0, &operation);
        assert_eq!(run(DiskOp::List { path: path("no/where") }), Ok(DiskReply::Names(vec![])));
        assert_eq!(run(DiskOp::CreateDirectory { path: path("a/b") }), Ok(DiskReply::Done));
        assert_eq!(run(DiskOp::CreateDirectory { path: path("a/b") }), Ok(DiskReply::Done));
        let replace = DiskOp::Replace { path: path("a/x"), data: Bytes::from_static(b"new") };
        assert_eq!(run(replace.clone()), Ok(DiskReply::Done));
        assert_eq!(run(replace), Ok(DiskReply::Done));
        let Ok(DiskReply::Names(mut names)) = run(DiskOp::List { path: path("a") }) else { panic!("a listing") };
        names.sort();
        assert_eq!(names, [("b".to_owned(), true), ("x".to_owned(), false)]);
        assert_eq!(run(DiskOp::Truncate { path: path("a/x"), bytes: 2 }), Ok(DiskReply::Done));
        assert_eq!(run(DiskOp::Rename { from: path("a/x"), to: path("a/b/y") }), Ok(DiskReply::Done));
        assert_eq!(fs::read(root.0.join("a/b/y")).expect("there"), b"ne");
        assert_eq!(run(DiskOp::Remove { path: path("a") }), Ok(DiskReply::Done));
        assert_eq!(run(DiskOp::Remove { path: path("a") }), Ok(DiskReply::Done));
        for missing in [
            DiskOp::Truncate { path: path("a/x"), bytes: 0 },
            DiskOp::Rename { from: path("a"), to: path("b") },
            DiskOp::Read { path: path("a"), position: 0, bytes: 1 },
            DiskOp::Sync { path: path("a") },
        ] {
            assert_eq!(run(missing), Err(DiskError::NotFound));
        }
    }

    #[test]
    fn much_is_created_and_synced_at_once() {
        let root = TestDirectory::new("files_many");
        let run = |operation: DiskOp| execute(&root.0, &operation);
        let directories: Vec<FilePath> = (0..100).map(|index| path(&format!("t/{}/{index}", index % 7))).collect();
        let create = DiskOp::CreateDirectories { paths: directories.clone() };
        assert_eq!(run(create.clone()), Ok(DiskReply::Done));
        assert_eq!(run(create), Ok(DiskReply::Done));
        let mut files: Vec<FilePath> = directories.iter().map(|directory| path(&format!("{directory}/log"))).collect();
        for file in &files {
            let data = vec![Bytes::copy_from_slice(file.as_bytes())];
            let write = DiskOp::Write { path: file.clone(), position: 0, data, durable: false };
            assert_eq!(run(write), Ok(DiskReply::Done));
        }
        let sync = |files: &[FilePath], directories: &[FilePath]| {
            run(DiskOp::SyncAll { files: files.to_vec(), directories: directories.to_vec() })
        };
        assert_eq!(sync(&files, &directories), Ok(DiskReply::Done));
        assert_eq!(sync(&[], &[]), Ok(DiskReply::Done));
        for file in &files {
            assert!(fs::read(root.0.join(&**file)).expect("there").starts_with(file.as_bytes()));
        }
        let rename = |directory: &FilePath| {
            let from = path(&format!("{directory}/log"));
            DiskOp::Rename { from, to: path(&format!("{directory}/renamed")) }
        };
        assert_eq!(run(DiskOp::All(directories.iter().map(rename).collect())), Ok(DiskReply::Done));
        assert_eq!(run(DiskOp::All(directories.iter().map(rename).collect())), Err(DiskError::NotFound));
        files = directories.iter().map(|directory| path(&format!("{directory}/renamed"))).collect();
        assert_eq!(sync(&files, &directories), Ok(DiskReply::Done));
        files[57] = path("t/none");
        assert_eq!(sync(&files, &directories), Err(DiskError::NotFound), "whichever of them fails");
        assert_eq!(sync(&[], &[path("none")]), Err(DiskError::NotFound));
    }

    #[test]
    fn every_directory_is_synced_that_holds_a_name_of_those_created() {
        let root = Path::new("/data");
        let of = |paths: &[&str]| {
            let paths: Vec<FilePath> = paths.iter().map(|text| path(text)).collect();
            holders(root, &paths).iter().map(|holder| holder.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), [""; 0]);
        assert_eq!(of(&["a"]), ["/data"]);
        let expected = ["/data", "/data/t", "/data/t/a", "/data/t/a/1", "/data/t/b", "/data/u"];
        assert_eq!(of(&["t/a/1/x", "t/a/1/y", "t/a/2", "u/z", "t/b/1"]), expected);
    }

    #[test]
    fn each_of_many_is_done_once_and_a_failure_is_told() {
        for count in [0, 1, 7, 8, 100, 1_000] {
            let items: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            let count_up = |item: &AtomicUsize| {
                item.fetch_add(1, Ordering::Relaxed);
                Ok::<(), String>(())
            };
            assert_eq!(in_parallel(&items, count_up), Ok(()));
            assert!(items.iter().all(|item| item.load(Ordering::Relaxed) == 1));
            let fails = |item: &AtomicUsize| match std::ptr::eq(item, items.last().expect("not empty")) {
                true => Err("the last"),
                false => Ok(()),
            };
            assert_eq!(in_parallel(&items, fails).is_err(), count > 0);
        }
    }

    #[test]
    #[should_panic(expected = "leaves the data directory")]
    fn a_path_cannot_leave_the_data_directory() {
        resolve(Path::new("/data"), "topic/../../etc");
    }

    #[test]
    fn a_prefetched_range_is_resident() {
        let root = TestDirectory::new("files_prefetch");
        fs::write(root.0.join("a"), vec![7; 1 << 20]).expect("written");
        let file = File::open(root.0.join("a")).expect("there");
        file.sync_all().expect("clean pages, so that they can be dropped");
        sys::advise(&file, 0, 1 << 20, Advice::DontNeed);
        prefetch(&file, 10_000, 900_000).expect("read");
        let mut last = [0];
        assert_eq!(sys::read_resident(&file, &mut last, 909_999).expect("resident"), 1);
    }
}
