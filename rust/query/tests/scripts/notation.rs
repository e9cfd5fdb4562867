//! The notation of `.test` scripts: series, values, durations, commands.

use std::iter::Peekable;
use std::str::Chars;

use metricsdb_model::Labels;
use metricsdb_query::syntax;
use metricsdb_query::syntax::tree::ExprKind;

use crate::native::{self, Written};

/// One value of a series line.
#[derive(Clone, Debug)]
pub enum Item {
    Gap,
    Float(f64),
    Histogram(Written),
}

/// `1h30m`, `90s`, `5` (seconds) in milliseconds.
pub fn duration(text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Ok((seconds * 1000.0).round() as i64);
    }
    let negative = text.starts_with('-');
    let mut rest = text.trim_start_matches('-');
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits =
            rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(format!("duration {text:?}"))?;
        let number: f64 = rest[..digits].parse().map_err(|_| format!("duration {text:?}"))?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..unit_end] {
                "ms" => 1.0,
                "s" => 1000.0,
                "m" => 60_000.0,
                "h" => 3_600_000.0,
                "d" => 86_400_000.0,
                "w" => 604_800_000.0,
                "y" => 31_536_000_000.0,
                unit => return Err(format!("unit {unit:?} in {text:?}")),
            };
        rest = &rest[unit_end..];
    }
    Ok(if negative { -total } else { total } as i64)
}

/// A series and what follows it on the line.
pub fn series(line: &str) -> Result<(Labels, &str), String> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let name_end = line.find(|c: char| c == '{' || c == '@' || c.is_whitespace()).unwrap_or(line.len());
    if name_end > 0 {
        pairs.push(("__name__".to_owned(), line[..name_end].to_owned()));
    }
    let mut rest = &line[name_end..];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside.trim_start();
        while !rest.starts_with('}') {
            let (name, after) = word(rest)?;
            rest = after.trim_start();
            if let Some(after) = rest.strip_prefix('=') {
                let (value, after) = word(after.trim_start())?;
                pairs.push((name, value));
                rest = after.trim_start();
            } else {
                pairs.push(("__name__".to_owned(), name));
            }
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        rest = &rest[1..];
    }
    let labels = Labels::from_pairs(pairs).map_err(|e| e.to_string())?;
    Ok((labels, rest.trim()))
}

/// A quoted string or a bare word.
fn word(text: &str) -> Result<(String, &str), String> {
    let quote = text.chars().next().filter(|c| "\"'`".contains(*c));
    let Some(quote) = quote else {
        let end = text
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':' || c == '.'))
            .unwrap_or(text.len());
        if end == 0 {
            return Err(format!("expected a label at {text:?}"));
        }
        return Ok((text[..end].to_owned(), &text[end..]));
    };
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        if !escaped && c == quote {
            return Ok((string(&text[..=i])?, &text[i + 1..]));
        }
        escaped = !escaped && c == '\\' && quote != '`';
    }
    Err(format!("unterminated string {text:?}"))
}

/// A string literal's text.
pub fn string(literal: &str) -> Result<String, String> {
    match syntax::parse(literal).map_err(|e| e.to_string())?.kind {
        ExprKind::String(text) => Ok(text),
        other => Err(format!("expected a string, got {other:?}")),
    }
}

/// All values of a line, repetitions written out.
pub fn values(text: &str) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = if rest.starts_with("{{") { native_end(rest)? } else { blank(rest) };
        let (item, after) = rest.split_at(end);
        value(item, &mut items).map_err(|e| format!("{e} in {text:?}"))?;
        rest = after.trim_start();
    }
    Ok(items)
}

