//! What a query returns.

use crate::error::Span;
use crate::labels::Labels;

/// Series as compressed rows: the samples of `labels[i]` stand at `offsets[i]..offsets[i + 1]` of the
/// two columns, in time order.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    pub labels: Vec<Labels>,
    pub offsets: Vec<usize>,
    pub timestamps: Vec<i64>,
    pub values: Vec<f64>,
}

impl Default for Matrix {
    fn default() -> Matrix {
        Matrix { labels: Vec::new(), offsets: vec![0], timestamps: Vec::new(), values: Vec::new() }
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
    /// Keeps the first `limit` series, and says so in a warning if any goes.
    pub fn truncate(&mut self, limit: usize) {
        if self.matrix.len() <= limit {
            return;
        }
        self.matrix.labels.truncate(limit);
        self.matrix.offsets.truncate(limit + 1);
        let samples = self.matrix.offsets[limit];
        self.matrix.timestamps.truncate(samples);
        self.matrix.values.truncate(samples);
        self.annotations.push(Annotation {
            severity: Severity::Warning,
            message: "results truncated due to limit".to_owned(),
            span: Span::default(),
        });
    }
}
