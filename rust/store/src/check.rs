//! Proves that what is derived follows from what is owned: a store that passes `check` is sound.

use metricsdb_model::{Budget, Error, MatchOp, Matcher, Predicate, Result};
use roaring::RoaringBitmap;

use crate::database::Database;
use crate::shard::{SHARDS, SealedCount, Shard, Work, id_of};

/// What `check` found wrong with a series.
fn wrong(id: u32, message: impl Into<String>) -> Error {
    Error::Corruption { what: format!("series {id}"), offset: 0, message: message.into() }
}

impl Database {
    /// Compares label sets, hash tables, postings, raw hashes, chunks and counters with each other.
    /// Decodes every sample; no writer may be at work. Errors: `Corruption`, naming the first offender.
    pub fn check(&self) -> Result<()> {
        let mut all = RoaringBitmap::new();
        for number in 0..SHARDS {
            let shard = self.shard(number);
            self.check_rows(&shard, &mut all)?;
            check_chunks(&shard)?;
            check_histograms(&shard)?;
            check_starts(&shard)?;
            check_rollups(&shard)?;
        }
        if *self.index.all() != all {
            return Err(wrong(0, "the index does not hold just the series of the shards"));
        }
        self.check_postings()?;
        self.check_limits()?;
        let mut unknown = None;
        self.raw.for_each_id(|id| {
            if !all.contains(id) {
                unknown = Some(id);
            }
        });
        self.check_values(&all)?;
        match unknown {
            Some(id) => Err(wrong(id, "a raw hash leads to it, but it does not exist")),
            None if self.series_count() as u64 != all.len() => Err(wrong(0, "series are counted wrongly")),
            None => Ok(()),
        }
    }

    /// Each row's labels hash to its identity, its shard and its table entry, and choose its precision.
    fn check_rows(&self, shard: &Shard, all: &mut RoaringBitmap) -> Result<()> {
        let mut text = Vec::new();
        for row in shard.series.rows() {
            let id = id_of(shard.number, row);
            let labels = self.labels_of(shard, row, &mut text);
            let hash = shard.series.hashes[row];
            if labels.hash64() != hash || (hash >> 56) as u8 != shard.number {
                return Err(wrong(id, format!("{labels} is not what its hash says")));
            }
            let handle = shard.series.labels[row];
            if shard.series.find(hash, |h| h == handle) != Some(row) {
                return Err(wrong(id, "its label set does not lead to it"));
            }
            if shard.series.precision[row] != self.mark_of(&shard.precision, labels.as_ref()) {
                return Err(wrong(id, "its precision is not what the rules say"));
            }
            all.insert(id);
        }
        Ok(())
    }

    /// No label has a value, or a series, that no series carries any more.
    fn check_values(&self, all: &RoaringBitmap) -> Result<()> {
        for name in self.index.label_names(None, &Budget::unlimited())? {
            let matcher = Matcher::new(&name, MatchOp::NotEqual, "")?;
            let carriers = self.index.select(&Predicate::Match(matcher), self, &Budget::unlimited())?;
            if carriers.is_empty() || !carriers.is_subset(all) {
                return Err(wrong(0, format!("label {name} has other series than those that there are")));
            }
            let listed = self.index.label_values(&name, None, self, &Budget::unlimited())?;
            let carried = self.index.label_values(&name, Some(&carriers), self, &Budget::unlimited())?;
            if listed != carried || listed.len() as u64 != self.index.label_size(&name) {
                return Err(wrong(0, format!("label {name} has values that no series has")));
            }
        }
        Ok(())
    }

