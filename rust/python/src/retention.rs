//! What leaves the store by age, by deletion or for another place, and the way back, as Python sees them.

use metricsdb_model::order::sort_owned;
use metricsdb_model::{Budget, Labels, Predicate, Result, TimeRange, ValueKind};
use metricsdb_store::{
    AgeRule, Expired, Exported, ImportanceRule, Imported, SHARDS, decode_histogram, encode_histogram,
};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use polars::prelude::*;
use pyo3::prelude::*;
use pyo3_polars::PyDataFrame;

use crate::call;
use crate::database::{NativeDatabase, Report, predicate, predicates, report};
use crate::{error, input, output};

/// Rows of a frame whose label sets are made at once.
const REGISTER_ROWS: usize = 1 << 14;

/// samples, series that left, bytes, series that lost something, records, buckets that went whole
pub type Done = (u64, u64, u64, u64, u64, u64);
/// series, samples, bytes of samples, bytes, first and last time, and by interval: samples, series begun, series ended
type Held = (u64, u64, u64, u64, Option<i64>, Option<i64>, Vec<[u64; 3]>);
/// series, labels, samples, histograms
type Frames = (PyDataFrame, PyDataFrame, PyDataFrame, PyDataFrame);

pub fn done(done: Expired) -> Done {
    (done.samples, done.series, done.bytes, done.touched, done.records, done.buckets)
}

/// The series of a selector that none of the others takes.
pub fn without(selector: &str, others: &[String]) -> Result<Predicate> {
    let mut wanted = vec![predicate(selector)?];
    for other in others {
        wanted.push(Predicate::Not(Box::new(predicate(other)?)));
    }
    Ok(Predicate::All(wanted))
}

#[pymethods]
impl NativeDatabase {
    /// Drops what each series has before the time (ms) of the first rule that takes it; an empty selector takes all. What left
    /// by each rule, and in all.
    fn expire(&self, py: Python<'_>, rules: Vec<(String, Option<i64>)>) -> PyResult<(Vec<Done>, Done)> {
        call::short(py, || {
            let rule = |(selector, before): &(String, Option<i64>)| {
                Ok(AgeRule { predicate: predicate(selector)?, before: *before })
            };
            let rules: Vec<AgeRule> = rules.iter().map(rule).collect::<Result<_>>()?;
            let (each, all) = self.store.expire(&rules, &Budget::unlimited())?;
            Ok((each.into_iter().map(done).collect(), done(all)))
        })
    }

    /// Whose samples are refused first where memory is short: selectors in order, and whether their series are low.
    fn set_importance(&self, py: Python<'_>, rules: Vec<(String, bool)>) -> PyResult<()> {
        call::short(py, || {
            let rule = |(selector, is_low): &(String, bool)| {
                Ok(ImportanceRule { predicate: predicate(selector)?, is_low: *is_low })
            };
            self.store.set_importance(rules.iter().map(rule).collect::<Result<_>>()?)
        })
    }

    /// What the series of each rule hold, and those of none, with samples, begun and ended series by intervals of `edges`.
    fn governed(&self, py: Python<'_>, rules: Vec<String>, edges: Vec<i64>) -> PyResult<Vec<Held>> {
        call::short(py, || {
            let rules: Vec<Predicate> = rules.iter().map(|text| predicate(text)).collect::<Result<_>>()?;
            let held = self.store.governed(&rules, &edges, &Budget::unlimited())?.into_iter();
            Ok(held
                .map(|g| (g.series, g.samples, g.sample_bytes, g.bytes, g.first, g.last, g.intervals))
                .collect())
        })
    }

