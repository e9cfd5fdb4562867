//! Samples and index.
#![deny(unsafe_code)]

mod arena;
mod grow;
pub mod chunk;
pub mod codec;
pub mod index;
pub mod labelsets;
pub mod symbols;
