//! Prometheus' HTTP API answers, written straight into bytes: no value tree, no object per sample.
//!
//! Numbers and escapes are those of Prometheus itself: samples of vectors and matrices switch to an
//! exponent below 1e-6 and from 1e21 on, scalars never do; `<`, `>` and `&` are escaped as Go does.

use metricsdb_model::{
    Annotation, Answer, AnswerKind, Histogram, Labels, Metadata, MetricType, Point, QueryStats, Result, Row,
    Severity,
};

use crate::number::{write_integer, write_json_value, write_plain, write_seconds};

/// Label sets written between two checks.
const SETS_PER_CHECK: usize = 1024;

/// Appends the whole response of a query: `{"status":"success","data":{…},"warnings":[…],"infos":[…]}`.
pub fn answer(answer: &Answer, stats: Option<&QueryStats>, out: &mut Vec<u8>) {
    // `[1700000000.123,"12345.678"],` takes about 28 bytes, a label set about 200.
    out.reserve(answer.matrix.timestamps.len() * 28 + answer.matrix.len() * 200);
    Pieces::default().next(answer, stats, usize::MAX, out);
}

/// The same response piece by piece: where the last one ended.
#[derive(Debug, Default)]
pub struct Pieces {
    state: State,
    row: usize,
    /// Samples of this row that are written, numbers before histograms; its labels stand before the first.
    sample: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    Rows,
    Done,
}

impl Pieces {
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Appends about `bytes` bytes, exceeding them by one sample or one label set; nothing once it is done.
    pub fn next(&mut self, answer: &Answer, stats: Option<&QueryStats>, bytes: usize, out: &mut Vec<u8>) {
        if self.state == State::Head {
            self.state = State::Rows;
            out.extend_from_slice(b"{\"status\":\"success\",\"data\":{\"resultType\":\"");
            out.extend_from_slice(answer.kind.as_str().as_bytes());
            out.extend_from_slice(b"\",\"result\":[");
        }
        if self.state == State::Done || !self.result(answer, bytes, out) {
            return;
        }
        self.state = State::Done;
        out.push(b']');
        if let Some(stats) = stats {
            write_stats(stats, out);
        }
        out.push(b'}');
        remarks("warnings", Severity::Warning, &answer.annotations, out);
        remarks("infos", Severity::Info, &answer.annotations, out);
        out.push(b'}');
    }

    /// What stands between the brackets of the result; says whether all of it is written.
    fn result(&mut self, answer: &Answer, bytes: usize, out: &mut Vec<u8>) -> bool {
        match answer.kind {
            AnswerKind::Scalar => scalar(answer, out),
            AnswerKind::String => string_result(answer, out),
            AnswerKind::Vector | AnswerKind::Matrix => {
                while self.row < answer.matrix.len() {
                    if out.len() >= bytes {
                        return false;
                    }
                    let row = answer.matrix.series(self.row);
                    if self.sample == 0 {
                        comma(self.row, out);
                        out.extend_from_slice(b"{\"metric\":");
                        label_object(row.labels, out);
                    }
                    let is_whole = match answer.kind {
                        AnswerKind::Vector => {
                            newest(row, out);
                            true
                        }
                        _ => self.series(row, bytes, out),
                    };
                    if is_whole {
                        out.push(b'}');
                        (self.row, self.sample) = (self.row + 1, 0);
                    }
                }
            }
        }
        true
    }

    /// Writes on in a series; says whether it is whole. Numbers and histograms apart; a list without any is left out,
    /// but for a series without samples.
    fn series(&mut self, row: Row<'_>, bytes: usize, out: &mut Vec<u8>) -> bool {
        let histograms = row.histograms().len();
        let floats = row.timestamps.len() - histograms;
        if self.sample < floats || row.timestamps.is_empty() {
            if self.sample == 0 {
                out.extend_from_slice(b",\"values\":[");
            }
            let all = row.timestamps.iter().copied().zip(row.values.iter().copied());
            let is_whole = match histograms {
                0 => self.numbers(all.skip(self.sample), floats, bytes, out),
                _ => self.numbers(row.floats().skip(self.sample), floats, bytes, out),
            };
            if !is_whole {
                return false;
            }
            out.push(b']');
        }
        if histograms == 0 {
            return true;
        }
        if self.sample == floats {
            out.extend_from_slice(b",\"histograms\":[");
        }
        for (t, h) in row.histograms().skip(self.sample - floats) {
            comma(self.sample - floats, out);
            histogram(t, h, out);
            self.sample += 1;
            if out.len() >= bytes && self.sample < row.timestamps.len() {
                return false;
            }
        }
        out.push(b']');
        true
    }

