//! Native histograms in records: of each bucket those that tell every gain, and the sums of all. A gain is the last minus
//! the first, and what was reached before each reset: so first, last, and the two around a reset are kept. Where the sums
//! have more buckets than a policy allows, all of that record go down to the highest schema at which they fit. Wider
//! buckets are made of whole ones, so that this comes to the same in any order and over any chain of levels.

use metricsdb_model::histogram::{ResetHint, SCHEMA_MAX, SCHEMA_MIN};
use metricsdb_model::source::{HistogramsStood, StoodHistograms};
use metricsdb_model::{Budget, Histogram, HistogramSamples, Result, TimeRange};

use super::block::{blocks_of, number_of};
use super::read::near;
use super::record::{Record, end_of};
use super::{LevelSeries, RolledSeries};
use crate::codec::histogram::HistogramChunk;
use crate::heap;
use crate::histograms::{HistogramSeries, seal_all};

/// Beside the records of a level, which say how many histograms there were, and when; of what they say of values `max` alone
/// means something: the worst relative error of a quantile that wider buckets leave, 0 where none were made.
#[derive(Clone, Default)]
pub struct Native {
    pub points: HistogramSeries,
    /// At the time of the last histogram that is in it.
    pub sums: HistogramSeries,
}

/// What histograms of some buckets come to.
#[derive(Default)]
pub struct Folded {
    pub records: Vec<Record>,
    pub points: HistogramSamples,
    pub sums: HistogramSamples,
}

/// Whether a function could tell that something happened between two neighbours.
fn differs(before: &Histogram, after: &Histogram) -> bool {
    after.resets_after(before) || !before.merges(after) || before.is_float() != after.is_float()
}

/// Appends the points of one bucket that tell every gain.
fn thin(times: &[i64], rows: &[Histogram], out: &mut HistogramSamples) {
    let mut marks = vec![false; rows.len()];
    for i in 1..rows.len() {
        if let Some([a, b]) = rows.get(i - 1..=i)
            && differs(a, b)
        {
            marks[i - 1..=i].fill(true);
        }
    }
    let last = rows.len().saturating_sub(1);
    let told = |(i, _): &(usize, (&i64, &Histogram))| *i == 0 || *i == last || marks[*i];
    for (_, (&time, row)) in times.iter().zip(rows).enumerate().filter(told) {
        out.push(time, row.clone());
    }
}

/// The sums of one bucket, by their last times: one, unless its histograms have different bounds.
fn add_up(times: &[i64], rows: &[Histogram]) -> HistogramSamples {
    let mut sums: Vec<(i64, Histogram)> = Vec::new();
    for (&time, row) in times.iter().zip(rows) {
        match sums.iter_mut().find(|(_, sum)| sum.merges(row)) {
            Some((at, sum)) => {
                sum.merge(row);
                *at = time;
            }
            None => {
                let reset = if row.reset == ResetHint::Gauge { ResetHint::Gauge } else { ResetHint::Unknown };
                sums.push((time, Histogram { reset, ..row.clone() }));
            }
        }
    }
    sums.sort_unstable_by_key(|(time, _)| *time);
    let (timestamps, histograms) = sums.into_iter().unzip();
    HistogramSamples { timestamps, histograms }
}

/// Lowers sums, the finest first, until they have so many buckets together, or can't be lowered any more; the schema of the
/// last ones that were.
fn fit(sums: &mut HistogramSamples, buckets_max: u32) -> Option<i32> {
    let mut lowered = None;
    loop {
        let buckets: usize = sums.histograms.iter().map(Histogram::bucket_count).sum();
        let finest = sums.histograms.iter().map(|h| h.layout.schema).max()?;
        if buckets <= buckets_max as usize || finest <= SCHEMA_MIN {
            return lowered;
        }
        lower_all(&mut sums.histograms, finest - 1);
        *sums = add_up(&sums.timestamps, &sums.histograms);
        lowered = Some(finest - 1);
    }
}

fn lower_all(rows: &mut [Histogram], schema: i32) {
    rows.iter_mut().for_each(|row| row.lower(schema));
}

/// How much wider than its lower bound a bucket of a schema is: no quantile in it is farther off.
fn width_of(schema: i32) -> f64 {
    2f64.powf(2f64.powi(-schema)) - 1.0
}

/// The schema whose buckets are so wide, or hardly less, since other machines round otherwise.
fn schema_of(width: f64) -> Option<i32> {
    (SCHEMA_MIN..=SCHEMA_MAX).find(|&schema| width_of(schema) <= width * 1.000_001)
}

impl Folded {
    /// Of samples in time order, those in buckets that end at or before `until`.
    pub fn of(mut samples: HistogramSamples, every: i64, until: i64, buckets_max: Option<u32>) -> Folded {
        without_stale(&mut samples);
        let whole = samples.timestamps.chunk_by(|&a, &b| end_of(a, every) == end_of(b, every));
        let record = |times: &[i64]| {
            let (&first, &last) = times.first().zip(times.last())?;
            let (end, count) = (end_of(first, every), times.len() as u64);
            Some(Record { end, count, first: (first, 0.0), last: (last, 0.0), ..Record::ZERO })
        };
        let records = whole.filter_map(record).take_while(|record| record.end <= until).collect();
        Folded::made(records, &samples, &samples, every, buckets_max)
    }

