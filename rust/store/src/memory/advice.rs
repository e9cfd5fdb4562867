//! What could be saved, computed and not guessed: a label that is dropped is dropped in a trial.
//!
//! Which label sets become one follows from hashes of their symbols. What that saves is measured: a sample of
//! the groups is written twice into stores that are thrown away, with the label and without it.

use std::collections::HashMap;

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Budget, Columns, Labels, Result, ValueKind, Values};

use crate::database::{Database, Options};
use crate::index::LabelBytes;
use crate::series::SeriesTable;
use crate::shard::{SHARDS, Shard, Work, id_of, place_of};

/// Series and samples of one trial, at most: some 100 ms a label.
const TRIAL_SERIES: usize = 20_000;
const TRIAL_SAMPLES: usize = 500_000;

/// What dropping one label would do.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelEffect {
    pub name: String,
    pub values: usize,
    /// Series that have the label.
    pub series: u64,
    /// Series of the whole store, now and without the label.
    pub series_now: u64,
    pub series_left: u64,
    pub bytes_saved: f64,
}

/// What the samples of a metric are like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricFacts {
    pub name: String,
    pub series: u64,
    pub samples: u64,
    /// Rows, label sets and samples, and the metric's part of postings and label hashes.
    pub bytes: usize,
    /// Series whose samples all have one value.
    pub constant: u64,
    /// The first metric, by name, of which every series is repeated here: same samples, same other labels.
    pub copy_of: Option<String>,
}

/// Samples of one series, or of several that became one.
#[derive(Default)]
struct Samples {
    rows: Vec<(i64, u64, ValueKind)>,
}

impl Samples {
    /// In time order; of two samples at one time the later one stays.
    fn merge(&mut self) {
        self.rows.sort_by_key(|r| r.0);
        self.rows.reverse();
        self.rows.dedup_by_key(|r| r.0);
        self.rows.reverse();
    }
}

/// A store of a trial, and the samples that it gets at the end in the order of their times, as senders write.
struct Store {
    store: Database,
    /// Time, id and bits, by kind.
    rows: [Vec<(i64, u64, u64)>; ValueKind::ALL.len()],
}

impl Store {
    fn new() -> Store {
        Store { store: Database::new(Options::default()), rows: Default::default() }
    }

    fn add(&mut self, labels: Labels, samples: &Samples) -> Result<()> {
        let (ids, _) = self.store.register(&[labels])?;
        for &id in &ids {
            for &(time, bits, kind) in &samples.rows {
                self.rows[kind as usize].push((time, id, bits));
            }
        }
        Ok(())
    }

    /// Bytes that the series take once all is written: those that grow with their number, and those that stand
    /// in half-empty pages, of which a shard has about as many whatever its series are; and the columns.
    fn bytes(mut self) -> Result<(f64, f64, f64)> {
        self.write()?;
        let empty = Database::new(Options::default()).memory();
        let (mut growing, mut pages, mut columns) = (0, 0, 0);
        for (part, before) in self.store.memory().iter().zip(empty) {
            match part.name {
                "write buffers" => {}
                "series columns" => columns += part.bytes,
                "open chunks: free slabs and pages" => pages += part.bytes,
                _ => growing += part.bytes.saturating_sub(before.bytes),
            }
        }
        Ok((growing as f64, pages as f64, columns as f64))
    }

    fn write(&mut self) -> Result<()> {
        for (rows, kind) in self.rows.iter_mut().zip(ValueKind::ALL) {
            rows.sort_unstable();
            let ids: Vec<u64> = rows.iter().map(|r| r.1).collect();
            let timestamps: Vec<i64> = rows.iter().map(|r| r.0).collect();
            let (floats, integers, naturals): (Vec<f64>, Vec<i64>, Vec<u64>);
            let values = match kind {
                ValueKind::Float => {
                    floats = rows.iter().map(|r| f64::from_bits(r.2)).collect();
                    Values::Float(&floats)
                }
                ValueKind::Int => {
                    integers = rows.iter().map(|r| r.2 as i64).collect();
                    Values::Int(&integers)
                }
                ValueKind::Uint => {
                    naturals = rows.iter().map(|r| r.2).collect();
                    Values::Uint(&naturals)
                }
            };
            self.store.append_columns(Columns { ids: &ids, timestamps: &timestamps, values })?;
        }
        Ok(())
    }
}

