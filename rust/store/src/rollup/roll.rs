//! Samples become records: what is due of each series, step by step, each noted in the journal and repeated in a recovery.

use std::collections::BTreeMap;

use metricsdb_model::{Budget, HistogramSamples, Labels, Predicate, Result, Samples, TimeRange};

use super::block::BLOCK_BUCKETS;
use super::kept;
use super::kind::Kind;
use super::native::Folded;
use super::record::{Record, coarser, end_of, floor_of, records_of};
use super::sketches::{self, Beside};
use super::{LevelRef, LevelSeries, Packed, RolledSeries};
use crate::database::Database;
use crate::expire::Expired;
use crate::histograms::HistogramSeries;
use crate::shard::{SHARDS, Shard, Work, id_of};
use crate::view::ByShard;

/// Samples before this time, 73 million years back, are left alone, and no bucket is wider than this: so no sum of times
/// overflows.
pub const TIME_MIN: i64 = -(1 << 61);
pub const EVERY_MAX: i64 = 1 << 50;
/// Series that are rolled under one hold of a shard's lock: a millisecond or two.
const ROWS_HELD: usize = 16;
/// Buckets of the finest level among whose samples those that survive are chosen.
const KEPT_BUCKETS: i64 = 64;

/// One level of a rule; times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// The width of a bucket.
    pub every: i64,
    /// How long records are kept; `None`: for good.
    pub keep: Option<i64>,
}

/// Which samples survive: those that stray, at most `share` of all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Keeping {
    /// Above 0, at most 1.
    pub share: f64,
    /// In standard deviations of the noise around.
    pub threshold: f64,
    /// Samples kept on either side of one that strays.
    pub neighbours: usize,
}

impl Keeping {
    fn options(&self, samples: usize) -> kept::Options {
        let points_max = (self.share * samples as f64).ceil() as usize;
        let (threshold, neighbours) = (self.threshold, self.neighbours);
        kept::Options { threshold, neighbours, points_max, ..kept::Options::default() }
    }
}

/// What becomes of the samples of chosen series.
#[derive(Clone, Debug)]
pub struct Rule {
    pub predicate: Predicate,
    /// How long raw samples are kept; `None`: as long as others.
    pub raw: Option<i64>,
    /// The finest first; each is a multiple of the one before. None: these series get no records, whatever later rules say.
    pub levels: Vec<Level>,
    /// What they are; `None`: by type, name or behaviour.
    pub kind: Option<Kind>,
    pub keeping: Option<Keeping>,
    /// What is kept beside records.
    pub beside: Beside,
}

/// What one call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rolled {
    /// Series that were looked into, samples read, records made and dropped, buckets made anew for late samples.
    pub series: u64,
    pub samples: u64,
    pub records: u64,
    pub expired_records: u64,
    pub remade: u64,
    /// Samples that survive as they are.
    pub kept: u64,
    /// Raw samples that were dropped since records stand for them.
    pub raw: Expired,
}

/// When a pass is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Milliseconds.
    pub now: i64,
    /// Samples that are younger are left alone.
    pub delay: i64,
    /// Buckets of the finest level below which a series waits: the block they go into is written anew each time.
    pub batch: i64,
}

/// Where a pass over all series stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub next_shard: usize,
}

impl Progress {
    pub fn is_finished(&self) -> bool {
        self.next_shard >= SHARDS
    }
}

/// What a rule comes to at one time: all that is needed to do the same again.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Nothing younger is rolled.
    pub horizon: i64,
    /// Raw samples before it go; `i64::MIN`: none.
    pub raw_before: i64,
    /// Width, and the time before which records go.
    pub levels: Vec<(i64, i64)>,
    pub keeping: Option<Keeping>,
    pub beside: Beside,
}

