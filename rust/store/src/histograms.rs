//! Histograms of series, beside the path of plain samples: a shard keeps a table of the rows that have
//! some. Newest histograms wait in the open, sealed ones are merged into longer chunks as they come.

use std::collections::{HashMap, HashSet};
use std::ops::AddAssign;
use std::sync::Arc;

use metricsdb_model::histogram::Layout;
use metricsdb_model::{Budget, Error, Histogram, Reason, Result, TimeRange, WriteReport};

use crate::codec::histogram::HistogramChunk;
use crate::expire::Expired;
use crate::late::DuplicatePolicy;

/// Histograms that wait in the open; one of 40 buckets takes some 400 bytes there.
pub const OPEN_ROWS_MAX: usize = 32;
/// Histograms of one sealed chunk.
pub const SEALED_ROWS_MAX: usize = 512;
/// Chunks shorter than one of these are merged once they make up one: each histogram is sealed three times.
const MERGED_ROWS: [usize; 2] = [128, SEALED_ROWS_MAX];

const _: () = assert!(OPEN_ROWS_MAX < MERGED_ROWS[0] && MERGED_ROWS[0] < MERGED_ROWS[1]);

/// The series of a shard that have histograms, by row.
#[derive(Default)]
pub struct Histograms {
    rows: HashMap<u32, HistogramSeries>,
}

/// Histograms of one series, strictly increasing in time. A clone shares the sealed chunks.
#[derive(Clone, Default)]
pub struct HistogramSeries {
    sealed: Arc<Vec<HistogramChunk>>,
    open: Columns,
}

/// Times and their histograms: of one length.
#[derive(Clone, Default)]
struct Columns {
    times: Vec<i64>,
    rows: Vec<Histogram>,
}

/// What a series holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistogramCount {
    pub open_rows: usize,
    pub sealed_rows: usize,
    pub sealed_chunks: usize,
    /// Heap bytes of sealed chunks, of their list, and of the open rows; spare capacity is included.
    pub sealed_bytes: usize,
    pub list_bytes: usize,
    pub open_bytes: usize,
    /// Of the table that leads to the series.
    pub table_bytes: usize,
}

impl AddAssign for HistogramCount {
    fn add_assign(&mut self, other: HistogramCount) {
        self.open_rows += other.open_rows;
        self.sealed_rows += other.sealed_rows;
        self.sealed_chunks += other.sealed_chunks;
        self.sealed_bytes += other.sealed_bytes;
        self.list_bytes += other.list_bytes;
        self.open_bytes += other.open_bytes;
        self.table_bytes += other.table_bytes;
    }
}

/// What histograms of one series cost of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistogramCost {
    /// A sample a histogram, and one more a bucket.
    pub samples: u64,
    /// The same of one histogram with the buckets of them all, at most.
    pub width: u64,
}

/// Where histograms are written: for the report.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub id: u32,
    pub duplicates: DuplicatePolicy,
}

/// A histogram that is not newer than the newest; `older` when not at its time.
struct Late {
    time: i64,
    start: i64,
    histogram: Histogram,
    older: bool,
}

impl Histograms {
    /// As `HistogramSeries::append`, to a series that may be new here.
    pub fn append<'a>(
        &mut self,
        row: u32,
        points: impl IntoIterator<Item = (i64, i64, &'a Histogram)>,
        target: Target,
        stand: &mut Vec<(i64, i64)>,
        report: &mut WriteReport,
    ) -> Result<()> {
        let series = self.rows.entry(row).or_default();
        let result = series.append(points, target, stand, report);
        if series.newest().is_none() {
            self.rows.remove(&row);
        }
        result
    }

    /// Puts a whole series in.
    pub(crate) fn restore(&mut self, row: u32, series: HistogramSeries) {
        self.rows.insert(row, series);
    }

    pub fn remove(&mut self, row: u32) {
        self.rows.remove(&row);
    }

    /// Drops the chunks of a row that are older than `before`, and the open ones if they all are.
    pub(crate) fn expire(&mut self, row: u32, before: i64, done: &mut Expired) {
        let Some(series) = self.rows.get_mut(&row).filter(|series| series.has_older(before)) else { return };
        series.counted(done, |series, done| series.expire(before, done));
        if series.newest().is_none() {
            self.rows.remove(&row);
        }
    }

