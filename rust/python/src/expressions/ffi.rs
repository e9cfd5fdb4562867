//! The C functions that Polars calls for an expression plugin: two a kernel, and two for all.
//!
//! Written by hand: `pyo3-polars`' macro does the same, but brings all of Polars' planner, readers and writers into the
//! build, 270 crates instead of 170.
//!
//! Contract of every function here: Polars passes `inputs` and `length` of one array whose items are valid and whose
//! exported series become ours, and `out` points to one empty item that becomes Polars'. Nothing is kept past a
//! call. `tests/unit/test_expressions.py` goes through all of them.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use polars::prelude::*;
use polars_arrow::ffi::{ArrowSchema, export_field_to_c, import_field_from_c};
use polars_ffi::version_0::{CallerContext, SeriesExport, export_series, import_series_buffer};

use super::kernels;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Polars shows it for an `out` that stays empty.
fn tell(message: &str) {
    let text = CString::new(message.replace('\0', " ")).unwrap_or_default();
    LAST_ERROR.with(|last| *last.borrow_mut() = text);
}

/// A panic must not leave through C.
fn guarded(run: impl FnOnce() -> PolarsResult<()>) {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tell(&error.to_string()),
        Err(_) => tell("internal error, please report it"),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn _polars_plugin_get_version() -> u32 {
    let (major, minor) = polars_ffi::get_version();
    u32::from(major) << 16 | u32::from(minor)
}

#[unsafe(no_mangle)]
pub extern "C" fn _polars_plugin_get_last_error_message() -> *const c_char {
    // Polars copies the text before it calls this thread's plugins again.
    LAST_ERROR.with(|last| last.borrow().as_ptr())
}

unsafe fn call(
    inputs: *mut SeriesExport,
    length: usize,
    out: *mut SeriesExport,
    kernel: fn(&[Series]) -> PolarsResult<Series>,
) {
    guarded(|| {
        // SAFETY: the array is as the contract says, and read once.
        let series = unsafe { import_series_buffer(inputs, length) }?;
        let found = export_series(&kernel(&series)?);
        // SAFETY: `out` points to one empty item.
        unsafe { out.write(found) };
        Ok(())
    });
}

unsafe fn field(inputs: *const ArrowSchema, length: usize, out: *mut ArrowSchema, dtype: DataType) {
    guarded(|| {
        let first = if length == 0 { None } else { unsafe { inputs.as_ref() } }; // SAFETY: the first of `length` items
        let first = first.ok_or_else(|| PolarsError::ComputeError("an expression without input".into()))?;
        // SAFETY: the item is valid.
        let name = unsafe { import_field_from_c(first) }?.name;
        let found = Field::new(name, dtype).to_arrow(CompatLevel::newest());
        // SAFETY: `out` points to one empty item.
        unsafe { out.write(export_field_to_c(&found)) };
        Ok(())
    });
}

macro_rules! plugin {
    ($($call:ident, $field:ident: $kernel:path => $dtype:expr;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $call(
            inputs: *mut SeriesExport,
            length: usize,
            _arguments: *const u8,
            _arguments_length: usize,
            out: *mut SeriesExport,
            _context: *mut CallerContext,
        ) {
            unsafe { call(inputs, length, out, $kernel) } // SAFETY: the contract is passed on.
        }

        #[unsafe(no_mangle)]
        unsafe extern "C" fn $field(
            inputs: *mut ArrowSchema,
            length: usize,
            out: *mut ArrowSchema,
            _arguments: *const u8,
            _arguments_length: usize,
        ) {
            unsafe { field(inputs, length, out, $dtype) } // SAFETY: the contract is passed on.
        }
    )*};
}

plugin! {
    _polars_plugin_rollup, _polars_plugin_field_rollup: kernels::rollup => kernels::record_type();
    _polars_plugin_deviations, _polars_plugin_field_deviations: kernels::deviations => DataType::Float64;
    _polars_plugin_anomalies, _polars_plugin_field_anomalies: kernels::anomalies => DataType::Boolean;
    _polars_plugin_keep, _polars_plugin_field_keep: kernels::keep => DataType::Boolean;
    _polars_plugin_thin, _polars_plugin_field_thin: kernels::thin => DataType::Boolean;
    _polars_plugin_rate, _polars_plugin_field_rate: kernels::rate => DataType::Float64;
    _polars_plugin_sketch, _polars_plugin_field_sketch: kernels::sketch => DataType::Binary;
    _polars_plugin_merge_sketches, _polars_plugin_field_merge_sketches: kernels::merge_sketches => DataType::Binary;
    _polars_plugin_sketch_quantile, _polars_plugin_field_sketch_quantile: kernels::sketch_quantile => DataType::Float64;
}
