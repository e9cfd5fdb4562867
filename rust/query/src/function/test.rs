//! What the kernels' tests share.

use crate::function::Window;

/// Samples 10 s apart, the first at 10 s, in a window from 0 to the last sample.
pub fn window(values: &[f64]) -> Window<'_> {
    let timestamps: Vec<i64> = (1..=values.len() as i64).map(|i| i * 10_000).collect();
    let end = values.len() as i64 * 10_000;
    Window { timestamps: timestamps.leak(), values, starts: &[], start: 0, end, at: end, args: &[] }
}
