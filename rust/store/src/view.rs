//! What a query sees: series ids from the index, their sealed chunks shared, their open chunks copied
//! under a short lock of each shard. Decoding takes no lock. As long as it is, since `SeriesSet` has so many methods.

use metricsdb_model::source::{Groups, Quantiles, Stood, StoodHistograms};
use metricsdb_model::{
    Bound, Budget, Error, Freed, Grouping, Histogram, HistogramSamples, Labels, LabelsRef, Predicate, Result,
    Samples, SeriesSet, Source, Summary, TimeRange, ValueKind, Wants,
};
use std::sync::Arc;

use hashbrown::HashMap;
use rayon::prelude::*;
use roaring::RoaringBitmap;

use crate::chunk::Folded;
use crate::codec::{self, OpenState};
use crate::database::{Database, IntoId, unknown_id};
use crate::epoch::Inside;
use crate::histograms::HistogramSeries;
use crate::rollup::states::State;
use crate::rollup::{Elsewhere, Packed, Record, RolledSeries};
use crate::sealed::Sealed;
use crate::shard::{SHARDS, Shard, id_of, place_of};
use crate::starts::StartSeries;

/// Selections of fewer series are captured by the caller's thread alone.
const PARALLEL_SERIES: usize = 1 << 14;
/// Series whose places are read ahead together.
const ROWS_AHEAD: usize = 16;
/// Series that `read_many` decodes at once, before it copies them out.
const READ_BLOCK: usize = 4096;

/// A run of values of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub kind: ValueKind,
    pub len: usize,
}

/// Samples of many series as compressed rows: row `i` stands at `offsets[i]..offsets[i + 1]`.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    pub offsets: Vec<usize>,
    pub timestamps: Vec<i64>,
    pub values: Vec<f64>,
}

/// Chosen series as they were at one moment.
pub struct View<'a> {
    pub(crate) store: &'a Database,
    series: Vec<Captured>,
    /// The last ones are no series of the store: their labels.
    foreign: Vec<Labels>,
    /// The open chunks' bytes, one after the other.
    open: Vec<u8>,
    /// Of those series that have histograms in the range, by their index.
    histograms: Vec<(usize, HistogramSeries)>,
    /// Of the call that selected: reads of long series ask it too.
    budget: Budget,
    /// Labels are read later, by id.
    _inside: Inside<'a>,
}

/// A record is read in the time of as many samples.
const SAMPLES_A_RECORD: u64 = 12;

impl Drop for View<'_> {
    fn drop(&mut self) {
        drop(Freed(std::mem::take(&mut self.series)));
        drop(Freed(std::mem::take(&mut self.histograms)));
    }
}

pub(crate) struct Captured {
    id: u32,
    /// `state` counts no sample where the open chunk is outside of the range.
    state: OpenState,
    open: std::ops::Range<usize>,
    sealed: Sealed,
    starts: Option<Box<StartSeries>>,
    /// Where records stand for samples of the range.
    rolled: Option<Arc<RolledSeries>>,
    /// Records that may say the same as samples, in less time.
    levels: Option<Arc<Packed>>,
}

/// Rows by shard: those of shard `s` are `rows[starts[s]..starts[s + 1]]`.
pub(crate) struct ByShard {
    pub starts: [usize; SHARDS + 1],
    pub rows: Vec<u32>,
}

impl ByShard {
    pub fn new(ids: &RoaringBitmap, budget: &Budget) -> Result<ByShard> {
        budget.keep(ids.len() as usize * size_of::<u32>() * 2)?;
        let mut starts = [0; SHARDS + 1];
        for (i, id) in ids.iter().enumerate() {
            budget.check_at(i)?;
            starts[place_of(id).0 + 1] += 1;
        }
        for i in 0..SHARDS {
            starts[i + 1] += starts[i];
        }
        let mut next = starts;
        let mut rows = vec![0; starts[SHARDS]];
        for (i, id) in ids.iter().enumerate() {
            budget.check_at(i)?;
            let (shard, row) = place_of(id);
            rows[next[shard]] = row;
            next[shard] += 1;
        }
        Ok(ByShard { starts, rows })
    }

    pub fn rows(&self, shard: usize) -> &[u32] {
        &self.rows[self.starts[shard]..self.starts[shard + 1]]
    }

