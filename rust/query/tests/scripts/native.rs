//! Native histograms in scripts: `{{key:value …}}`, and those that stand beside classic ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use metricsdb_model::{Labels, ResetHint};
use metricsdb_query::histogram::{FloatHistogram, Side};

use crate::notation::Item;

/// A histogram as it was written.
#[derive(Clone, Debug)]
pub struct Written {
    pub histogram: Arc<FloatHistogram>,
    /// Whether the reset hint was written too.
    pub hinted: bool,
}

/// The text between `{{` and `}}`.
pub fn parse(text: &str) -> Result<Written, String> {
    let mut rest = text.trim();
    let mut fields: BTreeMap<&str, &str> = BTreeMap::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once(':').ok_or(format!("histogram field {rest:?}"))?;
        let end = match after.starts_with('[') {
            true => after.find(']').ok_or("unterminated list")? + 1,
            false => after.find(char::is_whitespace).unwrap_or(after.len()),
        };
        fields.insert(key, &after[..end]);
        rest = after[end..].trim_start();
    }
    let mut number = |key: &str| fields.remove(key).map_or(Ok(0.0), self::number);
    let (schema, sum, count) = (number("schema")? as i32, number("sum")?, number("count")?);
    let (zero_count, zero_threshold) = (number("z_bucket")?, number("z_bucket_w")?);
    let (offset, negative_offset) = (number("offset")?, number("n_offset")?);
    let mut list = |key: &str| fields.remove(key).map_or(Ok(Vec::new()), self::list);
    let positive = side(offset, list("buckets")?);
    let negative = side(negative_offset, list("n_buckets")?);
    let bounds = list("custom_values")?.into();
    let hint = fields.remove("counter_reset_hint");
    let reset = match hint {
        None | Some("unknown") => ResetHint::Unknown,
        Some("reset") => ResetHint::Reset,
        Some("not_reset") => ResetHint::NotReset,
        Some("gauge") => ResetHint::Gauge,
        Some(other) => return Err(format!("reset hint {other:?}")),
    };
    if let Some(key) = fields.keys().next() {
        return Err(format!("histogram field {key:?}"));
    }
    let histogram =
        FloatHistogram { schema, reset, zero_threshold, zero_count, count, sum, positive, negative, bounds };
    Ok(Written { histogram: Arc::new(histogram), hinted: hint.is_some() })
}

fn side(offset: f64, counts: Vec<f64>) -> Side {
    let first = offset as i32;
    Side { indices: (first..first + counts.len() as i32).collect(), counts }
}

fn list(text: &str) -> Result<Vec<f64>, String> {
    let inside = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).ok_or(format!("list {text:?}"))?;
    inside.split_whitespace().map(number).collect()
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("number {text:?}"))
}

/// The same histogram with another added or, with a sign of -1, subtracted so many times: one after the other.
pub fn repeated(first: Written, step: Option<(f64, Written)>, count: usize) -> Result<Vec<Item>, String> {
    let mut items = Vec::with_capacity(count);
    let mut current = first;
    for i in 0..count {
        if let (Some((sign, step)), true) = (&step, i > 0) {
            let mut next = (*current.histogram).clone();
            let other = &step.histogram;
            let done = if *sign < 0.0 { next.sub(other) } else { next.add(other) };
            done.map_err(|_| "histograms do not add up")?;
            current.histogram = Arc::new(next);
        }
        items.push(Item::Histogram(current.clone()));
    }
    Ok(items)
}

/// A classic histogram at one time.
#[derive(Default)]
struct Classic {
    /// Cumulative counts by upper bound, ascending.
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

impl Classic {
    fn native(mut self) -> FloatHistogram {
        self.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let last = self.buckets.last().copied();
        let count = self.count.or(last.map(|(_, count)| count)).unwrap_or(0.0);
        if last.is_none_or(|(bound, _)| bound != f64::INFINITY) {
            self.buckets.push((f64::INFINITY, count));
        }
        let mut before = 0.0;
        let counts = self.buckets.iter().map(|(_, count)| {
            let inside = count - before;
            before = *count;
            inside
        });
        let positive = side(0.0, counts.collect());
        let bounds = self.buckets[..self.buckets.len() - 1].iter().map(|(bound, _)| *bound).collect();
        FloatHistogram {
            schema: -53,
            reset: ResetHint::Unknown,
            zero_threshold: 0.0,
            zero_count: 0.0,
            count,
            sum: self.sum,
            positive,
            negative: Side::default(),
            bounds,
        }
    }
}

/// The native histograms that stand beside the classic ones among these series, by labels and step.
pub fn beside_classic(series: &[(Labels, Vec<Item>)]) -> Vec<(Labels, BTreeMap<usize, FloatHistogram>)> {
    let mut found: BTreeMap<Labels, BTreeMap<usize, Classic>> = BTreeMap::new();
    for (labels, items) in series {
        let name = labels.metric_name();
        let part = ["_bucket", "_count", "_sum"].iter().find(|end| name.ends_with(**end));
        let Some(part) = part else { continue };
        let bound = labels.value("le").parse::<f64>().ok().filter(|b| !b.is_nan());
        if *part == "_bucket" && bound.is_none() {
            continue;
        }
        let of = labels.with("__name__", &name[..name.len() - part.len()]).with("le", "");
        let steps = found.entry(of).or_default();
        for (step, item) in items.iter().enumerate() {
            let Item::Float(value) = item else { continue };
            let classic = steps.entry(step).or_default();
            match *part {
                "_bucket" => classic.buckets.extend(bound.map(|bound| (bound, *value))),
                "_count" => classic.count = Some(*value),
                _ => classic.sum = *value,
            }
        }
    }
    let natives = |steps: BTreeMap<usize, Classic>| {
        steps.into_iter().map(|(step, classic)| (step, classic.native())).collect()
    };
    found.into_iter().map(|(labels, steps)| (labels, natives(steps))).collect()
}
