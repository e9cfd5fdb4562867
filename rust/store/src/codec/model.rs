//! What a dense column's residuals look like: symbols for small numbers and for ranges of larger ones,
//! and one table of their frequencies, or a few between which the symbol two places before chooses.

use metricsdb_model::Result;

use super::bits::{BitReader, mask};
use super::cursor::Cursor;
use super::tans::{BitWriter, Counts, Levels, SYMBOLS_MAX, State, log2};

/// Tables of a column.
pub const CONTEXTS_MAX: usize = 3;

/// The decoder keeps two states, which take turns.
pub const LANES: usize = 2;

/// Sizes of tables that are written as numbers 0 to 7.
const LOGS: [u32; 8] = [0, 6, 7, 8, 9, 10, 11, 12];

/// A larger table must save one part in so many.
const LARGER_PART: f64 = 250.0;

/// More tables must save one part in so many.
const CONTEXTS_PART: f64 = 100.0;

/// About the bits that the level of a symbol takes.
const LEVEL_COST: f64 = 2.7;

/// Numbers that an estimate looks at.
const ESTIMATE_MAX: usize = 1024;

/// How numbers become symbols: below 2^direct they are symbols themselves; above, a symbol stands for an
/// exponent and the highest `mantissa` bits behind the leading one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    direct: u32,
    mantissa: u32,
}

/// All other grids join neighbours of this one.
const FINEST: Grid = Grid { direct: 5, mantissa: 3 };
const FINEST_SYMBOLS: usize = 504;

/// The grids that the writer tries.
const GRIDS: [Grid; 8] = [
    Grid { direct: 1, mantissa: 0 },
    Grid { direct: 2, mantissa: 1 },
    Grid { direct: 3, mantissa: 1 },
    Grid { direct: 4, mantissa: 1 },
    Grid { direct: 5, mantissa: 1 },
    Grid { direct: 3, mantissa: 2 },
    Grid { direct: 4, mantissa: 2 },
    Grid { direct: 5, mantissa: 3 },
];

impl Grid {
    #[inline(always)]
    pub fn symbol(self, z: u64) -> usize {
        if z >> self.direct == 0 {
            return z as usize;
        }
        let exponent = z.ilog2();
        let top = z >> (exponent - self.mantissa) & mask(self.mantissa);
        (1 << self.direct) + ((exponent - self.direct) << self.mantissa) as usize + top as usize
    }

    /// The smallest number of a symbol, and how many low bits it leaves open.
    fn range(self, symbol: usize) -> (u64, u32) {
        let Some(above) = symbol.checked_sub(1 << self.direct) else { return (symbol as u64, 0) };
        let extra = self.direct + (above >> self.mantissa) as u32 - self.mantissa;
        let top = 1u64 << self.mantissa | above as u64 & mask(self.mantissa);
        (top.checked_shl(extra).unwrap_or(0), extra)
    }

    fn symbols(self) -> usize {
        (1 << self.direct) + ((64 - self.direct) << self.mantissa) as usize
    }
}

/// What a symbol stands for.
#[derive(Clone, Copy, Default)]
pub struct Symbol {
    pub low: u64,
    pub mask: u64,
    pub extra: u32,
}

/// Everything that a decoder must know of a column's symbols.
pub struct Model {
    grid: Grid,
    log: u32,
    highest: u8,
    /// A symbol's context is the number of limits that it reaches.
    limits: Vec<u8>,
    tables: Vec<Levels>,
    pub counts: Vec<Counts>,
}

impl Model {
    #[inline(always)]
    pub fn context(&self, symbol: u8) -> usize {
        self.limits.iter().filter(|&&l| symbol >= l).count()
    }

    /// How many symbols begin a context.
    pub fn limits(&self) -> usize {
        self.limits.len()
    }

    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// Bits of a state.
    pub fn log(&self) -> u32 {
        self.log
    }

    /// The symbols, in their order.
    pub fn symbols(&self) -> Vec<Symbol> {
        let of = |s: u8| {
            let (low, extra) = self.grid.range(usize::from(s));
            Symbol { low, mask: mask(extra), extra }
        };
        (0..=self.highest).map(of).collect()
    }

    /// The states of all tables, one behind the other.
    pub fn decoder(&self) -> Vec<State> {
        let next: Vec<u16> = (0..=self.highest).map(|s| (self.context(s) << self.log) as u16).collect();
        let mut states = Vec::with_capacity(self.counts.len() << self.log);
        self.counts.iter().for_each(|counts| counts.extend_decoder(&next, &mut states));
        states
    }

