//! Our chunks: the only file here that knows their interface.

use std::cell::RefCell;
use std::hint::black_box;

use metricsdb_model::{Samples, TimeRange, ValueKind};
use metricsdb_store::chunk::{Chunk, SharedTimes, chunks_of, dense};
use metricsdb_store::codec::open::{self, OpenState, SAMPLE_BYTES_MAX};

use crate::data::{Block, Series, blocks};
use crate::measure::{Codec, Measured, Size, fastest, measure};

/// A row for each form that blocks of at most `samples` may have.
pub fn ours(set: &[Series], samples: usize, runs: usize) -> Vec<Measured> {
    let blocks = blocks(set, samples);
    let open = Open { slab: RefCell::new(vec![0; (samples + 1) * SAMPLE_BYTES_MAX]) };
    vec![
        measure(&open, &blocks, runs),
        series("sealed", sealed, set, samples, runs),
        series("dense", densest, set, samples, 1.max(runs / 3)),
    ]
}

/// What the times of a block take: its bytes less those of the same values at regular times.
fn time_bytes<C: Codec>(codec: &C, block: Block, bytes: impl Fn(&C::Coded) -> usize) -> f64 {
    let regular: Vec<i64> = (0..block.times.len() as i64).map(|i| block.times[0] + i * 15_000).collect();
    let regular = Block { times: &regular, bits: block.bits };
    bytes(&codec.encode(block)) as f64 - bytes(&codec.encode(regular)) as f64
}

/// The chunk that is being written, as long as a sealed one; its slice of the slab without the slack.
struct Open {
    slab: RefCell<Vec<u8>>,
}

impl Codec for Open {
    type Coded = (OpenState, Vec<u8>);
    const TIMES: bool = true;

    fn name(&self) -> String {
        "open".to_owned()
    }

    fn encode(&self, block: Block) -> Self::Coded {
        let mut slab = self.slab.borrow_mut();
        let mut state = OpenState::new(ValueKind::Float);
        for (&t, &b) in block.times.iter().zip(block.bits) {
            open::append(&mut state, &mut slab, t, b).unwrap();
        }
        (state, slab[..state.used_bytes()].to_vec())
    }

    fn decode(&self, (state, bytes): &Self::Coded, _: usize, out: &mut Samples) {
        open::decode_f64(state, bytes, TimeRange::ALL, out).unwrap();
    }

    fn size(&self, coded: &Self::Coded, block: Block) -> Size {
        let times = time_bytes(self, block, |c| c.1.len());
        Size {
            values: coded.1.len() as f64 - times,
            times,
            headers: size_of::<OpenState>() as f64,
            heap: 0.0,
        }
    }
}

/// Series that are timed together.
const BATCH: usize = 8;

/// A form of the sealed chunks of a series.
type Form = fn(&Series, usize, &SharedTimes) -> Vec<Chunk>;

fn sealed(series: &Series, _: usize, shared: &SharedTimes) -> Vec<Chunk> {
    chunks_of(ValueKind::Float, &series.times, &series.bits, shared).unwrap()
}

fn densest(series: &Series, samples: usize, shared: &SharedTimes) -> Vec<Chunk> {
    vec![dense(ValueKind::Float, &sealed(series, samples, shared), shared).unwrap()]
}

/// Whole series, cut to whole blocks, as the store keeps them: a chunk grows block by block.
fn series(name: &str, form: Form, set: &[Series], samples: usize, runs: usize) -> Measured {
    let set: Vec<Series> = set.iter().map(|s| s.whole_blocks(samples)).collect();
    let mut coded: Vec<Vec<Chunk>> = Vec::new();
    let mut shared = SharedTimes::default();
    let batches: Vec<&[Series]> = set.chunks(BATCH).collect();
    let encode_s = fastest(runs, batches.len(), |i| {
        if i == 0 {
            (shared, coded) = (SharedTimes::default(), Vec::new());
        }
        coded.extend(batches[i].iter().map(|s| form(s, samples, &shared)));
    });
    let chunks: Vec<&[Vec<Chunk>]> = coded.chunks(BATCH).collect();
    let mut out = Samples::default();
    let decode_s = fastest(runs, chunks.len(), |i| {
        for chunk in chunks[i].iter().flatten() {
            out.clear();
            chunk.decode_f64(TimeRange::ALL, &mut out).unwrap();
            black_box(&out);
        }
    });
    let mut size =
        Size { times: shared.columns().map(|times| times.bytes()).sum::<usize>() as f64, ..Size::default() };
    for (chunks, series) in coded.iter().zip(&set) {
        out.clear();
        for chunk in chunks {
            chunk.decode_f64(TimeRange::ALL, &mut out).unwrap();
            size.values += chunk.encoded_bytes() as f64;
            size.headers += (chunk.framed_bytes() - chunk.encoded_bytes() + size_of::<Chunk>()) as f64;
            size.heap += (chunk.bytes() - chunk.framed_bytes()) as f64;
        }
        assert!(out.values.iter().map(|v| v.to_bits()).eq(series.bits.iter().copied()), "{name}");
        assert_eq!(out.timestamps, series.times, "{name}");
    }
    Measured {
        codec: name.to_owned(),
        per_block: samples,
        times_coded: true,
        blocks: coded.iter().map(Vec::len).sum(),
        samples: set.iter().map(|s| s.bits.len()).sum(),
        size,
        encode_s,
        decode_s,
    }
}
