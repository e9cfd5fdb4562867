//! The median of a sliding window, exactly, at a price that hardly depends on the window.
//!
//! A stretch of values is ranked once by sorting. From there on a window is a set of bits, one a rank, and
//! its median moves from set bit to set bit by at most one for each value that comes and one that goes.

/// Values ranked together; an index into them fits into the low bits of a sorted key.
const STRETCH: usize = 1 << STRETCH_BITS;
const STRETCH_BITS: u32 = 10;
const WORDS: usize = STRETCH / 64;

/// Longest window: half a stretch, so that at most half of the sorting is done twice.
pub const WINDOW_MAX: usize = STRETCH / 2 - 1;

/// Fills `out[i]` with the median of the `window` values around `values[i]`; before the first and behind the last
/// whole window, that window's stands. `window` is odd, at most `WINDOW_MAX` and not above `values.len()`;
/// no value is NaN.
pub fn rolling(values: &[f64], window: usize, out: &mut [f64]) {
    let half = window / 2;
    let mut ranks = Ranks::new();
    let mut from = 0;
    while from + window <= values.len() {
        let stretch = &values[from..values.len().min(from + STRETCH)];
        ranks.rank(stretch);
        let centres = stretch.len() - window + 1;
        ranks.walk(stretch.len(), window, &mut out[from + half..from + half + centres]);
        from += centres;
    }
    let (first, last) = (out[half], out[values.len() - 1 - half]);
    out[..half].fill(first);
    out[values.len() - half..].fill(last);
}

/// A key that sorts as the number does. Both zeros are one.
fn ordered(value: f64) -> u64 {
    let bits = (value + 0.0).to_bits();
    bits ^ (((bits as i64 >> 63) as u64) | 1 << 63)
}

struct Ranks {
    rank: [u16; STRETCH],
    /// The values in order, and where each comes from.
    sorted: [f64; STRETCH],
    order: [u16; STRETCH],
    /// Where the next value of a bucket goes.
    next: [u16; BUCKETS],
    bucket: [u16; STRETCH],
}

/// Of equal width; a stretch puts about one value into every fourth, so that few need another place.
const BUCKETS: usize = 4 * STRETCH;
/// Values that say where the others are.
const PROBES: usize = 32;
/// Steps of a value to its place, for each value of a stretch, above which sorting takes less time.
const STEPS_MAX: usize = 6;

impl Ranks {
    fn new() -> Box<Ranks> {
        let (rank, order, bucket) = ([0; STRETCH], [0; STRETCH], [0; STRETCH]);
        Box::new(Ranks { rank, sorted: [0.0; STRETCH], order, next: [0; BUCKETS], bucket })
    }

    fn rank(&mut self, values: &[f64]) {
        if !self.sort_by_buckets(values) {
            self.sort(values);
        }
        for (at, &index) in self.order[..values.len()].iter().enumerate() {
            self.rank[index as usize] = at as u16;
        }
    }

    /// In three passes, where values are spread evenly enough; else false, and nothing is in order.
    fn sort_by_buckets(&mut self, values: &[f64]) -> bool {
        let n = values.len();
        let mut probes = [0.0; PROBES];
        for (i, probe) in probes.iter_mut().enumerate() {
            *probe = values[i * n / PROBES];
        }
        probes.sort_unstable_by(f64::total_cmp);
        // Without the outermost, so that a spike doesn't push all others into one bucket.
        let (low, high) = (probes[1], probes[PROBES - 2]);
        let margin = (high - low) * 0.25;
        let scale = BUCKETS as f64 / (high - low + 2.0 * margin);
        if !scale.is_normal() || !margin.is_normal() {
            return false;
        }
        self.next.fill(0);
        for (bucket, &value) in self.bucket.iter_mut().zip(values) {
            // It rises with the value, whatever is rounded.
            let place = ((value - low + margin) * scale).max(0.0).min((BUCKETS - 1) as f64);
            *bucket = place as i32 as u16;
        }
        for &bucket in &self.bucket[..n] {
            self.next[bucket as usize % BUCKETS] += 1;
        }
        let mut before = 0;
        for slot in &mut self.next {
            before += std::mem::replace(slot, before);
        }
        for (i, (&bucket, &value)) in self.bucket.iter().zip(values).enumerate() {
            let slot = &mut self.next[bucket as usize % BUCKETS];
            let at = *slot as usize % STRETCH;
            *slot += 1;
            (self.sorted[at], self.order[at]) = (value, i as u16);
        }
        let mut steps = STEPS_MAX * n;
        for at in 1..n {
            let (value, index, mut to) = (self.sorted[at], self.order[at], at);
            while to > 0 && self.sorted[to - 1] > value {
                (self.sorted[to], self.order[to]) = (self.sorted[to - 1], self.order[to - 1]);
                to -= 1;
            }
            (self.sorted[to], self.order[to]) = (value, index);
            match steps.checked_sub(at - to) {
                Some(left) => steps = left,
                None => return false,
            }
        }
        true
    }

