//! The store: 256 shards, what they share, and the ways in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use metricsdb_model::memory::Step;
use metricsdb_model::{
    Batch, BatchHistogram, Columns, Counter, Error, Labels, LabelsBuilder, MemoryLimit, Metadata, MetricType,
    Reason, Result, ValueKind, Values, WriteReport,
};
use parking_lot::{Mutex, MutexGuard, RwLock};
use rayon::prelude::*;

use crate::bound::HistogramsEver;
use crate::chunk::SharedColumns;
use crate::codec::open::OPEN_SAMPLES_MAX;
use crate::densify::Round;
use crate::epoch::{Epochs, Inside};
use crate::expire::Burials;
use crate::heap;
use crate::histograms::HistogramPoint;
use crate::index::{Cardinality, Index};
use crate::journal::Journal;
use crate::labelsets::Shapes;
use crate::late::DuplicatePolicy;
use crate::limits::{FoldedSample, Found, Limits, is_source, refused, refused_rule};
use crate::memory::{Importance, Meter};
use crate::metadata::MetadataStore;
use crate::precision::PrecisionRules;
use crate::raw::{FREE, RawHasher, RawTable};
use crate::resolve::{Interned, Refusal};
use crate::rollup::Commons;
use crate::series::ANY_GENERATION;
use crate::shard::{Rules, SHARDS, Shard, Staged, Work, place_of};
use crate::symbols::Symbols;
use crate::written::Written;

/// Samples that are sorted into shards at once: bounds what a write holds beside the store (12 MB).
const BATCH_SAMPLES: usize = 1 << 19;
/// Blocks below this size are appended by the caller's thread alone.
const PARALLEL_SAMPLES: usize = 1 << 15;
/// A series that could not be found or made; what the raw table says of a hash it doesn't know.
const NO_SERIES: u32 = FREE;

/// Samples of an open chunk before they are sealed. A quarter of a block: sealed samples are smaller and are read
/// ten times as fast, and a block that is not full yet is cheap to write anew.
const OPEN_SAMPLES: usize = 128;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub duplicates: DuplicatePolicy,
    /// Samples after which an open chunk is sealed; 1 to 4096.
    pub samples_per_chunk: usize,
    /// Keys the hashes of raw labels. Give each process a random one: it is what keeps a sender from
    /// making two label sets look alike.
    pub raw_hash_key: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { duplicates: DuplicatePolicy::Last, samples_per_chunk: OPEN_SAMPLES, raw_hash_key: 0 }
    }
}

/// A store of series, in memory; with a journal (`open`) also what is left of them after the process. All methods
/// may be called from many threads at once; a sample is visible to readers when the call that wrote it returns.
pub struct Database {
    pub(crate) rules: Rules,
    raw_hash_key: u64,
    pub(crate) symbols: Arc<Symbols>,
    pub(crate) shapes: Shapes,
    pub(crate) index: Index,
    pub(crate) raw: RawTable,
    pub(crate) shards: Box<[Mutex<Shard>]>,
    pub(crate) series_count: AtomicUsize,
    pub(crate) metadata: MetadataStore,
    /// What every shard has, too; whoever changes rules or marks holds it meanwhile.
    pub(crate) precision: Mutex<Arc<PrecisionRules>>,
    /// Buffers between calls: as many as there were writers at once, but not more than threads compute.
    pub(crate) scratch: Mutex<Vec<Scratch>>,
    /// The series that `densify` looks at next.
    pub(crate) densify_at: Mutex<Round>,
    /// Samples that queries have decoded.
    pub(crate) decoded: Counter,
    /// Samples that ever came to a shard: not fewer than there are.
    pub(crate) appended: AtomicU64,
    pub(crate) appended_histograms: HistogramsEver,
    /// What chunks of several series hold together.
    pub(crate) shared_columns: Arc<SharedColumns>,
    /// What series with rollups have in common.
    pub(crate) rolled: Arc<Commons>,
    pub(crate) written: Written,
    /// Who may hold ids of series.
    pub(crate) epochs: Epochs,
    /// Held by those who are about to use the symbols of a series, so that none is unlisted meanwhile.
    pub(crate) making: RwLock<()>,
    /// Series on their way out.
    pub(crate) burials: Mutex<Burials>,
    pub(crate) limits: Limits,
    /// None, unless `limit_memory` says otherwise.
    pub(crate) limit: Arc<MemoryLimit>,
    pub(crate) meter: Meter,
    pub(crate) importance: Importance,
    /// `None` for one that lives in memory alone.
    pub(crate) journal: Option<Journal>,
}

