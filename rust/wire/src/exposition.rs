//! The Prometheus text format, version 0.0.4, read line by line: what is wrong with one line never
//! costs its neighbours. Source: Prometheus' "Exposition formats" page, and the UTF-8 proposal for
//! quoted names.

use std::borrow::Cow;

use metricsdb_model::bounds::BODY_SAMPLES_MAX;
use metricsdb_model::{Batch, BatchSeries, Metadata, MetricType, Reason, WriteReport};

use crate::dialect;
use crate::label_text::{self, Scan, Span, Style, is_metric_name, series_end, skip_blanks, string_end};
use crate::number::{parse_millis, parse_value};

/// Parses a whole exposition. Samples without a timestamp get `default_time_ms`.
///
/// A line that cannot be read is counted as [`Reason::Malformed`] in the batch's report, the first one
/// with its number and text; lines beyond [`BODY_SAMPLES_MAX`] as [`Reason::LimitExceeded`].
pub fn parse(text: &[u8], default_time_ms: i64) -> Batch<'_> {
    let mut parser = Parser::new(text.len(), default_time_ms);
    // One pass over the whole text is faster than one per line, and nearly always enough.
    let all_utf8 = std::str::from_utf8(text).is_ok();
    let mut rest = text;
    let mut number = 0u64;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let (line, tail) = rest.split_at(end);
        rest = tail.get(1..).unwrap_or(&[]);
        number += 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let checked = if all_utf8 || std::str::from_utf8(line).is_ok() {
            parser.line(line)
        } else {
            Err((Reason::Malformed, "the line is not valid UTF-8"))
        };
        if let Err((reason, what)) = checked {
            parser.report.reject(reason, 1, || {
                let shown: String = String::from_utf8_lossy(line).chars().take(120).collect();
                format!("line {number}: {what}: {shown}")
            });
        }
    }
    parser.finish()
}

struct Parser<'a> {
    default_time_ms: i64,
    series: Vec<BatchSeries<'a>>,
    timestamps: Vec<i64>,
    values: Vec<f64>,
    metadata: Vec<Metadata>,
    report: WriteReport,
    spans: Vec<Span>,
}

