//! Numbers as the text formats write them.

use std::ops::Range;

use metricsdb_model::sample::NORMAL_NAN_BITS;

/// A value as the Prometheus text format takes it: Go's decimal float syntax, `Inf`, `Infinity` and
/// `NaN` in any case. Hexadecimal floats and `_` are refused, as Prometheus does; so is a number that
/// is too large for 64 bits. `NaN` is the normal NaN.
pub fn parse_value(text: &[u8]) -> Option<f64> {
    match small_integer(text) {
        Some(v) => Some(v as f64),
        None => parse_float(text),
    }
}

/// Up to 15 digits: exact as a float, and most of what exporters send.
#[inline]
fn small_integer(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 15 {
        return None;
    }
    let mut v = 0u64;
    for &b in text {
        let d = b.wrapping_sub(b'0');
        if d > 9 {
            return None;
        }
        v = v * 10 + u64::from(d);
    }
    Some(v)
}

fn parse_float(text: &[u8]) -> Option<f64> {
    let s = std::str::from_utf8(text).ok()?;
    let unsigned = s.strip_prefix(['+', '-']).unwrap_or(s);
    if unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        // Rust's syntax is Go's here, but where Go calls a number out of range Rust rounds to infinity.
        s.parse::<f64>().ok().filter(|v| v.is_finite())
    } else if s.eq_ignore_ascii_case("nan") {
        Some(f64::from_bits(NORMAL_NAN_BITS))
    } else if unsigned.eq_ignore_ascii_case("inf") || unsigned.eq_ignore_ascii_case("infinity") {
        Some(if s.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY })
    } else {
        None
    }
}

/// A finite decimal number (`realnumber` of the OpenMetrics grammar).
pub fn parse_real(text: &[u8]) -> Option<f64> {
    parse_value(text).filter(|v| v.is_finite())
}