    /// Of wider buckets, from those of narrower ones that divide them.
    fn coarser(&self, every: i64, until: i64, buckets_max: Option<u32>) -> Folded {
        let mut records = Vec::new();
        super::record::coarser(&self.records, every, until, &mut records);
        Folded::made(records, &self.points, &self.sums, every, buckets_max)
    }

    /// The buckets of records, from what points and sums are made of.
    fn made(
        records: Vec<Record>,
        points: &HistogramSamples,
        sums: &HistogramSamples,
        every: i64,
        buckets_max: Option<u32>,
    ) -> Folded {
        let mut all = Folded::default();
        for mut record in records {
            let range = TimeRange::new(record.end.saturating_sub(every).saturating_add(1), record.end);
            let ((times, rows), (sum_times, sum_rows)) = (within(points, range), within(sums, range));
            // Some of them may be lowered already: then all are.
            let known = if record.max > 0.0 { schema_of(record.max) } else { None };
            let mut own = match known {
                None => add_up(sum_times, sum_rows),
                Some(schema) => {
                    let mut rows = sum_rows.to_vec();
                    lower_all(&mut rows, schema);
                    add_up(sum_times, &rows)
                }
            };
            let lowered = buckets_max.and_then(|most| fit(&mut own, most)).or(known);
            match lowered {
                None => thin(times, rows, &mut all.points),
                Some(schema) => {
                    let mut rows = rows.to_vec();
                    lower_all(&mut rows, schema);
                    thin(times, &rows, &mut all.points);
                    record.max = width_of(schema);
                    // As a block expects it: then it takes no bytes.
                    record.deviation = record.likely_deviation();
                }
            }
            own.timestamps.into_iter().zip(own.histograms).for_each(|(time, row)| all.sums.push(time, row));
            all.records.push(record);
        }
        all
    }
}

fn without_stale(samples: &mut HistogramSamples) {
    if samples.histograms.iter().any(Histogram::is_stale) {
        let both = std::mem::take(samples);
        for (time, row) in both.timestamps.into_iter().zip(both.histograms).filter(|s| !s.1.is_stale()) {
            samples.push(time, row);
        }
    }
}

impl Native {
    pub fn restored(points: Vec<HistogramChunk>, sums: Vec<HistogramChunk>) -> Native {
        let series = |chunks| HistogramSeries::restored(chunks, Vec::new(), Vec::new());
        Native { points: series(points), sums: series(sums) }
    }

    /// Heap bytes.
    pub fn bytes(&self) -> usize {
        let of = |series: &HistogramSeries| {
            let count = series.count();
            count.sealed_bytes + count.list_bytes
        };
        heap::allocated(size_of::<Native>()) + of(&self.points) + of(&self.sums)
    }

    fn expire(&mut self, floor: i64) {
        for series in [&mut self.points, &mut self.sums] {
            let young = series.sealed().iter().filter(|c| c.last() > floor).cloned().collect();
            *series = HistogramSeries::restored(young, Vec::new(), Vec::new());
        }
    }
}

/// Puts histograms in the place of those in `(after, until]`; chunks begin where blocks of records do.
fn put(
    series: &mut HistogramSeries,
    every: i64,
    (after, until): (i64, i64),
    new: &HistogramSamples,
) -> Result<()> {
    let mut chunks = series.sealed().to_vec();
    let touched = blocks_of(&chunks, |c| end_of(c.first(), every), every, (after, until));
    let (mut times, mut rows) = (Vec::new(), Vec::new());
    for chunk in chunks.get(touched.clone()).unwrap_or(&[]) {
        chunk.decode_range(TimeRange::ALL, &mut times, &mut rows)?;
    }
    let begin = times.partition_point(|&t| t <= after);
    let end = times.partition_point(|&t| t <= until).max(begin);
    times.splice(begin..end, new.timestamps.iter().copied());
    rows.splice(begin..end, new.histograms.iter().cloned());
    let (mut made, mut from) = (Vec::new(), 0);
    let number = |t: i64| number_of(end_of(t, every), every);
    for block in times.chunk_by(|&a, &b| number(a) == number(b)) {
        let to = from + block.len();
        seal_all(block, rows.get(from..to).unwrap_or(&[]), &mut made)?;
        from = to;
    }
    chunks.splice(touched, made);
    *series = HistogramSeries::restored(chunks, Vec::new(), Vec::new());
    Ok(())
}

impl LevelSeries {
    pub(super) fn replace_native(&mut self, span: (i64, i64), new: &Folded) -> Result<()> {
        let native = self.native.get_or_insert_default();
        put(&mut native.points, self.every, span, &new.points)?;
        put(&mut native.sums, self.every, span, &new.sums)
    }