type Line = Result<(), (Reason, &'static str)>;

impl<'a> Parser<'a> {
    fn new(bytes: usize, default_time_ms: i64) -> Parser<'a> {
        // A guess that suits node_exporter's lines; the vectors grow where it is too low.
        let lines = bytes / 96;
        Parser {
            default_time_ms,
            series: Vec::with_capacity(lines),
            timestamps: Vec::with_capacity(lines),
            values: Vec::with_capacity(lines),
            metadata: Vec::new(),
            report: WriteReport::default(),
            spans: Vec::new(),
        }
    }

    fn line(&mut self, line: &'a [u8]) -> Line {
        let start = skip_blanks(line, 0);
        match line.get(start) {
            None => Ok(()),
            Some(b'#') => {
                let comment = line.get(start + 1..).unwrap_or(&[]);
                self.comment(comment).map_err(|what| (Reason::Malformed, what))
            }
            Some(_) if self.timestamps.len() >= BODY_SAMPLES_MAX => {
                Err((Reason::LimitExceeded, "one body may not hold more samples"))
            }
            Some(_) => self.sample(line, start).map_err(|what| (Reason::Malformed, what)),
        }
    }

    fn sample(&mut self, line: &'a [u8], start: usize) -> Scan<()> {
        let end = series_end(line, start, Style::Tolerant, &mut self.spans)?;
        let raw = line.get(start..end).unwrap_or(&[]);
        let closed = raw.last() == Some(&b'}');
        let (value, rest) = word(line.get(end..).unwrap_or(&[]));
        if value.is_empty() {
            return Err("the value is missing");
        }
        // `up1` is a name; only a closing brace may touch the value.
        if !closed && !matches!(line.get(end), Some(b' ' | b'\t')) {
            return Err("a metric name holds a character that needs quotes");
        }
        let value = parse_value(value).ok_or("the value is not a number")?;
        let (time, rest) = word(rest);
        let timestamp = if time.is_empty() {
            self.default_time_ms
        } else {
            parse_millis(time).ok_or("the timestamp is not a whole number of milliseconds")?
        };
        if !word(rest).0.is_empty() {
            return Err("there is text behind the timestamp");
        }
        let at = self.timestamps.len() as u32;
        self.timestamps.push(timestamp);
        self.values.push(value);
        self.series.push(BatchSeries { raw: Cow::Borrowed(raw), samples: at..at + 1 });
        Ok(())
    }

    /// `HELP` and `TYPE`; any other comment is none of ours.
    fn comment(&mut self, text: &[u8]) -> Scan<()> {
        let (keyword, rest) = word(text);
        if keyword != b"HELP" && keyword != b"TYPE" {
            return Ok(());
        }
        let (metric, rest) = metric_word(rest)?;
        if keyword == b"TYPE" {
            let (kind, rest) = word(rest);
            let kind = metric_type(kind).ok_or("the metric type is unknown")?;
            if !word(rest).0.is_empty() {
                return Err("there is text behind the metric type");
            }
            self.metadata_of(metric).kind = Some(kind);
        } else {
            let at = skip_blanks(rest, 0);
            let mut help = Vec::new();
            unescape_help(rest.get(at..).unwrap_or(&[]), &mut help);
            self.metadata_of(metric).help = Some(String::from_utf8_lossy(&help).into_owned());
        }
        Ok(())
    }

    /// Both lines of one metric stand together: they become one entry.
    fn metadata_of(&mut self, metric: String) -> &mut Metadata {
        if self.metadata.last().is_none_or(|m| m.metric != metric) {
            self.metadata.push(Metadata { metric, ..Metadata::default() });
        }
        let last = self.metadata.len() - 1;
        &mut self.metadata[last]
    }

    fn finish(self) -> Batch<'a> {
        Batch {
            series: self.series,
            timestamps: self.timestamps,
            values: self.values,
            metadata: self.metadata,
            report: self.report,
            ..Batch::new(dialect::TEXT, label_text::decode_labels)
        }
    }
}

/// The next word and what follows it; an empty word at the end.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = text.get(skip_blanks(text, 0)..).unwrap_or(&[]);
    let end = text.iter().position(|&b| b == b' ' || b == b'\t').unwrap_or(text.len());
    text.split_at(end)
}

/// The metric that a comment line speaks of: bare, or any name in quotes.
fn metric_word(text: &[u8]) -> Scan<(String, &[u8])> {
    let text = text.get(skip_blanks(text, 0)..).unwrap_or(&[]);
    if text.first() == Some(&b'"') {
        let (quoted, rest) = text.split_at(string_end(text, 0)?);
        let mut name = Vec::new();
        label_text::unescape(quoted.get(1..quoted.len() - 1).unwrap_or(&[]), &mut name);
        if name.is_empty() {
            return Err("the metric name is empty");
        }
        return Ok((String::from_utf8_lossy(&name).into_owned(), rest));
    }
    let (name, rest) = word(text);
    if is_metric_name(name) {
        Ok((String::from_utf8_lossy(name).into_owned(), rest))
    } else {
        Err("the metric name is missing or not valid")
    }
}

fn metric_type(word: &[u8]) -> Option<MetricType> {
    Some(match word {
        b"counter" => MetricType::Counter,
        b"gauge" => MetricType::Gauge,
        b"histogram" => MetricType::Histogram,
        b"summary" => MetricType::Summary,
        b"untyped" | b"unknown" => MetricType::Unknown,
        _ => return None,
    })
}

/// Help text knows `\\` and `\n` alone; a quote needs no escape in it.
fn unescape_help(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (before, escape) = rest.split_at(at);
        out.extend_from_slice(before);
        let (replacement, used): (u8, usize) = match escape.get(1) {
            Some(b'n') => (b'\n', 2),
            Some(b'\\') => (b'\\', 2),
            _ => (b'\\', 1),
        };
        out.push(replacement);
        rest = escape.get(used..).unwrap_or(&[]);
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests;
