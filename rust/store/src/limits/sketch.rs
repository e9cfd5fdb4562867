//! How many different things there were, counted in a kilobyte: HyperLogLog with 1,024 registers, which is off by 3 %
//! (one standard deviation), and exact up to 64. Sketches of several threads, times or databases can be merged.

use hashbrown::HashMap;
use metricsdb_model::LabelsRef;
use metricsdb_model::labels::METRIC_NAME;

use crate::heap;

const INDEX_BITS: u32 = 10;
const REGISTERS: usize = 1 << INDEX_BITS;
/// Up to so many hashes are kept themselves.
const EXACT_MAX: usize = 64;
/// `recent` tells of the last one to two periods.
pub const PERIOD_MS: i64 = 600_000;
/// Metrics, and labels, that have sketches of their own: a metric name a second must not fill the memory.
const NAMES_MAX: usize = 1 << 16;

#[derive(Clone, Debug, PartialEq)]
pub enum Sketch {
    /// Sorted.
    Exact(Vec<u64>),
    Registers(Box<[u8; REGISTERS]>),
}

impl Default for Sketch {
    fn default() -> Sketch {
        Sketch::Exact(Vec::new())
    }
}

impl Sketch {
    /// Takes a hash, all bits of which are as good as random.
    pub fn insert(&mut self, hash: u64) {
        match self {
            Sketch::Registers(registers) => note(registers, hash),
            Sketch::Exact(hashes) => {
                let Err(at) = hashes.binary_search(&hash) else { return };
                if hashes.len() < EXACT_MAX {
                    hashes.insert(at, hash);
                    return;
                }
                let mut registers = Box::new([0; REGISTERS]);
                hashes.iter().chain([&hash]).for_each(|&hash| note(&mut registers, hash));
                *self = Sketch::Registers(registers);
            }
        }
    }

    pub fn merge(&mut self, other: &Sketch) {
        match other {
            Sketch::Exact(hashes) => hashes.iter().for_each(|&hash| self.insert(hash)),
            Sketch::Registers(theirs) => {
                let mut merged = theirs.clone();
                match self {
                    Sketch::Exact(hashes) => hashes.iter().for_each(|&hash| note(&mut merged, hash)),
                    Sketch::Registers(ours) => {
                        merged.iter_mut().zip(ours.iter()).for_each(|(m, &o)| *m = (*m).max(o));
                    }
                }
                *self = Sketch::Registers(merged);
            }
        }
    }

    /// About how many different hashes were inserted.
    pub fn estimate(&self) -> u64 {
        match self {
            Sketch::Exact(hashes) => hashes.len() as u64,
            Sketch::Registers(registers) => estimate(registers),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Sketch::Exact(hashes) => heap::vector(hashes),
            Sketch::Registers(_) => heap::allocated(REGISTERS),
        }
    }
}

fn note(registers: &mut [u8; REGISTERS], hash: u64) {
    let (at, rest) = ((hash >> (64 - INDEX_BITS)) as usize, hash << INDEX_BITS | 1 << (INDEX_BITS - 1));
    let rank = rest.leading_zeros() as u8 + 1;
    registers[at] = registers[at].max(rank);
}

/// Ertl's estimator ("New cardinality estimation algorithms for HyperLogLog sketches", 2017): no table of corrections,
/// no seam between small and large numbers.
fn estimate(registers: &[u8; REGISTERS]) -> u64 {
    let (m, ranks) = (REGISTERS as f64, 64 - INDEX_BITS as usize);
    let mut counts = [0f64; 66];
    registers.iter().for_each(|&rank| counts[usize::from(rank).min(ranks + 1)] += 1.0);
    let mut z = m * tau(1.0 - counts[ranks + 1] / m);
    for rank in (1..=ranks).rev() {
        z = 0.5 * (z + counts[rank]);
    }
    z += m * sigma(counts[0] / m);
    (m * m / (2.0 * std::f64::consts::LN_2 * z)).round() as u64
}

