//! Writes the Prometheus text format 0.0.4: `/metrics`, `/federate`, exporters; and series by their names.

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Labels, MetricType};

use crate::label_text::{is_label_name, is_metric_name};
use crate::number::{write_integer, write_plain};

/// Appends `# HELP name text`.
pub fn help_line(metric: &str, help: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"# HELP ");
    write_name(metric, is_metric_name(metric.as_bytes()), out);
    out.push(b' ');
    escape(help, false, out);
    out.push(b'\n');
}

/// Appends `# TYPE name type`. The format knows five types: info and state sets are gauges, histograms
/// of gauges and unknown metrics are untyped.
pub fn type_line(metric: &str, kind: MetricType, out: &mut Vec<u8>) {
    out.extend_from_slice(b"# TYPE ");
    write_name(metric, is_metric_name(metric.as_bytes()), out);
    out.extend_from_slice(match kind {
        MetricType::Counter => b" counter\n",
        MetricType::Gauge | MetricType::Info | MetricType::StateSet => b" gauge\n",
        MetricType::Histogram => b" histogram\n",
        MetricType::Summary => b" summary\n",
        MetricType::GaugeHistogram | MetricType::Unknown => b" untyped\n",
    });
}

/// Appends one sample with its timestamp, if it has one, in milliseconds.
pub fn sample(labels: &Labels, value: f64, timestamp_ms: Option<i64>, out: &mut Vec<u8>) {
    write_series(labels, b",", out);
    out.push(b' ');
    write_plain(out, value);
    if let Some(t) = timestamp_ms {
        out.push(b' ');
        write_integer(out, t);
    }
    out.push(b'\n');
}

/// Appends `metric{label="value", …}` as PromQL reads it, with braces even where nothing stands in them. Names that
/// are no plain identifiers stand in quotes, the metric's then inside the braces.
pub fn series(labels: &Labels, out: &mut Vec<u8>) {
    if !write_series(labels, b", ", out) {
        out.extend_from_slice(b"{}");
    }
}

/// Says whether there are braces: where nothing stands in them, there are none.
fn write_series(labels: &Labels, between: &[u8], out: &mut Vec<u8>) -> bool {
    let metric = labels.metric_name();
    let bare = is_metric_name(metric.as_bytes());
    if bare {
        out.extend_from_slice(metric.as_bytes());
    }
    let mut open = false;
    let mut next = |out: &mut Vec<u8>| {
        out.extend_from_slice(if open { between } else { b"{" });
        open = true;
    };
    if !bare && !metric.is_empty() {
        next(out);
        write_name(metric, false, out);
    }
    for (name, text) in labels.iter().filter(|(n, _)| *n != METRIC_NAME) {
        next(out);
        write_name(name, is_label_name(name.as_bytes()), out);
        out.extend_from_slice(b"=\"");
        escape(text, true, out);
        out.push(b'"');
    }
    if open {
        out.push(b'}');
    }
    open
}

fn write_name(name: &str, bare: bool, out: &mut Vec<u8>) {
    if bare {
        out.extend_from_slice(name.as_bytes());
    } else {
        out.push(b'"');
        escape(name, true, out);
        out.push(b'"');
    }
}

fn escape(text: &str, quotes: bool, out: &mut Vec<u8>) {
    for &b in text.as_bytes() {
        match b {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'"' if quotes => out.extend_from_slice(b"\\\""),
            _ => out.push(b),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_series_always_has_braces() {
        let name = |pairs: &[(&str, &str)]| {
            let mut out = Vec::new();
            series(&Labels::from_pairs(pairs.iter().copied()).unwrap(), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(name(&[]), "{}");
        assert_eq!(name(&[("__name__", "a:b")]), "a:b{}");
        assert_eq!(name(&[("__name__", "1a")]), "{\"1a\"}");
        assert_eq!(name(&[("__name__", "up"), ("a", "\""), ("b:c", "\\")]), r#"up{a="\"", "b:c"="\\"}"#);
    }

    #[test]
    fn names_that_need_quotes_get_them() {
        let mut out = Vec::new();
        type_line("my.metric", MetricType::Counter, &mut out);
        help_line("up", "a \"b\"\n\\", &mut out);
        let l = Labels::from_pairs([("__name__", "my.metric"), ("a b", "x"), ("c", "\"\n\\é")]).unwrap();
        sample(&l, 1e21, Some(-5), &mut out);
        sample(&l.retain(|n| n == "c"), f64::NAN, None, &mut out);
        sample(&Labels::from_pairs([("__name__", "up")]).unwrap(), 0.5, None, &mut out);
        let expected = "# TYPE \"my.metric\" counter\n# HELP up a \"b\"\\n\\\\\n\
            {\"my.metric\",\"a b\"=\"x\",c=\"\\\"\\n\\\\é\"} 1000000000000000000000 -5\n\
            {c=\"\\\"\\n\\\\é\"} NaN\nup 0.5\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
