//! The words that every other room shares: labels, matchers, samples, batches, answers, errors.
//!
//! This crate knows no storage, no protocol and no Python; everything else may name it.
#![forbid(unsafe_code)]

pub mod answer;
pub mod batch;
pub mod bounds;
pub mod budget;
pub mod counter;
pub mod drawn;
pub mod error;
pub mod freed;
pub mod histogram;
pub mod labels;
pub mod layered;
pub mod matcher;
pub mod memory;
pub mod numbered;
pub mod order;
pub mod precision;
pub mod predicate;
pub mod regex;
pub mod sample;
pub mod sketch;
pub mod source;
pub mod summary;
pub mod time;
pub mod varint;

pub use answer::{Annotation, Answer, AnswerKind, Matrix, Point, QueryStats, Row, Severity};
pub use batch::{
    Batch, BatchHistogram, BatchSeries, Columns, Metadata, MetricType, Reason, WriteReport,
    looks_like_counter,
};
pub use budget::Budget;
pub use counter::Counter;
pub use drawn::{Draw, Drawn, Sampling};
pub use error::{Error, Result, Span};
pub use freed::Freed;
pub use histogram::{CountNumber, Counts, Histogram, HistogramSamples, Layout, ResetHint, Tally};
pub use labels::{LabelError, Labels, LabelsBuilder, LabelsRef};
pub use layered::Layered;
pub use matcher::{MatchOp, Matcher};
pub use memory::MemoryLimit;
pub use numbered::Numbered;
pub use precision::{Policy, Precision, Quantizer};
pub use predicate::{NumOp, Predicate};
pub use sample::{Samples, ValueKind, Values};
pub use sketch::Sketch;
pub use source::{Bound, Grouping, Groups, SeriesSet, Source};
pub use summary::{Summary, Wants};
pub use time::TimeRange;