fn sigma(mut x: f64) -> f64 {
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before || !z.is_finite() {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

/// What came since the process began, and lately.
#[derive(Clone, Debug, Default)]
pub struct Growth {
    pub ever: Sketch,
    /// Of this period and the one before.
    periods: [Sketch; 2],
}

impl Growth {
    fn insert(&mut self, hash: u64) {
        self.ever.insert(hash);
        self.periods[0].insert(hash);
    }

    /// About how many came in the last one to two periods.
    pub fn recent(&self) -> u64 {
        let mut both = self.periods[0].clone();
        both.merge(&self.periods[1]);
        both.estimate()
    }

    fn bytes(&self) -> usize {
        self.ever.bytes() + self.periods.iter().map(Sketch::bytes).sum::<usize>()
    }
}

type ByName = HashMap<Box<[u8]>, Growth>;

/// The growth of each metric, in series, and of each label, in values.
#[derive(Default)]
pub struct Sketches {
    metrics: ByName,
    labels: ByName,
    period: Option<i64>,
}

impl Sketches {
    /// Notes a series that was made now. `last` is what was noted before from this caller: neighbours share most labels,
    /// and nothing is counted twice anyhow.
    pub fn note(&mut self, labels: LabelsRef<'_>, hash: u64, last: &mut Vec<u8>) {
        let mut before = last.split(|&b| b == 0xff);
        let mut parts = labels.canonical().split(|&b| b == 0xff);
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            let same = before.next() == Some(name);
            let same = before.next() == Some(value) && same;
            if name == METRIC_NAME.as_bytes()
                && let Some(metric) = growth(&mut self.metrics, value)
            {
                metric.insert(hash);
            }
            if !same && let Some(label) = growth(&mut self.labels, name) {
                label.insert(xxhash_rust::xxh3::xxh3_64(value));
            }
        }
        last.clear();
        last.extend_from_slice(labels.canonical());
    }

    /// Begins another period where it is time.
    pub fn tick(&mut self, now: i64) {
        let period = now.div_euclid(PERIOD_MS);
        let Some(before) = self.period.replace(period).filter(|&before| before != period) else { return };
        for growth in self.metrics.values_mut().chain(self.labels.values_mut()) {
            let last = std::mem::take(&mut growth.periods[0]);
            growth.periods[1] = if period == before + 1 { last } else { Sketch::default() };
        }
    }

    pub fn metric(&self, name: &str) -> Growth {
        self.metrics.get(name.as_bytes()).cloned().unwrap_or_default()
    }

    pub fn label(&self, name: &str) -> Growth {
        self.labels.get(name.as_bytes()).cloned().unwrap_or_default()
    }

    pub fn bytes(&self) -> usize {
        let of = |map: &ByName| {
            heap::map::<Box<[u8]>, Growth>(map.capacity())
                + map.iter().map(|(name, g)| heap::slice(name) + g.bytes()).sum::<usize>()
        };
        of(&self.metrics) + of(&self.labels)
    }
}

fn growth<'a>(map: &'a mut ByName, name: &[u8]) -> Option<&'a mut Growth> {
    if map.len() >= NAMES_MAX && !map.contains_key(name) {
        return None;
    }
    Some(map.entry_ref(name).or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(from: u64, count: u64) -> impl Iterator<Item = u64> {
        (from..from + count).map(|i| xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes()))
    }

    #[test]
    fn estimates_are_within_a_tenth_and_merging_is_the_union() {
        for count in [0, 1, 64, 65, 200, 1000, 5000, 100_000, 1_000_000] {
            let (mut whole, mut left, mut right) = (Sketch::default(), Sketch::default(), Sketch::default());
            hashes(0, count).for_each(|h| whole.insert(h));
            hashes(0, count * 2 / 3).for_each(|h| left.insert(h));
            hashes(count / 3, count - count / 3).for_each(|h| right.insert(h));
            left.merge(&right);
            assert_eq!(left, whole, "{count}");
            let off = whole.estimate().abs_diff(count);
            assert!(off * 10 <= count && (count > 64 || off == 0), "{count}: {}", whole.estimate());
        }
    }

    #[test]
    fn what_is_recent_is_forgotten_after_two_periods() {
        let mut sketches = Sketches::default();
        let labels =
            metricsdb_model::Labels::from_pairs([(METRIC_NAME, "m"), ("pod", "a")]).unwrap_or_default();
        sketches.tick(0);
        sketches.note(labels.as_ref(), labels.hash64(), &mut Vec::new());
        sketches.tick(PERIOD_MS);
        assert_eq!((sketches.metric("m").recent(), sketches.label("pod").recent()), (1, 1));
        sketches.tick(2 * PERIOD_MS);
        assert_eq!((sketches.metric("m").recent(), sketches.metric("m").ever.estimate()), (0, 1));
    }
}
