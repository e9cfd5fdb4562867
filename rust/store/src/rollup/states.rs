//! States beside records: of series that have few values, how often each was seen in a bucket, and for how long.
//!
//! A value holds from its sample to the next one, the last of a bucket to the bucket's end; what holds before a bucket's first
//! sample stands in the bucket before it, or in the wider one. They stand where a sketch would: the highest bit of the first
//! byte tells them from one.

use metricsdb_model::sample::is_stale;
use metricsdb_model::{Error, Result, Sketch};

use super::record::Record;
use super::sketches::{self, Sketched};
use crate::codec::cursor::{Cursor, put_signed, put_varint};

/// Values of one bucket; with more of them a series has no states there.
pub const STATES_MAX: usize = 16;
/// In the first byte, whose other bits say how many states there are, less one.
const MARK: u8 = 0x80;
/// Before a value: a whole number, as a signed LEB128, or the eight bytes of a double.
const WHOLE: u8 = 0;
const DOUBLE: u8 = 1;

/// 0.0 and -0.0 are one value, and all NaNs are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct State {
    pub value: f64,
    pub count: u64,
    /// Milliseconds.
    pub held: u64,
}

fn plain(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value + 0.0 }
}

fn add(states: &mut Vec<State>, value: f64, count: u64, held: u64) {
    let value = plain(value);
    match states.binary_search_by(|s| s.value.total_cmp(&value)) {
        Ok(at) => {
            if let Some(state) = states.get_mut(at) {
                // Bytes from outside may say any number.
                state.count = state.count.saturating_add(count);
                state.held = state.held.saturating_add(held);
            }
        }
        Err(at) => states.insert(at, State { value, count, held }),
    }
}

/// Of the samples of one bucket, in time order; `None` where they have too many values.
pub fn of_samples(end: i64, times: &[i64], values: &[f64]) -> Option<Vec<State>> {
    let mut states = Vec::new();
    let mut before: Option<(i64, f64)> = None;
    for (&time, &value) in times.iter().zip(values).filter(|(_, v)| !is_stale(**v)) {
        if let Some((since, value)) = before.replace((time, value)) {
            add(&mut states, value, 1, time.abs_diff(since));
        }
        if states.len() > STATES_MAX {
            return None;
        }
    }
    if let Some((since, value)) = before {
        add(&mut states, value, 1, end.abs_diff(since));
    }
    (states.len() <= STATES_MAX).then_some(states)
}

/// Whether a record's states follow from it.
pub fn is_constant(record: &Record) -> bool {
    record.min == record.max && !record.sum.is_nan()
}

/// The states of each record, from what is stored; `None` where a record has none. Errors: `Corruption`.
pub fn whole(records: &[Record], stored: &[Sketched]) -> Result<Vec<Option<Vec<State>>>> {
    let states = |(record, stored): (&Record, Option<&[u8]>)| match stored {
        Some(bytes) if is_states(bytes) => decode(bytes).map(Some),
        _ if is_constant(record) => {
            let (value, count) = (plain(record.min), record.count);
            Ok(Some(vec![State { value, count, held: record.end.abs_diff(record.first.0) }]))
        }
        _ => Ok(None),
    };
    sketches::paired(records, stored).map(states).collect()
}

/// Of a wider bucket, from the records of narrower ones in it; `None` where one has none, or they are too many.
pub fn coarser(fine: &[Record], stored: &[Sketched], end: i64) -> Result<Option<Vec<State>>> {
    let mut all = Vec::new();
    for (i, (record, states)) in fine.iter().zip(whole(fine, stored)?).enumerate() {
        let Some(states) = states else { return Ok(None) };
        states.iter().for_each(|s| add(&mut all, s.value, s.count, s.held));
        // The last value holds on until the next record's first sample.
        let until = fine.get(i + 1).map_or(end, |next| next.first.0);
        add(&mut all, record.last.1, 0, until.abs_diff(record.end));
    }
    Ok((all.len() <= STATES_MAX).then_some(all))
}

pub fn is_states(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|first| first & MARK != 0)
}

pub fn encode(states: &[State]) -> Vec<u8> {
    let mut out = vec![MARK | states.len().saturating_sub(1) as u8];
    for state in states {
        let whole = state.value as i64;
        if (whole as f64).to_bits() == state.value.to_bits() {
            out.push(WHOLE);
            put_signed(&mut out, whole);
        } else {
            out.push(DOUBLE);
            out.extend_from_slice(&state.value.to_le_bytes());
        }
        put_varint(&mut out, state.count);
        put_varint(&mut out, state.held);
    }
    out
}

/// Errors: `Corruption`.
pub fn decode(bytes: &[u8]) -> Result<Vec<State>> {
    let mut c = Cursor::new(bytes);
    let states = usize::from(c.byte()? & !MARK) + 1;
    let mut out: Vec<State> = Vec::with_capacity(states.min(STATES_MAX));
    for _ in 0..states {
        let value = match c.byte()? {
            WHOLE => c.signed()? as f64,
            DOUBLE => f64::from_bits(c.word(8)?),
            _ => return Err(c.wrong("no such kind of a state's value")),
        };
        let (count, held) = (c.varint()?, c.varint()?);
        if out.last().is_some_and(|last| last.value.total_cmp(&value).is_ge()) {
            return Err(c.wrong("states that don't rise"));
        }
        out.push(State { value, count, held });
    }
    if !c.is_empty() || states > STATES_MAX {
        return Err(Error::corruption("rollup", 0, "more states than there can be"));
    }
    Ok(out)
}

/// The sketch of all samples.
pub fn sketch(states: &[State]) -> Sketch {
    let mut all = Sketch::default();
    states.iter().for_each(|s| all.merge(&sketches::repeated(s.value, s.count)));
    all
}
