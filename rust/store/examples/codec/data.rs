//! A data set in a file: series after series, each a count (u64), as many times (i64, ms) and as many values
//! (the 64 bits of a double); all little endian.

pub struct Series {
    pub times: Vec<i64>,
    pub bits: Vec<u64>,
}

impl Series {
    /// The series without what is left of it behind its last whole block of so many samples.
    pub fn whole_blocks(&self, samples: usize) -> Series {
        let n = self.times.len();
        let n = if n < samples { n } else { n / samples * samples };
        Series { times: self.times[..n].to_vec(), bits: self.bits[..n].to_vec() }
    }
}

#[derive(Clone, Copy)]
pub struct Block<'a> {
    pub times: &'a [i64],
    pub bits: &'a [u64],
}

pub fn read(file: &[u8]) -> Vec<Series> {
    let mut words = file.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap()));
    let mut set = Vec::new();
    while let Some(count) = words.next() {
        let times = words.by_ref().take(count as usize).map(|w| w as i64).collect();
        let bits = words.by_ref().take(count as usize).collect();
        set.push(Series { times, bits });
    }
    set
}

/// Whole blocks; the rest of a series is left out, unless it has no whole block: then the series is one.
pub fn blocks(set: &[Series], samples: usize) -> Vec<Block<'_>> {
    let mut out = Vec::new();
    for series in set.iter().filter(|s| !s.times.is_empty()) {
        let size = samples.min(series.times.len());
        let columns = series.times.chunks_exact(size).zip(series.bits.chunks_exact(size));
        out.extend(columns.map(|(times, bits)| Block { times, bits }));
    }
    out
}