impl Step {
    fn of(rule: &Rule, Pass { now, delay, .. }: Pass) -> Step {
        let before = |keep: Option<i64>| keep.map_or(i64::MIN, |keep| now.saturating_sub(keep));
        // Samples stay no longer than the finest records: else these could not leave.
        let finest = rule.levels.first().and_then(|l| l.keep);
        Step {
            horizon: now.saturating_sub(delay),
            raw_before: before(rule.raw).max(before(finest)),
            levels: rule.levels.iter().map(|l| (l.every, before(l.keep))).collect(),
            keeping: rule.keeping,
            beside: rule.beside,
        }
    }

    fn has(&self, every: i64) -> bool {
        self.levels.iter().any(|l| l.0 == every)
    }

    /// The time before which records of a width go; those that the rule does not name go as its last.
    fn records_before(&self, every: i64) -> i64 {
        let named = self.levels.iter().find(|l| l.0 == every);
        named.or(self.levels.last()).map_or(i64::MIN, |l| l.1)
    }

    /// The widths that these levels are of once they take those of the rule; their own stay as long as they have something.
    /// `None` where they are, or where it would make no chain: then they stay as they are.
    fn widths<'a>(&self, levels: impl Iterator<Item = LevelRef<'a>> + Clone) -> Option<Vec<i64>> {
        let own = || levels.clone().map(|l| l.every);
        if own().eq(self.levels.iter().map(|l| l.0)) {
            return None;
        }
        let stays = |l: &LevelRef<'_>| self.has(l.every) || !l.blocks.is_empty();
        let mut all: Vec<i64> = levels.clone().filter(stays).map(|l| l.every).collect();
        all.extend(self.levels.iter().map(|l| l.0));
        all.sort_unstable();
        all.dedup();
        let is_chain = all.windows(2).all(|pair| pair[1] % pair[0] == 0);
        (is_chain && !own().eq(all.iter().copied())).then_some(all)
    }

    /// Whether records have to be made anew, dropped, or made of other widths.
    fn changes(&self, series: &Packed) -> bool {
        // Some block is older than its level is kept.
        let old =
            |l: LevelRef<'_>| l.blocks.first().is_some_and(|b| b.last() <= self.records_before(l.every));
        !series.dirty().is_empty() || series.levels().any(old) || self.widths(series.levels()).is_some()
    }

    /// The step of a series whose records up to a time are all there is of it: they are made, and those of each level before
    /// another time go.
    pub(super) fn leaving(series: &Packed, until: i64, before: i64) -> Step {
        let levels = series.levels().map(|l| (l.every, before)).collect();
        let (keeping, beside) = series.policy();
        Step { horizon: i64::MIN, raw_before: until, levels, keeping, beside }
    }

    /// The step of a series whose raw samples go for another reason.
    pub(crate) fn forced(series: &Packed, before: i64) -> Step {
        let levels = series.levels().map(|l| (l.every, i64::MIN)).collect();
        let (keeping, beside) = series.policy();
        Step { horizon: i64::MIN, raw_before: before, levels, keeping, beside }
    }
}

/// The buckets that end in `(after, until]`, both ends of buckets.
type Span = (i64, i64);

/// A span, and what of it survives.
type Survivors = (Span, Vec<(i64, f64)>);

/// How much a counter rose before each of its samples.
fn increases(before: Option<f64>, values: &[f64]) -> Vec<f64> {
    let mut before = before.or(values.first().copied()).unwrap_or(0.0);
    let rise = |&v: &f64| {
        let rise = if v < before { v } else { v - before };
        before = v;
        rise
    };
    values.iter().map(rise).collect()
}

