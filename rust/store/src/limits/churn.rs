//! Churn: a metric that gets new series faster than its rule allows, and the label that makes them.

use std::collections::HashSet;
use std::sync::Arc;

use hashbrown::HashMap;
use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Labels, LabelsRef};

use crate::heap;

/// Parts of a window that are counted, and forgotten, apart.
const PARTS: i64 = 10;
/// New series that are looked at for the label that makes them.
const SAMPLED_MAX: usize = 64;

/// The new series of one metric.
#[derive(Default)]
struct Metric {
    /// By part of the window, the current one first.
    parts: [u64; PARTS as usize],
    sampled: Vec<Labels>,
    capped: Option<Cap>,
}

/// A metric whose new series are held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cap {
    /// The labels whose new values make the series, the one with most first.
    pub labels: Vec<String>,
    /// Milliseconds: when it was noticed.
    pub since: i64,
}

/// A row of what is capped now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Churning {
    pub metric: String,
    pub labels: Vec<String>,
    pub since: i64,
    /// New series that came in the window, those held back among them.
    pub new_series: u64,
}

/// What one rule has seen.
#[derive(Default)]
pub struct Churn {
    metrics: HashMap<Arc<str>, Metric>,
    /// The time of the last `tick`; nothing is judged before the first.
    now: Option<i64>,
}

impl Churn {
    /// Counts a new series. `Err` tells the guilty labels where it must be held back: when it brings one of them a value
    /// that `is_new`.
    pub fn admit(
        &mut self,
        labels: LabelsRef<'_>,
        new_max: u64,
        is_new: impl Fn(&str, &str) -> bool,
    ) -> Result<(), (Vec<String>, u64)> {
        let Some(now) = self.now else { return Ok(()) };
        let name = labels.metric_name();
        if !self.metrics.contains_key(name) {
            self.metrics.insert(Arc::from(name), Metric::default());
        }
        let Some(metric) = self.metrics.get_mut(name) else { return Ok(()) };
        let count = metric.count() + 1;
        if let Some(cap) = &metric.capped {
            if !cap.labels.iter().any(|name| labels.get(name).is_some_and(|value| is_new(name, value))) {
                return Ok(());
            }
            metric.parts[0] += 1;
            return Err((cap.labels.clone(), count));
        }
        metric.parts[0] += 1;
        if count > new_max / 2 && metric.sampled.len() < SAMPLED_MAX {
            metric.sampled.push(labels.to_owned());
        }
        if count <= new_max {
            return Ok(());
        }
        let guilty = guilty(&metric.sampled);
        metric.sampled = Vec::new();
        if guilty.is_empty() {
            return Ok(());
        }
        metric.capped = Some(Cap { labels: guilty.clone(), since: now });
        Err((guilty, count))
    }

    /// Lets the window go on to `now`; caps of metrics that have become quiet end.
    pub fn tick(&mut self, now: i64, window_ms: i64, new_max: u64) {
        let part = (window_ms / PARTS).max(1);
        let before = self.now.replace(now).unwrap_or(now);
        let passed = (now.div_euclid(part) - before.div_euclid(part)).clamp(0, PARTS) as usize;
        self.metrics.retain(|_, metric| {
            metric.parts.rotate_right(passed % PARTS as usize);
            metric.parts.iter_mut().take(passed).for_each(|count| *count = 0);
            let count = metric.count();
            if count <= new_max {
                metric.capped = None;
            }
            if count <= new_max / 2 {
                metric.sampled.clear();
            }
            count > 0
        });
    }

    /// The metrics that are capped now, by name.
    pub fn capped(&self) -> Vec<Churning> {
        let mut rows: Vec<Churning> = self
            .metrics
            .iter()
            .filter_map(|(name, metric)| {
                let Cap { labels, since } = metric.capped.clone()?;
                Some(Churning { metric: name.to_string(), labels, since, new_series: metric.count() })
            })
            .collect();
        rows.sort_unstable_by(|a, b| a.metric.cmp(&b.metric));
        rows
    }

    pub fn bytes(&self) -> usize {
        let sampled =
            |m: &Metric| heap::vector(&m.sampled) + m.sampled.iter().map(Labels::heap_bytes).sum::<usize>();
        heap::map::<Arc<str>, Metric>(self.metrics.capacity())
            + self
                .metrics
                .iter()
                .map(|(name, m)| heap::allocated(name.len() + 16) + sampled(m))
                .sum::<usize>()
    }
}

impl Metric {
    fn count(&self) -> u64 {
        self.parts.iter().sum()
    }
}

/// The labels that have another value in at least half of the new series, or else the one with most values; of these
/// the one with most first. None where all series have the same labels but for their metric's name.
fn guilty(sampled: &[Labels]) -> Vec<String> {
    let mut values: HashMap<&str, HashSet<&str>> = HashMap::new();
    for (name, value) in sampled.iter().flat_map(Labels::iter).filter(|(name, _)| *name != METRIC_NAME) {
        values.entry(name).or_default().insert(value);
    }
    let mut counts: Vec<(usize, &str)> = values.iter().map(|(name, values)| (values.len(), *name)).collect();
    counts.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    let most = counts.first().map_or(0, |first| first.0);
    let enough = most.min(sampled.len().div_ceil(2));
    counts.into_iter().filter(|&(count, _)| count >= enough).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn series(i: u64) -> Labels {
        let (pod, path) = (format!("pod-{i}"), format!("/{}", i % 5));
        Labels::from_pairs([(METRIC_NAME, "m"), ("job", "web"), ("path", &path), ("pod", &pod)]).unwrap()
    }

    #[test]
    fn nothing_is_judged_before_the_first_tick() {
        let mut churn = Churn::default();
        assert!((0..100).all(|i| churn.admit(series(i).as_ref(), 10, |_, _| true).is_ok()));
    }

    #[test]
    fn the_label_is_named_and_the_cap_ends_when_it_is_quiet() {
        let mut churn = Churn::default();
        churn.tick(0, 10_000, 100);
        let refused: Vec<_> =
            (0..200).filter_map(|i| churn.admit(series(i).as_ref(), 100, |_, _| true).err()).collect();
        assert_eq!(refused.len(), 100);
        assert_eq!(refused[0], (vec!["pod".to_owned()], 101));
        // A value that is there already is none of the label's fault.
        assert_eq!(churn.admit(series(1).as_ref(), 100, |_, _| false), Ok(()));
        let row = Churning { metric: "m".into(), labels: vec!["pod".into()], since: 0, new_series: 200 };
        assert_eq!(churn.capped(), [row]);
        churn.tick(9_999, 10_000, 100);
        assert_eq!(churn.capped().len(), 1);
        churn.tick(10_000, 10_000, 100);
        assert_eq!(churn.capped(), []);
        assert_eq!(churn.admit(series(300).as_ref(), 100, |_, _| true), Ok(()));
    }

    #[test]
    fn a_slow_stream_of_new_series_is_none() {
        let mut churn = Churn::default();
        for i in 0..1000 {
            churn.tick(i as i64 * 200, 10_000, 60);
            assert_eq!(churn.admit(series(i).as_ref(), 60, |_, _| true), Ok(()), "{i}");
        }
        assert_eq!(churn.capped(), []);
    }
}
