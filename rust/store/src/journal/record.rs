//! What a frame of the journal says, byte by byte: FORMAT.md. A record stands for itself: none is read with the help
//! of another, so that a lost one takes nothing with it.

use metricsdb_model::{Error, Histogram, Metadata, MetricType, Result, TimeRange, ValueKind};

use crate::codec::cursor::{Cursor, put_signed, put_varint};
use crate::codec::histogram::HistogramChunk;
use crate::cut::Taking;
use crate::precision::RuleText;
use crate::rollup::{Beside, EVERY_MAX, Keeping, Kind, Step};
use crate::series::{ANY_GENERATION, ROWS_MAX};
use crate::shard::Staged;

/// Samples of one record: bounds what a bad frame costs.
pub const RECORD_SAMPLES_MAX: usize = 1 << 14;

/// In the first byte of a record of samples, above the kind of values.
const WITH_STARTS: u8 = 4;

/// Columns of numbers: one delta after the other, or runs of equal deltas.
const PLAIN: u8 = 0;
const RUNS: u8 = 1;

/// Lengths of a value, four bits each: up to `WHOLE_BYTES_MAX` bytes of a whole number, or, from `BITS_FROM` on, the
/// highest bytes of the 64 bits.
const WHOLE_BYTES_MAX: u8 = 6;
const BITS_FROM: u8 = 7;
/// Whole numbers below this have a double each, and fit their bytes with their sign.
const WHOLE_MAX: f64 = (1u64 << 47) as f64;

/// Writes rows; `read_rows` reads them.
pub fn put_rows(out: &mut Vec<u8>, rows: &[u32]) {
    put_varint(out, rows.len() as u64);
    put_column(out, rows.iter().map(|&row| i64::from(row)));
}

pub fn read_rows(payload: &[u8]) -> Result<Vec<u32>> {
    let mut c = Cursor::new(payload);
    let count = c.varint()? as usize;
    if count > ROWS_MAX {
        return Err(c.wrong("more rows than a shard has"));
    }
    let mut rows = Vec::new();
    read_column(&mut c, count, &mut rows)?;
    let row = |&row: &i64| u32::try_from(row).map_err(|_| Error::corruption("frame", 0, "no such row"));
    rows.iter().map(row).collect()
}

/// A range, what a cut takes in it, and the rows that it is of.
pub fn put_cut(out: &mut Vec<u8>, range: TimeRange, taking: Taking, rows: &[u32]) {
    out.push(taking as u8);
    put_signed(out, range.start);
    put_signed(out, range.end);
    put_rows(out, rows);
}

pub fn read_cut(payload: &[u8]) -> Result<(TimeRange, Taking, Vec<u32>)> {
    let mut c = Cursor::new(payload);
    let taking = match c.byte()? {
        0 => Taking::Everything,
        1 => Taking::Stood,
        _ => return Err(c.wrong("no such cut")),
    };
    let range = TimeRange::new(c.signed()?, c.signed()?);
    Ok((range, taking, read_rows(c.rest())?))
}

/// In the byte of a step that says what stands beside records.
const SKETCHES: u8 = 1;
const STATES: u8 = 2;
/// The cap of a record's histograms follows.
const BUCKETS: u8 = 4;
/// Rows of states follow those of other kinds.
const STATE_ROWS: u8 = 8;

/// A step, and the rows that take it, kind by kind.
pub fn put_roll(out: &mut Vec<u8>, step: &Step, rows: &[(u32, Kind)]) {
    put_signed(out, step.horizon);
    put_signed(out, step.raw_before);
    put_varint(out, step.levels.len() as u64);
    for &(every, before) in &step.levels {
        put_signed(out, every);
        put_signed(out, before);
    }
    let keeping = step.keeping.unwrap_or(Keeping { share: 0.0, threshold: 0.0, neighbours: 0 });
    out.extend_from_slice(&keeping.share.to_le_bytes());
    out.extend_from_slice(&keeping.threshold.to_le_bytes());
    put_varint(out, keeping.neighbours as u64);
    let Beside { sketches, states, buckets_max } = step.beside;
    let state_rows = rows.iter().any(|r| r.1 == Kind::States);
    let flags =
        [(sketches, SKETCHES), (states, STATES), (buckets_max.is_some(), BUCKETS), (state_rows, STATE_ROWS)];
    out.push(flags.iter().filter(|f| f.0).map(|f| f.1).sum());
    if let Some(most) = buckets_max {
        put_varint(out, u64::from(most));
    }
    for &wanted in kinds(state_rows) {
        let of: Vec<i64> = rows.iter().filter(|r| r.1 == wanted).map(|r| i64::from(r.0)).collect();
        put_varint(out, of.len() as u64);
        put_column(out, of.iter().copied());
    }
}

