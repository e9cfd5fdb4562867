//! Samples as columns, and the two NaNs that mean something.

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
}

/// A borrowed column of values.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    Float(&'a [f64]),
    Int(&'a [i64]),
}

impl Values<'_> {
    pub fn len(&self) -> usize {
        match self {
            Values::Float(v) => v.len(),
            Values::Int(v) => v.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn kind(&self) -> ValueKind {
        match self {
            Values::Float(_) => ValueKind::Float,
            Values::Int(_) => ValueKind::Int,
        }
    }
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
        if !self.values[from..].iter().any(|&v| is_stale(v)) {
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
