//! A series as text: `name{label="value",…}` or `{"any name",label="value"}`, where it ends in a line,
//! what is wrong with it, and which labels it stands for.
//!
//! Both text formats share this; they differ in which liberties they allow ([`Style`]).

use metricsdb_model::bounds::LABELS_PER_SERIES_MAX;
use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{LabelError, LabelsBuilder};

/// What a format allows beyond `name{a="1",b="2"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Prometheus text 0.0.4: blanks, a trailing comma, quoted names.
    Tolerant,
    /// OpenMetrics 1.0: nothing.
    Strict,
}

/// What a scan found, or what is wrong with the line.
pub type Scan<T> = Result<T, &'static str>;

/// Where some text stands in a line.
pub type Place = (usize, usize);

/// One label while a line is scanned: where its name and its value stand (quotes excluded).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub name: Place,
    pub value: Place,
}

/// A byte that a bare name may begin with; metric names also with a colon.
#[inline]
pub fn is_name_start(b: u8) -> bool {
    b.is_ascii_alphabetic() || b == b'_'
}

/// A byte that may follow in a bare name; in metric names also a colon.
#[inline]
pub fn is_name_byte(b: u8) -> bool {
    NAME_BYTES[b as usize]
}

/// One load a byte instead of three comparisons: names are half of an exposition.
const NAME_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = (b as u8).is_ascii_alphanumeric() || b as u8 == b'_';
        b += 1;
    }
    table
};

/// `[a-zA-Z_:][a-zA-Z0-9_:]*`
pub fn is_metric_name(name: &[u8]) -> bool {
    metric_name_end(name, 0).is_some_and(|end| end == name.len())
}

/// `[a-zA-Z_][a-zA-Z0-9_]*`
pub fn is_label_name(name: &[u8]) -> bool {
    matches!(name, [first, rest @ ..] if is_name_start(*first) && rest.iter().all(|&b| is_name_byte(b)))
}

/// Where a bare metric name that starts at `at` ends; `None` if none starts there.
#[inline]
pub fn metric_name_end(line: &[u8], at: usize) -> Option<usize> {
    let name = line.get(at..)?;
    let first = *name.first()?;
    if !is_name_start(first) && first != b':' {
        return None;
    }
    let length = name.iter().position(|&b| !is_name_byte(b) && b != b':').unwrap_or(name.len());
    Some(at + length)
}

/// Past the blanks and tabs that stand at `at`.
pub fn skip_blanks(line: &[u8], mut at: usize) -> usize {
    while matches!(line.get(at), Some(b' ' | b'\t')) {
        at += 1;
    }
    at
}

/// Past the closing quote of a string whose opening quote is at `at`.
#[inline]
pub fn string_end(line: &[u8], at: usize) -> Scan<usize> {
    if line.get(at) != Some(&b'"') {
        return Err("a label value is not in double quotes");
    }
    let mut i = at + 1;
    while let Some(next) = line.get(i..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        i += next;
        if line.get(i) == Some(&b'"') {
            return Ok(i + 1);
        }
        i += 2;
    }
    Err("a quoted string has no end")
}

/// Finds the end of the series that starts at `at`, checks its syntax and that no label occurs twice.
/// `labels` is a buffer for that; afterwards it holds the spans of the labels between the braces (the
/// quoted metric name is not among them).
pub fn series_end(line: &[u8], at: usize, style: Style, labels: &mut Vec<Span>) -> Scan<usize> {
    labels.clear();
    let name_end = metric_name_end(line, at);
    let mut i = name_end.unwrap_or(at);
    if style == Style::Tolerant {
        i = skip_blanks(line, i);
    }
    if line.get(i) != Some(&b'{') {
        return name_end.ok_or("a metric name must start the line");
    }
    let (end, quoted) = block_end(line, i, style, labels)?;
    match (name_end, quoted) {
        (Some(_), Some(_)) => return Err("a metric has two names"),
        (None, None) => return Err("a metric has no name"),
        _ => (),
    }
    no_duplicate(line, labels)?;
    Ok(end)
}

