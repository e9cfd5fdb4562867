//! Old samples leave memory, and series that have none left leave index and table, chunk by chunk and row by row.
//!
//! A series goes in three steps, between which everybody leaves who was inside (`epoch`): senders lose its raw hashes,
//! so that only its labels lead to it; it leaves hash table and postings, if it got no sample meanwhile; and its row
//! and its label set are free for another. A writer that finds a dying series by its labels brings it back to life.

use std::collections::HashMap;

use metricsdb_model::{Budget, Result};
use rayon::prelude::*;
use roaring::RoaringBitmap;

use crate::chunk::chunks_of;
use crate::database::Database;
use crate::shard::{SHARDS, Shard, Work, id_of, place_of};

/// Rows that are looked at under one hold of a shard's lock, and series that are buried under one.
const ROWS_HELD: usize = 512;
const BURIED_HELD: usize = 64;
/// Texts that are taken out of the lookup while no series can be made: some microseconds each.
const UNLISTED_HELD: usize = 512;
/// Chunks of fewer bytes hold constants; cutting them gains nothing.
const SMALL_BYTES: usize = 64;
/// Steps that one call takes at most: three for what it finds itself, two epochs each.
const STEPS: usize = 8;

/// What one call of `expire` took out of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Samples and histograms.
    pub samples: u64,
    /// Sealed and open chunks that went whole.
    pub chunks: u64,
    /// Chunks whose old part was cut off.
    pub cut: u64,
    /// Bytes of chunks.
    pub bytes: u64,
    /// Series that left the index. Not all that have no sample any more: some follow in the next call.
    pub series: u64,
    /// Series that lost something to an exact cut, and records of rollups that went with it.
    pub touched: u64,
    pub records: u64,
    /// Buckets that went whole although the cut took a part of them: their samples were not there to make them anew.
    pub buckets: u64,
}

impl Expired {
    pub(crate) fn merge(&mut self, other: &Expired) {
        self.samples += other.samples;
        self.chunks += other.chunks;
        self.cut += other.cut;
        self.bytes += other.bytes;
        self.series += other.series;
        self.touched += other.touched;
        self.records += other.records;
        self.buckets += other.buckets;
    }
}

/// The rows of a shard that are on their way out.
#[derive(Default)]
pub struct Graves {
    /// Without a sample, and not found by their labels since: which burial they are of. One that is found and dies again
    /// is of a later one, which waits for all who may have found it.
    dying: HashMap<u32, u64>,
    /// Free once the journal holds nothing of the series they had.
    pub awaiting: Vec<u32>,
}

impl Graves {
    /// Whether a row is still dying of this burial, which ends it.
    fn end(&mut self, row: u32, burial: u64) -> bool {
        let dies = self.dying.get(&row) == Some(&burial);
        if dies {
            self.dying.remove(&row);
        }
        dies
    }

    /// Marks a row that has just lost its last sample, under the lock under which it did.
    pub(crate) fn mark(&mut self, row: u32, burial: u64) {
        self.dying.insert(row, burial);
    }

    /// Somebody found the series by its labels and may be about to write.
    pub fn revive(&mut self, row: u32) {
        if !self.dying.is_empty() {
            self.dying.remove(&row);
        }
    }

    pub fn bytes(&self) -> usize {
        self.dying.capacity() * size_of::<(u32, u64)>() * 2 + self.awaiting.capacity() * size_of::<u32>()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Marked,
    Forgotten,
    Buried,
}

/// Series that take their steps together, and the epoch of the last one.
struct Burial {
    number: u64,
    step: Step,
    epoch: u64,
    /// Those of a shard one after the other.
    ids: Vec<u32>,
}

/// What is on its way out.
#[derive(Default)]
pub(crate) struct Burials {
    series: Vec<Burial>,
    /// Those of them that other series are folded into: they stay as long as these.
    waiting: Vec<Burial>,
    /// The number of the last one.
    number: u64,
    /// Texts that were taken out of the lookup, and the epoch of that; and those whose block is not full.
    texts: Vec<(u64, Vec<u32>)>,
    late_texts: Vec<u32>,
}

impl Burials {
    fn is_empty(&self) -> bool {
        self.series.is_empty() && self.texts.is_empty()
    }
}

/// What a shard found in some of its rows.
#[derive(Default)]
pub(crate) struct Swept {
    pub done: Expired,
    /// Rows that have lost their last sample.
    pub emptied: Vec<u32>,
    /// The lowest time that went.
    pub lowest: Option<i64>,
}

impl Swept {
    pub fn merge(&mut self, other: &Swept) {
        self.done.merge(&other.done);
        self.emptied.extend_from_slice(&other.emptied);
        self.lowest = self.lowest.into_iter().chain(other.lowest).min();
    }
}

impl Shard {
    /// Whether a row has neither samples nor histograms.
    pub fn is_empty_row(&self, row: u32) -> bool {
        !self.series.heads[row].is_open()
            && self.series.sealed[row].is_empty()
            && self.histograms.get(row).is_none()
            && self.rollups.get(row).is_none_or(|series| series.is_empty())
    }

