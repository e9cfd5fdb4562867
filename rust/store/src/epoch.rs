//! When nobody can hold a number any more that was taken out of use: rows of series that are gone get other series.
//!
//! Calls that keep row numbers between two holds of a lock are `inside` an epoch. What was taken out of use in epoch
//! `e` is out of reach two epochs later: the first step waits for those who were inside before `e`, the second for
//! those who came during it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

/// Counts who is inside, by the parity of the epoch in which they came.
#[derive(Default)]
pub struct Epochs {
    now: AtomicU64,
    inside: [AtomicUsize; 2],
}

/// Somebody inside; leaves when dropped.
pub struct Inside<'a> {
    count: &'a AtomicUsize,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, SeqCst);
    }
}

impl Epochs {
    pub fn enter(&self) -> Inside<'_> {
        self.enter_after(|| ())
    }

    /// `meanwhile`: what others do between the look at the epoch and the entry.
    fn enter_after(&self, mut meanwhile: impl FnMut()) -> Inside<'_> {
        loop {
            let now = self.now.load(SeqCst);
            meanwhile();
            let count = &self.inside[now as usize % 2];
            count.fetch_add(1, SeqCst);
            let inside = Inside { count };
            // Else an advance may have found nobody here just before.
            if self.now.load(SeqCst) == now {
                return inside;
            }
        }
    }

    pub fn now(&self) -> u64 {
        self.now.load(SeqCst)
    }

    /// Begins the next epoch if all who came before this one have left. For one caller at a time.
    pub fn advance(&self) -> bool {
        let now = self.now();
        let free = self.inside[(now as usize + 1) % 2].load(SeqCst) == 0;
        if free {
            self.now.store(now + 1, SeqCst);
        }
        free
    }

    /// Whether what was taken out of use in `epoch` is out of everybody's reach.
    pub fn is_past(&self, epoch: u64) -> bool {
        self.now() >= epoch + 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_past_while_somebody_from_before_is_inside() {
        let epochs = Epochs::default();
        let reader = epochs.enter();
        let retired = epochs.now();
        for _ in 0..5 {
            epochs.advance();
            // Those who come later hold nothing back.
            let _later = epochs.enter();
            assert!(!epochs.is_past(retired));
        }
        drop(reader);
        assert_eq!((epochs.advance(), epochs.is_past(retired)), (true, true));
    }

    #[test]
    fn who_enters_while_the_epoch_ends_is_inside_the_next() {
        let epochs = Epochs::default();
        let mut ended = false;
        let reader = epochs.enter_after(|| ended = ended || epochs.advance());
        let retired = epochs.now();
        assert_eq!((retired, epochs.advance(), epochs.advance()), (1, true, false));
        assert!(!epochs.is_past(retired), "it may hold what was taken out of use then");
        drop(reader);
        assert_eq!((epochs.advance(), epochs.is_past(retired)), (true, true));
    }

    #[test]
    fn one_inside_since_the_same_epoch_holds_back_the_second_step() {
        let epochs = Epochs::default();
        let retired = epochs.now();
        let reader = epochs.enter();
        assert_eq!((epochs.advance(), epochs.advance(), epochs.is_past(retired)), (true, false, false));
        drop(reader);
        assert_eq!((epochs.advance(), epochs.is_past(retired)), (true, true));
    }
}
