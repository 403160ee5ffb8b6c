//! A shard's open files by path. Bounded; a file that is in use is never closed.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Bound;
use std::sync::Arc;

use millstream_storage::FilePath;

/// The handles of one path, each opened when it is first needed.
#[derive(Default)]
struct Handles {
    /// Direct writes, and `fdatasync`.
    direct: Option<Arc<File>>,
    /// Reads through the page cache, `sendfile`.
    buffered: Option<Arc<File>>,
    used_at: u64,
}

impl Handles {
    fn count(&self) -> usize {
        usize::from(self.direct.is_some()) + usize::from(self.buffered.is_some())
    }

    fn is_in_use(&self) -> bool {
        let mut both = self.direct.iter().chain(&self.buffered);
        both.any(|file| Arc::strong_count(file) > 1)
    }
}

/// Handles that are closed at once when there are too many: few enough to hold the core for a moment only, and enough to
/// pay for the search for the oldest.
const CLOSED_AT_ONCE_MAX: usize = 64;

/// Open files, oldest out first.
pub struct OpenFiles {
    /// Ordered, so that the files of a directory stand together.
    by_path: BTreeMap<FilePath, Handles>,
    handles: usize,
    handles_max: usize,
    clock: u64,
    /// Counts [`OpenFiles::forget`]: a handle opened before it may be that of a file with another name by now.
    generation: u64,
}

impl OpenFiles {
    /// A cache of at most `handles_max` descriptors that are not in use.
    pub fn new(handles_max: usize) -> OpenFiles {
        OpenFiles { by_path: BTreeMap::new(), handles: 0, handles_max: handles_max.max(1), clock: 0, generation: 0 }
    }

    /// The handle for direct writes.
    pub fn direct(&mut self, path: &FilePath) -> Option<Arc<File>> {
        self.used(path)?.direct.clone()
    }

    /// The handle for reads through the page cache.
    pub fn buffered(&mut self, path: &FilePath) -> Option<Arc<File>> {
        self.used(path)?.buffered.clone()
    }

    /// To be given back to the `add` functions with a handle that takes a while to open.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Keeps a handle for direct writes, unless names have changed since `generation`.
    pub fn add_direct(&mut self, generation: u64, path: &FilePath, file: Arc<File>) {
        if generation == self.generation {
            let added = self.entry(path).direct.replace(file).is_none();
            self.grown(added);
        }
    }

    /// Keeps a handle for reads, unless names have changed since `generation`.
    pub fn add_buffered(&mut self, generation: u64, path: &FilePath, file: Arc<File>) {
        if generation == self.generation {
            let added = self.entry(path).buffered.replace(file).is_none();
            self.grown(added);
        }
    }

    /// Forgets a file, or all files of a directory: what the path names is about to change.
    pub fn forget(&mut self, path: &str) {
        self.generation += 1;
        // From the path itself; between it and what lies below it there may be others, such as `path-1`.
        let below = format!("{path}/");
        let files = self.by_path.range::<str, _>((Bound::Included(&*below), Bound::Unbounded)).map(|(known, _)| known);
        let mut gone: Vec<FilePath> = files.take_while(|known| known.starts_with(&below)).cloned().collect();
        gone.push(path.into());
        for path in gone {
            if let Some(handles) = self.by_path.remove(&path) {
                self.handles -= handles.count();
            }
        }
    }

    /// Descriptors that are open, in use or not.
    pub fn handles(&self) -> usize {
        self.handles
    }

    fn used(&mut self, path: &FilePath) -> Option<&mut Handles> {
        self.clock += 1;
        let handles = self.by_path.get_mut(path)?;
        handles.used_at = self.clock;
        Some(handles)
    }

    fn entry(&mut self, path: &FilePath) -> &mut Handles {
        self.clock += 1;
        let handles = self.by_path.entry(Arc::clone(path)).or_default();
        handles.used_at = self.clock;
        handles
    }

    fn grown(&mut self, added: bool) {
        self.handles += usize::from(added);
        if self.handles <= self.handles_max {
            return;
        }
        let mut idle: Vec<(u64, FilePath)> = self
            .by_path
            .iter()
            .filter(|(_, handles)| !handles.is_in_use() && handles.used_at != self.clock)
            .map(|(path, handles)| (handles.used_at, Arc::clone(path)))
            .collect();
        // All of a small cache may be idle.
        let oldest = CLOSED_AT_ONCE_MAX.min(self.handles_max / 8 + 1);
        if idle.len() > oldest {
            idle.select_nth_unstable(oldest);
            idle.truncate(oldest);
        }
        idle.sort_unstable();
        let keep = self.handles_max - self.handles_max / 8;
        for (_, path) in idle {
            if self.handles <= keep {
                break;
            }
            if let Some(handles) = self.by_path.remove(&path) {
                self.handles -= handles.count();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> Arc<File> {
        Arc::new(File::open("/dev/null").expect("there"))
    }

    fn path(text: &str) -> FilePath {
        Arc::from(text)
    }

    #[test]
    fn the_oldest_idle_files_go_first() {
        let mut files = OpenFiles::new(8);
        let held = null();
        files.add_buffered(0, &path("held"), Arc::clone(&held));
        for index in 0..8 {
            files.add_buffered(0, &path(&format!("{index}")), null());
            files.buffered(&path("0"));
        }
        assert!(files.handles() <= 8);
        assert!(files.buffered(&path("held")).is_some(), "in use");
        assert!(files.buffered(&path("0")).is_some(), "used all the time");
        assert!(files.buffered(&path("1")).is_none(), "the oldest");
        assert!(files.buffered(&path("7")).is_some(), "the newest");
    }

    #[test]
    fn a_changed_name_is_forgotten_with_what_lies_below() {
        let mut files = OpenFiles::new(8);
        for name in ["topic", "topic/0", "topic/0/1.log", "topic-2/0"] {
            files.add_buffered(0, &path(name), null());
        }
        files.forget("topic");
        assert_eq!(files.handles(), 1);
        assert!(files.buffered(&path("topic-2/0")).is_some());
        files.add_buffered(0, &path("topic/0"), null());
        assert!(files.buffered(&path("topic/0")).is_none(), "opened before the name changed");
        files.add_buffered(files.generation(), &path("topic/0"), null());
        assert!(files.buffered(&path("topic/0")).is_some());
    }
}