/// The samples of a span that survive, chosen group by group, whatever pass they were in; records are told of those that
/// should have. `before` is the last value in the group before.
fn survivors(
    counter: bool,
    keeping: &Keeping,
    mut before: Option<f64>,
    samples: &Samples,
    every: i64,
    records: &mut [Record],
) -> Result<Vec<(i64, f64)>> {
    let mut samples = samples.clone();
    samples.drop_stale(0);
    let (width, mut out, mut from, mut number) = (every * KEPT_BUCKETS, Vec::new(), 0, None);
    let group_of = |&time: &i64| (time - 1).div_euclid(width);
    for group in samples.timestamps.chunk_by(|a, b| group_of(a) == group_of(b)) {
        let values = samples.values.get(from..from + group.len()).unwrap_or(&[]);
        from += group.len();
        let this = group.first().map(group_of);
        if number.is_some() && number != this.map(|n| n - 1) {
            before = None;
        }
        number = this;
        let picked = if counter {
            let keeping = Keeping { neighbours: keeping.neighbours.max(1), ..*keeping };
            kept::pick(&increases(before, values), &keeping.options(values.len()))?
        } else {
            kept::pick(values, &keeping.options(values.len()))?
        };
        before = values.last().copied();
        for &time in picked.dropped.iter().filter_map(|&i| group.get(i as usize)) {
            if let Ok(i) = records.binary_search_by_key(&end_of(time, every), |r| r.end)
                && let Some(record) = records.get_mut(i)
            {
                record.unkept += 1;
            }
        }
        let sample = |&i: &u32| group.get(i as usize).copied().zip(values.get(i as usize).copied());
        out.extend(picked.kept.iter().filter_map(sample));
    }
    Ok(out)
}

impl RolledSeries {
    /// Spans of the finest level whose records are to be made, by late samples and up to `until`: of a policy that keeps samples,
    /// whole groups of buckets, since the choice hangs on all samples of one and on the one before.
    fn spans_due(&self, until: i64, native: bool) -> Vec<Span> {
        let Some(level) = self.levels.first() else { return Vec::new() };
        let (every, made) = (level.every, level.until);
        let lowest = self.raw_from.max(TIME_MIN);
        let dirty = self.dirty.iter().copied().filter(|&end| end <= made);
        let after = made.max(lowest);
        if native || self.keeping.is_none() {
            let mut spans: Vec<Span> = dirty.map(|end| (end - every, end)).collect();
            spans.extend((until > after).then_some((after, until)));
            return spans;
        }
        let width = every * KEPT_BUCKETS;
        let groups = dirty.map(|end| (end - 1).div_euclid(width)).flat_map(|n| [n * width, (n + 1) * width]);
        let mut spans: Vec<Span> = groups
            .filter(|&start| start < made)
            .map(|start| (start.max(lowest), start.saturating_add(width).min(made)))
            .collect();
        spans.sort_unstable();
        spans.dedup();
        if until > after {
            // That of the group that was begun is made anew with the rest of it.
            let begun = floor_of(after, width).max(lowest);
            spans.retain(|span| span.1 <= begun);
            spans.push((begun, until));
        }
        spans
    }

    fn adopt(&mut self, step: &Step) {
        let Some(widths) = step.widths(self.levels.iter().map(LevelSeries::as_ref)) else { return };
        let mut before = std::mem::take(&mut self.levels);
        for every in widths {
            let known = before.iter().position(|l| l.every == every);
            self.levels.push(known.map_or(LevelSeries::new(every), |at| before.swap_remove(at)));
        }
        // A finer level than the finest there was begins where raw samples begin.
        if let [new, old, ..] = &mut self.levels[..]
            && new.blocks.is_empty()
            && new.until == i64::MIN
            && !old.blocks.is_empty()
        {
            (new.until, new.floor) = (self.raw_from, self.raw_from);
        }
    }

    /// Drops levels that the rule does not name, where one above that it names has all that they alone stand for.
    fn drop_superseded(&mut self, step: &Step) {
        let raw_from = self.raw_from;
        let named: Vec<(i64, i64, i64)> =
            self.levels.iter().filter(|l| step.has(l.every)).map(|l| (l.every, l.floor, l.until)).collect();
        self.levels.retain(|l| {
            let covers = |&(every, floor, until): &(i64, i64, i64)| {
                every > l.every && floor <= l.floor && until >= l.until.min(raw_from)
            };
            step.has(l.every) || !named.iter().any(covers)
        });
    }
}