    /// Visits the shards that have rows, each under its lock, in order.
    pub fn each(
        &self,
        store: &Database,
        budget: &Budget,
        mut visit: impl FnMut(&Shard, &[u32]) -> Result<()>,
    ) -> Result<()> {
        for number in (0..SHARDS).filter(|&number| !self.rows(number).is_empty()) {
            budget.check()?;
            visit(&store.shard(number), self.rows(number))?;
        }
        Ok(())
    }

    /// Takes something from the rows of each shard under its lock, in parallel where they are many, and appends it
    /// to `all` in the order of the shards.
    pub fn take<T: Taken>(
        &self,
        store: &Database,
        budget: &Budget,
        take: impl Fn(&mut T, &Shard, &[u32]) + Sync,
        all: &mut T,
    ) -> Result<()> {
        let take = |part: &mut T, number: usize| -> Result<usize> {
            let (rows, before) = (self.rows(number), part.bytes());
            if !rows.is_empty() {
                budget.check()?;
                take(part, &store.shard(number), rows);
            }
            Ok(part.bytes().saturating_sub(before))
        };
        if self.rows.len() < PARALLEL_SERIES {
            return (0..SHARDS).try_for_each(|number| budget.keep(take(all, number)?));
        }
        let part = |number| {
            let mut part = T::default();
            budget.hold(take(&mut part, number)?)?;
            Ok(part)
        };
        let parts: Vec<T> = (0..SHARDS).into_par_iter().map(part).collect::<Result<_>>()?;
        let before = all.bytes();
        all.reserve(&parts);
        let roomy = all.bytes();
        budget.keep(roomy.saturating_sub(before))?;
        for part in parts {
            budget.check()?;
            let bytes = part.bytes();
            all.append(part);
            budget.release(bytes);
        }
        budget.keep(all.bytes().saturating_sub(roomy))
    }
}

/// What is taken from shards.
pub(crate) trait Taken: Default + Send {
    /// Bytes in memory, spare capacity included.
    fn bytes(&self) -> usize;
    /// Makes room for all of these.
    fn reserve(&mut self, parts: &[Self]);
    fn append(&mut self, other: Self);
}

/// What was taken from one shard, or from all.
#[derive(Default)]
pub(crate) struct Part {
    series: Vec<Captured>,
    open: Vec<u8>,
    histograms: Vec<(usize, HistogramSeries)>,
    /// Bytes of histograms and start timestamps.
    beside: usize,
}

/// What of a series is captured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kinds {
    Numbers,
    NumbersAndHistograms,
    /// Also series whose records lie outside of the range: `View::choose` decides which of them stand.
    WithRecords,
}

impl Part {
    pub fn capture(&mut self, shard: &Shard, row: u32, range: TimeRange, kinds: Kinds) {
        let found = if kinds == Kinds::Numbers { None } else { shard.histograms.get(row) };
        let found = found.filter(|h| h.span().is_some_and(|span| span.overlaps(range)));
        // Whether the first histogram goes on from one before the range hangs on the numbers in between.
        let wanted = if found.is_some() { TimeRange::new(i64::MIN, range.end) } else { range };
        let rolled = shard.rollups.get(row).filter(|series| kinds != Kinds::Numbers || !series.is_native());
        let chosen_later = kinds == Kinds::WithRecords && rolled.is_some();
        let rolled = rolled.filter(|series| !chosen_later && series.stands_in(wanted));
        let rolled = rolled.map(|series| Arc::new(series.unpack()));
        // Samples that are left of a time for which records stand are read nowhere.
        let wanted = rolled.as_ref().map_or(wanted, |series| series.raw_part(wanted));
        let head = &shard.series.heads[row];
        let is_open = shard.open_overlaps(head, wanted);
        let sealed = &shard.series.sealed[row];
        let is_sealed = sealed.overlaps(wanted);
        if !is_open && !is_sealed && found.is_none() && rolled.is_none() && !chosen_later {
            return;
        }
        if let Some(histograms) = found {
            // Those before the range tell whether its first one follows a reset.
            let known = histograms.capture(TimeRange::new(i64::MIN, range.end));
            self.beside += 2 * size_of::<(usize, HistogramSeries)>() + known.open_bytes();
            self.histograms.push((self.series.len(), known));
        }
        let start = self.open.len();
        let mut state = OpenState::new(ValueKind::Float);
        if is_open {
            state = head.state;
            self.open.extend_from_slice(&shard.open_bytes(head)[..state.used_bytes()]);
        }
        let starts = shard.starts.get(row).cloned().map(Box::new);
        self.beside += starts.as_ref().map_or(0, |starts| size_of::<StartSeries>() + starts.bytes());
        self.series.push(Captured {
            id: id_of(shard.number, row),
            state,
            open: start..self.open.len(),
            sealed: if is_sealed { sealed.clone() } else { Sealed::default() },
            starts,
            levels: if rolled.is_none() { shard.rollups.get(row).cloned() } else { None },
            rolled,
        });
    }
}

