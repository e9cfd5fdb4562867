//! A count that many threads add to: each to a cache line of its own, so that none waits for another.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Threads beyond these share a line.
const LINES: usize = 16;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line(AtomicU64);

#[derive(Debug, Default)]
pub struct Counter {
    lines: [Line; LINES],
}

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static LINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn line() -> usize {
    LINE.with(|line| {
        if line.get() == usize::MAX {
            line.set(THREADS.fetch_add(1, Relaxed) % LINES);
        }
        line.get()
    })
}

impl Counter {
    /// Adds; returns what this thread's line held before.
    #[inline]
    pub fn add(&self, count: u64) -> u64 {
        self.lines[line()].0.fetch_add(count, Relaxed)
    }

    /// What was added so far.
    pub fn total(&self) -> u64 {
        self.lines.iter().map(|line| line.0.load(Relaxed)).fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_threads_add_is_lost() {
        let counter = Counter::default();
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        counter.add(3);
                    }
                });
            }
        });
        assert_eq!(counter.total(), 40 * 3000);
    }
}
