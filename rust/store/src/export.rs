//! Samples on their way to another place, exact to the bit, with a digest of what each series handed out: so that it can be
//! dropped here once it is safe there, and only if nothing has changed meanwhile (`cut`).

use std::ops::Range;

use metricsdb_model::{
    Budget, Error, Histogram, Labels, Predicate, Result, TimeRange, ValueKind, WriteReport,
};
use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3Default;

use crate::codec::histogram::HistogramChunk;
use crate::codec::{self, OpenState};
use crate::database::Database;
use crate::histograms::HistogramSeries;
use crate::sealed::Sealed;
use crate::shard::{SHARDS, Shard, id_of};
use crate::starts::StartSeries;
use crate::view::{ByShard, Run};

/// Series that are captured under one hold of a shard's lock.
const ROWS_HELD: usize = 512;
/// Bytes of words that are hashed at once.
const HASHED_BYTES: usize = 4096;

/// The samples of one series in a range, as they were at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// The series' id, as `append_columns` takes it.
    pub id: u64,
    /// xxh3-64 of the canonical labels: the identity of a series in every process.
    pub hash: u64,
    pub labels: Labels,
    /// Of all below.
    pub digest: u64,
    pub columns: ExportedColumns,
}

/// Columns of samples, and of native histograms beside them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExportedColumns {
    pub times: Vec<i64>,
    /// Values as 64 bits; `runs` says what they mean.
    pub bits: Vec<u64>,
    pub runs: Vec<Run>,
    /// When the counter of each sample began, 0 where it is not known; empty where none is.
    pub starts: Vec<i64>,
    pub histogram_times: Vec<i64>,
    pub histogram_starts: Vec<i64>,
    pub histograms: Vec<Histogram>,
}

/// A row of a shard, to be read without its lock.
pub(crate) struct Taken {
    row: u32,
    id: u64,
    hash: u64,
    sealed: Sealed,
    open: Option<(OpenState, Vec<u8>)>,
    starts: Option<StartSeries>,
    histograms: Option<HistogramSeries>,
    /// Samples before it are in records alone.
    from: i64,
}

impl Shard {
    /// What a row has in a range; `None` for nothing. `rolled`: also of a row that has records, whose samples are those that
    /// no record stands for.
    pub(crate) fn take(&self, row: u32, range: TimeRange, rolled: bool) -> Option<Taken> {
        if !self.series.has(row) {
            return None;
        }
        let from = match self.rollups.get(row) {
            Some(series) if rolled => range.start.max(series.raw_from().saturating_add(1)),
            Some(_) => return None,
            None => range.start,
        };
        let plain = TimeRange::new(from, range.end);
        let head = &self.series.heads[row];
        let sealed = &self.series.sealed[row];
        let histograms = self.histograms.get(row);
        let histograms = histograms.filter(|h| h.span().is_some_and(|span| span.overlaps(plain)));
        let is_open = self.open_overlaps(head, plain);
        let is_sealed = sealed.overlaps(plain);
        if !is_open && !is_sealed && histograms.is_none() {
            return None;
        }
        let open = is_open.then(|| {
            let bytes = self.open_bytes(head).get(..head.state.used_bytes()).unwrap_or(&[]);
            (head.state, bytes.to_vec())
        });
        Some(Taken {
            row,
            id: self.public_id(row),
            hash: self.series.hashes[row],
            sealed: if is_sealed { sealed.clone() } else { Sealed::default() },
            open,
            starts: self.starts.get(row).cloned(),
            histograms: histograms.map(|h| h.capture(plain)),
            from,
        })
    }

    /// Samples that `take` takes of a row without records; histograms at most.
    fn takes(&self, row: u32, range: TimeRange) -> Result<u64> {
        if !self.series.has(row) || self.rollups.get(row).is_some() {
            return Ok(0);
        }
        let histograms = self.histograms.get(row).map_or(0, |series| series.count_at_most(range));
        Ok(self.samples_within(row, range)? + histograms as u64)
    }
}

