//! Exact cuts: what a range of time holds leaves memory, to the sample. Chunks at its ends are written anew, records of
//! rollups that it cuts too, and series that have nothing left leave the index (`expire`).

use std::collections::HashMap;

use metricsdb_model::{Budget, Predicate, Result, TimeRange};
use rayon::prelude::*;
use roaring::RoaringBitmap;

use crate::chunk::{BLOCK_SAMPLES, Builder, Chunk, chunks_of};
use crate::database::{Database, IntoId};
use crate::epoch::Inside;
use crate::expire::{Expired, Swept};
use crate::rollup::Rolled;
use crate::shard::{Rules, SHARDS, Shard, Work, place_of};
use crate::view::ByShard;

/// Rows that are cut under one hold of a shard's lock: a chunk or two of each is written anew, some 2 ms in all.
const ROWS_HELD: usize = 64;

/// Samples of the chunk that the next cut at the old end will meet.
const DENSE_NEXT: usize = BLOCK_SAMPLES;

/// Which samples a cut takes of a series that has records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Taking {
    /// All, and what records say of them.
    Everything = 0,
    /// Those that records stand for.
    Stood = 1,
}

impl Shard {
    /// Drops what a row has in a range: samples, histograms, and what records say of them.
    pub(crate) fn cut_row(
        &mut self,
        row: u32,
        range: TimeRange,
        taking: Taking,
        rules: &Rules,
        work: &mut Work,
        done: &mut Expired,
    ) -> Result<()> {
        if taking == Taking::Stood && self.roll_before(row, range.end.saturating_add(1), work, done)? {
            return Ok(());
        }
        let before = done.samples;
        self.cut_sealed(row, range, work, done)?;
        self.cut_open(row, range, rules, work, done)?;
        self.histograms.cut(row, range, done)?;
        self.cut_records(row, range, done)?;
        if self.is_empty_row(row) {
            self.starts.remove(row);
            self.rollups.remove(row);
        } else if done.samples > before {
            self.end_starts(row)?;
        }
        Ok(())
    }

    /// Forgets when the counters of samples began that a row has not, or not any more, behind its newest one. Errors:
    /// `Corruption`, never for what was sealed here.
    pub(crate) fn end_starts(&mut self, row: u32) -> Result<()> {
        let histograms = self.histograms.get(row).and_then(|h| h.newest());
        let newest = self.newest(row).max(histograms).unwrap_or(i64::MIN);
        self.starts.truncate(row, newest)
    }

    fn cut_sealed(&mut self, row: u32, range: TimeRange, work: &mut Work, done: &mut Expired) -> Result<()> {
        let sealed = &self.series.sealed[row];
        let at = sealed.iter().take_while(|chunk| chunk.last() < range.start).count();
        let touched: Vec<Chunk> = sealed.overlapping(range).cloned().collect();
        let mut left = Vec::new();
        for chunk in &touched {
            if range.start <= chunk.first() && chunk.last() <= range.end {
                done.samples += chunk.count() as u64;
                done.bytes += chunk.bytes() as u64;
                done.chunks += 1;
                continue;
            }
            let (taken, rest) = self.without(chunk, range, work)?;
            if taken > 0 {
                done.samples += taken as u64;
                done.bytes += chunk.bytes().saturating_sub(rest.iter().map(Chunk::bytes).sum()) as u64;
                done.cut += 1;
            }
            left.extend(rest);
        }
        if !touched.is_empty() {
            self.swap_sealed(row, at, touched.len(), left);
        }
        Ok(())
    }

    /// How many samples a chunk has in a range, and the others as chunks.
    fn without(&self, chunk: &Chunk, range: TimeRange, work: &mut Work) -> Result<(usize, Vec<Chunk>)> {
        let Work { times, bits, .. } = work;
        times.clear();
        bits.clear();
        chunk.decode_into(times, bits)?;
        let taken = remove(times, bits, range);
        if taken == 0 {
            return Ok((0, vec![chunk.clone()]));
        }
        if chunk.is_dense() {
            // What is next to go stands apart, so that the next cut writes no long chunk anew.
            let ages = range.start <= chunk.first() && times.len() > DENSE_NEXT;
            let at = if ages { DENSE_NEXT } else { 0 };
            let ((next, times), (next_bits, bits)) = (times.split_at(at), bits.split_at(at));
            let pieces =
                [(next, next_bits), (times, bits)].into_iter().filter(|(times, _)| !times.is_empty());
            let dense = |(times, bits): (&[i64], &[u64])| {
                Builder::dense(chunk.kind(), times, bits).finish(&self.shared_columns)
            };
            return Ok((taken, pieces.map(dense).collect()));
        }
        Ok((taken, chunks_of(chunk.kind(), times, bits, &self.shared_columns)?))
    }