impl Shard {
    /// Whether there is enough to do for a row, by the heads of its chunks alone.
    pub(super) fn roll_due(&self, row: u32, step: &Step, batch: i64) -> bool {
        let Some(&(every, _)) = step.levels.first() else { return false };
        let (known, histograms) = (self.rollups.get(row), self.histograms.get(row));
        // A series of both keeps them all.
        let numbers = self.newest(row).is_some() || known.is_some_and(|series| !series.is_native());
        if numbers && (histograms.is_some() || known.is_some_and(|series| series.is_native())) {
            return false;
        }
        // Samples leave bucket by bucket.
        let raw_before = floor_of(step.raw_before, every);
        let raw_due = raw_before > i64::MIN && self.has_older(row, raw_before.saturating_add(1));
        let changed = known.is_some_and(|series| step.changes(series));
        let newest = self.newest(row).or_else(|| histograms.and_then(HistogramSeries::newest));
        let Some(newest) = newest else { return changed };
        let until = floor_of(newest.min(step.horizon), every);
        let from = known.and_then(|series| series.finest()).map_or(i64::MIN, |(_, until)| until);
        let from = if from == i64::MIN { self.span(row).map_or(until, |span| span.start) } else { from };
        raw_due || changed || until.saturating_sub(from) >= batch.saturating_mul(every)
    }

    /// A row's records up to where the step says, without those that it drops.
    pub(super) fn rolled(
        &self,
        row: u32,
        kind: Kind,
        step: &Step,
        done: &mut Rolled,
    ) -> Result<RolledSeries> {
        let levels: Vec<Level> = step.levels.iter().map(|&(every, _)| Level { every, keep: None }).collect();
        let mut series = match self.rollups.get(row) {
            Some(series) => series.unpack(),
            None => RolledSeries::new(&levels, kind),
        };
        series.adopt(step);
        series.keeping = step.keeping;
        // Those of counters are other records.
        if series.kind.is_counter() == kind.is_counter() {
            series.kind = kind;
        }
        series.beside = match series.kind {
            Kind::Counter => Beside { sketches: false, states: false, ..step.beside },
            Kind::Gauge => step.beside,
            Kind::States => Beside { states: true, ..step.beside },
        };
        let every = series.levels.first().map_or(1, |l| l.every);
        let native = match series.is_empty() {
            true => self.histograms.get(row).is_some(),
            false => series.is_native(),
        };
        let newest = match native {
            true => self.histograms.get(row).and_then(HistogramSeries::newest),
            false => self.newest(row),
        };
        let newest = newest.unwrap_or(i64::MIN);
        let forced = floor_of(step.raw_before, every);
        let until = floor_of(newest.min(step.horizon), every).max(forced);
        let remade = self.roll_finest(row, &mut series, native, until, done)?;
        series.roll_up(&remade, &self.shared_columns, done)?;
        series.expire(step, done);
        if step.raw_before > i64::MIN {
            series.raw_from = series.raw_from.max(forced.min(until));
        }
        series.drop_superseded(step);
        done.series += 1;
        Ok(series)
    }

    /// Makes the records of a row up to where the step says, and drops what it says.
    pub(crate) fn roll_row(
        &mut self,
        row: u32,
        kind: Kind,
        step: &Step,
        work: &mut Work,
        done: &mut Rolled,
    ) -> Result<()> {
        let series = self.rolled(row, kind, step, done)?;
        let raw_from = series.raw_from;
        if series.is_empty() && raw_from == i64::MIN {
            self.rollups.remove(row);
        } else {
            self.rollups.put(row, series);
        }
        if step.raw_before > i64::MIN && raw_from < i64::MAX {
            self.expire_samples(row, raw_from + 1, work, &mut done.raw)?;
        }
        Ok(())
    }