    /// What the histograms of the buckets that end in `(after, until]` come to, in wider ones.
    pub(super) fn native_coarser(
        &self,
        (after, until): (i64, i64),
        every: i64,
        buckets_max: Option<u32>,
    ) -> Result<Folded> {
        let mut all = Folded::default();
        self.records(after, until, &mut all.records)?;
        let range = TimeRange::new(after.max(self.floor).saturating_add(1), until);
        if let Some(native) = &self.native {
            read(&native.points, range, &mut all.points)?;
            read(&native.sums, range, &mut all.sums)?;
        }
        Ok(all.coarser(every, until, buckets_max))
    }

    pub(super) fn expire_native(&mut self) {
        let floor = self.floor;
        self.native.iter_mut().for_each(|native| native.expire(floor));
    }
}

fn within(samples: &HistogramSamples, range: TimeRange) -> (&[i64], &[Histogram]) {
    let from = samples.timestamps.partition_point(|&t| t < range.start);
    let to = samples.timestamps.partition_point(|&t| t <= range.end).max(from);
    (samples.timestamps.get(from..to).unwrap_or(&[]), samples.histograms.get(from..to).unwrap_or(&[]))
}

fn read(series: &HistogramSeries, range: TimeRange, out: &mut HistogramSamples) -> Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    series.read_range(range, &Budget::unlimited(), &mut out.timestamps, &mut out.histograms)
}

impl RolledSeries {
    /// Whether its records are of native histograms.
    pub fn is_native(&self) -> bool {
        self.levels.iter().any(|level| level.native.is_some())
    }

    /// Each level with the part of a range that it stands for, the oldest first.
    fn native_parts(&self, range: TimeRange) -> impl Iterator<Item = (&LevelSeries, &Native, TimeRange)> {
        self.parts().into_iter().rev().filter_map(move |(at, upper)| {
            let level = self.levels.get(at)?;
            let start = range.start.max(level.floor.saturating_add(1));
            Some((level, level.native.as_deref()?, TimeRange::new(start, range.end.min(upper))))
        })
    }

    /// Appends histograms of a range that tell every gain, where records stand for all.
    pub fn read_points(&self, range: TimeRange, out: &mut HistogramSamples) -> Result<()> {
        self.native_parts(range).try_for_each(|(_, native, part)| read(&native.points, part, out))
    }

    /// The newest of them before a time.
    pub fn point_before(&self, time: i64) -> Result<Option<(i64, Histogram)>> {
        let parts: Vec<_> = self.native_parts(TimeRange::new(i64::MIN, time.saturating_sub(1))).collect();
        for (_, native, part) in parts.into_iter().rev() {
            let found = native.points.newest_before(part.end.saturating_add(1))?;
            if let Some(found) = found.filter(|(at, _)| *at >= part.start) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The worst relative error of a quantile that wider buckets leave in a range; `None` where none were made.
    pub fn quantile_error(&self, range: TimeRange) -> Result<Option<f64>> {
        if !self.is_native() || !self.stands_in(range) {
            return Ok(None);
        }
        let worst = self.standing(range)?.iter().map(|(_, record)| record.max).fold(0.0, f64::max);
        Ok((worst > 0.0).then_some(worst))
    }

    /// How many histograms were in ascending windows, and their sums; `raw` are those that are there.
    pub fn stood_histograms(
        &self,
        windows: &[TimeRange],
        mut raw: HistogramSamples,
    ) -> Result<StoodHistograms> {
        without_stale(&mut raw);
        let mut stood = StoodHistograms { windows: Vec::with_capacity(windows.len()), exact: true };
        let Some((first, last)) = windows.first().zip(windows.last()) else { return Ok(stood) };
        let reach = TimeRange::new(first.start, last.end);
        let records = self.standing(reach)?;
        let (mut sums, mut points) = (HistogramSamples::default(), HistogramSamples::default());
        for (level, native, part) in self.native_parts(reach) {
            // Those of a bucket that the range cuts are told apart by their records.
            let wide = TimeRange::new(part.start.saturating_sub(level.every), part.end);
            read(
                &native.sums,
                TimeRange::new(wide.start.max(level.floor.saturating_add(1)), wide.end),
                &mut sums,
            )?;
            read(&native.points, part, &mut points)?;
        }
        let mut from = 0;
        for window in windows {
            let (mut found, mut count) = (HistogramsStood::default(), 0);
            let mut add = |of: &HistogramSamples, range: TimeRange| {
                let rows = within(of, range).1;
                found.sums.extend(rows.iter().cloned());
                rows.len() as u64
            };
            for (every, record) in &records[near(&records, &mut from, *window)] {
                let bucket = TimeRange::new(record.end - every + 1, record.end);
                if record.end <= window.end && bucket.start >= window.start {
                    add(&sums, bucket);
                    count += record.count;
                } else {
                    let inside = TimeRange::new(bucket.start.max(window.start), bucket.end.min(window.end));
                    count += add(&points, inside);
                    stood.exact = false;
                }
            }
            let (times, rows) = within(&raw, *window);
            found.count = count + rows.len() as u64;
            found.sums.extend(add_up(times, rows).histograms);
            stood.windows.push(found);
        }
        Ok(stood)
    }
}
