//! The value of a duration once the query's times are known.

use metricsdb_model::{Error, Result};

use crate::syntax::tree::{Duration, DurationExpr, DurationOp};

/// Whole milliseconds of a number of seconds, cut towards zero as Prometheus does after rounding to
/// nanoseconds; `None` past its limit of 2^63 ns.
pub(super) fn milliseconds(seconds: f64) -> Option<i64> {
    const SECONDS_MAX: f64 = i64::MAX as f64 / 1e9;
    if seconds.is_nan() || seconds.abs() > SECONDS_MAX {
        return None;
    }
    let ms = seconds * 1e3;
    let nearest = ms.round();
    // Half a nanosecond, or more where the number is too large to tell nanoseconds apart.
    let close = (ms - nearest).abs() <= f64::max(5e-7, ms.abs() * (2.0 * f64::EPSILON));
    Some(if close { nearest } else { ms.trunc() } as i64)
}

impl Duration {
    /// Milliseconds, with `step_ms` for `step()` and `range_ms` (end - start) for `range()`. Fails with
    /// `Error::Execution` on a division by zero and out of range.
    pub fn resolve(&self, step_ms: i64, range_ms: i64) -> Result<i64> {
        match self {
            Duration::Ms(ms) => Ok(*ms),
            Duration::Expr(expr) => {
                let seconds = expr.seconds(step_ms as f64 / 1e3, range_ms as f64 / 1e3)?;
                milliseconds(seconds).ok_or_else(|| Error::execution("duration is out of bounds"))
            }
        }
    }

    /// As `resolve`, for ranges and steps: 0 or less is refused.
    pub fn resolve_positive(&self, step_ms: i64, range_ms: i64) -> Result<i64> {
        match self.resolve(step_ms, range_ms)? {
            ms if ms > 0 => Ok(ms),
            _ => Err(Error::execution("duration must be greater than 0")),
        }
    }
}

impl DurationExpr {
    fn seconds(&self, step: f64, range: f64) -> Result<f64> {
        let value = |expr: &DurationExpr| expr.seconds(step, range);
        Ok(match self {
            DurationExpr::Seconds(seconds) | DurationExpr::Number(seconds) => *seconds,
            DurationExpr::Step => step,
            DurationExpr::Range => range,
            DurationExpr::Window => return Err(Error::execution("$w is known in burn rates alone")),
            DurationExpr::Negate(inner) => -value(inner)?,
            DurationExpr::Plus(inner) | DurationExpr::Paren(inner) => value(inner)?,
            DurationExpr::Min(a, b) => value(a)?.min(value(b)?),
            DurationExpr::Max(a, b) => value(a)?.max(value(b)?),
            DurationExpr::Binary { op, left, right } => {
                let (left, right) = (value(left)?, value(right)?);
                match op {
                    DurationOp::Add => left + right,
                    DurationOp::Sub => left - right,
                    DurationOp::Mul => left * right,
                    DurationOp::Div if right == 0.0 => return Err(Error::execution("division by zero")),
                    DurationOp::Div => left / right,
                    DurationOp::Mod if right == 0.0 => return Err(Error::execution("modulo by zero")),
                    DurationOp::Mod => left % right,
                    DurationOp::Pow => left.powf(right),
                }
            }
        })
    }
}