    fn numbers(
        &mut self,
        left: impl Iterator<Item = (i64, f64)>,
        count: usize,
        bytes: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        for (t, v) in left {
            comma(self.sample, out);
            sample(t, v, out);
            self.sample += 1;
            if out.len() >= bytes && self.sample < count {
                return false;
            }
        }
        true
    }
}

/// The one sample of a series in a vector.
fn newest(row: Row<'_>, out: &mut Vec<u8>) {
    match row.points().next() {
        Some((t, Point::Float(v))) => {
            out.extend_from_slice(b",\"value\":");
            sample(t, v, out);
        }
        Some((t, Point::Histogram(h))) => {
            out.extend_from_slice(b",\"histogram\":");
            histogram(t, h, out);
        }
        None => {}
    }
}

/// `,"stats":{…}` as Prometheus' `stats` parameter asks for it.
fn write_stats(stats: &QueryStats, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"stats\":{\"timings\":{");
    for (i, (name, seconds)) in stats.timings.iter().enumerate() {
        comma(i, out);
        string(name, out);
        out.push(b':');
        write_plain(out, *seconds);
    }
    out.extend_from_slice(b"},\"samples\":{");
    if !stats.per_step.is_empty() {
        out.extend_from_slice(b"\"totalQueryableSamplesPerStep\":[");
        for (i, &(t, samples)) in stats.per_step.iter().enumerate() {
            comma(i, out);
            out.push(b'[');
            write_short_seconds(out, t);
            out.push(b',');
            write_integer(out, samples as i64);
            out.push(b']');
        }
        out.extend_from_slice(b"],");
    }
    out.extend_from_slice(b"\"totalQueryableSamples\":");
    write_integer(out, stats.samples as i64);
    out.extend_from_slice(b",\"peakSamples\":");
    write_integer(out, stats.samples_peak as i64);
    out.extend_from_slice(b"}}");
}

/// `[time, {"count":…, "sum":…, "buckets":[[rule, lower, upper, count], …]}]`: buckets that hold something,
/// the rule saying which bounds belong to them (0 the upper, 1 the lower, 3 both).
fn histogram(t: i64, h: &Histogram, out: &mut Vec<u8>) {
    let quoted = |number: f64, out: &mut Vec<u8>| {
        out.push(b'"');
        write_json_value(out, number);
        out.push(b'"');
    };
    out.push(b'[');
    write_seconds(out, t);
    out.extend_from_slice(b",{\"count\":");
    quoted(h.count(), out);
    out.extend_from_slice(b",\"sum\":");
    quoted(h.sum, out);
    let edge = h.layout.zero_threshold;
    let mut any = false;
    for mut bucket in h.filled_buckets() {
        // Neighbours of the zero bucket end where it begins.
        if bucket.upper < 0.0 && bucket.upper > -edge {
            bucket.upper = -edge;
        }
        if bucket.lower > 0.0 && bucket.lower < edge {
            bucket.lower = edge;
        }
        out.extend_from_slice(if any { b"," } else { b",\"buckets\":[" });
        any = true;
        let rule = match (bucket.lower_inclusive, bucket.upper_inclusive) {
            (false, true) => b'0',
            (true, false) => b'1',
            (false, false) => b'2',
            (true, true) => b'3',
        };
        out.extend_from_slice(&[b'[', rule]);
        for number in [bucket.lower, bucket.upper, bucket.count] {
            out.push(b',');
            quoted(number, out);
        }
        out.push(b']');
    }
    out.extend_from_slice(if any { b"]}]" } else { b"}]" });
}

fn sample(t: i64, v: f64, out: &mut Vec<u8>) {
    out.push(b'[');
    write_seconds(out, t);
    out.extend_from_slice(b",\"");
    write_json_value(out, v);
    out.extend_from_slice(b"\"]");
}

fn scalar(answer: &Answer, out: &mut Vec<u8>) {
    let t = answer.matrix.timestamps.first().copied().unwrap_or(0);
    write_short_seconds(out, t);
    out.extend_from_slice(b",\"");
    write_plain(out, answer.matrix.values.first().copied().unwrap_or(f64::NAN));
    out.push(b'"');
}

fn string_result(answer: &Answer, out: &mut Vec<u8>) {
    write_short_seconds(out, answer.matrix.timestamps.first().copied().unwrap_or(0));
    out.push(b',');
    string(answer.string.as_deref().unwrap_or(""), out);
}