/// Reads where the samples of rows lie, so that their cache misses overlap. How many bytes of them are open.
fn touch(shard: &Shard, rows: &[u32]) -> usize {
    let (mut seen, mut open) = (0, 0);
    for &row in rows {
        let head = &shard.series.heads[row];
        if head.is_open() {
            seen ^= shard.open_bytes(head).first().copied().unwrap_or(0);
            open += head.state.used_bytes();
        }
        seen ^= shard.series.sealed[row].last().map_or(0, |chunk| chunk.count() as u8);
    }
    std::hint::black_box(seen);
    open
}

impl Taken for Part {
    fn bytes(&self) -> usize {
        self.series.capacity() * size_of::<Captured>() + self.open.capacity() + self.beside
    }

    fn reserve(&mut self, parts: &[Part]) {
        self.series.reserve_exact(parts.iter().map(|part| part.series.len()).sum());
        self.open.reserve_exact(parts.iter().map(|part| part.open.len()).sum());
    }

    fn append(&mut self, mut other: Part) {
        self.beside += other.beside;
        let before = self.series.len();
        self.histograms.extend(other.histograms.into_iter().map(|(i, h)| (before + i, h)));
        let shift = self.open.len();
        self.open.append(&mut other.open);
        self.series.extend(other.series.into_iter().map(|mut c| {
            c.open = c.open.start + shift..c.open.end + shift;
            c
        }));
    }
}

impl Database {
    /// As `Source::select`, for readers that need values as exact as they were written.
    pub fn select_exact(&self, predicate: &Predicate, range: TimeRange, budget: &Budget) -> Result<View<'_>> {
        let _inside = self.inside();
        let ids = self.index.select(predicate, self, budget)?;
        self.capture(&ids, range, Kinds::Numbers, budget)
    }

    pub(crate) fn capture(
        &self,
        ids: &RoaringBitmap,
        range: TimeRange,
        kinds: Kinds,
        budget: &Budget,
    ) -> Result<View<'_>> {
        let by_shard = ByShard::new(ids, budget)?;
        let mut all = Part::default();
        let take = |part: &mut Part, shard: &Shard, rows: &[u32]| {
            part.series.reserve(rows.len());
            for rows in rows.chunks(ROWS_AHEAD) {
                let open = touch(shard, rows);
                part.open.reserve(open);
                rows.iter().for_each(|&row| part.capture(shard, row, range, kinds));
            }
        };
        by_shard.take(self, budget, take, &mut all)?;
        Ok(View::new(self, all, budget))
    }

    /// The samples of known series that are stored as such, row by row as asked, without staleness markers. Errors: `Input` for an id that no series has.
    pub fn read_many(&self, ids: &[u64], range: TimeRange, budget: &Budget) -> Result<Rows> {
        let _inside = self.inside();
        let mut wanted = RoaringBitmap::new();
        for id in ids {
            let known = id.known().filter(|&known| {
                let (shard, row) = place_of(known);
                self.shard(shard).series.has_of(row, id.generation())
            });
            wanted.insert(known.ok_or_else(|| unknown_id(*id))?);
        }
        let view = self.capture(&wanted, range, Kinds::Numbers, budget)?;
        let mut place: hashbrown::HashMap<u32, usize> = hashbrown::HashMap::with_capacity(view.len());
        place.extend(view.series.iter().enumerate().map(|(i, c)| (c.id, i)));
        let mut rows = Rows { offsets: vec![0], ..Rows::default() };
        for block in ids.chunks(READ_BLOCK) {
            let parts: Result<Vec<(Samples, Vec<usize>)>> = block
                .par_chunks(READ_BLOCK / 64)
                .map(|ids| {
                    let mut samples = Samples::default();
                    let mut ends = Vec::with_capacity(ids.len());
                    for id in ids {
                        let from = samples.len();
                        if let Some(&i) = place.get(&(*id as u32)) {
                            view.read_stored(i, range, &mut samples)?;
                            samples.drop_stale(from);
                        }
                        ends.push(samples.len());
                    }
                    budget.take_samples(samples.len() as u64)?;
                    Ok((samples, ends))
                })
                .collect();
            for (samples, ends) in parts? {
                budget.check()?;
                budget.keep(2 * 16 * samples.len() + 2 * size_of::<usize>() * ends.len())?;
                let start = rows.timestamps.len();
                rows.timestamps.extend_from_slice(&samples.timestamps);
                rows.values.extend_from_slice(&samples.values);
                rows.offsets.extend(ends.iter().map(|end| start + end));
            }
        }
        Ok(rows)
    }

    /// The label set of a row, from its symbols; `text` is a buffer.
    pub(crate) fn labels_of(&self, shard: &Shard, row: u32, text: &mut Vec<u8>) -> Labels {
        self.labels_from(shard.label_sets.pairs(&self.shapes, shard.series.labels[row]), text)
    }

    fn hash_of(&self, id: u32) -> u64 {
        let (number, row) = place_of(id);
        self.shard(number).series.hashes[row]
    }

    pub(crate) fn labels_of_id(&self, id: u32) -> Labels {
        let (number, row) = place_of(id);
        self.labels_of(&self.shard(number), row, &mut Vec::new())
    }

    /// Pairs in name order, as they are stored, are in canonical form already.
    pub(crate) fn labels_from(&self, pairs: impl Iterator<Item = (u32, u32)>, text: &mut Vec<u8>) -> Labels {
        text.clear();
        self.symbols.write(pairs.flat_map(|(name, value)| [name, value]), 0xff, text);
        LabelsRef::from_canonical(text).to_owned()
    }
}