    /// Series of a selector, a row each: `rule` (UInt32, null: none), `first`, `last` (Int64 ms), `samples`, `bytes`; and
    /// their labels.
    fn governing(
        &self,
        py: Python<'_>,
        selector: &str,
        rules: Vec<String>,
    ) -> PyResult<(PyDataFrame, PyDataFrame)> {
        self.run(py, selector, |budget| {
            let rules: Vec<Predicate> = rules.iter().map(|text| predicate(text)).collect::<Result<_>>()?;
            let mut all = self.store.governing(&predicate(selector)?, &rules, budget)?;
            sort_owned(&mut all, budget, |a, b| a.labels.cmp(&b.labels))?;
            let sets: Vec<Labels> = all.iter().map(|one| one.labels.clone()).collect();
            let labels = output::all_label_columns(&sets, budget)?;
            let rules = all.iter().map(|one| one.rule.map(|rule| rule as u32));
            let series = vec![
                UInt32Chunked::from_iter_options("rule".into(), rules).into_column(),
                Column::new("first".into(), all.iter().map(|one| one.first).collect::<Vec<i64>>()),
                Column::new("last".into(), all.iter().map(|one| one.last).collect::<Vec<i64>>()),
                Column::new("samples".into(), all.iter().map(|one| one.samples).collect::<Vec<u64>>()),
                Column::new("bytes".into(), all.iter().map(|one| one.bytes).collect::<Vec<u64>>()),
            ];
            Ok((output::frame(series)?, output::frame(labels)?))
        })
    }

    /// Deletes what series that satisfy one of the selectors have in a closed range.
    fn delete(&self, py: Python<'_>, selectors: Vec<String>, start: i64, end: i64) -> PyResult<Done> {
        call::short(py, || {
            let range = TimeRange::new(start, end);
            Ok(done(self.store.delete(&predicates(&selectors)?, range, &Budget::unlimited())?))
        })
    }

    /// The samples of a selector's series in a closed range, exact, without the series that one of the others takes; four
    /// frames. Of `rolled` series, too, what no record stands for. `shards`: of those from the first to before the second.
    #[pyo3(signature = (selector, start, end, others = Vec::new(), rolled = false, shards = (0, SHARDS)))]
    #[allow(clippy::too_many_arguments)] // an export, one to one
    fn export(
        &self,
        py: Python<'_>,
        selector: &str,
        start: i64,
        end: i64,
        others: Vec<String>,
        rolled: bool,
        shards: (usize, usize),
    ) -> PyResult<Frames> {
        call::short(py, || {
            let (range, budget) = (TimeRange::new(start, end), Budget::unlimited());
            let wanted = [without(selector, &others)?];
            frames(&self.store.export(&wanted, range, rolled, shards.0..shards.1, &budget)?, &budget)
        })
    }

    /// How many samples `export` gives of each shard; of histograms it may be fewer.
    fn export_samples(
        &self,
        py: Python<'_>,
        selector: &str,
        start: i64,
        end: i64,
        others: Vec<String>,
    ) -> PyResult<Vec<u64>> {
        call::short(py, || {
            let (range, budget) = (TimeRange::new(start, end), Budget::unlimited());
            self.store.export_samples(&[without(selector, &others)?], range, &budget)
        })
    }

    /// Drops what was exported of series (`handle`) whose samples in the range still have the `digest`: whether each was.
    #[pyo3(signature = (handles, digests, start, end, rolled = false))]
    fn drop_copied<'py>(
        &self,
        py: Python<'py>,
        handles: PyReadonlyArray1<'_, u64>,
        digests: PyReadonlyArray1<'_, u64>,
        start: i64,
        end: i64,
        rolled: bool,
    ) -> PyResult<(Bound<'py, PyArray1<bool>>, Done)> {
        let series = copies(&handles, &digests)?;
        let (gone, what) = call::short(py, || {
            self.store.drop_copied(&series, TimeRange::new(start, end), rolled, &Budget::unlimited())
        })?;
        Ok((gone.into_pyarray(py), done(what)))
    }

    /// Writes what `export` gave, here or elsewhere: frames of labels, samples and histograms.
    fn restore(
        &self,
        py: Python<'_>,
        labels: PyDataFrame,
        samples: PyDataFrame,
        histograms: PyDataFrame,
    ) -> PyResult<Report> {
        let written = call::detached(py, || {
            let (ids, created) = self.registered(&labels.0)?;
            let all = imported(&samples.0, &histograms.0, &ids).map_err(output::frame_error)?;
            let mut written = self.store.import(&all)?;
            written.series_created += created;
            self.promised(written)
        });
        written.map(report).map_err(|e| error::write_error(py, e))
    }
}

