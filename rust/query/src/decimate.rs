//! Fewer points for a plot: of each series those that a person would miss. All methods choose points that are there,
//! in time order, and never a NaN.

mod lttb;
#[cfg(test)]
mod tests;

use metricsdb_model::{Budget, Error, Matrix, Result};

/// Fewest points that every method can do something with.
pub const POINTS_MIN: usize = 4;
pub const POINTS_MAX: usize = 10_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// First, last, smallest and largest of each of `points / 4` columns of equal time: a line through them sets the same
    /// pixels as one through all points in a plot that is as many pixels wide.
    M4,
    /// Smallest and largest of each of `points / 2` columns of equal time.
    MinMax,
    /// Largest triangle three buckets: of each of `points - 2` groups of equal count the point that the line through
    /// its neighbours would miss most.
    Lttb,
    /// LTTB among the points that MinMax leaves of four times as many.
    MinMaxLttb,
}

impl Method {
    pub const ALL: [Method; 4] = [Method::M4, Method::MinMax, Method::Lttb, Method::MinMaxLttb];

    pub fn as_str(self) -> &'static str {
        match self {
            Method::M4 => "m4",
            Method::MinMax => "minmax",
            Method::Lttb => "lttb",
            Method::MinMaxLttb => "minmax_lttb",
        }
    }

    pub fn from_name(name: &str) -> Result<Method> {
        Method::ALL.into_iter().find(|m| m.as_str() == name).ok_or_else(|| {
            let known = Method::ALL.map(Method::as_str).join(", ");
            Error::input("method", name, "there is no such method", &format!("use one of {known}"))
        })
    }
}

/// A method and how many points of a series it leaves at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thinning {
    pub method: Method,
    points: usize,
}

impl Thinning {
    pub fn new(method: Method, points: usize) -> Result<Thinning> {
        if (POINTS_MIN..=POINTS_MAX).contains(&points) {
            return Ok(Thinning { method, points });
        }
        let message = format!("a number of points is from {POINTS_MIN} to {POINTS_MAX}");
        Err(Error::input(
            "points",
            &points.to_string(),
            &message,
            "use twice the width of the plot in pixels, say",
        ))
    }

    /// Indices of what stays, ascending; all numbers where these are no more than `points`. `times` ascend. O(n).
    pub fn pick(self, times: &[i64], values: &[f64]) -> Vec<u32> {
        let numbers = values.iter().filter(|v| !v.is_nan()).count();
        if numbers <= self.points {
            return (0u32..).zip(values).filter(|(_, v)| !v.is_nan()).map(|(i, _)| i).collect();
        }
        match self.method {
            Method::M4 => m4(times, values, self.points / 4),
            Method::MinMax => min_max(times, values, self.points / 2),
            Method::Lttb if numbers == values.len() => lttb::lttb(times, values, self.points),
            Method::Lttb => {
                let all: Vec<u32> =
                    (0u32..).zip(values).filter(|(_, v)| !v.is_nan()).map(|(i, _)| i).collect();
                among(&all, times, values, self.points)
            }
            Method::MinMaxLttb => {
                let extremes = min_max(times, values, self.points.saturating_mul(2));
                among(&extremes, times, values, self.points)
            }
        }
    }

    /// Each series of an answer, thinned; histograms all stay.
    pub fn matrix(self, matrix: Matrix, budget: &Budget) -> Result<Matrix> {
        if matrix.offsets.windows(2).all(|w| w[1] - w[0] <= self.points) {
            return Ok(matrix);
        }
        let kept_max = matrix.offsets.windows(2).map(|w| (w[1] - w[0]).min(self.points)).sum::<usize>();
        budget.keep((kept_max + matrix.histograms.len()) * (size_of::<i64>() + size_of::<f64>()))?;
        let mut thin = Matrix::default();
        let mut histograms = matrix.histograms.into_iter().peekable();
        for (labels, bounds) in matrix.labels.into_iter().zip(matrix.offsets.windows(2)) {
            budget.check()?;
            let (first, end) = (bounds[0], bounds[1]);
            let (times, values) = (&matrix.timestamps[first..end], &matrix.values[first..end]);
            for index in self.pick(times, values) {
                let at = index as usize;
                while let Some((place, histogram)) = histograms.next_if(|(place, _)| *place < first + at) {
                    thin.push_histogram(matrix.timestamps[place], histogram);
                }
                thin.timestamps.push(times[at]);
                thin.values.push(values[at]);
            }
            while let Some((place, histogram)) = histograms.next_if(|(place, _)| *place < end) {
                thin.push_histogram(matrix.timestamps[place], histogram);
            }
            thin.end_row(labels);
        }
        Ok(thin)
    }
}