/// Buffers of one write.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Series ids of the batch, `NO_SERIES` for those refused.
    ids: Vec<u32>,
    /// Those of them that are folded: place in the batch, id.
    folded_ids: Vec<(u32, u64)>,
    folded: Vec<FoldedSample>,
    hashes: Vec<u128>,
    order: Vec<u32>,
    staged: Vec<Staged>,
    /// One a staged sample, or none.
    staged_starts: Vec<i64>,
    pub(crate) last: Interned,
    pub(crate) sender: LabelsBuilder,
    pub(crate) merged: LabelsBuilder,
    work: Work,
}

impl Scratch {
    pub(crate) fn bytes(&self) -> usize {
        heap::vector(&self.ids)
            + heap::vector(&self.folded_ids)
            + heap::vector(&self.folded)
            + heap::vector(&self.order)
            + heap::vector(&self.hashes)
            + heap::vector(&self.staged)
            + heap::vector(&self.staged_starts)
            + self.last.bytes()
            + self.work.bytes()
    }
}

impl Database {
    pub fn new(options: Options) -> Database {
        let symbols = Arc::new(Symbols::new());
        let shared_columns = Arc::new(SharedColumns::default());
        let rolled = Arc::new(Commons::default());
        Database {
            rules: Rules {
                duplicates: options.duplicates,
                samples_per_chunk: options.samples_per_chunk.clamp(1, OPEN_SAMPLES_MAX),
            },
            raw_hash_key: options.raw_hash_key,
            index: Index::new(symbols.clone()),
            symbols,
            shapes: Shapes::default(),
            raw: RawTable::default(),
            shards: (0..SHARDS)
                .map(|n| Mutex::new(Shard::new(n as u8, shared_columns.clone(), rolled.clone())))
                .collect(),
            series_count: AtomicUsize::new(0),
            metadata: MetadataStore::default(),
            precision: Mutex::default(),
            scratch: Mutex::default(),
            shared_columns,
            rolled,
            densify_at: Mutex::default(),
            decoded: Counter::default(),
            appended: AtomicU64::new(0),
            appended_histograms: HistogramsEver::default(),
            written: Written::default(),
            epochs: Epochs::default(),
            making: RwLock::default(),
            burials: Mutex::default(),
            limits: Limits::new(options.raw_hash_key),
            limit: Arc::default(),
            meter: Meter::default(),
            importance: Importance::default(),
            journal: None,
        }
    }

    /// Refuses from now on what the limit says; measures once.
    pub fn limit_memory(&mut self, limit: Arc<MemoryLimit>) {
        self.limit = limit;
        self.measure();
    }

    /// Counts samples that were there before this process.
    pub(crate) fn recovered(&self, samples: u64) {
        self.appended.fetch_add(samples, Relaxed);
    }

