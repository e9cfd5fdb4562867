//! One sample line: `name{labels} value [timestamp] [# {labels} value [timestamp]]`, single blanks.

use xxhash_rust::xxh3::xxh3_64;

use super::{Judged, Refusal, refuse};
use crate::label_text::{Span, Style, block_end, metric_name_end, no_duplicate, series_end, unescape};
use crate::number::{parse_real, parse_value};

/// Characters that the labels of one exemplar may have, names and values together.
const EXEMPLAR_CHARACTERS_MAX: usize = 128;

#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The whole series as it was written.
    pub raw: &'a [u8],
    pub name: &'a [u8],
    pub value: f64,
    /// Seconds.
    pub time: Option<f64>,
    /// The value of the exemplar.
    pub exemplar: Option<f64>,
    line: &'a [u8],
}

/// Reads lines, and keeps the spans of the last one's labels.
#[derive(Default)]
pub struct SampleReader {
    labels: Vec<Span>,
    exemplar: Vec<Span>,
}

impl SampleReader {
    pub fn read<'a>(&mut self, line: &'a [u8]) -> Judged<Sample<'a>> {
        const LABELS: &str = "write name{label=\"value\",label=\"value\"} without blanks";
        let end = series_end(line, 0, Style::Strict, &mut self.labels)
            .map_err(|what| Refusal { what, remedy: LABELS })?;
        let mut fields = Fields { rest: line.get(end..).unwrap_or(&[]) };
        let value = fields.next().and_then(parse_value);
        let Some(value) = value else {
            return refuse("the value is missing or not a number", "write one blank and a decimal number");
        };
        let mut time = None;
        if fields.next_is_field() {
            time = fields.next().and_then(parse_real);
            if time.is_none() {
                return refuse("the timestamp is not a number", "write Unix seconds");
            }
        }
        let exemplar = match fields.rest.len() {
            0 => None,
            left => Some(self.exemplar(line, line.len() - left)?),
        };
        Ok(Sample {
            raw: line.get(..end).unwrap_or(&[]),
            name: line.get(..metric_name_end(line, 0).unwrap_or(0)).unwrap_or(&[]),
            value,
            time,
            exemplar,
            line,
        })
    }

    fn exemplar(&mut self, line: &[u8], at: usize) -> Judged<f64> {
        const FORM: &str = "write value # {label=\"value\"} number, and perhaps a timestamp";
        let wrong = |what| Refusal { what, remedy: FORM };
        if !line.get(at..).is_some_and(|rest| rest.starts_with(b" # {")) {
            return Err(wrong("there is text behind the sample that is no exemplar"));
        }
        self.exemplar.clear();
        let (end, _) = block_end(line, at + 3, Style::Strict, &mut self.exemplar).map_err(wrong)?;
        no_duplicate(line, &self.exemplar).map_err(wrong)?;
        let mut fields = Fields { rest: line.get(end..).unwrap_or(&[]) };
        let Some(value) = fields.next().and_then(parse_value) else {
            return Err(wrong("the value of the exemplar is missing or not a number"));
        };
        if !fields.rest.is_empty()
            && (fields.next().and_then(parse_real).is_none() || !fields.rest.is_empty())
        {
            return Err(wrong("the timestamp of the exemplar is not a number"));
        }
        let mut characters = 0;
        for span in &self.exemplar {
            characters += count_characters(line, span.name) + count_characters(line, span.value);
        }
        if characters > EXEMPLAR_CHARACTERS_MAX {
            return refuse("the labels of the exemplar have more than 128 characters", "shorten them");
        }
        Ok(value)
    }

    /// The text of a label of `sample`, which must be the last line that was read.
    pub fn label<'a>(&self, sample: &Sample<'a>, name: &[u8]) -> Option<&'a [u8]> {
        let span = self.labels.iter().find(|s| sample.line.get(s.name.0..s.name.1) == Some(name))?;
        sample.line.get(span.value.0..span.value.1)
    }

    /// Hashes of the label set without the label `except`, and with it. The order of labels does not
    /// matter, and an empty label is the same as none.
    pub fn labels_hash(&self, sample: &Sample, except: Option<&[u8]>) -> (u64, u64) {
        let mut kept = 0u64;
        let mut excepted = 0u64;
        for span in &self.labels {
            if span.value.0 == span.value.1 {
                continue;
            }
            // From the name to the end of the value: `name="value`.
            let text = sample.line.get(span.name.0..span.value.1).unwrap_or(&[]);
            let hash = if memchr::memchr(b'\\', text).is_some() {
                let mut plain = Vec::new();
                unescape(text, &mut plain);
                xxh3_64(&plain)
            } else {
                xxh3_64(text)
            };
            if except.is_some() && sample.line.get(span.name.0..span.name.1) == except {
                excepted = hash;
            } else {
                kept = kept.wrapping_add(hash);
            }
        }
        (kept, kept.wrapping_add(excepted))
    }
}

fn count_characters(line: &[u8], span: (usize, usize)) -> usize {
    let mut text = Vec::new();
    unescape(line.get(span.0..span.1).unwrap_or(&[]), &mut text);
    String::from_utf8_lossy(&text).chars().count()
}

/// What follows the labels: fields, each after exactly one blank.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let field = self.rest.strip_prefix(b" ")?;
        let end = field.iter().position(|&b| b == b' ').unwrap_or(field.len());
        let (field, rest) = field.split_at(end);
        self.rest = rest;
        Some(field)
    }

    /// False at the end of the line and where an exemplar begins.
    fn next_is_field(&self) -> bool {
        !self.rest.is_empty() && !self.rest.starts_with(b" #")
    }
}
