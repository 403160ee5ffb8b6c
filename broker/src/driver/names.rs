//! Looks up the addresses of names on threads of its own: never on a core that serves, nor behind files.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::pool::Pool;
use crate::config;
use crate::peer::links::LinkId;

/// Look-ups at a time: one that hangs does not keep the others waiting.
const THREADS: usize = 2;

/// The threads, which start with the first name: most nodes that are alone need none.
#[derive(Clone, Default)]
pub struct NameThreads(Arc<Mutex<Option<Pool>>>);

impl NameThreads {
    fn run(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = match pool.take() {
            Some(threads) => threads,
            None => Pool::start("names", THREADS, 0)?,
        };
        pool.insert(threads).run(job);
        Ok(())
    }
}

/// A name and a port.
pub type Name = (String, u16);

/// Who waits for which names. Each is looked up once at a time, whoever waits for it.
pub struct Names {
    threads: NameThreads,
    waiting: BTreeMap<Name, Vec<LinkId>>,
    /// Called by those threads with what was found, if anything was.
    tell: Arc<dyn Fn(Name, Option<SocketAddr>) + Send + Sync>,
}

impl Names {
    /// Nobody waits. What is found is told to `tell`, which brings it back to [`Names::found`].
    pub fn new(threads: NameThreads, tell: impl Fn(Name, Option<SocketAddr>) + Send + Sync + 'static) -> Names {
        Names { threads, waiting: BTreeMap::new(), tell: Arc::new(tell) }
    }

    /// Looks up a name for a connection. The error is why there is no thread for it.
    pub fn look_up(&mut self, link: LinkId, host: String, port: u16) -> io::Result<()> {
        let name = (host, port);
        if let Some(waiting) = self.waiting.get_mut(&name) {
            waiting.push(link);
            return Ok(());
        }
        let tell = Arc::clone(&self.tell);
        let looked_up = name.clone();
        self.threads.run(move || {
            let address = config::resolve(&looked_up.0, port).ok();
            tell(looked_up, address);
        })?;
        self.waiting.insert(name, vec![link]);
        Ok(())
    }

    /// Who waited for a name that was found, or was not.
    pub fn found(&mut self, name: &Name) -> Vec<LinkId> {
        self.waiting.remove(name).unwrap_or_default()
    }
}
