//! Sketches beside records: quantiles within one percent of the samples of whole buckets.

use metricsdb_model::{Result, Sketch};

use super::block::rounded;
use super::record::{Record, end_of};
use super::states;
use crate::codec::cursor::{Cursor, put_varint};

/// Bytes of one sketch: values that spread over more decades than this holds are told less exactly.
const SKETCH_BYTES: usize = 512;

/// A bucket's end, and the encoded sketch, or states.
pub type Sketched = (i64, Vec<u8>);

/// What is kept beside the records of gauges, and how much of native histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Beside {
    pub sketches: bool,
    pub states: bool,
    /// Buckets that the histograms of one record have together, at most; above it they become wider. `None`: any number.
    pub buckets_max: Option<u32>,
}

impl Beside {
    /// Whether anything stands beside records of numbers.
    pub fn any(&self) -> bool {
        self.sketches || self.states
    }
}

/// The sketch of some samples.
pub fn sketch(values: &[f64]) -> Sketch {
    let mut sketch = Sketch::default();
    sketch.add_all(values);
    sketch.fit(SKETCH_BYTES);
    sketch
}

/// How a record comes to its sketch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// It has none.
    Missing,
    /// Its values follow from it, or nearly so.
    Record,
    Stored,
}

const SOURCES: [Source; 3] = [Source::Missing, Source::Record, Source::Stored];
const SOURCE_BITS: u32 = 2;

/// Records, each with what is stored beside it.
pub fn paired<'a>(
    records: &'a [Record],
    stored: &'a [Sketched],
) -> impl Iterator<Item = (&'a Record, Option<&'a [u8]>)> {
    let mut stored = stored.iter().peekable();
    records.iter().map(move |record| {
        while stored.next_if(|s| s.0 < record.end).is_some() {}
        (record, stored.next_if(|s| s.0 == record.end).map(|s| &s.1[..]))
    })
}