/// The kinds of which rows are listed, in their order.
fn kinds(states: bool) -> &'static [Kind] {
    if states { &Kind::ALL } else { &[Kind::Counter, Kind::Gauge] }
}

pub fn read_roll(payload: &[u8]) -> Result<(Step, Vec<(u32, Kind)>)> {
    let mut c = Cursor::new(payload);
    let mut step = Step {
        horizon: c.signed()?,
        raw_before: c.signed()?,
        levels: Vec::new(),
        keeping: None,
        beside: Beside::default(),
    };
    for _ in 0..c.count()? {
        let (every, before) = (c.signed()?, c.signed()?);
        if !(1..=EVERY_MAX).contains(&every)
            || step.levels.last().is_some_and(|&(below, _)| every % below != 0)
        {
            return Err(c.wrong("levels that don't follow from each other"));
        }
        step.levels.push((every, before));
    }
    let (share, threshold) = (f64::from_bits(c.word(8)?), f64::from_bits(c.word(8)?));
    let neighbours = (c.varint()? as usize).min(RECORD_SAMPLES_MAX);
    let beside = c.byte()?;
    if beside >= STATE_ROWS << 1 {
        return Err(c.wrong("a step that keeps what nobody knows"));
    }
    let buckets_max = match beside & BUCKETS {
        0 => None,
        _ => Some(u32::try_from(c.varint()?).map_err(|_| c.wrong("more buckets than there can be"))?),
    };
    step.beside = Beside { sketches: beside & SKETCHES != 0, states: beside & STATES != 0, buckets_max };
    // Bytes that were damaged and pass every check are not taken for a choice.
    let is_given = share > 0.0 && share <= 1.0 && threshold > 0.0;
    step.keeping = is_given.then_some(Keeping { share, threshold, neighbours });
    let mut rows = Vec::new();
    for &kind in kinds(beside & STATE_ROWS != 0) {
        let count = c.varint()? as usize;
        if count > ROWS_MAX {
            return Err(c.wrong("more rows than a shard has"));
        }
        let mut of = Vec::new();
        read_column(&mut c, count, &mut of)?;
        for row in of {
            rows.push((u32::try_from(row).map_err(|_| c.wrong("no such row"))?, kind));
        }
    }
    Ok((step, rows))
}

/// A histogram as its record holds it.
pub struct HistogramEntry<'a> {
    pub row: u32,
    pub time: i64,
    pub start: i64,
    pub histogram: &'a Histogram,
}

/// Writes samples and their starts: as many of those, or none.
pub fn put_samples(out: &mut Vec<u8>, kind: ValueKind, samples: &[Staged], starts: &[i64]) {
    let at = out.len();
    let kinds = ValueKind::ALL.iter().position(|&k| k == kind).unwrap_or(0) as u8;
    out.push(kinds | if starts.is_empty() { 0 } else { WITH_STARTS });
    put_varint(out, samples.len() as u64);
    put_column(out, samples.iter().map(|s| i64::from(s.row)));
    put_column(out, samples.iter().map(|s| s.time));
    let outline = crc32fast::hash(out.get(at..).unwrap_or(&[]));
    out.extend_from_slice(&outline.to_le_bytes());
    put_values(out, kind, samples);
    if !starts.is_empty() {
        put_column(out, starts.iter().copied());
    }
}

