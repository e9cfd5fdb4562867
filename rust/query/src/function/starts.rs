//! What start timestamps say of two neighbours: times in milliseconds, a start of 0 is not known.

use crate::function::rate;

/// Whether the counter started again before sample `i`, which has a neighbour on its left: its value fell, or its
/// start says so. Without `starts` the values alone tell.
#[inline]
pub fn is_reset(timestamps: &[i64], values: &[f64], starts: &[i64], i: usize) -> bool {
    if rate::is_reset(values[i - 1], values[i]) {
        return true;
    }
    let pair = |column: &[i64]| Some((*column.get(i - 1)?, *column.get(i)?));
    match (pair(timestamps), pair(starts)) {
        (Some(times), Some(starts)) => begins_anew(times, starts),
        _ => false,
    }
}

/// Whether the second of two samples counts from zero, by their times and starts. A delta's start is the time of
/// the sample before; so is that of the second sample of a counter whose start nobody knew at the first, which
/// then says 0, or its own time (OpenTelemetry).
pub fn begins_anew((before, time): (i64, i64), (start_before, start): (i64, i64)) -> bool {
    let is_known = start != 0 && start < time;
    let is_delta = start_before != 0 && start_before < before;
    is_known && (start > before || (start == before && is_delta))
}

/// Whether what the second sample counted began before the first was taken, and is not what that one counts.
pub fn overlaps(before: i64, (start_before, start): (i64, i64)) -> bool {
    start != 0 && start < before && start != start_before
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: (i64, i64) = (10, 20);

    #[test]
    fn a_start_between_two_samples_is_a_reset() {
        assert!(begins_anew(TIMES, (0, 11)) && begins_anew(TIMES, (5, 19)));
        assert!(!begins_anew(TIMES, (5, 5)) && !begins_anew(TIMES, (5, 9)) && !begins_anew(TIMES, (5, 0)));
        // Not before its own sample: it says nothing.
        assert!(!begins_anew(TIMES, (5, 20)) && !begins_anew(TIMES, (5, 21)));
    }

    #[test]
    fn a_delta_begins_anew_and_a_counter_of_unknown_start_does_not() {
        assert!(begins_anew(TIMES, (5, 10)));
        for unknown in [0, 10, 11] {
            assert!(!begins_anew(TIMES, (unknown, 10)), "{unknown}");
        }
    }

    #[test]
    fn overlaps_are_neither_deltas_nor_one_counter() {
        assert!(overlaps(10, (5, 9)) && overlaps(10, (0, 5)));
        assert!(!overlaps(10, (5, 5)) && !overlaps(10, (5, 10)) && !overlaps(10, (5, 0)));
    }
}
