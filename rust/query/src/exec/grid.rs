//! The times of an evaluation, and the times at which a selector looks at its samples.

use metricsdb_model::{Budget, Error, Result, TimeRange};

/// More steps than this are refused before anything is allocated for them (subqueries make their own).
const GRID_STEPS_MAX: i64 = 4 << 20;

/// Values filled or copied between two looks at the budget.
pub(crate) const CELLS_PER_CHECK: usize = 1 << 18;

/// Evenly spaced evaluation times, in milliseconds. At least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub start: i64,
    pub step: i64,
    pub steps: usize,
}

impl Grid {
    /// The times `start, start + step, …` that are not after `end`; `None` when there is none.
    pub fn new(start: i64, end: i64, step: i64) -> Result<Option<Grid>> {
        if end < start {
            return Ok(None);
        }
        let step = step.max(1);
        let count = (end.saturating_sub(start) / step).saturating_add(1);
        if count > GRID_STEPS_MAX {
            return Err(Error::Limit {
                what: "steps of one evaluation",
                limit: GRID_STEPS_MAX as u64,
                needed: count as u64,
                remedy: "use a larger step or a shorter range",
            });
        }
        Ok(Some(Grid { start, step, steps: count as usize }))
    }

    pub fn instant(at: i64) -> Grid {
        Grid { start: at, step: 1, steps: 1 }
    }

    pub fn time(&self, i: usize) -> i64 {
        self.start.saturating_add(self.step.saturating_mul(i as i64))
    }

    /// The times of a subquery over this grid: the multiples of `step` in every `(t - range, t]`, from
    /// the first such time to the last.
    pub fn inner(&self, looks: &Looks, range: i64, step: i64) -> Result<Option<Grid>> {
        let step = step.max(1);
        let after = looks.first.saturating_sub(range);
        let start = after.div_euclid(step).saturating_add(1).saturating_mul(step);
        Grid::new(start, looks.last(), step)
    }
}

/// Where a selector looks at each step: the step's time, moved by `offset`, or pinned by `@`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Looks {
    pub first: i64,
    /// 0 when pinned: then there is one look, and every step sees the same.
    pub step: i64,
    pub count: usize,
}

impl Looks {
    pub fn new(grid: &Grid, at: Option<i64>, offset: i64) -> Looks {
        match at {
            Some(at) => Looks { first: at.saturating_sub(offset), step: 0, count: 1 },
            None => Looks { first: grid.start.saturating_sub(offset), step: grid.step, count: grid.steps },
        }
    }

    pub fn time(&self, i: usize) -> i64 {
        self.first.saturating_add(self.step.saturating_mul(i as i64))
    }

    pub fn last(&self) -> i64 {
        self.time(self.count - 1)
    }

    /// All sample times that some look can see through left-open windows of `window` milliseconds.
    pub fn reach(&self, window: i64) -> TimeRange {
        self.around(window, 0)
    }

    /// Whether one of the left-open windows of `window` milliseconds holds both times, the earlier one first.
    pub fn sees_both(&self, earlier: i64, later: i64, window: i64) -> bool {
        let behind = later.saturating_sub(self.first);
        let step = match self.step {
            _ if behind <= 0 => 0,
            0 => return false,
            step => (behind - 1) / step + 1,
        };
        let look = self.first.saturating_add(self.step.saturating_mul(step));
        step < self.count as i64 && look.saturating_sub(window) < earlier
    }

    /// The same for windows that go on for `after` milliseconds behind the look.
    pub fn around(&self, before: i64, after: i64) -> TimeRange {
        let start = self.first.saturating_sub(before).saturating_add(1);
        TimeRange::new(start, self.last().saturating_add(after))
    }
}

/// Refuses to hold more values at once than the query may load, or more bytes than it may hold.
pub(crate) fn reserve(budget: &Budget, rows: usize, steps: usize) -> Result<usize> {
    let cells = rows.saturating_mul(steps);
    budget.hold_samples(cells as u64)?;
    budget.hold(cells.saturating_mul(size_of::<f64>()))?;
    Ok(cells)
}

/// So many values, all the same. Fresh memory costs a quarter of a nanosecond a byte.
pub(crate) fn filled(budget: &Budget, rows: usize, steps: usize, value: f64) -> Result<Vec<f64>> {
    let cells = reserve(budget, rows, steps)?;
    let mut values = Vec::with_capacity(cells);
    while values.len() < cells {
        budget.check()?;
        values.resize(cells.min(values.len() + CELLS_PER_CHECK), value);
    }
    Ok(values)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn subquery_times_are_multiples_of_the_step_after_the_left_edge() {
        let grid = Grid::instant(10_000);
        let inner = |first: i64, range, step| {
            let looks = Looks { first, step: 0, count: 1 };
            grid.inner(&looks, range, step).unwrap().map(|g| (g.start, g.time(g.steps - 1)))
        };
        assert_eq!(inner(10_000, 50_000, 10_000), Some((-30_000, 10_000)));
        assert_eq!(inner(10_000, 10_000, 10_000), Some((10_000, 10_000)));
        assert_eq!(inner(10_001, 10_000, 10_000), Some((10_000, 10_000)));
        assert_eq!(inner(9_999, 5_000, 10_000), None);
        assert_eq!(inner(-5, 10, 10), Some((-10, -10)));
    }

    #[test]
    fn two_times_are_seen_together_by_the_first_window_that_reaches_the_later() {
        let looks = Looks { first: 100, step: 30, count: 3 };
        let slow = |earlier: i64, later: i64, window: i64| {
            (0..3).any(|i| looks.time(i) >= later && looks.time(i) - window < earlier)
        };
        for (earlier, later) in (60..170).flat_map(|a| (a + 1..175).map(move |b| (a, b))) {
            for window in [1, 20, 30, 31, 45, 90] {
                let wanted = slow(earlier, later, window);
                assert_eq!(looks.sees_both(earlier, later, window), wanted, "{earlier} {later} {window}");
            }
        }
        let pinned = Looks { first: 100, step: 0, count: 1 };
        assert!(pinned.sees_both(91, 100, 10) && !pinned.sees_both(90, 100, 10));
        assert!(!pinned.sees_both(91, 101, 10));
    }

    #[test]
    fn a_grid_without_end_is_refused() {
        assert!(Grid::new(i64::MIN, i64::MAX, 1).is_err());
        assert_eq!(Grid::new(5, 4, 1).unwrap(), None);
        assert_eq!(Grid::new(0, 25, 10).unwrap().unwrap().steps, 3);
    }
}
