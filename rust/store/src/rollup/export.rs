//! Records on their way to another place and back, exact to the bit, with a digest of what each series handed out: so that
//! they leave here once they are safe there, and only if nothing has changed meanwhile.

use std::ops::Range;

use metricsdb_model::{Budget, Error, Labels, Predicate, Result, Samples, TimeRange, ValueKind};
use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3Default;

use super::kind::Kind;
use super::record::{Record, end_of, floor_of};
use super::roll::{EVERY_MAX, Rolled, Step, TIME_MIN};
use super::sketches::Sketched;
use super::{Level, LevelSeries, Packed, RolledSeries};
use crate::chunk::chunks_of;
use crate::cut::copies_by_shard;
use crate::database::{Database, IntoId, unknown_id};
use crate::expire::Expired;
use crate::export::hash_words;
use crate::shard::{SHARDS, Shard, id_of, place_of};
use crate::view::ByShard;

/// Series that are looked into under one hold of a shard's lock: a millisecond or two.
const ROWS_HELD: usize = 16;

/// Records of one width, in time order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LevelRecords {
    /// Milliseconds.
    pub every: i64,
    pub records: Vec<Record>,
    /// What stands beside some of them.
    pub sketches: Vec<Sketched>,
    /// Whether states stand beside records, also of those of which none is stored since they have one value.
    pub states: bool,
    /// Samples in these buckets that survived; the widest level that is there has them.
    pub kept: Vec<(i64, f64)>,
}

/// What one series has of records in a range, as it was at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportedRecords {
    /// The series' id, as `drop_records` takes it.
    pub id: u64,
    /// xxh3-64 of the canonical labels.
    pub hash: u64,
    pub labels: Labels,
    /// Of all levels.
    pub digest: u64,
    pub kind: Kind,
    /// The finest first; none is empty.
    pub levels: Vec<LevelRecords>,
}

/// Records on their way back.
#[derive(Clone, Debug)]
pub struct SeriesRecords {
    pub id: u64,
    pub kind: Kind,
    pub level: LevelRecords,
}

/// The ends of buckets of each level that leave together with those up to a time: a level keeps what the next one needs to make
/// its next record.
fn leaving_until(levels: &[LevelSeries], at: usize, time: i64) -> i64 {
    let wider = levels.get(at + 1).or(levels.get(at));
    wider.map_or(i64::MIN, |level| floor_of(time, level.every))
}

impl LevelSeries {
    fn exported(&self, (after, until): (i64, i64)) -> Result<LevelRecords> {
        let mut out = LevelRecords { every: self.every, ..LevelRecords::default() };
        self.records(after, until, &mut out.records)?;
        if !out.records.is_empty() {
            self.sketches(after, until, &mut out.sketches)?;
        }
        Ok(out)
    }
}

impl RolledSeries {
    /// Records of each level in a range: those that leave, or all that stand for samples which are gone.
    fn exported(&self, range: TimeRange, leaving: bool) -> Result<Vec<LevelRecords>> {
        let (mut all, mut spans) = (Vec::with_capacity(self.levels.len()), Vec::new());
        for (at, level) in self.levels.iter().enumerate() {
            let bound = |time: i64| leaving_until(&self.levels, at, time);
            let span = match leaving {
                true => (bound(range.start), bound(range.end.saturating_add(1))),
                false => {
                    let until = end_of(range.end, level.every).min(self.raw_from);
                    (range.start.saturating_sub(1), until)
                }
            };
            spans.push(span);
            all.push(LevelRecords { states: self.beside.states, ..level.exported(span)? });
        }
        all.retain(|level| !level.records.is_empty());
        if let Some((last, &(after, until))) = all.last_mut().zip(spans.last()) {
            let mut kept = Samples::default();
            self.read_kept(TimeRange::new(after.saturating_add(1), until), &mut kept)?;
            last.kept = kept.timestamps.into_iter().zip(kept.values).collect();
        }
        Ok(all)
    }
}