    fn sort(&mut self, values: &[f64]) {
        let n = values.len();
        let low = STRETCH as u64 - 1;
        let mut keys = [0; STRETCH];
        for (i, (key, &value)) in keys.iter_mut().zip(values).enumerate() {
            *key = (ordered(value) & !low) | i as u64;
        }
        let keys = &mut keys[..n];
        keys.sort_unstable();
        // The index took the place of the lowest bits: what differs in these alone is put in order here.
        for at in 1..n {
            let (key, mut to) = (keys[at], at);
            let value = values[(key & low) as usize];
            while to > 0 && values[(keys[to - 1] & low) as usize] > value {
                keys[to] = keys[to - 1];
                to -= 1;
            }
            keys[to] = key;
        }
        for (at, key) in keys.iter().enumerate() {
            let index = (key & low) as usize;
            (self.sorted[at], self.order[at]) = (values[index], index as u16);
        }
    }

    fn walk(&self, n: usize, window: usize, out: &mut [f64]) {
        let half = window / 2;
        let mut set = [0u64; WORDS];
        for &rank in &self.rank[..window] {
            set[rank as usize / 64] |= 1 << (rank % 64);
        }
        let mut at = 0;
        let mut below = 0;
        for (rank, _) in self.sorted[..n].iter().enumerate().filter(|&(r, _)| is_set(&set, r)) {
            if below == half {
                at = rank;
                break;
            }
            below += 1;
        }
        out[0] = self.sorted[at];
        let moves = self.rank[..n - window].iter().zip(&self.rank[window..n]);
        for (slot, (&old, &new)) in out[1..].iter_mut().zip(moves) {
            let (old, new) = (old as usize, new as usize);
            set[old / 64 % WORDS] &= !(1 << (old % 64));
            set[new / 64 % WORDS] |= 1 << (new % 64);
            below = below + usize::from(new < at) - usize::from(old < at);
            if below > half {
                at = before(&set, at);
                below -= 1;
            } else {
                let here = is_set(&set, at);
                if below < half || !here {
                    below += usize::from(here);
                    at = behind(&set, at);
                }
            }
            *slot = self.sorted[at % STRETCH];
        }
    }
}

fn is_set(set: &[u64; WORDS], rank: usize) -> bool {
    set[rank / 64 % WORDS] >> (rank % 64) & 1 != 0
}

/// The next set bit above; the window has one there.
fn behind(set: &[u64; WORDS], rank: usize) -> usize {
    let mut word = rank / 64;
    let mut bits = set[word % WORDS] & (!1u64 << (rank % 64));
    while bits == 0 && word + 1 < WORDS {
        word += 1;
        bits = set[word];
    }
    word * 64 + bits.trailing_zeros() as usize
}

/// The next set bit below; the window has one there.
fn before(set: &[u64; WORDS], rank: usize) -> usize {
    let mut word = rank / 64;
    let mut bits = set[word % WORDS] & ((1u64 << (rank % 64)) - 1);
    while bits == 0 && word > 0 {
        word -= 1;
        bits = set[word];
    }
    word * 64 + 63 - bits.leading_zeros().min(63) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slow(values: &[f64], window: usize) -> Vec<f64> {
        let half = window / 2;
        (0..values.len())
            .map(|i| {
                let from = i.saturating_sub(half).min(values.len() - window);
                let mut part = values[from..from + window].to_vec();
                part.sort_by(f64::total_cmp);
                part[half]
            })
            .collect()
    }

    proptest! {
        #[test]
        fn each_median_is_that_of_its_window(
            parts in prop::collection::vec((0u8..5, 1usize..900, any::<u32>()), 1..5),
            half in 0usize..200,
        ) {
            let mut values = Vec::new();
            for (kind, count, seed) in parts {
                let mut state = u64::from(seed) | 1;
                for i in 0..count {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let noise = (state >> 33) as f64;
                    values.push(match kind {
                        0 => noise % 3.0,
                        1 => i as f64 * 0.25 - 50.0,
                        // Neighbours in the last bits, and both zeros.
                        2 => f64::from_bits(1.0f64.to_bits() + (noise % 7.0) as u64),
                        3 => [0.0, -0.0, -1.0, f64::INFINITY, f64::NEG_INFINITY][noise as usize % 5],
                        _ => noise - 1e9,
                    });
                }
            }
            let window = (2 * half + 1).min((values.len() - 1) / 2 * 2 + 1);
            let mut out = vec![0.0; values.len()];
            rolling(&values, window, &mut out);
            let expected = slow(&values, window);
            for (i, (got, want)) in out.iter().zip(&expected).enumerate() {
                prop_assert_eq!(got, want, "{} of {} {}", i, values.len(), window);
            }
        }
    }
}