/// Appends what `put_samples` wrote; rows are those of the writer.
pub fn read_samples(payload: &[u8], samples: &mut Vec<Staged>, starts: &mut Vec<i64>) -> Result<ValueKind> {
    let mut c = Cursor::new(payload);
    let flags = c.byte()?;
    let kind = ValueKind::ALL.get(usize::from(flags & 3)).copied();
    let Some(kind) = kind.filter(|_| flags < 8) else { return Err(c.wrong("no such kind of samples")) };
    // No limit of bytes: a run holds as many as it says, so the count has one of its own.
    let count = c.varint()? as usize;
    if count > RECORD_SAMPLES_MAX {
        return Err(c.wrong("more samples than a record may have"));
    }
    let (mut rows, mut times) = (Vec::with_capacity(count), Vec::with_capacity(count));
    read_column(&mut c, count, &mut rows)?;
    read_column(&mut c, count, &mut times)?;
    c.word(4)?;
    let lengths = c.take(count.div_ceil(2))?;
    for (i, (&row, &time)) in rows.iter().zip(&times).enumerate() {
        let pair = lengths.get(i / 2).copied().unwrap_or(0);
        let bits = read_value(&mut c, kind, if i % 2 == 0 { pair & 15 } else { pair >> 4 })?;
        let Ok(row) = u32::try_from(row) else { return Err(c.wrong("no such row")) };
        samples.push(Staged { row, generation: ANY_GENERATION, time, bits });
    }
    if flags & WITH_STARTS != 0 {
        read_column(&mut c, count, starts)?;
    }
    if c.is_empty() { Ok(kind) } else { Err(c.wrong("bytes behind the last sample")) }
}

/// Which samples a record had whose values are bad: rows and times, if these are right.
pub fn read_outline(payload: &[u8]) -> Result<Vec<(i64, i64)>> {
    let mut c = Cursor::new(payload);
    c.byte()?;
    let count = c.varint()? as usize;
    if count > RECORD_SAMPLES_MAX {
        return Err(c.wrong("more samples than a record may have"));
    }
    let (mut rows, mut times) = (Vec::new(), Vec::new());
    read_column(&mut c, count, &mut rows)?;
    read_column(&mut c, count, &mut times)?;
    let outline = crc32fast::hash(payload.get(..c.position()).unwrap_or(&[]));
    match c.word(4)? as u32 == outline {
        true => Ok(rows.into_iter().zip(times).collect()),
        false => Err(c.wrong("rows and times are bad, too")),
    }
}

/// Each number's distance from the one before, as runs where few change it.
pub fn put_column(out: &mut Vec<u8>, numbers: impl Iterator<Item = i64> + Clone) {
    let deltas = || {
        let mut last = 0;
        numbers.clone().map(move |n| n.wrapping_sub(std::mem::replace(&mut last, n)))
    };
    let (mut runs, mut count, mut before) = (0, 0, None);
    for delta in deltas() {
        runs += usize::from(before != Some(delta));
        count += 1;
        before = Some(delta);
    }
    if 2 * runs > count {
        out.push(PLAIN);
        deltas().for_each(|delta| put_signed(out, delta));
        return;
    }
    out.push(RUNS);
    let mut deltas = deltas().peekable();
    while let Some(delta) = deltas.next() {
        let mut len = 1;
        while deltas.next_if_eq(&delta).is_some() {
            len += 1;
        }
        put_signed(out, delta);
        put_varint(out, len);
    }
}

pub fn read_column(c: &mut Cursor<'_>, count: usize, out: &mut Vec<i64>) -> Result<()> {
    let (form, mut last, mut left) = (c.byte()?, 0i64, count);
    if form > RUNS {
        return Err(c.wrong("no such form of a column"));
    }
    while left > 0 {
        let delta = c.signed()?;
        let len = if form == RUNS { c.varint()? } else { 1 };
        if len == 0 || len > left as u64 {
            return Err(c.wrong("a run longer than its column"));
        }
        for _ in 0..len {
            last = last.wrapping_add(delta);
            out.push(last);
        }
        left -= len as usize;
    }
    Ok(())
}

fn put_values(out: &mut Vec<u8>, kind: ValueKind, samples: &[Staged]) {
    let at = out.len();
    out.resize(at + samples.len().div_ceil(2), 0);
    out.reserve(samples.len() * 8);
    for (i, s) in samples.iter().enumerate() {
        let (length, word, bytes) = shortened(kind, s.bits);
        out.get_mut(at + i / 2).into_iter().for_each(|pair| *pair |= length << (i % 2 * 4));
        out.extend_from_slice(word.to_le_bytes().get(..bytes).unwrap_or(&[]));
    }
}