/// Scans `{…}` from its opening brace: past its end, and the metric name if one stood there in quotes.
pub fn block_end(
    line: &[u8],
    at: usize,
    style: Style,
    labels: &mut Vec<Span>,
) -> Scan<(usize, Option<Place>)> {
    let blanks = |i| if style == Style::Tolerant { skip_blanks(line, i) } else { i };
    let mut metric = None;
    let mut i = blanks(at + 1);
    if line.get(i) == Some(&b'}') {
        return Ok((i + 1, None));
    }
    loop {
        let start = i;
        let quoted = style == Style::Tolerant && line.get(i) == Some(&b'"');
        let name = if quoted {
            i = string_end(line, i)?;
            (start + 1, i - 1)
        } else {
            i = label_name_end(line, i)?;
            (start, i)
        };
        if name.0 == name.1 {
            return Err("a name between quotes is empty");
        }
        i = blanks(i);
        if line.get(i) == Some(&b'=') {
            i = blanks(i + 1);
            let open = i;
            i = string_end(line, i)?;
            // Beyond this the store refuses the series anyway, and looking for doubles would get slow.
            if labels.len() >= LABELS_PER_SERIES_MAX {
                return Err("a series has more than 256 labels");
            }
            labels.push(Span { name, value: (open + 1, i - 1) });
        } else if quoted && metric.is_none() {
            metric = Some(name);
        } else {
            return Err("a label name is not followed by =");
        }
        i = blanks(i);
        match line.get(i) {
            Some(b'}') => return Ok((i + 1, metric)),
            Some(b',') => i = blanks(i + 1),
            None => return Err("the label block has no end"),
            Some(_) => return Err("a label is not followed by a comma or a closing brace"),
        }
        if style == Style::Tolerant && line.get(i) == Some(&b'}') {
            return Ok((i + 1, metric));
        }
    }
}

fn label_name_end(line: &[u8], at: usize) -> Scan<usize> {
    let name = line.get(at..).unwrap_or(&[]);
    match name.first() {
        Some(&b) if is_name_start(b) => {
            Ok(at + name.iter().position(|&b| !is_name_byte(b)).unwrap_or(name.len()))
        }
        Some(_) => Err("a label name must start with a letter or an underscore"),
        None => Err("the label block has no end"),
    }
}

/// Fails if a name occurs twice.
pub fn no_duplicate(line: &[u8], labels: &[Span]) -> Scan<()> {
    // Names seldom agree in their length and last byte: one bit each tells most sets apart at once.
    let mut seen = 0u64;
    let name = |s: &Span| line.get(s.name.0..s.name.1).unwrap_or(&[]);
    for (i, span) in labels.iter().enumerate() {
        let n = name(span);
        let bit = 1u64 << ((n.len() * 7 + usize::from(n.last().copied().unwrap_or(0)) * 5) & 63);
        if seen & bit != 0 && labels.iter().take(i).any(|other| name(other) == n) {
            return Err("a label occurs twice");
        }
        seen |= bit;
    }
    Ok(())
}

/// Appends `text` with its escapes resolved: `\\`, `\"` and `\n`; any other backslash stands for itself.
pub fn unescape(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (before, escape) = rest.split_at(at);
        out.extend_from_slice(before);
        let (replacement, used): (&[u8], usize) = match escape.get(1) {
            Some(b'n') => (b"\n", 2),
            Some(b'\\') => (b"\\", 2),
            Some(b'"') => (b"\"", 2),
            _ => (b"\\", 1),
        };
        out.extend_from_slice(replacement);
        rest = escape.get(used..).unwrap_or(&[]);
    }
    out.extend_from_slice(rest);
}

