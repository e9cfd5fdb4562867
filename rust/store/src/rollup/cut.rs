//! Records without a range of time that was deleted.

use metricsdb_model::{Result, TimeRange};

use super::native::Folded;
use super::record::{end_of, floor_of};
use super::roll::TIME_MIN;
use super::{LevelSeries, RolledSeries};
use crate::chunk::SharedColumns;
use crate::expire::Expired;

/// What of a level goes with a range: the buckets that end in `(after, until]`, and those of them of which the range takes
/// but a part.
struct Gone {
    after: i64,
    until: i64,
    whole: Vec<i64>,
}

impl LevelSeries {
    /// `from`: buckets that begin there or later can be made anew.
    fn gone(&self, range: TimeRange, from: i64) -> Gone {
        let (first, last) = (end_of(range.start, self.every), end_of(range.end, self.every));
        let begin = |end: i64| end.saturating_sub(self.every);
        let is_part = |end: i64| range.start > begin(end).saturating_add(1) || range.end < end;
        let is_made = |end: i64| is_part(end) && begin(end) >= from;
        let mut whole: Vec<i64> = [first, last].into_iter().filter(|&e| is_part(e) && !is_made(e)).collect();
        whole.dedup();
        let after = if is_made(first) { first } else { begin(first) };
        let until = if is_made(last) { begin(last) } else { last };
        Gone { after, until: until.min(floor_of(self.until, self.every)), whole }
    }
}

impl RolledSeries {
    /// Notes the end of a bucket of the finest level that is to be made anew.
    fn soil(&mut self, end: i64) {
        if let Err(at) = self.dirty.binary_search(&end) {
            self.dirty.insert(at, end);
        }
    }

    /// Drops the records, sketches and kept samples of a range. Buckets that it cuts are made anew: those of the finest level
    /// are dirty then, and of the others the ends are given of finest buckets that they hold. Where what they are made of
    /// is gone, they go whole.
    pub(crate) fn cut(
        &mut self,
        range: TimeRange,
        shared: &SharedColumns,
        done: &mut Expired,
    ) -> Result<Vec<i64>> {
        let range = TimeRange::new(range.start.max(TIME_MIN), range.end.min(-TIME_MIN));
        if range.is_empty() || self.levels.is_empty() {
            return Ok(Vec::new());
        }
        self.replace_kept((range.start.saturating_sub(1), range.end), &[], shared)?;
        let (mut from, counter, mut lost) = (self.raw_from, self.kind.is_counter(), Vec::new());
        for level in &mut self.levels {
            let Gone { after, until, whole } = level.gone(range, from);
            from = level.floor;
            if until <= after || level.blocks.is_empty() {
                continue;
            }
            let (every, mut records) = (level.every, Vec::new());
            level.records(after, until, &mut records)?;
            done.records += records.len() as u64;
            lost.extend(
                whole.into_iter().filter(|e| records.iter().any(|r| r.end == *e)).map(|e| (e, every)),
            );
            level.replace((after, until), &[], &[], counter, shared)?;
            if level.native.is_some() {
                level.replace_native((after, until), &Folded::default())?;
            }
        }
        done.buckets += lost.len() as u64;
        for (end, every) in lost {
            self.replace_kept((end - every, end), &[], shared)?;
        }
        let Some(finest) = self.levels.first() else { return Ok(Vec::new()) };
        let (every, until) = (finest.every, finest.until);
        let ends = [end_of(range.start, every), end_of(range.end, every)];
        for end in ends {
            if end <= until && end - every >= self.raw_from {
                self.soil(end);
            }
        }
        Ok(ends.to_vec())
    }
}