fn digest_of(kind: Kind, levels: &[LevelRecords]) -> u64 {
    let mut hasher = Xxh3Default::new();
    hasher.update(kind.as_str().as_bytes());
    for level in levels {
        hash_words(&mut hasher, std::iter::once(level.every as u64));
        let words = |r: &Record| {
            [
                r.end as u64,
                r.count,
                r.first.0 as u64,
                r.first.1.to_bits(),
                r.last.0 as u64,
                r.last.1.to_bits(),
                r.min.to_bits(),
                r.max.to_bits(),
                r.sum.to_bits(),
                r.deviation.to_bits(),
                r.resets,
                r.reset_from.to_bits(),
                r.unkept,
            ]
        };
        hash_words(&mut hasher, level.records.iter().flat_map(words));
        hash_words(&mut hasher, level.kept.iter().flat_map(|&(time, value)| [time as u64, value.to_bits()]));
        for (end, bytes) in &level.sketches {
            hash_words(&mut hasher, [*end as u64, bytes.len() as u64].into_iter());
            hasher.update(bytes);
        }
    }
    hasher.digest()
}

impl Shard {
    /// The records of a row, if those up to a time may leave: where no sample is left there that could change them, and they are
    /// not of native histograms.
    fn may_leave(&self, row: u32, until: i64) -> Option<&Packed> {
        let series = self.rollups.get(row).filter(|series| self.series.has(row) && !series.is_native())?;
        let (every, _) = series.finest()?;
        let plain = TimeRange::new(series.raw_from().saturating_add(1), floor_of(until, every));
        let has_samples = !plain.is_empty()
            && (self.series.sealed[row].overlaps(plain)
                || self.open_overlaps(&self.series.heads[row], plain)
                || self.histograms.get(row).is_some());
        (!has_samples).then_some(&**series)
    }

    /// How many records leave with a range, or more.
    fn leaving(&self, row: u32, range: TimeRange) -> u64 {
        let until = range.end.saturating_add(1);
        let Some(series) = self.may_leave(row, until) else { return 0 };
        let widths: Vec<LevelSeries> = series.levels().map(|l| LevelSeries::new(l.every)).collect();
        let of = |(at, level): (usize, super::LevelRef<'_>)| {
            let after = leaving_until(&widths, at, range.start).max(level.floor);
            let until = leaving_until(&widths, at, until);
            let inside = level.blocks.iter().filter(|b| b.last() > after && b.first() <= until);
            let buckets = ((until.saturating_sub(after)) / level.every).max(0) as u64;
            inside.map(|b| (b.count() as u64).min(buckets)).sum::<u64>()
        };
        series.levels().enumerate().map(of).sum()
    }

    /// What a row has of records in a range; none where it has nothing that may be handed out.
    fn exported(
        &self,
        row: u32,
        range: TimeRange,
        leaving: bool,
    ) -> Result<Option<(Kind, Vec<LevelRecords>)>> {
        let until = range.end.saturating_add(1);
        let series = match leaving {
            true if self.leaving(row, range) == 0 => return Ok(None),
            true => self.may_leave(row, until),
            false => self.rollups.get(row).map(|series| &**series).filter(|s| !s.is_native()),
        };
        let Some(series) = series else { return Ok(None) };
        let kind = series.kind();
        let levels = match leaving {
            true => {
                let step = Step::leaving(series, until, i64::MIN);
                self.rolled(row, kind, &step, &mut Rolled::default())?.exported(range, true)?
            }
            false => series.unpack().exported(range, false)?,
        };
        Ok((!levels.is_empty()).then_some((kind, levels)))
    }
}

impl Database {
    /// How many records `export_records` hands out of each shard, or more, of those that leave. Linear in the series chosen.
    /// Errors: the budget's.
    pub fn leaving_records(
        &self,
        predicates: &[Predicate],
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Vec<u64>> {
        self.count_by_shard(predicates, budget, |shard, row| Ok(shard.leaving(row, range)))
    }

    /// The times of the samples that records stand for, from the first to the last, without native histograms.
    pub fn records_span(&self) -> Option<TimeRange> {
        let both = |a: TimeRange, b: TimeRange| TimeRange::new(a.start.min(b.start), a.end.max(b.end));
        let of_shard = |number| {
            let shard = self.shard(number);
            let plain = shard.rollups.iter().filter(|(_, series)| !series.is_native());
            let of = |level: super::LevelRef<'_>| {
                let first = level.blocks.first()?.first().max(level.floor.saturating_add(level.every));
                let last = level.blocks.last()?.last();
                (last >= first).then(|| TimeRange::new(first.saturating_sub(level.every) + 1, last))
            };
            plain.flat_map(|(_, series)| series.levels().filter_map(of)).reduce(both)
        };
        (0..SHARDS).filter_map(of_shard).reduce(both)
    }

