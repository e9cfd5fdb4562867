//! Reading: records stand for the samples that are gone.

use std::ops::Range;

use metricsdb_model::source::{Quantiles, Stood};
use metricsdb_model::{Result, Samples, Sketch, TimeRange};

use super::record::{Record, coarser, end_of, expand, floor_of, points_of, records_of};
use super::roll::TIME_MIN;
use super::sketches;
use super::states::{self, State};
use super::{LevelRef, LevelSeries, Packed, RolledSeries, block::Block, stand_in};

/// A record, and the width of its bucket.
pub(super) type Standing = (i64, Record);

/// The records whose buckets meet a window, of those in time order; `from`: where the search begins, no later for the next
/// of ascending windows.
pub(super) fn near(records: &[Standing], from: &mut usize, window: TimeRange) -> Range<usize> {
    let behind = |(_, r): &&Standing| r.end < window.start;
    *from += records.iter().skip(*from).take_while(behind).count();
    let inside = |(every, r): &&Standing| r.end - every < window.end;
    *from..*from + records.iter().skip(*from).take_while(inside).count()
}

impl RolledSeries {
    /// Whether records stand for samples of this range.
    pub fn stands_in(&self, range: TimeRange) -> bool {
        stand_in(self.levels.iter().map(LevelSeries::as_ref), self.raw_from, range)
    }

    /// As if samples and finer records were gone wherever records of this width are made; itself where it has none.
    pub(crate) fn seen_at(mut self, every: i64) -> RolledSeries {
        let Some(at) = self.levels.iter().position(|l| l.every == every) else { return self };
        let until = self.levels.get(at).map_or(i64::MIN, |level| self.clean(level));
        for finer in self.levels.iter_mut().take(at) {
            finer.floor = finer.floor.max(until);
        }
        self.raw_from = self.raw_from.max(until);
        self
    }

    /// Up to where the records of a level are as their samples are: those that late samples changed are made anew.
    fn clean(&self, level: &LevelSeries) -> i64 {
        match self.dirty.first() {
            Some(end) => level.until.min(floor_of(end - 1, level.every)),
            None => level.until,
        }
    }

    /// The part of a range whose samples are all there.
    pub fn raw_part(&self, range: TimeRange) -> TimeRange {
        TimeRange::new(range.start.max(self.raw_from.saturating_add(1)), range.end)
    }

    /// Width of the widest bucket that stands for samples of this range; 0 for none.
    pub fn resolution(&self, range: TimeRange) -> i64 {
        let stands = |&(at, upper): &(usize, i64)| {
            let Some(level) = self.levels.get(at) else { return false };
            let lower = level.floor;
            let any = level.blocks.first().zip(level.blocks.last());
            let overlaps = |(first, last): (&Block, &Block)| {
                first.first() - level.every < range.end.min(upper) && last.last() >= range.start.max(lower)
            };
            range.start <= upper && any.is_some_and(overlaps)
        };
        let widest = self.parts().into_iter().rfind(stands);
        widest.and_then(|(at, _)| self.levels.get(at)).map_or(0, |level| level.every)
    }

    /// Each level with the time up to which it stands: where the one below it, or raw samples, begin.
    pub(super) fn parts(&self) -> Vec<(usize, i64)> {
        let mut upper = self.raw_from;
        let mut parts = Vec::with_capacity(self.levels.len());
        for (at, level) in self.levels.iter().enumerate() {
            parts.push((at, upper.min(level.until)));
            upper = upper.min(level.floor);
        }
        parts
    }

    /// The records that stand for the samples of a range, in time order; those at its ends may reach beyond it.
    pub(super) fn standing(&self, range: TimeRange) -> Result<Vec<Standing>> {
        let (mut all, mut records) = (Vec::new(), Vec::new());
        for (at, upper) in self.parts().into_iter().rev() {
            let Some(level) = self.levels.get(at) else { continue };
            records.clear();
            let until = end_of(range.end, level.every).min(upper);
            level.records(range.start.saturating_sub(1), until, &mut records)?;
            all.extend(records.iter().map(|&record| (level.every, record)));
        }
        Ok(all)
    }

