//! Bytes to words and back: every protocol that metrics come in or go out by.
//!
//! Decoders borrow from the body and give a [`metricsdb_model::Batch`]; labels stay as the sender wrote
//! them until the store meets a series for the first time. This crate knows no store, clock or socket.
#![deny(unsafe_code)]

mod draft;
pub mod exposition;
pub mod exposition_protobuf;
pub mod exposition_writer;
mod label_text;
mod native_histogram;
mod number;
pub mod openmetrics;
pub mod prom_json;
mod protobuf;
pub mod remote_write;
pub mod statsd;

/// `Batch::dialect` of each way to write labels. Prometheus text and OpenMetrics write them alike.
pub mod dialect {
    /// The label fields of a protobuf `TimeSeries`.
    pub const REMOTE_WRITE: u8 = 1;
    /// `name{label="value"}`.
    pub const TEXT: u8 = 2;
    /// The canonical form of `metricsdb_model::labels`.
    pub const CANONICAL: u8 = 3;
}
