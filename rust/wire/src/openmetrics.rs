//! OpenMetrics text 1.0, strictly: an exposition that breaks a rule of the specification is refused as a
//! whole, with the line and what to do. Source: the OpenMetrics specification 1.0.0 (its ABNF, the rules
//! per type, and the sections on names, timestamps and exemplars).

mod family;
mod line;

use std::borrow::Cow;
use std::collections::HashSet;

use metricsdb_model::bounds::BODY_SAMPLES_MAX;
use metricsdb_model::{Batch, BatchSeries, Error, Metadata, MetricType, Reason, Result, WriteReport};

use crate::label_text::{self, is_metric_name};
use crate::number::seconds_to_millis;
use crate::{
    dialect,
    draft::within,
    openmetrics::family::{Family, Part},
    openmetrics::line::SampleReader,
};

const INPUT: &str = "OpenMetrics text";

/// What a line breaks, and how to mend it.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    what: &'static str,
    remedy: &'static str,
}

type Judged<T> = std::result::Result<T, Refusal>;

fn refuse<T>(what: &'static str, remedy: &'static str) -> Judged<T> {
    Err(Refusal { what, remedy })
}

/// Parses and judges a whole exposition. Samples without a timestamp get `default_time_ms`; timestamps
/// are seconds in the text and rounded to milliseconds. A `_created` line is the start timestamp of the counter,
/// the count, the sum and the buckets of its metric, and no series. Exemplars are counted as
/// [`Reason::Unsupported`], timestamps beyond 64-bit milliseconds as [`Reason::LimitExceeded`].
pub fn parse(text: &[u8], default_time_ms: i64) -> Result<Batch<'_>> {
    let content = without_eof(text)?;
    let mut parser = Parser::new(default_time_ms);
    let mut reader = SampleReader::default();
    let mut rest = content;
    let mut number = 0;
    while !rest.is_empty() {
        // `without_eof` leaves whole lines alone.
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let (line, tail) = rest.split_at(end);
        rest = tail.get(1..).unwrap_or(&[]);
        number += 1;
        parser.line(line, number, &mut reader).map_err(|r| error_at(number, line, r))?;
        if let Some((number, refusal)) = parser.ended.take() {
            return Err(error_at(number, line_text(content, number), refusal));
        }
        let (samples, remedy) = (parser.timestamps.len(), "send fewer samples per request");
        within("samples of a request body", BODY_SAMPLES_MAX, samples, remedy)?;
    }
    parser.end_family();
    match parser.ended.take() {
        Some((number, refusal)) => Err(error_at(number, line_text(content, number), refusal)),
        None => Ok(parser.finish()),
    }
}

fn error_at(number: usize, line: &[u8], refusal: Refusal) -> Error {
    let shown = String::from_utf8_lossy(line);
    Error::input(INPUT, &shown, format!("line {number}: {}", refusal.what), refusal.remedy)
}

fn line_text(content: &[u8], number: usize) -> &[u8] {
    content.split(|&b| b == b'\n').nth(number.saturating_sub(1)).unwrap_or(&[])
}

/// The lines before `# EOF`, which must be the last line; checks the encoding, too.
fn without_eof(text: &[u8]) -> Result<&[u8]> {
    if let Err(e) = std::str::from_utf8(text) {
        let number = text.iter().take(e.valid_up_to()).filter(|&&b| b == b'\n').count() + 1;
        let refusal = Refusal { what: "the text is not valid UTF-8", remedy: "write UTF-8" };
        return Err(error_at(number, line_text(text, number), refusal));
    }
    let lines = text.strip_suffix(b"\n").unwrap_or(text);
    match lines.strip_suffix(b"# EOF") {
        Some(content) if content.is_empty() || content.ends_with(b"\n") => Ok(content),
        _ => {
            let number = lines.iter().filter(|&&b| b == b'\n').count() + 1;
            let refusal = Refusal {
                what: "the text does not end in # EOF",
                remedy: "send the whole exposition, with # EOF as its last line and nothing behind",
            };
            Err(error_at(number, line_text(lines, number), refusal))
        }
    }
}

