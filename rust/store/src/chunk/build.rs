//! How a chunk is made, and how it grows: samples are added behind its last, a block that is not full
//! yet is written anew, a constant one only gets another count.

use std::sync::Arc;

use super::block::Block;
use super::column::{TimeBlock, TimeBlocks, ValueBlock, ValueBlocks, decode_values, put_head};
use super::shared::{Shared, SharedColumns};
use super::{
    BLOCK_SAMPLES, CHUNK_BLOCKS, CHUNK_BYTES, CHUNK_SAMPLES_MAX, Chunk, DENSE, DENSE_BLOCK_SAMPLES,
    LONG_BYTES, LONG_TIME, Parts, REGULAR, SHORT_BYTES, SHORT_EPOCH, STEP_MAX, VERSION, VERSION_SHIFT,
    flags_of, short, step_word,
};
use crate::codec::choose::{self, Plan};
use crate::codec::cursor::put_varint;
use crate::codec::dense;
use crate::codec::timestamps;
use crate::codec::values::Section;
use metricsdb_model::{Result, ValueKind};

/// Shorter sections are not tried in halves.
const HALVES_BYTES: usize = 128;
/// What another block costs beside its section, about.
const HEAD_BYTES: usize = 4;

/// A chunk that is being made.
pub struct Builder {
    kind: ValueKind,
    first: i64,
    last: i64,
    count: usize,
    /// The step of all times so far; 0 while there is one sample.
    step: Option<u64>,
    values: Vec<u8>,
    times: Vec<u8>,
    /// The last block of values: where its head stands, its samples, and its value if that is one.
    tail: Option<Tail>,
    time_tail: Option<TimeTail>,
    /// What was decided for the last block.
    plan: Option<Plan>,
    /// How many blocks of values there are.
    blocks: usize,
    dense: bool,
}

struct Tail {
    at: usize,
    count: usize,
    constant: Option<u64>,
}

/// The last block of times; `before` is the time before its first.
struct TimeTail {
    at: usize,
    before: i64,
    count: usize,
}

impl Builder {
    /// Starts with columns of one or more samples, `CHUNK_SAMPLES_MAX` at most, times increasing.
    pub fn new(kind: ValueKind, times: &[i64], bits: &[u64]) -> Builder {
        Builder::with(kind, times, bits, false)
    }

    /// The same in long blocks, coded as small as they can be.
    pub fn dense(kind: ValueKind, times: &[i64], bits: &[u64]) -> Builder {
        Builder::with(kind, times, bits, true)
    }

    /// One block with a section that was written elsewhere.
    pub(super) fn of_section(kind: ValueKind, times: &[i64], section: &[u8]) -> Builder {
        let mut builder = Builder::with(kind, times, &[], true);
        put_head(&mut builder.values, section.len(), times.len());
        builder.values.extend_from_slice(section);
        builder
    }

    /// The times, shared with chunks that have the same; `None` where they are regular.
    pub(super) fn shared_times(&self, shared: &SharedColumns) -> Option<Arc<Shared>> {
        self.step.is_none().then(|| shared.intern(Shared::Times(self.times[..].into())))
    }

    fn with(kind: ValueKind, times: &[i64], bits: &[u64], dense: bool) -> Builder {
        let first = times.first().copied().unwrap_or(0);
        let step = timestamps::regular(times).filter(|&step| step < STEP_MAX);
        let mut builder = Builder {
            kind,
            first,
            last: first,
            count: 0,
            step,
            values: Vec::new(),
            times: Vec::new(),
            tail: None,
            time_tail: None,
            plan: None,
            blocks: 0,
            dense,
        };
        builder.add(times, bits);
        builder
    }