/// A whole number of milliseconds.
pub fn parse_millis(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds to the nearest millisecond; `None` where it does not fit.
pub fn seconds_to_millis(seconds: f64) -> Option<i64> {
    let ms = (seconds * 1000.0).round();
    // 2^63 is the first float that does not fit.
    (ms >= i64::MIN as f64 && ms < i64::MAX as f64).then_some(ms as i64)
}

/// Appends the shortest decimal that reads back as `v`, as Go's `strconv.FormatFloat(v, 'f', -1, 64)`:
/// never an exponent; `NaN`, `+Inf`, `-Inf`.
pub fn write_plain(out: &mut Vec<u8>, v: f64) {
    if write_integer_or_special(out, v) {
        return;
    }
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(v);
    if text.contains('e') {
        // Rust prints floats in full and as short as Go does.
        out.extend_from_slice(v.to_string().as_bytes());
    } else {
        out.extend_from_slice(text.strip_suffix(".0").unwrap_or(text).as_bytes());
    }
}

/// As [`write_plain`], but below 1e-6 and from 1e21 on with an exponent, as Prometheus' HTTP API writes
/// the samples of vectors and matrices.
pub fn write_json_value(out: &mut Vec<u8>, v: f64) {
    write_within(out, v, 1e-6..1e21);
}

/// The same below 1e-4 and from 1e6 on, as client libraries write the bounds of buckets into the text format.
pub fn write_general(out: &mut Vec<u8>, v: f64) {
    write_within(out, v, 1e-4..1e6);
}

/// Plain within these sizes, else with an exponent.
#[inline]
fn write_within(out: &mut Vec<u8>, v: f64, plain: Range<f64>) {
    let size = v.abs();
    if size.is_finite() && size != 0.0 && !plain.contains(&size) {
        write_exponent(out, v);
    } else {
        write_plain(out, v);
    }
}

/// Go's `%e` with the shortest mantissa: a sign and at least two digits in the exponent.
fn write_exponent(out: &mut Vec<u8>, v: f64) {
    let text = format!("{v:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    out.extend_from_slice(mantissa.as_bytes());
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(d) => (b'-', d),
        None => (b'+', exponent),
    };
    out.extend_from_slice(&[b'e', sign]);
    if digits.len() < 2 {
        out.push(b'0');
    }
    out.extend_from_slice(digits.as_bytes());
}

fn write_integer_or_special(out: &mut Vec<u8>, v: f64) -> bool {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if v.abs() < EXACT && v == v.trunc() && (v != 0.0 || v.is_sign_positive()) {
        out.extend_from_slice(itoa::Buffer::new().format(v as i64).as_bytes());
        return true;
    }
    let special: &[u8] = if v.is_nan() {
        b"NaN"
    } else if v == f64::INFINITY {
        b"+Inf"
    } else if v == f64::NEG_INFINITY {
        b"-Inf"
    } else {
        return false;
    };
    out.extend_from_slice(special);
    true
}

/// Appends milliseconds as seconds: no fraction, or three digits of it.
pub fn write_seconds(out: &mut Vec<u8>, ms: i64) {
    if ms < 0 {
        out.push(b'-');
    }
    let size = ms.unsigned_abs();
    out.extend_from_slice(itoa::Buffer::new().format(size / 1000).as_bytes());
    let fraction = size % 1000;
    if fraction != 0 {
        let digit = |n: u64| b'0' + (n % 10) as u8;
        out.extend_from_slice(&[b'.', digit(fraction / 100), digit(fraction / 10), digit(fraction)]);
    }
}

/// Appends a whole number.
pub fn write_integer(out: &mut Vec<u8>, v: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(v).as_bytes());
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(v: f64) -> String {
        text(|out| write_plain(out, v))
    }

    fn json(v: f64) -> String {
        text(|out| write_json_value(out, v))
    }

    fn general(v: f64) -> String {
        text(|out| write_general(out, v))
    }

    fn seconds(ms: i64) -> String {
        text(|out| write_seconds(out, ms))
    }

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_read_as_go_reads_them() {
        for (text, v) in [
            ("0", 0.0),
            ("+1", 1.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("-1.5E+3", -1500.0),
            ("000000000000000000000012", 12.0),
            ("+Inf", f64::INFINITY),
            ("-inf", f64::NEG_INFINITY),
            ("INFINITY", f64::INFINITY),
            ("1e-400", 0.0),
        ] {
            assert_eq!(parse_value(text.as_bytes()), Some(v), "{text}");
        }
        assert_eq!(parse_value(b"nan").unwrap().to_bits(), NORMAL_NAN_BITS);
        for text in [
            "", "+", "-", ".", "e5", "1e", "1_0", "0x1", "0x1p-3", "1e400", "+nan", "-NaN", "infin", "1 ",
            "١",
        ] {
            assert_eq!(parse_value(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn values_are_written_as_prometheus_writes_them() {
        // Taken from the answers of a running Prometheus (scalar and vector results).
        assert_eq!(plain(1e-7), "0.0000001");
        assert_eq!(plain(1e20), "100000000000000000000");
        assert_eq!(plain(-0.0), "-0");
        assert_eq!(plain(f64::NEG_INFINITY), "-Inf");
        assert_eq!(json(1e21), "1e+21");
        assert_eq!(json(1.5e-10), "1.5e-10");
        assert_eq!(json(1e-7), "1e-07");
        assert_eq!(json(f64::NAN), "NaN");
        assert_eq!(json(f64::MAX), "1.7976931348623157e+308");
        // As client libraries write bounds.
        assert_eq!(general(1e-4), "0.0001");
        assert_eq!(general(1e-4f64.next_down()), "9.999999999999999e-05");
        assert_eq!(general(1e6f64.next_down()), "999999.9999999999");
        assert_eq!(general(-1e6), "-1e+06");
        assert_eq!(general(0.0), "0");
        assert_eq!(seconds(1_700_000_000_500), "1700000000.500");
        assert_eq!(seconds(-1), "-0.001");
        assert_eq!(seconds(i64::MIN), "-9223372036854775.808");
    }

    #[test]
    fn seconds_that_do_not_fit_into_milliseconds_are_refused() {
        assert_eq!(seconds_to_millis(1.001), Some(1001));
        assert_eq!(seconds_to_millis(-0.0006), Some(-1));
        assert_eq!(seconds_to_millis(1e19), None);
        assert_eq!(seconds_to_millis(f64::NAN), None);
        assert_eq!(seconds_to_millis(9e15), Some(9_000_000_000_000_000_000));
        assert_eq!(seconds_to_millis(9_223_372_036_854_776.0), None);
    }

    #[test]
    fn of_two_shortest_texts_the_even_one_is_written_as_by_go() {
        assert_eq!(plain(3_878_188_252_586_421.0 / 4.0), "969547063146605.2");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bits in any::<u64>()) {
            let v = f64::from_bits(bits);
            for text in [plain(v), json(v)] {
                let back = parse_value(text.as_bytes()).unwrap();
                prop_assert!(back.to_bits() == v.to_bits() || (v.is_nan() && back.is_nan()), "{text}");
            }
            prop_assert!(!plain(v).contains('e'));
            // As short as Rust's own; of two that are equally short and near, Go takes the even digit.
            let shortest = format!("{v:+}").replace("inf", "Inf").len() - usize::from(v.is_finite() && v.is_sign_positive());
            prop_assert!(v.is_nan() || plain(v).len() == shortest, "{}", plain(v));
        }
    }
}
