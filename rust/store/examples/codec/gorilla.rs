//! The XOR chunk of Prometheus: Gorilla's scheme with wider buckets for the steps of time.

use metricsdb_model::Samples;

use crate::bits::{PADDING, Reader, Writer};
use crate::data::Block;
use crate::measure::{Codec, Size};

/// Second differences of time: bits, prefix, and bits of the prefix (lowest first).
const STEPS: [(u32, u64, u32); 3] = [(14, 0b01, 2), (17, 0b011, 3), (20, 0b0111, 4)];

/// In a chunk its number of samples (2); around it in a file length (2), encoding (1) and CRC (4).
const HEADER_BYTES: f64 = 9.0;

/// Chunks of at most so many samples.
pub struct Gorilla(pub usize);

pub struct Coded {
    stream: Vec<u8>,
    time_bits: usize,
}

impl Codec for Gorilla {
    type Coded = Coded;
    const TIMES: bool = true;

    fn name(&self) -> String {
        format!("xor{}", self.0)
    }

    fn encode(&self, block: Block) -> Coded {
        let mut w = Writer::default();
        w.varint((block.times[0] << 1 ^ block.times[0] >> 63) as u64);
        let mut time_bits = w.len();
        w.put(block.bits[0], 64);
        let (mut step, mut window) = (0, Window::default());
        for i in 1..block.times.len() {
            let before = w.len();
            let next = block.times[i] - block.times[i - 1];
            if i == 1 {
                w.varint(next as u64);
            } else {
                put_step(&mut w, next - step);
            }
            step = next;
            time_bits += w.len() - before;
            window.put(&mut w, block.bits[i] ^ block.bits[i - 1]);
        }
        Coded { stream: w.finish(), time_bits }
    }

    fn decode(&self, coded: &Coded, count: usize, out: &mut Samples) {
        let mut r = Reader::new(&coded.stream);
        let z = r.varint();
        let (mut t, mut v, mut step) = ((z >> 1) as i64 ^ -((z & 1) as i64), r.take(64), 0);
        let mut window = Window::default();
        out.push(t, f64::from_bits(v));
        for i in 1..count {
            step = if i == 1 { r.varint() as i64 } else { step + take_step(&mut r) };
            t += step;
            v ^= window.take(&mut r);
            out.push(t, f64::from_bits(v));
        }
    }

    fn size(&self, coded: &Coded, _: Block) -> Size {
        let times = coded.time_bits as f64 / 8.0;
        let values = (coded.stream.len() - PADDING) as f64 - times;
        Size { values, times, headers: HEADER_BYTES, heap: 0.0 }
    }
}

fn put_step(w: &mut Writer, change: i64) {
    if change == 0 {
        return w.put(0, 1);
    }
    match STEPS.iter().find(|(bits, ..)| change > -(1 << (bits - 1)) && change <= 1 << (bits - 1)) {
        Some(&(bits, prefix, n)) => {
            w.put(prefix, n);
            w.put(change as u64 & ((1 << bits) - 1), bits);
        }
        None => {
            w.put(0b1111, 4);
            w.put(change as u64, 64);
        }
    }
}

#[inline]
fn take_step(r: &mut Reader) -> i64 {
    let ones = r.peek().trailing_ones().min(4);
    r.skip((ones + 1).min(4));
    match ones {
        0 => 0,
        4 => r.take(64) as i64,
        n => {
            let bits = STEPS[n as usize - 1].0;
            let change = r.take(bits) as i64;
            if change > 1 << (bits - 1) { change - (1 << bits) } else { change }
        }
    }
}

/// The bits of the last XOR that were written.
#[derive(Default)]
struct Window {
    leading: u32,
    length: u32,
}

impl Window {
    #[inline]
    fn put(&mut self, w: &mut Writer, xor: u64) {
        if xor == 0 {
            return w.put(0, 1);
        }
        let (leading, trailing) = (xor.leading_zeros().min(31), xor.trailing_zeros());
        if self.length > 0 && leading >= self.leading && 64 - trailing <= self.leading + self.length {
            w.put(0b01, 2);
        } else {
            (self.leading, self.length) = (leading, 64 - leading - trailing);
            w.put(0b11, 2);
            w.put(u64::from(leading), 5);
            w.put(u64::from(self.length & 63), 6);
        }
        w.put(xor >> (64 - self.leading - self.length), self.length);
    }

    #[inline]
    fn take(&mut self, r: &mut Reader) -> u64 {
        let head = r.peek();
        if head & 1 == 0 {
            r.skip(1);
            return 0;
        }
        if head & 2 == 0 {
            r.skip(2);
        } else {
            self.leading = (head >> 2 & 31) as u32;
            self.length = (head >> 7 & 63) as u32;
            self.length += if self.length == 0 { 64 } else { 0 };
            r.skip(13);
        }
        r.take(self.length) << (64 - self.leading - self.length)
    }
}
