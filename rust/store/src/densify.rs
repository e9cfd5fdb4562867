//! Old chunks become denser: neighbours are merged into long blocks and coded anew by their surprise. Slower to
//! read, a tenth to a third smaller. Nothing is locked while samples are coded.

use metricsdb_model::{Budget, Result, ValueKind};

use crate::chunk::{CHUNK_SAMPLES_MAX, Chunk, dense};
use crate::database::Database;
use crate::sealed::Sealed;
use crate::shard::{SHARDS, place_of};

/// A dense chunk is made of packed ones of so many bytes together.
const DENSE_BYTES: usize = 1 << 15;

/// What one call of `densify` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Densified {
    pub samples: u64,
    pub chunks_before: u64,
    pub chunks_after: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// Every series was looked at; the next call begins with the first again.
    pub finished: bool,
}

impl Densified {
    pub fn merge(&mut self, other: &Densified) {
        self.samples += other.samples;
        self.chunks_before += other.chunks_before;
        self.chunks_after += other.chunks_after;
        self.bytes_before += other.bytes_before;
        self.bytes_after += other.bytes_after;
    }
}

/// Neighbouring chunks of one kind that are to become one dense chunk.
pub(crate) struct Run {
    pub at: usize,
    pub kind: ValueKind,
    pub chunks: Vec<Chunk>,
}

impl Run {
    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(Chunk::bytes).sum()
    }
}

/// The runs of a series whose samples are all older than `before`.
pub(crate) fn runs(sealed: &Sealed, before: i64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let (mut samples, mut bytes) = (0, 0);
    for (at, chunk) in sealed.iter().enumerate() {
        if chunk.is_dense() || chunk.last() >= before {
            continue;
        }
        match runs.last_mut() {
            Some(run)
                if run.at + run.chunks.len() == at
                    && run.kind == chunk.kind()
                    && samples + chunk.count() <= CHUNK_SAMPLES_MAX
                    && bytes + chunk.bytes() <= DENSE_BYTES =>
            {
                samples += chunk.count();
                bytes += chunk.bytes();
                run.chunks.push(chunk.clone());
            }
            _ => {
                (samples, bytes) = (chunk.count(), chunk.bytes());
                runs.push(Run { at, kind: chunk.kind(), chunks: vec![chunk.clone()] });
            }
        }
    }
    runs
}

impl Database {
    /// Re-encodes sealed chunks whose samples are all before the time `before` (ms), going on where the last
    /// call ended, until about `samples_max` samples are done or all series were looked at. A writer waits for
    /// the swap of a pointer at most. Errors: what `budget` says.
    pub fn densify(&self, before: i64, samples_max: u64, budget: &Budget) -> Result<Densified> {
        let mut done = Densified::default();
        let mut next = self.densify_at.lock();
        while done.samples < samples_max {
            budget.check()?;
            let (number, row) = place_of(*next);
            let sealed = match self.shard(number).series.sealed.get(row) {
                Some(sealed) => sealed.clone(),
                None if number + 1 < SHARDS => {
                    *next = number as u32 + 1;
                    continue;
                }
                None => {
                    *next = 0;
                    done.finished = true;
                    return Ok(done);
                }
            };
            let runs = runs(&sealed, before);
            if runs.is_empty() || !self.densify_together(*next, before, budget, &mut done)? {
                // From the end, so that the places of the others stay.
                for run in runs.iter().rev() {
                    let chunk = dense(run.kind, &run.chunks, &self.shared_columns)?;
                    self.put_run(*next, run, chunk.count(), vec![chunk], &mut done);
                }
                *next += SHARDS as u32;
            }
        }
        Ok(done)
    }

    /// Puts chunks of `samples` samples, and what is left over of a run, in its place.
    pub(crate) fn put_run(
        &self,
        id: u32,
        run: &Run,
        samples: usize,
        chunks: Vec<Chunk>,
        done: &mut Densified,
    ) {
        let (number, row) = place_of(id);
        let mut shard = self.shard(number);
        let sealed = &mut shard.series.sealed[row];
        // A late sample may have rewritten one of them in the meantime: then the next pass finds it.
        let same =
            |(i, old): (usize, &Chunk)| sealed.get(run.at + i).is_some_and(|c| c.shares_bytes_with(old));
        if !run.chunks.iter().enumerate().all(same) {
            return;
        }
        done.samples += samples as u64;
        done.chunks_before += run.chunks.len() as u64;
        done.chunks_after += chunks.len() as u64;
        let old = sealed.splice(run.at, run.chunks.len(), chunks.clone());
        for chunk in &chunks {
            shard.sealed_count.add(chunk);
            done.bytes_after += chunk.bytes() as u64;
        }
        for chunk in &old {
            shard.sealed_count.remove(chunk);
            done.bytes_before += chunk.bytes() as u64;
        }
    }
}
