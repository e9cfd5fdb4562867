//! Histograms: `metricsdb.Histogram` objects in, columns out.

use std::sync::Arc;

use metricsdb_model::histogram::Span;
use metricsdb_model::{Counts, Error, Histogram, Labels, Layout, ResetHint, Result, Tally, TimeRange};
use metricsdb_query::syntax;
use numpy::PyReadonlyArray1;
use polars::chunked_array::builder::get_list_builder;
use polars::prelude::*;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3_polars::PyDataFrame;

use crate::call;
use crate::database::{NativeDatabase, Report, report};
use crate::{error, input, output};

/// How Python names each `ResetHint`, by its number.
const RESET_HINTS: [(ResetHint, &str); 4] = [
    (ResetHint::Unknown, "unknown"),
    (ResetHint::Reset, "reset"),
    (ResetHint::NotReset, "not_reset"),
    (ResetHint::Gauge, "gauge"),
];

/// The attributes of `metricsdb.Histogram`, which has made its counts all `int` or all `float`.
#[derive(FromPyObject)]
pub struct HistogramObject {
    schema: i32,
    count: Count,
    sum: f64,
    zero_threshold: f64,
    zero_count: Count,
    positive_spans: Vec<(i32, u32)>,
    positive_buckets: Vec<Count>,
    negative_spans: Vec<(i32, u32)>,
    negative_buckets: Vec<Count>,
    custom_values: Vec<f64>,
    reset_hint: String,
}

#[derive(Clone, Copy, FromPyObject)]
enum Count {
    Int(u64),
    Float(f64),
}

impl Count {
    fn int(self) -> u64 {
        match self {
            Count::Int(n) => n,
            Count::Float(n) => n as u64,
        }
    }

    fn float(self) -> f64 {
        match self {
            Count::Int(n) => n as f64,
            Count::Float(n) => n,
        }
    }
}

impl HistogramObject {
    fn histogram(self) -> Result<Histogram> {
        let spans = |pairs: Vec<(i32, u32)>| {
            pairs.into_iter().map(|(offset, length)| Span { offset, length }).collect::<Vec<_>>()
        };
        let named = RESET_HINTS.iter().find(|(_, name)| *name == self.reset_hint);
        let Some(&(reset, _)) = named else {
            let remedy = "give unknown, reset, not_reset or gauge";
            return Err(Error::input("reset_hint", &self.reset_hint, "no such hint", remedy));
        };
        let layout = Layout {
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            positive: spans(self.positive_spans),
            negative: spans(self.negative_spans),
            custom_bounds: self.custom_values,
        };
        let sides = [(&layout.positive, &self.positive_buckets), (&layout.negative, &self.negative_buckets)];
        for (spans, buckets) in sides {
            let wanted: u64 = spans.iter().map(|s| u64::from(s.length)).sum();
            if wanted != buckets.len() as u64 {
                let message = format!("spans of this side stand for {wanted}");
                let remedy = "give a count for each bucket of a span";
                return Err(Error::input("buckets", &buckets.len().to_string(), message, remedy));
            }
        }
        let buckets = self.positive_buckets.into_iter().chain(self.negative_buckets);
        let counts = match self.count {
            Count::Int(count) => Counts::Int(Tally {
                count,
                zero: self.zero_count.int(),
                buckets: buckets.map(Count::int).collect(),
            }),
            Count::Float(count) => Counts::Float(Tally {
                count,
                zero: self.zero_count.float(),
                buckets: buckets.map(Count::float).collect(),
            }),
        };
        let made = Histogram { layout: Arc::new(layout), reset, sum: self.sum, counts };
        made.validate().map(|()| made)
    }
}

#[pymethods]
impl NativeDatabase {
    /// Appends histograms of one series; when one is wrong, none is written.
    fn append_histograms(
        &self,
        py: Python<'_>,
        labels: Bound<'_, PyDict>,
        timestamps: PyReadonlyArray1<'_, i64>,
        histograms: Vec<HistogramObject>,
    ) -> PyResult<Report> {
        let times = timestamps.as_slice()?;
        let labels: Result<Vec<Labels>> = input::label_dicts(&[labels])?.into_iter().collect();
        let written = call::detached(py, || {
            let labels = labels?;
            let series = labels.first().map(ToString::to_string).unwrap_or_default();
            let made = histograms.into_iter().enumerate().map(|(i, object)| {
                let name = || format!("histogram {i} of series");
                object.histogram().map_err(|e| Error::input(&name(), &series, e.to_string(), ""))
            });
            let made = made.collect::<Result<Vec<Histogram>>>()?;
            let (ids, created) = self.store.register_or_refuse(&labels)?;
            let ids = vec![ids.first().copied().unwrap_or(u64::MAX); made.len()];
            let mut written = self.store.append_histograms(&ids, times, &made)?;
            written.series_created += created;
            self.promised(written)
        });
        written.map(report).map_err(|e| error::write_error(py, e))
    }