    /// Samples that `read` gives for a range at most.
    pub fn points_at_most(&self, range: TimeRange) -> u64 {
        let of = |l: &LevelSeries| -> u64 {
            let most = points_of(&Record { count: u64::MAX, ..Record::ZERO }, l.every);
            let blocks =
                l.blocks.iter().filter(|b| b.first() - l.every < range.end && b.last() >= range.start);
            blocks.map(|b| b.count() as u64 * most).sum()
        };
        let kept: u64 = self.kept.iter().map(|c| c.count() as u64).sum();
        if self.is_native() {
            return 0;
        }
        if self.stands_in(range) { self.levels.iter().map(of).sum::<u64>() + kept } else { 0 }
    }

    pub fn encoded_bytes(&self, range: TimeRange) -> u64 {
        let blocks = self.levels.iter().flat_map(|l| l.blocks.iter().map(move |b| (l.every, b)));
        let within = blocks.filter(|(every, b)| b.first() - every < range.end && b.last() >= range.start);
        if self.stands_in(range) { within.map(|(_, b)| b.encoded_bytes() as u64).sum() } else { 0 }
    }

    /// Appends samples that stand for those that are gone, in a range.
    pub fn read(&self, range: TimeRange, out: &mut Samples) -> Result<()> {
        if self.is_native() {
            return Ok(());
        }
        let mut kept = Samples::default();
        self.read_kept(TimeRange::new(range.start, range.end.min(self.raw_from)), &mut kept)?;
        let mut kept = kept.timestamps.into_iter().zip(kept.values).peekable();
        for (every, record) in self.standing(range)? {
            expand(&record, every, self.kind.is_counter(), |time, value| {
                while let Some((at, value)) = kept.next_if(|s| s.0 < time) {
                    out.push(at, value);
                }
                if range.contains(time) && kept.peek().is_none_or(|s| s.0 != time) {
                    out.push(time, value);
                }
            });
        }
        kept.for_each(|(time, value)| out.push(time, value));
        Ok(())
    }

    /// What the samples of ascending windows come to; `raw` appends those that are there in a range.
    pub fn summaries(
        &self,
        windows: &[TimeRange],
        raw: impl FnOnce(TimeRange, &mut Samples) -> Result<()>,
    ) -> Result<Stood> {
        let mut stood = Stood {
            windows: Vec::with_capacity(windows.len()),
            exact: true,
            resets: self.kind.is_counter(),
            samples: 0,
        };
        let Some((first, last)) = windows.first().zip(windows.last()) else { return Ok(stood) };
        let reach = TimeRange::new(first.start, last.end);
        let records = self.standing(reach)?;
        let mut samples = Samples::default();
        raw(self.raw_part(reach), &mut samples)?;
        samples.drop_stale(0);
        let (mut from, mut points) = (0, Samples::default());
        for window in windows {
            let mut all: Option<Record> = None;
            let add = |all: &mut Option<Record>, next: &Record| match all {
                Some(all) => all.append(next),
                None => *all = Some(*next),
            };
            for (every, record) in &records[near(&records, &mut from, *window)] {
                if record.end <= window.end && record.end - every >= window.start.saturating_sub(1) {
                    add(&mut all, record);
                    continue;
                }
                // Only a part of the bucket: what may have been there.
                points.clear();
                expand(record, *every, self.kind.is_counter(), |time, value| {
                    if window.contains(time) {
                        points.push(time, value);
                    }
                });
                if let Some(part) = Record::of(window.end, &points.timestamps, &points.values) {
                    add(&mut all, &part.standing_for(record.count as f64 / points_of(record, *every) as f64));
                }
                // Of samples that survived it is known which side they are on.
                points.clear();
                let inside = TimeRange::new(record.first.0.max(window.start), record.last.0.min(window.end));
                self.read_kept(inside, &mut points)?;
                if let (Some(all), false) = (&mut all, points.is_empty()) {
                    all.min = points.values.iter().copied().fold(all.min, f64::min);
                    all.max = points.values.iter().copied().fold(all.max, f64::max);
                }
                stood.exact = false;
            }
            let a = samples.timestamps.partition_point(|&t| t < window.start);
            let b = samples.timestamps.partition_point(|&t| t <= window.end).max(a);
            let slices = samples.timestamps.get(a..b).zip(samples.values.get(a..b));
            if let Some(part) = slices.and_then(|(times, values)| Record::of(window.end, times, values)) {
                add(&mut all, &part);
            }
            stood.windows.push(all.map(|all| all.summary()));
        }
        stood.samples = samples.len() as u64 + records.len() as u64;
        Ok(stood)
    }

