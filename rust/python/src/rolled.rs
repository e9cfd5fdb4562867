//! Records of rollups on their way to another place and back, as Python sees them.

use metricsdb_model::{Budget, Error, Labels, Result, TimeRange};
use metricsdb_store::SHARDS;
use metricsdb_store::rollup::{ExportedRecords, Kind, LevelRecords, Record, SeriesRecords};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use polars::prelude::*;
use pyo3::prelude::*;
use pyo3_polars::PyDataFrame;

use crate::call;
use crate::database::NativeDatabase;
use crate::output;
use crate::retention::{Done, copies, done, without};

/// series, labels, records
type Frames = (PyDataFrame, PyDataFrame, PyDataFrame);

#[pymethods]
impl NativeDatabase {
    /// Records of a selector's series in a closed range, without the series that one of the others takes, of the shards from the
    /// first to before the second. `leaving`: of buckets that end behind `start` and no later than 1 ms behind `end`, where no
    /// sample is left that could change them; else all that stand for samples which are gone. A row a record, those of one series
    /// and level one after the other.
    #[pyo3(signature = (selector, start, end, others = Vec::new(), leaving = false, shards = (0, SHARDS)))]
    #[allow(clippy::too_many_arguments)] // an export, one to one
    fn export_records(
        &self,
        py: Python<'_>,
        selector: &str,
        start: i64,
        end: i64,
        others: Vec<String>,
        leaving: bool,
        shards: (usize, usize),
    ) -> PyResult<Frames> {
        call::short(py, || {
            let (range, budget) = (TimeRange::new(start, end), Budget::unlimited());
            let wanted = [without(selector, &others)?];
            let shards = shards.0..shards.1;
            frames(&self.store.export_records(&wanted, range, leaving, shards, &budget)?, &budget)
        })
    }

    /// How many records `export_records` gives of each shard of those that leave, or more.
    fn leaving_records(
        &self,
        py: Python<'_>,
        selector: &str,
        start: i64,
        end: i64,
        others: Vec<String>,
    ) -> PyResult<Vec<u64>> {
        call::short(py, || {
            let (range, budget) = (TimeRange::new(start, end), Budget::unlimited());
            self.store.leaving_records(&[without(selector, &others)?], range, &budget)
        })
    }

    /// First and last time that records stand for, without native histograms.
    fn records_span(&self, py: Python<'_>) -> PyResult<Option<(i64, i64)>> {
        call::short(py, || Ok(self.store.records_span().map(|span| (span.start, span.end))))
    }

    /// Drops leaving records that were exported of series (`handle`) whose records in the range still have the `digest`: whether
    /// each was.
    fn drop_records<'py>(
        &self,
        py: Python<'py>,
        handles: PyReadonlyArray1<'_, u64>,
        digests: PyReadonlyArray1<'_, u64>,
        start: i64,
        end: i64,
    ) -> PyResult<(Bound<'py, PyArray1<bool>>, Done)> {
        let series = copies(&handles, &digests)?;
        let (gone, what) = call::short(py, || {
            self.store.drop_records(&series, TimeRange::new(start, end), &Budget::unlimited())
        })?;
        Ok((gone.into_pyarray(py), done(what)))
    }

    /// Puts exported records of one width beside those of this store, for queries alone: no journal notes it. How many.
    fn restore_records(
        &self,
        py: Python<'_>,
        labels: PyDataFrame,
        every_ms: i64,
        records: PyDataFrame,
    ) -> PyResult<u64> {
        call::short(py, || {
            let (ids, _) = self.registered(&labels.0)?;
            let all = imported(&records.0, every_ms, &ids).map_err(output::frame_error)?;
            self.store.import_records(all)
        })
    }
}

