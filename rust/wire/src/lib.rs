//! Bytes to words and back: every protocol that metrics come in or go out by.
//!
//! Decoders borrow from the body and give a [`metricsdb_model::Batch`]; labels stay as the sender wrote
//! them until the store meets a series for the first time. This crate knows no store, clock or socket.
#![deny(unsafe_code)]

pub mod exposition;
pub mod exposition_writer;
pub mod label_text;
pub mod number;
pub mod openmetrics;
pub mod prom_json;
pub mod protobuf;
pub mod remote_write;
pub mod statsd;

/// `Batch::dialect` of each way to write labels. Prometheus text and OpenMetrics write them alike.
pub mod dialect {
    pub const REMOTE_WRITE: u8 = 1;
    pub const TEXT: u8 = 2;
    /// The canonical form of `metricsdb_model::labels`.
    pub const CANONICAL: u8 = 3;
}
