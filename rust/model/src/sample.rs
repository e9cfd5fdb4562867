//! Samples as columns, what their 64 bits mean, and the two NaNs that mean something.

use std::cmp::Ordering;

/// Prometheus' staleness marker: "this series has ended here". Compare by bits, never by value.
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;
/// The NaN that an exporter's `NaN` becomes.
pub const NORMAL_NAN_BITS: u64 = 0x7ff8_0000_0000_0001;

/// True for the staleness marker alone; every other NaN is a value.
#[inline]
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}

pub fn stale() -> f64 {
    f64::from_bits(STALE_NAN_BITS)
}

/// What the 64 bits of a stored value mean. One chunk holds one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ValueKind {
    Float = 0,
    Int = 1,
    /// The bits are the `u64` itself.
    Uint = 2,
}

const SIGN: u64 = 1 << 63;

impl ValueKind {
    pub const ALL: [ValueKind; 3] = [ValueKind::Float, ValueKind::Int, ValueKind::Uint];

    #[inline(always)]
    pub fn is_integer(self) -> bool {
        self != ValueKind::Float
    }

    /// The value as a double: the nearest where an integer has no double of its own.
    #[inline(always)]
    pub fn widen(self, bits: u64) -> f64 {
        match self {
            ValueKind::Float => f64::from_bits(bits),
            ValueKind::Int => bits as i64 as f64,
            ValueKind::Uint => bits as f64,
        }
    }

    /// Exact between integers; `None` beside a NaN.
    #[inline(always)]
    pub fn order(self, a: u64, b: u64) -> Option<Ordering> {
        match self {
            ValueKind::Float => f64::from_bits(a).partial_cmp(&f64::from_bits(b)),
            ValueKind::Int | ValueKind::Uint => Some(self.ordered(a).cmp(&self.ordered(b))),
        }
    }

    /// Bits of the sum; `None` where integers leave their range.
    pub fn checked_sum(self, a: u64, b: u64) -> Option<u64> {
        match self {
            ValueKind::Float => Some((f64::from_bits(a) + f64::from_bits(b)).to_bits()),
            ValueKind::Int => (a as i64).checked_add(b as i64).map(|sum| sum as u64),
            ValueKind::Uint => a.checked_add(b),
        }
    }

    /// Integers in the order of values, neighbours for neighbours: what codecs work on.
    #[inline(always)]
    pub fn ordered(self, bits: u64) -> i64 {
        match self {
            ValueKind::Float => (bits ^ ((bits as i64 >> 63) as u64 >> 1)) as i64,
            ValueKind::Int => bits as i64,
            ValueKind::Uint => (bits ^ SIGN) as i64,
        }
    }

    /// The ordered integer of the number 0.
    pub fn zero(self) -> i64 {
        self.ordered(0)
    }

    /// The bits that `ordered` made an integer of: each kind's way is its own inverse.
    #[inline(always)]
    pub fn unordered(self, integer: i64) -> u64 {
        self.ordered(integer as u64) as u64
    }
}

/// A borrowed column of values.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    Float(&'a [f64]),
    Int(&'a [i64]),
    Uint(&'a [u64]),
}

impl Values<'_> {
    pub fn len(&self) -> usize {
        match self {
            Values::Float(v) => v.len(),
            Values::Int(v) => v.len(),
            Values::Uint(v) => v.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn kind(&self) -> ValueKind {
        match self {
            Values::Float(_) => ValueKind::Float,
            Values::Int(_) => ValueKind::Int,
            Values::Uint(_) => ValueKind::Uint,
        }
    }
}

/// Removes the staleness markers from values that come without times.
pub fn drop_stale(values: &mut Vec<f64>) {
    if any_stale(values) {
        values.retain(|&v| !is_stale(v));
    }
}

/// A few at once, without a branch for each: there are hardly ever any.
fn any_stale(values: &[f64]) -> bool {
    let any = |few: &[f64]| few.iter().fold(false, |found, &v| found | is_stale(v));
    values.chunks(64).any(any)
}

/// Samples of one series in time order, values widened to `f64`; staleness markers are included.
/// A reusable buffer: readers append to it, callers clear it.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    pub timestamps: Vec<i64>,
    pub values: Vec<f64>,
}

impl Samples {
    pub fn clear(&mut self) {
        self.timestamps.clear();
        self.values.clear();
    }

    pub fn push(&mut self, timestamp: i64, value: f64) {
        self.timestamps.push(timestamp);
        self.values.push(value);
    }

    /// Removes the staleness markers from row `from` on.
    pub fn drop_stale(&mut self, from: usize) {
        if !any_stale(&self.values[from..]) {
            return;
        }
        let mut kept = from;
        for i in from..self.len() {
            if !is_stale(self.values[i]) {
                self.values[kept] = self.values[i];
                self.timestamps[kept] = self.timestamps[i];
                kept += 1;
            }
        }
        self.values.truncate(kept);
        self.timestamps.truncate(kept);
    }

    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bits() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            0u64..10,
            Just(SIGN - 1),
            Just(SIGN),
            Just(u64::MAX),
            Just((-0.0f64).to_bits())
        ]
    }

    proptest! {
        #[test]
        fn ordered_integers_are_in_the_order_of_values(a in bits(), b in bits()) {
            for kind in ValueKind::ALL {
                prop_assert_eq!(kind.unordered(kind.ordered(a)), a);
                let order = kind.ordered(a).cmp(&kind.ordered(b));
                match kind.order(a, b) {
                    // Both zeros are one number, but two patterns.
                    Some(Ordering::Equal) if !kind.is_integer() => {}
                    Some(known) => prop_assert_eq!(known, order),
                    None => prop_assert!(kind.widen(a).is_nan() || kind.widen(b).is_nan()),
                }
                if let Some((a, b)) = kind.is_integer().then(|| (kind.widen(a), kind.widen(b))) {
                    prop_assert!(order == a.total_cmp(&b) || a == b);
                }
            }
        }

        #[test]
        fn sums_of_integers_are_exact_or_none(a in bits(), b in bits()) {
            let wide = i128::from(a) + i128::from(b);
            prop_assert_eq!(ValueKind::Uint.checked_sum(a, b).map(i128::from), u64::try_from(wide).ok().map(i128::from));
            let wide = i128::from(a as i64) + i128::from(b as i64);
            let sum = ValueKind::Int.checked_sum(a, b).map(|s| i128::from(s as i64));
            prop_assert_eq!(sum, i64::try_from(wide).ok().map(i128::from));
        }
    }
}