    /// The finest level: buckets that late samples came to, and those up to `until`. The spans of those that were there before.
    fn roll_finest(
        &self,
        row: u32,
        series: &mut RolledSeries,
        native: bool,
        until: i64,
        done: &mut Rolled,
    ) -> Result<Vec<Span>> {
        let mut spans = series.spans_due(until, native);
        let made = series.levels.first().map_or(i64::MIN, |level| level.until);
        match native {
            true => self.roll_histograms(row, series, &spans, done)?,
            false => self.roll_raw(row, series, &spans, done)?,
        }
        let dirty = std::mem::take(&mut series.dirty);
        done.remade += dirty.iter().filter(|&&end| end <= made).count() as u64;
        spans.retain(|span| span.0 < made);
        spans.iter_mut().for_each(|span| span.1 = span.1.min(made));
        Ok(spans)
    }

    fn roll_raw(&self, row: u32, series: &mut RolledSeries, spans: &[Span], done: &mut Rolled) -> Result<()> {
        let (counter, raw_from, beside, keeping) =
            (series.kind.is_counter(), series.raw_from, series.beside, series.keeping);
        let Some(level) = series.levels.first_mut() else { return Ok(()) };
        let (every, made) = (level.every, level.until);
        let (mut samples, mut records) = (Samples::default(), Vec::new());
        let mut picked: Vec<Survivors> = Vec::new();
        for &(after, until) in spans {
            samples.clear();
            self.read_raw(row, TimeRange::new(after.saturating_add(1), until), &mut samples)?;
            let known = samples.timestamps.partition_point(|&t| t <= made);
            done.samples += (samples.len() - known) as u64;
            let (mut from, mut after) = (0, after);
            while after < until {
                let rest = samples.timestamps.get(from..).unwrap_or(&[]);
                // Block by block, as records stay in the cache; samples that survive are chosen from all.
                let to = match rest.first() {
                    Some(&first) if keeping.is_none() => end_of(first, every * BLOCK_BUCKETS).min(until),
                    _ => until,
                };
                let piece = from..from + rest.partition_point(|&t| t <= to);
                from = piece.end;
                let times = samples.timestamps.get(piece.clone()).unwrap_or(&[]);
                let values = samples.values.get(piece).unwrap_or(&[]);
                records.clear();
                records_of(times, values, every, to, &mut records);
                if let Some(keeping) = &keeping {
                    let mut before = Samples::default();
                    if counter {
                        let from = after.saturating_sub(every * KEPT_BUCKETS).max(raw_from);
                        self.read_raw(row, TimeRange::new(from.saturating_add(1), after), &mut before)?;
                        before.drop_stale(0);
                    }
                    let before = before.values.last().copied();
                    let kept = survivors(counter, keeping, before, &samples, every, &mut records)?;
                    picked.push(((after, until), kept));
                }
                let sketches = sketches::beside(&records, times, values, beside);
                level.replace((after, to), &records, &sketches, counter, &self.shared_columns)?;
                done.records += records.iter().filter(|r| r.end > made).count() as u64;
                after = to;
            }
            level.until = level.until.max(until);
        }
        for (span, kept) in picked {
            done.kept += kept.len() as u64;
            series.replace_kept(span, &kept, &self.shared_columns)?;
        }
        Ok(())
    }

    /// Makes records of dirty buckets anew, and those of wider levels that buckets which end so are parts of.
    pub(crate) fn remake(
        &self,
        row: u32,
        series: &mut RolledSeries,
        cut: &[i64],
        done: &mut Rolled,
    ) -> Result<()> {
        let native = series.is_native();
        let mut remade = self.roll_finest(row, series, native, i64::MIN, done)?;
        let every = series.levels.first().map_or(1, |level| level.every);
        remade.extend(cut.iter().map(|&end| (end.saturating_sub(every), end)));
        remade.sort_unstable();
        series.roll_up(&remade, &self.shared_columns, done)
    }