impl Source for Database {
    fn select<'a>(
        &'a self,
        predicate: &Predicate,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Box<dyn SeriesSet + 'a>> {
        let _inside = self.inside();
        let ids = self.index.select(predicate, self, budget)?;
        Ok(Box::new(self.capture(&ids, range, Kinds::NumbersAndHistograms, budget)?))
    }

    fn select_newest<'a>(
        &'a self,
        predicate: &Predicate,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Box<dyn SeriesSet + 'a>> {
        let _inside = self.inside();
        let ids = self.index.select(predicate, self, budget)?;
        Ok(Box::new(self.capture_newest(&ids, range, budget)?))
    }

    fn count_newest(
        &self,
        predicate: &Predicate,
        range: TimeRange,
        grouping: &Grouping,
        budget: &Budget,
    ) -> Result<Option<Vec<(Labels, u64)>>> {
        self.count_of_newest(predicate, range, grouping, budget)
    }

    fn bound(&self, predicate: &Predicate, range: TimeRange, budget: &Budget) -> Result<Option<Bound>> {
        self.bound_of(predicate, range, budget).map(Some)
    }

    fn label_size(&self, label: &str) -> Option<u64> {
        Some(self.index.label_size(label))
    }

    fn samples_at_most(&self) -> Option<u64> {
        Some(self.samples_ever())
    }
}

