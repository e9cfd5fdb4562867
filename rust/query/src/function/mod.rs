//! The functions of the language: one table, and kernels over columns that know no storage.
//!
//! A kernel sees plain columns: the evaluator cuts windows, drops staleness markers, groups and names.

pub mod compensated;
pub mod date;
pub mod edges;
pub mod exact;
pub mod forecast;
pub mod histogram;
pub mod label;
pub mod math;
pub mod over_time;
pub mod quantile;
pub mod rate;
pub mod rollup;
pub mod sliding;
pub mod starts;
pub mod summary;
pub mod table;
#[cfg(test)]
mod test;
pub mod whole_range;

use metricsdb_model::{Error, Result};

use crate::annotations::Note;

/// The samples of one series in one window, and the scalars of the call.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    /// Ascending, all in `(start, end]`; as long as `values`.
    pub timestamps: &'a [i64],
    /// Without staleness markers; other NaNs are values.
    pub values: &'a [f64],
    /// When the counter of each sample began, in milliseconds, 0 where that is not known. Empty: nowhere known.
    pub starts: &'a [i64],
    /// Exclusive, milliseconds; offset and `@` are already applied.
    pub start: i64,
    /// Inclusive, milliseconds.
    pub end: i64,
    /// The evaluation time itself, milliseconds.
    pub at: i64,
    /// The scalar arguments in the order of the call, at this step.
    pub args: &'a [f64],
}

/// One window to one value; `None`: no sample at this step. Never called with an empty window.
pub type WindowFn = fn(&Window<'_>) -> Option<f64>;

/// One value and the scalar arguments in the order of the call to one value; `None`: no sample at this
/// step. A call without its vector maps over `vector(time())`; for scalar functions the first argument
/// is the value.
pub type MapFn = fn(f64, &[f64]) -> Option<f64>;

/// All values of one series over the steps of an evaluation, changed in place; the times of the steps in
/// milliseconds, the scalar arguments in the order of the call. A step without a sample is NaN.
pub type GridFn = fn(&[i64], &mut [f64], &[f64]);

/// How a function is computed.
#[derive(Clone, Copy, Debug)]
pub enum Kernel {
    Window(WindowFn),
    Map(MapFn),
    Grid(GridFn),
    /// As many series as there are parts; an optional second argument names the one that is wanted.
    Rollup(&'static [rollup::Part]),
    Special(Special),
}

/// Functions that need more than one series' values: labels, order, the query's times. The evaluator
/// does these, with the helpers of this room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Absent,
    AbsentOverTime,
    End,
    HistogramFraction,
    /// Reads native histograms only: floats are dropped.
    HistogramNative,
    HistogramQuantile,
    HistogramQuantiles,
    Info,
    LabelJoin,
    LabelReplace,
    Pi,
    Range,
    Scalar,
    Sort,
    SortByLabel,
    SortByLabelDesc,
    SortDesc,
    Start,
    StartTimestamp,
    Step,
    Time,
    Timestamp,
    Vector,
}

/// Looks at the scalar arguments of a call at one step, once there is any series to compute: fails where the
/// function is not defined on them, remarks where the answer will be a mere ±Inf or NaN.
pub fn check_args(function: &table::Function, args: &[f64]) -> Result<Option<Note>> {
    match function.name {
        "double_exponential_smoothing" => {
            forecast::check_smoothing(args).map_err(Error::execution)?;
            Ok(None)
        }
        "quantile_over_time" | "range_quantile" => Ok(args.first().and_then(|q| check_quantile(*q))),
        _ => Ok(None),
    }
}

/// The remark on a q that is not within 0 to 1.
pub fn check_quantile(q: f64) -> Option<Note> {
    if (0.0..=1.0).contains(&q) { None } else { Some(Note::InvalidQuantile(q)) }
}
