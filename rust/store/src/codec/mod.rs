//! Columns of times and values as bytes. `open` is the streaming form that a chunk has while it is
//! written; the other files are the sealed forms, one independent codec per column, and `choose` picks
//! among them. FORMAT.md describes every byte.

pub mod bits;
pub mod bounds;
pub mod choose;
pub mod cursor;
pub mod decimal;
pub mod dense;
pub mod entropy;
pub mod exceptions;
pub mod histogram;
pub mod integers;
pub mod layout;
pub mod model;
pub mod open;
pub mod repeats;
pub mod simd;
pub mod statistics;
pub mod tans;
pub mod timestamps;
pub mod together;
pub mod values;
pub mod write;

pub use open::{Full, OpenState};

#[cfg(test)]
pub mod testing;
