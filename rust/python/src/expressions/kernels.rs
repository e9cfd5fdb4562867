//! Series in, the crates' kernels, series out. Options come as series of one row behind the columns: then
//! nothing has to be unpickled here.

use std::borrow::Cow;

use metricsdb_model::sample::is_stale;
use metricsdb_model::{Error, Sketch};
use metricsdb_query::decimate::{Method, Thinning};
use metricsdb_query::function::{Window, rate as rates};
use metricsdb_store::rollup::kept::{self, Options};
use metricsdb_store::rollup::record::{Record, records_of};
use polars::prelude::*;

fn refused(error: &Error) -> PolarsError {
    PolarsError::ComputeError(error.to_string().into())
}

fn wrong(message: &'static str) -> PolarsError {
    PolarsError::ComputeError(message.into())
}

fn argument(inputs: &[Series], place: usize) -> PolarsResult<&Series> {
    inputs.get(place).ok_or_else(|| wrong("an expression of another version of metricsdb"))
}

fn number(inputs: &[Series], place: usize) -> PolarsResult<f64> {
    argument(inputs, place)?.f64()?.get(0).ok_or_else(|| wrong("an option is null; give a number"))
}

fn whole(inputs: &[Series], place: usize) -> PolarsResult<i64> {
    argument(inputs, place)?.i64()?.get(0).ok_or_else(|| wrong("an option is null; give a number"))
}

/// A count as users give them: not negative.
fn count(inputs: &[Series], place: usize) -> PolarsResult<usize> {
    usize::try_from(whole(inputs, place)?).map_err(|_| wrong("a count is negative"))
}

/// The values of the first column, NaN where it is null.
fn values(inputs: &[Series]) -> PolarsResult<Cow<'_, [f64]>> {
    let column = argument(inputs, 0)?.f64()?;
    match column.cont_slice() {
        Ok(values) if column.null_count() == 0 => Ok(Cow::Borrowed(values)),
        _ => Ok(Cow::Owned(column.iter().map(|v| v.unwrap_or(f64::NAN)).collect())),
    }
}

/// The times of the second column, milliseconds: as many as values, ascending.
fn times(inputs: &[Series]) -> PolarsResult<Cow<'_, [i64]>> {
    let column = argument(inputs, 1)?.i64()?;
    if column.null_count() > 0 {
        return Err(wrong("a timestamp is null; drop such rows"));
    }
    if column.len() != argument(inputs, 0)?.len() {
        return Err(wrong("there are not as many timestamps as values"));
    }
    let times: Cow<'_, [i64]> = match column.cont_slice() {
        Ok(times) => Cow::Borrowed(times),
        _ => Cow::Owned(column.iter().flatten().collect()),
    };
    if !times.is_sorted() {
        return Err(wrong("timestamps go back; sort by series and timestamp first, and use .over(series)"));
    }
    Ok(times)
}

/// Rows that are samples: neither null nor the mark of staleness.
fn samples(inputs: &[Series]) -> PolarsResult<(Vec<i64>, Vec<f64>)> {
    let (times, values) = (times(inputs)?, values(inputs)?);
    let nulls = argument(inputs, 0)?.is_null();
    let rows = times.iter().zip(values.iter()).zip(nulls.iter());
    let is_sample = |(_, v): &(&i64, &f64), null: Option<bool>| null != Some(true) && !is_stale(**v);
    Ok(rows.filter(|(row, null)| is_sample(row, *null)).map(|((&t, &v), _)| (t, v)).unzip())
}

fn mask(inputs: &[Series], length: usize, kept: &[u32]) -> PolarsResult<Series> {
    let mut mask = vec![false; length];
    for &index in kept {
        if let Some(row) = mask.get_mut(index as usize) {
            *row = true;
        }
    }
    Ok(Series::new(argument(inputs, 0)?.name().clone(), mask))
}