    /// What the samples of ascending windows come to as sketches; none where some level has none. Not exact where a window
    /// cuts a bucket: points stand for its samples then.
    pub fn quantiles(
        &self,
        windows: &[TimeRange],
        raw: impl FnOnce(TimeRange, &mut Samples) -> Result<()>,
    ) -> Result<Option<Quantiles>> {
        let Some((first, last)) = windows.first().zip(windows.last()) else { return Ok(None) };
        let reach = TimeRange::new(first.start, last.end);
        let records = self.standing(reach)?;
        let mut sketches = Vec::new();
        for (at, upper) in self.parts().into_iter().rev() {
            let Some(level) = self.levels.get(at) else { continue };
            let until = end_of(reach.end, level.every).min(upper);
            level.sketches(reach.start.saturating_sub(1), until, &mut sketches)?;
        }
        let bare: Vec<Record> = records.iter().map(|(_, r)| *r).collect();
        let Some(sketches) = sketches::whole(&bare, &sketches)? else { return Ok(None) };
        let mut samples = Samples::default();
        raw(self.raw_part(reach), &mut samples)?;
        samples.drop_stale(0);
        let mut found = Quantiles { windows: Vec::with_capacity(windows.len()), exact: true, samples: 0 };
        let mut from = 0;
        for window in windows {
            let mut all = Sketch::default();
            let near = near(&records, &mut from, *window);
            for ((every, record), sketch) in records[near.clone()].iter().zip(&sketches[near]) {
                if record.end <= window.end && record.end - every >= window.start.saturating_sub(1) {
                    all.merge(sketch);
                    continue;
                }
                expand(record, *every, self.kind.is_counter(), |time, value| {
                    if window.contains(time) {
                        all.add(value);
                    }
                });
                found.exact = false;
            }
            let a = samples.timestamps.partition_point(|&t| t < window.start);
            let b = samples.timestamps.partition_point(|&t| t <= window.end).max(a);
            all.add_all(samples.values.get(a..b).unwrap_or(&[]));
            found.windows.push((all.count() > 0).then_some(all));
        }
        found.samples = samples.len() as u64 + records.len() as u64;
        Ok(Some(found))
    }

    /// States of the buckets of one of its levels that end in `(after, until]` and have some, by their ends. Errors: `Corruption`.
    pub fn states(&self, every: i64, (after, until): (i64, i64)) -> Result<Vec<(i64, Vec<State>)>> {
        let (mut records, mut stored) = (Vec::new(), Vec::new());
        if let Some(level) = self.levels.iter().find(|level| level.every == every && self.beside.states) {
            level.records(after, until, &mut records)?;
            level.sketches(after, until, &mut stored)?;
        }
        let all = states::whole(&records, &stored)?;
        Ok(records.iter().zip(all).filter_map(|(record, states)| Some((record.end, states?))).collect())
    }

    /// The newest time and value that records stand for, in a range.
    pub fn newest(&self, range: TimeRange) -> Result<Option<(i64, f64)>> {
        let mut out = Samples::default();
        self.read(range, &mut out)?;
        Ok(out.timestamps.last().copied().zip(out.values.last().copied()))
    }