/// The offsets of a start-timestamp line: `-1m`, `0s`, `_`, `_x3`, `-30sx2`, `-30s-1mx2`.
pub fn starts(text: &str) -> Result<Vec<Option<i64>>, String> {
    let mut offsets = Vec::new();
    for item in text.split_whitespace() {
        let (body, repeat) = match item.rsplit_once('x') {
            Some((body, count)) => (body, Some(count.parse::<usize>().map_err(|e| e.to_string())?)),
            None => (item, None),
        };
        if body == "_" {
            offsets.resize(offsets.len() + repeat.unwrap_or(1), None);
            continue;
        }
        let sign = body.get(1..).and_then(|rest| rest.find(['+', '-'])).map(|at| at + 1);
        let (first, step) = body.split_at(sign.unwrap_or(body.len()));
        let signed = |text: &str| duration(text.trim_start_matches('+'));
        let (mut offset, step) = (signed(first)?, if step.is_empty() { 0 } else { signed(step)? });
        for _ in 0..=repeat.unwrap_or(0) {
            offsets.push(Some(offset));
            offset += step;
        }
    }
    Ok(offsets)
}

fn blank(text: &str) -> usize {
    text.find(char::is_whitespace).unwrap_or(text.len())
}

/// Where `{{…}}`, `{{…}}xN` or `{{…}}+{{…}}xN` ends: blanks may stand inside the braces.
fn native_end(text: &str) -> Result<usize, String> {
    let mut end = 0;
    loop {
        let close = text[end..].find("}}").ok_or("unterminated histogram")? + end + 2;
        let more = blank(&text[close..]);
        match text[close..close + more].find("{{") {
            Some(next) => end = close + next,
            None => return Ok(close + more),
        }
    }
}

fn value(item: &str, out: &mut Vec<Item>) -> Result<(), String> {
    let (body, repeat) = match item.rsplit_once('x') {
        Some((body, count)) if !count.is_empty() && count.chars().all(|c| c.is_ascii_digit()) => {
            (body, Some(count.parse::<usize>().map_err(|e| e.to_string())?))
        }
        _ => (item, None),
    };
    if body == "_" {
        out.resize(out.len() + repeat.unwrap_or(1), Item::Gap);
        return Ok(());
    }
    let count = repeat.unwrap_or(0) + 1;
    if body.starts_with("{{") {
        let (first, rest) = histogram(body)?;
        let step = match rest.chars().next() {
            None => None,
            Some('+') => Some((1.0, histogram(&rest[1..])?.0)),
            Some('-') => Some((-1.0, histogram(&rest[1..])?.0)),
            Some(_) => return Err(format!("histogram {body:?}")),
        };
        out.extend(native::repeated(first, step, count)?);
        return Ok(());
    }
    if body == "stale" {
        out.resize(out.len() + count, Item::Float(metricsdb_model::sample::stale()));
        return Ok(());
    }
    let mut chars = body.chars().peekable();
    let mut current = number(&mut chars)?;
    let step = if chars.peek().is_some() { number(&mut chars)? } else { 0.0 };
    for i in 0..count {
        if i > 0 {
            current += step;
        }
        out.push(Item::Float(current));
    }
    Ok(())
}

/// A histogram and what follows it.
fn histogram(text: &str) -> Result<(Written, &str), String> {
    let inside = text.strip_prefix("{{").ok_or(format!("histogram {text:?}"))?;
    let (fields, rest) = inside.split_once("}}").ok_or(format!("histogram {text:?}"))?;
    Ok((native::parse(fields)?, rest))
}

/// A signed number; a sign within it ends it, but after an exponent's `e`.
fn number(chars: &mut Peekable<Chars<'_>>) -> Result<f64, String> {
    let mut text = String::new();
    while let Some(&c) = chars.peek() {
        if (c == '+' || c == '-') && !text.is_empty() && !text.ends_with(['e', 'E']) {
            break;
        }
        text.push(c);
        chars.next();
    }
    let plain = text.trim_start_matches('+');
    match plain.to_ascii_lowercase().as_str() {
        "inf" => Ok(f64::INFINITY),
        "-inf" => Ok(f64::NEG_INFINITY),
        "nan" => Ok(f64::from_bits(metricsdb_model::sample::NORMAL_NAN_BITS)),
        _ => plain.parse().map_err(|_| format!("number {text:?}")),
    }
}