    /// Two bytes, the limits, and the tables; the reader is told how many limits there are.
    pub fn write(&self, out: &mut Vec<u8>) {
        let log = LOGS.iter().position(|&l| l == self.log).unwrap_or(0);
        out.push((self.grid.direct * 4 + self.grid.mantissa) as u8 | (log as u8) << 5);
        out.push(self.highest);
        out.extend_from_slice(&self.limits);
        let mut bits = BitWriter::default();
        if self.log > 0 {
            self.tables.iter().for_each(|t| t.write(&mut bits));
        }
        out.extend(bits.finish());
    }

    /// A model with so many limits.
    pub fn read(cursor: &mut Cursor, n: usize) -> Result<Model> {
        let shape = cursor.byte()?;
        let grid = Grid { direct: u32::from(shape >> 2 & 7), mantissa: u32::from(shape & 3) };
        let log = LOGS[usize::from(shape >> 5)];
        let highest = cursor.byte()?;
        if grid.direct > 5 || grid.mantissa > grid.direct || usize::from(highest) >= grid.symbols() {
            return Err(cursor.wrong("no such symbols"));
        }
        if n >= CONTEXTS_MAX || (n > 0 && log == 0) {
            return Err(cursor.wrong("no such contexts"));
        }
        let limits = cursor.take(n)?.to_vec();
        let mut bits = BitReader::new(cursor.clone().rest());
        let (mut tables, mut counts) = (Vec::new(), Vec::new());
        for _ in 0..=n {
            let weights = if log == 0 {
                let mut one = vec![0; usize::from(highest) + 1];
                one[usize::from(highest)] = 1;
                one
            } else {
                let table = Levels::read(&mut bits, usize::from(highest) + 1);
                let weights = table.weights();
                tables.push(table);
                weights
            };
            let Some(table) = Counts::new(&weights, log) else {
                return Err(cursor.wrong("a table without symbols, or with too many"));
            };
            counts.push(table);
        }
        cursor.take(bits.position().div_ceil(8))?;
        Ok(Model { grid, log, highest, limits, tables, counts })
    }

    /// A model for at least one number; every `stretch` of them are decoded on their own.
    pub fn fit(numbers: &[u64], stretch: usize) -> Model {
        let mut finest = [0u32; FINEST_SYMBOLS];
        numbers.iter().for_each(|&z| finest[FINEST.symbol(z)] += 1);
        let top = numbers.iter().copied().max().unwrap_or(0);
        let fits = GRIDS.iter().filter(|g| g.symbol(top) < SYMBOLS_MAX);
        let costs = fits.map(|&g| (g, cost_of_grid(g, &finest, top)));
        let (grid, _) = costs.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((GRIDS[0], 0.0));
        let symbols: Vec<u8> = numbers.iter().map(|&z| grid.symbol(z) as u8).collect();
        let highest = grid.symbol(top);
        let limits = limits(&symbols, highest, stretch);
        let histograms = histograms(&symbols, highest, &limits, stretch);
        let (log, tables, counts) = tables(&histograms, numbers.len(), stretch);
        Model { grid, log, highest: highest as u8, limits, tables, counts }
    }
}

/// Bits of the entropy of frequencies.
fn entropy(frequencies: &[u32]) -> f64 {
    let total: u32 = frequencies.iter().sum();
    let part = |&f: &u32| if f == 0 { 0.0 } else { f64::from(f) * log2(f64::from(f)) };
    f64::from(total) * log2(f64::from(total.max(1))) - frequencies.iter().map(part).sum::<f64>()
}

fn cost_of_grid(grid: Grid, finest: &[u32], top: u64) -> f64 {
    let mut joined = [0u32; FINEST_SYMBOLS];
    let mut extra = 0.0;
    for (fine, &f) in finest.iter().enumerate().take(FINEST.symbol(top) + 1) {
        if f > 0 {
            let symbol = grid.symbol(FINEST.range(fine).0);
            joined[symbol] += f;
            extra += f64::from(f) * f64::from(grid.range(symbol).1);
        }
    }
    let used = grid.symbol(top) + 1;
    entropy(&joined[..used]) + extra + LEVEL_COST * used as f64
}

