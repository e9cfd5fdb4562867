//! What a query remarks on beside its answer, in Prometheus' words.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use metricsdb_model::{Annotation, Severity, Span, looks_like_counter};

use crate::function::check_quantile;
use crate::function::histogram::Repair;
use crate::histogram::Remark;
use crate::number::{Shortest, TwoDigits};
use crate::syntax::quote;

/// One remark, without its place.
#[derive(Clone, Debug)]
pub enum Note {
    /// The q of a quantile is NaN or outside 0 to 1.
    InvalidQuantile(f64),
    /// The ratio of `limit_ratio`, and what it was capped to.
    InvalidRatio { ratio: f64, capped: f64 },
    /// `le` is the label's text, "" where there is none; `metric` may be "".
    BadBucketLabel { metric: String, le: String },
    /// Buckets that were not cumulative. Repairs of one metric at one place become one note.
    ForcedMonotonicity { metric: String, repairs: Repairs },
    /// rate or increase of a metric whose name is not a counter's.
    PossibleNonCounter(String),
    /// sort and its kin in a range query.
    SortIneffective,
    /// What computing with native histograms remarks on; `metric` is "" where the remark names none.
    Histograms { remark: Remark, metric: String },
    /// A binary operator on kinds of samples ("float", "histogram") that it has no meaning for.
    IncompatibleTypes { left: &'static str, operator: &'static str, right: &'static str },
    /// Exponential and custom buckets on the two sides of this binary operator.
    IncompatibleLayouts(&'static str),
    /// This aggregation leaves histograms out.
    IgnoredInAggregation(&'static str),
    /// Points of rollups of so many milliseconds stand for samples that are gone.
    Rollups(i64),
    /// Native histograms of rollups have wider buckets than were written: by how much a quantile may be off, as a share of it.
    WiderBuckets(f64),
    /// Series that were drawn so stand for others, and nothing is scaled.
    Drawn { of: String, draw: String },
    /// The same, where the aggregation around them is scaled.
    Scaled { of: String, draw: String, scaling: Scaling },
}

/// By how much an aggregation is scaled, and how far off that is at its worst step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scaling {
    /// How many series one stands for, at most.
    pub factor: f64,
    /// The largest standard error, as a share of the value.
    pub error: f64,
    /// Some windows reach over the end of what was drawn from: they are not scaled.
    pub edge: bool,
}

impl Scaling {
    pub fn add(&mut self, factor: f64, value: f64, error: f64) {
        self.factor = self.factor.max(factor);
        // Of infinities no error is known; of nothing it is nothing.
        let share = if error == 0.0 { 0.0 } else { error / value.abs() };
        self.error = self.error.max(share);
    }

    pub fn merge(&mut self, other: &Scaling) {
        self.factor = self.factor.max(other.factor);
        self.error = self.error.max(other.error);
        self.edge |= other.edge;
    }
}

/// Some repairs of one histogram's buckets.
#[derive(Clone, Copy, Debug)]
pub struct Repairs {
    pub worst: Repair,
    pub count: u64,
    /// Milliseconds.
    pub first: i64,
    pub last: i64,
}

impl Repairs {
    pub fn one(repair: Repair, timestamp: i64) -> Repairs {
        Repairs { worst: repair, count: 1, first: timestamp, last: timestamp }
    }

    fn merge(&mut self, other: &Repairs) {
        self.worst.merge(other.worst);
        self.count += other.count;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

impl Note {
    pub fn severity(&self) -> Severity {
        match self {
            Note::InvalidQuantile(_)
            | Note::InvalidRatio { .. }
            | Note::BadBucketLabel { .. }
            | Note::IncompatibleLayouts(_)
            | Note::SortIneffective => Severity::Warning,
            Note::ForcedMonotonicity { .. }
            | Note::PossibleNonCounter(_)
            | Note::IncompatibleTypes { .. }
            | Note::IgnoredInAggregation(_)
            | Note::Rollups(_)
            | Note::WiderBuckets(_)
            | Note::Drawn { .. }
            | Note::Scaled { .. } => Severity::Info,
            Note::Histograms { remark, .. } => remark.severity(),
        }
    }

    /// Takes `other` in if both are one remark.
    fn absorb(&mut self, other: &Note) -> bool {
        match (self, other) {
            (Note::InvalidQuantile(a), Note::InvalidQuantile(b)) => a.to_bits() == b.to_bits(),
            (Note::InvalidRatio { ratio: a, .. }, Note::InvalidRatio { ratio: b, .. }) => {
                a.to_bits() == b.to_bits()
            }
            (Note::BadBucketLabel { metric, le }, Note::BadBucketLabel { metric: m, le: l }) => {
                metric == m && le == l
            }
            (
                Note::ForcedMonotonicity { metric, repairs },
                Note::ForcedMonotonicity { metric: m, repairs: r },
            ) => {
                let same = metric == m;
                if same {
                    repairs.merge(r);
                }
                same
            }
            (Note::PossibleNonCounter(a), Note::PossibleNonCounter(b)) => a == b,
            (Note::SortIneffective, Note::SortIneffective) => true,
            (Note::Histograms { remark: a, metric: m }, Note::Histograms { remark: b, metric: n }) => {
                a == b && m == n
            }
            (
                Note::IncompatibleTypes { left: a, operator: b, right: c },
                Note::IncompatibleTypes { left: x, operator: y, right: z },
            ) => (*a, *b, *c) == (*x, *y, *z),
            (Note::IncompatibleLayouts(a), Note::IncompatibleLayouts(b)) => a == b,
            (Note::IgnoredInAggregation(a), Note::IgnoredInAggregation(b)) => a == b,
            (Note::Rollups(a), Note::Rollups(b)) => {
                *a = (*a).max(*b);
                true
            }
            (Note::WiderBuckets(a), Note::WiderBuckets(b)) => {
                *a = a.max(*b);
                true
            }
            (Note::Drawn { of, draw }, Note::Drawn { of: o, draw: d }) => of == o && draw == d,
            (Note::Scaled { of, draw, scaling }, Note::Scaled { of: o, draw: d, scaling: more }) => {
                let same = of == o && draw == d;
                if same {
                    scaling.merge(more);
                }
                same
            }
            _ => false,
        }
    }
}

/// ` for metric name "x"`, or nothing.
fn of_metric(f: &mut fmt::Formatter<'_>, metric: &str) -> fmt::Result {
    if metric.is_empty() { Ok(()) } else { write!(f, " for metric name {}", quote(metric)) }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.severity() {
            Severity::Warning => f.write_str("PromQL warning: ")?,
            Severity::Info => f.write_str("PromQL info: ")?,
        }
        match self {
            Note::InvalidQuantile(q) => {
                write!(f, "quantile value should be between 0 and 1, got {}", Shortest(*q))
            }
            Note::InvalidRatio { ratio, capped } => {
                let (ratio, capped) = (Shortest(*ratio), Shortest(*capped));
                write!(f, "ratio value should be between -1 and 1, got {ratio}, capping to {capped}")
            }
            Note::BadBucketLabel { metric, le } => {
                write!(f, "bucket label \"le\" is missing or has a malformed value of {}", quote(le))?;
                of_metric(f, metric)
            }
            Note::ForcedMonotonicity { metric, repairs } => {
                f.write_str(
                    "input to histogram_quantile needed to be fixed for monotonicity (see \
                     https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)",
                )?;
                of_metric(f, metric)?;
                let Repairs { worst, count, first, last } = repairs;
                let (low, high) = (Shortest(worst.lowest), Shortest(worst.highest));
                let (drop, first, last) = (TwoDigits(worst.largest_drop), Rfc3339(*first), Rfc3339(*last));
                write!(f, ", from buckets {low} to {high}, with a max diff of {drop}")?;
                write!(f, ", over {count} samples from {first} to {last}")
            }
            Note::PossibleNonCounter(metric) => {
                let ends = "name does not end in _total/_sum/_count/_bucket";
                write!(f, "metric might not be a counter, {ends}: {}", quote(metric))
            }
            Note::SortIneffective => f.write_str(
                "sort is ineffective for range queries since results are always ordered by labels",
            ),
            Note::Histograms { remark, metric } => remark.write(f, metric),
            Note::IncompatibleTypes { left, operator, right } => write!(
                f,
                "incompatible sample types encountered for binary operator {}: {left} {operator} {right}",
                quote(operator)
            ),
            Note::IncompatibleLayouts(operator) => {
                write!(f, "incompatible bucket layout encountered for binary operator {operator}")
            }
            Note::IgnoredInAggregation(name) => write!(f, "ignored histogram in {name} aggregation"),
            Note::Rollups(width) => {
                let width = crate::syntax::literal::format_duration(*width);
                write!(
                    f,
                    "of some samples only rollups of {width} are left here, so that the result is approximate"
                )
            }
            Note::WiderBuckets(error) => {
                let error = Shortest(rounded(100.0 * error));
                write!(
                    f,
                    "of some native histograms only wider buckets are left, so that a quantile may be off by {error}%"
                )
            }
            Note::Drawn { of, draw } => {
                write!(f, "of old samples of {of} only a sample is left ({draw}), and nothing is scaled")
            }
            Note::Scaled { of, draw, scaling } => {
                write!(f, "of old samples of {of} only a sample is left ({draw})")?;
                scaling.write(f)
            }
        }
    }
}

impl Scaling {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.factor > 0.0 {
            let (factor, error) = (rounded(self.factor), rounded(100.0 * self.error));
            let (factor, error) = (Shortest(factor), Shortest(error));
            write!(f, ": scaled, a series stands for up to {factor}, standard error up to {error}%")?;
        }
        if self.edge {
            f.write_str("; windows that reach over its end are not scaled")?;
        }
        Ok(())
    }
}

/// To three digits.
fn rounded(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

/// True for a name that a counter, a sum or a bucket would have, and for no name.
pub fn may_be_counter(metric: &str) -> bool {
    metric.is_empty() || looks_like_counter(metric, None)
}

/// Milliseconds as a time to the second.
struct Rfc3339(i64);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(1000);
        let (year, month, day) = crate::function::date::civil(seconds);
        let of_day = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// The remarks of one query, each once. Many threads may add to it.
#[derive(Debug)]
pub struct Notes<'t> {
    /// The query, for places.
    text: &'t str,
    found: Mutex<Vec<(Note, Span)>>,
    /// Records of rollups stood for samples, exact or not.
    rollups: AtomicBool,
}

impl<'t> Notes<'t> {
    pub fn new(text: &'t str) -> Notes<'t> {
        Notes { text, found: Mutex::default(), rollups: AtomicBool::new(false) }
    }

    pub fn note_rollups(&self) {
        self.rollups.store(true, Relaxed);
    }

    pub fn has_rollups(&self) -> bool {
        self.rollups.load(Relaxed)
    }

    /// What stands at a place of the query.
    pub fn text(&self, span: Span) -> String {
        self.text.get(span.start as usize..span.end as usize).unwrap_or_default().to_owned()
    }

    /// How many remarks there are so far.
    pub fn len(&self) -> usize {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn add(&self, note: Note, span: Span) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if !found.iter_mut().any(|(known, at)| *at == span && known.absorb(&note)) {
            found.push((note, span));
        }
    }

    /// Remarks on the steps at which `phi` is no quantile.
    pub fn quantiles(&self, phi: &[f64], span: Span) {
        phi.iter().filter_map(|q| check_quantile(*q)).for_each(|note| self.add(note, span));
    }

    pub fn ratio(&self, ratio: f64, capped: f64, span: Span) {
        self.add(Note::InvalidRatio { ratio, capped }, span);
    }

    pub fn sort_is_ineffective(&self, span: Span) {
        self.add(Note::SortIneffective, span);
    }

    /// `value` is the label's text, "" where there is none; `metric` may be "".
    pub fn bad_bucket_label(&self, value: &str, metric: &str, span: Span) {
        self.add(Note::BadBucketLabel { metric: metric.to_owned(), le: value.to_owned() }, span);
    }

    /// Remarks on a metric whose name is not a counter's.
    pub fn not_a_counter(&self, metric: &str, span: Span) {
        if !may_be_counter(metric) {
            self.add(Note::PossibleNonCounter(metric.to_owned()), span);
        }
    }

    /// `timestamp` is the evaluation time in milliseconds; `metric` may be "".
    pub fn forced_monotonicity(&self, metric: &str, repair: Repair, timestamp: i64, span: Span) {
        let repairs = Repairs::one(repair, timestamp);
        self.add(Note::ForcedMonotonicity { metric: metric.to_owned(), repairs }, span);
    }

    /// The remarks with their places, in the order in which they were found.
    pub fn into_list(self) -> Vec<Annotation> {
        let found = self.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let with_place = |(note, span): (Note, Span)| {
            let (line, column) = span.line_column(self.text);
            let message = format!("{note} ({line}:{column})");
            Annotation { severity: note.severity(), message, span }
        };
        found.into_iter().map(with_place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(notes: Notes<'_>) -> Vec<String> {
        notes.into_list().into_iter().map(|a| a.message).collect()
    }

    #[test]
    fn one_remark_at_one_place_is_made_once() {
        let notes = Notes::new("abcde\nabc");
        notes.quantiles(&[f64::NAN, 0.5, f64::NAN, 1e6], Span::new(4, 5));
        notes.quantiles(&[1.0, f64::NAN], Span::new(7, 8));
        let expected = [
            "PromQL warning: quantile value should be between 0 and 1, got NaN (1:5)",
            "PromQL warning: quantile value should be between 0 and 1, got 1e+06 (1:5)",
            "PromQL warning: quantile value should be between 0 and 1, got NaN (2:2)",
        ];
        assert_eq!(messages(notes), expected);
    }

    #[test]
    fn repairs_of_one_metric_are_one_remark() {
        let notes = Notes::new("x");
        for (i, drop) in [1.0, 12.5, 3.0].iter().enumerate() {
            let repair = Repair { lowest: 1.0 - i as f64, highest: 10.0 * i as f64, largest_drop: *drop };
            notes.forced_monotonicity(
                "x_bucket",
                repair,
                1_000_000_000_000 + i as i64 * 60_000,
                Span::new(0, 1),
            );
        }
        let expected = "PromQL info: input to histogram_quantile needed to be fixed for monotonicity (see \
            https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile) for metric \
            name \"x_bucket\", from buckets -1 to 20, with a max diff of 12, over 3 samples from \
            2001-09-09T01:46:40Z to 2001-09-09T01:48:40Z (1:1)";
        assert_eq!(messages(notes), [expected]);
    }

    #[test]
    fn a_missing_bucket_label_names_the_metric_if_there_is_one() {
        let note = |metric: &str| Note::BadBucketLabel { metric: metric.to_owned(), le: String::new() };
        let text = "PromQL warning: bucket label \"le\" is missing or has a malformed value of \"\"";
        assert_eq!(note("").to_string(), text);
        assert_eq!(note("x").to_string(), format!("{text} for metric name \"x\""));
    }

    #[test]
    fn counters_are_known_by_their_name() {
        assert!(may_be_counter("http_requests_total") && may_be_counter("x_bucket") && may_be_counter(""));
        assert!(!may_be_counter("temperature") && !may_be_counter("total"));
    }
}
