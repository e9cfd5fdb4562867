//! What computing with native histograms remarks on: small values, made into text once a query.

use std::fmt;

use metricsdb_model::Severity;

use crate::annotations::Note;
use crate::syntax::quote;

/// One remark, without its place and its metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Remark {
    /// Floats and histograms in one window of a function that takes one kind.
    MixedTypes,
    /// Exponential and custom buckets together.
    MixedSchemas,
    /// A gauge histogram where a counter was wanted.
    NotCounter,
    /// A counter histogram where a gauge was wanted.
    NotGauge,
    /// Floats were computed, the histograms beside them left out.
    HistogramsIgnored,
    /// The quantile lies among the NaN observations.
    QuantileNan,
    /// NaN observations count as if they were above all others.
    QuantileSkewed,
    /// NaN observations are in no fraction.
    FractionNan,
    /// "Reset" met "not reset".
    CollisionInAddition,
    CollisionInSubtraction,
    CollisionInAggregation,
    /// Custom bounds differed: the ones in common were kept.
    ReconciledInAddition,
    ReconciledInSubtraction,
    ReconciledInAggregation,
    /// An aggregation over floats and histograms.
    MixedAggregation,
    /// One histogram is there in classic buckets and as a native one.
    MixedClassicNative,
    /// A start timestamp lies before the sample before, and is another one than that sample's.
    StartOverlap,
}

const ALL: [Remark; 17] = [
    Remark::MixedTypes,
    Remark::MixedSchemas,
    Remark::NotCounter,
    Remark::NotGauge,
    Remark::HistogramsIgnored,
    Remark::QuantileNan,
    Remark::QuantileSkewed,
    Remark::FractionNan,
    Remark::CollisionInAddition,
    Remark::CollisionInSubtraction,
    Remark::CollisionInAggregation,
    Remark::ReconciledInAddition,
    Remark::ReconciledInSubtraction,
    Remark::ReconciledInAggregation,
    Remark::MixedAggregation,
    Remark::MixedClassicNative,
    Remark::StartOverlap,
];

/// How a remark names the metric.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Naming {
    Never,
    Always,
    /// With `for metric name`, unless the series has no name.
    IfKnown,
}

impl Remark {
    pub fn severity(self) -> Severity {
        match self {
            Remark::HistogramsIgnored
            | Remark::QuantileNan
            | Remark::QuantileSkewed
            | Remark::FractionNan
            | Remark::ReconciledInAddition
            | Remark::ReconciledInSubtraction
            | Remark::ReconciledInAggregation => Severity::Info,
            _ => Severity::Warning,
        }
    }

    /// The remark as a note; `metric` may be "".
    pub fn note(self, metric: &str) -> Note {
        let metric = if self.naming() == Naming::Never { "" } else { metric };
        Note::Histograms { remark: self, metric: metric.to_owned() }
    }

    fn naming(self) -> Naming {
        match self {
            Remark::MixedTypes
            | Remark::MixedSchemas
            | Remark::NotCounter
            | Remark::NotGauge
            | Remark::HistogramsIgnored
            | Remark::StartOverlap => Naming::Always,
            Remark::QuantileNan
            | Remark::QuantileSkewed
            | Remark::FractionNan
            | Remark::MixedClassicNative => Naming::IfKnown,
            _ => Naming::Never,
        }
    }

    /// Writes the text without severity and place, in Prometheus' words.
    pub(crate) fn write(self, f: &mut fmt::Formatter<'_>, metric: &str) -> fmt::Result {
        f.write_str(self.text())?;
        match self.naming() {
            Naming::Always => write!(f, " {}", quote(metric)),
            Naming::IfKnown if !metric.is_empty() => write!(f, " for metric name {}", quote(metric)),
            _ => Ok(()),
        }
    }

    fn text(self) -> &'static str {
        match self {
            Remark::MixedTypes => "encountered a mix of histograms and floats for metric name",
            Remark::MixedSchemas => {
                "vector contains a mix of histograms with exponential and custom buckets schemas for metric name"
            }
            Remark::NotCounter => "this native histogram metric is not a counter:",
            Remark::NotGauge => "this native histogram metric is not a gauge:",
            Remark::HistogramsIgnored => {
                "ignored histograms in a range containing both floats and histograms for metric name"
            }
            Remark::QuantileNan => "input to histogram_quantile has NaN observations, result is NaN",
            Remark::QuantileSkewed => {
                "input to histogram_quantile has NaN observations, result is skewed higher"
            }
            Remark::FractionNan => {
                "input to histogram_fraction has NaN observations, which are excluded from all fractions"
            }
            Remark::CollisionInAddition => "conflicting counter resets during histogram addition",
            Remark::CollisionInSubtraction => "conflicting counter resets during histogram subtraction",
            Remark::CollisionInAggregation => "conflicting counter resets during histogram aggregation",
            Remark::ReconciledInAddition => "mismatched custom buckets were reconciled during addition",
            Remark::ReconciledInSubtraction => "mismatched custom buckets were reconciled during subtraction",
            Remark::ReconciledInAggregation => "mismatched custom buckets were reconciled during aggregation",
            Remark::MixedAggregation => "encountered a mix of histograms and floats for aggregation",
            Remark::MixedClassicNative => "vector contains a mix of classic and native histograms",
            Remark::StartOverlap => {
                "sample has start time that overlaps with previous sample timestamp for metric"
            }
        }
    }
}

/// A set of remarks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remarks(u32);

impl Remarks {
    pub fn add(&mut self, remark: Remark) {
        self.0 |= 1 << remark as u8;
    }

    pub fn merge(&mut self, other: Remarks) {
        self.0 |= other.0;
    }

    pub fn has(self, remark: Remark) -> bool {
        self.0 & (1 << remark as u8) != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Remark> {
        ALL.into_iter().filter(move |r| self.has(*r))
    }
}

impl From<Remark> for Remarks {
    fn from(remark: Remark) -> Remarks {
        Remarks(1 << remark as u8)
    }
}

impl Extend<Remark> for Remarks {
    fn extend<I: IntoIterator<Item = Remark>>(&mut self, remarks: I) {
        remarks.into_iter().for_each(|r| self.add(r));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_gives_back_what_was_added() {
        let mut set = Remarks::default();
        assert!(set.is_empty());
        for (i, remark) in ALL.into_iter().enumerate() {
            assert_eq!(remark as usize, i);
            assert!(!set.has(remark));
            set.add(remark);
        }
        assert!(set.iter().eq(ALL));
        assert!(Remarks::from(Remark::NotGauge).iter().eq([Remark::NotGauge]));
    }

    #[test]
    fn the_metric_is_named_where_prometheus_names_it() {
        let text = |remark: Remark, metric: &str| remark.note(metric).to_string();
        assert_eq!(
            text(Remark::NotCounter, "x"),
            "PromQL warning: this native histogram metric is not a counter: \"x\""
        );
        assert_eq!(
            text(Remark::MixedTypes, ""),
            "PromQL warning: encountered a mix of histograms and floats for metric name \"\""
        );
        let nan = "PromQL info: input to histogram_quantile has NaN observations, result is NaN";
        assert_eq!(text(Remark::QuantileNan, ""), nan);
        assert_eq!(text(Remark::QuantileNan, "x"), format!("{nan} for metric name \"x\""));
        assert_eq!(
            text(Remark::ReconciledInAggregation, "x"),
            "PromQL info: mismatched custom buckets were reconciled during aggregation"
        );
    }
}
