//! Our chunks: the only file here that knows their interface.

use std::cell::RefCell;
use std::hint::black_box;

use metricsdb_model::{Samples, TimeRange, ValueKind};
use metricsdb_store::chunk::{Chunk, SharedColumns, chunks_of, chunks_together, dense};
use metricsdb_store::codec::open::{self, OpenState, SAMPLE_BYTES_MAX};

use crate::data::{Block, Series, blocks};
use crate::measure::{Codec, Measured, Size, fastest, measure};

/// A row for each form that blocks of at most `samples` may have.
pub fn ours(set: &[Series], samples: usize, runs: usize) -> Vec<Measured> {
    let blocks = blocks(set, samples);
    let open = Open { slab: RefCell::new(vec![0; (samples + 1) * SAMPLE_BYTES_MAX]) };
    let mut all = vec![
        measure(&open, &blocks, runs),
        series("sealed", sealed, set, samples, runs),
        series("dense", densest, set, samples, 1.max(runs / 3)),
    ];
    all.extend(together(set, samples, 1.max(runs / 3)));
    all
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

/// The table of chunks in common: hash and handle, at half of its load.
const ENTRY_BYTES: f64 = 32.0;

/// Series of a histogram.
const BUCKETS: usize = 12;

/// Series that are timed together.
const BATCH: usize = 8;

/// A form of the sealed chunks of a series.
type Form = fn(&Series, &SharedColumns) -> Vec<Chunk>;

fn sealed(series: &Series, shared: &SharedColumns) -> Vec<Chunk> {
    chunks_of(ValueKind::Float, &series.times, &series.bits, shared).unwrap()
}

fn densest(series: &Series, shared: &SharedColumns) -> Vec<Chunk> {
    vec![shared.in_common(dense(ValueKind::Float, &sealed(series, shared), shared).unwrap())]
}

/// Whole series, cut to whole blocks, as the store keeps them: a chunk grows block by block.
fn series(name: &str, form: Form, set: &[Series], samples: usize, runs: usize) -> Measured {
    let set: Vec<Series> = set.iter().map(|s| s.whole_blocks(samples)).collect();
    let batches: Vec<&[Series]> = set.chunks(BATCH).collect();
    let each = |batch: &[Series], shared: &SharedColumns| batch.iter().map(|s| form(s, shared)).collect();
    whole(name, each, &set, &batches, samples, runs)
}

/// Neighbouring series as buckets of one histogram, coded together; nothing where they can't be.
fn together(set: &[Series], samples: usize, runs: usize) -> Option<Measured> {
    let set: Vec<Series> = set.iter().map(|s| s.whole_blocks(samples)).collect();
    let batches: Vec<&[Series]> = set.chunks(BUCKETS).collect();
    let group = |batch: &[Series], shared: &SharedColumns| {
        let columns: Vec<&[u64]> = batch.iter().map(|s| &s.bits[..]).collect();
        chunks_together(ValueKind::Float, &batch[0].times, &columns, shared)
    };
    let able = |batch: &&[Series]| {
        batch.iter().all(|s| s.times == batch[0].times) && group(batch, &SharedColumns::default()).is_some()
    };
    if !batches.iter().all(able) {
        return None;
    }
    let each = |batch: &[Series], shared: &SharedColumns| -> Vec<Vec<Chunk>> {
        group(batch, shared).unwrap().into_iter().map(|chunk| vec![chunk]).collect()
    };
    Some(whole("together", each, &set, &batches, samples, runs))
}

/// Measures what `form` makes of a batch of series: the chunks of each.
fn whole(
    name: &str,
    form: impl Fn(&[Series], &SharedColumns) -> Vec<Vec<Chunk>>,
    set: &[Series],
    batches: &[&[Series]],
    samples: usize,
    runs: usize,
) -> Measured {
    let mut coded: Vec<Vec<Chunk>> = Vec::new();
    let mut shared = SharedColumns::default();
    let encode_s = fastest(runs, batches.len(), |i| {
        if i == 0 {
            (shared, coded) = (SharedColumns::default(), Vec::new());
        }
        coded.extend(form(batches[i], &shared));
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
    let mut size = Size::default();
    for column in shared.columns() {
        let part = if column.holds_times() { &mut size.times } else { &mut size.values };
        *part += column.bytes() as f64;
    }
    let mut common: Vec<&Chunk> = Vec::new();
    for (chunks, series) in coded.iter().zip(set) {
        out.clear();
        for chunk in chunks {
            chunk.decode_f64(TimeRange::ALL, &mut out).unwrap();
            size.headers += size_of::<Chunk>() as f64;
            // One that is kept in common with others is counted once.
            if common.iter().any(|c: &&Chunk| c.shares_bytes_with(chunk)) {
                continue;
            }
            if chunk.is_common() {
                common.push(chunk);
                size.headers += ENTRY_BYTES;
            }
            size.values += chunk.encoded_bytes() as f64;
            size.headers += (chunk.framed_bytes() - chunk.encoded_bytes()) as f64;
            size.heap += (chunk.heap_bytes() - chunk.framed_bytes()) as f64;
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