/// The code of a value's length, and the bytes of a word that stand for it.
#[inline]
fn shortened(kind: ValueKind, bits: u64) -> (u8, u64, usize) {
    let whole = match kind {
        ValueKind::Int | ValueKind::Uint => Some(bits as i64),
        ValueKind::Float => {
            let value = f64::from_bits(bits);
            let whole = value as i64;
            (value.abs() < WHOLE_MAX && (whole as f64).to_bits() == bits).then_some(whole)
        }
    };
    if let Some(whole) = whole {
        let word = ((whole << 1) ^ (whole >> 63)) as u64;
        let bytes = (64 - word.leading_zeros() as usize).div_ceil(8);
        if bytes <= usize::from(WHOLE_BYTES_MAX) {
            return (bytes as u8, word, bytes);
        }
    }
    // The lowest bytes of a double with few digits are zero.
    let bytes = 8 - (bits.trailing_zeros() as usize / 8).min(7);
    (BITS_FROM + bytes as u8 - 1, bits >> (64 - 8 * bytes), bytes)
}

#[inline]
fn read_value(c: &mut Cursor<'_>, kind: ValueKind, length: u8) -> Result<u64> {
    if length >= BITS_FROM {
        let bytes = usize::from(length - BITS_FROM) + 1;
        return match bytes {
            1..=8 => Ok(c.word(bytes)? << (64 - 8 * bytes)),
            _ => Err(c.wrong("a value of nine bytes")),
        };
    }
    let word = c.word(usize::from(length))?;
    let whole = (word >> 1) as i64 ^ -((word & 1) as i64);
    Ok(if kind == ValueKind::Float { (whole as f64).to_bits() } else { whole as u64 })
}

/// A new series: its row, its precision, and its canonical labels.
pub fn put_series(out: &mut Vec<u8>, row: u32, mark: u8, canonical: &[u8]) {
    put_varint(out, u64::from(row));
    out.push(mark);
    out.extend_from_slice(canonical);
}

pub fn read_series(payload: &[u8]) -> Result<(u32, u8, &[u8])> {
    let mut c = Cursor::new(payload);
    let (row, mark) = (read_row(&mut c)?, c.byte()?);
    Ok((row, mark, c.rest()))
}

pub fn read_row(c: &mut Cursor<'_>) -> Result<u32> {
    u32::try_from(c.varint()?).map_err(|_| c.wrong("no such row"))
}

/// Histograms, each as a chunk of one; those that no chunk takes are left out, as they are when it is sealed.
pub fn put_histograms<'a>(out: &mut Vec<u8>, entries: impl Iterator<Item = HistogramEntry<'a>>) {
    let sealed = |entry: HistogramEntry<'a>| {
        let chunk = HistogramChunk::seal(&[entry.time], std::slice::from_ref(entry.histogram)).ok()?;
        Some((entry.row, entry.start, chunk))
    };
    for (row, start, chunk) in entries.filter_map(sealed) {
        put_varint(out, u64::from(row));
        put_signed(out, start);
        put_bytes(out, chunk.to_bytes());
    }
}

/// Calls `f` with row, time, start and histogram of each.
pub fn read_histograms(payload: &[u8], mut f: impl FnMut(u32, i64, i64, Histogram)) -> Result<()> {
    let mut c = Cursor::new(payload);
    while !c.is_empty() {
        let (row, start) = (read_row(&mut c)?, c.signed()?);
        let chunk = HistogramChunk::from_bytes(read_bytes(&mut c)?)?;
        let (mut times, mut rows) = (Vec::new(), Vec::new());
        chunk.decode_range(TimeRange::ALL, &mut times, &mut rows)?;
        times.into_iter().zip(rows).for_each(|(time, histogram)| f(row, time, start, histogram));
    }
    Ok(())
}

pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub fn read_bytes<'a>(c: &mut Cursor<'a>) -> Result<&'a [u8]> {
    let len = c.count()?;
    c.take(len)
}

pub fn read_text(c: &mut Cursor<'_>) -> Result<String> {
    let bytes = read_bytes(c)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| c.wrong("text that is not UTF-8"))
}

