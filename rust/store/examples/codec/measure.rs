//! One codec on the blocks of one set: sizes, speeds, and that every bit comes back.

use std::hint::black_box;
use std::time::Instant;

use metricsdb_model::Samples;

use crate::data::Block;

/// Bytes of one block, by what they are for.
#[derive(Clone, Copy, Default)]
pub struct Size {
    pub values: f64,
    pub times: f64,
    /// What finds and frames a block: headers, counters, handles.
    pub headers: f64,
    /// What the allocator adds, where that is known; not among the headers.
    pub heap: f64,
}

/// Blocks that are timed together: a millisecond at most, which a busy machine often leaves alone.
const BATCH: usize = 16;

pub trait Codec {
    type Coded;
    /// Whether times are coded; if not they cost nothing and don't come back.
    const TIMES: bool;

    fn name(&self) -> String;
    fn encode(&self, block: Block) -> Self::Coded;
    /// Appends the samples of a block of `count`.
    fn decode(&self, coded: &Self::Coded, count: usize, out: &mut Samples);
    fn size(&self, coded: &Self::Coded, block: Block) -> Size;
}

/// Sums over all blocks of a set.
pub struct Measured {
    pub codec: String,
    pub per_block: usize,
    pub times_coded: bool,
    pub blocks: usize,
    pub samples: usize,
    pub size: Size,
    pub encode_s: f64,
    pub decode_s: f64,
}

impl Measured {
    pub fn json(&self) -> String {
        let each = |bytes: f64| bytes / self.samples as f64;
        let rate = |seconds: f64| self.samples as f64 / seconds / 1e6;
        let Size { values, times, headers, heap } = self.size;
        format!(
            "{{\"codec\": \"{}\", \"per_block\": {}, \"times\": \"{}\", \"blocks\": {}, \"samples\": {}, \
             \"values\": {:.5}, \"timestamps\": {:.5}, \"headers\": {:.5}, \"heap\": {:.5}, \"total\": {:.5}, \
             \"encode_mps\": {:.2}, \"decode_mps\": {:.2}}}",
            self.codec,
            self.per_block,
            if self.times_coded { "coded" } else { "free" },
            self.blocks,
            self.samples,
            each(values),
            each(times),
            each(headers),
            each(heap),
            each(values + times + headers),
            rate(self.encode_s),
            rate(self.decode_s),
        )
    }
}

/// Decodes into one reused buffer, so this is a codec's speed and not the memory's.
pub fn measure<C: Codec>(codec: &C, blocks: &[Block], runs: usize) -> Measured {
    let batches: Vec<&[Block]> = blocks.chunks(BATCH).collect();
    let mut coded: Vec<Vec<C::Coded>> = batches.iter().map(|_| Vec::new()).collect();
    let encode_s = fastest(runs, batches.len(), |i| {
        coded[i] = batches[i].iter().map(|&block| codec.encode(block)).collect();
    });
    let mut out = Samples::default();
    let decode_s = fastest(runs, batches.len(), |i| {
        for (coded, block) in coded[i].iter().zip(batches[i]) {
            out.clear();
            codec.decode(coded, block.bits.len(), &mut out);
            black_box(&out);
        }
    });
    let mut size = Size::default();
    for (coded, block) in coded.iter().flatten().zip(blocks) {
        out.clear();
        codec.decode(coded, block.bits.len(), &mut out);
        assert!(out.values.iter().map(|v| v.to_bits()).eq(block.bits.iter().copied()), "{}", codec.name());
        assert!(!C::TIMES || out.timestamps == block.times, "{}", codec.name());
        let one = codec.size(coded, *block);
        size.values += one.values;
        size.times += one.times;
        size.headers += one.headers;
    }
    Measured {
        codec: codec.name(),
        per_block: blocks.iter().map(|b| b.bits.len()).max().unwrap_or(0),
        times_coded: C::TIMES,
        blocks: blocks.len(),
        samples: blocks.iter().map(|b| b.bits.len()).sum(),
        size,
        encode_s,
        decode_s,
    }
}

/// Seconds of all batches, each at its fastest of the runs. A run goes through all of them, so that no batch
/// finds the caches and the branch predictor as it left them.
pub fn fastest(runs: usize, batches: usize, mut run: impl FnMut(usize)) -> f64 {
    let mut best = vec![f64::INFINITY; batches];
    for _ in 0..runs {
        for (i, best) in best.iter_mut().enumerate() {
            let start = Instant::now();
            run(i);
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    best.iter().sum()
}
