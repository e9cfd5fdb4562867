//! How exactly samples are kept: what a policy promises, and the words for it. A `Quantizer` is a policy
//! ready to run. What one sample becomes depends on that sample alone, so an answer never changes later.
//! docs/precision.md has the promises and their proofs.

mod quantizer;
mod step;
#[cfg(test)]
mod tests;

use std::fmt;

pub use quantizer::Quantizer;

use crate::error::{Error, Result};

/// What is kept of a sample. The bounds hold exactly, between the doubles themselves.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Precision {
    /// Every bit.
    #[default]
    Lossless,
    /// This many bits after the leading one (1 to 52); the relative error is at most `2^-(n + 1)`.
    Bits(u8),
    /// Significant decimal digits (1 to 17); the error is at most half a unit of the last one.
    Digits(u8),
    /// Digits after the point (-15 to 15; -3 keeps thousands); the error is at most half a unit of the last.
    Decimals(i8),
    /// The largest error as a share of the value, above 0 and below 0.5.
    Relative(f64),
    /// The largest error in the unit of the value, above 0.
    Absolute(f64),
}

/// A precision, and whether counters keep their integers all the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    pub precision: Precision,
    /// True: an integer of a counter stays, and its fractions cross none, so that rates and resets stay true.
    pub counters_exact: bool,
}

impl Policy {
    pub fn new(precision: Precision) -> Policy {
        Policy { precision, counters_exact: true }
    }
}

const REMEDY: &str =
    "write lossless, bits(1…52), digits(1…17), decimals(-15…15), relative(0.001) or absolute(0.5)";

impl Precision {
    /// Reads what users write, such as `digits(4)`; spaces around words and numbers are free.
    /// Fails with `Error::Input`, which names the text and the remedy.
    pub fn parse(text: &str) -> Result<Precision> {
        let wrong = |why: &str| Error::input("precision", text, why, REMEDY);
        let (name, argument) = match text.trim().strip_suffix(')').map(|t| t.split_once('(')) {
            Some(Some((name, argument))) => (name.trim(), Some(argument.trim())),
            Some(None) => return Err(wrong("a parenthesis is closed that was never opened")),
            None => (text.trim(), None),
        };
        let argument = match (name, argument) {
            ("lossless", None) => return Ok(Precision::Lossless),
            ("lossless", Some(_)) => return Err(wrong("lossless takes no number")),
            ("bits" | "digits" | "decimals" | "relative" | "absolute", Some(argument)) => argument,
            ("bits" | "digits" | "decimals" | "relative" | "absolute", None) => {
                return Err(wrong("the number in parentheses is missing"));
            }
            _ => return Err(wrong("there is no such precision")),
        };
        let count = || argument.parse().map_err(|_| wrong("the number must be an integer"));
        let share = || argument.parse().map_err(|_| wrong("the argument must be a number"));
        let narrow = |n: i64| n.clamp(0, 255) as u8;
        match name {
            "bits" => Precision::Bits(narrow(count()?)),
            "digits" => Precision::Digits(narrow(count()?)),
            "decimals" => Precision::Decimals(count()?.clamp(-128, 127) as i8),
            "relative" => Precision::Relative(share()?),
            _ => Precision::Absolute(share()?),
        }
        .checked()
        .map_err(wrong)
    }

    /// The precision itself if its number is within the limits, else what is wrong with it.
    fn checked(self) -> std::result::Result<Precision, &'static str> {
        match self {
            Precision::Bits(n) if !(1..=52).contains(&n) => Err("a double has 1 to 52 bits to keep"),
            Precision::Digits(n) if !(1..=17).contains(&n) => Err("a double has 1 to 17 digits to keep"),
            Precision::Decimals(n) if !(-15..=15).contains(&n) => Err("decimals go from -15 to 15"),
            Precision::Relative(e) if !(e > 0.0 && e < 0.5) => {
                Err("a relative error is above 0 and below 0.5")
            }
            Precision::Absolute(e) if !(e > 0.0 && e.is_finite()) => {
                Err("an absolute error is finite and above 0")
            }
            kept => Ok(kept),
        }
    }
}

impl fmt::Display for Precision {
    /// As `parse` reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Precision::Lossless => f.write_str("lossless"),
            Precision::Bits(n) => write!(f, "bits({n})"),
            Precision::Digits(n) => write!(f, "digits({n})"),
            Precision::Decimals(n) => write!(f, "decimals({n})"),
            Precision::Relative(e) => write!(f, "relative({})", shortest(*e)),
            Precision::Absolute(e) => write!(f, "absolute({})", shortest(*e)),
        }
    }
}

/// The shortest text that reads back as this double.
fn shortest(value: f64) -> String {
    let text = format!("{value:?}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}
