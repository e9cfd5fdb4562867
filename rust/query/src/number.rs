//! Numbers as Go and OpenMetrics write them.

use std::fmt;

/// As Go's `%g`: the shortest digits that read back; with an exponent below 1e-4 and from 1e6 on.
pub struct Shortest(pub f64);

/// As Go's `%.2g`.
pub struct TwoDigits(pub f64);

impl fmt::Display for Shortest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        general(f, self.0, &format!("{:e}", self.0), 6)
    }
}

impl fmt::Display for TwoDigits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        general(f, self.0, &format!("{:.1e}", self.0), 2)
    }
}

/// `scientific` is Rust's exponent form of the (rounded) value; from `exponent_max` on it is kept.
fn general(f: &mut fmt::Formatter<'_>, value: f64, scientific: &str, exponent_max: i32) -> fmt::Result {
    if value.is_nan() {
        return f.write_str("NaN");
    }
    if value.is_infinite() {
        return f.write_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    }
    let (digits, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let digits =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..exponent_max).contains(&exponent) {
        // Few digits: reading them back and printing the shortest form changes none.
        return write!(f, "{}", scientific.parse().unwrap_or(value));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    write!(f, "{digits}e{sign}{:02}", exponent.abs())
}

/// As OpenMetrics writes a float into a label: like `%g`, and a whole number keeps a `.0`.
pub fn open_metrics(value: f64) -> String {
    let text = Shortest(value).to_string();
    if !value.is_finite() || text.contains(['.', 'e']) { text } else { text + ".0" }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_look_as_in_go() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.1, "1.1"),
            (100_000.0, "100000"),
            (1e6, "1e+06"),
            (123_456_789.0, "1.23456789e+08"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5e-300, "-2.5e-300"),
            (f64::NEG_INFINITY, "-Inf"),
        ];
        for (value, text) in cases {
            assert_eq!(Shortest(value).to_string(), text);
        }
        let cases = [(12.5, "12"), (100.0, "1e+02"), (5.0, "5"), (0.012_34, "0.012"), (99.9, "1e+02")];
        for (value, text) in cases {
            assert_eq!(TwoDigits(value).to_string(), text);
        }
    }

    #[test]
    fn quantile_labels_are_open_metrics_floats() {
        let cases = [(0.0, "0.0"), (1.0, "1.0"), (0.25, "0.25"), (-0.1, "-0.1"), (1e7, "1e+07")];
        for (value, text) in cases {
            assert_eq!(open_metrics(value), text);
        }
        assert_eq!(open_metrics(f64::NAN), "NaN");
        assert_eq!(open_metrics(f64::INFINITY), "+Inf");
    }

    proptest! {
        #[test]
        fn the_shortest_form_reads_back(value in prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL) {
            let back: f64 = Shortest(value).to_string().parse().unwrap();
            prop_assert_eq!(back.to_bits(), value.to_bits());
        }
    }
}
