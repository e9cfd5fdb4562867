//! What a chunk's header knows about its values, so that many questions never decode them.

use metricsdb_model::ValueKind;
use metricsdb_model::sample::STALE_NAN_BITS;

/// Statistics of one chunk's values, integers widened to `f64`. NaNs, staleness markers among them,
/// count in `stale` and `nan` only: they enter neither `min`, `max`, `sum` nor `resets`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// The first and the last value, whatever they are.
    pub first: f64,
    pub last: f64,
    /// NaN when there is no number at all.
    pub min: f64,
    pub max: f64,
    /// Sum of the numbers, compensated or, from mantissas, exact and rounded twice; 0 when there is none.
    pub sum: f64,
    /// How often a number is smaller than the number before it; integers are compared exactly.
    pub resets: u32,
    /// Staleness markers.
    pub stale: u32,
    /// All other NaNs.
    pub nan: u32,
}

/// The widened value of 64 bits.
#[inline(always)]
pub fn widen(kind: ValueKind, bits: u64) -> f64 {
    match kind {
        ValueKind::Float => f64::from_bits(bits),
        ValueKind::Int => bits as i64 as f64,
    }
}

impl Statistics {
    /// `None` for an empty column. One pass.
    pub fn of(kind: ValueKind, column: &[u64]) -> Option<Statistics> {
        let (first, last) = (*column.first()?, *column.last()?);
        let mut s = Statistics {
            first: widen(kind, first),
            last: widen(kind, last),
            min: f64::NAN,
            max: f64::NAN,
            sum: 0.0,
            resets: 0,
            stale: 0,
            nan: 0,
        };
        let mut lost = 0.0;
        let mut before = None;
        for &bits in column {
            let v = widen(kind, bits);
            if v.is_nan() {
                let stale = bits == STALE_NAN_BITS;
                s.stale += u32::from(stale);
                s.nan += u32::from(!stale);
                continue;
            }
            s.min = s.min.min(v);
            s.max = s.max.max(v);
            s.resets += u32::from(before.is_some_and(|b| match kind {
                ValueKind::Float => v < f64::from_bits(b),
                ValueKind::Int => (bits as i64) < (b as i64),
            }));
            before = Some(bits);
            add(&mut s.sum, &mut lost, v);
        }
        if s.sum.is_finite() && lost.is_finite() {
            s.sum += lost;
        }
        Some(s)
    }

    /// Adds what is known of the values that follow. `resets` then misses what may lie at the border of
    /// the two where a NaN stands there.
    pub fn merge(&mut self, next: &Statistics) {
        self.resets += next.resets + u32::from(next.first < self.last);
        self.last = next.last;
        self.min = self.min.min(next.min);
        self.max = self.max.max(next.max);
        self.sum += next.sum;
        self.stale += next.stale;
        self.nan += next.nan;
    }
}

/// One step of Neumaier's compensated summation.
#[inline(always)]
fn add(sum: &mut f64, lost: &mut f64, v: f64) {
    let total = *sum + v;
    *lost += if sum.abs() >= v.abs() { (*sum - total) + v } else { (v - total) + *sum };
    *sum = total;
}
