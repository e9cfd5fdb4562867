//! PromQL text to tree and back. Knows no storage and no evaluation.

pub mod tree;