    /// Goes on with a chunk. Errors: `Corruption`.
    pub fn of(chunk: &Chunk) -> Result<Builder> {
        let parts = Parts::parse(chunk)?;
        let (mut tail, mut plan, mut blocks) = (None, None, 0);
        let mut last_block: Option<ValueBlock> = None;
        for block in parts.value_blocks() {
            last_block = Some(block?);
            blocks += 1;
        }
        if let Some(block) = last_block {
            let section = block.section()?;
            plan = section.plan();
            tail = Some(Tail { at: block.at, count: block.count, constant: section.constant() });
        }
        let mut time_tail = None;
        if parts.step.is_none() {
            let mut before = parts.first;
            let blocks: Result<Vec<TimeBlock>> =
                TimeBlocks::new(parts.times, parts.first, parts.count).collect();
            for block in blocks? {
                time_tail = Some(TimeTail { at: block.at, before, count: block.count });
                before = block.last;
            }
        }
        Ok(Builder {
            kind: parts.kind,
            first: parts.first,
            last: parts.last,
            count: parts.count,
            step: parts.step,
            values: parts.values.to_vec(),
            times: parts.times.to_vec(),
            tail,
            time_tail,
            plan,
            blocks,
            dense: false,
        })
    }

    /// Whether `times`, which begin after the last, may be added: one chunk is regular as a whole or not at
    /// all, and it has its limits.
    pub fn fits(&self, times: &[i64]) -> bool {
        let room = self.values.len() + self.times.len() < CHUNK_BYTES
            && self.blocks < CHUNK_BLOCKS
            && self.count + times.len() <= CHUNK_SAMPLES_MAX;
        room && (self.step.is_none() || self.goes_on(times))
    }

    /// Whether all stay regular with these times added.
    fn goes_on(&self, times: &[i64]) -> bool {
        let Some((&next, step)) = times.first().zip(self.step) else { return false };
        let gap = next.wrapping_sub(self.last) as u64;
        let own = timestamps::regular(times);
        gap < STEP_MAX
            && own.is_some_and(|own| (times.len() == 1 || own == gap) && (self.count <= 1 || step == gap))
    }

    /// Adds samples behind the last; `fits` has said yes.
    pub fn append(&mut self, times: &[i64], bits: &[u64]) -> Result<()> {
        if self.step.is_some() && self.count <= 1 {
            self.step = times.first().map(|t| t.wrapping_sub(self.last) as u64);
        }
        let popped = self.pop_values(bits)?;
        let popped_times = self.pop_times()?;
        match popped {
            Some(mut all) => {
                all.extend_from_slice(bits);
                self.add_values(&all);
            }
            None => self.add_values(bits),
        }
        self.count += times.len();
        self.last = times.last().copied().unwrap_or(self.last);
        if self.step.is_none() {
            let (before, mut all) = popped_times;
            all.extend_from_slice(times);
            self.add_times(before, &all);
        }
        Ok(())
    }

    fn add(&mut self, times: &[i64], bits: &[u64]) {
        self.add_values(bits);
        self.count += times.len();
        self.last = times.last().copied().unwrap_or(self.last);
        if self.step.is_none() {
            self.add_times(self.first, times);
        }
    }

    /// Takes the last block off if it isn't full and does not just go on as the constant that it is.
    fn pop_values(&mut self, next: &[u64]) -> Result<Option<Vec<u64>>> {
        let Some(tail) = self.tail.take() else { return Ok(None) };
        let goes_on = tail.constant.is_some_and(|v| next.iter().all(|&b| b == v));
        if tail.count >= BLOCK_SAMPLES || goes_on {
            self.tail = Some(tail);
            return Ok(None);
        }
        let rest = self.values.get(tail.at..).unwrap_or(&[]);
        let mut bits = Vec::with_capacity(tail.count + next.len());
        decode_values(ValueBlocks::new(rest, self.kind, tail.count), 0, tail.count, |b| b, &mut bits)?;
        self.values.truncate(tail.at);
        self.blocks -= 1;
        Ok(Some(bits))
    }

    /// Takes the last block of times off if it isn't full: the time before it, and its times.
    fn pop_times(&mut self) -> Result<(i64, Vec<i64>)> {
        let Some(tail) = self.time_tail.take_if(|tail| tail.count < BLOCK_SAMPLES) else {
            return Ok((self.last, Vec::new()));
        };
        let rest = self.times.get(tail.at..).unwrap_or(&[]);
        let mut times = Vec::with_capacity(BLOCK_SAMPLES);
        if let Some(block) = TimeBlocks::after(rest, tail.before, tail.count, tail.at == 0).next() {
            block?.decode(&mut times)?;
        }
        self.times.truncate(tail.at);
        Ok((tail.before, times))
    }