impl Taken {
    /// Decodes what is in the range. Errors: the budget's, `Corruption`, never for chunks that were made here.
    pub fn read(&self, range: TimeRange, budget: &Budget) -> Result<ExportedColumns> {
        let mut out = ExportedColumns::default();
        let plain = TimeRange::new(self.from, range.end);
        for chunk in self.sealed.overlapping(plain) {
            budget.check()?;
            chunk.decode_range(plain, &mut out.times, &mut out.bits)?;
            out.note(chunk.kind());
        }
        if let Some((state, bytes)) = &self.open {
            let (mut times, mut bits) = (Vec::new(), Vec::new());
            codec::open::decode(state, bytes, &mut times, &mut bits)?;
            let from = times.partition_point(|&t| t < plain.start);
            let to = times.partition_point(|&t| t <= plain.end).max(from);
            out.times.extend_from_slice(times.get(from..to).unwrap_or(&[]));
            out.bits.extend_from_slice(bits.get(from..to).unwrap_or(&[]));
            out.note(state.kind());
        }
        if let Some(histograms) = &self.histograms {
            histograms.read_range(plain, budget, &mut out.histogram_times, &mut out.histograms)?;
        }
        if let Some(starts) = &self.starts {
            starts.read(&out.times, &mut out.starts)?;
            starts.read(&out.histogram_times, &mut out.histogram_starts)?;
            [&mut out.starts, &mut out.histogram_starts].into_iter().for_each(|known| {
                if known.iter().all(|&start| start == 0) {
                    known.clear();
                }
            });
        }
        Ok(out)
    }
}

impl ExportedColumns {
    fn note(&mut self, kind: ValueKind) {
        let noted: usize = self.runs.iter().map(|run| run.len).sum();
        let new = self.times.len() - noted;
        match self.runs.last_mut() {
            Some(run) if run.kind == kind => run.len += new,
            _ if new > 0 => self.runs.push(Run { kind, len: new }),
            _ => {}
        }
    }

    pub fn is_empty(&self) -> bool {
        self.times.is_empty() && self.histograms.is_empty()
    }

    /// Bytes of all columns.
    pub fn bytes(&self) -> usize {
        let words = self.times.len() + self.bits.len() + self.starts.len() + 2 * self.histograms.len();
        8 * words + self.histograms.iter().map(|h| size_of::<Histogram>() + h.bytes()).sum::<usize>()
    }

    /// A digest of all columns, whatever chunks they came from. Errors: `Limit`, for a histogram that no record takes.
    pub fn digest(&self) -> Result<u64> {
        let mut hasher = Xxh3Default::new();
        hash_words(&mut hasher, self.times.iter().map(|&t| t as u64));
        hash_words(&mut hasher, self.bits.iter().copied());
        let runs = self.runs.iter().flat_map(|run| [run.kind as u64, run.len as u64]);
        hash_words(&mut hasher, runs);
        hash_words(&mut hasher, self.starts.iter().map(|&t| t as u64));
        hash_words(&mut hasher, self.histogram_times.iter().map(|&t| t as u64));
        hash_words(&mut hasher, self.histogram_starts.iter().map(|&t| t as u64));
        for histogram in &self.histograms {
            hasher.update(&encode_histogram(histogram)?);
        }
        Ok(hasher.digest())
    }
}

/// Hashes words, and their number behind them.
pub(crate) fn hash_words(hasher: &mut Xxh3Default, words: impl Iterator<Item = u64>) {
    let (mut buffer, mut count) = (Vec::with_capacity(HASHED_BYTES), 0u64);
    for word in words {
        buffer.extend_from_slice(&word.to_le_bytes());
        count += 1;
        if buffer.len() >= HASHED_BYTES {
            hasher.update(&buffer);
            buffer.clear();
        }
    }
    buffer.extend_from_slice(&count.to_le_bytes());
    hasher.update(&buffer);
}

/// The bytes of one histogram, exact; `decode_histogram` reads them. Errors: `Limit`, for one that is too wide.
pub fn encode_histogram(histogram: &Histogram) -> Result<Vec<u8>> {
    Ok(HistogramChunk::seal(&[0], std::slice::from_ref(histogram))?.to_bytes().to_vec())
}

/// What `encode_histogram` wrote. Errors: `Corruption`.
pub fn decode_histogram(bytes: &[u8]) -> Result<Histogram> {
    let (mut times, mut rows) = (Vec::new(), Vec::new());
    HistogramChunk::from_bytes(bytes)?.decode_range(TimeRange::ALL, &mut times, &mut rows)?;
    rows.pop().ok_or_else(|| Error::corruption("histogram", 0, "no histogram is in these bytes"))
}

/// Samples on their way back, one a row: of series by their ids, in any order. Each group of columns is of one length, or
/// nothing is written.
#[derive(Clone, Debug, Default)]
pub struct Imported {
    pub ids: Vec<u64>,
    pub times: Vec<i64>,
    pub bits: Vec<u64>,
    pub kinds: Vec<ValueKind>,
    /// 0 where it is not known; empty where none is.
    pub starts: Vec<i64>,
    pub histogram_ids: Vec<u64>,
    pub histogram_times: Vec<i64>,
    pub histogram_starts: Vec<i64>,
    pub histograms: Vec<Histogram>,
}