    /// Whether `expire_row` would take something.
    pub(crate) fn has_older(&self, row: u32, before: i64) -> bool {
        let sealed = self.series.sealed[row]
            .first()
            .is_some_and(|chunk| chunk.last() < before || is_cut(chunk, before));
        let head = &self.series.heads[row];
        let histograms = || self.histograms.get(row).is_some_and(|h| h.has_older(before));
        sealed || (head.is_open() && head.state.last_time() < before) || histograms()
    }

    /// Drops what of a row is older than `before`: whole chunks, and the old part of one that is old to the half. Of a row
    /// with rollups, what records stand for then.
    pub(crate) fn expire_row(
        &mut self,
        row: u32,
        before: i64,
        work: &mut Work,
        done: &mut Expired,
    ) -> Result<()> {
        match self.roll_before(row, before, work, done)? {
            true => Ok(()),
            false => self.expire_samples(row, before, work, done),
        }
    }

    pub(crate) fn expire_samples(
        &mut self,
        row: u32,
        before: i64,
        work: &mut Work,
        done: &mut Expired,
    ) -> Result<()> {
        let sealed = &self.series.sealed[row];
        let old = sealed.iter().take_while(|chunk| chunk.last() < before).count();
        let cut = sealed.get(old).filter(|chunk| is_cut(chunk, before)).cloned();
        let mut young = Vec::new();
        if let Some(chunk) = &cut {
            work.times.clear();
            work.bits.clear();
            chunk.decode_into(&mut work.times, &mut work.bits)?;
            let at = work.times.partition_point(|&time| time < before);
            young = chunks_of(chunk.kind(), &work.times[at..], &work.bits[at..], &self.shared_columns)?;
            done.cut += 1;
            done.samples += at as u64;
            done.bytes += chunk.bytes().saturating_sub(young.iter().map(|c| c.bytes()).sum()) as u64;
        }
        for chunk in sealed.iter().take(old) {
            done.samples += chunk.count() as u64;
            done.bytes += chunk.bytes() as u64;
        }
        done.chunks += old as u64;
        if old > 0 || cut.is_some() {
            self.swap_sealed(row, 0, old + usize::from(cut.is_some()), young);
        }
        let head = self.series.heads[row];
        if head.is_open() && head.state.last_time() < before {
            done.samples += head.state.count() as u64;
            done.bytes += head.state.used_bytes() as u64;
            done.chunks += 1;
            self.close(row);
        }
        self.histograms.expire(row, before, done);
        if self.is_empty_row(row) {
            self.starts.remove(row);
            self.rollups.remove(row);
        }
        Ok(())
    }

    /// Takes a series that nobody can reach any more, and what it holds, out of its row.
    pub(crate) fn bury(&mut self, row: u32) {
        self.close(row);
        let sealed = self.series.sealed[row].iter().count();
        self.swap_sealed(row, 0, sealed, Vec::new());
        self.histograms.remove(row);
        self.starts.remove(row);
        self.rollups.remove(row);
        self.series.remove(row);
    }

