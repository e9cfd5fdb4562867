//! What a dense column's residuals look like: symbols for small numbers and for ranges of larger ones,
//! and a table of their frequencies.

use metricsdb_model::Result;

use super::bits::{BitReader, mask};
use super::cursor::Cursor;
use super::tans::{BitWriter, Counts, Levels, SYMBOLS_MAX, log2};

/// The decoder keeps two states, which take turns.
pub const LANES: usize = 2;

/// Sizes of tables that are written as numbers 0 to 7.
const LOGS: [u32; 8] = [0, 6, 7, 8, 9, 10, 11, 12];

/// A larger table must save one part in so many.
const LARGER_PART: f64 = 250.0;

/// About the bits that the level of a symbol takes.
const LEVEL_COST: f64 = 2.7;

/// Numbers that an estimate looks at.
const ESTIMATE_MAX: usize = 2048;

/// How numbers become symbols: below 2^direct they are symbols themselves; above, a symbol stands for an
/// exponent and the highest `mantissa` bits behind the leading one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    direct: u32,
    mantissa: u32,
}

/// All other grids join neighbours of this one.
const DIRECT_MAX: u32 = 5;
const FINEST: Grid = Grid { direct: DIRECT_MAX, mantissa: 3 };
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
    pub extra: u32,
}

/// Everything that a decoder must know of a column's symbols.
pub struct Model {
    grid: Grid,
    highest: u8,
    /// None where all numbers have the highest symbol.
    levels: Option<Levels>,
    pub counts: Counts,
}

impl Model {
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// What each symbol stands for.
    pub fn symbols(&self) -> Vec<Symbol> {
        let of = |s: u8| {
            let (low, extra) = self.grid.range(usize::from(s));
            Symbol { low, extra }
        };
        (0..=self.highest).map(of).collect()
    }

    /// Two bytes and the table.
    pub fn write(&self, out: &mut Vec<u8>) {
        let log = LOGS.iter().position(|&l| l == self.counts.log()).unwrap_or(0);
        out.push((self.grid.direct * 4 + self.grid.mantissa) as u8 | (log as u8) << 5);
        out.push(self.highest);
        if let Some(levels) = &self.levels {
            let mut bits = BitWriter::default();
            levels.write(&mut bits);
            out.extend(bits.finish());
        }
    }

    pub fn read(cursor: &mut Cursor) -> Result<Model> {
        let shape = cursor.byte()?;
        let grid = Grid { direct: u32::from(shape >> 2 & 7), mantissa: u32::from(shape & 3) };
        let log = LOGS[usize::from(shape >> 5)];
        let highest = cursor.byte()?;
        let symbols = usize::from(highest) + 1;
        if grid.direct > DIRECT_MAX || grid.mantissa > grid.direct || symbols > grid.symbols() {
            return Err(cursor.wrong("no such symbols"));
        }
        if log == 0 {
            return Ok(Model { grid, highest, levels: None, counts: Counts::one(symbols) });
        }
        let mut bits = BitReader::new(cursor.clone().rest());
        let levels = Levels::read(&mut bits, symbols);
        let Some(counts) = Counts::new(&levels.weights(), log) else {
            return Err(cursor.wrong("a table without symbols, or with too many"));
        };
        cursor.take(bits.position().div_ceil(8))?;
        Ok(Model { grid, highest, levels: Some(levels), counts })
    }

    /// A model for at least one number, of which `stretches` parts are decoded on their own.
    pub fn fit(numbers: &[u64], stretches: usize) -> Model {
        let mut finest = [0u32; FINEST_SYMBOLS];
        numbers.iter().for_each(|&z| finest[FINEST.symbol(z)] += 1);
        let top = numbers.iter().copied().max().unwrap_or(0);
        let fits = GRIDS.iter().filter(|g| g.symbol(top) < SYMBOLS_MAX);
        let costs = fits.map(|&g| (g, cost_of_grid(g, &finest, top)));
        let (grid, _) = costs.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((GRIDS[0], 0.0));
        let mut frequencies = vec![0; grid.symbol(top) + 1];
        for (fine, f) in finest.iter().enumerate().filter(|(_, f)| **f > 0) {
            frequencies[grid.symbol(FINEST.range(fine).0)] += f;
        }
        let highest = (frequencies.len() - 1) as u8;
        let table = match frequencies.last() {
            Some(&all) if all as usize == numbers.len() => None,
            _ => table(&frequencies, size(&frequencies, stretches)),
        };
        match table {
            Some((levels, counts)) => Model { grid, highest, levels: Some(levels), counts },
            None => Model { grid, highest, levels: None, counts: Counts::one(frequencies.len()) },
        }
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

/// The logarithm of the states that make a column smallest: many are near to the frequencies, few are
/// soon built, and their numbers short.
fn size(frequencies: &[u32], stretches: usize) -> u32 {
    let count: u32 = frequencies.iter().sum();
    let mut best = (f64::INFINITY, 0);
    for log in LOGS.into_iter().skip(1) {
        let Some(counts) = Counts::new(frequencies, log) else { continue };
        let bits = counts.cost(frequencies) + (stretches * LANES) as f64 * f64::from(log);
        if best.0.is_infinite() || bits < best.0 - best.0 / LARGER_PART {
            best = (bits, log);
        }
        if 2 << log >= (count / 2).max(256) {
            break;
        }
    }
    best.1
}

/// The table that is smallest together with its symbols.
fn table(frequencies: &[u32], log: u32) -> Option<(Levels, Counts)> {
    let with = |fine: u32| {
        let levels = Levels::of(frequencies, log, fine);
        let bits = Counts::new(&levels.weights(), log)?.cost(frequencies) + f64::from(levels.bits());
        Some((levels, bits))
    };
    let (mut levels, _) = (0..3).filter_map(with).min_by(|a, b| a.1.total_cmp(&b.1))?;
    levels.smooth(frequencies, log);
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
    let used = frequencies.iter().rposition(|&f| f > 0).unwrap_or(0) + 1;
    let bits = entropy(&frequencies) + frequencies.iter().enumerate().map(extra).sum::<f64>();
    step as f64 * bits + LEVEL_COST * used as f64
}