    /// Whether a record stands for some sample of the range.
    pub fn has_any(&self, range: TimeRange) -> Result<bool> {
        let within = |r: &Record| TimeRange::new(r.first.0, r.last.0).overlaps(range);
        Ok(self.stands_in(range) && self.standing(range)?.iter().any(|(_, r)| within(r)))
    }

    /// Records of one level in `(after, until]`; those that are not made yet come from finer ones and from raw samples, the
    /// last as far as its samples go, and are left out of native histograms.
    pub fn level(
        &self,
        every: i64,
        (after, until): (i64, i64),
        raw: impl FnOnce(TimeRange, &mut Samples) -> Result<()>,
    ) -> Result<Vec<Record>> {
        let mut out = Vec::new();
        let until_end = end_of(until, every);
        let mut made = i64::MIN;
        if let Some(level) = self.levels.iter().find(|l| l.every == every) {
            made = self.clean(level);
            level.records(after, until_end.min(made), &mut out)?;
        }
        if self.is_native() {
            return Ok(out);
        }
        let (mut fine, mut samples) = (Vec::new(), Samples::default());
        let mut from = made.max(after);
        let below = self.levels.iter().rev().filter(|l| l.every < every && every % l.every == 0);
        for level in below {
            let upto = until_end.min(self.clean(level));
            if upto > from {
                level.records(from, upto, &mut fine)?;
                from = upto;
            }
        }
        raw(self.raw_part(TimeRange::new(from.saturating_add(1), until_end)), &mut samples)?;
        samples.drop_stale(0);
        let finest =
            self.levels.first().map_or(every, |l| if every % l.every == 0 { l.every } else { every });
        records_of(&samples.timestamps, &samples.values, finest, i64::MAX, &mut fine);
        coarser(&fine, every, until_end, &mut out);
        Ok(out)
    }
}

impl Packed {
    /// What the samples of ascending windows come to, by the widest buckets that make up each of them and are as their
    /// samples are. `None` where these are more than `records_max`, or there are none.
    pub fn whole_windows(&self, windows: &[TimeRange], records_max: u64) -> Result<Option<Stood>> {
        let Some((first, last)) = windows.first().zip(windows.last()) else { return Ok(None) };
        let (after, until) = (first.start.saturating_sub(1), last.end);
        let dirty = self.dirty().last().is_some_and(|&end| end > after);
        if self.is_native() || after < self.raw_from() || dirty || after < TIME_MIN {
            return Ok(None);
        }
        let few = |level: &LevelRef<'_>| {
            let near = level.blocks.iter().filter(|b| b.last() > after && b.first() <= until);
            near.map(|b| b.count() as u64).sum::<u64>() <= records_max
        };
        let fits = |level: &LevelRef<'_>| {
            let whole = |w: &TimeRange| (w.start - 1) % level.every == 0 && w.end % level.every == 0;
            level.floor <= after && level.until >= until && windows.iter().all(whole)
        };
        // A finer level has more.
        let mut levels: Vec<LevelRef<'_>> = self.levels().collect();
        levels.reverse();
        let Some(level) = levels.into_iter().take_while(few).find(fits) else { return Ok(None) };
        let mut records = Vec::new();
        level.records(after, until, &mut records)?;
        let (mut from, samples) = (0, records.len() as u64);
        let sum = |window: &TimeRange| {
            while records.get(from).is_some_and(|r| r.end < window.start) {
                from += 1;
            }
            let mut inside = records.iter().skip(from).take_while(|r| r.end <= window.end);
            let mut all = *inside.next()?;
            inside.for_each(|next| all.append(next));
            Some(all.summary())
        };
        let windows = windows.iter().map(sum).collect();
        Ok(Some(Stood { windows, exact: true, resets: self.kind().is_counter(), samples }))
    }
}
