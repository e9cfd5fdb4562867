//! Prometheus' HTTP API answers, written straight into bytes: no value tree, no object per sample.
//!
//! Numbers and escapes are those of Prometheus itself: samples of vectors and matrices switch to an
//! exponent below 1e-6 and from 1e21 on, scalars never do; `<`, `>` and `&` are escaped as Go does.

use metricsdb_model::{
    Annotation, Answer, AnswerKind, Histogram, Labels, Metadata, MetricType, Point, Row, Severity,
};

use crate::number::{write_json_value, write_plain, write_seconds};

/// Appends the whole response of a query: `{"status":"success","data":{…},"warnings":[…],"infos":[…]}`.
pub fn answer(answer: &Answer, out: &mut Vec<u8>) {
    // `[1700000000.123,"12345.678"],` takes about 28 bytes, a label set about 200.
    out.reserve(answer.matrix.timestamps.len() * 28 + answer.matrix.len() * 200);
    out.extend_from_slice(b"{\"status\":\"success\",\"data\":{\"resultType\":\"");
    out.extend_from_slice(answer.kind.as_str().as_bytes());
    out.extend_from_slice(b"\",\"result\":");
    match answer.kind {
        AnswerKind::Scalar => scalar(answer, out),
        AnswerKind::String => string_result(answer, out),
        AnswerKind::Vector => rows(answer, out, |row, out| {
            if let Some((t, point)) = row.points().next() {
                match point {
                    Point::Float(v) => {
                        out.extend_from_slice(b",\"value\":");
                        sample(t, v, out);
                    }
                    Point::Histogram(h) => {
                        out.extend_from_slice(b",\"histogram\":");
                        histogram(t, h, out);
                    }
                }
            }
        }),
        AnswerKind::Matrix => rows(answer, out, series),
    }
    out.push(b'}');
    remarks("warnings", Severity::Warning, &answer.annotations, out);
    remarks("infos", Severity::Info, &answer.annotations, out);
    out.push(b'}');
}

fn rows(answer: &Answer, out: &mut Vec<u8>, samples: impl Fn(Row<'_>, &mut Vec<u8>)) {
    out.push(b'[');
    for (i, row) in answer.matrix.all_series().enumerate() {
        comma(i, out);
        out.extend_from_slice(b"{\"metric\":");
        label_object(row.labels, out);
        samples(row, out);
        out.push(b'}');
    }
    out.push(b']');
}

/// Numbers and histograms apart; a list without any is left out, but for a series without samples.
fn series(row: Row<'_>, out: &mut Vec<u8>) {
    let histograms = row.histograms();
    if histograms.len() < row.timestamps.len() || row.timestamps.is_empty() {
        out.extend_from_slice(b",\"values\":[");
        for (i, (t, v)) in row.floats().enumerate() {
            comma(i, out);
            sample(t, v, out);
        }
        out.push(b']');
    }
    if histograms.len() > 0 {
        out.extend_from_slice(b",\"histograms\":[");
        for (i, (t, h)) in histograms.enumerate() {
            comma(i, out);
            histogram(t, h, out);
        }
        out.push(b']');
    }
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
    out.push(b'[');
    let t = answer.matrix.timestamps.first().copied().unwrap_or(0);
    write_short_seconds(out, t);
    out.extend_from_slice(b",\"");
    write_plain(out, answer.matrix.values.first().copied().unwrap_or(f64::NAN));
    out.extend_from_slice(b"\"]");
}

fn string_result(answer: &Answer, out: &mut Vec<u8>) {
    out.push(b'[');
    write_short_seconds(out, answer.matrix.timestamps.first().copied().unwrap_or(0));
    out.push(b',');
    string(answer.string.as_deref().unwrap_or(""), out);
    out.push(b']');
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

/// Appends the response of `/api/v1/series`.
pub fn label_sets<'a>(sets: impl IntoIterator<Item = &'a Labels>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"status\":\"success\",\"data\":[");
    for (i, labels) in sets.into_iter().enumerate() {
        comma(i, out);
        label_object(labels, out);
    }
    out.extend_from_slice(b"]}");
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
