//! Native histograms in records: of each bucket those that tell every gain, and the sums of all. A gain is the last minus
//! the first, and what was reached before each reset: so first, last, and the two around a reset are kept as they were.

use metricsdb_model::histogram::ResetHint;
use metricsdb_model::source::{HistogramsStood, StoodHistograms};
use metricsdb_model::{Budget, Histogram, HistogramSamples, Result, TimeRange};

use super::block::{blocks_of, number_of};
use super::read::near;
use super::record::{Record, end_of};
use super::{LevelSeries, RolledSeries};
use crate::codec::histogram::HistogramChunk;
use crate::heap;
use crate::histograms::{HistogramSeries, seal_all};

/// Beside the records of a level, which say how many histograms there were, and when.
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

/// Appends the sums of one bucket: one, unless its histograms have different bounds.
fn add_up(times: &[i64], rows: &[Histogram], out: &mut HistogramSamples) {
    let mut open = false;
    for (&time, row) in times.iter().zip(rows) {
        match out.histograms.last_mut().zip(out.timestamps.last_mut()) {
            Some((sum, at)) if open && sum.merges(row) => {
                sum.merge(row);
                *at = time;
            }
            _ => {
                let reset = if row.reset == ResetHint::Gauge { ResetHint::Gauge } else { ResetHint::Unknown };
                out.push(time, Histogram { reset, ..row.clone() });
                open = true;
            }
        }
    }
}

/// Calls with the histograms of each whole bucket up to `until`.
fn buckets(samples: &HistogramSamples, every: i64, until: i64, mut f: impl FnMut(i64, &[i64], &[Histogram])) {
    let mut from = 0;
    for bucket in samples.timestamps.chunk_by(|&a, &b| end_of(a, every) == end_of(b, every)) {
        let to = from + bucket.len();
        let end = bucket.first().map_or(i64::MAX, |&time| end_of(time, every));
        if end > until {
            return;
        }
        f(end, bucket, samples.histograms.get(from..to).unwrap_or(&[]));
        from = to;
    }
}

impl Folded {
    /// Of samples in time order, those in buckets that end at or before `until`.
    pub fn of(mut samples: HistogramSamples, every: i64, until: i64) -> Folded {
        without_stale(&mut samples);
        let mut all = Folded::default();
        buckets(&samples, every, until, |end, times, rows| {
            if let Some((&first, &last)) = times.first().zip(times.last()) {
                let (count, first, last) = (times.len() as u64, (first, 0.0), (last, 0.0));
                all.records.push(Record { end, count, first, last, ..Record::ZERO });
            }
            thin(times, rows, &mut all.points);
            add_up(times, rows, &mut all.sums);
        });
        all
    }

    /// Of wider buckets, from those of narrower ones that divide them.
    fn coarser(&self, every: i64, until: i64) -> Folded {
        let mut all = Folded::default();
        super::record::coarser(&self.records, every, until, &mut all.records);
        buckets(&self.points, every, until, |_, times, rows| thin(times, rows, &mut all.points));
        buckets(&self.sums, every, until, |_, times, rows| add_up(times, rows, &mut all.sums));
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
    pub(super) fn native_coarser(&self, (after, until): (i64, i64), every: i64) -> Result<Folded> {
        let mut all = Folded::default();
        self.records(after, until, &mut all.records)?;
        let range = TimeRange::new(after.max(self.floor).saturating_add(1), until);
        if let Some(native) = &self.native {
            read(&native.points, range, &mut all.points)?;
            read(&native.sums, range, &mut all.sums)?;
        }
        Ok(all.coarser(every, until))
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
            let mut there = HistogramSamples::default();
            let (times, rows) = within(&raw, *window);
            add_up(times, rows, &mut there);
            found.count = count + rows.len() as u64;
            found.sums.extend(there.histograms);
            stood.windows.push(found);
        }
        Ok(stood)
    }
}