    /// Two frames of one height: labels and `timestamp`, and the fields of the histograms.
    fn histograms(
        &self,
        py: Python<'_>,
        selector: &str,
        start: i64,
        end: i64,
    ) -> PyResult<(PyDataFrame, PyDataFrame)> {
        self.run(py, selector, |budget| {
            let range = TimeRange::new(start, end);
            let found = self.histogram_rows(&syntax::selector(selector)?, range, budget)?;
            let labels = output::all_label_columns(&found.labels, budget)?;
            let mut columns = output::repeat(&labels, &found.offsets, budget)?;
            columns.push(Column::new("timestamp".into(), found.timestamps));
            budget.check()?;
            let fields = fields_frame(&found.histograms).map_err(output::frame_error)?;
            Ok((output::frame(columns)?, PyDataFrame(fields)))
        })
    }
}

/// A column for each field of `metricsdb.Histogram`. Counts are UInt64 where all histograms were counted in
/// integers, else Float64.
pub fn fields_frame(histograms: &[Histogram]) -> PolarsResult<DataFrame> {
    let [count, zero, positive, negative] = if histograms.iter().any(Histogram::is_float) {
        count_columns::<Float64Type>(histograms, DataType::Float64, |n| n as f64, |n| n)
    } else {
        count_columns::<UInt64Type>(histograms, DataType::UInt64, |n| n, |n| n as u64)
    };
    let of = |field: fn(&Histogram) -> f64| histograms.iter().map(field).collect::<Vec<f64>>();
    let schemas: Vec<i32> = histograms.iter().map(|h| h.layout.schema).collect();
    let hints: Vec<&str> = histograms.iter().map(|h| RESET_HINTS[h.reset as usize].1).collect();
    DataFrame::new_infer_height(vec![
        Column::new("schema".into(), schemas),
        count,
        Column::new("sum".into(), of(|h| h.sum)),
        Column::new("zero_threshold".into(), of(|h| h.layout.zero_threshold)),
        zero,
        span_column("positive_spans", histograms, |layout| &layout.positive)?,
        positive,
        span_column("negative_spans", histograms, |layout| &layout.negative)?,
        negative,
        bounds_column(histograms),
        Column::new("reset_hint".into(), hints),
    ])
}

/// `count`, `zero_count`, `positive_buckets` and `negative_buckets`.
fn count_columns<T: PolarsNumericType>(
    histograms: &[Histogram],
    dtype: DataType,
    int: fn(u64) -> T::Native,
    float: fn(f64) -> T::Native,
) -> [Column; 4]
where
    ChunkedArray<T>: IntoColumn,
{
    let n = histograms.len();
    let list = |name: &str| ListPrimitiveChunkedBuilder::<T>::new(name.into(), n, 0, dtype.clone());
    let (mut positive, mut negative) = (list("positive_buckets"), list("negative_buckets"));
    let (mut counts, mut zeros) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for h in histograms {
        let (count, zero, buckets): (_, _, Vec<T::Native>) = match &h.counts {
            Counts::Int(t) => (int(t.count), int(t.zero), t.buckets.iter().map(|&b| int(b)).collect()),
            Counts::Float(t) => {
                (float(t.count), float(t.zero), t.buckets.iter().map(|&b| float(b)).collect())
            }
        };
        counts.push(count);
        zeros.push(zero);
        let (above, below) = buckets.split_at((h.layout.bucket_counts().0 as usize).min(buckets.len()));
        positive.append_slice(above);
        negative.append_slice(below);
    }
    [
        ChunkedArray::<T>::from_vec("count".into(), counts).into_column(),
        ChunkedArray::<T>::from_vec("zero_count".into(), zeros).into_column(),
        positive.finish().into_column(),
        negative.finish().into_column(),
    ]
}

/// Lists of pairs `[offset, length]`.
fn span_column(
    name: &str,
    histograms: &[Histogram],
    side: fn(&Layout) -> &Vec<Span>,
) -> PolarsResult<Column> {
    let pair = DataType::List(Box::new(DataType::Int64));
    let mut column = get_list_builder(&pair, 0, histograms.len(), name.into());
    for same in histograms.chunk_by(|a, b| Arc::ptr_eq(&a.layout, &b.layout)) {
        let Some(first) = same.first() else { continue };
        let spans = side(&first.layout);
        let mut pairs = ListPrimitiveChunkedBuilder::<Int64Type>::new(
            "".into(),
            spans.len(),
            2 * spans.len(),
            DataType::Int64,
        );
        spans.iter().for_each(|s| pairs.append_slice(&[i64::from(s.offset), i64::from(s.length)]));
        let pairs = pairs.finish().into_series();
        for _ in same {
            column.append_series(&pairs)?;
        }
    }
    Ok(column.finish().into_column())
}

fn bounds_column(histograms: &[Histogram]) -> Column {
    let name = "custom_values".into();
    let mut column =
        ListPrimitiveChunkedBuilder::<Float64Type>::new(name, histograms.len(), 0, DataType::Float64);
    histograms.iter().for_each(|h| column.append_slice(&h.layout.custom_bounds));
    column.finish().into_column()
}