    fn add_values(&mut self, bits: &[u64]) {
        for piece in bits.chunks(if self.dense { DENSE_BLOCK_SAMPLES } else { BLOCK_SAMPLES }) {
            if self.dense {
                dense_blocks(self.kind, piece)
                    .into_iter()
                    .for_each(|(bits, section)| self.add_block(bits, &section));
                continue;
            }
            let mut section = Vec::with_capacity(piece.len() * 2 + 64);
            choose::encode(self.kind, piece, self.plan, &mut section);
            // A constant in between changes nothing of what comes after it.
            self.plan =
                Section::parse(&section, self.kind, piece.len()).ok().and_then(|s| s.plan()).or(self.plan);
            self.add_block(piece, &section);
        }
    }

    fn add_block(&mut self, bits: &[u64], section: &[u8]) {
        let constant = bits.first().copied().filter(|v| bits.iter().all(|b| b == v));
        let mut count = bits.len();
        let longer = self.tail.take_if(|tail| constant.is_some() && tail.constant == constant);
        if let Some(tail) = longer {
            count += tail.count;
            self.values.truncate(tail.at);
            self.blocks -= 1;
        }
        self.blocks += 1;
        self.tail = Some(Tail { at: self.values.len(), count, constant });
        put_head(&mut self.values, section.len(), count);
        self.values.extend_from_slice(section);
    }

    fn add_times(&mut self, before: i64, times: &[i64]) {
        let mut before = before;
        let mut column = Vec::new();
        for piece in times.chunks(BLOCK_SAMPLES) {
            let (Some(&first), Some(&last)) = (piece.first(), piece.last()) else { return };
            column.clear();
            if timestamps::regular(piece).is_none() {
                timestamps::encode(piece, &mut column);
            }
            self.time_tail = Some(TimeTail { at: self.times.len(), before, count: piece.len() });
            put_head(&mut self.times, column.len(), piece.len());
            put_varint(&mut self.times, first.wrapping_sub(before) as u64);
            put_varint(&mut self.times, last.wrapping_sub(first) as u64);
            self.times.extend_from_slice(&column);
            before = last;
        }
    }

    /// The chunk; its times are shared with those that have the same.
    pub fn finish(self, shared: &SharedColumns) -> Chunk {
        let times = self.shared_times(shared);
        self.finish_with(times)
    }

    pub(super) fn finish_with(self, times: Option<Arc<Shared>>) -> Chunk {
        let near = self.first.wrapping_sub(SHORT_EPOCH);
        let long = short(near as u64) != self.first;
        let mut out = Vec::with_capacity(24 + self.values.len());
        out.push(
            VERSION << VERSION_SHIFT
                | flags_of(self.kind)
                | if self.step.is_some() { REGULAR } else { 0 }
                | if long { LONG_TIME } else { 0 }
                | if self.dense { DENSE } else { 0 },
        );
        out.extend_from_slice(&(self.count.saturating_sub(1) as u16).to_le_bytes());
        match long {
            true => out.extend_from_slice(&self.first.to_le_bytes()[..LONG_BYTES]),
            false => out.extend_from_slice(&near.to_le_bytes()[..SHORT_BYTES]),
        }
        let span = self.last.wrapping_sub(self.first) as u64;
        put_varint(&mut out, self.step.map_or(span, step_word));
        out.extend_from_slice(&self.values);
        Chunk { block: Block::new(times, &out) }
    }
}

/// Dense sections of a long block, or of its halves where these are smaller: values whose character changes are
/// decimals of two scales, or doubles only at times.
fn dense_blocks(kind: ValueKind, bits: &[u64]) -> Vec<(&[u64], Vec<u8>)> {
    let encode = |bits: &[u64]| {
        let mut section = Vec::new();
        dense::encode(kind, bits, &mut section);
        section
    };
    let mut todo = vec![(bits, encode(bits))];
    let mut done = Vec::new();
    while let Some((bits, section)) = todo.pop() {
        let (a, b) = bits.split_at((bits.len() / 2).next_multiple_of(BLOCK_SAMPLES).min(bits.len()));
        if b.is_empty() || section.len() < HALVES_BYTES {
            done.push((bits, section));
            continue;
        }
        let (first, second) = (encode(a), encode(b));
        if first.len() + second.len() + HEAD_BYTES < section.len() {
            todo.extend([(b, second), (a, first)]);
        } else {
            done.push((bits, section));
        }
    }
    done
}