const TYPES: [MetricType; 8] = [
    MetricType::Unknown,
    MetricType::Counter,
    MetricType::Gauge,
    MetricType::Histogram,
    MetricType::GaugeHistogram,
    MetricType::Summary,
    MetricType::Info,
    MetricType::StateSet,
];

pub fn put_metadata<'a>(out: &mut Vec<u8>, families: impl Iterator<Item = &'a Metadata>) {
    for family in families {
        put_bytes(out, family.metric.as_bytes());
        let kind = family.kind.and_then(|kind| TYPES.iter().position(|&t| t == kind));
        out.push(kind.map_or(0, |at| at as u8 + 1));
        for text in [&family.help, &family.unit] {
            put_varint(out, text.as_ref().map_or(0, |text| text.len() as u64 + 1));
            out.extend_from_slice(text.as_deref().unwrap_or("").as_bytes());
        }
    }
}

pub fn read_metadata(payload: &[u8]) -> Result<Vec<Metadata>> {
    let (mut c, mut families) = (Cursor::new(payload), Vec::new());
    while !c.is_empty() {
        let metric = read_text(&mut c)?;
        let kind = c.byte()?.checked_sub(1).and_then(|at| TYPES.get(usize::from(at)).copied());
        let mut text = || -> Result<Option<String>> {
            let Some(len) = (c.varint()? as usize).checked_sub(1) else { return Ok(None) };
            let bytes = c.take(len)?.to_vec();
            String::from_utf8(bytes).map(Some).map_err(|_| c.wrong("text that is not UTF-8"))
        };
        let (help, unit) = (text()?, text()?);
        families.push(Metadata { metric, kind, help, unit });
    }
    Ok(families)
}

/// All rules in order, and the marks of all rows.
pub fn put_rules(out: &mut Vec<u8>, rules: &[RuleText], marks: impl Iterator<Item = u8> + Clone) {
    put_varint(out, rules.len() as u64);
    for rule in rules {
        put_bytes(out, rule.selector.as_bytes());
        put_bytes(out, rule.policy.as_bytes());
        out.push(u8::from(rule.counters_exact));
    }
    put_varint(out, marks.clone().count() as u64);
    put_column(out, marks.map(i64::from));
}

pub fn read_rules(payload: &[u8]) -> Result<(Vec<RuleText>, Vec<u8>)> {
    let mut c = Cursor::new(payload);
    let mut rules = Vec::new();
    for _ in 0..c.count()? {
        let (selector, policy) = (read_text(&mut c)?, read_text(&mut c)?);
        rules.push(RuleText { selector, policy, counters_exact: c.byte()? != 0 });
    }
    let count = c.varint()? as usize;
    if count > crate::series::ROWS_MAX {
        return Err(c.wrong("more rows than a shard may have"));
    }
    let mut marks = Vec::new();
    read_column(&mut c, count, &mut marks)?;
    Ok((rules, marks.into_iter().map(|mark| mark as u8).collect()))
}

/// Up to where the journal is safe from a power cut: a segment, and a byte of it.
pub fn put_synced(out: &mut Vec<u8>, segment: u64, offset: u64) {
    put_varint(out, segment);
    put_varint(out, offset);
}

pub fn read_synced(payload: &[u8]) -> Result<(u64, u64)> {
    let mut c = Cursor::new(payload);
    Ok((c.varint()?, c.varint()?))
}

/// Rows whose mark is another now.
pub fn put_marks(out: &mut Vec<u8>, marks: &[(u32, u8)]) {
    for &(row, mark) in marks {
        put_varint(out, u64::from(row));
        out.push(mark);
    }
}

