//! What a query returns.

use crate::error::Span;
use crate::histogram::Histogram;
use crate::labels::Labels;

/// Series as compressed rows: the samples of `labels[i]` stand at `offsets[i]..offsets[i + 1]` of the
/// two columns, in time order.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    pub labels: Vec<Labels>,
    pub offsets: Vec<usize>,
    pub timestamps: Vec<i64>,
    pub values: Vec<f64>,
    /// The samples that are histograms, by their place in the columns, ascending. Their `values` are NaN.
    pub histograms: Vec<(usize, Histogram)>,
}

/// The samples of one series.
#[derive(Clone, Copy, Debug)]
pub struct Row<'m> {
    pub labels: &'m Labels,
    pub timestamps: &'m [i64],
    pub values: &'m [f64],
    /// Place of the row's first sample in the matrix.
    first: usize,
    histograms: &'m [(usize, Histogram)],
}

/// What a sample is.
#[derive(Clone, Copy, Debug)]
pub enum Point<'m> {
    Float(f64),
    Histogram(&'m Histogram),
}

impl<'m> Row<'m> {
    /// The samples that are numbers, with their times.
    pub fn floats(self) -> impl Iterator<Item = (i64, f64)> + 'm {
        self.points().filter_map(|(t, point)| match point {
            Point::Float(value) => Some((t, value)),
            Point::Histogram(_) => None,
        })
    }

    /// The samples that are histograms, with their times.
    pub fn histograms(self) -> impl ExactSizeIterator<Item = (i64, &'m Histogram)> {
        self.histograms.iter().map(move |(at, h)| (self.timestamps[at - self.first], h))
    }

    /// All samples with their times.
    pub fn points(self) -> impl Iterator<Item = (i64, Point<'m>)> {
        let mut histograms = self.histograms.iter().peekable();
        let samples = self.timestamps.iter().zip(self.values).enumerate();
        samples.map(move |(i, (&t, &value))| {
            let found = histograms.next_if(|(at, _)| *at == self.first + i);
            (t, found.map_or(Point::Float(value), |(_, h)| Point::Histogram(h)))
        })
    }
}

impl Default for Matrix {
    fn default() -> Matrix {
        Matrix {
            labels: Vec::new(),
            offsets: vec![0],
            timestamps: Vec::new(),
            values: Vec::new(),
            histograms: Vec::new(),
        }
    }
}

impl Matrix {
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Labels, timestamps and values of one series.
    pub fn row(&self, i: usize) -> (&Labels, &[i64], &[f64]) {
        let r = self.offsets[i]..self.offsets[i + 1];
        (&self.labels[i], &self.timestamps[r.clone()], &self.values[r])
    }

    pub fn rows(&self) -> impl Iterator<Item = (&Labels, &[i64], &[f64])> {
        (0..self.len()).map(|i| self.row(i))
    }

    /// One series with the histograms among its samples.
    pub fn series(&self, i: usize) -> Row<'_> {
        let (labels, timestamps, values) = self.row(i);
        let (first, end) = (self.offsets[i], self.offsets[i + 1]);
        let from = self.histograms.partition_point(|(at, _)| *at < first);
        let to = self.histograms.partition_point(|(at, _)| *at < end);
        Row { labels, timestamps, values, first, histograms: &self.histograms[from..to] }
    }

    pub fn all_series(&self) -> impl Iterator<Item = Row<'_>> {
        (0..self.len()).map(|i| self.series(i))
    }

    /// Adds a histogram to the row that is being pushed.
    pub fn push_histogram(&mut self, timestamp: i64, histogram: Histogram) {
        self.histograms.push((self.timestamps.len(), histogram));
        self.timestamps.push(timestamp);
        self.values.push(f64::NAN);
    }

    /// Ends the row whose samples were pushed onto the columns since the last call.
    pub fn end_row(&mut self, labels: Labels) {
        self.labels.push(labels);
        self.offsets.push(self.timestamps.len());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// One row without labels.
    Scalar,
    /// One sample a row, all at the evaluation time.
    Vector,
    Matrix,
    /// `Answer::string`; the matrix holds one sample for the time.
    String,
}

impl AnswerKind {
    /// Prometheus' `resultType`.
    pub fn as_str(self) -> &'static str {
        match self {
            AnswerKind::Scalar => "scalar",
            AnswerKind::Vector => "vector",
            AnswerKind::Matrix => "matrix",
            AnswerKind::String => "string",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    Warning,
    Info,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
    }
}

/// A remark about an answer; `message` is Prometheus' wording, position included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    pub severity: Severity,
    pub message: String,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub kind: AnswerKind,
    pub matrix: Matrix,
    pub string: Option<String>,
    /// Each message once.
    pub annotations: Vec<Annotation>,
    pub samples_loaded: u64,
    /// Records of rollups stood for samples that are gone; where that is not exact, an annotation says so.
    pub rolled: bool,
}

/// What a query cost, as Prometheus counts it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryStats {
    /// Name and seconds.
    pub timings: Vec<(&'static str, f64)>,
    /// Samples looked at, each as often as a window holds it.
    pub samples: u64,
    /// The most that stood in memory at once.
    pub samples_peak: u64,
    /// Time (ms) and samples of each step; empty where nobody asked.
    pub per_step: Vec<(i64, u64)>,
}

impl Answer {
    /// Keeps the first `limit` series, and says so in a warning if any goes. Gives the label sets of the others, which
    /// take long to free where they are many.
    pub fn truncate(&mut self, limit: usize) -> Vec<Labels> {
        if self.matrix.len() <= limit {
            return Vec::new();
        }
        let cut = self.matrix.labels.split_off(limit);
        self.matrix.offsets.truncate(limit + 1);
        let samples = self.matrix.offsets[limit];
        self.matrix.timestamps.truncate(samples);
        self.matrix.values.truncate(samples);
        self.matrix.histograms.retain(|(at, _)| *at < samples);
        self.annotations.push(Annotation {
            severity: Severity::Warning,
            message: "results truncated due to limit".to_owned(),
            span: Span::default(),
        });
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixed() -> Matrix {
        let mut matrix = Matrix::default();
        for row in 0..3i64 {
            matrix.timestamps.push(row);
            matrix.values.push(row as f64);
            matrix.push_histogram(10 + row, Histogram::stale());
            matrix.timestamps.push(20 + row);
            matrix.values.push(0.5);
            matrix.end_row(Labels::empty());
        }
        matrix
    }

    #[test]
    fn a_row_gives_its_histograms_at_their_times() {
        let matrix = mixed();
        for (i, row) in matrix.all_series().enumerate() {
            let i = i as i64;
            let kinds: Vec<(i64, bool)> =
                row.points().map(|(t, point)| (t, matches!(point, Point::Histogram(_)))).collect();
            assert_eq!(kinds, [(i, false), (10 + i, true), (20 + i, false)]);
            assert_eq!(row.floats().collect::<Vec<_>>(), [(i, i as f64), (20 + i, 0.5)]);
            assert_eq!(row.histograms().map(|(t, _)| t).collect::<Vec<_>>(), [10 + i]);
        }
    }

    #[test]
    fn an_answer_that_is_cut_loses_the_histograms_of_the_rows_that_go() {
        let (kind, matrix) = (AnswerKind::Matrix, mixed());
        let mut answer =
            Answer { kind, matrix, string: None, annotations: Vec::new(), samples_loaded: 0, rolled: false };
        answer.truncate(2);
        let places: Vec<usize> = answer.matrix.histograms.iter().map(|(at, _)| *at).collect();
        assert_eq!((places, answer.matrix.values.len()), (vec![1, 4], 6));
    }
}
