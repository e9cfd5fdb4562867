//! Sketches beside records: quantiles within one percent of the samples of whole buckets.

use std::sync::Arc;

use metricsdb_model::{Result, Sketch};

use super::block::{blocks_of, number_of};
use super::record::{Record, end_of};
use crate::codec::cursor::{Cursor, put_signed, put_varint};
use crate::heap;

/// Bytes of one sketch: values that spread over more decades than this holds are told less exactly.
const SKETCH_BYTES: usize = 512;

/// The sketches of one level, in blocks as its records.
#[derive(Clone, Default)]
pub struct Sketches {
    blocks: Vec<Block>,
}

/// For each bucket its end, as a distance from the one before in widths, and the bytes of its sketch.
#[derive(Clone)]
struct Block {
    first: i64,
    last: i64,
    bytes: Arc<[u8]>,
}

/// A bucket's end, and the encoded sketch.
pub type Sketched = (i64, Vec<u8>);

/// The sketch of some samples.
pub fn sketch(values: &[f64]) -> Sketch {
    let mut sketch = Sketch::default();
    sketch.add_all(values);
    sketch.fit(SKETCH_BYTES);
    sketch
}

impl Block {
    fn new(sketches: &[Sketched], every: i64) -> Option<Block> {
        let (first, last) = (sketches.first()?.0, sketches.last()?.0);
        let (mut bytes, mut before) = (Vec::new(), 0);
        for (end, sketch) in sketches {
            put_signed(&mut bytes, (end - before) / every);
            put_varint(&mut bytes, sketch.len() as u64);
            bytes.extend_from_slice(sketch);
            before = *end;
        }
        Some(Block { first, last, bytes: bytes.into() })
    }

    fn decode(&self, every: i64, out: &mut Vec<Sketched>) -> Result<()> {
        let (mut c, mut end) = (Cursor::new(&self.bytes), 0i64);
        while !c.is_empty() {
            end = end.wrapping_add(c.signed()?.wrapping_mul(every));
            let length = c.count()?;
            out.push((end, c.take(length)?.to_vec()));
        }
        Ok(())
    }
}

impl Sketches {
    /// Puts sketches in the place of those in `(after, until]`, both ends of buckets. Errors: `Corruption`.
    pub fn replace(&mut self, every: i64, after: i64, until: i64, new: &[Sketched]) -> Result<()> {
        let touched = blocks_of(&self.blocks, |b| b.first, every, (after, until));
        let mut all = Vec::new();
        for block in self.blocks.get(touched.clone()).unwrap_or(&[]) {
            block.decode(every, &mut all)?;
        }
        let begin = all.partition_point(|s| s.0 <= after);
        let end = all.partition_point(|s| s.0 <= until);
        all.splice(begin..end, new.iter().cloned());
        let blocks = all.chunk_by(|a, b| number_of(a.0, every) == number_of(b.0, every));
        let blocks: Vec<Block> = blocks.filter_map(|sketches| Block::new(sketches, every)).collect();
        self.blocks.splice(touched, blocks);
        Ok(())
    }

    /// Appends the sketches of the buckets that end in `(after, until]`. Errors: `Corruption`.
    pub fn read(&self, every: i64, after: i64, until: i64, out: &mut Vec<Sketched>) -> Result<()> {
        let from = self.blocks.partition_point(|b| b.last <= after);
        let mut all = Vec::new();
        for block in self.blocks.iter().skip(from).take_while(|b| b.first <= until) {
            block.decode(every, &mut all)?;
        }
        out.extend(all.into_iter().filter(|s| s.0 > after && s.0 <= until));
        Ok(())
    }

    pub fn expire(&mut self, floor: i64) {
        self.blocks.retain(|b| b.last > floor);
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Heap bytes.
    pub fn bytes(&self) -> usize {
        let of = |b: &Block| heap::allocated(16 + b.bytes.len());
        heap::vector(&self.blocks) + self.blocks.iter().map(of).sum::<usize>()
    }

    /// Bytes of each block, as `restore` takes them.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.blocks.iter().map(|b| &*b.bytes)
    }

    /// Errors: `Corruption`, where the ends don't rise, or a sketch is none.
    pub fn restore(every: i64, parts: Vec<Vec<u8>>) -> Result<Sketches> {
        let (mut blocks, mut before) = (Vec::with_capacity(parts.len()), i64::MIN);
        for bytes in parts {
            let block = Block { first: 0, last: 0, bytes: bytes.into() };
            let mut all = Vec::new();
            block.decode(every, &mut all)?;
            for (end, bytes) in &all {
                if *end <= before || end % every != 0 {
                    return Err(metricsdb_model::Error::corruption(
                        "rollup",
                        0,
                        "sketches that don't rise in time",
                    ));
                }
                before = *end;
                Sketch::decode(bytes)?;
            }
            blocks.extend(Block::new(&all, every));
        }
        Ok(Sketches { blocks })
    }
}

/// The sketch of each record, from those that are stored: a bucket whose values are one needs none. Errors: `Corruption`;
/// `None` where one is missing.
pub fn whole(records: &[Record], stored: &[Sketched]) -> Result<Option<Vec<Sketch>>> {
    let (mut stored, mut out) = (stored.iter().peekable(), Vec::with_capacity(records.len()));
    for record in records {
        while stored.next_if(|s| s.0 < record.end).is_some() {}
        out.push(match stored.next_if(|s| s.0 == record.end) {
            Some((_, bytes)) => Sketch::decode(bytes)?,
            None if record.min == record.max => repeated(record.min, record.count),
            None => return Ok(None),
        });
    }
    Ok(Some(out))
}

/// Of one value so often.
fn repeated(value: f64, mut count: u64) -> Sketch {
    let (mut all, mut power) = (Sketch::default(), sketch(&[value]));
    while count > 0 {
        if count & 1 == 1 {
            all.merge(&power);
        }
        power.merge(&power.clone());
        count >>= 1;
    }
    all
}

/// Sketches of wider buckets, from records of narrower ones that divide them and their sketches.
pub fn coarser(fine: &[Record], stored: &[Sketched], every: i64, until: i64) -> Result<Vec<Sketched>> {
    let Some(sketches) = whole(fine, stored)? else { return Ok(Vec::new()) };
    let (mut out, mut sketches) = (Vec::new(), sketches.iter());
    for bucket in fine.chunk_by(|a, b| end_of(a.end, every) == end_of(b.end, every)) {
        let Some(end) = bucket.first().map(|r| end_of(r.end, every)).filter(|&end| end <= until) else {
            break;
        };
        let mut all = Sketch::default();
        sketches.by_ref().take(bucket.len()).for_each(|one| all.merge(one));
        let min = bucket.iter().map(|r| r.min).fold(f64::NAN, f64::min);
        let max = bucket.iter().map(|r| r.max).fold(f64::NAN, f64::max);
        if min != max {
            all.fit(SKETCH_BYTES);
            out.push((end, all.encode()));
        }
    }
    Ok(out)
}
