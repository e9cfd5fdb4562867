//! What a chunk's header knows about its values, so that many questions never decode them.

use std::cmp::Ordering;

use metricsdb_model::ValueKind;
use metricsdb_model::sample::STALE_NAN_BITS;

/// Statistics of one chunk's values, integers widened to `f64`. NaNs, staleness markers among them,
/// count in `stale` and `nan` only: they enter neither `min`, `max` nor `resets`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// The first and the last value, whatever they are.
    pub first: f64,
    pub last: f64,
    /// NaN when there is no number at all.
    pub min: f64,
    pub max: f64,
    /// How often a number is smaller than the number before it; integers are compared exactly. `None`
    /// where only the values themselves tell.
    pub resets: Option<u32>,
    /// Staleness markers.
    pub stale: u32,
    /// All other NaNs.
    pub nan: u32,
}

/// Integers below are exact in a double.
const EXACT_MAX: f64 = (1u64 << 53) as f64;

impl Statistics {
    /// `None` for an empty column. One pass.
    pub fn of(kind: ValueKind, column: &[u64]) -> Option<Statistics> {
        let (first, last) = (*column.first()?, *column.last()?);
        let mut s = Statistics {
            first: kind.widen(first),
            last: kind.widen(last),
            min: f64::NAN,
            max: f64::NAN,
            resets: None,
            stale: 0,
            nan: 0,
        };
        let mut resets = 0;
        let mut before = None;
        for &bits in column {
            let v = kind.widen(bits);
            if v.is_nan() {
                let stale = bits == STALE_NAN_BITS;
                s.stale += u32::from(stale);
                s.nan += u32::from(!stale);
                continue;
            }
            s.min = s.min.min(v);
            s.max = s.max.max(v);
            resets += u32::from(before.is_some_and(|b| kind.order(bits, b) == Some(Ordering::Less)));
            before = Some(bits);
        }
        s.resets = Some(resets);
        Some(s)
    }

    /// Adds what is known of the values that follow.
    pub fn merge(&mut self, next: &Statistics) {
        // Beside a NaN, or integers that no double tells apart, only the values know what lies at the border.
        let exact = self.last.abs() < EXACT_MAX && next.first.abs() < EXACT_MAX;
        let border = exact.then_some(u32::from(next.first < self.last));
        self.resets = self.resets.zip(next.resets).zip(border).map(|((a, b), c)| a + b + c);
        self.last = next.last;
        self.min = self.min.min(next.min);
        self.max = self.max.max(next.max);
        self.stale += next.stale;
        self.nan += next.nan;
    }
}

/// Neumaier's compensated sum of the numbers of a column; 0 when there is none.
pub fn sum(kind: ValueKind, column: &[u64]) -> f64 {
    let (mut sum, mut lost) = (0.0f64, 0.0f64);
    for v in column.iter().map(|&b| kind.widen(b)).filter(|v| !v.is_nan()) {
        let total = sum + v;
        lost += if sum.abs() >= v.abs() { (sum - total) + v } else { (v - total) + sum };
        sum = total;
    }
    if sum.is_finite() && lost.is_finite() { sum + lost } else { sum }
}
