//! Our chunks: the only file here that knows their interface.

use std::cell::RefCell;

use metricsdb_model::{Samples, TimeRange, ValueKind};
use metricsdb_store::chunk::Chunk;
use metricsdb_store::codec::open::{self, OpenState, SAMPLE_BYTES_MAX};

use crate::data::{Block, Series, blocks};
use crate::measure::{Codec, Measured, Size, measure};

/// A row for each form that blocks of at most `samples` may have.
pub fn ours(set: &[Series], samples: usize, runs: usize) -> Vec<Measured> {
    let blocks = blocks(set, samples);
    let open = Open { slab: RefCell::new(vec![0; (samples + 1) * SAMPLE_BYTES_MAX]) };
    vec![measure(&open, &blocks, runs), measure(&Sealed, &blocks, runs)]
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
        Size { values: coded.1.len() as f64 - times, times, headers: size_of::<OpenState>() as f64 }
    }
}

/// The chunk at rest: its heap bytes, and the handle in its series that points to them.
struct Sealed;

impl Codec for Sealed {
    type Coded = Chunk;
    const TIMES: bool = true;

    fn name(&self) -> String {
        "sealed".to_owned()
    }

    fn encode(&self, block: Block) -> Chunk {
        Chunk::seal(ValueKind::Float, block.times, block.bits).unwrap()
    }

    fn decode(&self, chunk: &Chunk, _: usize, out: &mut Samples) {
        chunk.decode_f64(TimeRange::ALL, out).unwrap();
    }

    fn size(&self, chunk: &Chunk, block: Block) -> Size {
        let times = time_bytes(self, block, Chunk::bytes);
        let content = chunk.to_bytes().len();
        let around = chunk.bytes() - content + size_of::<Chunk>();
        Size { values: content as f64 - times, times, headers: around as f64 }
    }
}