    /// Drops the histograms of a row in a range. Errors: `Corruption`, never for chunks sealed here.
    pub(crate) fn cut(&mut self, row: u32, range: TimeRange, done: &mut Expired) -> Result<()> {
        let Some(series) = self.rows.get_mut(&row).filter(|h| h.span().is_some_and(|s| s.overlaps(range)))
        else {
            return Ok(());
        };
        let outcome = series.counted(done, |series, done| series.cut(range, done));
        if series.newest().is_none() {
            self.rows.remove(&row);
        }
        outcome
    }

    /// `None` for a row without histograms.
    pub fn get(&self, row: u32) -> Option<&HistogramSeries> {
        self.rows.get(&row)
    }

    /// All rows that have histograms, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &HistogramSeries)> {
        self.rows.iter().map(|(&row, series)| (row, series))
    }

    /// Bytes of the table that leads to the series.
    pub fn table_bytes(&self) -> usize {
        self.rows.capacity() * (size_of::<(u32, HistogramSeries)>() + 1)
    }

    /// What all series hold. Walks chunks and open histograms.
    pub fn count(&self) -> HistogramCount {
        let mut count = HistogramCount { table_bytes: self.table_bytes(), ..HistogramCount::default() };
        self.rows.values().for_each(|series| count += series.count());
        count
    }
}

impl Columns {
    fn push(&mut self, time: i64, histogram: Histogram) {
        self.times.push(time);
        self.rows.push(histogram);
    }

    /// Senders make a layout for each histogram; neighbours that have the same share one.
    fn share_layout(&self, histogram: &mut Histogram) {
        if let Some(last) = self.rows.last().filter(|last| last.layout == histogram.layout) {
            histogram.layout = last.layout.clone();
        }
    }

    fn decode(chunks: &[HistogramChunk]) -> Result<Columns> {
        let mut columns = Columns::default();
        for chunk in chunks {
            chunk.decode_range(TimeRange::ALL, &mut columns.times, &mut columns.rows)?;
        }
        Ok(columns)
    }

    fn within(&self, range: TimeRange) -> (&[i64], &[Histogram]) {
        let from = self.times.partition_point(|&t| t < range.start);
        let to = self.times.partition_point(|&t| t <= range.end).max(from);
        (self.times.get(from..to).unwrap_or(&[]), self.rows.get(from..to).unwrap_or(&[]))
    }

    /// Takes out what lies in the range; how many.
    fn remove(&mut self, range: TimeRange) -> usize {
        let from = self.times.partition_point(|&t| t < range.start);
        let to = self.times.partition_point(|&t| t <= range.end).max(from);
        self.times.drain(from..to);
        self.rows.drain(from..to);
        to - from
    }

    fn clear(&mut self) {
        self.times.clear();
        self.rows.clear();
    }
}

/// Whether a histogram can be stored; else it is rejected.
pub(crate) fn is_valid(time: i64, histogram: &Histogram, target: Target, report: &mut WriteReport) -> bool {
    let valid = histogram.validate();
    if let Err(error) = &valid {
        report.reject(Reason::Malformed, 1, || format!("series {} at {time} ms: {error}", target.id));
    }
    valid.is_ok()
}

impl HistogramSeries {
    /// Appends histograms, each with its time and start, in the order given; `stand` gets times and starts of
    /// those that stand in the series then. Counts into the report what became of each: those that are not valid
    /// are `Malformed`. Late ones rewrite the chunk that covers them. At a time that is taken, the
    /// policy decides; least, largest and sum of histograms are not defined, so those refuse the second as
    /// `Unsupported`. Errors: `Corruption`, never for chunks that were sealed here.
    pub fn append<'a>(
        &mut self,
        points: impl IntoIterator<Item = (i64, i64, &'a Histogram)>,
        target: Target,
        stand: &mut Vec<(i64, i64)>,
        report: &mut WriteReport,
    ) -> Result<()> {
        let mut late = Vec::new();
        let mut newest = self.newest();
        for (time, start, histogram) in points {
            if !is_valid(time, histogram, target, report) {
                continue;
            }
            let mut histogram = histogram.clone();
            self.open.share_layout(&mut histogram);
            if let Some(newest) = newest.filter(|&newest| time <= newest) {
                late.push(Late { time, start, histogram, older: time < newest });
                continue;
            }
            newest = Some(time);
            report.accepted += 1;
            stand.push((time, start));
            self.open.push(time, histogram);
            if self.open.times.len() >= OPEN_ROWS_MAX {
                self.seal()?;
            }
        }
        self.merge_late(late, target, stand, report)
    }