struct Parser<'a> {
    default_time_ms: i64,
    family: Option<Family>,
    /// Every name that a family has claimed: its own and those of its type's samples.
    claimed: HashSet<Vec<u8>>,
    /// The family that just ended breaks a rule: the line where it began, and the rule.
    ended: Option<(usize, Refusal)>,
    series: Vec<BatchSeries<'a>>,
    timestamps: Vec<i64>,
    values: Vec<f64>,
    /// Empty until the first start is found.
    starts: Vec<i64>,
    metric: Metric,
    metadata: Vec<Metadata>,
    report: WriteReport,
}

/// The metric whose lines are being read.
#[derive(Default)]
struct Metric {
    id: Option<u64>,
    /// Its samples that count since its start, by their places.
    counting: Vec<usize>,
    /// When it was created; 0 where that was not said.
    created: i64,
}

impl<'a> Parser<'a> {
    fn new(default_time_ms: i64) -> Parser<'a> {
        Parser {
            default_time_ms,
            family: None,
            claimed: HashSet::new(),
            ended: None,
            series: Vec::new(),
            timestamps: Vec::new(),
            values: Vec::new(),
            starts: Vec::new(),
            metric: Metric::default(),
            metadata: Vec::new(),
            report: WriteReport::default(),
        }
    }

    fn line(&mut self, line: &'a [u8], number: usize, reader: &mut SampleReader) -> Judged<()> {
        if line.is_empty() {
            return refuse("a line is empty", "leave it out");
        }
        if line.ends_with(b"\r") {
            return refuse("a line ends in a carriage return", "end lines with a line feed alone");
        }
        match line.strip_prefix(b"# ") {
            Some(descriptor) => self.descriptor(descriptor, number),
            None if line.starts_with(b"#") => {
                refuse("a line begins with # but describes nothing", "OpenMetrics has no comments")
            }
            None => self.sample(line, number, reader),
        }
    }

    /// `TYPE name type`, `HELP name text`, `UNIT name unit`: single blanks, and all before the samples.
    fn descriptor(&mut self, text: &[u8], number: usize) -> Judged<()> {
        const FORM: &str = "write # TYPE name type, # HELP name text or # UNIT name unit, with single blanks";
        let mut words = text.splitn(3, |&b| b == b' ');
        let (Some(keyword), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) else {
            return refuse("the line is neither a sample nor complete metadata", FORM);
        };
        if !is_metric_name(name) {
            return refuse("the metric name is not valid", "use letters, digits, _ and :, no digit first");
        }
        if !matches!(keyword, b"TYPE" | b"HELP" | b"UNIT") {
            return refuse("the line is neither a sample nor metadata", FORM);
        }
        let family = self.family_named(name, number)?;
        if family.has_samples() {
            return refuse("metadata stands behind samples of its family", "write it before them");
        }
        let about = family.about();
        const TWICE: &str = "write TYPE, HELP and UNIT of a family once each";
        match keyword {
            b"TYPE" if about.kind.is_some() => refuse("the family has two TYPE lines", TWICE),
            b"HELP" if about.help.is_some() => refuse("the family has two HELP lines", TWICE),
            b"UNIT" if about.unit.is_some() => refuse("the family has two UNIT lines", TWICE),
            b"TYPE" => match metric_type(rest) {
                Some(kind) => {
                    about.kind = Some(kind);
                    Ok(())
                }
                None => refuse(
                    "the metric type is unknown",
                    "use counter, gauge, histogram, gaugehistogram, summary, info, stateset or unknown",
                ),
            },
            b"HELP" => {
                let mut help = Vec::new();
                label_text::unescape(rest, &mut help);
                about.help = Some(String::from_utf8_lossy(&help).into_owned());
                Ok(())
            }
            _ => {
                if !rest.is_empty() && !name.strip_suffix(rest).is_some_and(|n| n.ends_with(b"_")) {
                    return refuse("the name of the family does not end in _ and its unit", "rename it");
                }
                about.unit = Some(String::from_utf8_lossy(rest).into_owned());
                Ok(())
            }
        }
    }

    fn sample(&mut self, line: &'a [u8], number: usize, reader: &mut SampleReader) -> Judged<()> {
        let sample = reader.read(line)?;
        let continues = self.family.as_ref().is_some_and(|f| f.suffix_of(sample.name).is_some());
        if !continues && self.claimed.contains(sample.name) {
            return refuse(CLASH, CLASH_REMEDY);
        }
        let family = match self.family.take() {
            Some(family) if continues => self.family.insert(family),
            family => {
                self.family = family;
                self.family_named(sample.name, number)?
            }
        };
        let part = family.take(&sample, reader)?;
        let metric = family.metric();
        if metric != self.metric.id {
            self.end_metric();
            self.metric.id = metric;
        }
        if part == Part::Created {
            self.metric.created = seconds_to_millis(sample.value).unwrap_or(0);
            return Ok(());
        }
        let timestamp = match sample.time {
            None => Some(self.default_time_ms),
            Some(seconds) => seconds_to_millis(seconds),
        };
        if sample.exemplar.is_some() {
            self.report.reject(Reason::Unsupported, 1, || "an exemplar (not stored)".into());
        }
        let Some(timestamp) = timestamp else {
            self.report.reject(Reason::LimitExceeded, 1, || {
                format!("line {number}: the timestamp does not fit into 64-bit milliseconds")
            });
            return Ok(());
        };
        if matches!(part, Part::Total | Part::Bucket | Part::Count | Part::Sum) {
            self.metric.counting.push(self.timestamps.len());
        }
        let at = self.timestamps.len() as u32;
        self.timestamps.push(timestamp);
        self.values.push(sample.value);
        self.series.push(BatchSeries { raw: Cow::Borrowed(sample.raw), samples: at..at + 1 });
        Ok(())
    }

    /// The current family if it has this very name; otherwise ends it and begins a new one.
    fn family_named(&mut self, name: &[u8], number: usize) -> Judged<&mut Family> {
        match self.family.take() {
            Some(family) if family.name() == name => Ok(self.family.insert(family)),
            family => {
                self.family = family;
                self.end_family();
                if self.claimed.contains(name) {
                    return refuse(CLASH, CLASH_REMEDY);
                }
                Ok(self.family.insert(Family::new(name, number)))
            }
        }
    }

    /// Gives the samples of the current metric the start that one of its lines named.
    fn end_metric(&mut self) {
        let Metric { counting, created, .. } = &mut self.metric;
        if *created != 0 {
            self.starts.resize(self.timestamps.len(), 0);
            for &at in counting.iter() {
                if let Some(start) = self.starts.get_mut(at) {
                    *start = *created;
                }
            }
        }
        counting.clear();
        (self.metric.id, self.metric.created) = (None, 0);
    }

    /// Judges the current family as a whole, and claims its names.
    fn end_family(&mut self) {
        self.end_metric();
        let Some(mut family) = self.family.take() else { return };
        let judged = family.end().and_then(|()| {
            let mut fresh = true;
            family.names(|name| fresh &= self.claimed.insert(name));
            if fresh { Ok(()) } else { refuse(CLASH, CLASH_REMEDY) }
        });
        if let Err(refusal) = judged {
            self.ended.get_or_insert((family.line(), refusal));
        }
        let mut about = std::mem::take(family.about());
        // An empty text counts as no line at all.
        about.help = about.help.filter(|h| !h.is_empty());
        about.unit = about.unit.filter(|u| !u.is_empty());
        if about.kind.is_some() || about.help.is_some() || about.unit.is_some() {
            self.metadata.push(about);
        }
    }

    fn finish(mut self) -> Batch<'a> {
        if !self.starts.is_empty() {
            self.starts.resize(self.timestamps.len(), 0);
        }
        Batch {
            series: self.series,
            timestamps: self.timestamps,
            values: self.values,
            starts: self.starts,
            metadata: self.metadata,
            report: self.report,
            ..Batch::new(dialect::TEXT, label_text::decode_labels)
        }
    }
}

const CLASH: &str = "the name belongs to a family that ended above";
const CLASH_REMEDY: &str =
    "keep the lines of a family together, give its samples the names of its type, and name families apart";

fn metric_type(word: &[u8]) -> Option<MetricType> {
    Some(match word {
        b"counter" => MetricType::Counter,
        b"gauge" => MetricType::Gauge,
        b"histogram" => MetricType::Histogram,
        b"gaugehistogram" => MetricType::GaugeHistogram,
        b"summary" => MetricType::Summary,
        b"info" => MetricType::Info,
        b"stateset" => MetricType::StateSet,
        b"unknown" => MetricType::Unknown,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
