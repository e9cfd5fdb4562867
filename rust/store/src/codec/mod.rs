//! Columns of times and values as bytes. `open` is the streaming form that a chunk has while it is
//! written; the other files are the sealed forms, one independent codec per column, and `choose` picks
//! among them. FORMAT.md describes every byte.

pub mod bits;
pub mod choose;
pub mod cursor;
pub mod decimal;
pub mod histogram;
pub mod integers;
pub mod open;
pub mod rice;
pub mod statistics;
pub mod timestamps;
pub mod values;
pub mod xor;

pub use open::{Full, OpenState};

#[cfg(test)]
pub mod testing;
