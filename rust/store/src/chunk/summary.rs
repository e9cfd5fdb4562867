//! What the samples of a chunk come to, from the heads of its blocks: only blocks that the range cuts, and
//! those whose heads can't say it, are decoded.

use metricsdb_model::sample::is_stale;
use metricsdb_model::{Result, Summary, TimeRange, Wants};

use super::column::ValueBlock;
use super::{BLOCK_SAMPLES, Chunk, Parts};

/// A summary in the making, and how many samples had to be decoded for it.
#[derive(Default)]
pub struct Folded {
    pub summary: Option<Summary>,
    pub decoded: usize,
    values: Vec<f64>,
}

impl Folded {
    pub fn append(&mut self, next: Summary) {
        match &mut self.summary {
            Some(all) => all.append(&next),
            None => self.summary = Some(next),
        }
    }

    /// Adds samples one by one, but for staleness markers.
    pub fn append_samples(&mut self, times: impl Iterator<Item = i64>, values: &[f64]) {
        self.decoded += values.len();
        for (t, &v) in times.zip(values).filter(|(_, v)| !is_stale(**v)) {
            self.append(Summary::of(t, v));
        }
    }
}

/// Times by position, of a stretch of a chunk.
enum Times {
    Regular { first: i64, step: u64 },
    Some { from: usize, times: Vec<i64> },
}

impl Times {
    fn at(&self, i: usize) -> i64 {
        match self {
            Times::Regular { first, step } => first.wrapping_add(step.wrapping_mul(i as u64) as i64),
            Times::Some { from, times } => times.get(i.wrapping_sub(*from)).copied().unwrap_or(i64::MAX),
        }
    }
}

impl Chunk {
    /// Whether some whole block is sure to lie in the range, so that folding saves decoding.
    pub fn has_block_within(&self, range: TimeRange) -> bool {
        let (first, last) = (self.first(), self.last());
        if first >= range.start && last <= range.end {
            return true;
        }
        let common = range.end.min(last) as f64 - range.start.max(first) as f64;
        let samples = common / (last as f64 - first as f64).max(1.0) * self.count() as f64;
        samples >= 2.0 * BLOCK_SAMPLES as f64
    }

    /// How many samples lie in `range`, and their exact sum, where all are integers and their blocks tell it; else `None`.
    /// Errors: `Corruption`.
    pub fn integer_sum(&self, range: TimeRange) -> Result<Option<(usize, i64)>> {
        let parts = Parts::parse(self)?;
        let (from, to) = parts.places(range)?;
        let mut sum = 0i64;
        for block in parts.value_blocks() {
            let block = block?;
            let (a, b) = (from.max(block.from), to.min(block.from + block.count));
            if a < b {
                let Some(more) = block.section()?.integer_sum(a - block.from, b - block.from)? else {
                    return Ok(None);
                };
                sum = sum.wrapping_add(more);
            }
        }
        Ok(Some((to - from, sum)))
    }

    /// Adds what the samples in `range` come to. Errors: `Corruption`.
    pub fn fold(&self, range: TimeRange, wants: Wants, into: &mut Folded) -> Result<()> {
        let parts = Parts::parse(self)?;
        let (times, from, to) = match parts.positions(range) {
            Some((step, from, to)) => (Times::Regular { first: parts.first, step }, from, to),
            None => {
                let mut times = Vec::new();
                let (from, to) = parts.decode_times(range, &mut times)?;
                (Times::Some { from, times }, from, to)
            }
        };
        for block in parts.value_blocks() {
            let block = block?;
            let (a, b) = (from.max(block.from), to.min(block.from + block.count));
            if a >= b {
                continue;
            }
            let whole = if b - a == block.count { head(&block, wants, &times)? } else { None };
            match whole {
                Some(summary) => into.append(summary),
                None => {
                    let mut values = std::mem::take(&mut into.values);
                    values.clear();
                    let kind = block.kind;
                    let convert = |bits| kind.widen(bits);
                    block.section()?.decode(a - block.from, b - block.from, convert, &mut values)?;
                    into.append_samples((a..b).map(|i| times.at(i)), &values);
                    into.values = values;
                }
            }
        }
        Ok(())
    }
}

/// The whole block from its head, where that says all that is wanted.
fn head(block: &ValueBlock<'_>, wants: Wants, times: &Times) -> Result<Option<Summary>> {
    let section = block.section()?;
    let s = section.statistics()?;
    if s.stale > 0 || s.nan > 0 || (wants == Wants::Resets && s.resets != Some(0)) {
        return Ok(None);
    }
    let sum = if wants == Wants::Sum { section.sum()? } else { 0.0 };
    let first = (times.at(block.from), s.first);
    let last = (times.at(block.from + block.count - 1), s.last);
    Ok(Some(Summary::of_block(block.count as u64, first, last, (s.min, s.max), sum)))
}
