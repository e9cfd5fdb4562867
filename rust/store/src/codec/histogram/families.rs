//! Histograms whose bucket indices mean the same are a family: each bucket that one of them has is a column
//! of all, 0 where a histogram lacks it. Which layout each histogram had is kept, so it comes back as it was.

use std::collections::HashMap;
use std::sync::Arc;

use metricsdb_model::histogram::{SCHEMA_CUSTOM, Span, indices};
use metricsdb_model::{Error, Histogram, Layout, ResetHint, Result, ValueKind};

use crate::codec::choose;
use crate::codec::cursor::{Cursor, put_signed, put_varint};
use crate::codec::values::Section;

/// Words that one chunk decodes to at most, layouts and empty buckets among them: 8 MiB, 512 rows of 2,000
/// buckets. The widest single histogram fits.
pub const CHUNK_CELLS_MAX: usize = 1 << 20;

/// Layouts share columns unless these are so many times the buckets that histograms have.
const EMPTY_FACTOR: usize = 8;

/// Flags of a family.
const FLOAT: u8 = 1;
const THRESHOLD: u8 = 2;

/// Histograms that share columns.
pub struct Family {
    pub float: bool,
    /// Columns of buckets.
    pub width: usize,
    pub layouts: Vec<Arc<Layout>>,
    /// For each layout, the column of each of its buckets.
    pub slots: Vec<Vec<u32>>,
    pub rows: usize,
}

/// Where a histogram of the chunk stands.
#[derive(Clone, Copy)]
pub struct Place {
    pub family: usize,
    pub layout: usize,
    /// Position among the rows of the family.
    pub row: usize,
    pub reset: ResetHint,
}

/// All families of a chunk, and where each of its rows is.
#[derive(Default)]
pub struct Plan {
    pub families: Vec<Family>,
    pub places: Vec<Place>,
}

impl Family {
    fn new(float: bool, layouts: Vec<Arc<Layout>>) -> Family {
        let union = |side: fn(&Layout) -> &[Span]| {
            let mut all: Vec<i32> = layouts.iter().flat_map(|l| indices(side(l))).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let (positive, negative) = (union(|l| &l.positive), union(|l| &l.negative));
        let place = |all: &[i32], index: i32| all.binary_search(&index).unwrap_or(0) as u32;
        let slots = layouts.iter().map(|l| {
            let above = indices(&l.positive).map(|i| place(&positive, i));
            let below = indices(&l.negative).map(|i| positive.len() as u32 + place(&negative, i));
            above.chain(below).collect()
        });
        let (slots, width) = (slots.collect(), positive.len() + negative.len());
        Family { float, width, layouts, slots, rows: 0 }
    }

    fn cells(&self) -> usize {
        let spans = |l: &Layout| l.positive.len() + l.negative.len();
        let bounds = self.layouts.first().map_or(0, |l| l.custom_bounds.len());
        let spans_most = self.layouts.iter().map(|l| spans(l)).max().unwrap_or(0);
        let of_layouts: usize = self.slots.iter().map(|s| s.len() + bounds + spans_most).sum();
        of_layouts + self.rows.saturating_mul(self.width + bounds + spans_most + 2)
    }
}

impl Plan {
    /// A plan for rows that are written, of all those of a chunk. Errors: `Limit` where they would decode to
    /// more than `CHUNK_CELLS_MAX` words.
    pub fn of(rows: &[&Histogram], all: &[Histogram]) -> Result<Plan> {
        let joined = Plan::group(rows, true);
        let buckets = joined.families.iter().fold(0usize, |sum, f| sum.saturating_add(f.rows * f.width));
        let used = |plan: &Plan| (0..rows.len()).map(|row| plan.buckets(row) + 1).sum::<usize>();
        let crowded = buckets > used(&joined) * EMPTY_FACTOR;
        let apart = crowded || joined.cells() > CHUNK_CELLS_MAX;
        let plan = if apart { Plan::group(rows, false) } else { joined };
        let of_all = all.iter().fold(0usize, |sum, h| {
            let (positive, negative) = h.layout.bucket_counts();
            sum.saturating_add((positive + negative) as usize + 1)
        });
        match plan.cells().max(of_all) {
            cells if cells <= CHUNK_CELLS_MAX => Ok(plan),
            cells => Err(Error::Limit {
                what: "words of a chunk of histograms",
                limit: CHUNK_CELLS_MAX as u64,
                needed: cells as u64,
                remedy: "seal fewer of them at once",
            }),
        }
    }