    /// As `roll_raw`, of native histograms.
    fn roll_histograms(
        &self,
        row: u32,
        series: &mut RolledSeries,
        spans: &[Span],
        done: &mut Rolled,
    ) -> Result<()> {
        let buckets_max = series.beside.buckets_max;
        let Some(level) = series.levels.first_mut() else { return Ok(()) };
        let (every, made) = (level.every, level.until);
        for &(after, until) in spans {
            let mut samples = HistogramSamples::default();
            let range = TimeRange::new(after.saturating_add(1), until);
            if let Some(histograms) = self.histograms.get(row) {
                let (times, rows) = (&mut samples.timestamps, &mut samples.histograms);
                histograms.read_range(range, &Budget::unlimited(), times, rows)?;
            }
            let read = samples.len() as u64;
            let folded = Folded::of(samples, every, until, buckets_max);
            level.replace((after, until), &folded.records, &[], false, &self.shared_columns)?;
            level.replace_native((after, until), &folded)?;
            if until > made {
                level.until = until;
                done.samples += read;
                done.records += folded.records.len() as u64;
            }
        }
        Ok(())
    }

    /// Appends the raw samples of a row in a range.
    pub(crate) fn read_raw(&self, row: u32, range: TimeRange, out: &mut Samples) -> Result<()> {
        for chunk in self.series.sealed[row].overlapping(range) {
            chunk.decode_f64(range, out)?;
        }
        let head = &self.series.heads[row];
        if head.is_open() {
            crate::codec::open::decode_f64(&head.state, self.open_bytes(head), range, out)?;
        }
        Ok(())
    }

    /// Drops what of a row with records is older than `before`, once records stand for it; whether it is such a row.
    pub(crate) fn roll_before(
        &mut self,
        row: u32,
        before: i64,
        work: &mut Work,
        done: &mut Expired,
    ) -> Result<bool> {
        let Some(series) = self.rollups.get(row) else { return Ok(false) };
        let (step, kind) = (Step::forced(series, before), series.kind());
        let mut rolled = Rolled::default();
        self.roll_row(row, kind, &step, work, &mut rolled)?;
        done.merge(&rolled.raw);
        Ok(true)
    }
}

impl RolledSeries {
    /// Each level from the one below it; `remade`, in order: where the finest has other records than before.
    fn roll_up(
        &mut self,
        remade: &[Span],
        shared: &crate::chunk::SharedColumns,
        done: &mut Rolled,
    ) -> Result<()> {
        let (counter, beside) = (self.kind.is_counter(), self.beside);
        let (mut fine, mut records) = (Vec::new(), Vec::new());
        for at in 1..self.levels.len() {
            let (below, above) = self.levels.split_at_mut(at);
            let (Some(below), Some(level)) = (below.last(), above.first_mut()) else { break };
            let every = level.every;
            let mut make = |level: &mut LevelSeries, after: i64, until: i64| -> Result<u64> {
                fine.clear();
                records.clear();
                if below.native.is_some() {
                    let folded = below.native_coarser((after, until), every, beside.buckets_max)?;
                    level.replace((after, until), &folded.records, &[], false, shared)?;
                    level.replace_native((after, until), &folded)?;
                    return Ok(folded.records.len() as u64);
                }
                below.records(after, until, &mut fine)?;
                coarser(&fine, every, until, &mut records);
                let mut sketches = Vec::new();
                if beside.any() {
                    below.sketches(after, until, &mut sketches)?;
                    sketches = sketches::coarser(&fine, &sketches, every, until, beside)?;
                }
                level.replace((after, until), &records, &sketches, counter, shared)?;
                Ok(records.len() as u64)
            };
            // Whose parts are all there.
            let mut lowest = end_of(below.floor, every);
            for &(after, until) in remade {
                let until = end_of(until, every).min(level.until);
                let after = floor_of(after, every).max(lowest);
                if until > after {
                    make(level, after, until)?;
                    done.remade += ((until - after) / every) as u64;
                    lowest = until;
                }
            }
            let until = floor_of(below.until, every);
            let after = level.until.max(floor_of(below.floor, every));
            if until > after {
                done.records += make(level, after, until)?;
                level.until = until;
            }
        }
        Ok(())
    }