pub fn read_marks(payload: &[u8]) -> Result<Vec<(u32, u8)>> {
    let (mut c, mut marks) = (Cursor::new(payload), Vec::new());
    while !c.is_empty() {
        marks.push((read_row(&mut c)?, c.byte()?));
    }
    Ok(marks)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use metricsdb_model::sample::STALE_NAN_BITS;
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = u64> {
        let special = [0.0f64, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.1, -1.5, 1e300, 5e-324];
        prop_oneof![
            proptest::sample::select(special.map(f64::to_bits).to_vec()),
            Just(STALE_NAN_BITS),
            any::<u64>(),
            any::<i32>().prop_map(|n| f64::from(n).to_bits()),
            (-(1i64 << 48)..1 << 48).prop_map(|n| (n as f64).to_bits()),
        ]
    }

    #[test]
    fn steps_come_back_and_those_of_older_versions_do() {
        let step = |beside| Step {
            horizon: 600,
            raw_before: -5,
            levels: vec![(60, i64::MIN), (300, 7)],
            keeping: None,
            beside,
        };
        let some = Beside { sketches: true, states: true, buckets_max: Some(160) };
        let rows = [(1, Kind::Counter), (9, Kind::Counter), (3, Kind::Gauge), (5, Kind::States)];
        for (beside, rows) in
            [(some, &rows[..]), (some, &rows[..3]), (Beside::default(), &rows[3..]), (Beside::default(), &[])]
        {
            let mut bytes = Vec::new();
            put_roll(&mut bytes, &step(beside), rows);
            assert_eq!(read_roll(&bytes).unwrap(), (step(beside), rows.to_vec()));
        }
        // As version 0.1 wrote it, to the byte: a step with sketches, one counter, two others.
        let mut old = vec![0xb0, 0x09, 0x7b, 1, 60, 0];
        old.extend([0; 17]);
        old.extend([1, 1, PLAIN, 2, 2, PLAIN, 6, 2]);
        let (step, rows) = read_roll(&old).unwrap();
        assert_eq!(step.beside, Beside { sketches: true, ..Beside::default() });
        assert_eq!(rows, [(1, Kind::Counter), (3, Kind::Gauge), (4, Kind::Gauge)]);
        old[23] |= 16;
        assert!(read_roll(&old).is_err(), "of a later version");
    }

    proptest! {
        #[test]
        fn samples_come_back_to_the_bit(
            rows in proptest::collection::vec((0u32..5000, any::<i64>(), value(), any::<i64>()), 0..200),
            kind in proptest::sample::select(ValueKind::ALL.to_vec()),
            with_starts: bool,
        ) {
            let samples: Vec<Staged> =
                rows.iter().map(|&(row, time, bits, _)| Staged { row, generation: ANY_GENERATION, time, bits }).collect();
            let starts: Vec<i64> = rows.iter().filter(|_| with_starts).map(|r| r.3).collect();
            let (mut bytes, mut back, mut back_starts) = (Vec::new(), Vec::new(), Vec::new());
            put_samples(&mut bytes, kind, &samples, &starts);
            prop_assert_eq!(read_samples(&bytes, &mut back, &mut back_starts).unwrap(), kind);
            let plain = |all: &[Staged]| all.iter().map(|s| (s.row, s.time, s.bits)).collect::<Vec<_>>();
            prop_assert_eq!((plain(&back), back_starts), (plain(&samples), starts));
        }

        #[test]
        fn no_bytes_make_a_reader_panic_or_allocate_on_credit(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let (mut samples, mut starts) = (Vec::new(), Vec::new());
            let _ = read_samples(&bytes, &mut samples, &mut starts);
            prop_assert!(samples.len() <= RECORD_SAMPLES_MAX);
            let _ = read_outline(&bytes);
            let _ = read_series(&bytes);
            let _ = read_metadata(&bytes);
            let _ = read_rules(&bytes);
            let _ = read_marks(&bytes);
            let _ = read_cut(&bytes);
            let _ = read_rows(&bytes);
            let _ = read_roll(&bytes);
            let _ = read_histograms(&bytes, |_, _, _, _| ());
        }
    }

    #[test]
    fn a_scrape_costs_little_beside_its_values() {
        let one = |row: u32, value: f64| Staged {
            row,
            generation: ANY_GENERATION,
            time: 1_700_000_000_000,
            bits: value.to_bits(),
        };
        let mut bytes = Vec::new();
        let counters: Vec<Staged> = (0..4000).map(|row| one(row, f64::from(row * 1000))).collect();
        put_samples(&mut bytes, ValueKind::Float, &counters, &[]);
        assert!(bytes.len() < 4000 * 4, "{} bytes", bytes.len());
        bytes.clear();
        let gauges: Vec<Staged> = (0..4000).map(|row| one(row, f64::from(row) / 7.0)).collect();
        put_samples(&mut bytes, ValueKind::Float, &gauges, &[]);
        assert!(bytes.len() < 4000 * 9, "{} bytes", bytes.len());
    }
}
