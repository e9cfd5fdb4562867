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

    /// Calls `f` with `n` numbers of `width` bits.
    #[inline]
    pub fn each(&mut self, width: u32, n: usize, mut f: impl FnMut(u64)) {
        if width > 57 {
            (0..n).for_each(|_| f(self.take(width)));
            return;
        }
        let mask = (1u64 << width) - 1;
        for i in 0..n {
            let at = self.at + i * width as usize;
            f(word(self.bytes, at / 8) >> (at % 8) & mask);
        }
        self.at += n * width as usize;
    }
}

#[inline]
fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
