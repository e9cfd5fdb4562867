//! Sums and means of many histograms that keep small counts beside large ones.

use metricsdb_model::histogram::ResetHint;

use super::combine::Incompatible;
use super::{Count, FloatHistogram, Histogram, Remark, Remarks};
use crate::function::compensated::Sum;

/// Below this, sums of as many buckets as there may be stay finite.
const SAFE_MAX: f64 = 1e300;

/// What `sum`, `avg`, `sum_over_time` and `avg_over_time` add histograms up in. A mean divides the sum, and goes
/// on as a running mean once a sum would overflow, as Prometheus does.
#[derive(Clone, Debug)]
pub struct Accumulator {
    /// The sum, or the running mean.
    total: Histogram<Sum>,
    points: f64,
    mean: bool,
    running: bool,
    reset_seen: bool,
    not_reset_seen: bool,
    reconciled: bool,
}

impl Accumulator {
    pub fn sum_of(first: &FloatHistogram) -> Accumulator {
        Accumulator::new(first, false)
    }

    pub fn mean_of(first: &FloatHistogram) -> Accumulator {
        Accumulator::new(first, true)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        size_of::<Accumulator>() + self.total.bytes()
    }

    fn new(first: &FloatHistogram, mean: bool) -> Accumulator {
        let mut new = Accumulator {
            total: first.map(Sum::new),
            points: 1.0,
            mean,
            running: false,
            reset_seen: false,
            not_reset_seen: false,
            reconciled: false,
        };
        new.see(first);
        new
    }

    fn see(&mut self, h: &FloatHistogram) {
        self.reset_seen |= h.reset == ResetHint::Reset;
        self.not_reset_seen |= h.reset == ResetHint::NotReset;
    }

    /// Errors: `Incompatible`; there is no sum then.
    pub fn add(&mut self, h: &FloatHistogram) -> Result<(), Incompatible> {
        self.see(h);
        self.points += 1.0;
        if !self.mean {
            return self.combine(h);
        }
        if !self.running {
            if is_safe(&self.total) && is_safe(h) {
                return self.combine(h);
            }
            let before = self.total.clone();
            self.combine(h)?;
            if self.total.counts().all(|sum| !sum.high.is_infinite()) {
                return Ok(());
            }
            let points = self.points - 1.0;
            self.total = before.map(|sum| Sum { high: sum.high / points, low: sum.low / points });
            self.running = true;
        }
        let share = (self.points - 1.0) / self.points;
        self.total = self.total.map(|sum| Sum { high: sum.high * share, low: sum.low * share });
        let mut part = h.clone();
        part.divide(self.points);
        self.combine(&part)
    }

    fn combine(&mut self, h: &FloatHistogram) -> Result<(), Incompatible> {
        self.reconciled |= self.total.combine(h, 1.0)?.reconciled;
        Ok(())
    }

    /// The sum or mean. Empty buckets stay: an aggregation compacts.
    pub fn finish(&self) -> FloatHistogram {
        let points = self.points;
        match (self.mean, self.running) {
            (false, _) => self.total.map(Sum::value),
            (true, true) => self.total.map(|sum| sum.high + sum.low),
            (true, false) => self.total.map(|sum| sum.high / points + sum.low / points),
        }
    }

    pub fn remarks(&self) -> Remarks {
        let mut remarks = Remarks::default();
        if self.reset_seen && self.not_reset_seen {
            remarks.add(Remark::CollisionInAggregation);
        }
        if self.reconciled {
            remarks.add(Remark::ReconciledInAggregation);
        }
        remarks
    }
}

fn is_safe<T: Count>(h: &Histogram<T>) -> bool {
    h.counts().all(|count| count.total().abs() < SAFE_MAX)
}