impl Imported {
    fn check(&self) -> Result<()> {
        let (rows, histograms) = (self.ids.len(), self.histogram_ids.len());
        let samples = [self.times.len(), self.bits.len(), self.kinds.len()].iter().all(|&len| len == rows);
        let starts = self.starts.is_empty() || self.starts.len() == rows;
        let others = [self.histogram_times.len(), self.histograms.len()].iter().all(|&len| len == histograms);
        let other_starts = self.histogram_starts.is_empty() || self.histogram_starts.len() == histograms;
        if samples && starts && others && other_starts {
            return Ok(());
        }
        let why = "columns differ in length";
        Err(Error::input("samples", &rows.to_string(), why, "give columns of one length"))
    }
}

impl Database {
    /// Writes what `export` handed out, here or in another store: values of their kinds to the bit, starts and histograms.
    /// Where something stands at a time, the policy for duplicates decides. Errors: `Input` where columns differ in length.
    pub fn import(&self, all: &Imported) -> Result<WriteReport> {
        all.check()?;
        let mut report = WriteReport::default();
        let mut at = 0;
        for run in all.kinds.chunk_by(|a, b| a == b) {
            let Some(&kind) = run.first() else { continue };
            let rows = at..at + run.len();
            at = rows.end;
            let starts = all.starts.get(rows.clone()).unwrap_or(&[]);
            let columns = ((&all.ids[rows.clone()], &all.times[rows.clone()]), &all.bits[rows]);
            self.append_kind(columns, |&bits| bits, starts, kind, &mut report);
        }
        let Imported { histogram_ids, histogram_times, histogram_starts, histograms, .. } = all;
        self.append_started(histogram_ids, histogram_times, histogram_starts, histograms, &mut report);
        report.not_durable = self.committed();
        Ok(report)
    }

    /// How many samples `export` hands out of each shard, without those of series that have records; of histograms it may be
    /// fewer. Linear in the series chosen, about 0.2 µs each. Errors: the budget's.
    pub fn export_samples(
        &self,
        predicates: &[Predicate],
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Vec<u64>> {
        self.count_by_shard(predicates, budget, |shard, row| shard.takes(row, range))
    }

    /// The sum of a number over the chosen series of each shard, a few of which are looked into under one hold of its lock.
    pub(crate) fn count_by_shard(
        &self,
        predicates: &[Predicate],
        budget: &Budget,
        count: impl Fn(&Shard, u32) -> Result<u64> + Sync,
    ) -> Result<Vec<u64>> {
        let _inside = self.inside();
        let by_shard = ByShard::new(&self.chosen(predicates, budget)?, budget)?;
        let of_shard = |number: usize| -> Result<u64> {
            let mut all = 0;
            for rows in by_shard.rows(number).chunks(ROWS_HELD) {
                budget.check()?;
                let shard = self.shard(number);
                for &row in rows {
                    all += count(&shard, row)?;
                }
            }
            Ok(all)
        };
        (0..SHARDS).into_par_iter().map(of_shard).collect()
    }

    /// The samples of chosen series in a range, exact, each with the digest that `drop_copied` asks for; those of one shard one
    /// after the other, of some of the `SHARDS` shards or of all. `rolled`: also of series that have records, as far as no
    /// record stands for their samples. Linear in what is handed out. Errors: the budget's.
    pub fn export(
        &self,
        predicates: &[Predicate],
        range: TimeRange,
        rolled: bool,
        shards: Range<usize>,
        budget: &Budget,
    ) -> Result<Vec<Exported>> {
        let _inside = self.inside();
        let by_shard = ByShard::new(&self.chosen(predicates, budget)?, budget)?;
        let of_shard = |number: usize| -> Result<Vec<Exported>> {
            let mut out = Vec::new();
            for rows in by_shard.rows(number).chunks(ROWS_HELD) {
                budget.check()?;
                let taken: Vec<Taken> = {
                    let shard = self.shard(number);
                    rows.iter().filter_map(|&row| shard.take(row, range, rolled)).collect()
                };
                for one in taken {
                    let columns = one.read(range, budget)?;
                    if columns.is_empty() {
                        continue;
                    }
                    let samples = (columns.times.len() + columns.histograms.len()) as u64;
                    budget.take_samples(samples)?;
                    let labels = self.labels_of_id(id_of(number as u8, one.row));
                    budget.keep(columns.bytes() + labels.heap_bytes())?;
                    // Histograms that no record takes stay here.
                    let Ok(digest) = columns.digest() else { continue };
                    out.push(Exported { id: one.id, hash: one.hash, labels, digest, columns });
                }
            }
            Ok(out)
        };
        let shards = shards.start..shards.end.min(SHARDS);
        let parts: Vec<Vec<Exported>> = shards.into_par_iter().map(of_shard).collect::<Result<_>>()?;
        Ok(parts.into_iter().flatten().collect())
    }
}