    /// One family for each meaning of indices if `join`, else one for each layout.
    fn group(rows: &[&Histogram], join: bool) -> Plan {
        let mut found: HashMap<(bool, &Layout), (usize, usize)> = HashMap::new();
        let mut kinds: HashMap<(bool, Layout), usize> = HashMap::new();
        let mut families: Vec<(bool, Vec<Arc<Layout>>)> = Vec::new();
        let mut at: Vec<(usize, usize)> = Vec::with_capacity(rows.len());
        for (i, h) in rows.iter().enumerate() {
            let before = i.checked_sub(1).and_then(|i| rows.get(i));
            let same = |b: &&&Histogram| Arc::ptr_eq(&b.layout, &h.layout) && b.is_float() == h.is_float();
            if let (Some(_), Some(&place)) = (before.filter(same), at.last()) {
                at.push(place);
                continue;
            }
            at.push(*found.entry((h.is_float(), &h.layout)).or_insert_with(|| {
                let bare = Layout { positive: Vec::new(), negative: Vec::new(), ..(*h.layout).clone() };
                let next = families.len();
                let family = if join { *kinds.entry((h.is_float(), bare)).or_insert(next) } else { next };
                if family == next {
                    families.push((h.is_float(), Vec::new()));
                }
                families[family].1.push(h.layout.clone());
                (family, families[family].1.len() - 1)
            }));
        }
        let families = families.into_iter().map(|(float, layouts)| Family::new(float, layouts)).collect();
        let mut plan = Plan { families, places: Vec::with_capacity(rows.len()) };
        for ((family, layout), h) in at.into_iter().zip(rows) {
            plan.place(family, layout, h.reset);
        }
        plan
    }

    fn place(&mut self, family: usize, layout: usize, reset: ResetHint) {
        let Some(of) = self.families.get_mut(family) else { return };
        self.places.push(Place { family, layout, row: of.rows, reset });
        of.rows += 1;
    }

    fn cells(&self) -> usize {
        self.families.iter().fold(0, |sum, f| sum.saturating_add(f.cells()))
    }

    /// How many buckets a row has.
    pub fn buckets(&self, row: usize) -> usize {
        let slots = |p: &Place| Some(self.families.get(p.family)?.slots.get(p.layout)?.len());
        self.places.get(row).and_then(slots).unwrap_or(0)
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        put_varint(out, self.families.len() as u64);
        self.families.iter().for_each(|family| write_family(family, out));
        let mut starts = vec![0];
        for f in &self.families {
            starts.push(starts[starts.len() - 1] + f.layouts.len());
        }
        let word = |p: &Place| (starts[p.family] + p.layout) << 2 | p.reset as usize;
        let runs: Vec<&[Place]> = self.places.chunk_by(|a, b| word(a) == word(b)).collect();
        put_varint(out, runs.len() as u64);
        for run in runs {
            put_varint(out, word(&run[0]) as u64);
            put_varint(out, run.len() as u64 - 1);
        }
    }

    /// Errors: `Corruption`. Allocates no more than `CHUNK_CELLS_MAX` allows and the bytes left.
    pub fn read(cursor: &mut Cursor, count: usize) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut left = CHUNK_CELLS_MAX;
        for _ in 0..cursor.count()? {
            plan.families.push(read_family(cursor, &mut left)?);
        }
        let families = plan.families.iter().enumerate();
        let layouts: Vec<(usize, usize)> =
            families.flat_map(|(f, family)| (0..family.layouts.len()).map(move |l| (f, l))).collect();
        let mut used = vec![false; layouts.len()];
        for _ in 0..cursor.count()? {
            let (word, more) = (cursor.varint()?, cursor.varint()?);
            let layout = usize::try_from(word >> 2).unwrap_or(usize::MAX);
            let (Some(&(family, layout)), Some(used)) = (layouts.get(layout), used.get_mut(layout)) else {
                return Err(cursor.wrong("no such layout of a histogram"));
            };
            *used = true;
            if more >= (count - plan.places.len()) as u64 {
                return Err(cursor.wrong("more layouts than histograms"));
            }
            (0..=more).for_each(|_| plan.place(family, layout, hint(word)));
        }
        if plan.places.len() != count || used.contains(&false) || plan.cells() > CHUNK_CELLS_MAX {
            return Err(cursor.wrong("layouts don't fit their histograms"));
        }
        Ok(plan)
    }
}

