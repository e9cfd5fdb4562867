//! What literals mean and how they are written: numbers, durations and strings, by the rules of Go that
//! Prometheus inherits.

use std::fmt::Write;

/// A number literal: decimal, hexadecimal, octal (a leading 0, as Go's base 0), `Inf`, `NaN`; `_` may
/// stand between digits. `None` where Prometheus refuses it: malformed or out of range.
pub(super) fn number(text: &str) -> Option<f64> {
    if text.eq_ignore_ascii_case("inf") {
        return Some(f64::INFINITY);
    }
    if text.eq_ignore_ascii_case("nan") {
        return Some(f64::NAN);
    }
    if let Some(value) = suffixed(text) {
        return Some(value);
    }
    let digits: String = text.chars().filter(|&c| c != '_').collect();
    if digits.len() != text.len() && !underscores_separate_digits(text) {
        return None;
    }
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        return i64::from_str_radix(hex, 16).ok().map(|n| n as f64);
    }
    if digits.len() > 1
        && digits.starts_with('0')
        && digits.bytes().all(|b| (b'0'..=b'7').contains(&b))
        && let Ok(n) = i64::from_str_radix(&digits, 8)
    {
        return Some(n as f64);
    }
    let value = digits.parse::<f64>().ok()?;
    value.is_finite().then_some(value)
}

/// MetricsQL's suffixes: powers of 1000, and of 1024 with an `i`.
const SUFFIXES: [(&str, f64); 8] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("K", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
];

/// The value of `1.5Ki`; `None` for anything but a decimal number with one of the suffixes.
pub(super) fn suffixed(text: &str) -> Option<f64> {
    let found = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, factor)));
    let (mantissa, factor) = found?;
    let decimal = mantissa.starts_with(|c: char| c == '.' || c.is_ascii_digit())
        && !mantissa.contains(['x', 'X'])
        && !mantissa.ends_with(['i', 'K', 'M', 'G', 'T']);
    let value = number(mantissa).filter(|_| decimal)? * factor;
    value.is_finite().then_some(value)
}

/// Go's rule: `_` only between digits, where a base prefix (`0x`, a leading `0`) counts as a digit.
fn underscores_separate_digits(text: &str) -> bool {
    let bytes = text.as_bytes();
    let hex = bytes.len() > 1 && bytes[0] == b'0' && matches!(bytes[1], b'x' | b'X');
    let is_digit = |i: usize| match bytes.get(i) {
        Some(b'x' | b'X') => hex && i == 1,
        Some(b) => b.is_ascii_digit() || (hex && b.is_ascii_hexdigit()),
        None => false,
    };
    (0..bytes.len()).filter(|&i| bytes[i] == b'_').all(|i| i > 0 && is_digit(i - 1) && is_digit(i + 1))
}

const UNITS: [(&str, i64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// The longest duration that Prometheus can hold: 2^63 ns, about 292 years.
pub(super) const DURATION_MS_MAX: i64 = i64::MAX / 1_000_000;

/// Milliseconds of `1h30m`: units from the largest to the smallest, each at most once.
pub(super) fn duration_ms(text: &str) -> Result<i64, String> {
    let malformed = || format!("not a valid duration string: {}", quote(text));
    let mut rest = text;
    let mut total: i64 = 0;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (count, after) = rest.split_at(digits);
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, after) = after.split_at(letters);
        let place = UNITS.iter().position(|(name, _)| *name == unit).ok_or_else(malformed)?;
        if digits == 0 || place < next_unit {
            return Err(malformed());
        }
        next_unit = place + 1;
        total = count
            .parse::<i64>()
            .ok()
            .and_then(|n| n.checked_mul(UNITS[place].1))
            .and_then(|n| n.checked_add(total))
            .filter(|&n| n <= DURATION_MS_MAX)
            .ok_or("duration out of range")?;
        rest = after;
    }
    if next_unit == 0 { Err(malformed()) } else { Ok(total) }
}

/// As Prometheus prints a duration: `1h30m`; years and weeks only where nothing remains.
pub(crate) fn format_duration(ms: i64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    if ms < 0 {
        out.push('-');
    }
    let mut rest = ms.unsigned_abs();
    for (unit, size) in UNITS {
        let size = size.unsigned_abs();
        let exact_only = matches!(unit, "y" | "w");
        if rest < size || (exact_only && !rest.is_multiple_of(size)) {
            continue;
        }
        let _ = write!(out, "{}{unit}", rest / size);
        rest %= size;
    }
    out
}

