//! Records of one series from several places, put together.

use std::collections::BTreeMap;
use std::sync::Arc;

use metricsdb_model::Result;

use super::block::Block;
use super::record::{Record, end_of};
use super::roll::TIME_MIN;
use super::sketches::{Sketched, paired};
use super::{LevelSeries, Packed, RolledSeries};
use crate::chunk::{Chunk, SharedColumns};

impl RolledSeries {
    /// With records from elsewhere: where several have a bucket, its own stands, then that of the first. Levels stand where they
    /// are whole. Errors: `Corruption`.
    pub(crate) fn beside(mut self, others: &[Arc<Packed>], shared: &SharedColumns) -> Result<RolledSeries> {
        let Some(first) = others.first() else { return Ok(self) };
        if self.is_empty() {
            self.kind = first.kind();
        }
        let (mut blocks, mut kept) = (BTreeMap::<i64, Vec<Block>>::new(), std::mem::take(&mut self.kept));
        for other in others {
            self.raw_from = self.raw_from.max(other.raw_from());
            self.beside.states |= other.policy().1.states;
            kept.extend_from_slice(other.kept());
            for level in other.levels() {
                blocks.entry(level.every).or_default().extend_from_slice(level.blocks);
            }
        }
        let counter = self.kind.is_counter();
        let widths: Vec<i64> = blocks.keys().copied().collect();
        for (every, more) in blocks {
            let at = self.levels.partition_point(|l| l.every < every);
            if self.levels.get(at).is_none_or(|l| l.every != every) {
                self.levels.insert(at, LevelSeries::new(every));
            }
            if let Some(level) = self.levels.get_mut(at) {
                level.put_beside(more, counter, shared)?;
            }
        }
        for every in widths.into_iter().rev() {
            self.settle(every)?;
        }
        self.put_kept(kept, shared)?;
        Ok(self)
    }

    /// The floor of a level by its records: below it a wider one has some, or more.
    fn settle(&mut self, every: i64) -> Result<()> {
        let Some(at) = self.levels.iter().position(|l| l.every == every) else { return Ok(()) };
        let (mut floor, (finer, wider)) = (i64::MIN, self.levels.split_at_mut(at + 1));
        let Some(level) = finer.last_mut() else { return Ok(()) };
        level.floor = i64::MIN;
        let Some(first) = level.blocks.first().map(Block::first) else { return Ok(()) };
        let Some(next) = wider.iter().find(|l| !l.blocks.is_empty()) else { return Ok(()) };
        let end = end_of(first, next.every);
        let begin = end.saturating_sub(next.every);
        let (mut own, mut whole) = (Vec::new(), Vec::new());
        level.records(begin, end, &mut own)?;
        next.records(begin, end, &mut whole)?;
        let count = |records: &[Record]| records.iter().fold(0u64, |sum, r| sum.saturating_add(r.count));
        if count(&whole) > count(&own) {
            level.floor = end;
            return Ok(());
        }
        for level in wider.iter() {
            level.last_record(begin)?.into_iter().for_each(|last| floor = floor.max(last));
        }
        finer.last_mut().into_iter().for_each(|level| level.floor = floor);
        Ok(())
    }

    fn put_kept(&mut self, mut chunks: Vec<Chunk>, shared: &SharedColumns) -> Result<()> {
        chunks.sort_by_key(Chunk::first);
        if chunks.windows(2).all(|two| two[0].last() < two[1].first()) {
            self.kept = chunks;
            return Ok(());
        }
        let mut all = BTreeMap::new();
        for chunk in chunks {
            let (mut times, mut bits) = (Vec::new(), Vec::new());
            chunk.decode_into(&mut times, &mut bits)?;
            times.into_iter().zip(bits).for_each(|(time, bits)| {
                all.entry(time).or_insert(f64::from_bits(bits));
            });
        }
        let all: Vec<(i64, f64)> = all.into_iter().collect();
        self.replace_kept((TIME_MIN, -TIME_MIN), &all, shared)
    }
}

impl LevelSeries {
    /// The end of the last bucket that has a record and ends at or before a time.
    fn last_record(&self, until: i64) -> Result<Option<i64>> {
        let Some(block) = self.blocks.iter().rev().find(|b| b.first() <= until) else { return Ok(None) };
        if block.last() <= until {
            return Ok(Some(block.last()));
        }
        let mut records = Vec::new();
        block.decode(&mut records)?;
        Ok(records.iter().map(|r| r.end).rfind(|&end| end <= until))
    }

    /// Puts blocks beside its own: where several have a bucket, that of the first stands.
    fn put_beside(&mut self, more: Vec<Block>, counter: bool, shared: &SharedColumns) -> Result<()> {
        if self.blocks.first().is_some_and(|b| b.first() <= self.floor) {
            // They are gone, though their block is there.
            self.replace((i64::MIN, self.floor), &[], &[], counter, shared)?;
        }
        let mut all = std::mem::take(&mut self.blocks);
        all.extend(more);
        let last = all.iter().map(Block::last).max().unwrap_or(i64::MIN);
        (self.until, self.floor) = (self.until.max(last), i64::MIN);
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by_key(|&at| all[at].first());
        if order.windows(2).all(|two| all[two[0]].last() < all[two[1]].first()) {
            self.blocks = order.into_iter().map(|at| all[at].clone()).collect();
            return Ok(());
        }
        let mut found: BTreeMap<i64, (Record, Option<Vec<u8>>)> = BTreeMap::new();
        for block in &all {
            let (mut records, mut stored) = (Vec::new(), Vec::new());
            block.decode_with_sketches(&mut records, &mut stored)?;
            for (record, sketch) in paired(&records, &stored) {
                found.entry(record.end).or_insert_with(|| (*record, sketch.map(<[u8]>::to_vec)));
            }
        }
        let records: Vec<Record> = found.values().map(|(record, _)| *record).collect();
        let stored = found.into_iter().filter_map(|(end, (_, sketch))| sketch.map(|bytes| (end, bytes)));
        let stored: Vec<Sketched> = stored.collect();
        self.replace((i64::MIN, i64::MAX), &records, &stored, counter, shared)
    }
}
