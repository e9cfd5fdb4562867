//! `anchored` and `smoothed` selectors: they see samples outside their windows too, as far as the lookback
//! goes.

use metricsdb_model::{Samples, TimeRange};

use super::block::ABSENT;
use super::grid::Looks;
use super::places::Moving;
use super::scan::WindowLeaf;
use crate::function::Window;
use crate::function::edges::{eval, interpolate};
use crate::syntax::tree::Extension;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Edges {
    pub extension: Extension,
    /// Milliseconds.
    pub lookback: i64,
}

impl Edges {
    /// Milliseconds behind a window's end that it sees.
    pub fn after(&self) -> i64 {
        if self.extension == Extension::Smoothed { self.lookback } else { 0 }
    }

    /// All sample times that windows of `range` milliseconds can see.
    pub fn reach(&self, looks: &Looks, range: i64) -> TimeRange {
        looks.around(range.saturating_add(self.lookback), self.after())
    }

    /// The function of a leaf at every step.
    pub fn slide(&self, leaf: &WindowLeaf<'_>, samples: &Samples, starts: &[i64], out: &mut [f64]) {
        let ts = &samples.timestamps[..];
        let mut seen = Moving::default();
        for (i, slot) in out.iter_mut().enumerate() {
            let end = leaf.looks.time(i);
            let start = end.saturating_sub(leaf.range);
            seen.advance(ts, start.saturating_sub(self.lookback), end.saturating_add(self.after()));
            let Moving { low, high } = seen;
            let (timestamps, values) = (&ts[low..high], &samples.values[low..high]);
            let (at, args) = (leaf.grid.time(i), leaf.args.at(i));
            let starts = starts.get(low..high).unwrap_or(&[]);
            let window = Window { timestamps, values, starts, start, end, at, args };
            *slot = eval(&window, self.extension, leaf.sliding).unwrap_or(ABSENT);
        }
    }
}

/// At every look the value on the line between the samples around it; the last one where none follows
/// within the lookback, nothing where none came before.
pub(crate) fn smooth(samples: &Samples, looks: &Looks, lookback: i64, out: &mut [f64]) {
    let (ts, values) = (&samples.timestamps[..], &samples.values[..]);
    let mut next = 0;
    for (i, slot) in out.iter_mut().enumerate() {
        let t = looks.time(i);
        while next < ts.len() && ts[next] <= t {
            next += 1;
        }
        let before = next.checked_sub(1).filter(|b| ts[*b] > t.saturating_sub(lookback));
        *slot = match before {
            None => ABSENT,
            Some(b) if ts[b] == t || next == ts.len() || ts[next] > t.saturating_add(lookback) => values[b],
            Some(b) => interpolate((ts[b], values[b]), (ts[next], values[next]), t),
        };
    }
}