/// Each name with its column's type; times are milliseconds.
const RECORD: [(&str, DataType); 11] = [
    ("time", DataType::Int64),
    ("count", DataType::UInt64),
    ("sum", DataType::Float64),
    ("min", DataType::Float64),
    ("max", DataType::Float64),
    ("first", DataType::Float64),
    ("last", DataType::Float64),
    ("first_time", DataType::Int64),
    ("last_time", DataType::Int64),
    ("stddev", DataType::Float64),
    ("increase", DataType::Float64),
];

pub fn record_type() -> DataType {
    DataType::Struct(RECORD.iter().map(|(name, dtype)| Field::new((*name).into(), dtype.clone())).collect())
}

/// Value, time, length of a bucket (ms), offset (ms): a record for each bucket that has samples.
pub fn rollup(inputs: &[Series]) -> PolarsResult<Series> {
    let (every, offset) = (whole(inputs, 2)?, whole(inputs, 3)?);
    if every <= 0 {
        return Err(wrong("a bucket must be longer than zero"));
    }
    let plain = argument(inputs, 0)?.null_count() == 0 && !values(inputs)?.iter().any(|&v| is_stale(v));
    let (times, values) = if plain {
        (times(inputs)?, values(inputs)?)
    } else {
        let (times, values) = samples(inputs)?;
        (Cow::Owned(times), Cow::Owned(values))
    };
    let times = match offset {
        0 => times,
        _ => Cow::Owned(times.iter().map(|t| t.saturating_sub(offset)).collect()),
    };
    let mut records = Vec::new();
    records_of(&times, &values, every, i64::MAX, &mut records);
    let numbers = |of: fn(&Record) -> f64| records.iter().map(of).collect::<Vec<f64>>();
    let counts: Vec<u64> = records.iter().map(|r| r.count).collect();
    let moments =
        |of: fn(&Record) -> i64| records.iter().map(|r| of(r).saturating_add(offset)).collect::<Vec<i64>>();
    let columns = [
        Series::new("time".into(), moments(|r| r.end)),
        Series::new("count".into(), counts),
        Series::new("sum".into(), numbers(|r| r.sum)),
        Series::new("min".into(), numbers(|r| r.min)),
        Series::new("max".into(), numbers(|r| r.max)),
        Series::new("first".into(), numbers(|r| r.first.1)),
        Series::new("last".into(), numbers(|r| r.last.1)),
        Series::new("first_time".into(), moments(|r| r.first.0)),
        Series::new("last_time".into(), moments(|r| r.last.0)),
        Series::new("stddev".into(), numbers(|r| (r.deviation / r.count as f64).sqrt())),
        Series::new("increase".into(), numbers(|r| r.last.1 - r.first.1 + r.reset_from)),
    ];
    let name = argument(inputs, 0)?.name().clone();
    Ok(StructChunked::from_series(name, records.len(), columns.iter())?.into_series())
}

/// Value, window: a value's distance to the median around it, in standard deviations of the noise.
pub fn deviations(inputs: &[Series]) -> PolarsResult<Series> {
    let found = kept::deviations(&values(inputs)?, count(inputs, 1)?).map_err(|e| refused(&e))?;
    Ok(Series::new(argument(inputs, 0)?.name().clone(), found))
}

/// Value, window, threshold: whether a value deviates more than that.
pub fn anomalies(inputs: &[Series]) -> PolarsResult<Series> {
    let options = Options { window: count(inputs, 1)?, threshold: number(inputs, 2)?, ..Options::default() };
    options.check().map_err(|e| refused(&e))?;
    let found = kept::deviations(&values(inputs)?, options.window).map_err(|e| refused(&e))?;
    let mask: Vec<bool> = found.into_iter().map(|d| d > options.threshold).collect();
    Ok(Series::new(argument(inputs, 0)?.name().clone(), mask))
}

