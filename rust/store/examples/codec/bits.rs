//! A stream of bits for the rivals, lowest bit first, so that ours may change without changing them.

/// Bytes behind a stream that a reader may load; no codec counts them.
pub const PADDING: usize = 8;

#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
    word: u64,
    held: u32,
}

impl Writer {
    /// The low `n` bits, at most 64; the others are zero.
    pub fn put(&mut self, value: u64, n: u32) {
        if n == 0 {
            return;
        }
        self.word |= value << self.held;
        if self.held + n < 64 {
            self.held += n;
            return;
        }
        self.bytes.extend_from_slice(&self.word.to_le_bytes());
        let taken = 64 - self.held;
        self.word = if taken == 64 { 0 } else { value >> taken };
        self.held = n - taken;
    }

    pub fn varint(&mut self, mut value: u64) {
        while value > 127 {
            self.put(value & 127 | 128, 8);
            value >>= 7;
        }
        self.put(value, 8);
    }

    pub fn len(&self) -> usize {
        self.bytes.len() * 8 + self.held as usize
    }

    pub fn finish(mut self) -> Vec<u8> {
        let len = self.len().div_ceil(8);
        self.bytes.extend_from_slice(&self.word.to_le_bytes());
        self.bytes.resize(len + PADDING, 0);
        self.bytes.shrink_to_fit();
        self.bytes
    }
}

pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// At least the next 57 bits.
    #[inline]
    pub fn peek(&self) -> u64 {
        word(self.bytes, self.at / 8) >> (self.at % 8)
    }

    #[inline]
    pub fn skip(&mut self, n: u32) {
        self.at += n as usize;
    }

    #[inline]
    pub fn take(&mut self, n: u32) -> u64 {
        if n > 57 {
            let low = self.take(32);
            return low | self.take(n - 32) << 32;
        }
        let value = self.peek() & ((1 << n) - 1);
        self.skip(n);
        value
    }

    pub fn varint(&mut self) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.take(8);
            value |= (byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                return value;
            }
        }
    }

    /// Gives each slot what `f` makes of it and of the next number of `width` bits.
    pub fn fold(&mut self, width: u32, out: &mut [f64], f: impl Fn(f64, u64) -> f64) {
        let at = self.at;
        let groups = if at.is_multiple_of(8) && width <= WIDTH_MAX { out.len() / GROUP } else { 0 };
        let (whole, rest) = out.split_at_mut(groups * GROUP);
        fold_groups(width, &self.bytes[at / 8..], whole, &f);
        self.at += whole.len() * width as usize;
        for slot in rest {
            *slot = f(*slot, self.take(width));
        }
    }
}

/// Numbers that together take whole bytes, whatever their width.
const GROUP: usize = 8;
/// Wider numbers may not fit into one load.
const WIDTH_MAX: u32 = 57;

/// One loop for each width: all shifts are then constants, and a group is checked once.
fn fold_groups(width: u32, bytes: &[u8], out: &mut [f64], f: &impl Fn(f64, u64) -> f64) {
    macro_rules! by_width {
        ($($w:literal)*) => {
            match width {
                $($w => fold_width::<$w>(bytes, out, f),)*
                _ => {}
            }
        };
    }
    by_width!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35
        36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57);
}

fn fold_width<const W: usize>(bytes: &[u8], out: &mut [f64], f: &impl Fn(f64, u64) -> f64) {
    for (i, slots) in out.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
        let group = &bytes[i * W..i * W + W + PADDING];
        for (j, slot) in slots.iter_mut().enumerate() {
            *slot = f(*slot, word(group, j * W / 8) >> (j * W % 8) & ((1 << W) - 1));
        }
    }
}

#[inline]
fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