/// Two stores, with a label and without it, and what was written to them.
struct Trial {
    with: Store,
    without: Store,
    series: usize,
    groups: usize,
    samples: usize,
    /// Samples that stay when groups become one: in the trial, and, where a group was too long to be taken whole,
    /// as they would be.
    kept: f64,
    kept_whole: f64,
}

impl Trial {
    fn new() -> Trial {
        Trial {
            with: Store::new(),
            without: Store::new(),
            series: 0,
            groups: 0,
            samples: 0,
            kept: 0.0,
            kept_whole: 0.0,
        }
    }

    fn is_full(&self) -> bool {
        self.series >= TRIAL_SERIES || self.samples >= TRIAL_SAMPLES
    }

    /// Writes one group: as its series are, and as the one that they become.
    fn add(&mut self, store: &Database, members: &[(u64, u32)], dropped: &str) -> Result<()> {
        let lengths = members.iter().map(|&(_, id)| store.samples_of(id)).sum::<usize>();
        let room = (TRIAL_SAMPLES * members.len() / lengths.max(1)).clamp(2, TRIAL_SERIES);
        let step = members.len().div_ceil(room);
        let taken: Vec<u32> = members.iter().step_by(step).map(|m| m.1).collect();
        let (mut all, mut half) = (Samples::default(), 0);
        let mut kept_labels = None;
        for (i, &id) in taken.iter().enumerate() {
            let (labels, samples) = store.series_of(id)?;
            let left = labels.iter().filter(|(name, _)| *name != dropped);
            let left = Labels::from_pairs(left.collect::<Vec<_>>());
            let Ok(left) = left else { return Ok(()) };
            if left.is_empty() {
                return Ok(());
            }
            kept_labels = Some(left);
            self.with.add(labels, &samples)?;
            self.samples += samples.rows.len();
            all.rows.extend(samples.rows);
            if i + 1 == taken.len().div_ceil(2) {
                all.merge();
                half = all.rows.len();
            }
        }
        let Some(labels) = kept_labels else { return Ok(()) };
        all.merge();
        self.without.add(labels, &all)?;
        let kept = all.rows.len() as f64;
        // As the second half of those taken added samples, so would those not taken.
        let each = (kept - half as f64) / (taken.len() / 2).max(1) as f64;
        self.kept += kept;
        self.kept_whole += kept + each * (members.len() - taken.len()) as f64;
        self.series += taken.len();
        self.groups += 1;
        Ok(())
    }
}

impl Database {
    /// What dropping each label would save, but for the metric name. Hashes each label set once a label, and
    /// writes a trial: some 0.3 s a label for a million series. Errors: the budget's, `Corruption`.
    pub fn label_effects(&self, budget: &Budget) -> Result<Vec<LabelEffect>> {
        let mut effects = Vec::new();
        for label in self.index.bytes_by_label() {
            budget.check()?;
            if &*self.symbols.get(label.name) != METRIC_NAME {
                effects.push(self.label_effect(&label, budget)?);
            }
        }
        Ok(effects)
    }

