//! Samples and index.
#![deny(unsafe_code)]

mod arena;
mod grow;
pub mod index;
pub mod labelsets;
pub mod symbols;