    /// Each label pair's postings are just the series that carry it.
    fn check_postings(&self) -> Result<()> {
        let mut carriers: std::collections::HashMap<(u32, u32), RoaringBitmap> = Default::default();
        for number in 0..SHARDS {
            let shard = self.shard(number);
            for row in shard.series.rows() {
                for pair in shard.label_sets.pairs(&self.shapes, shard.series.labels[row]) {
                    carriers.entry(pair).or_default().insert(id_of(shard.number, row));
                }
            }
        }
        let budget = Budget::unlimited();
        for ((name, value), ids) in carriers {
            let matcher = Matcher::new(&self.symbols.get(name), MatchOp::Equal, &self.symbols.get(value))?;
            if self.index.select(&Predicate::Match(matcher), self, &budget)? != ids {
                let first = ids.min().unwrap_or(0);
                return Err(wrong(first, format!("postings of label symbol {name}={value} are wrong")));
            }
        }
        Ok(())
    }
}

/// Histograms belong to series that exist, rise in time and decode.
fn check_histograms(shard: &Shard) -> Result<()> {
    for (row, series) in shard.histograms.iter() {
        let id = id_of(shard.number, row);
        if !shard.series.has(row) || series.span().is_none() {
            return Err(wrong(id, "it has a table of histograms, but no histogram or no labels"));
        }
        series.check().map_err(|error| wrong(id, error.to_string()))?;
    }
    Ok(())
}

/// Start timestamps belong to series that exist, and their steps rise in time.
fn check_starts(shard: &Shard) -> Result<()> {
    for (row, series) in shard.starts.iter() {
        let id = id_of(shard.number, row);
        if !shard.series.has(row) {
            return Err(wrong(id, "it has start timestamps, but no labels"));
        }
        series.check().map_err(|error| wrong(id, error.to_string()))?;
    }
    Ok(())
}

/// Records belong to series that exist, rise in time and decode.
fn check_rollups(shard: &Shard) -> Result<()> {
    for (row, series) in shard.rollups.iter() {
        let id = id_of(shard.number, row);
        if !shard.series.has(row) {
            return Err(wrong(id, "it has rollups, but no labels"));
        }
        series.unpack().check().map_err(|error| wrong(id, error.to_string()))?;
    }
    Ok(())
}

/// Chunks rise in time, are disjoint and hold what their headers and the counters say.
fn check_chunks(shard: &Shard) -> Result<()> {
    let mut count = SealedCount::default();
    let mut work = Work::default();
    let mut slabs = std::collections::HashSet::new();
    for row in 0..shard.series.len() as u32 {
        let id = id_of(shard.number, row);
        let mut newest: Option<i64> = None;
        let mut rises = |times: &[i64]| {
            let after = newest.is_none_or(|n| times.first().is_some_and(|&t| t > n));
            newest = times.last().copied();
            after && !times.is_empty() && times.windows(2).all(|w| w[0] < w[1])
        };
        for chunk in shard.series.sealed[row].iter() {
            count.add(chunk);
            work.times.clear();
            work.bits.clear();
            chunk.decode_into(&mut work.times, &mut work.bits)?;
            let ends = (work.times.first().copied(), work.times.last().copied());
            if ends != (Some(chunk.first()), Some(chunk.last())) || work.times.len() != chunk.count() {
                return Err(wrong(id, "a chunk's header does not describe its samples"));
            }
            if !rises(&work.times) {
                return Err(wrong(id, "sealed samples do not rise in time"));
            }
        }
        let head = shard.series.heads[row];
        if head.is_open() {
            shard.decode_open(&head.state, shard.open_bytes(&head), &mut work)?;
            if work.times.len() != head.state.count() || !rises(&work.times) {
                return Err(wrong(id, "open samples do not rise in time"));
            }
            if !slabs.insert(head.slab) {
                return Err(wrong(id, "its slab belongs to another series too"));
            }
        }
    }
    if slabs.len() != shard.arena.len() {
        return Err(wrong(id_of(shard.number, 0), "slabs are in use that no series of its shard holds"));
    }
    match count == shard.sealed_count {
        true => Ok(()),
        false => Err(wrong(id_of(shard.number, 0), "sealed chunks of its shard are counted wrongly")),
    }
}
