//! One StatsD line, its dialects included: `name:1|c|@0.1`, `name:1:2:3|h|#tag:value`, and the older way
//! to put several events into one line, `name:1|c:2|ms`.

use metricsdb_model::bounds::LABELS_PER_SERIES_MAX;
use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{LabelsBuilder, Reason};

use crate::label_text::{is_name_byte, is_name_start};
use crate::number::parse_real;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    /// Milliseconds.
    Timing,
    Histogram,
    Set,
}

#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    pub name: &'a [u8],
    pub kind: Kind,
    /// As it was sent: what a set collects.
    pub text: &'a [u8],
    /// 0 for sets.
    pub value: f64,
    /// The value of a gauge had a sign.
    pub relative: bool,
    /// Share of events that were sent, above 0 and up to 1.
    pub rate: f64,
    tags: &'a [u8],
}

pub type Read<T> = Result<T, (Reason, &'static str)>;

/// Hands out the events of one line.
pub struct LineReader<'a> {
    line: &'a [u8],
    started: bool,
    name: &'a [u8],
    /// Values of the segment that is being read, `:` between them.
    values: Option<&'a [u8]>,
    segment: Segment<'a>,
    /// What follows this segment: `values|type…`.
    rest: Option<&'a [u8]>,
}

#[derive(Clone, Copy)]
struct Segment<'a> {
    kind: Kind,
    rate: f64,
    tags: &'a [u8],
}

impl<'a> LineReader<'a> {
    pub fn new(line: &'a [u8]) -> LineReader<'a> {
        let segment = Segment { kind: Kind::Counter, rate: 1.0, tags: &[] };
        LineReader { line, started: false, name: &[], values: None, segment, rest: None }
    }

    /// The next event; after an error that concerns the whole line, none follow.
    pub fn next(&mut self) -> Option<Read<Event<'a>>> {
        if !self.started {
            self.started = true;
            if let Err(e) = self.start() {
                return Some(Err(e));
            }
        }
        if self.values.is_none() {
            let rest = self.rest.take()?;
            if let Err(e) = self.segment(rest) {
                return Some(Err(e));
            }
        }
        let values = self.values.take()?;
        let (text, rest) = split(values, b':');
        self.values = rest;
        Some(self.event(text))
    }

    fn start(&mut self) -> Read<()> {
        if std::str::from_utf8(self.line).is_err() {
            return Err((Reason::Malformed, "the line is not valid UTF-8"));
        }
        if self.line.starts_with(b"_e{") || self.line.starts_with(b"_sc|") {
            return Err((Reason::Unsupported, "events and service checks are not metrics"));
        }
        match split(self.line, b':') {
            (name, Some(rest)) if !name.is_empty() => {
                self.name = name;
                self.rest = Some(rest);
                Ok(())
            }
            _ => Err((Reason::Malformed, "the line is not name:value|type")),
        }
    }

    /// Reads `values|type|@rate|#tags`. A colon behind the type or the rate begins the next segment; in
    /// tags and the other fields it is text.
    fn segment(&mut self, text: &'a [u8]) -> Read<()> {
        let (values, rest) = split(text, b'|');
        let Some(rest) = rest else { return Err((Reason::Malformed, "the type is missing")) };
        let (kind, mut rest) = until_bar_or_colon(rest);
        let mut segment = Segment { kind: kind_of(kind)?, rate: 1.0, tags: &[] };
        while let Some(text) = rest.strip_prefix(b"|") {
            if let Some(text) = text.strip_prefix(b"@") {
                let (rate, after) = until_bar_or_colon(text);
                rest = after;
                segment.rate = match parse_real(rate) {
                    Some(r) if r > 0.0 && r <= 1.0 => r,
                    _ => return Err((Reason::Malformed, "the rate is not above 0 and up to 1")),
                };
                continue;
            }
            let (field, after) = text.split_at(memchr::memchr(b'|', text).unwrap_or(text.len()));
            rest = after;
            if let Some(tags) = field.strip_prefix(b"#") {
                if memchr::memchr_iter(b',', tags).count() >= LABELS_PER_SERIES_MAX {
                    return Err((Reason::InvalidLabels, "a metric has more than 256 tags"));
                }
                segment.tags = tags;
            } else if field.starts_with(b"T") {
                return Err((Reason::Unsupported, "a time of its own is not stored: events are aggregated"));
            } else if !["c:", "e:", "card:"].iter().any(|own| field.starts_with(own.as_bytes())) {
                // Those three (container, external data, cardinality) are for DogStatsD's agent alone.
                return Err((Reason::Malformed, "there is an unknown field behind the type"));
            }
        }
        self.rest = rest.strip_prefix(b":");
        self.segment = segment;
        self.values = Some(values);
        Ok(())
    }

    fn event(&self, text: &'a [u8]) -> Read<Event<'a>> {
        let Segment { kind, rate, tags } = self.segment;
        let relative = kind == Kind::Gauge && matches!(text.first(), Some(b'+' | b'-'));
        let value = match kind {
            Kind::Set if text.is_empty() => return Err((Reason::Malformed, "the value is missing")),
            Kind::Set => 0.0,
            _ => parse_real(text).ok_or((Reason::Malformed, "the value is not a finite number"))?,
        };
        if kind == Kind::Counter && value < 0.0 {
            return Err((Reason::Malformed, "a counter cannot go down"));
        }
        Ok(Event { name: self.name, kind, text, value, relative, rate, tags })
    }
}

fn kind_of(text: &[u8]) -> Read<Kind> {
    match text {
        b"c" => Ok(Kind::Counter),
        b"g" => Ok(Kind::Gauge),
        b"ms" => Ok(Kind::Timing),
        b"h" | b"d" => Ok(Kind::Histogram),
        b"s" => Ok(Kind::Set),
        _ => Err((Reason::Malformed, "the type is none of c, g, ms, h, d, s")),
    }
}

fn until_bar_or_colon(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(memchr::memchr2(b'|', b':', text).unwrap_or(text.len()))
}

/// The bytes before the first `separator`, and those behind it if there is one.
fn split(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(separator, text) {
        Some(at) => (text.get(..at).unwrap_or(&[]), text.get(at + 1..)),
        None => (text, None),
    }
}

impl Event<'_> {
    /// Adds the metric's name and its tags, made into valid names. Of tags with the same name the last
    /// one wins, as in statsd_exporter.
    pub fn labels(&self, out: &mut LabelsBuilder) {
        out.push(METRIC_NAME, &valid_name(self.name, true));
        let mut tags: Vec<&[u8]> = self.tags.split(|&b| b == b',').filter(|t| !t.is_empty()).collect();
        tags.reverse();
        for tag in tags {
            let (name, value) = split(tag, b':');
            let name = valid_name(name, false);
            if !name.is_empty() && !out.contains(&name) {
                out.push(&name, &String::from_utf8_lossy(value.unwrap_or(b"true")));
            }
        }
    }
}

/// `name` with `_` for each character that may not stand there, and before a digit at its start.
fn valid_name(name: &[u8], colons: bool) -> String {
    let text = String::from_utf8_lossy(name);
    let mut out = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        let ok = u8::try_from(c).is_ok_and(|b| is_name_byte(b) || (colons && b == b':'));
        if out.is_empty() && ok && !u8::try_from(c).is_ok_and(|b| is_name_start(b) || b == b':') {
            out.push('_');
        }
        out.push(if ok { c } else { '_' });
    }
    out
}
