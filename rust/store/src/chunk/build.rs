//! How a chunk is made, and how it grows: samples are added behind its last, a block that is not full
//! yet is written anew, a constant one only gets another count.

use std::borrow::Cow;
use std::sync::Arc;

use metricsdb_model::{Result, ValueKind};

use super::block::Block;
use super::column::{TimeBlock, TimeBlocks, ValueBlocks, decode_values, put_head};
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
    pub(super) fn shared_times(&mut self, shared: &SharedColumns) -> Option<Arc<Shared>> {
        self.step.is_none().then(|| shared.intern(Shared::Times(std::mem::take(&mut self.times).into())))
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
        builder.add_values(bits);
        builder.add_times(first, times);
        builder.count = times.len();
        builder
    }

    /// Goes on with a chunk. Errors: `Corruption`.
    pub fn of(chunk: &Chunk) -> Result<Builder> {
        let parts = Parts::parse(chunk)?;
        let (mut last, mut blocks) = (None, 0);
        for block in parts.value_blocks() {
            last = Some(block?);
            blocks += 1;
        }
        let last = last.map(|block| Ok((block.at, block.count, block.section()?))).transpose()?;
        let plan = last.as_ref().and_then(|(.., section)| section.plan());
        let tail = last.map(|(at, count, section)| Tail { at, count, constant: section.constant() });
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
        room && self.step.is_none_or(|step| self.goes_on(step, times))
    }

    /// Whether all stay regular with these times added.
    fn goes_on(&self, step: u64, times: &[i64]) -> bool {
        times.first().zip(timestamps::regular(times)).is_some_and(|(&next, own)| {
            let gap = next.wrapping_sub(self.last) as u64;
            gap < STEP_MAX && (times.len() == 1 || own == gap) && (self.count <= 1 || step == gap)
        })
    }

    /// Adds samples behind the last; `fits` has said yes.
    pub fn append(&mut self, times: &[i64], bits: &[u64]) -> Result<()> {
        if self.step.is_some() && self.count <= 1 {
            self.step = times.first().map(|t| t.wrapping_sub(self.last) as u64);
        }
        let popped = self.pop_values(bits)?;
        let (before, popped_times) = self.pop_times()?;
        self.add_values(&behind(popped, bits));
        self.add_times(before, &behind(popped_times, times));
        self.count += times.len();
        Ok(())
    }

    /// Takes the last block off if it isn't full and does not just go on as the constant that it is.
    fn pop_values(&mut self, next: &[u64]) -> Result<Vec<u64>> {
        let short = |tail: &mut Tail| {
            let goes_on = tail.constant.is_some_and(|v| next.iter().all(|&b| b == v));
            tail.count < BLOCK_SAMPLES && !goes_on
        };
        let Some(tail) = self.tail.take_if(short) else { return Ok(Vec::new()) };
        let rest = self.values.get(tail.at..).unwrap_or(&[]);
        let mut bits = Vec::with_capacity(tail.count + next.len());
        decode_values(ValueBlocks::new(rest, self.kind, tail.count), 0, tail.count, |b| b, &mut bits)?;
        self.values.truncate(tail.at);
        self.blocks -= 1;
        Ok(bits)
    }

    /// Takes the last block of times off if it isn't full: the time before it, and its times.
    fn pop_times(&mut self) -> Result<(i64, Vec<i64>)> {
        let Some(tail) = self.time_tail.take_if(|tail| tail.count < BLOCK_SAMPLES) else {
            return Ok((self.last, Vec::new()));
        };
        let rest = self.times.get(tail.at..).unwrap_or(&[]);
        let mut times = Vec::with_capacity(BLOCK_SAMPLES);
        for block in TimeBlocks::after(rest, tail.before, tail.count, tail.at == 0) {
            block?.decode(&mut times)?;
        }
        self.times.truncate(tail.at);
        Ok((tail.before, times))
    }

    fn add_values(&mut self, bits: &[u64]) {
        if self.dense {
            for piece in bits.chunks(DENSE_BLOCK_SAMPLES) {
                dense_blocks(self.kind, piece).iter().for_each(|(bits, s)| self.add_block(bits.len(), s));
            }
            return;
        }
        let mut section = Vec::new();
        for piece in bits.chunks(BLOCK_SAMPLES) {
            section.clear();
            choose::encode(self.kind, piece, self.plan, &mut section);
            self.add_block(piece.len(), &section);
        }
    }

    fn add_block(&mut self, mut count: usize, section: &[u8]) {
        let parsed = Section::parse(section, self.kind, count).ok();
        let constant = parsed.as_ref().and_then(Section::constant);
        // A constant in between changes nothing of what comes after it.
        self.plan = parsed.as_ref().and_then(Section::plan).or(self.plan);
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

    /// Adds times behind `before`; a column of them only where they are not regular.
    fn add_times(&mut self, mut before: i64, times: &[i64]) {
        self.last = times.last().copied().unwrap_or(self.last);
        if self.step.is_some() {
            return;
        }
        let mut column = Vec::new();
        let pieces = times.chunks(BLOCK_SAMPLES);
        for (piece, first, last) in pieces.filter_map(|p| Some((p, *p.first()?, *p.last()?))) {
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
    pub fn finish(mut self, shared: &SharedColumns) -> Chunk {
        let times = self.shared_times(shared);
        self.finish_with(times)
    }

    pub(super) fn finish_with(self, times: Option<Arc<Shared>>) -> Chunk {
        let near = self.first.wrapping_sub(SHORT_EPOCH);
        let long = short(near as u64) != self.first;
        let mut head = Vec::with_capacity(24);
        head.push(
            VERSION << VERSION_SHIFT
                | flags_of(self.kind)
                | if self.step.is_some() { REGULAR } else { 0 }
                | if long { LONG_TIME } else { 0 }
                | if self.dense { DENSE } else { 0 },
        );
        head.extend_from_slice(&(self.count.saturating_sub(1) as u16).to_le_bytes());
        match long {
            true => head.extend_from_slice(&self.first.to_le_bytes()[..LONG_BYTES]),
            false => head.extend_from_slice(&near.to_le_bytes()[..SHORT_BYTES]),
        }
        let span = self.last.wrapping_sub(self.first) as u64;
        put_varint(&mut head, self.step.map_or(span, step_word));
        Chunk { block: Block::new(times, [&head, &self.values]) }
    }
}

/// Both columns as one; what comes is not copied where nothing was there.
fn behind<T: Copy>(mut popped: Vec<T>, next: &[T]) -> Cow<'_, [T]> {
    if popped.is_empty() {
        return Cow::Borrowed(next);
    }
    popped.extend_from_slice(next);
    Cow::Owned(popped)
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