impl NativeDatabase {
    /// The series of a frame of labels, a row each, and how many of them are new.
    pub fn registered(&self, labels: &DataFrame) -> Result<(Vec<u64>, u64)> {
        let named = |column: &Column| {
            let mut column = column.clone();
            column.rename(output::label_name(&column.name().clone()).into());
            column
        };
        let columns = labels.columns().iter().map(named).collect();
        let labels = DataFrame::new_infer_height(columns).map_err(output::frame_error)?;
        let (mut ids, mut created) = (Vec::with_capacity(labels.height()), 0);
        for from in (0..labels.height()).step_by(REGISTER_ROWS) {
            let rows = from..labels.height().min(from + REGISTER_ROWS);
            let (some, new) = self.store.register_or_refuse(&input::label_rows(&labels, rows)?)?;
            ids.extend(some);
            created += new;
        }
        Ok((ids, created))
    }
}

/// Series that were exported, each with its digest.
pub fn copies(
    handles: &PyReadonlyArray1<'_, u64>,
    digests: &PyReadonlyArray1<'_, u64>,
) -> PyResult<Vec<(u64, u64)>> {
    Ok(handles.as_slice()?.iter().copied().zip(digests.as_slice()?.iter().copied()).collect())
}

/// Series by row: what they are called, and the rows of their samples.
fn frames(all: &[Exported], budget: &Budget) -> Result<Frames> {
    let numbers = |f: &dyn Fn(&Exported) -> u64| all.iter().map(f).collect::<Vec<u64>>();
    let series = vec![
        Column::new("handle".into(), numbers(&|one| one.id)),
        Column::new("digest".into(), numbers(&|one| one.digest)),
        Column::new("series".into(), numbers(&|one| one.hash)),
        Column::new("samples".into(), numbers(&|one| one.columns.times.len() as u64)),
        Column::new("histograms".into(), numbers(&|one| one.columns.histograms.len() as u64)),
    ];
    let sets: Vec<Labels> = all.iter().map(|one| one.labels.clone()).collect();
    let labels = output::all_label_columns(&sets, budget)?;
    let series = output::frame(series)?;
    Ok((series, output::frame(labels)?, output::frame(samples(all))?, output::frame(histograms(all)?)?))
}

fn samples(all: &[Exported]) -> Vec<Column> {
    let total: usize = all.iter().map(|one| one.columns.times.len()).sum();
    let (mut rows, mut times) = (Vec::with_capacity(total), Vec::with_capacity(total));
    let (mut values, mut kinds) = (Vec::with_capacity(total), Vec::with_capacity(total));
    for (row, Exported { columns, .. }) in all.iter().enumerate() {
        rows.resize(rows.len() + columns.times.len(), row as u32);
        times.extend_from_slice(&columns.times);
        let mut bits = columns.bits.iter();
        for run in &columns.runs {
            kinds.resize(kinds.len() + run.len, run.kind as u32);
            values.extend(bits.by_ref().take(run.len).map(|&bits| run.kind.widen(bits)));
        }
    }
    let is_whole = kinds.iter().any(|&kind| kind > 0);
    let integers = if is_whole {
        let bits = all.iter().flat_map(|one| &one.columns.bits);
        let whole = bits.zip(&kinds).map(|(&bits, &kind)| (kind > 0).then_some(bits as i64));
        Int64Chunked::from_iter_options("integer".into(), whole).into_column()
    } else {
        Column::full_null("integer".into(), total, &DataType::Int64)
    };
    vec![
        Column::new("row".into(), rows),
        Column::new("timestamp".into(), times),
        Column::new("value".into(), values),
        integers,
        Column::new("kind".into(), kinds),
        starts(total, all.iter().map(|one| (&one.columns.starts[..], one.columns.times.len()))),
    ]
}

