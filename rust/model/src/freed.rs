//! Freeing what a query held: its items' memory lies all over, and who stopped the query should not wait for it.

use std::thread;

/// More items are freed by a thread of their own.
const FREED_BY_THREAD: usize = 1 << 13;

/// Items that a thread frees where they are many, however the query ends. Not one of a pool: it would wait behind queries,
/// and what is freed counts as free already.
pub struct Freed<T: Send + 'static>(pub Vec<T>);

impl<T: Send + 'static> Drop for Freed<T> {
    fn drop(&mut self) {
        if self.0.len() > FREED_BY_THREAD {
            let items = std::mem::take(&mut self.0);
            // A new one each time: a forked child has none of its parent's. Where none begins, they are freed here.
            let _ = thread::Builder::new().name("metricsdb-free".to_owned()).spawn(move || drop(items));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;

    struct Told(Sender<()>);

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    #[test]
    fn many_items_are_freed_while_all_of_the_pool_is_busy() {
        let busy = Arc::new(Mutex::new(()));
        let held = busy.lock();
        for _ in 0..rayon::current_num_threads() {
            let busy = busy.clone();
            rayon::spawn(move || drop(busy.lock()));
        }
        let (sender, freed) = channel();
        let count = 4 * FREED_BY_THREAD;
        drop(Freed((0..count).map(|_| Told(sender.clone())).collect()));
        let all = (0..count).all(|_| freed.recv_timeout(Duration::from_secs(20)).is_ok());
        drop(held);
        assert!(all);
    }
}