fn frames(all: &[ExportedRecords], budget: &Budget) -> Result<Frames> {
    let numbers = |f: &dyn Fn(&ExportedRecords) -> u64| all.iter().map(f).collect::<Vec<u64>>();
    let count = |one: &ExportedRecords| one.levels.iter().map(|level| level.records.len() as u64).sum();
    let series = vec![
        Column::new("handle".into(), numbers(&|one| one.id)),
        Column::new("digest".into(), numbers(&|one| one.digest)),
        Column::new("series".into(), numbers(&|one| one.hash)),
        Column::new("records".into(), numbers(&count)),
    ];
    let sets: Vec<Labels> = all.iter().map(|one| one.labels.clone()).collect();
    let labels = output::all_label_columns(&sets, budget)?;
    Ok((output::frame(series)?, output::frame(labels)?, output::frame(records(all))?))
}

/// A record, where it belongs, and what stands beside it.
struct Row<'a> {
    series: u32,
    every: i64,
    kind: Kind,
    states: bool,
    record: &'a Record,
    sketch: Option<&'a [u8]>,
    kept: &'a [(i64, f64)],
}

fn rows(all: &[ExportedRecords]) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for (series, one) in all.iter().enumerate() {
        for level in &one.levels {
            let (mut sketches, mut kept) = (level.sketches.iter().peekable(), &level.kept[..]);
            let last = level.records.len().saturating_sub(1);
            for (at, record) in level.records.iter().enumerate() {
                let upto = kept.partition_point(|&(time, _)| time <= record.end || at == last);
                let (own, rest) = kept.split_at(upto);
                kept = rest;
                let sketch = sketches.next_if(|(end, _)| *end == record.end).map(|(_, bytes)| &bytes[..]);
                let (series, every, kind, states) = (series as u32, level.every, one.kind, level.states);
                rows.push(Row { series, every, kind, states, record, sketch, kept: own });
            }
        }
    }
    rows
}

fn records(all: &[ExportedRecords]) -> Vec<Column> {
    let rows = rows(all);
    let times = |name: &str, f: fn(&Row<'_>) -> i64| {
        Column::new(name.into(), rows.iter().map(f).collect::<Vec<i64>>())
    };
    let counts = |name: &str, f: fn(&Record) -> u64| {
        Column::new(name.into(), rows.iter().map(|row| f(row.record)).collect::<Vec<u64>>())
    };
    let numbers = |name: &str, f: fn(&Record) -> f64| {
        Column::new(name.into(), rows.iter().map(|row| f(row.record)).collect::<Vec<f64>>())
    };
    let sketches = rows.iter().map(|row| row.sketch);
    let survived: usize = rows.iter().map(|row| row.kept.len()).sum();
    let mut kept_times = ListPrimitiveChunkedBuilder::<Int64Type>::new(
        "kept_times".into(),
        rows.len(),
        survived,
        DataType::Int64,
    );
    let mut kept_values = ListPrimitiveChunkedBuilder::<Float64Type>::new(
        "kept_values".into(),
        rows.len(),
        survived,
        DataType::Float64,
    );
    for row in &rows {
        if row.kept.is_empty() {
            kept_times.append_null();
            kept_values.append_null();
        } else {
            kept_times.append_values_iter(row.kept.iter().map(|s| s.0));
            kept_values.append_values_iter(row.kept.iter().map(|s| s.1));
        }
    }
    vec![
        Column::new("row".into(), rows.iter().map(|row| row.series).collect::<Vec<u32>>()),
        times("every", |row| row.every),
        times("timestamp", |row| row.record.end),
        times("start", |row| row.record.end.saturating_sub(row.every)),
        Column::new("kind".into(), rows.iter().map(|row| row.kind.as_str()).collect::<Vec<&str>>()),
        Column::new("states".into(), rows.iter().map(|row| row.states).collect::<Vec<bool>>()),
        counts("count", |r| r.count),
        numbers("sum", |r| r.sum),
        numbers("min", |r| r.min),
        numbers("max", |r| r.max),
        numbers("first", |r| r.first.1),
        numbers("last", |r| r.last.1),
        times("first_time", |row| row.record.first.0),
        times("last_time", |row| row.record.last.0),
        numbers("deviation", |r| r.deviation),
        counts("resets", |r| r.resets),
        numbers("reset_from", |r| r.reset_from),
        counts("unkept", |r| r.unkept),
        BinaryChunked::from_iter_options("sketch".into(), sketches).into_column(),
        kept_times.finish().into_column(),
        kept_values.finish().into_column(),
    ]
}