/// Value, window, threshold, neighbours, points, whether to fill: which rows the picker keeps.
pub fn keep(inputs: &[Series]) -> PolarsResult<Series> {
    let options = Options {
        window: count(inputs, 1)?,
        threshold: number(inputs, 2)?,
        neighbours: count(inputs, 3)?,
        points_max: count(inputs, 4)?,
        fill: argument(inputs, 5)?.bool()?.get(0).unwrap_or(false),
    };
    let values = values(inputs)?;
    let picked = kept::pick(&values, &options).map_err(|e| refused(&e))?;
    mask(inputs, values.len(), &picked.kept)
}

/// Value, time, method, points: which rows a plot needs.
pub fn thin(inputs: &[Series]) -> PolarsResult<Series> {
    let method = argument(inputs, 2)?.str()?.get(0).unwrap_or("");
    let thinning = Method::from_name(method).and_then(|m| Thinning::new(m, count(inputs, 3).unwrap_or(0)));
    let values = values(inputs)?;
    let kept = thinning.map_err(|e| refused(&e))?.pick(&times(inputs)?, &values);
    mask(inputs, values.len(), &kept)
}

/// Value, time, range (ms): PromQL's `rate` over the range that ends at each row.
pub fn rate(inputs: &[Series]) -> PolarsResult<Series> {
    let range = whole(inputs, 2)?;
    if range <= 0 {
        return Err(wrong("a range must be longer than zero"));
    }
    let rows = times(inputs)?;
    let (times, values) = samples(inputs)?;
    let (mut from, mut to) = (0, 0);
    let rates = rows.iter().map(|&end| {
        let start = end.saturating_sub(range);
        from += times[from..].iter().take_while(|&&t| t <= start).count();
        to += times[to..].iter().take_while(|&&t| t <= end).count();
        let (timestamps, values) = (times.get(from..to)?, values.get(from..to)?);
        let window = Window { timestamps, values, starts: &[], start, end, at: end, args: &[] };
        if timestamps.is_empty() { None } else { rates::rate(&window) }
    });
    let name = argument(inputs, 0)?.name().clone();
    Ok(Float64Chunked::from_iter_options(name, rates).into_series())
}

fn binary(inputs: &[Series], rows: impl Iterator<Item = Option<Vec<u8>>>) -> PolarsResult<Series> {
    Ok(BinaryChunked::from_iter_options(argument(inputs, 0)?.name().clone(), rows).into_series())
}

/// Value, most bytes (0: as many as it takes): one sketch of all.
pub fn sketch(inputs: &[Series]) -> PolarsResult<Series> {
    let mut sketch = Sketch::default();
    sketch.add_all(&values(inputs)?);
    if let bytes @ 1.. = count(inputs, 1)? {
        sketch.fit(bytes);
    }
    binary(inputs, std::iter::once(Some(sketch.encode())))
}

/// Sketches, most bytes: one sketch of all; nulls are none.
pub fn merge_sketches(inputs: &[Series]) -> PolarsResult<Series> {
    let mut all = Sketch::default();
    for bytes in argument(inputs, 0)?.binary()?.iter().flatten() {
        all.merge(&Sketch::decode(bytes).map_err(|e| refused(&e))?);
    }
    if let bytes @ 1.. = count(inputs, 1)? {
        all.fit(bytes);
    }
    binary(inputs, std::iter::once(Some(all.encode())))
}

/// Sketches, q: the quantile of each; null where there is no sketch or nothing in it.
pub fn sketch_quantile(inputs: &[Series]) -> PolarsResult<Series> {
    let q = number(inputs, 1)?;
    let column = argument(inputs, 0)?.binary()?;
    let mut found: Vec<Option<f64>> = Vec::with_capacity(column.len());
    for bytes in column.iter() {
        let sketch = bytes.map(Sketch::decode).transpose().map_err(|e| refused(&e))?;
        found.push(sketch.filter(|s| s.count() > 0).map(|s| s.quantile(q)));
    }
    let name = argument(inputs, 0)?.name().clone();
    Ok(Float64Chunked::from_iter_options(name, found.into_iter()).into_series())
}