    /// Appends times and histograms in the range. Errors: the budget's, `Corruption`, never for chunks sealed here.
    pub fn read_range(
        &self,
        range: TimeRange,
        budget: &Budget,
        times: &mut Vec<i64>,
        rows: &mut Vec<Histogram>,
    ) -> Result<()> {
        for chunk in self.overlapping(range) {
            budget.check()?;
            // They may fill memory before anybody counts them.
            budget.fits(2 * rows.len() * rows.last().map_or(0, |h| size_of::<Histogram>() + h.bytes()))?;
            chunk.decode_range(range, times, rows)?;
        }
        let (open_times, open_rows) = self.open.within(range);
        times.extend_from_slice(open_times);
        rows.extend_from_slice(open_rows);
        Ok(())
    }

    /// The newest histogram before `time`; decodes one chunk at most. Errors: `Corruption`, never for chunks
    /// sealed here.
    pub fn newest_before(&self, time: i64) -> Result<Option<(i64, Histogram)>> {
        let open = self.open.times.partition_point(|&t| t < time);
        if let Some(i) = open.checked_sub(1) {
            return Ok(self.open.times.get(i).copied().zip(self.open.rows.get(i).cloned()));
        }
        let sealed = self.sealed.partition_point(|c| c.first() < time);
        let Some(chunk) = sealed.checked_sub(1).and_then(|i| self.sealed.get(i)) else { return Ok(None) };
        let (mut times, mut rows) = (Vec::new(), Vec::new());
        chunk.decode_range(TimeRange::new(i64::MIN, time.saturating_sub(1)), &mut times, &mut rows)?;
        Ok(times.pop().zip(rows.pop()))
    }

    /// Whether there is a histogram in the range; decodes only where heads can't tell. Errors: `Corruption`,
    /// never for chunks sealed here.
    pub fn has_any(&self, range: TimeRange) -> Result<bool> {
        let ends_in = |c: &HistogramChunk| range.contains(c.first()) || range.contains(c.last());
        let chunks = self.overlapping(range);
        if !self.open.within(range).0.is_empty() || chunks.iter().any(ends_in) {
            return Ok(true);
        }
        let (mut times, mut rows) = (Vec::new(), Vec::new());
        chunks.iter().try_for_each(|c| c.decode_range(range, &mut times, &mut rows))?;
        Ok(!times.is_empty())
    }

    /// What the histograms in the range cost of a budget, and one of them at most. Decodes the layouts of
    /// sealed chunks. Errors: `Corruption`, never for chunks sealed here.
    pub fn cost_within(&self, range: TimeRange) -> Result<HistogramCost> {
        let (mut samples, mut layouts) = (0, HashSet::new());
        for chunk in self.overlapping(range) {
            samples += chunk.cost_within(range, &mut layouts)?;
        }
        for histogram in self.open.within(range).1 {
            samples += 1 + histogram.bucket_count() as u64;
            layouts.insert(histogram.layout.clone());
        }
        let buckets = |layout: &Arc<Layout>| {
            let (positive, negative) = layout.bucket_counts();
            positive + negative
        };
        let width = samples.min(1 + layouts.iter().map(buckets).sum::<u64>());
        Ok(HistogramCost { samples, width })
    }

    /// Sealed chunks that overlap the range.
    pub fn chunks_within(&self, range: TimeRange) -> usize {
        self.overlapping(range).len()
    }

    /// Histograms in the range, at most: those of a chunk that the range cuts are all counted.
    pub fn count_at_most(&self, range: TimeRange) -> usize {
        let sealed: usize = self.overlapping(range).iter().map(HistogramChunk::count).sum();
        sealed + self.open.within(range).0.len()
    }

