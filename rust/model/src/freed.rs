//! Freeing what a query held: its items' memory lies all over, and who stopped the query should not wait for it.

use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// More items are freed by a thread of their own.
const FREED_BY_THREAD: usize = 1 << 13;

/// Items that a thread frees where they are many, however the query ends. Not one of a pool: it would wait behind queries,
/// and what is freed counts as free already.
pub struct Freed<T: Send + 'static>(pub Vec<T>);

impl<T: Send + 'static> Drop for Freed<T> {
    fn drop(&mut self) {
        static THREAD: OnceLock<Sender<Box<dyn Send>>> = OnceLock::new();
        if self.0.len() > FREED_BY_THREAD {
            // What can't be sent is freed here.
            let _ = THREAD.get_or_init(start).send(Box::new(std::mem::take(&mut self.0)));
        }
    }
}

fn start() -> Sender<Box<dyn Send>> {
    let (sender, all) = channel();
    // Where no thread begins, `all` ends, and nothing can be sent.
    let _ = thread::Builder::new()
        .name("metricsdb-free".to_owned())
        .spawn(move || all.into_iter().for_each(drop));
    sender
}

#[cfg(test)]
mod tests {
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