/// Series by series, in the order of the rows, of which those of one series stand together.
fn imported(frame: &DataFrame, every: i64, ids: &[u64]) -> PolarsResult<Vec<SeriesRecords>> {
    let words = |name: &str| -> PolarsResult<Vec<i64>> {
        Ok(frame.column(name)?.i64()?.iter().map(|word| word.unwrap_or(0)).collect())
    };
    let counts = |name: &str| -> PolarsResult<Vec<u64>> {
        Ok(frame.column(name)?.u64()?.iter().map(|word| word.unwrap_or(0)).collect())
    };
    let numbers = |name: &str| -> PolarsResult<Vec<f64>> {
        Ok(frame.column(name)?.f64()?.iter().map(|number| number.unwrap_or(f64::NAN)).collect())
    };
    let rows: Vec<u32> = frame.column("row")?.u32()?.into_no_null_iter().collect();
    let (ends, first_times, last_times) = (words("timestamp")?, words("first_time")?, words("last_time")?);
    let (count, resets, unkept) = (counts("count")?, counts("resets")?, counts("unkept")?);
    let (sum, min, max) = (numbers("sum")?, numbers("min")?, numbers("max")?);
    let (first, last) = (numbers("first")?, numbers("last")?);
    let (deviation, reset_from) = (numbers("deviation")?, numbers("reset_from")?);
    let kinds = frame.column("kind")?.str()?.clone();
    let states = frame.column("states")?.bool()?.clone();
    let sketches = frame.column("sketch")?.binary()?.clone();
    let (kept_times, kept_values) = (frame.column("kept_times")?, frame.column("kept_values")?);
    let (kept_times, kept_values) = (kept_times.list()?, kept_values.list()?);
    let mut all: Vec<SeriesRecords> = Vec::new();
    let mut before = None;
    for (at, &row) in rows.iter().enumerate() {
        if before != Some(row) {
            before = Some(row);
            let id = ids.get(row as usize).copied().unwrap_or(u64::MAX);
            let states = states.get(at).unwrap_or(false);
            let level = LevelRecords { every, states, ..LevelRecords::default() };
            all.push(SeriesRecords { id, kind: kind_of(kinds.get(at))?, level });
        }
        let Some(SeriesRecords { level, .. }) = all.last_mut() else { continue };
        level.records.push(Record {
            end: ends[at],
            count: count[at],
            first: (first_times[at], first[at]),
            last: (last_times[at], last[at]),
            min: min[at],
            max: max[at],
            sum: sum[at],
            deviation: deviation[at],
            resets: resets[at],
            reset_from: reset_from[at],
            unkept: unkept[at],
        });
        level.sketches.extend(sketches.get(at).map(|bytes| (ends[at], bytes.to_vec())));
        if let (Some(times), Some(values)) = (kept_times.get_as_series(at), kept_values.get_as_series(at)) {
            let (times, values) = (times.i64()?.clone(), values.f64()?.clone());
            level.kept.extend(times.into_no_null_iter().zip(values.into_no_null_iter()));
        }
    }
    Ok(all)
}

fn kind_of(text: Option<&str>) -> PolarsResult<Kind> {
    let known = Kind::ALL.into_iter().find(|kind| Some(kind.as_str()) == text);
    known.ok_or_else(|| {
        let error = Error::corruption("rollup", 0, "records of no kind that there is");
        PolarsError::ComputeError(error.to_string().into())
    })
}
