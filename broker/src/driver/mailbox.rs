//! How other threads reach a shard: any thread pushes, the shard's executor drains in batches and is woken only when
//! the box was empty. The number of items is bounded by what the pushers have under way; [`Mailbox::len`] shows it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

/// A queue with many pushers and one drainer.
#[derive(Debug)]
pub struct Mailbox<T> {
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    items: Vec<T>,
    /// When the first of them came.
    since: Option<Instant>,
    waker: Option<Waker>,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Mailbox<T> {
        Mailbox { inner: Mutex::new(Inner { items: Vec::new(), since: None, waker: None }) }
    }
}

impl<T> Mailbox<T> {
    /// Adds an item; it comes out after all that were pushed before.
    pub fn push(&self, item: T) {
        self.push_all(&mut vec![item]);
    }

    /// Adds all items in their order and leaves `items` empty.
    pub fn push_all(&self, items: &mut Vec<T>) {
        if items.is_empty() {
            return;
        }
        let mut inner = self.lock();
        let was_empty = inner.items.is_empty();
        if was_empty {
            inner.since = Some(Instant::now());
        }
        inner.items.append(items);
        // A box that was not empty has a wake under way already.
        let waker = if was_empty { inner.waker.clone() } else { None };
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Moves all items to the end of `into`, in order. Returns when the first of them came.
    pub fn drain(&self, into: &mut Vec<T>) -> Option<Instant> {
        let mut inner = self.lock();
        let since = inner.since.take();
        if into.is_empty() {
            std::mem::swap(&mut inner.items, into);
        } else {
            into.append(&mut inner.items);
        }
        since
    }

    /// Names the task to wake from now on.
    pub fn register(&self, waker: &Waker) {
        let mut inner = self.lock();
        if !inner.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
    }

    /// Wakes the drainer though nothing was pushed.
    pub fn wake(&self) {
        let waker = self.lock().waker.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Items that wait.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // No code that can panic runs under the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn wakes_once_a_batch_and_keeps_the_order() {
        let count = Arc::new(Count::default());
        let mailbox = Mailbox::default();
        mailbox.register(&Waker::from(Arc::clone(&count)));
        mailbox.push(1);
        mailbox.push(2);
        mailbox.push_all(&mut vec![3, 4]);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(mailbox.len(), 4);
        let mut items = vec![0];
        mailbox.drain(&mut items);
        assert_eq!(items, [0, 1, 2, 3, 4]);
        assert!(mailbox.is_empty());
        mailbox.push(5);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        mailbox.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        const THREADS: usize = 4;
        const ITEMS: usize = 10_000;
        let mailbox = Arc::new(Mailbox::default());
        let pushers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let mailbox = Arc::clone(&mailbox);
                std::thread::spawn(move || (0..ITEMS).for_each(|item| mailbox.push((thread, item))))
            })
            .collect();
        let mut next = [0; THREADS];
        let mut items = Vec::new();
        while next.iter().sum::<usize>() < THREADS * ITEMS {
            mailbox.drain(&mut items);
            for (thread, item) in items.drain(..) {
                assert_eq!(item, next[thread], "in the order of its thread");
                next[thread] += 1;
            }
        }
        pushers.into_iter().for_each(|pusher| pusher.join().expect("a pusher"));
        assert!(mailbox.is_empty());
    }
}