    /// Records of chosen series in a range, of some of the `SHARDS` shards or of all. `leaving`: those whose samples before the
    /// range's end are gone, each with the digest that `drop_records` asks for; buckets that end in `(start, end + 1]`, but what
    /// the next level still needs. Else all that stand for samples which are gone and whose buckets meet the range. Those of
    /// native histograms are left out. Errors: the budget's.
    pub fn export_records(
        &self,
        predicates: &[Predicate],
        range: TimeRange,
        leaving: bool,
        shards: Range<usize>,
        budget: &Budget,
    ) -> Result<Vec<ExportedRecords>> {
        let _inside = self.inside();
        let by_shard = ByShard::new(&self.chosen(predicates, budget)?, budget)?;
        let of_shard = |number: usize| -> Result<Vec<ExportedRecords>> {
            let mut out = Vec::new();
            for rows in by_shard.rows(number).chunks(ROWS_HELD) {
                budget.check()?;
                let found = {
                    let shard = self.shard(number);
                    let mut found = Vec::new();
                    for &row in rows {
                        let one = shard.exported(row, range, leaving)?;
                        found.extend(
                            one.map(|one| (row, shard.public_id(row), shard.series.hashes[row], one)),
                        );
                    }
                    found
                };
                for (row, id, hash, (kind, levels)) in found {
                    let labels = self.labels_of_id(id_of(number as u8, row));
                    budget
                        .keep(levels.iter().map(LevelRecords::bytes).sum::<usize>() + labels.heap_bytes())?;
                    let digest = digest_of(kind, &levels);
                    out.push(ExportedRecords { id, hash, labels, digest, kind, levels });
                }
            }
            Ok(out)
        };
        let shards = shards.start..shards.end.min(SHARDS);
        let parts: Vec<Vec<ExportedRecords>> = shards.into_par_iter().map(of_shard).collect::<Result<_>>()?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// Drops the records that `export_records` handed out as leaving, series by series: where the digest of what leaves now is the
    /// one given, and nothing older is there. Others stay. Says of each whether they were dropped, and what left. Errors: the budget's, `NotDurable`.
    pub fn drop_records(
        &self,
        series: &[(u64, u64)],
        range: TimeRange,
        budget: &Budget,
    ) -> Result<(Vec<bool>, Expired)> {
        let inside = self.inside();
        let (mut gone, mut done) = (vec![false; series.len()], Rolled::default());
        let (burial, mut emptied) = (self.next_burial(), Vec::new());
        for (number, copies) in copies_by_shard(series) {
            for some in copies.chunks(ROWS_HELD) {
                budget.check()?;
                let mut shard = self.shard(number);
                let mut due: Vec<(Step, Vec<(u32, Kind)>)> = Vec::new();
                for &(at, id, digest) in some {
                    let row = place_of(id as u32).1;
                    let known = shard.series.has_of(row, (&id).generation());
                    let Some((kind, levels)) = (if known { shard.exported(row, range, true)? } else { None })
                    else {
                        continue;
                    };
                    let Some(packed) = shard.rollups.get(row).filter(|_| digest_of(kind, &levels) == digest)
                    else {
                        continue;
                    };
                    // A step takes what is older along: that has to leave first.
                    let older = TimeRange::new(i64::MIN, range.start.saturating_sub(1));
                    if !packed.unpack().exported(older, true)?.is_empty() {
                        continue;
                    }
                    let until = range.end.saturating_add(1);
                    let step = Step::leaving(packed, until, until);
                    match due.iter_mut().find(|(known, _)| *known == step) {
                        Some((_, rows)) if rows.iter().any(|&(other, _)| other == row) => continue,
                        Some((_, rows)) => rows.push((row, kind)),
                        None => due.push((step, vec![(row, kind)])),
                    }
                    if let Some(gone) = gone.get_mut(at) {
                        *gone = true;
                    }
                }
                for (step, rows) in due {
                    done.raw.touched += rows.len() as u64;
                    self.take_step(&mut shard, &step, rows, &mut done, (burial, &mut emptied))?;
                }
            }
            self.relieve();
        }
        drop(inside);
        emptied.sort_unstable();
        done.raw.series = self.bury(burial, emptied)?;
        self.durably()?;
        done.raw.records += done.expired_records;
        Ok((gone, done.raw))
    }

    /// Puts records that were exported beside those of known series; where both have a bucket, the new one stands. For stores that
    /// nobody writes to: the journal does not note it. How many records. Errors: `Input` for an id that no series has,
    /// `Corruption` for records that can't be.
    pub fn import_records(&self, all: Vec<SeriesRecords>) -> Result<u64> {
        let (mut count, mut samples) = (0, 0u64);
        for SeriesRecords { id, kind, level } in all {
            level.check()?;
            let place = id.known().map(place_of);
            let Some((number, row)) = place else { return Err(unknown_id(id)) };
            let mut shard = self.shard(number);
            if !shard.series.has_of(row, (&id).generation()) {
                return Err(unknown_id(id));
            }
            count += level.records.len() as u64;
            samples = level.records.iter().fold(samples, |sum, r| sum.saturating_add(r.count));
            let mut series = level.series(kind, &self.shared_columns)?;
            if let Some(known) = shard.rollups.get(row).cloned() {
                series = series.beside(&[known], &self.shared_columns)?;
            }
            shard.rollups.put(row, series);
        }
        self.appended.fetch_add(samples, std::sync::atomic::Ordering::Relaxed);
        Ok(count)
    }
}

impl LevelRecords {
    fn bytes(&self) -> usize {
        let sketches: usize =
            self.sketches.iter().map(|(_, bytes)| size_of::<Sketched>() + bytes.len()).sum();
        size_of_val(&self.records[..]) + size_of_val(&self.kept[..]) + sketches
    }