    /// Frees the label set of a buried row, and the row: at once, or once the journal has nothing of it.
    pub(crate) fn release(&mut self, shapes: &crate::labelsets::Shapes, row: u32, journalled: bool) {
        let handle = self.series.clear(row);
        self.label_sets.free(shapes, handle);
        if journalled {
            self.graves.awaiting.push(row);
        } else {
            self.series.reuse(row);
        }
    }
}

/// Whether so much of a chunk whose end is young is old that cutting it is worth it.
fn is_cut(chunk: &crate::chunk::Chunk, before: i64) -> bool {
    let (first, last) = (chunk.first() as f64, chunk.last() as f64);
    let old = (before as f64 - first) / (last - first).max(1.0);
    chunk.first() < before && old >= 0.5 && chunk.encoded_bytes() > SMALL_BYTES
}

/// Ids that stand together by shard, with its number.
fn by_shard(ids: &[u32]) -> impl Iterator<Item = (usize, &[u32])> {
    let same = |&a: &u32, &b: &u32| place_of(a).0 == place_of(b).0;
    ids.chunk_by(same).filter_map(|of_shard| Some((place_of(*of_shard.first()?).0, of_shard)))
}

impl Database {
    /// Drops samples older than the time `before` (ms) chunk by chunk, so that little is written anew: a chunk that is old by
    /// less than half stays whole until later. No lock is held for longer than it takes to look at 512 series. Linear in
    /// the number of series. Errors: what `budget` says, `NotDurable`.
    pub(crate) fn evict_before(&self, before: i64, budget: &Budget) -> Result<Expired> {
        let burial = self.next_burial();
        let sweep = |number| {
            let mut swept = Swept::default();
            let outcome = self.evict_shard(number, before, burial, budget, &mut swept);
            (number, swept, outcome)
        };
        let swept = (0..SHARDS).into_par_iter().map(sweep).collect();
        self.swept(burial, swept)
    }

    /// What all shards lost; series that have nothing left leave the index, in this call or, where queries or writers are at
    /// work, in one of the next; a number that `register` gave out for one leads nowhere then.
    pub(crate) fn swept(&self, burial: u64, swept: Vec<(usize, Swept, Result<()>)>) -> Result<Expired> {
        let (mut done, mut ids, mut lowest) = (Expired::default(), Vec::new(), i64::MAX);
        let mut outcome = Ok(());
        for (number, shard, ended) in swept {
            // What left has left, also where the call was stopped.
            outcome = outcome.and(ended);
            done.merge(&shard.done);
            ids.extend(shard.emptied.iter().map(|&row| id_of(number as u8, row)));
            lowest = lowest.min(shard.lowest.unwrap_or(i64::MAX));
        }
        if lowest < i64::MAX {
            self.written.note(lowest);
        }
        done.series = self.bury(burial, ids)?;
        self.relieve();
        outcome.and(self.durably())?;
        Ok(done)
    }

    /// The number of a burial.
    pub(crate) fn next_burial(&self) -> u64 {
        let mut burials = self.burials.lock();
        burials.number += 1;
        burials.number
    }

    fn evict_shard(
        &self,
        number: usize,
        before: i64,
        burial: u64,
        budget: &Budget,
        swept: &mut Swept,
    ) -> Result<()> {
        let (mut work, mut noted) = (Work::default(), false);
        let mut from = 0;
        loop {
            budget.check()?;
            let mut shard = self.shard(number);
            let rows = from..shard.series.len().min(from + ROWS_HELD);
            if rows.is_empty() {
                return Ok(());
            }
            for row in rows.clone().map(|row| row as u32) {
                if !shard.has_older(row, before) {
                    continue;
                }
                if let Some(journal) = self.journal().filter(|_| !noted) {
                    journal.expire(&mut shard, before);
                    noted = true;
                }
                let oldest = shard.span(row).map(|span| span.start);
                swept.lowest = swept.lowest.into_iter().chain(oldest).min();
                shard.expire_row(row, before, &mut work, &mut swept.done)?;
                if shard.is_empty_row(row) {
                    shard.graves.mark(row, burial);
                    swept.emptied.push(row);
                }
            }
            from = rows.end;
        }
    }