    /// Drops records that are older than their level is kept, as far as the next level has them.
    fn expire(&mut self, step: &Step, done: &mut Rolled) {
        for at in 0..self.levels.len() {
            let next = self.levels.get(at + 1).map(|l| (l.every, l.until));
            let Some(level) = self.levels.get_mut(at) else { break };
            let before = step.records_before(level.every);
            if before > i64::MIN {
                let (every, until) = next.unwrap_or((level.every, i64::MAX));
                let floor = floor_of(before, every).min(until).min(level.until);
                done.expired_records += level.expire(floor) as u64;
            }
        }
        let oldest = self.levels.last().map_or(i64::MIN, |l| l.floor);
        self.kept.retain(|chunk| chunk.last() > oldest);
    }
}

/// What the records of one width come to, over all series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelStats {
    pub every: i64,
    pub series: u64,
    pub records: u64,
    /// Of blocks; what series share is not in it.
    pub bytes: u64,
    pub span: TimeRange,
}

impl Database {
    /// What stands of each level, the finest first. Walks every series that has records.
    pub fn rollup_levels(&self) -> Vec<LevelStats> {
        let mut all: BTreeMap<i64, LevelStats> = BTreeMap::new();
        for number in 0..SHARDS {
            let shard = self.shard(number);
            let levels = shard
                .rollups
                .iter()
                .flat_map(|(_, series)| series.levels().map(|level| (level, series.is_common())));
            for (level, common) in levels {
                let Some((first, last)) = level.blocks.first().zip(level.blocks.last()) else { continue };
                let span = TimeRange::new(first.first() - level.every, last.last());
                let none = LevelStats { every: level.every, series: 0, records: 0, bytes: 0, span };
                let stats = all.entry(level.every).or_insert(none);
                stats.series += 1;
                stats.records += level.blocks.iter().map(|b| b.count() as u64).sum::<u64>();
                if !common {
                    stats.bytes += level.blocks.iter().map(|b| b.bytes() as u64).sum::<u64>();
                    stats.bytes += level.native.map_or(0, |native| native.bytes() as u64);
                }
                stats.span.start = stats.span.start.min(span.start);
                stats.span.end = stats.span.end.max(span.end);
            }
        }
        all.into_values().collect()
    }

    /// Whether any series has records of a width in milliseconds.
    pub fn has_level(&self, every: i64) -> bool {
        (0..SHARDS).any(|number| {
            let shard = self.shard(number);
            shard.rollups.iter().any(|(_, series)| {
                series.levels().any(|level| level.every == every && !level.blocks.is_empty())
            })
        })
    }