impl<'a> View<'a> {
    pub(crate) fn new(store: &'a Database, all: Part, budget: &Budget) -> View<'a> {
        let Part { series, open, histograms, .. } = all;
        let (foreign, budget) = (Vec::new(), budget.clone());
        View { store, series, foreign, open, histograms, budget, _inside: store.inside() }
    }

    /// Decides which records stand, of series that were captured with all of theirs: those of the level, and beside them fetched
    /// ones. Series that have nothing in the range then are left out, and those that have fetched records alone come last.
    pub(crate) fn choose(
        &mut self,
        range: TimeRange,
        level: Option<i64>,
        mut fetched: HashMap<u64, Elsewhere>,
    ) -> Result<()> {
        let shared = &self.store.shared_columns;
        let standing = |own: Option<&Packed>, fetched: &[Arc<Packed>], wanted: TimeRange| {
            if own.is_none() && fetched.is_empty() {
                return Ok(None);
            }
            let mut all = own.map(Packed::unpack).unwrap_or_default().beside(fetched, shared)?;
            if let Some(every) = level {
                all = all.seen_at(every);
            }
            Ok::<_, Error>(all.stands_in(wanted).then(|| Arc::new(all)))
        };
        let mut histograms = std::mem::take(&mut self.histograms).into_iter().peekable();
        let series = std::mem::take(&mut self.series);
        for (index, mut one) in series.into_iter().enumerate() {
            self.budget.check_at(index)?;
            let own = histograms.next_if(|(at, _)| *at == index);
            let wanted = if own.is_some() { TimeRange::new(i64::MIN, range.end) } else { range };
            let found = if fetched.is_empty() { None } else { fetched.remove(&self.store.hash_of(one.id)) };
            let found = found.map_or_else(Vec::new, |elsewhere| elsewhere.records);
            one.rolled = standing(one.levels.as_deref(), &found, wanted)?;
            if one.rolled.is_some() {
                one.levels = None;
            }
            if one.rolled.is_none() && own.is_none() && one.sealed.is_empty() && one.state.is_empty() {
                continue;
            }
            self.histograms.extend(own.map(|(_, of)| (self.series.len(), of)));
            self.series.push(one);
        }
        for (at, elsewhere) in fetched.into_values().enumerate() {
            self.budget.check_at(at)?;
            if let Some(rolled) = standing(None, &elsewhere.records, range)? {
                self.series.push(Captured::foreign(rolled));
                self.foreign.push(elsewhere.labels);
            }
        }
        Ok(())
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> {
        self.series.iter().map(|series| series.id)
    }

    /// The id of a series.
    pub fn id(&self, index: usize) -> u64 {
        u64::from(self.series[index].id)
    }

    /// Before another chunk is added to so many samples: they may fill memory before anybody counts them.
    fn may_read(&self, samples: usize) -> Result<()> {
        self.budget.check()?;
        self.budget.fits(2 * 16 * samples)
    }

    fn open_bytes(&self, series: &Captured) -> &[u8] {
        &self.open[series.open.clone()]
    }

    fn histograms(&self, index: usize) -> Option<&HistogramSeries> {
        let at = self.histograms.binary_search_by_key(&index, |(i, _)| *i).ok()?;
        self.histograms.get(at).map(|(_, h)| h)
    }

    /// Records of one series whose buckets of a width in milliseconds meet the range; those that no roll has made yet are
    /// made from finer ones and from samples, but for native histograms.
    pub fn records(&self, index: usize, every: i64, range: TimeRange) -> Result<Vec<Record>> {
        let series = &self.series[index];
        let bounds = (range.start.saturating_sub(1), range.end);
        let raw = |range: TimeRange, out: &mut Samples| self.read_raw(series, range, out);
        match (&series.rolled, &series.levels) {
            (Some(rolled), _) => rolled.level(every, bounds, raw),
            (None, Some(levels)) if levels.is_native() => levels.unpack().level(every, bounds, raw),
            (None, _) => RolledSeries::default().level(every, bounds, raw),
        }
    }

    /// Whether records stand for native histograms of one series.
    pub fn has_native_records(&self, index: usize) -> bool {
        let series = &self.series[index];
        series.native().is_some() || series.levels.as_ref().is_some_and(|levels| levels.is_native())
    }

    /// States of one series in the buckets of a width in milliseconds that passes have made and that meet the range.
    pub fn states(&self, index: usize, every: i64, range: TimeRange) -> Result<Vec<(i64, Vec<State>)>> {
        let series = &self.series[index];
        let bounds = (range.start.saturating_sub(1), range.end);
        match (&series.rolled, &series.levels) {
            (Some(rolled), _) => rolled.states(every, bounds),
            (None, Some(levels)) => levels.unpack().states(every, bounds),
            (None, None) => Ok(Vec::new()),
        }
    }

    /// Appends the samples of one series in `range`, in time order, as exact 64 bits; returns what the
    /// bits mean, run by run.
    pub fn read_exact(
        &self,
        index: usize,
        range: TimeRange,
        times: &mut Vec<i64>,
        bits: &mut Vec<u64>,
    ) -> Result<Vec<Run>> {
        let series = &self.series[index];
        let range = series.raw_part(range);
        let mut runs: Vec<Run> = Vec::new();
        let mut end = times.len();
        let mut note = |kind: ValueKind, now: usize| {
            match runs.last_mut() {
                Some(run) if run.kind == kind => run.len += now - end,
                _ if now > end => runs.push(Run { kind, len: now - end }),
                _ => {}
            }
            end = now;
        };
        for chunk in series.sealed.overlapping(range) {
            self.may_read(times.len())?;
            chunk.decode_range(range, times, bits)?;
            note(chunk.kind(), times.len());
        }
        if !series.state.is_empty() {
            let (mut open_times, mut open_bits) = (Vec::new(), Vec::new());
            codec::open::decode(&series.state, self.open_bytes(series), &mut open_times, &mut open_bits)?;
            let from = open_times.partition_point(|&t| t < range.start);
            let to = open_times.partition_point(|&t| t <= range.end).max(from);
            times.extend_from_slice(&open_times[from..to]);
            bits.extend_from_slice(&open_bits[from..to]);
            note(series.state.kind(), times.len());
        }
        Ok(runs)
    }
}

impl Captured {
    /// Of no series of the store.
    fn foreign(rolled: Arc<RolledSeries>) -> Captured {
        let (state, sealed) = (OpenState::new(ValueKind::Float), Sealed::default());
        Captured { id: u32::MAX, state, open: 0..0, sealed, starts: None, rolled: Some(rolled), levels: None }
    }

    /// Where records of native histograms stand.
    fn native(&self) -> Option<&RolledSeries> {
        self.rolled.as_deref().filter(|rolled| rolled.is_native())
    }

    fn raw_part(&self, range: TimeRange) -> TimeRange {
        self.rolled.as_ref().map_or(range, |rolled| rolled.raw_part(range))
    }
}

impl View<'_> {
    /// Whether records stand for samples of any series.
    pub(crate) fn any_rolled(&self) -> bool {
        self.series.iter().any(|series| series.rolled.is_some())
    }

    /// Appends the samples of one series in a range that were written so: those that are there, and before them those that
    /// survived; no points that stand for others.
    fn read_stored(&self, index: usize, range: TimeRange, out: &mut Samples) -> Result<()> {
        let series = &self.series[index];
        if let Some(rolled) = &series.rolled {
            rolled.read_kept(TimeRange::new(range.start, range.end.min(rolled.raw_from)), out)?;
        }
        self.read_raw(series, range, out)
    }

    /// Appends the samples of one series that are there.
    fn read_raw(&self, series: &Captured, range: TimeRange, out: &mut Samples) -> Result<()> {
        let range = series.raw_part(range);
        for chunk in series.sealed.overlapping(range) {
            self.may_read(out.len())?;
            chunk.decode_f64(range, out)?;
        }
        codec::open::decode_f64(&series.state, self.open_bytes(series), range, out)
    }
}

impl SeriesSet for View<'_> {
    fn len(&self) -> usize {
        self.series.len()
    }