/// The sketches of some records, in their order: runs of records that come to theirs in one way. Empty where none has one.
pub fn encode<'a>(records: &'a [Record], sketches: &'a [Sketched]) -> Vec<u8> {
    let source = |(record, stored): (&Record, Option<&'a [u8]>)| match stored {
        None => (Source::Missing, &[][..]),
        Some(bytes) if of_record(record).as_deref() == Some(bytes) => (Source::Record, &[][..]),
        Some(bytes) => (Source::Stored, bytes),
    };
    let found: Vec<_> = paired(records, sketches).map(source).collect();
    let mut out = Vec::new();
    if found.iter().all(|f| f.0 == Source::Missing) {
        return out;
    }
    for run in found.chunk_by(|a, b| a.0 == b.0) {
        let Some(&(source, _)) = run.first() else { continue };
        let place = SOURCES.iter().position(|&s| s == source).unwrap_or(0);
        put_varint(&mut out, (run.len() as u64) << SOURCE_BITS | place as u64);
        for (_, bytes) in run.iter().filter(|f| f.0 == Source::Stored) {
            put_varint(&mut out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
    }
    out
}

/// Appends the sketches of records that have one. Errors: `Corruption`.
pub fn decode(c: &mut Cursor<'_>, records: &[Record], out: &mut Vec<Sketched>) -> Result<()> {
    let mut records = records.iter();
    while !c.is_empty() {
        let word = c.varint()?;
        let Some(&source) = SOURCES.get((word & ((1 << SOURCE_BITS) - 1)) as usize) else {
            return Err(c.wrong("no such source of a sketch"));
        };
        let run = usize::try_from(word >> SOURCE_BITS).unwrap_or(usize::MAX);
        if run > records.len() {
            return Err(c.wrong("more sketches than records"));
        }
        for record in records.by_ref().take(run) {
            match source {
                Source::Missing => {}
                Source::Record => out.extend(of_record(record).map(|bytes| (record.end, bytes))),
                Source::Stored => {
                    let length = c.count()?;
                    out.push((record.end, c.take(length)?.to_vec()));
                }
            }
        }
    }
    Ok(())
}

/// The sketch of what the values of a record of few must have been.
fn of_record(record: &Record) -> Option<Vec<u8>> {
    let (first, last) = (record.first.1, record.last.1);
    let (low, high) = (first.min(last), first.max(last));
    let mut values = vec![first, last];
    values.extend((record.min < low).then_some(record.min));
    values.extend((record.max > high).then_some(record.max));
    let rest = record.sum - values.iter().sum::<f64>();
    match (record.count as usize).checked_sub(values.len())? {
        0 => {}
        1 => values.push(rest),
        2 => {
            // Two numbers of which the sum and the squared distances from the mean are known.
            let (mean, middle) = (record.sum / record.count as f64, rest / 2.0);
            let known: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
            let apart = (rounded(record.deviation) - known) / 2.0 - (middle - mean) * (middle - mean);
            let apart = apart.max(0.0).sqrt();
            values.extend([middle - apart, middle + apart]);
        }
        _ => return None,
    }
    Some(sketch(&values).encode())
}

/// The sketch of each record, from those that are stored: a bucket whose values are one needs none. Errors: `Corruption`;
/// `None` where one is missing.
pub fn whole(records: &[Record], stored: &[Sketched]) -> Result<Option<Vec<Sketch>>> {
    let sketch = |(record, stored): (&Record, Option<&[u8]>)| match stored {
        Some(bytes) if states::is_states(bytes) => Ok(Some(states::sketch(&states::decode(bytes)?))),
        Some(bytes) => Sketch::decode(bytes).map(Some),
        None if record.min == record.max => Ok(Some(repeated(record.min, record.count))),
        None => Ok(None),
    };
    paired(records, stored).map(sketch).collect()
}

/// Of one value so often.
pub fn repeated(value: f64, mut count: u64) -> Sketch {
    let (mut all, mut power) = (Sketch::default(), sketch(&[value]));
    while count > 0 {
        if count & 1 == 1 {
            all.merge(&power);
        }
        power.merge(&power.clone());
        count >>= 1;
    }
    all
}

/// Sketches, or states, of wider buckets, from records of narrower ones that divide them and what stands beside these.
pub fn coarser(
    fine: &[Record],
    stored: &[Sketched],
    every: i64,
    until: i64,
    wants: Beside,
) -> Result<Vec<Sketched>> {
    let (mut out, mut rest) = (Vec::new(), stored);
    for bucket in fine.chunk_by(|a, b| end_of(a.end, every) == end_of(b.end, every)) {
        let Some(last) = bucket.last().map(|r| r.end) else { continue };
        let end = end_of(last, every);
        if end > until {
            break;
        }
        let (own, later) = rest.split_at(rest.partition_point(|s| s.0 <= last));
        rest = later;
        let mut all = *bucket.first().unwrap_or(&Record::ZERO);
        bucket.iter().skip(1).for_each(|next| all.append(next));
        if wants.states
            && !states::is_constant(&all)
            && let Some(states) = states::coarser(bucket, own, end)?
        {
            out.push((end, states::encode(&states)));
        } else if wants.sketches
            && all.min != all.max
            && let Some(sketches) = whole(bucket, own)?
        {
            let mut all = Sketch::default();
            sketches.iter().for_each(|one| all.merge(one));
            all.fit(SKETCH_BYTES);
            out.push((end, all.encode()));
        }
    }
    Ok(out)
}

/// What is to stand beside the records of some samples: states where there are few values, else a sketch; where the values are
/// one, neither is needed.
pub fn beside(records: &[Record], times: &[i64], values: &[f64], wants: Beside) -> Vec<Sketched> {
    let mut out = Vec::new();
    if !wants.any() {
        return out;
    }
    for record in records {
        let from = times.partition_point(|&t| t < record.first.0);
        let to = times.partition_point(|&t| t <= record.last.0).max(from);
        let (times, values) = (times.get(from..to), values.get(from..to));
        let (times, values) = (times.unwrap_or(&[]), values.unwrap_or(&[]));
        if wants.states
            && !states::is_constant(record)
            && let Some(states) = states::of_samples(record.end, times, values)
        {
            out.push((record.end, states::encode(&states)));
        } else if wants.sketches && record.min != record.max {
            out.push((record.end, sketch(values).encode()));
        }
    }
    out
}
