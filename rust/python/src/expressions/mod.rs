//! The kernels as Polars expressions, for frames from anywhere: `ffi` is what Polars calls, `kernels` what it gets.

mod ffi;
mod kernels;
