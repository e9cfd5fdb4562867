//! Whether a counter began anew between two histograms.

use metricsdb_model::histogram::ResetHint;

use super::combine::{at_resolution, common_bounds, inside_zero, slot};
use super::{FloatHistogram, Side};

impl FloatHistogram {
    /// True if any count fell. The hint decides if it says something; finer buckets, a narrower zero bucket and
    /// a change between exponential and custom buckets are resets. Gauges are looked at as if they were
    /// counters. Costs a walk over both.
    pub fn is_reset_after(&self, previous: &FloatHistogram) -> bool {
        match self.reset {
            ResetHint::Reset => return true,
            ResetHint::NotReset => return false,
            ResetHint::Unknown | ResetHint::Gauge => {}
        }
        if self.count < previous.count {
            return true;
        }
        match (self.is_custom(), previous.is_custom()) {
            (true, true) if self.bounds == previous.bounds => fell(&self.positive, &previous.positive),
            (true, true) => self.fell_between_common_bounds(previous),
            (false, false) => self.fell_exponential(previous),
            _ => true,
        }
    }

    fn fell_exponential(&self, previous: &FloatHistogram) -> bool {
        if self.schema > previous.schema || self.zero_threshold < previous.zero_threshold {
            return true;
        }
        let (zero, edge) = previous.zero_within(self.zero_threshold);
        // A populated bucket across the new edge of the zero bucket: those are not the same observations.
        if edge > self.zero_threshold || self.zero_count < zero {
            return true;
        }
        let levels = previous.schema.abs_diff(self.schema);
        let sides = [(&self.positive, &previous.positive), (&self.negative, &previous.negative)];
        sides.into_iter().any(|(now, before)| {
            let before = at_resolution(before, levels);
            let skip = inside_zero(&before, self.schema, edge);
            if skip == 0 {
                return fell(now, &before);
            }
            let mut outside = before.into_owned();
            let first = outside.indices.get(skip).copied();
            outside.keep(|i, _| first.is_some_and(|f| i >= f));
            fell(now, &outside)
        })
    }

    fn fell_between_common_bounds(&self, previous: &FloatHistogram) -> bool {
        let common = common_bounds(&self.bounds, &previous.bounds);
        let sums = |h: &FloatHistogram| {
            let mut sums = vec![0.0; common.len() + 1];
            h.positive.iter().for_each(|(i, c)| sums[slot(&h.bounds, &common, i)] += c);
            sums
        };
        sums(self).iter().zip(sums(previous)).any(|(now, before)| *now < before)
    }
}

/// Whether any bucket counts less than before; one that is gone counts nothing.
fn fell(now: &Side, before: &Side) -> bool {
    if now.indices == before.indices {
        return now.counts.iter().zip(&before.counts).any(|(now, before)| now < before);
    }
    let mut now = now.iter().peekable();
    before.iter().any(|(index, before)| {
        while now.next_if(|(i, _)| *i < index).is_some() {}
        match now.peek() {
            Some((i, count)) if *i == index => *count < before,
            _ => before != 0.0,
        }
    })
}
