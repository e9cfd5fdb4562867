//! Old buckets of one classic histogram become chunks that are coded together: each bucket rises with the one
//! below it, so the distance of the two is what is worth writing.

use std::collections::HashSet;

use metricsdb_model::{Budget, MatchOp, Matcher, Predicate, Result, ValueKind};

use crate::chunk::{
    BLOCK_SAMPLES, Chunk, TOGETHER_MAX, TOGETHER_SAMPLES_MAX, chunks_of, dense, whole_together,
};
use crate::database::Database;
use crate::densify::{Densified, Run, runs};
use crate::shard::place_of;

/// The label that tells buckets of a histogram apart.
const BOUND: &str = "le";
/// Fewer series are not worth the chain that reading one of them is.
const MEMBERS_MIN: usize = 3;

/// A bucket, and the samples of its oldest run of chunks.
struct Bucket {
    id: u32,
    bound: f64,
    run: Run,
    times: Vec<i64>,
    bits: Vec<u64>,
}

impl Bucket {
    /// The last time that is old enough.
    fn last(&self) -> Option<i64> {
        let old = self.times.partition_point(|&t| t < self.run.until);
        self.times.get(old.checked_sub(1)?).copied()
    }

    /// Positions of the samples from `start` to `end`.
    fn within(&self, start: i64, end: i64) -> std::ops::Range<usize> {
        self.times.partition_point(|&t| t < start)..self.times.partition_point(|&t| t <= end)
    }
}

impl Database {
    /// Codes the oldest run of chunks of a bucket together with its siblings'; false where there are none, or
    /// nothing is gained; then those of which the same is known are `refused`.
    pub(crate) fn densify_together(
        &self,
        id: u32,
        before: i64,
        budget: &Budget,
        refused: &mut HashSet<u32>,
        done: &mut Densified,
    ) -> Result<bool> {
        let Some(buckets) = self.buckets_of(id, before, budget)? else { return Ok(false) };
        let Some(own) = buckets.iter().find(|b| b.id == id) else { return Ok(false) };
        let kind = own.run.kind;
        let start = buckets.iter().filter_map(|b| b.times.first()).max().copied().unwrap_or(i64::MAX);
        let end = buckets.iter().filter_map(Bucket::last).min().unwrap_or(i64::MIN);
        let place = own.within(start, end);
        let place = place.start..place.end.min(place.start + TOGETHER_SAMPLES_MAX);
        let times = own.times.get(place).unwrap_or(&[]).to_vec();
        let Some((&start, &end)) = times.first().zip(times.last()) else { return Ok(false) };
        let alike: Vec<&Bucket> = buckets
            .iter()
            .filter(|b| b.run.kind == kind && b.times.get(b.within(start, end)) == Some(&times[..]))
            .collect();
        if times.len() < BLOCK_SAMPLES || alike.len() < MEMBERS_MIN {
            refused.extend(alike.iter().map(|b| b.id).filter(|other| *other != id));
            return Ok(false);
        }
        let whole = |b: &Bucket| crate::codec::dense::whole(kind, b.bits.get(b.within(start, end))?);
        let able = alike.into_iter().filter_map(|b| Some((b, whole(b)?)));
        let (members, integers): (Vec<&Bucket>, Vec<Vec<i64>>) = able.unzip();
        if members.len() < MEMBERS_MIN || !members.iter().any(|b| b.id == id) {
            return Ok(false);
        }
        let columns: Vec<&[u64]> =
            members.iter().map(|b| b.bits.get(b.within(start, end)).unwrap_or(&[])).collect();
        let coded = whole_together(kind, &times, &columns, &integers, &self.shared_columns);
        let Some(chunks) = coded else {
            return Ok(false);
        };
        let shared = chunks.first().and_then(Chunk::shared).map_or(0, |shared| shared.bytes());
        let after = shared + chunks.iter().map(Chunk::bytes).sum::<usize>();
        let before: usize = members.iter().map(|b| b.run.bytes() * times.len() / b.times.len().max(1)).sum();
        if after >= before {
            refused.extend(members.iter().map(|b| b.id).filter(|other| *other != id));
            return Ok(false);
        }
        done.bytes_after += shared as u64;
        for (bucket, chunk) in members.into_iter().zip(chunks) {
            self.put_together(bucket, (start, end), chunk, done)?;
        }
        Ok(true)
    }

    /// The siblings of a bucket, itself among them, by bound; `None` for a series that is none.
    fn buckets_of(&self, id: u32, before: i64, budget: &Budget) -> Result<Option<Vec<Bucket>>> {
        let Some(bound) = self.symbols.lookup(BOUND) else { return Ok(None) };
        let pairs = self.pairs_of(id);
        if !pairs.iter().any(|(name, _)| *name == bound) {
            return Ok(None);
        }
        let rest = |pairs: &[(u32, u32)]| -> Vec<(u32, u32)> {
            pairs.iter().copied().filter(|(name, _)| *name != bound).collect()
        };
        let wanted = rest(&pairs);
        let matchers: Result<Vec<Predicate>> = wanted
            .iter()
            .map(|(name, value)| {
                let (name, value) = (self.symbols.get(*name), self.symbols.get(*value));
                Matcher::new(&name, MatchOp::Equal, &value).map(Predicate::Match)
            })
            .collect();
        let _inside = self.inside();
        let ids = self.index.select(&Predicate::All(matchers?), self, budget)?;
        if ids.len() < MEMBERS_MIN as u64 || ids.len() > TOGETHER_MAX as u64 {
            return Ok(None);
        }
        let mut buckets = Vec::new();
        for id in ids {
            let pairs = self.pairs_of(id);
            let Some((_, value)) = pairs.iter().find(|(name, _)| *name == bound) else { continue };
            let Ok(limit) = self.symbols.get(*value).parse::<f64>() else { continue };
            let (number, row) = place_of(id);
            let sealed = self.shard(number).series.sealed[row].clone();
            let Some(run) = runs(&sealed, before).into_iter().next().filter(|_| rest(&pairs) == wanted)
            else {
                continue;
            };
            let (times, bits) = run.decode()?;
            buckets.push(Bucket { id, bound: limit, run, times, bits });
        }
        buckets.sort_by(|a, b| a.bound.total_cmp(&b.bound));
        Ok(Some(buckets))
    }

    fn pairs_of(&self, id: u32) -> Vec<(u32, u32)> {
        let (number, row) = place_of(id);
        let shard = self.shard(number);
        shard.label_sets.pairs(&self.shapes, shard.series.labels[row]).collect()
    }

    /// Puts a chunk in the place of a bucket's run, with what that has before and behind it beside it.
    fn put_together(
        &self,
        bucket: &Bucket,
        (start, end): (i64, i64),
        chunk: Chunk,
        done: &mut Densified,
    ) -> Result<()> {
        let inside = bucket.within(start, end);
        let kind: ValueKind = bucket.run.kind;
        let shared = &self.shared_columns;
        let mut chunks = Vec::new();
        if inside.start > 0 {
            let earlier =
                chunks_of(kind, &bucket.times[..inside.start], &bucket.bits[..inside.start], shared)?;
            chunks.push(dense(kind, &earlier, shared)?);
        }
        chunks.push(chunk);
        chunks.extend(chunks_of(kind, &bucket.times[inside.end..], &bucket.bits[inside.end..], shared)?);
        self.put_run(bucket.id, &bucket.run, inside.len(), chunks, done);
        Ok(())
    }
}