    fn cut_open(
        &mut self,
        row: u32,
        range: TimeRange,
        rules: &Rules,
        work: &mut Work,
        done: &mut Expired,
    ) -> Result<()> {
        let head = self.series.heads[row];
        if !head.is_open() || !self.open_overlaps(&head, range) {
            return Ok(());
        }
        self.decode_open(&head.state, self.open_bytes(&head), work)?;
        let (mut times, mut bits) = (std::mem::take(&mut work.times), std::mem::take(&mut work.bits));
        let taken = remove(&mut times, &mut bits, range);
        if taken > 0 {
            let (kind, bytes) = (head.state.kind(), head.state.used_bytes());
            done.samples += taken as u64;
            self.close(row);
            for (&time, &bits) in times.iter().zip(&bits) {
                self.push(row, kind, time, bits, rules, work)?;
            }
            let left = self.series.heads[row].state.used_bytes();
            done.bytes += bytes.saturating_sub(if times.is_empty() { 0 } else { left }) as u64;
            if times.is_empty() { done.chunks += 1 } else { done.cut += 1 }
        }
        (work.times, work.bits) = (times, bits);
        Ok(())
    }

    /// Takes a range out of the records of a row; those of buckets that it cuts are made anew.
    fn cut_records(&mut self, row: u32, range: TimeRange, done: &mut Expired) -> Result<()> {
        let Some(series) = self.rollups.get(row) else { return Ok(()) };
        let mut series = series.unpack();
        let dirty = series.cut(range, &self.shared_columns, done)?;
        self.remake(row, &mut series, &dirty, &mut Rolled::default())?;
        self.rollups.put(row, series);
        Ok(())
    }

    /// Whether a row has something that a cut of this range may take, by the heads of its chunks: one without a series has
    /// nothing.
    fn may_have(&self, row: u32, range: TimeRange) -> bool {
        self.span(row).is_some_and(|span| span.overlaps(range))
    }

    /// Whether samples before a time are there, likewise; of a row with records, those that these can stand for.
    fn has_before(&self, row: u32, before: i64) -> bool {
        match self.rollups.get(row) {
            Some(series) => {
                let until = series.stands_until(before);
                series.raw_from() < until || self.has_older(row, series.raw_from().saturating_add(1))
            }
            None => self.span(row).is_some_and(|span| span.start < before),
        }
    }
}

/// Takes the samples in a range out of columns; how many.
fn remove(times: &mut Vec<i64>, bits: &mut Vec<u64>, range: TimeRange) -> usize {
    let from = times.partition_point(|&t| t < range.start);
    let to = times.partition_point(|&t| t <= range.end).max(from);
    times.drain(from..to);
    bits.drain(from..to);
    to - from
}

/// A part of the store's age: the samples before a time, of the series that satisfy a predicate.
#[derive(Clone, Debug)]
pub struct AgeRule {
    pub predicate: Predicate,
    /// Milliseconds; `None`: these series keep all they have.
    pub before: Option<i64>,
}

impl Database {
    /// The series that satisfy one of the predicates.
    pub(crate) fn chosen(&self, predicates: &[Predicate], budget: &Budget) -> Result<RoaringBitmap> {
        let mut chosen = RoaringBitmap::new();
        for predicate in predicates {
            chosen |= self.index.select(predicate, self, budget)?;
        }
        Ok(chosen)
    }