    fn check(&self) -> Result<()> {
        let every = self.every;
        let wrong = |why| Err(Error::corruption("rollup", 0, why));
        if !(1..=EVERY_MAX).contains(&every) {
            return wrong("records of no width that there is");
        }
        let is_whole = |r: &Record| {
            let inside = |time: i64| time <= r.end && time > r.end - every;
            let there = r.end % every == 0 && r.end > TIME_MIN && r.end < -TIME_MIN;
            there && r.count > 0 && inside(r.first.0) && inside(r.last.0) && r.first.0 <= r.last.0
        };
        if self.records.windows(2).any(|two| two[0].end >= two[1].end) || !self.records.iter().all(is_whole) {
            return wrong("records that don't rise in time, or of no bucket");
        }
        if self.kept.windows(2).any(|two| two[0].0 >= two[1].0)
            || self.sketches.windows(2).any(|two| two[0].0 >= two[1].0)
        {
            return wrong("what stands beside records does not rise in time");
        }
        Ok(())
    }

    /// A series that has these records alone.
    fn series(&self, kind: Kind, shared: &crate::chunk::SharedColumns) -> Result<RolledSeries> {
        let mut series = RolledSeries::new(&[Level { every: self.every, keep: None }], kind);
        series.beside.states = self.states;
        let Some(last) = self.records.last().map(|r| r.end) else { return Ok(series) };
        if let Some(level) = series.levels.first_mut() {
            let (records, sketches) = (&self.records, &self.sketches);
            level.replace((i64::MIN, last), records, sketches, kind.is_counter(), shared)?;
            level.until = last;
        }
        let (times, bits): (Vec<i64>, Vec<u64>) = self.kept.iter().map(|&(t, v)| (t, v.to_bits())).unzip();
        if !times.is_empty() {
            series.kept = chunks_of(ValueKind::Float, &times, &bits, shared)?;
        }
        series.raw_from = last;
        Ok(series)
    }
}
