//! Which samples of a row its windows see.

use super::grid::Looks;

/// A range of samples that moves on with the steps.
#[derive(Clone, Copy, Default)]
pub(super) struct Moving {
    pub low: usize,
    pub high: usize,
}

impl Moving {
    /// To the samples in `(from, to]`, neither of which goes back.
    #[inline]
    pub fn advance(&mut self, times: &[i64], from: i64, to: i64) {
        while self.high < times.len() && times[self.high] <= to {
            self.high += 1;
        }
        while self.low < self.high && times[self.low] <= from {
            self.low += 1;
        }
    }

    #[inline]
    pub fn is_empty(self) -> bool {
        self.low == self.high
    }

    #[inline]
    pub fn len(self) -> usize {
        self.high - self.low
    }

    #[inline]
    pub fn newest(self) -> Option<usize> {
        if self.is_empty() { None } else { self.high.checked_sub(1) }
    }
}

/// The samples that a row's windows see, kept for the next row: series of one scrape have the same times.
#[derive(Default)]
pub(super) struct Places {
    times: Vec<i64>,
    looks: Option<(Looks, i64)>,
    seen: Vec<Moving>,
}

impl Places {
    /// What is in `(t - range, t]` of each of the first `steps` looks.
    pub fn find(&mut self, times: &[i64], looks: &Looks, range: i64, steps: usize) -> &[Moving] {
        let of = Some((*looks, range));
        if self.times != times || self.looks != of || self.seen.len() != steps {
            self.looks = of;
            self.times.clear();
            self.times.extend_from_slice(times);
            self.seen.clear();
            let mut seen = Moving::default();
            self.seen.extend((0..steps).map(|i| {
                let end = looks.time(i);
                seen.advance(times, end.saturating_sub(range), end);
                seen
            }));
        }
        &self.seen
    }

    pub fn bytes(&self) -> usize {
        self.times.capacity() * size_of::<i64>() + self.seen.capacity() * size_of::<Moving>()
    }
}