fn hint(word: u64) -> ResetHint {
    match word & 3 {
        0 => ResetHint::Unknown,
        1 => ResetHint::Reset,
        2 => ResetHint::NotReset,
        _ => ResetHint::Gauge,
    }
}

fn write_family(family: &Family, out: &mut Vec<u8>) {
    let Some(layout) = family.layouts.first() else { return };
    let threshold = layout.zero_threshold.to_bits();
    out.push(if family.float { FLOAT } else { 0 } | if threshold != 0 { THRESHOLD } else { 0 });
    out.push(layout.schema as u8);
    if threshold != 0 {
        out.extend_from_slice(&threshold.to_le_bytes());
    }
    if layout.schema == SCHEMA_CUSTOM {
        let bounds: Vec<u64> = layout.custom_bounds.iter().map(|b| b.to_bits()).collect();
        let mut section = Vec::new();
        choose::encode(ValueKind::Float, &bounds, None, &mut section);
        put_varint(out, bounds.len() as u64);
        put_varint(out, section.len() as u64);
        out.extend_from_slice(&section);
    }
    put_varint(out, family.layouts.len() as u64);
    for spans in family.layouts.iter().flat_map(|l| [&l.positive, &l.negative]) {
        put_varint(out, spans.len() as u64);
        for span in spans {
            put_signed(out, i64::from(span.offset));
            put_varint(out, u64::from(span.length));
        }
    }
}

/// `left` is how many words may still be made.
fn read_family(cursor: &mut Cursor, left: &mut usize) -> Result<Family> {
    let flags = cursor.byte()?;
    if flags > FLOAT | THRESHOLD {
        return Err(cursor.wrong("no such flags of histograms"));
    }
    let schema = i32::from(cursor.byte()? as i8);
    let threshold = if flags & THRESHOLD != 0 { cursor.word(8)? } else { 0 };
    let custom_bounds = if schema == SCHEMA_CUSTOM { read_bounds(cursor, left)? } else { Vec::new() };
    let mut layouts = Vec::new();
    for _ in 0..cursor.count()? {
        let (positive, negative) = (read_spans(cursor)?, read_spans(cursor)?);
        let layout = Layout {
            schema,
            zero_threshold: f64::from_bits(threshold),
            positive,
            negative,
            custom_bounds: Vec::new(),
        };
        let (positive, negative) = layout.bucket_counts();
        let cells = usize::try_from(positive.saturating_add(negative)).unwrap_or(usize::MAX);
        spend(cursor, left, cells.saturating_add(custom_bounds.len()))?;
        let layout = Layout { custom_bounds: custom_bounds.clone(), ..layout };
        layout.validate().map_err(|e| cursor.wrong(&e.to_string()))?;
        layouts.push(Arc::new(layout));
    }
    Ok(Family::new(flags & FLOAT != 0, layouts))
}

fn read_bounds(cursor: &mut Cursor, left: &mut usize) -> Result<Vec<f64>> {
    let count = usize::try_from(cursor.varint()?).unwrap_or(usize::MAX);
    spend(cursor, left, count)?;
    let n = cursor.count()?;
    let mut bounds = Vec::new();
    let section = cursor.take(n)?;
    if count > 0 {
        Section::parse(section, ValueKind::Float, count)?.decode(0, count, f64::from_bits, &mut bounds)?;
    }
    Ok(bounds)
}

fn read_spans(cursor: &mut Cursor) -> Result<Vec<Span>> {
    let mut spans = Vec::new();
    for _ in 0..cursor.count()? {
        let (offset, length) = (i32::try_from(cursor.signed()?), u32::try_from(cursor.varint()?));
        let (Ok(offset), Ok(length)) = (offset, length) else {
            return Err(cursor.wrong("a span that does not fit 32 bits"));
        };
        spans.push(Span { offset, length });
    }
    Ok(spans)
}

fn spend(cursor: &Cursor, left: &mut usize, cells: usize) -> Result<()> {
    match left.checked_sub(cells) {
        Some(rest) => *left = rest,
        None => return Err(cursor.wrong("more buckets than a chunk may have")),
    }
    Ok(())
}
