//! Time is `i64` milliseconds since the Unix epoch, UTC; negative and zero are ordinary times.

/// A closed range of milliseconds: both ends belong to it. Empty when `start > end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    pub start: i64,
    pub end: i64,
}

impl TimeRange {
    pub const ALL: TimeRange = TimeRange { start: i64::MIN, end: i64::MAX };

    pub fn new(start: i64, end: i64) -> TimeRange {
        TimeRange { start, end }
    }

    pub fn is_empty(self) -> bool {
        self.start > self.end
    }

    pub fn contains(self, t: i64) -> bool {
        self.start <= t && t <= self.end
    }

    pub fn overlaps(self, other: TimeRange) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}