    /// The series that each of ordered rules governs: those that no rule before it takes.
    pub(crate) fn governed_by<'p>(
        &self,
        rules: impl IntoIterator<Item = &'p Predicate>,
        budget: &Budget,
    ) -> Result<Vec<RoaringBitmap>> {
        let mut taken = RoaringBitmap::new();
        let of_rule = |rule: &'p Predicate| -> Result<RoaringBitmap> {
            let ids = self.index.select(rule, self, budget)? - &taken;
            taken |= &ids;
            Ok(ids)
        };
        rules.into_iter().map(of_rule).collect()
    }

    /// Deletes what the series that satisfy one of the predicates have in a range: samples, histograms, and what records say
    /// of them. Nobody sees it once this returns, and its memory is free. Records of buckets that the range cuts are made
    /// anew where their samples are there; else the whole bucket goes, and is counted. No lock is held for more than 64
    /// series. Linear in the series chosen and in the chunks cut. Errors: the budget's, `NotDurable`; what was deleted
    /// stays deleted then.
    pub fn delete(&self, predicates: &[Predicate], range: TimeRange, budget: &Budget) -> Result<Expired> {
        let inside = self.inside();
        let by_shard = ByShard::new(&self.chosen(predicates, budget)?, budget)?;
        let cuts = vec![(by_shard, range, Taking::Everything)];
        Ok(self.cut_all(inside, &cuts, budget)?.1)
    }

    /// Drops what each series has before the time that the first rule says that takes it: to the sample, but of series that
    /// have records only what these stand for. Linear in the number of series; what is cut is written anew. Says what left by
    /// each rule, and in all; series that left the index are counted in all alone. Errors: as `delete`.
    pub fn expire(&self, rules: &[AgeRule], budget: &Budget) -> Result<(Vec<Expired>, Expired)> {
        let inside = self.inside();
        let governed = self.governed_by(rules.iter().map(|rule| &rule.predicate), budget)?;
        let mut cuts = Vec::with_capacity(rules.len());
        for (rule, ids) in rules.iter().zip(governed) {
            // Nothing is before the first of all times.
            let until = rule.before.and_then(|before| before.checked_sub(1));
            let ids = until.map_or_else(RoaringBitmap::new, |_| ids);
            let range = TimeRange::new(i64::MIN, until.unwrap_or(i64::MIN));
            cuts.push((ByShard::new(&ids, budget)?, range, Taking::Stood));
        }
        self.cut_all(inside, &cuts, budget)
    }

    /// `inside`: since the rows were chosen, so that no other series has one of them meanwhile.
    fn cut_all(
        &self,
        inside: Inside<'_>,
        cuts: &[(ByShard, TimeRange, Taking)],
        budget: &Budget,
    ) -> Result<(Vec<Expired>, Expired)> {
        let burial = self.next_burial();
        let sweep = |number: usize| {
            let (mut swept, mut outcome) = (Swept::default(), Ok(()));
            let cut = |(by_shard, range, taking): &(ByShard, TimeRange, Taking)| {
                let mut one = Swept::default();
                let rows = by_shard.rows(number);
                let cut = self.cut_shard(number, rows, *range, *taking, burial, budget, &mut one);
                outcome = outcome.clone().and(cut);
                swept.merge(&one);
                one.done
            };
            let each: Vec<Expired> = cuts.iter().map(cut).collect();
            (each, (number, swept, outcome))
        };
        let all: Vec<_> = (0..SHARDS).into_par_iter().map(sweep).collect();
        drop(inside);
        let (of_shards, swept): (Vec<Vec<Expired>>, Vec<_>) = all.into_iter().unzip();
        let mut each = vec![Expired::default(); cuts.len()];
        for of_shard in &of_shards {
            each.iter_mut().zip(of_shard).for_each(|(sum, done)| sum.merge(done));
        }
        Ok((each, self.swept(burial, swept)?))
    }

    #[allow(clippy::too_many_arguments)] // rows of a shard, what of them, and what is told of it
    fn cut_shard(
        &self,
        number: usize,
        rows: &[u32],
        range: TimeRange,
        taking: Taking,
        burial: u64,
        budget: &Budget,
        swept: &mut Swept,
    ) -> Result<()> {
        let mut work = Work::default();
        for rows in rows.chunks(ROWS_HELD) {
            budget.check()?;
            let mut shard = self.shard(number);
            let due = |row: &u32| match taking {
                Taking::Everything => shard.may_have(*row, range),
                Taking::Stood => shard.has_before(*row, range.end.saturating_add(1)),
            };
            let due: Vec<u32> = rows.iter().copied().filter(due).collect();
            self.cut_rows(&mut shard, &due, range, taking, burial, &mut work, swept)?;
        }
        Ok(())
    }

    /// Cuts rows of a shard, behind their record in the journal.
    #[allow(clippy::too_many_arguments)] // as above, and a buffer
    fn cut_rows(
        &self,
        shard: &mut Shard,
        rows: &[u32],
        range: TimeRange,
        taking: Taking,
        burial: u64,
        work: &mut Work,
        swept: &mut Swept,
    ) -> Result<()> {
        if let Some(journal) = self.journal().filter(|_| !rows.is_empty()) {
            journal.cut(shard, range, taking, rows);
        }
        for &row in rows {
            let oldest = shard.span(row).map(|span| span.start.max(range.start));
            let before = (swept.done.samples, swept.done.records);
            let outcome = shard.cut_row(row, range, taking, &self.rules, work, &mut swept.done);
            if before != (swept.done.samples, swept.done.records) {
                swept.done.touched += 1;
                swept.lowest = swept.lowest.into_iter().chain(oldest).min();
            }
            outcome?;
            if shard.is_empty_row(row) {
                shard.graves.mark(row, burial);
                swept.emptied.push(row);
            }
        }
        Ok(())
    }

    /// Drops what `export` handed out, series by series: where the digest of what is there now in the range is the one given.
    /// Others stay as they are. `rolled`: as it was exported, and what records say of the range goes, too. Says of each
    /// whether it was dropped, and what left. The digest is made under the shard's lock: 64 series at a time. Errors: as
    /// `delete`.
    pub fn drop_copied(
        &self,
        series: &[(u64, u64)],
        range: TimeRange,
        rolled: bool,
        budget: &Budget,
    ) -> Result<(Vec<bool>, Expired)> {
        let of_shards = copies_by_shard(series);
        let burial = self.next_burial();
        let drop_some = |(number, copies): (usize, Vec<(usize, u64, u64)>)| {
            let (mut swept, mut dropped) = (Swept::default(), Vec::new());
            let outcome = copies.chunks(ROWS_HELD).try_for_each(|some| {
                budget.check()?;
                self.drop_same(number, some, (range, rolled), burial, &mut swept, &mut dropped)
            });
            (dropped, (number, swept, outcome))
        };
        let all: Vec<_> = of_shards.into_par_iter().map(drop_some).collect();
        let (dropped, swept): (Vec<Vec<usize>>, Vec<_>) = all.into_iter().unzip();
        let mut gone = vec![false; series.len()];
        dropped.into_iter().flatten().for_each(|at| gone[at] = true);
        Ok((gone, self.swept(burial, swept)?))
    }

    /// `copies`: the places of series in what was given, their ids and digests.
    fn drop_same(
        &self,
        number: usize,
        copies: &[(usize, u64, u64)],
        (range, rolled): (TimeRange, bool),
        burial: u64,
        swept: &mut Swept,
        dropped: &mut Vec<usize>,
    ) -> Result<()> {
        let mut shard = self.shard(number);
        let mut same = Vec::with_capacity(copies.len());
        for &(at, id, digest) in copies {
            let row = place_of(id as u32).1;
            let known = shard.series.has_of(row, (&id).generation()) && !same.contains(&row);
            let taken = if known { shard.take(row, range, rolled) } else { None };
            let Some(taken) = taken else { continue };
            // A histogram that no record takes has no digest.
            if taken.read(range, &Budget::unlimited())?.digest() == Ok(digest) {
                same.push(row);
                dropped.push(at);
            }
        }
        self.cut_rows(&mut shard, &same, range, Taking::Everything, burial, &mut Work::default(), swept)
    }
}

/// Copies of series (ids and digests) by shard, each with its place among those given.
pub(crate) fn copies_by_shard(series: &[(u64, u64)]) -> HashMap<usize, Vec<(usize, u64, u64)>> {
    let mut of_shards: HashMap<usize, Vec<(usize, u64, u64)>> = HashMap::new();
    for (at, &(id, digest)) in series.iter().enumerate() {
        if let Some(known) = (&id).known() {
            of_shards.entry(place_of(known).0).or_default().push((at, id, digest));
        }
    }
    of_shards
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