    /// Takes series that have just lost their last sample, and those before them, as many steps as nobody is in the
    /// way of. Returns how many left the index.
    pub(crate) fn bury(&self, number: u64, ids: Vec<u32>) -> Result<u64> {
        let mut burials = self.burials.lock();
        if !ids.is_empty() {
            self.forget(&ids);
            burials.series.push(Burial { number, step: Step::Marked, epoch: self.epochs.now(), ids });
        }
        let mut buried = 0;
        for _ in 0..STEPS {
            if burials.is_empty() || !self.epochs.advance() {
                break;
            }
            let Burials { series, waiting, .. } = &mut *burials;
            for burial in series.iter_mut().filter(|burial| self.epochs.is_past(burial.epoch)) {
                match burial.step {
                    Step::Marked => {
                        self.forget(&burial.ids);
                        burial.step = Step::Forgotten;
                    }
                    Step::Forgotten => {
                        let (targets, ids): (Vec<u32>, Vec<u32>) =
                            burial.ids.iter().partition(|&&id| self.limits.is_target(id));
                        burial.ids = self.bury_now(&ids, burial.number)?;
                        buried += burial.ids.len() as u64;
                        burial.step = Step::Buried;
                        let (number, step, epoch) = (burial.number, Step::Forgotten, self.epochs.now());
                        waiting.push(Burial { number, step, epoch, ids: targets });
                    }
                    Step::Buried => self.release(&std::mem::take(&mut burial.ids)),
                }
                burial.epoch = self.epochs.now();
            }
            series.append(waiting);
            burials.series.retain(|burial| !burial.ids.is_empty());
            if buried > 0 {
                self.unlist(&self.index.compact(), &mut burials);
            }
            self.free_texts(&mut burials);
        }
        Ok(buried)
    }

    /// Takes texts that no series has out of the lookup.
    fn unlist(&self, symbols: &[u32], burials: &mut Burials) {
        for some in symbols.chunks(UNLISTED_HELD) {
            let _alone = self.making.write();
            let unused = self.index.unused(some);
            self.symbols.unlist(&unused);
            burials.texts.push((self.epochs.now(), unused));
        }
    }

    fn free_texts(&self, burials: &mut Burials) {
        let mut free = std::mem::take(&mut burials.late_texts);
        let late = free.len();
        burials.texts.retain_mut(|(epoch, symbols)| {
            let past = self.epochs.is_past(*epoch);
            if past {
                free.append(symbols);
            }
            !past
        });
        burials.late_texts = if free.len() > late { self.symbols.free(free) } else { free };
    }

    fn forget(&self, ids: &[u32]) {
        self.raw.forget(&ids.iter().copied().collect());
    }

    /// Takes those of the series that are still dying of this burial, and empty, out of table and index.
    fn bury_now(&self, ids: &[u32], burial: u64) -> Result<Vec<u32>> {
        let (mut gone, mut texts, mut text) = (Vec::new(), Vec::new(), Vec::new());
        let limits = self.limits.read();
        for (number, of_shard) in by_shard(ids) {
            for some in of_shard.chunks(BURIED_HELD) {
                let mut shard = self.shard(number);
                let mut rows: Vec<u32> = some.iter().map(|&id| place_of(id).1).collect();
                rows.retain(|&row| shard.graves.end(row, burial) && shard.is_empty_row(row));
                if let Some(journal) = self.journal().filter(|_| !rows.is_empty()) {
                    journal.gone(&mut shard, &rows);
                }
                if !limits.is_empty() {
                    texts.extend(rows.iter().map(|&row| self.labels_of(&shard, row, &mut text)));
                }
                self.bury_rows(&mut shard, &rows)?;
                let from = gone.len();
                gone.extend(rows.iter().map(|&row| id_of(shard.number, row)));
                drop(shard);
                limits.released(&gone[from..], &texts);
                texts.clear();
            }
        }
        Ok(gone)
    }

    /// Takes series out of table and index, whatever they hold.
    pub(crate) fn bury_rows(&self, shard: &mut Shard, rows: &[u32]) -> Result<()> {
        let ids: RoaringBitmap = rows.iter().map(|&row| id_of(shard.number, row)).collect();
        self.index.hide(&ids);
        for &row in rows {
            let handle = shard.series.labels[row];
            self.index.remove(id_of(shard.number, row), shard.label_sets.pairs(&self.shapes, handle))?;
            shard.bury(row);
            self.series_count.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    }

    fn release(&self, ids: &[u32]) {
        for (number, of_shard) in by_shard(ids) {
            let mut shard = self.shard(number);
            of_shard
                .iter()
                .for_each(|&id| shard.release(&self.shapes, place_of(id).1, self.journal.is_some()));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