/// Where contexts begin; empty if one table does nearly as well.
fn limits(symbols: &[u8], highest: usize, stretch: usize) -> Vec<u8> {
    let all = histograms(symbols, highest, &[], stretch);
    let Some(all) = all.first() else { return Vec::new() };
    let at = |part: f64| {
        let mut sum = 0;
        let reached = all.iter().position(|&f| {
            sum += f;
            f64::from(sum) >= part * symbols.len() as f64
        });
        reached.unwrap_or(0) as u8 + 1
    };
    let candidates = [vec![at(0.4)], vec![at(0.7)], vec![at(0.3), at(0.65)], vec![at(0.5), at(0.85)]];
    let cost = |limits: &[u8]| {
        let used = |h: &[u32]| h.iter().rposition(|&f| f > 0).unwrap_or(0) as f64;
        histograms(symbols, highest, limits, stretch)
            .iter()
            .map(|h| 12.0 + entropy(h) + LEVEL_COST * used(h))
            .sum()
    };
    let plain: f64 = cost(&[]);
    let mut best = (plain - plain / CONTEXTS_PART, Vec::new());
    for limits in candidates {
        let increasing = limits.windows(2).all(|w| w[0] < w[1]);
        if !increasing || limits.iter().any(|&l| usize::from(l) > highest) {
            continue;
        }
        let cost: f64 = cost(&limits);
        if cost < best.0 {
            best = (cost, limits);
        }
    }
    best.1
}

/// Frequencies of symbols after each context; the first two of a stretch stand in the first.
fn histograms(symbols: &[u8], highest: usize, limits: &[u8], stretch: usize) -> Vec<Vec<u32>> {
    let mut out = vec![vec![0; highest + 1]; limits.len() + 1];
    for symbols in symbols.chunks(stretch) {
        let before = [0; LANES].into_iter().chain(symbols.iter().copied());
        for (&symbol, before) in symbols.iter().zip(before) {
            let context = limits.iter().filter(|&&l| before >= l).count();
            out[context][usize::from(symbol)] += 1;
        }
    }
    out
}

/// The size of tables that makes the column smallest, and the tables.
fn tables(histograms: &[Vec<u32>], count: usize, stretch: usize) -> (u32, Vec<Levels>, Vec<Counts>) {
    if let [only] = histograms
        && only.iter().filter(|&&f| f > 0).count() == 1
        && only.last().is_some_and(|&f| f > 0)
        && let Some(counts) = Counts::new(only, 0)
    {
        return (0, Vec::new(), vec![counts]);
    }
    let mut best = (f64::INFINITY, 0);
    for log in LOGS.into_iter().skip(1) {
        if best.0.is_finite() && histograms.len() << log > (count / 2).max(256) {
            break;
        }
        let costs = histograms.iter().map(|h| Counts::new(h, log).map_or(0.0, |counts| counts.cost(h)));
        let bits = costs.sum::<f64>() + (count.div_ceil(stretch) * LANES * log as usize) as f64;
        let fits = histograms.iter().all(|h| h.iter().filter(|&&f| f > 0).count() <= 1 << log);
        if fits && (bits < best.0 - best.0 / LARGER_PART || best.0.is_infinite()) {
            best = (bits, log);
        }
    }
    let (levels, counts) = histograms.iter().filter_map(|h| table(h, best.1)).unzip();
    (best.1, levels, counts)
}

/// The table that is smallest together with its symbols.
fn table(frequencies: &[u32], log: u32) -> Option<(Levels, Counts)> {
    // A context that never occurs has a table all the same.
    let mut some = frequencies.to_vec();
    if frequencies.iter().all(|&f| f == 0) {
        some.iter_mut().take(1).for_each(|f| *f = 1);
    }
    let with = |fine: u32| {
        let levels = Levels::of(&some, log, fine);
        let bits = Counts::new(&levels.weights(), log)?.cost(&some) + f64::from(levels.bits());
        Some((levels, bits))
    };
    let (mut levels, _) = (0..3).filter_map(with).min_by(|a, b| a.1.total_cmp(&b.1))?;
    levels.smooth(&some, log);
    let counts = Counts::new(&levels.weights(), log)?;
    Some((levels, counts))
}

/// About the bits that numbers take with a table of their own.
pub fn estimate(numbers: &[u64]) -> f64 {
    const ROUGH: Grid = Grid { direct: 4, mantissa: 1 };
    let step = numbers.len().div_ceil(ESTIMATE_MAX).max(1);
    let mut frequencies = [0u32; SYMBOLS_MAX];
    numbers.iter().step_by(step).for_each(|&z| frequencies[ROUGH.symbol(z) & (SYMBOLS_MAX - 1)] += 1);
    let extra =
        |(s, &f): (usize, &u32)| if f == 0 { 0.0 } else { f64::from(f) * f64::from(ROUGH.range(s).1) };
    let used = frequencies.iter().filter(|&&f| f > 0).count();
    let bits = entropy(&frequencies) + frequencies.iter().enumerate().map(extra).sum::<f64>();
    step as f64 * bits + LEVEL_COST * used as f64
}