/// LTTB among some of the points.
fn among(chosen: &[u32], times: &[i64], values: &[f64], points: usize) -> Vec<u32> {
    if chosen.len() <= points {
        return chosen.to_vec();
    }
    let some_times: Vec<i64> = chosen.iter().map(|&i| times[i as usize]).collect();
    let some_values: Vec<f64> = chosen.iter().map(|&i| values[i as usize]).collect();
    let mut picked = lttb::lttb(&some_times, &some_values, points);
    picked.iter_mut().for_each(|i| *i = chosen[*i as usize]);
    picked
}

/// Calls `each` with the bounds of every column that holds points: `columns` of equal time from the first to the last
/// point; a point on the border of two is in the later, the last point in the last.
fn by_column(times: &[i64], columns: usize, mut each: impl FnMut(usize, usize)) {
    let (Some(&first), Some(&last)) = (times.first(), times.last()) else { return };
    let span = (i128::from(last) - i128::from(first)).max(1);
    let mut from = 0;
    while from < times.len() {
        let since = i128::from(times[from]) - i128::from(first);
        let column = (since * columns as i128 / span).min(columns as i128 - 1);
        let end = if column + 1 >= columns as i128 {
            times.len()
        } else {
            // The first time that `time * columns / span` puts into the next column.
            let border = ((column + 1) * span + columns as i128 - 1).div_euclid(columns as i128);
            from + gallop(&times[from..], |t| i128::from(t) - i128::from(first) < border)
        };
        each(from, end);
        from = end;
    }
}

/// How many at the beginning are as asked; O(log of that).
fn gallop(times: &[i64], before: impl Fn(i64) -> bool) -> usize {
    let mut reach = 1;
    while reach < times.len() && before(times[reach]) {
        reach *= 2;
    }
    let low = reach / 2;
    low + times[low..times.len().min(reach + 1)].partition_point(|&t| before(t))
}

/// Places of the smallest and of the largest number, of several the first.
fn extremes(values: &[f64]) -> Option<(usize, usize)> {
    const LANES: usize = 8;
    let (mut low, mut high) = ([f64::INFINITY; LANES], [f64::NEG_INFINITY; LANES]);
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    // Comparisons with NaN are false: it passes by.
    let mut widen = |chunk: &[f64]| {
        for ((low, high), &value) in low.iter_mut().zip(&mut high).zip(chunk) {
            *low = if value < *low { value } else { *low };
            *high = if value > *high { value } else { *high };
        }
    };
    chunks.for_each(&mut widen);
    widen(rest);
    let low = low.into_iter().reduce(|a, b| if b < a { b } else { a })?;
    let high = high.into_iter().reduce(|a, b| if b > a { b } else { a })?;
    // Where all numbers are one infinity, the other bound is of no value.
    let place = |wanted: f64| values.iter().position(|&v| v == wanted);
    let (at_low, at_high) = (place(low), place(high));
    Some((at_low.or(at_high)?, at_high.or(at_low)?))
}

fn min_max(times: &[i64], values: &[f64], columns: usize) -> Vec<u32> {
    let mut kept = Vec::with_capacity(2 * columns.min(values.len()));
    by_column(times, columns, |from, end| {
        if let Some((low, high)) = extremes(&values[from..end]) {
            push_once(&mut kept, from, [low.min(high), low.max(high)]);
        }
    });
    kept
}

fn m4(times: &[i64], values: &[f64], columns: usize) -> Vec<u32> {
    let mut kept = Vec::with_capacity(4 * columns.min(values.len()));
    by_column(times, columns, |from, end| {
        let part = &values[from..end];
        let ends = part.iter().position(|v| !v.is_nan()).zip(part.iter().rposition(|v| !v.is_nan()));
        if let (Some((low, high)), Some((first, last))) = (extremes(part), ends) {
            push_once(&mut kept, from, [first, low.min(high), low.max(high), last]);
        }
    });
    kept
}

/// Ascending places, of which some may be one.
fn push_once<const N: usize>(kept: &mut Vec<u32>, from: usize, places: [usize; N]) {
    for place in places {
        let index = (from + place) as u32;
        if kept.last() != Some(&index) {
            kept.push(index);
        }
    }
}