/// Scalars and strings have their time without trailing zeros.
fn write_short_seconds(out: &mut Vec<u8>, ms: i64) {
    write_seconds(out, ms);
    if ms % 1000 != 0 {
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

fn remarks(key: &str, severity: Severity, annotations: &[Annotation], out: &mut Vec<u8>) {
    let mut of = annotations.iter().filter(|a| a.severity == severity).peekable();
    if of.peek().is_none() {
        return;
    }
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
    list(of.map(|a| a.message.as_str()), out);
}

/// Appends the response of `/api/v1/series`; `check` sees it now and then, and may end it.
pub fn label_sets<'a>(
    sets: impl IntoIterator<Item = &'a Labels>,
    out: &mut Vec<u8>,
    check: impl Fn(&Vec<u8>) -> Result<()>,
) -> Result<()> {
    out.extend_from_slice(b"{\"status\":\"success\",\"data\":[");
    for (i, labels) in sets.into_iter().enumerate() {
        if i % SETS_PER_CHECK == 0 {
            check(out)?;
        }
        comma(i, out);
        label_object(labels, out);
    }
    out.extend_from_slice(b"]}");
    Ok(())
}

/// Appends the response of `/api/v1/labels` and `/api/v1/label/<name>/values`.
pub fn strings<'a>(values: impl IntoIterator<Item = &'a str>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"status\":\"success\",\"data\":");
    list(values, out);
    out.push(b'}');
}

/// Appends the response of `/api/v1/metadata`; entries of one metric stand together.
pub fn metadata<'a>(entries: impl IntoIterator<Item = &'a Metadata>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"status\":\"success\",\"data\":{");
    let mut last: Option<&str> = None;
    for entry in entries {
        match last {
            Some(metric) if metric == entry.metric => out.push(b','),
            _ => {
                if last.is_some() {
                    out.extend_from_slice(b"],");
                }
                string(&entry.metric, out);
                out.extend_from_slice(b":[");
            }
        }
        last = Some(&entry.metric);
        out.extend_from_slice(b"{\"type\":");
        string(entry.kind.unwrap_or(MetricType::Unknown).as_str(), out);
        out.extend_from_slice(b",\"help\":");
        string(entry.help.as_deref().unwrap_or(""), out);
        out.extend_from_slice(b",\"unit\":");
        string(entry.unit.as_deref().unwrap_or(""), out);
        out.push(b'}');
    }
    out.extend_from_slice(if last.is_some() { b"]}}" } else { b"}}" });
}

/// Appends an error response; `kind` is Prometheus' error type (`bad_data`, `execution`, `timeout`, …).
pub fn error(kind: &str, message: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"status\":\"error\",\"errorType\":");
    string(kind, out);
    out.extend_from_slice(b",\"error\":");
    string(message, out);
    out.push(b'}');
}

fn list<'a>(values: impl IntoIterator<Item = &'a str>, out: &mut Vec<u8>) {
    out.push(b'[');
    for (i, v) in values.into_iter().enumerate() {
        comma(i, out);
        string(v, out);
    }
    out.push(b']');
}

/// Appends a label set as a JSON object.
pub fn label_object(labels: &Labels, out: &mut Vec<u8>) {
    out.push(b'{');
    for (i, (name, value)) in labels.iter().enumerate() {
        comma(i, out);
        string(name, out);
        out.push(b':');
        string(value, out);
    }
    out.push(b'}');
}

#[inline]
fn comma(i: usize, out: &mut Vec<u8>) {
    if i > 0 {
        out.push(b',');
    }
}

/// Appends a JSON string.
pub fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut done = 0;
    for (i, &b) in bytes.iter().enumerate() {
        // 0xE2 begins the two line separators that Go escapes for JavaScript's sake.
        if b >= 0x20 && !matches!(b, b'"' | b'\\' | b'<' | b'>' | b'&' | 0xE2) {
            continue;
        }
        let (escape, used): (&[u8], usize) = match b {
            b'"' => (b"\\\"", 1),
            b'\\' => (b"\\\\", 1),
            b'\n' => (b"\\n", 1),
            b'\r' => (b"\\r", 1),
            b'\t' => (b"\\t", 1),
            0xE2 => match bytes.get(i..i + 3) {
                Some([_, 0x80, 0xA8]) => (b"\\u2028", 3),
                Some([_, 0x80, 0xA9]) => (b"\\u2029", 3),
                _ => continue,
            },
            _ => (b"", 1),
        };
        out.extend_from_slice(bytes.get(done..i).unwrap_or(&[]));
        if escape.is_empty() {
            let hex = |n: u8| b"0123456789abcdef".get(usize::from(n)).copied().unwrap_or(b'0');
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(b >> 4), hex(b & 15)]);
        } else {
            out.extend_from_slice(escape);
        }
        done = i + used;
    }
    out.extend_from_slice(bytes.get(done..).unwrap_or(&[]));
    out.push(b'"');
}

#[cfg(test)]
mod tests;