    fn labels(&self, index: usize) -> Labels {
        let own = self.series.len() - self.foreign.len();
        match index.checked_sub(own) {
            Some(at) => self.foreign[at].clone(),
            None => self.store.labels_of_id(self.series[index].id),
        }
    }

    fn read(&self, index: usize, range: TimeRange, out: &mut Samples) -> Result<()> {
        let series = &self.series[index];
        let before = out.len();
        if let Some(rolled) = &series.rolled {
            rolled.read(range, out)?;
        }
        self.read_raw(series, range, out)?;
        self.store.decoded.add((out.len() - before) as u64);
        Ok(())
    }

    fn read_values(&self, index: usize, range: TimeRange, out: &mut Vec<f64>) -> Result<()> {
        let (series, before) = (&self.series[index], out.len());
        if series.rolled.is_some() {
            let mut samples = Samples::default();
            self.read(index, range, &mut samples)?;
            out.append(&mut samples.values);
            return Ok(());
        }
        for chunk in series.sealed.overlapping(range) {
            self.may_read(out.len())?;
            chunk.decode_values(range, out)?;
        }
        codec::open::decode_values(&series.state, self.open_bytes(series), range, out)?;
        self.store.decoded.add((out.len() - before) as u64);
        Ok(())
    }

    fn integer_sum(&self, index: usize, range: TimeRange) -> Result<Option<(u64, i64)>> {
        let series = &self.series[index];
        if series.rolled.is_some() {
            return Ok(None);
        }
        let (mut count, mut sum) = (0, 0i64);
        for chunk in series.sealed.overlapping(range) {
            self.budget.check()?;
            let Some((n, more)) = chunk.integer_sum(range)? else { return Ok(None) };
            let Some(total) = sum.checked_add(more) else { return Ok(None) };
            (count, sum) = (count + n as u64, total);
        }
        let open = codec::open::integer_sum(&series.state, self.open_bytes(series), range)?;
        let Some((n, total)) = open.and_then(|(n, more)| Some((n, sum.checked_add(more)?))) else {
            return Ok(None);
        };
        count += n as u64;
        self.store.decoded.add(count);
        Ok(Some((count, total)))
    }