/// As Go's `%v`, which Prometheus prints numbers with: the shortest digits that read back, with an
/// exponent from 1e+06 on and below 1e-04.
pub(crate) fn format_number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if value != 0.0 && !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => format!("{value}"),
    }
}

/// Why a string literal cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StringError {
    /// Byte offset in the literal, and the message.
    Escape(usize, String),
    /// The escapes make bytes that are not UTF-8.
    NotUtf8,
}

/// The text of a literal, which comes with its quotes. Escapes are Go's; back quotes know none.
pub(super) fn unquote(literal: &str) -> Result<String, StringError> {
    let mut chars = literal.char_indices();
    let quote = chars.next().map_or('"', |(_, c)| c);
    let body_end = literal.len().saturating_sub(1).max(1);
    let body = literal.get(1..body_end).unwrap_or("");
    if quote == '`' || !body.contains('\\') {
        return Ok(body.to_owned());
    }
    let mut bytes = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let offset = literal.len() - 1 - rest.len() + at;
        let escape = &rest[at + 1..];
        let length = escaped(escape, quote, &mut bytes).map_err(|m| StringError::Escape(offset, m))?;
        rest = &escape[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).map_err(|_| StringError::NotUtf8)
}

/// Decodes what stands after a backslash; returns its length in bytes.
fn escaped(text: &str, quote: char, out: &mut Vec<u8>) -> Result<usize, String> {
    let Some(c) = text.chars().next() else { return Err("escape sequence not terminated".to_owned()) };
    let simple = match c {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' => b'\\',
        '"' | '\'' if c == quote => c as u8,
        'x' => return digits(text, 1, 2, 16, out),
        'u' => return digits(text, 1, 4, 16, out),
        'U' => return digits(text, 1, 8, 16, out),
        '0'..='7' => return digits(text, 0, 3, 8, out),
        _ => return Err(format!("unknown escape sequence {}", code_point(c))),
    };
    out.push(simple);
    Ok(1)
}

/// `skip` letters, then `count` digits: a byte (octal and `x`) or a code point (`u`, `U`).
fn digits(text: &str, skip: usize, count: usize, base: u32, out: &mut Vec<u8>) -> Result<usize, String> {
    let mut value: u32 = 0;
    let mut found = text.chars().skip(skip);
    for _ in 0..count {
        let c = found.next().ok_or("escape sequence not terminated")?;
        let digit = c
            .to_digit(base)
            .ok_or_else(|| format!("illegal character {} in escape sequence", code_point(c)))?;
        value = value.wrapping_mul(base).wrapping_add(digit);
    }
    let invalid = || "escape sequence is an invalid Unicode code point".to_owned();
    if count <= 3 {
        out.push(u8::try_from(value).map_err(|_| invalid())?);
    } else {
        let c = char::from_u32(value).ok_or_else(invalid)?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(skip + count)
}

/// As Go's `%#U`.
fn code_point(c: char) -> String {
    format!("U+{:04X} '{c}'", c as u32)
}

/// As Go's `strconv.Quote`: double quotes, printable text as it is, the rest escaped.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        push_escaped(&mut out, c);
    }
    out.push('"');
    out
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        _ if c.is_ascii_control() => {
            let _ = write!(out, "\\x{:02x}", c as u32);
        }
        _ if is_printable(c) => out.push(c),
        _ if (c as u32) < 0x10000 => {
            let _ = write!(out, "\\u{:04x}", c as u32);
        }
        _ => {
            let _ = write!(out, "\\U{:08x}", c as u32);
        }
    }
}

/// Rust escapes the same classes in debug output that Go calls not printable, but for combining marks at
/// the start of a string.
fn is_printable(c: char) -> bool {
    let mut buffer = [b'x', 0, 0, 0, 0];
    let length = c.encode_utf8(&mut buffer[1..]).len();
    match std::str::from_utf8(&buffer[..=length]) {
        Ok(pair) => matches!(c, '\'') || pair.escape_debug().count() == 2,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests;
