//! Label sets as results and messages show them.

use std::cmp::Ordering;

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Grouping, Labels};

/// Without the labels that describe the metric itself: an operation that changes what a number means
/// drops them.
pub(crate) fn drop_metadata(labels: &Labels) -> Labels {
    // Names are in order: behind one that begins with a small letter there is none of these.
    if labels.as_ref().canonical().first().is_none_or(|&first| first > b'_') {
        return labels.clone();
    }
    labels.retain(|name| name != METRIC_NAME && name != "__type__" && name != "__unit__")
}

/// What PromQL means by a grouping: `without` and `ignoring` leave the metric name out as well.
pub(crate) fn meant(grouping: &Grouping) -> Grouping {
    let mut grouping = grouping.clone();
    if let Grouping::Without(names) = &mut grouping {
        names.push(METRIC_NAME.to_owned());
    }
    grouping
}

/// `{a="b", c="d"}`, the metric name as an ordinary label: so Prometheus' errors write label sets.
pub(crate) fn label_text(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(n, v)| format!("{n}={v:?}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

/// Orders text with numbers in it as people do: `a9` before `a10`.
pub(crate) fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    while !a.is_empty() && !b.is_empty() {
        let (left, right) = (chunk(a), chunk(b));
        let order = match (left.parse::<u64>(), right.parse::<u64>()) {
            (Ok(x), Ok(y)) => x.cmp(&y),
            _ => left.cmp(right),
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (&a[left.len()..], &b[right.len()..]);
    }
    a.len().cmp(&b.len())
}

/// The leading run of digits, or of anything else.
fn chunk(text: &str) -> &str {
    let digit = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_text_order_by_size() {
        let mut names = vec!["cpu10", "cpu9", "cpu", "cpu1a", "cpu1", "10", "9"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["9", "10", "cpu", "cpu1", "cpu1a", "cpu9", "cpu10"]);
    }
}
