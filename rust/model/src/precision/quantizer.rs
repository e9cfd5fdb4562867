//! A policy, ready to run on one sample after the other.

use super::step::{self, MULTIPLE_MAX, Step};
use super::{Policy, Precision};
use crate::error::{Error, Result};
use crate::sample::ValueKind;

/// What a sample becomes. Its answer is a fixed point, keeps order and sign, and is within the promised
/// distance, or it is the sample itself.
#[derive(Clone, Copy, Debug)]
pub struct Quantizer {
    rule: Rule,
    counters_exact: bool,
}

#[derive(Clone, Copy, Debug)]
enum Rule {
    Keep,
    /// Low bits that are rounded away.
    Bits {
        cut: u32,
    },
    /// One step for all values below `limit`; `slack` as in `Step::nearest`.
    Grid {
        step: Step,
        bound: f64,
        slack: f64,
        limit: f64,
    },
    /// A step for each decade, `below` powers of ten under it, for the values from `from` to `to`.
    /// The bound is half a step and the multiple's rounding, or `share` of the value if that is not 0.
    Decades {
        lead: usize,
        below: i32,
        share: f64,
        from: f64,
        to: f64,
    },
}

impl Quantizer {
    /// Fails with `Error::Input` if a number of the policy is out of its limits.
    pub fn new(policy: Policy) -> Result<Quantizer> {
        let checked = policy.precision.checked();
        let precision = checked
            .map_err(|why| Error::input("precision", &policy.precision.to_string(), why, super::REMEDY))?;
        let rule = match precision {
            Precision::Lossless | Precision::Bits(52) => Rule::Keep,
            Precision::Bits(n) => Rule::Bits { cut: 52 - n as u32 },
            Precision::Digits(n) => decades(0, n as i32 - 1, 0.0),
            Precision::Decimals(n) => grid(0, -n as i32, step::step(0, -n as i32).half, 1.0),
            Precision::Absolute(e) => match step::coarsest(2.0 * e) {
                Some((lead, power)) => grid(lead, power, e, 0.0),
                None => Rule::Keep,
            },
            Precision::Relative(e) => match step::coarsest(2.0 * e) {
                // One below, so that its product with a value, once rounded, is not above the bound.
                Some((lead, power)) => decades(lead, -power, e.next_down()),
                None => Rule::Keep,
            },
        };
        Ok(Quantizer { rule, counters_exact: policy.counters_exact })
    }

    /// Whether every sample stays as it is.
    pub fn is_lossless(&self) -> bool {
        matches!(self.rule, Rule::Keep)
    }

    /// The bits to store for the bits of a sample; `counter` tells that its series is one.
    #[inline]
    pub fn apply(&self, kind: ValueKind, counter: bool, bits: u64) -> u64 {
        let exact = counter && self.counters_exact;
        match kind {
            ValueKind::Int | ValueKind::Uint if exact => bits,
            ValueKind::Int => self.integer(bits as i64) as u64,
            // What no int64 holds stays as it is.
            ValueKind::Uint => i64::try_from(bits).map_or(bits, |v| self.integer(v) as u64),
            ValueKind::Float => {
                let x = f64::from_bits(bits);
                let q = self.float(x);
                // Also when both are zero: -0.0 stays.
                if q == x || x.is_nan() {
                    return bits;
                }
                if exact { between_integers(x, q).to_bits() } else { q.to_bits() }
            }
        }
    }

    #[inline(always)]
    fn float(&self, x: f64) -> f64 {
        match self.rule {
            Rule::Keep => x,
            Rule::Bits { cut } => round_bits(x, cut),
            Rule::Grid { step, bound, slack, limit } if x.abs() < limit => step.nearest(x, bound, slack),
            Rule::Decades { lead, below, share, from, to } if x.abs() >= from && x.abs() < to => {
                let step = step::step(lead, step::decade(x.abs()) - below);
                let (bound, slack) = if share > 0.0 { (share * x.abs(), 0.0) } else { (step.half, 1.0) };
                step.nearest(x, bound, slack)
            }
            Rule::Grid { .. } | Rule::Decades { .. } => x,
        }
    }

    /// What leaves `i64`, `i64::MIN` among it, stays as it is.
    fn integer(&self, x: i64) -> i64 {
        let size = x.unsigned_abs() as u128;
        let step = match self.rule {
            Rule::Keep => return x,
            Rule::Bits { cut } => 1 << (128 - size.leading_zeros()).saturating_sub(53 - cut),
            Rule::Grid { step, .. } => step.whole(),
            Rule::Decades { lead, below, .. } => {
                let power = size.checked_ilog10().map_or(-1, |decade| decade as i32 - below);
                if power < 0 { 0 } else { step::step(lead, power).whole() }
            }
        };
        if step <= 1 {
            return x;
        }
        let (m, rest) = (size / step, size % step);
        let up = rest * 2 > step || (rest * 2 == step && m % 2 == 1);
        match i64::try_from((m + up as u128) * step) {
            Ok(q) => q * x.signum(),
            Err(_) => x,
        }
    }
}

fn grid(lead: usize, power: i32, bound: f64, slack: f64) -> Rule {
    let step = *step::step(lead, power);
    Rule::Grid { step, bound, slack, limit: step.multiple(MULTIPLE_MAX) }
}

/// The rule of a step that lies `below` powers of ten under each decade.
fn decades(lead: usize, below: i32, share: f64) -> Rule {
    if below > step::BELOW_MAX {
        return Rule::Keep;
    }
    let from = step::decade_start(step::POWER_MIN + below);
    let to = step::decade_start(step::POWER_MAX + below + 1);
    Rule::Decades { lead, below, share, from, to }
}

/// Rounds `cut` low bits away, ties to even. Subnormals, whose relative error would be larger, and what
/// would become infinite stay.
#[inline(always)]
fn round_bits(x: f64, cut: u32) -> f64 {
    const EXPONENT: u64 = 0x7ff << 52;
    let bits = x.to_bits();
    let odd = bits >> cut & 1;
    let rounded = (bits.wrapping_add((1 << (cut - 1)) - 1 + odd)) >> cut << cut;
    let stays = bits & EXPONENT == 0 || rounded & EXPONENT == EXPONENT || bits & EXPONENT == EXPONENT;
    f64::from_bits(if stays { bits } else { rounded })
}

/// `q`, brought back to the integers around `x`; `x` if it is an integer.
#[inline(always)]
fn between_integers(x: f64, q: f64) -> f64 {
    // From here on every double is an integer.
    if x.abs() >= (1u64 << 52) as f64 {
        return x;
    }
    let toward_zero = x as i64 as f64;
    if toward_zero == x {
        return x;
    }
    let low = if x < 0.0 { toward_zero - 1.0 } else { toward_zero };
    q.max(low).min(low + 1.0)
}