/// Null where no start is known.
fn starts<'a>(total: usize, of: impl Iterator<Item = (&'a [i64], usize)> + Clone) -> Column {
    if of.clone().all(|(starts, _)| starts.is_empty()) {
        return Column::full_null("start".into(), total, &DataType::Int64);
    }
    let known = |start: i64| (start != 0).then_some(start);
    let all = of.flat_map(|(starts, count)| (0..count).map(move |i| starts.get(i).copied().and_then(known)));
    Int64Chunked::from_iter_options("start".into(), all).into_column()
}

/// `encoded` holds each one exactly; its count and sum stand beside it for readers that don't know us.
fn histograms(all: &[Exported]) -> Result<Vec<Column>> {
    let total: usize = all.iter().map(|one| one.columns.histograms.len()).sum();
    let (mut rows, mut times) = (Vec::with_capacity(total), Vec::with_capacity(total));
    let (mut counts, mut sums, mut encoded) = (Vec::new(), Vec::new(), Vec::with_capacity(total));
    for (row, Exported { columns, .. }) in all.iter().enumerate() {
        rows.resize(rows.len() + columns.histograms.len(), row as u32);
        times.extend_from_slice(&columns.histogram_times);
        for histogram in &columns.histograms {
            counts.push(histogram.count());
            sums.push(histogram.sum);
            encoded.push(encode_histogram(histogram)?);
        }
    }
    let encoded: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
    let of = all.iter().map(|one| (&one.columns.histogram_starts[..], one.columns.histograms.len()));
    Ok(vec![
        Column::new("row".into(), rows),
        Column::new("timestamp".into(), times),
        starts(total, of),
        Column::new("count".into(), counts),
        Column::new("sum".into(), sums),
        Column::new("encoded".into(), encoded),
    ])
}

fn imported(samples: &DataFrame, histograms: &DataFrame, ids: &[u64]) -> PolarsResult<Imported> {
    let ids_of = |frame: &DataFrame| -> PolarsResult<Vec<u64>> {
        let rows = frame.column("row")?.u32()?.into_no_null_iter();
        Ok(rows.map(|row| ids.get(row as usize).copied().unwrap_or(u64::MAX)).collect())
    };
    let words = |frame: &DataFrame, name: &str| -> PolarsResult<Vec<i64>> {
        Ok(frame.column(name)?.i64()?.iter().map(|word| word.unwrap_or(0)).collect())
    };
    let starts_of = |frame: &DataFrame| -> PolarsResult<Vec<i64>> {
        let starts = frame.column("start")?;
        if starts.null_count() == starts.len() { Ok(Vec::new()) } else { words(frame, "start") }
    };
    let kinds: Vec<ValueKind> = samples.column("kind")?.u32()?.into_no_null_iter().map(kind_of).collect();
    let values = samples.column("value")?.f64()?;
    let integers = samples.column("integer")?.i64()?;
    let bits = |((value, whole), kind): ((Option<f64>, Option<i64>), &ValueKind)| match kind {
        ValueKind::Float => value.unwrap_or(f64::NAN).to_bits(),
        ValueKind::Int | ValueKind::Uint => whole.unwrap_or(0) as u64,
    };
    let bits = values.iter().zip(integers.iter()).zip(&kinds).map(bits).collect();
    let mut all = Imported {
        ids: ids_of(samples)?,
        times: words(samples, "timestamp")?,
        bits,
        starts: starts_of(samples)?,
        kinds,
        histogram_ids: ids_of(histograms)?,
        histogram_times: words(histograms, "timestamp")?,
        histogram_starts: starts_of(histograms)?,
        histograms: Vec::with_capacity(histograms.height()),
    };
    for bytes in histograms.column("encoded")?.binary()?.iter() {
        let read = decode_histogram(bytes.unwrap_or(&[]));
        all.histograms.push(read.map_err(|e| PolarsError::ComputeError(e.to_string().into()))?);
    }
    Ok(all)
}

fn kind_of(number: u32) -> ValueKind {
    ValueKind::ALL.get(number as usize).copied().unwrap_or(ValueKind::Float)
}