    /// Bytes of the sealed chunks that a read of the range looks into, and of the numbers of open histograms in it.
    pub fn encoded_bytes(&self, range: TimeRange) -> u64 {
        let sealed = self.overlapping(range).iter().map(|c| c.to_bytes().len() as u64);
        let open = self.open.within(range).1.iter().map(|h| 8 * (4 + h.bucket_count() as u64));
        sealed.sum::<u64>() + open.sum::<u64>()
    }

    fn overlapping(&self, range: TimeRange) -> &[HistogramChunk] {
        let from = self.sealed.partition_point(|c| c.last() < range.start);
        let to = self.sealed.partition_point(|c| c.first() <= range.end);
        self.sealed.get(from..to).unwrap_or(&[])
    }

    /// The series as it is now, to be read without a lock: open histograms outside of the range are left out.
    pub fn capture(&self, range: TimeRange) -> HistogramSeries {
        let (times, rows) = self.open.within(range);
        let open = Columns { times: times.to_vec(), rows: rows.to_vec() };
        HistogramSeries { sealed: self.sealed.clone(), open }
    }

    /// Whether `expire` would drop something.
    pub fn has_older(&self, before: i64) -> bool {
        let open = || self.sealed.is_empty() && self.open.times.last().is_some_and(|&last| last < before);
        self.sealed.first().is_some_and(|chunk| chunk.last() < before) || open()
    }

    /// Does something, and counts what is less then.
    fn counted<T>(&mut self, done: &mut Expired, work: impl FnOnce(&mut Self, &mut Expired) -> T) -> T {
        let held = |series: &HistogramSeries| {
            let count = series.count();
            ((count.open_rows + count.sealed_rows) as u64, (count.sealed_bytes + count.open_bytes) as u64)
        };
        let (samples, bytes) = held(self);
        let outcome = work(self, done);
        let (left, left_bytes) = held(self);
        done.samples += samples - left;
        done.bytes += bytes.saturating_sub(left_bytes);
        outcome
    }

    fn expire(&mut self, before: i64, done: &mut Expired) {
        let old = self.sealed.partition_point(|chunk| chunk.last() < before);
        done.chunks += old as u64;
        if old > 0 {
            Arc::make_mut(&mut self.sealed).drain(..old);
        }
        if self.sealed.is_empty() && self.open.times.last().is_some_and(|&last| last < before) {
            self.open = Columns::default();
            done.chunks += 1;
        }
    }

    fn cut(&mut self, range: TimeRange, done: &mut Expired) -> Result<()> {
        let from = self.sealed.partition_point(|c| c.last() < range.start);
        let to = self.sealed.partition_point(|c| c.first() <= range.end).max(from);
        let mut left = Vec::new();
        for chunk in self.sealed.get(from..to).unwrap_or(&[]) {
            if range.start <= chunk.first() && chunk.last() <= range.end {
                done.chunks += 1;
                continue;
            }
            let mut columns = Columns::decode(std::slice::from_ref(chunk))?;
            if columns.remove(range) == 0 {
                left.push(chunk.clone());
                continue;
            }
            done.cut += 1;
            seal_all(&columns.times, &columns.rows, &mut left)?;
        }
        if from < to {
            let list = Arc::make_mut(&mut self.sealed);
            list.splice(from..to, left);
            list.shrink_to_fit();
        }
        if self.open.remove(range) > 0 && self.open.times.is_empty() {
            self.open = Columns::default();
        }
        Ok(())
    }

    /// Times of the oldest and the newest histogram.
    pub fn span(&self) -> Option<TimeRange> {
        self.oldest().zip(self.newest()).map(|(oldest, newest)| TimeRange::new(oldest, newest))
    }

    pub fn newest(&self) -> Option<i64> {
        self.open.times.last().copied().or_else(|| Some(self.sealed.last()?.last()))
    }

    pub fn oldest(&self) -> Option<i64> {
        self.sealed.first().map(|c| c.first()).or_else(|| self.open.times.first().copied())
    }

    /// Times and histograms of the open ones.
    pub(crate) fn open(&self) -> (&[i64], &[Histogram]) {
        (&self.open.times, &self.open.rows)
    }