    pub(crate) fn shard(&self, number: usize) -> MutexGuard<'_, Shard> {
        self.shards[number].lock()
    }

    /// Takes a decoded request; what can't be taken is in the report, beside what the decoder refused.
    pub fn write(&self, batch: &Batch<'_>) -> WriteReport {
        self.with_scratch(|scratch| self.write_batch(batch, scratch))
    }

    /// As `write`; `ids` gets the id of each series of the batch, `None` for those refused.
    pub fn write_tracked(&self, batch: &Batch<'_>, ids: &mut Vec<Option<u64>>) -> WriteReport {
        self.with_scratch(|scratch| {
            let report = self.write_batch(batch, scratch);
            ids.clear();
            ids.extend(scratch.ids.iter().map(|&id| (id != NO_SERIES).then(|| self.public(id))));
            for &(at, id) in &scratch.folded_ids {
                ids[at as usize] = Some(id);
            }
            report
        })
    }

    /// Ids of label sets, made where they are new; stable until the series has lost its last sample. Errors: `Input`
    /// for an empty label set, `Limit` for one that is too large, `Cardinality` for one that a limit on series refuses.
    /// Also says how many series are new. The id of a series that is folded holds while it sends.
    pub fn register(&self, labels: &[Labels]) -> Result<(Vec<u64>, u64)> {
        self.register_each(labels, |refusal| Err(self.refused(refusal)))
    }

    /// As `register`, but a series that a limit refuses has an id, too: samples for it are rejected in the report.
    pub fn register_or_refuse(&self, labels: &[Labels]) -> Result<(Vec<u64>, u64)> {
        self.register_each(labels, |refusal| match refusal.reason {
            Reason::CardinalityLimit => Ok(refused(refusal.rule)),
            _ => Err(self.refused(refusal)),
        })
    }

    fn register_each(
        &self,
        labels: &[Labels],
        or: impl Fn(Refusal) -> Result<u64>,
    ) -> Result<(Vec<u64>, u64)> {
        for set in labels {
            crate::resolve::check_limits(set.as_ref()).map_err(Refusal::into_error)?;
        }
        let mut created = 0;
        let ids: Result<Vec<u64>> = self.with_scratch(|scratch| {
            labels
                .iter()
                .map(|set| {
                    let found = match self.find_or_make(set.as_ref(), &mut scratch.last) {
                        Ok(found) => found,
                        Err(refusal) => return or(refusal),
                    };
                    created += u64::from(found.is_made());
                    Ok(found.id())
                })
                .collect()
        });
        self.settle(created);
        self.relieve();
        Ok((ids?, created))
    }

    /// Appends columns of samples in any order. Unknown ids are rejected in the report. Errors: `Input`
    /// when the columns differ in length; nothing is written then.
    pub fn append_columns(&self, columns: Columns<'_>) -> Result<WriteReport> {
        let Columns { ids, timestamps, values } = columns;
        if ids.len() != timestamps.len() || ids.len() != values.len() {
            let lengths = format!("{}, {}, {}", ids.len(), timestamps.len(), values.len());
            return Err(Error::input(
                "columns",
                &lengths,
                "ids, timestamps and values differ in length",
                "give columns of one length",
            ));
        }
        let mut report = WriteReport::default();
        let (columns, starts, all) = ((ids, timestamps), &[][..], &mut report);
        match values {
            Values::Float(v) => {
                self.append_kind((columns, v), |v| v.to_bits(), starts, ValueKind::Float, all)
            }
            Values::Int(v) => self.append_kind((columns, v), |&v| v as u64, starts, ValueKind::Int, all),
            Values::Uint(v) => self.append_kind((columns, v), |&v| v, starts, ValueKind::Uint, all),
        }
        report.not_durable = self.committed();
        Ok(report)
    }

    /// Appends ids, times and values of one kind, with the 64 bits that each value is kept as; `starts` is as long, or empty.
    pub(crate) fn append_kind<T>(
        &self,
        ((ids, times), values): ((&[u64], &[i64]), &[T]),
        bits: impl Fn(&T) -> u64 + Copy,
        starts: &[i64],
        kind: ValueKind,
        report: &mut WriteReport,
    ) {
        self.with_scratch(|scratch| {
            for from in (0..ids.len()).step_by(BATCH_SAMPLES) {
                let block = from..ids.len().min(from + BATCH_SAMPLES);
                let rows = ids[block.clone()]
                    .iter()
                    .zip(&times[block.clone()])
                    .zip(values[block.clone()].iter().map(bits));
                self.append_block(rows, starts.get(block).unwrap_or(&[]), kind, scratch, report);
            }
            self.fold(&mut scratch.folded, report);
        });
    }

    /// Type, help and unit of every metric, or of one; sorted by metric.
    pub fn metadata(&self, metric: Option<&str>) -> Vec<Metadata> {
        self.metadata.get(metric)
    }

    /// The type that the family of a metric declared; of `x_total` also that of `x`.
    pub fn kind_of(&self, metric: &str) -> Option<MetricType> {
        self.metadata.kind_of(metric)
    }

    /// What makes the store large; each list is cut to `limit` entries.
    pub fn cardinality(&self, limit: usize) -> Cardinality {
        self.index.cardinality(limit)
    }

    /// The lowest time (ms) of all samples that were written or changed since this was last asked, `i64::MAX` for
    /// none and `i64::MIN` where any may have changed. For one asker: what it was told is told to nobody else.
    pub fn take_lowest_written(&self) -> i64 {
        self.written.take()
    }

    pub fn series_count(&self) -> usize {
        self.series_count.load(Relaxed)
    }

    /// To be held by a call that keeps ids of series between two holds of a lock.
    pub(crate) fn inside(&self) -> Inside<'_> {
        self.epochs.enter()
    }

    /// An id as callers get it: with the generation of its row, so that it never means a later series.
    pub(crate) fn public(&self, id: u32) -> u64 {
        let (number, row) = place_of(id);
        self.shard(number).public_id(row)
    }

    pub(crate) fn with_scratch<T>(&self, f: impl FnOnce(&mut Scratch) -> T) -> T {
        let _inside = self.inside();
        let mut scratch = self.scratch.lock().pop().unwrap_or_default();
        let out = f(&mut scratch);
        self.scratch.lock().push(scratch);
        out
    }

    /// The label values that are new find their place in the order: work of those who made series, so that nobody else
    /// waits for it. To be called without a lock.
    fn settle(&self, created: u64) {
        if created > 0 {
            self.index.settle();
        }
    }

    fn write_batch(&self, batch: &Batch<'_>, scratch: &mut Scratch) -> WriteReport {
        let mut report = batch.report.clone();
        self.learn(&batch.metadata);
        let mut ids = std::mem::take(&mut scratch.ids);
        self.resolve(batch, &mut ids, scratch, &mut report);
        let mut from = 0;
        while from < ids.len() {
            let mut samples = 0;
            let mut end = from;
            while end < ids.len() && (samples < BATCH_SAMPLES || end == from) {
                samples += batch.series[end].samples.len();
                end += 1;
            }
            let known = (from..end).filter(|&i| ids[i] != NO_SERIES);
            let rows = known.clone().flat_map(|i| {
                let s = &batch.series[i].samples;
                let range = s.start as usize..s.end as usize;
                let times = batch.timestamps.get(range.clone()).unwrap_or(&[]);
                let values = batch.values.get(range).unwrap_or(&[]);
                let id = ids[i];
                times.iter().zip(values).map(move |(t, v)| ((id, t), v.to_bits()))
            });
            let starts: Vec<i64> = match batch.starts.len() == batch.timestamps.len() {
                true => known.flat_map(|i| starts_of(batch, i)).copied().collect(),
                false => Vec::new(),
            };
            self.append_block(rows, &starts, ValueKind::Float, scratch, &mut report);
            from = end;
        }
        self.write_histograms(batch, &ids, &mut report);
        for &(at, id) in &scratch.folded_ids {
            let range = &batch.series[at as usize].samples;
            let range = range.start as usize..range.end as usize;
            let times = batch.timestamps.get(range.clone()).unwrap_or(&[]);
            let values = batch.values.get(range).unwrap_or(&[]);
            let sample = |(&time, &value): (&i64, &f64)| FoldedSample { id, time, value };
            scratch.folded.extend(times.iter().zip(values).map(sample));
        }
        self.fold(&mut scratch.folded, &mut report);
        scratch.ids = ids;
        self.settle(report.series_created);
        report.not_durable = self.committed();
        report
    }

    /// Takes what families say of themselves.
    pub(crate) fn learn(&self, families: &[Metadata]) {
        if !self.admits_series() {
            return;
        }
        let retyped = match self.journal() {
            Some(journal) if !families.is_empty() => {
                let news = self.metadata.news(families);
                if news.is_empty() {
                    return;
                }
                let _order = journal.metadata(news.into_iter());
                self.metadata.learn(families)
            }
            _ => self.metadata.learn(families),
        };
        self.recount(&retyped);
    }

    /// The histograms of a batch whose series are found.
    fn write_histograms(&self, batch: &Batch<'_>, ids: &[u32], report: &mut WriteReport) {
        let known = |h: &&BatchHistogram| ids.get(h.series as usize).is_some_and(|&id| id != NO_SERIES);
        let points: Vec<HistogramPoint<'_>> = batch
            .histograms
            .iter()
            .filter(known)
            .map(|h| HistogramPoint {
                id: ids[h.series as usize],
                generation: ANY_GENERATION,
                time: h.timestamp,
                start: h.start,
                histogram: &h.histogram,
            })
            .collect();
        self.append_histogram_points(points, report);
    }

    /// Fills `ids` with the id of each series; those refused are counted with all their samples.
    fn resolve(
        &self,
        batch: &Batch<'_>,
        ids: &mut Vec<u32>,
        scratch: &mut Scratch,
        report: &mut WriteReport,
    ) {
        let extra = &batch.extra;
        let hasher =
            RawHasher::new(self.raw_hash_key, batch.dialect, extra.labels.as_ref().canonical(), extra.honor);
        let samples = batch.timestamps.len().min(batch.values.len());
        scratch.hashes.clear();
        scratch.hashes.extend(batch.series.iter().map(|s| hasher.hash(&s.raw)));
        self.raw.get_all(&scratch.hashes, ids, &mut scratch.order);
        scratch.folded_ids.clear();
        for (i, series) in batch.series.iter().enumerate() {
            let found = if series.samples.end as usize > samples {
                Err(Refusal::malformed("the series points past the batch's samples"))
            } else if ids[i] == NO_SERIES {
                self.parse_and_make(batch, &series.raw, scratch.hashes[i], scratch, report)
            } else {
                continue;
            };
            let histograms = batch.histograms_of(i).len() as u64;
            ids[i] = match found {
                Ok(Found::Series { id, .. }) => id as u32,
                Ok(Found::Folded(id)) => {
                    scratch.folded_ids.push((i as u32, id));
                    report.reject(Reason::CardinalityLimit, histograms, || {
                        "native histograms of a folded series are not added up".to_owned()
                    });
                    NO_SERIES
                }
                Err(refusal) => {
                    let lost = series.samples.len() as u64 + histograms;
                    match refusal.reason {
                        Reason::MemoryLimit => report.refuse(Step::NewSeries, lost, || refusal.message),
                        reason => report.reject(reason, lost, || refusal.message),
                    }
                    NO_SERIES
                }
            };
        }
    }

    /// Sorts samples by shard and appends them, each shard locked once. `row_starts` is as long as `rows`, or
    /// empty.
    fn append_block<'a, I: Copy + IntoId + 'a>(
        &self,
        rows: impl Iterator<Item = ((I, &'a i64), u64)> + Clone,
        row_starts: &[i64],
        kind: ValueKind,
        scratch: &mut Scratch,
        report: &mut WriteReport,
    ) {
        let Scratch { staged, staged_starts, work, folded, .. } = scratch;
        let mut starts = [0usize; SHARDS + 1];
        let mut left_out = 0;
        for ((id, &time), bits) in rows.clone() {
            match id.known() {
                Some(id) => starts[place_of(id).0 + 1] += 1,
                None => {
                    left_out += 1;
                    let value = kind.widen(bits);
                    self.take_elsewhere(FoldedSample { id: id.id(), time, value }, folded, report);
                }
            }
        }
        let low = self.refused_low(starts.iter().sum());
        let known = |id: I| id.known().filter(|id| low.as_ref().is_none_or(|low| !low.contains(*id)));
        if low.is_some() {
            let all = rows.clone().filter_map(|((id, _), _)| id.known().filter(|_| known(id).is_none()));
            let refused = all.map(|id| starts[place_of(id).0 + 1] -= 1).count();
            self.refuse_low(refused as u64, report);
            left_out += refused;
        }
        for i in 0..SHARDS {
            starts[i + 1] += starts[i];
        }
        let total = starts[SHARDS];
        if total == 0 || !self.admit_samples(total, report) {
            return;
        }
        if staged.len() < total {
            staged.resize(total, Staged { row: 0, generation: 0, time: 0, bits: 0 });
        }
        stage_starts(rows.clone().map(|((id, _), _)| known(id)), row_starts, starts, staged_starts);
        let (mut next, mut lowest) = (starts, i64::MAX);
        for ((id, &time), bits) in rows {
            if left_out > 0 && known(id).is_none() {
                continue;
            }
            let (shard, row) = place_of(id.id() as u32);
            staged[next[shard]] = Staged { row, generation: id.generation(), time, bits };
            next[shard] += 1;
            lowest = lowest.min(time);
        }
        let staged_starts = if row_starts.is_empty() { &[] } else { &staged_starts[..] };
        self.append_staged(&starts, (staged, staged_starts), kind, work, report);
        self.written.note(lowest);
    }

    /// Appends samples sorted by shard: those of shard `s` from `starts[s]` to before `starts[s + 1]`, with when their
    /// counters began, or without.
    fn append_staged(
        &self,
        starts: &[usize; SHARDS + 1],
        (staged, staged_starts): (&[Staged], &[i64]),
        kind: ValueKind,
        work: &mut Work,
        report: &mut WriteReport,
    ) {
        let total = starts[SHARDS];
        self.appended.fetch_add(total as u64, Relaxed);
        let append = |shard: usize, work: &mut Work, report: &mut WriteReport| {
            let of_shard = starts[shard]..starts[shard + 1];
            let since = staged_starts.get(of_shard.clone()).unwrap_or(&[]);
            self.append_to(shard, &staged[of_shard], since, kind, work, report);
        };
        if total < PARALLEL_SAMPLES || rayon::current_num_threads() == 1 {
            return (0..SHARDS).for_each(|shard| append(shard, work, report));
        }
        let reports: Vec<WriteReport> = (0..SHARDS)
            .into_par_iter()
            .with_min_len(SHARDS / 16)
            .map_init(Work::default, |work, shard| {
                let mut report = WriteReport::default();
                append(shard, work, &mut report);
                report
            })
            .collect();
        reports.into_iter().for_each(|r| report.merge(r));
    }

    /// Takes a sample whose id is that of no series.
    #[cold]
    fn take_elsewhere(&self, sample: FoldedSample, folded: &mut Vec<FoldedSample>, report: &mut WriteReport) {
        let id = sample.id;
        match refused_rule(id) {
            _ if is_source(id) => folded.push(sample),
            Some(rule) => report.reject(Reason::CardinalityLimit, 1, || self.refused_by(rule)),
            None => report.reject(Reason::UnknownSeries, 1, || format!("no series has the id {id}")),
        }
    }

    pub(crate) fn count_appended(&self, samples: usize) {
        self.appended.fetch_add(samples as u64, Relaxed);
    }

    /// Appends samples to one shard, behind their record in the journal.
    fn append_to(
        &self,
        shard: usize,
        samples: &[Staged],
        since: &[i64],
        kind: ValueKind,
        work: &mut Work,
        report: &mut WriteReport,
    ) {
        if samples.is_empty() {
            return;
        }
        let mut locked = self.shard(shard);
        if let Some(journal) = &self.journal {
            journal.samples(&mut locked, samples, since, kind);
        }
        if let Err(error) = locked.append(samples, since, kind, &self.rules, work, report) {
            report.reject(Reason::Malformed, samples.len() as u64, || error.to_string());
        }
        drop(locked);
        self.relieve();
    }
}

/// The starts of one series of a batch.
fn starts_of<'a>(batch: &'a Batch<'_>, series: usize) -> &'a [i64] {
    let samples = &batch.series[series].samples;
    batch.starts.get(samples.start as usize..samples.end as usize).unwrap_or(&[])
}

/// Sorts starts by shard as their samples are: those of shard `s` go to `firsts[s]..firsts[s + 1]`. Those of samples that are
/// not taken have no id.
fn stage_starts(
    ids: impl Iterator<Item = Option<u32>>,
    starts: &[i64],
    mut firsts: [usize; SHARDS + 1],
    staged: &mut Vec<i64>,
) {
    if starts.is_empty() {
        return;
    }
    staged.resize(firsts[SHARDS].max(staged.len()), 0);
    for (id, &start) in ids.zip(starts) {
        let Some((shard, _)) = id.map(place_of) else { continue };
        staged[firsts[shard]] = start;
        firsts[shard] += 1;
    }
}

/// What samples are addressed by: the 64 bits of callers, borrowed from their column, or an id that this call found.
pub(crate) trait IntoId: Sized + Copy {
    fn id(self) -> u64;

    /// Of the row; any where this call found the id.
    fn generation(self) -> u16;

    fn known(self) -> Option<u32> {
        let id = self.id() as u32;
        (self.id() >> 32 < u64::from(ANY_GENERATION) && id != NO_SERIES).then_some(id)
    }
}

pub(crate) fn unknown_id(id: u64) -> Error {
    Error::input("series", &id.to_string(), "no series has this id", "use ids of this database")
}

impl IntoId for u32 {
    fn id(self) -> u64 {
        u64::from(self)
    }

    fn generation(self) -> u16 {
        ANY_GENERATION
    }
}

impl IntoId for &u64 {
    fn id(self) -> u64 {
        *self
    }

    fn generation(self) -> u16 {
        (*self >> 32) as u16
    }
}

#[cfg(test)]
mod tests;