    /// The samples in a range that survived, of the series that satisfy the predicate and have some.
    pub fn kept(
        &self,
        predicate: &Predicate,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Vec<(Labels, Samples)>> {
        let _inside = self.inside();
        let by_shard = ByShard::new(&self.index.select(predicate, self, budget)?, budget)?;
        let (mut all, mut text) = (Vec::new(), Vec::new());
        by_shard.each(self, budget, |shard, rows| {
            for &row in rows {
                let Some(series) = shard.rollups.get(row) else { continue };
                let mut samples = Samples::default();
                series.unpack().read_kept(range, &mut samples)?;
                if !samples.is_empty() {
                    budget.keep(samples.len() * 16)?;
                    all.push((self.labels_of(shard, row, &mut text), samples));
                }
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// Encoded bytes by width and column, of what series have of their own. Errors: `Corruption`.
    pub fn rollup_columns(&self) -> Result<Vec<(i64, String, u64)>> {
        let mut all: BTreeMap<(i64, &'static str), u64> = BTreeMap::new();
        for number in 0..SHARDS {
            let shard = self.shard(number);
            let own = shard.rollups.iter().filter(|(_, series)| !series.is_common());
            for level in own.flat_map(|(_, series)| series.levels()) {
                for block in level.blocks {
                    for (column, bytes) in block.columns()? {
                        *all.entry((level.every, column)).or_default() += bytes as u64;
                    }
                }
            }
        }
        Ok(all.into_iter().map(|((every, column), bytes)| (every, column.to_owned(), bytes)).collect())
    }

    /// Does what is due by the rules, the first that takes a series for it. Goes on at a shard, and ends behind the one in
    /// which so many samples were read. Linear in the series chosen and in the samples read. No lock is held for more than
    /// 16 series. Errors: the budget's, `NotDurable`.
    pub fn roll(
        &self,
        rules: &[Rule],
        pass: Pass,
        progress: &mut Progress,
        samples_max: u64,
        budget: &Budget,
    ) -> Result<Rolled> {
        let mut done = Rolled::default();
        let inside = self.inside();
        let chosen = self.rolled_by(rules, pass, budget)?;
        let mut emptied = (self.next_burial(), Vec::new());
        while !progress.is_finished() && done.samples < samples_max {
            for (rule, step, by_shard) in &chosen {
                for rows in by_shard.rows(progress.next_shard).chunks(ROWS_HELD) {
                    budget.check()?;
                    let rows = (progress.next_shard, rows);
                    self.roll_rows((rule, step, pass.batch), rows, &mut done, &mut emptied)?;
                }
            }
            progress.next_shard += 1;
            self.relieve();
        }
        drop(inside);
        done.raw.series = self.bury(emptied.0, emptied.1)?;
        self.durably()?;
        Ok(done)
    }

    /// The rules that make records, what they come to now, and the series that each takes.
    pub(super) fn rolled_by<'r>(
        &self,
        rules: &'r [Rule],
        pass: Pass,
        budget: &Budget,
    ) -> Result<Vec<(&'r Rule, Step, ByShard)>> {
        let governed = self.governed_by(rules.iter().map(|rule| &rule.predicate), budget)?;
        let make_records = rules.iter().zip(governed).filter(|(rule, _)| !rule.levels.is_empty());
        make_records
            .map(|(rule, ids)| Ok((rule, Step::of(rule, pass), ByShard::new(&ids, budget)?)))
            .collect()
    }

    fn roll_rows(
        &self,
        (rule, step, batch): (&Rule, &Step, i64),
        (number, rows): (usize, &[u32]),
        done: &mut Rolled,
        (burial, emptied): &mut (u64, Vec<u32>),
    ) -> Result<()> {
        let mut shard = self.shard(number);
        let mut due: Vec<(u32, Kind)> = Vec::new();
        for &row in rows {
            if shard.series.has(row) && shard.roll_due(row, step, batch.max(1)) {
                due.push((row, self.kind_of_row(&shard, row, rule)?));
            }
        }
        self.take_step(&mut shard, step, due, done, (*burial, emptied))
    }

    /// One step of some rows, noted in the journal.
    pub(super) fn take_step(
        &self,
        shard: &mut Shard,
        step: &Step,
        due: Vec<(u32, Kind)>,
        done: &mut Rolled,
        (burial, emptied): (u64, &mut Vec<u32>),
    ) -> Result<()> {
        if due.is_empty() {
            return Ok(());
        }
        if let Some(journal) = self.journal() {
            journal.roll(shard, step, &due);
        }
        let mut work = Work::default();
        for (row, kind) in due {
            let oldest = shard.span(row).map_or(i64::MAX, |span| span.start);
            let before = done.raw.samples + done.expired_records;
            shard.roll_row(row, kind, step, &mut work, done)?;
            if done.raw.samples + done.expired_records > before {
                self.written.note(oldest);
            }
            if shard.is_empty_row(row) {
                shard.graves.mark(row, burial);
                emptied.push(id_of(shard.number, row));
            }
        }
        Ok(())
    }
}