    /// A series of sealed chunks in order, and open histograms behind them.
    pub(crate) fn restored(
        sealed: Vec<HistogramChunk>,
        times: Vec<i64>,
        mut rows: Vec<Histogram>,
    ) -> HistogramSeries {
        rows.dedup_by(|next, last| {
            if next.layout == last.layout {
                next.layout = last.layout.clone();
            }
            false
        });
        HistogramSeries { sealed: Arc::new(sealed), open: Columns { times, rows } }
    }

    /// The sealed chunks: in order of time, disjoint.
    pub fn sealed(&self) -> &[HistogramChunk] {
        &self.sealed
    }

    /// Walks chunks and open histograms.
    pub fn count(&self) -> HistogramCount {
        HistogramCount {
            open_rows: self.open.times.len(),
            sealed_rows: self.sealed.iter().map(HistogramChunk::count).sum(),
            sealed_chunks: self.sealed.len(),
            sealed_bytes: self.sealed.iter().map(HistogramChunk::bytes).sum(),
            list_bytes: self.sealed.capacity() * size_of::<HistogramChunk>()
                + size_of::<Vec<HistogramChunk>>(),
            table_bytes: 0,
            open_bytes: self.open_bytes(),
        }
    }

    /// Bytes of the open histograms, spare capacity included.
    pub fn open_bytes(&self) -> usize {
        let open = &self.open;
        let of_rows: usize = open.rows.iter().map(Histogram::bytes).sum();
        open.times.capacity() * size_of::<i64>()
            + open.rows.capacity() * size_of::<Histogram>()
            + of_rows
            + layout_bytes(&open.rows)
    }

    /// Decodes every chunk. Errors: `Corruption`, where times don't rise or a chunk is not what it says.
    pub fn check(&self) -> Result<()> {
        let wrong = |message: &str| Err(Error::corruption("histograms of a series", 0, message));
        let mut newest = None;
        for chunk in self.sealed.iter() {
            HistogramChunk::from_bytes(chunk.to_bytes())?;
            if newest.is_some_and(|newest| newest >= chunk.first()) {
                return wrong("chunks overlap");
            }
            newest = Some(chunk.last());
        }
        let times = &self.open.times;
        if times.windows(2).any(|w| w[0] >= w[1]) || newest.zip(times.first()).is_some_and(|(n, t)| n >= *t) {
            return wrong("open histograms don't rise in time");
        }
        if times.len() != self.open.rows.len() || times.len() >= OPEN_ROWS_MAX {
            return wrong("more histograms are open than may be");
        }
        self.open.rows.iter().try_for_each(Histogram::validate)
    }

    /// Seals the open histograms, and merges short chunks at the end of the list.
    fn seal(&mut self) -> Result<()> {
        let list = Arc::make_mut(&mut self.sealed);
        seal_all(&self.open.times, &self.open.rows, list)?;
        self.open.clear();
        for rows in MERGED_ROWS {
            let counts = list.iter().rev().map(HistogramChunk::count).take_while(|&n| n < rows);
            let (short, total) = counts.fold((0, 0), |(short, total), n| (short + 1, total + n));
            // Beyond twice the length, histograms are so wide that chunks of them stay short.
            if total >= rows && total < 2 * rows {
                let merged = Columns::decode(list.get(list.len() - short..).unwrap_or(&[]))?;
                let mut chunks = Vec::new();
                for (times, rows) in
                    merged.times.chunks(SEALED_ROWS_MAX).zip(merged.rows.chunks(SEALED_ROWS_MAX))
                {
                    seal_all(times, rows, &mut chunks)?;
                }
                list.truncate(list.len() - short);
                list.append(&mut chunks);
            }
        }
        Ok(())
    }