    /// The open chunk's state holds its last sample; only where that is too new anything is decoded.
    fn newest(&self, index: usize, range: TimeRange) -> Result<Option<(i64, f64)>> {
        let series = &self.series[index];
        let state = &series.state;
        if !state.is_empty() && range.contains(state.last_time()) {
            return Ok(Some((state.last_time(), state.kind().widen(state.last_bits()))));
        }
        let mut samples = Samples::default();
        self.read_raw(series, range, &mut samples)?;
        if let (Some(rolled), true) = (&series.rolled, samples.is_empty()) {
            return rolled.newest(range);
        }
        self.store.decoded.add(samples.len() as u64);
        Ok(samples.timestamps.last().copied().zip(samples.values.last().copied()))
    }

    fn has_histograms(&self, index: usize) -> bool {
        self.series[index].native().is_some()
            || !self.histograms.is_empty() && self.histograms(index).is_some()
    }

    fn any_histograms(&self) -> bool {
        !self.histograms.is_empty() || self.series.iter().any(|series| series.native().is_some())
    }

    fn read_histograms(&self, index: usize, mut range: TimeRange, out: &mut HistogramSamples) -> Result<()> {
        let before = out.len();
        if let Some(rolled) = self.series[index].native() {
            rolled.read_points(range, out)?;
            range = rolled.raw_part(range);
        }
        let Some(histograms) = self.histograms(index) else { return Ok(()) };
        histograms.read_range(range, &self.budget, &mut out.timestamps, &mut out.histograms)?;
        self.store.decoded.add((out.len() - before) as u64);
        Ok(())
    }

    fn histogram_before(&self, index: usize, time: i64) -> Result<Option<(i64, Histogram)>> {
        let found = self.histograms(index).map_or(Ok(None), |histograms| histograms.newest_before(time))?;
        match self.series[index].native() {
            Some(rolled) if found.as_ref().is_none_or(|(at, _)| *at <= rolled.raw_from) => {
                rolled.point_before(time)
            }
            _ => Ok(found),
        }
    }

    fn stood_histograms(&self, index: usize, windows: &[TimeRange]) -> Result<Option<StoodHistograms>> {
        let Some(rolled) = self.series[index].native() else { return Ok(None) };
        let mut raw = HistogramSamples::default();
        if let (Some(histograms), Some((first, last))) =
            (self.histograms(index), windows.first().zip(windows.last()))
        {
            let range = rolled.raw_part(TimeRange::new(first.start, last.end));
            histograms.read_range(range, &self.budget, &mut raw.timestamps, &mut raw.histograms)?;
        }
        rolled.stood_histograms(windows, raw).map(Some)
    }

    fn quantile_error(&self, index: usize, range: TimeRange) -> Result<Option<f64>> {
        self.series[index].native().map_or(Ok(None), |rolled| rolled.quantile_error(range))
    }

    fn has_starts(&self, index: usize) -> bool {
        self.series[index].starts.is_some()
    }

    fn read_starts(&self, index: usize, timestamps: &[i64], out: &mut Vec<i64>) -> Result<()> {
        match &self.series[index].starts {
            Some(starts) => starts.read(timestamps, out),
            None => {
                out.resize(out.len() + timestamps.len(), 0);
                Ok(())
            }
        }
    }

    /// From the heads of sealed blocks; worth it as soon as one whole chunk lies in the range.
    fn summary(&self, index: usize, range: TimeRange, wants: Wants) -> Result<Option<Summary>> {
        let series = &self.series[index];
        if wants == Wants::Deviation
            || series.rolled.is_some()
            || !series.sealed.overlapping(range).any(|chunk| chunk.has_block_within(range))
        {
            return Ok(None);
        }
        let mut folded = Folded::default();
        for chunk in series.sealed.overlapping(range) {
            self.budget.check()?;
            chunk.fold(range, wants, &mut folded)?;
        }
        let mut open = Samples::default();
        codec::open::decode_f64(&series.state, self.open_bytes(series), range, &mut open)?;
        folded.append_samples(open.timestamps.iter().copied(), &open.values);
        self.store.decoded.add(folded.decoded as u64);
        Ok(folded.summary)
    }