    fn label_effect(&self, label: &LabelBytes, budget: &Budget) -> Result<LabelEffect> {
        let name = self.symbols.get(label.name).to_owned();
        let mut sets = self.sets_without(label.name);
        sets.sort_unstable();
        let same = |a: &(u64, u32), b: &(u64, u32)| a.0 == b.0;
        let left = sets.chunk_by(same).count();
        let mut trial = Trial::new();
        for group in sets.chunk_by(same) {
            if trial.is_full() {
                break;
            }
            budget.check()?;
            trial.add(self, group, &name)?;
        }
        let scale = |all: usize, part: usize| if part == 0 { 0.0 } else { all as f64 / part as f64 };
        let longer = if trial.kept > 0.0 { trial.kept_whole / trial.kept } else { 1.0 };
        // Columns grow in steps of 128 rows a shard: a sample can't be scaled, but they are easily made.
        let whole = trial.series == sets.len();
        let (with, with_pages, with_columns) = trial.with.bytes()?;
        let (without, without_pages, without_columns) = trial.without.bytes()?;
        let columns = match whole {
            true => with_columns - without_columns,
            false => {
                let groups = sets.chunk_by(same).filter_map(|group| group.first());
                columns_of(sets.iter().map(|s| u64::from(s.1) << 56)) - columns_of(groups.map(|s| s.0))
            }
        };
        let with = with * scale(sets.len(), trial.series) + with_pages;
        let without = without * scale(left, trial.groups) * longer + without_pages;
        let hashes = self.raw.size().1 as f64 * (1.0 - scale(left, sets.len()));
        Ok(LabelEffect {
            name,
            values: label.values,
            series: label.series,
            series_now: sets.len() as u64,
            series_left: left as u64,
            bytes_saved: with - without + columns + hashes,
        })
    }

    /// Per series a hash of its label set without one label, and its id.
    fn sets_without(&self, name: u32) -> Vec<(u64, u32)> {
        let mut sets = Vec::with_capacity(self.series_count());
        for number in 0..SHARDS {
            let shard = self.shard(number);
            for row in shard.series.rows() {
                sets.push((self.hash_without(&shard, row, name), id_of(shard.number, row)));
            }
        }
        sets
    }

    fn hash_without(&self, shard: &Shard, row: u32, name: u32) -> u64 {
        let pairs = shard.label_sets.pairs(&self.shapes, shard.series.labels[row]);
        // Hashed once more: sums over neighbouring symbols are spread too evenly for chance.
        let hash = crate::group::hash_pairs(pairs.filter(|p| p.0 != name));
        xxhash_rust::xxh3::xxh3_64(&hash.to_le_bytes())
    }

    fn samples_of(&self, id: u32) -> usize {
        let (number, row) = place_of(id);
        let shard = self.shard(number);
        let sealed: usize = shard.series.sealed[row].iter().map(|chunk| chunk.count()).sum();
        let head = &shard.series.heads[row];
        sealed + if head.is_open() { head.state.count() } else { 0 }
    }

    fn series_of(&self, id: u32) -> Result<(Labels, Samples)> {
        let (number, row) = place_of(id);
        let shard = self.shard(number);
        let mut samples = Samples::default();
        let mut work = Work::default();
        let mut add = |kind: ValueKind, work: &Work| {
            samples.rows.extend(work.times.iter().zip(&work.bits).map(|(&t, &b)| (t, b, kind)));
        };
        for chunk in shard.series.sealed[row].iter() {
            work.times.clear();
            work.bits.clear();
            chunk.decode_into(&mut work.times, &mut work.bits)?;
            add(chunk.kind(), &work);
        }
        let head = &shard.series.heads[row];
        if head.is_open() {
            shard.decode_open(&head.state, shard.open_bytes(head), &mut work)?;
            add(head.state.kind(), &work);
        }
        Ok((self.labels_of(&shard, row, &mut Vec::new()), samples))
    }