    /// Merges histograms, in the order they were written, into the chunks that cover them.
    fn merge_late(
        &mut self,
        mut late: Vec<Late>,
        target: Target,
        stand: &mut Vec<(i64, i64)>,
        report: &mut WriteReport,
    ) -> Result<()> {
        late.sort_by_key(|l| l.time);
        let mut late = late.into_iter().peekable();
        while let Some(first) = late.peek().map(|l| l.time) {
            let (at, end) = self.responsible(first);
            let group: Vec<Late> =
                std::iter::from_fn(|| late.next_if(|l| end.is_none_or(|end| l.time < end))).collect();
            let Some(at) = at else {
                let open = std::mem::take(&mut self.open);
                self.open = merge(open, group, target, stand, report).0;
                continue;
            };
            let base = Columns::decode(self.sealed.get(at..=at).unwrap_or(&[]))?;
            let (merged, changed) = merge(base, group, target, stand, report);
            if changed {
                let mut chunks = Vec::new();
                let pieces = merged.times.len().div_ceil(SEALED_ROWS_MAX).max(1);
                let piece = merged.times.len().div_ceil(pieces);
                for (times, rows) in merged.times.chunks(piece).zip(merged.rows.chunks(piece)) {
                    seal_all(times, rows, &mut chunks)?;
                }
                Arc::make_mut(&mut self.sealed).splice(at..=at, chunks);
            }
        }
        if self.open.times.len() >= OPEN_ROWS_MAX { self.seal() } else { Ok(()) }
    }

    /// The sealed chunk for a late time, `None` for the open histograms, and the time from which the next is
    /// responsible.
    fn responsible(&self, time: i64) -> (Option<usize>, Option<i64>) {
        let open = self.open.times.first().copied();
        if self.sealed.is_empty() || open.is_some_and(|first| time >= first) {
            return (None, None);
        }
        let at = self.sealed.partition_point(|c| c.first() <= time).saturating_sub(1);
        (Some(at), self.sealed.get(at + 1).map(|c| c.first()).or(open))
    }
}

/// What stands after a group that is sorted by time came in; whether anything is different.
fn merge(
    base: Columns,
    group: Vec<Late>,
    target: Target,
    stand: &mut Vec<(i64, i64)>,
    report: &mut WriteReport,
) -> (Columns, bool) {
    let mut merged = Columns::default();
    let mut changed = false;
    let mut base = base.times.into_iter().zip(base.rows).peekable();
    for l in group {
        while let Some((time, row)) = base.next_if(|(time, _)| *time <= l.time) {
            merged.push(time, row);
        }
        let taken = merged.times.last() == Some(&l.time);
        if let Some(old) = merged.rows.last_mut().filter(|_| taken) {
            match target.duplicates {
                DuplicatePolicy::Last => {
                    changed |= *old != l.histogram;
                    *old = l.histogram;
                    stand.push((l.time, l.start));
                }
                DuplicatePolicy::First => {}
                DuplicatePolicy::Error => {
                    report.reject(Reason::DuplicateSample, 1, || {
                        format!("series {} has a histogram at {} ms already", target.id, l.time)
                    });
                    continue;
                }
                DuplicatePolicy::Min | DuplicatePolicy::Max | DuplicatePolicy::Sum => {
                    report.reject(Reason::Unsupported, 1, || {
                        let (id, time) = (target.id, l.time);
                        format!(
                            "series {id} has a histogram at {time} ms already, and min, max and sum of two are \
                             not defined; use last, first or error"
                        )
                    });
                    continue;
                }
            }
            report.duplicates += 1;
        } else {
            merged.push(l.time, l.histogram);
            stand.push((l.time, l.start));
            changed = true;
        }
        report.accepted += 1;
        report.out_of_order += u64::from(l.older);
    }
    base.for_each(|(time, row)| merged.push(time, row));
    (merged, changed)
}

/// Seals into one chunk, or into several where the histograms are too wide for one.
pub(crate) fn seal_all(times: &[i64], rows: &[Histogram], out: &mut Vec<HistogramChunk>) -> Result<()> {
    match HistogramChunk::seal(times, rows) {
        Ok(chunk) => out.push(chunk),
        Err(Error::Limit { .. }) if times.len() > 1 => {
            let half = times.len() / 2;
            let ((early, late), (early_rows, late_rows)) = (times.split_at(half), rows.split_at(half));
            seal_all(early, early_rows, out)?;
            seal_all(late, late_rows, out)?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Heap bytes of layouts, each run of neighbours that share one counted once.
fn layout_bytes(rows: &[Histogram]) -> usize {
    let runs = rows.chunk_by(|a, b| Arc::ptr_eq(&a.layout, &b.layout));
    runs.filter_map(|run| run.first()).map(|h| h.layout.bytes()).sum()
}

mod access;
#[cfg(test)]
mod tests;

pub(crate) use access::HistogramPoint;
pub use access::HistogramRows;