/// Decodes a series that [`series_end`] found, as `Batch::decode` of the text dialect.
pub fn decode_labels(raw: &[u8], out: &mut LabelsBuilder) -> Result<(), LabelError> {
    let malformed = |what: &str| LabelError::Malformed(format!("{what}: {}", String::from_utf8_lossy(raw)));
    let (mut name, mut value) = (Vec::new(), Vec::new());
    let name_end = metric_name_end(raw, 0).unwrap_or(0);
    if name_end > 0 {
        out.push_bytes(METRIC_NAME.as_bytes(), raw.get(..name_end).unwrap_or(&[]))?;
    }
    let open = skip_blanks(raw, name_end);
    if open == raw.len() {
        return Ok(());
    }
    let mut labels = Vec::new();
    let (_, quoted) = block_end(raw, open, Style::Tolerant, &mut labels).map_err(malformed)?;
    if let Some((start, end)) = quoted {
        unescape(raw.get(start..end).unwrap_or(&[]), &mut value);
        out.push_bytes(METRIC_NAME.as_bytes(), &value)?;
    }
    for span in &labels {
        name.clear();
        value.clear();
        unescape(raw.get(span.name.0..span.name.1).unwrap_or(&[]), &mut name);
        unescape(raw.get(span.value.0..span.value.1).unwrap_or(&[]), &mut value);
        out.push_bytes(&name, &value)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use metricsdb_model::Labels;

    fn read(line: &str, style: Style) -> Result<(Labels, String), String> {
        let end = series_end(line.as_bytes(), 0, style, &mut Vec::new())?;
        let mut b = LabelsBuilder::default();
        decode_labels(&line.as_bytes()[..end], &mut b).map_err(|e| e.to_string())?;
        Ok((b.finish().map_err(|e| e.to_string())?, line[end..].to_owned()))
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_pairs(pairs.iter().copied()).unwrap()
    }

    #[test]
    fn series_are_found_and_decoded() {
        for (text, pairs) in [
            ("up", &[("__name__", "up")][..]),
            ("a:b{}", &[("__name__", "a:b")]),
            (r#"a{b="1",c="x\"}\n\\\z"}"#, &[("__name__", "a"), ("b", "1"), ("c", "x\"}\n\\\\z")]),
            (r#"a { b = "1" , c="2", }"#, &[("__name__", "a"), ("b", "1"), ("c", "2")]),
            (r#"{"my.metric",a="b"}"#, &[("__name__", "my.metric"), ("a", "b")]),
            (r#"{a="b","é\"x"}"#, &[("__name__", "é\"x"), ("a", "b")]),
            (r#"{"a","a b"="a"}"#, &[("__name__", "a"), ("a b", "a")]),
        ] {
            let line = format!("{text} 1");
            assert_eq!(read(&line, Style::Tolerant), Ok((labels(pairs), " 1".into())), "{text}");
        }
    }

    #[test]
    fn a_strict_reader_takes_none_of_the_liberties() {
        for text in [r#"a {b="1"}"#, r#"a{b="1",}"#, r#"a{ b="1"}"#, r#"{"a"}"#, r#"a{"b"="1"}"#] {
            assert!(read(text, Style::Tolerant).is_ok_and(|(_, rest)| rest.is_empty()), "{text}");
            assert!(!read(text, Style::Strict).is_ok_and(|(_, rest)| rest.is_empty()), "{text}");
        }
    }

    #[test]
    fn a_series_of_too_many_labels_is_refused() {
        let with = |n: usize| {
            format!("a{{{}}}", (0..n).map(|i| format!("l{i}=\"1\"")).collect::<Vec<_>>().join(","))
        };
        assert!(read(&with(LABELS_PER_SERIES_MAX), Style::Strict).is_ok());
        assert!(read(&with(LABELS_PER_SERIES_MAX + 1), Style::Strict).is_err());
    }

    #[test]
    fn broken_series_are_refused() {
        for text in [
            "",
            "0a",
            r#"a{b}"#,
            r#"a{b=}"#,
            r#"a{b=1}"#,
            r#"a{b="1}"#,
            r#"a{b="1"c="2"}"#,
            r#"a{,}"#,
            r#"a{b="1",,}"#,
            r#"a{b="1",b="2"}"#,
            r#"a{"b"}"#,
            r#"{"a","b"}"#,
            r#"{a="1"}"#,
            r#"{""}"#,
            r#"a{=""}"#,
            r#"a{"="1"}"#,
            "a{",
            r#"a{b="\"#,
            r#"a{é="1"}"#,
        ] {
            assert!(read(text, Style::Tolerant).is_err(), "{text}");
            assert!(read(text, Style::Strict).is_err(), "{text}");
        }
    }
}