    /// Per metric, whether its series ever change and whether another metric says the same. Decodes every open
    /// chunk once. Errors: the budget's, `Corruption`.
    pub fn metric_facts(&self, budget: &Budget) -> Result<Vec<MetricFacts>> {
        let Some(metric) = self.symbols.lookup(METRIC_NAME) else { return Ok(Vec::new()) };
        let mut facts: HashMap<u32, MetricFacts> = HashMap::new();
        // Label set without the name, and samples: the metrics that have them.
        let mut same: HashMap<(u64, u64), Vec<u32>> = HashMap::new();
        let mut work = Work::default();
        let mut failed = Ok(());
        self.each_shard(|shard, held, _| {
            let mut look = || -> Result<()> {
                budget.check()?;
                for (row, h) in (0u32..).zip(held).filter(|(row, _)| shard.series.has(*row)) {
                    let labels = shard.series.labels[row];
                    let Some(name) = shard.label_sets.value(&self.shapes, labels, metric) else { continue };
                    let found = facts.entry(name).or_default();
                    found.series += 1;
                    found.samples += h.samples;
                    found.bytes += h.bytes();
                    match fingerprint(shard, row, &mut work)? {
                        Some(samples) => {
                            let key = (self.hash_without(shard, row, metric), samples);
                            same.entry(key).or_default().push(name);
                        }
                        None => found.constant += 1,
                    }
                }
                Ok(())
            };
            if failed.is_ok() {
                failed = look();
            }
        });
        failed?;
        let common = self.common();
        let shared = common.index_bytes() + common.raw;
        let all = self.series_count().max(1);
        let mut out: Vec<(u32, MetricFacts)> = facts.into_iter().collect();
        for (name, found) in &mut out {
            found.name = self.symbols.get(*name).to_owned();
            found.bytes += (shared as u128 * found.series as u128 / all as u128) as usize;
        }
        out.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        note_copies(&mut out, same);
        Ok(out.into_iter().map(|(_, found)| found).collect())
    }
}

/// Bytes of the columns of these series, given by hashes that spread them over the shards.
fn columns_of(hashes: impl Iterator<Item = u64>) -> f64 {
    let mut rows = [0u32; SHARDS];
    hashes.for_each(|hash| rows[(hash >> 56) as usize] += 1);
    let mut known: HashMap<u32, usize> = HashMap::new();
    let of = |rows: u32| {
        let mut table = SeriesTable::default();
        for row in 0..rows {
            table.put(row, row.into(), 0);
        }
        table.bytes()
    };
    rows.iter().map(|&rows| *known.entry(rows).or_insert_with(|| of(rows))).sum::<usize>() as f64
}

/// Sets `copy_of` where each series of a metric, one that changes at least, has its like in one earlier by name.
fn note_copies(metrics: &mut [(u32, MetricFacts)], same: HashMap<(u64, u64), Vec<u32>>) {
    let rank: HashMap<u32, usize> = metrics.iter().enumerate().map(|(i, m)| (m.0, i)).collect();
    let mut pairs: HashMap<(usize, usize), u64> = HashMap::new();
    for names in same.into_values().filter(|names| names.len() > 1) {
        let mut ranks: Vec<usize> = names.iter().filter_map(|name| rank.get(name).copied()).collect();
        ranks.sort_unstable();
        if let Some((&first, others)) = ranks.split_first() {
            others.iter().for_each(|&other| *pairs.entry((other, first)).or_default() += 1);
        }
    }
    for ((other, first), series) in pairs {
        let original = metrics.get(first).map(|m| m.1.name.clone());
        if let Some((_, copy)) = metrics.get_mut(other)
            && series == copy.series
        {
            copy.copy_of = original;
        }
    }
}

/// A hash of the samples of a series; `None` where it never changes. Series that were written alike are stored
/// alike, so that sealed chunks need no decoding.
fn fingerprint(shard: &Shard, row: u32, work: &mut Work) -> Result<Option<u64>> {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    let mut only: Option<u64> = None;
    // Histograms and starts are not compared: a series that has some is like no other.
    let mut changes = shard.histograms.get(row).is_some() || shard.starts.get(row).is_some();
    if changes {
        hasher.update(&id_of(shard.number, row).to_le_bytes());
    }
    let mut note = |bits: Option<u64>| {
        changes |= bits.is_none() || only.is_some_and(|only| Some(only) != bits);
        only = only.or(bits);
    };
    for chunk in shard.series.sealed[row].iter() {
        for block in chunk.blocks()? {
            note(block?.section()?.constant());
        }
        hasher.update(&chunk.to_bytes());
    }
    let head = &shard.series.heads[row];
    if head.is_open() {
        shard.decode_open(&head.state, shard.open_bytes(head), work)?;
        work.bits.iter().for_each(|&bits| note(Some(bits)));
        work.times.iter().for_each(|time| hasher.update(&time.to_le_bytes()));
        work.bits.iter().for_each(|bits| hasher.update(&bits.to_le_bytes()));
    }
    Ok(changes.then(|| hasher.digest()))
}
