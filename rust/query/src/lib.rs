//! Text to answer: syntax, functions, evaluation. Sees storage only through `metricsdb_model::Source`.
#![forbid(unsafe_code)]

pub mod alert;
pub mod annotations;
pub mod cache;
pub mod decimate;
pub mod exec;
pub mod function;
pub mod histogram;
pub mod number;
pub mod plan;
pub mod syntax;
#[cfg(test)]
mod testing;