    fn resolution(&self, index: usize, range: TimeRange) -> i64 {
        self.series[index].rolled.as_ref().map_or(0, |rolled| rolled.resolution(range))
    }

    fn summaries(&self, index: usize, windows: &[TimeRange]) -> Result<Option<Stood>> {
        let series = &self.series[index];
        let Some(rolled) = series.rolled.as_ref().filter(|rolled| !rolled.is_native()) else {
            return Ok(None);
        };
        let stood = rolled.summaries(windows, |range, out| self.read_raw(series, range, out))?;
        self.store.decoded.add(stood.samples);
        Ok(Some(stood))
    }

    fn whole_windows(&self, index: usize, windows: &[TimeRange]) -> Result<Option<Stood>> {
        let series = &self.series[index];
        let (Some(levels), Some((first, last))) = (&series.levels, windows.first().zip(windows.last()))
        else {
            return Ok(None);
        };
        let reach = TimeRange::new(first.start, last.end);
        let stored: usize = series.sealed.overlapping(reach).map(|chunk| chunk.count()).sum();
        let stood = levels.whole_windows(windows, stored as u64 / SAMPLES_A_RECORD)?;
        self.store.decoded.add(stood.as_ref().map_or(0, |stood| stood.samples));
        Ok(stood)
    }

    fn quantiles(&self, index: usize, windows: &[TimeRange]) -> Result<Option<Quantiles>> {
        let series = &self.series[index];
        let Some(rolled) = series.rolled.as_ref().filter(|rolled| !rolled.is_native()) else {
            return Ok(None);
        };
        let found = rolled.quantiles(windows, |range, out| self.read_raw(series, range, out))?;
        self.store.decoded.add(found.as_ref().map_or(0, |found| found.samples));
        Ok(found)
    }

    fn span(&self, index: usize) -> TimeRange {
        let series = &self.series[index];
        if series.rolled.is_some() {
            return TimeRange::ALL;
        }
        let open = series.state.first_time(self.open_bytes(series));
        let first = series.sealed.first().map(|chunk| chunk.first()).or(open);
        let sealed = series.sealed.last().map(|chunk| chunk.last());
        let last = open.map(|_| series.state.last_time()).or(sealed);
        first
            .zip(last)
            .map_or(TimeRange::new(i64::MAX, i64::MIN), |(first, last)| TimeRange::new(first, last))
    }

    fn encoded_bytes(&self, index: usize, range: TimeRange) -> u64 {
        let series = &self.series[index];
        let records = series.rolled.as_ref().map_or(0, |rolled| rolled.encoded_bytes(range));
        let sealed: usize = series.sealed.overlapping(range).map(|chunk| chunk.encoded_bytes()).sum();
        let histograms = self.histograms(index).map_or(0, |histograms| histograms.encoded_bytes(range));
        let first = series.state.first_time(self.open_bytes(series));
        let open = first.is_some_and(|first| range.overlaps(TimeRange::new(first, series.state.last_time())));
        let open = if open { series.open.len() } else { 0 };
        (sealed + open) as u64 + histograms + records
    }

    fn codecs(&self, index: usize, range: TimeRange, names: &mut Vec<&'static str>) {
        let series = &self.series[index];
        let mut add = |name: &'static str| {
            if !name.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        };
        for chunk in series.sealed.overlapping(range) {
            let (times, values) = chunk.codecs();
            add(values);
            add(if times == "regular" { "" } else { "times column" });
        }
        if !series.state.is_empty() {
            add("open");
        }
        if series.rolled.as_ref().is_some_and(|rolled| rolled.resolution(range) > 0) {
            add("rollup");
        }
        if self.histograms(index).is_some() {
            add("histogram");
        }
    }

    fn group(&self, grouping: &Grouping, budget: &Budget) -> Result<Groups> {
        if self.foreign.is_empty() {
            return self.store.group(self.ids(), grouping, budget);
        }
        Groups::of(self.len(), |i| grouping.apply(&self.labels(i)), budget)
    }
}
