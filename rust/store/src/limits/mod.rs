//! How many series there may be, which, and what becomes of those that are too many. A limit is asked when a series is
//! made, and of nothing else: series that are there are never touched.
//!
//! The counts follow from the index (`Database::check` proves it). Whoever makes a series, or lets one go, holds
//! `Limits::read` from before it takes a shard's lock until that is done, so that rules change between two series.

mod churn;
mod exact;
mod fold;
mod make;
mod report;
mod sketch;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use hashbrown::HashMap;
use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Budget, Error, Labels, LabelsRef, Predicate, Reason, Result};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::database::Database;
use crate::heap;
use crate::resolve::Refusal;
use crate::shard::SHARDS;
use crate::view::ByShard;
use churn::Churn;
pub use churn::Churning;
use fold::Folds;
pub use fold::is_source;
pub use fold::{LOOKBACK_MS as FOLD_LOOKBACK_MS, SOURCES_MAX as FOLDED_SERIES_MAX};
pub use make::{FoldedSample, Found, refused, refused_rule};
pub use report::{GrowthOf, MetricGrowth};
use sketch::Sketches;

/// What the guilty label of a folded series is set to.
pub const OVERFLOW: &str = "__overflow__";
/// Rules that a set of 64 bits tells apart.
const RULES_MAX: usize = 64;
/// A churn rule below this would see one in every deployment.
const NEW_SERIES_MIN: u64 = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// At most `max` series for each combination of values of the labels `by`; `folded_max` more that others are folded into.
    Series { by: Vec<String>, max: u64, folded_max: u64 },
    /// At most so many new series of one metric in a window, as long as one label makes them.
    Churn { new_max: u64, window_ms: i64 },
}

/// What becomes of a new series that is too much. Without a label: the one that a churn rule found guilty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Reject,
    /// Its samples go to the series without the label.
    Drop(Option<String>),
    /// They are added up in the series whose label has the value `OVERFLOW`.
    Overflow(Option<String>),
}

#[derive(Clone, Debug)]
pub struct Limit {
    pub name: String,
    /// Series that it is about.
    pub selector: Predicate,
    pub bound: Bound,
    pub action: Action,
}

/// Where a rule stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitStatus {
    pub name: String,
    /// Series that it counts, its groups, and the series of the largest.
    pub series: u64,
    pub groups: u64,
    pub largest: u64,
    /// How often a series that was not there was refused, sent to the series without its label, or folded.
    pub rejected: u64,
    pub dropped: u64,
    pub folded: u64,
}

/// A rule, and its part of the counts.
#[derive(Default)]
struct Counts {
    /// Series by the values of the rule's labels, each with an 0xFF behind it.
    groups: HashMap<Box<[u8]>, u64>,
    churn: Churn,
    rejected: u64,
    dropped: u64,
    folded: u64,
}

/// Why a series may not be made: the rule, and how many series it counts.
struct Full {
    rule: usize,
    count: u64,
    /// Labels that a churn rule found guilty.
    guilty: Vec<String>,
}

pub struct Limits {
    active: AtomicBool,
    rules: RwLock<Vec<Limit>>,
    /// One a rule. No other lock but a label's is taken under it.
    counts: Mutex<Vec<Counts>>,
    folds: Mutex<Folds>,
    sketches: Mutex<Sketches>,
}

/// The rules, held as they are.
pub struct Rules<'a> {
    limits: &'a Limits,
    rules: RwLockReadGuard<'a, Vec<Limit>>,
}

impl Limits {
    /// `key` keys the hashes of folded series.
    pub fn new(key: u64) -> Limits {
        Limits {
            active: AtomicBool::new(false),
            rules: RwLock::default(),
            counts: Mutex::default(),
            folds: Mutex::new(Folds::new(key)),
            sketches: Mutex::default(),
        }
    }

    /// Whether samples of other series go to this one: it stays as long as they do.
    pub(crate) fn is_target(&self, id: u32) -> bool {
        self.folds.lock().is_target(id)
    }

    /// Whether there may be rules: what a known series asks.
    pub fn is_active(&self) -> bool {
        self.active.load(Relaxed)
    }

    /// Call it with no shard locked.
    pub fn read(&self) -> Rules<'_> {
        Rules { limits: self, rules: self.rules.read() }
    }

    /// As `read`, also with a shard locked; `None` when rules are changing.
    pub fn try_read(&self) -> Option<Rules<'_>> {
        Some(Rules { limits: self, rules: self.rules.try_read()? })
    }

    /// Notes a series that was made now.
    pub fn note_made(&self, labels: LabelsRef<'_>, hash: u64, last: &mut Vec<u8>) {
        self.sketches.lock().note(labels, hash, last);
    }

    pub fn bytes(&self) -> usize {
        let of = |counts: &Counts| {
            heap::map::<Box<[u8]>, u64>(counts.groups.capacity())
                + counts.groups.keys().map(|key| heap::slice(key)).sum::<usize>()
                + counts.churn.bytes()
        };
        self.counts.lock().iter().map(of).sum::<usize>()
            + self.folds.lock().bytes()
            + self.sketches.lock().bytes()
    }
}

impl Bound {
    /// The group of a series among those that are counted; `None` where a rule counts none.
    fn group(&self, labels: LabelsRef<'_>, key: &mut Vec<u8>) -> Option<(u64, u64)> {
        let Bound::Series { by, max, folded_max } = self else { return None };
        key.clear();
        for name in by {
            key.extend_from_slice(labels.value(name).as_bytes());
            key.push(0xff);
        }
        Some((*max, max.saturating_add(*folded_max)))
    }
}

impl Rules<'_> {
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Counts a new series under all rules, or under none, where one of them is full. `folded` are the rules that
    /// have folded it already; `is_new` tells whether a label has a value that it never had.
    fn admit(
        &self,
        labels: LabelsRef<'_>,
        folded: u64,
        is_new: impl Fn(&str, &str) -> bool,
    ) -> std::result::Result<(), Full> {
        let mut counts = self.limits.counts.lock();
        let mut matching = 0u64;
        // Churn is counted of all that asks, also where another limit is full.
        for (rule, (limit, counts)) in self.rules.iter().zip(counts.iter_mut()).enumerate() {
            if !limit.selector.matches(labels) {
                continue;
            }
            matching |= 1 << rule;
            if let (Bound::Churn { new_max, .. }, 0) = (&limit.bound, folded) {
                let held = counts.churn.admit(labels, *new_max, &is_new);
                held.map_err(|(guilty, count)| Full { rule, count, guilty })?;
            }
        }
        let mut key = Vec::new();
        let of = |&(rule, _): &(usize, &Limit)| matching & 1 << rule != 0;
        for (rule, limit) in self.rules.iter().enumerate().filter(of) {
            let Some((max, with_folded)) = limit.bound.group(labels, &mut key) else { continue };
            let count = counts.get(rule).and_then(|c| c.groups.get(&key[..])).copied().unwrap_or(0);
            if count >= if folded & 1 << rule != 0 { with_folded } else { max } {
                return Err(Full { rule, count, guilty: Vec::new() });
            }
        }
        for (rule, limit) in self.rules.iter().enumerate().filter(of) {
            let (Some(_), Some(counts)) = (limit.bound.group(labels, &mut key), counts.get_mut(rule)) else {
                continue;
            };
            match counts.groups.get_mut(&key[..]) {
                Some(count) => *count += 1,
                None => drop(counts.groups.insert(key.as_slice().into(), 1)),
            }
        }
        Ok(())
    }

    /// Says that series are gone, none of which `is_target`: there is room for others. `labels` are those of all of
    /// them, or none where there are no rules. Call it with no shard locked.
    pub fn released(&self, ids: &[u32], labels: &[Labels]) {
        labels.iter().for_each(|labels| self.uncount(labels.as_ref()));
        self.limits.folds.lock().forget_targets(ids);
    }

    fn uncount(&self, labels: LabelsRef<'_>) {
        let (mut counts, mut key) = (self.limits.counts.lock(), Vec::new());
        for (limit, counts) in self.rules.iter().zip(counts.iter_mut()) {
            if !limit.selector.matches(labels) || limit.bound.group(labels, &mut key).is_none() {
                continue;
            }
            let Some(count) = counts.groups.get_mut(&key[..]) else { continue };
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.groups.remove(&key[..]);
            }
        }
    }

    /// What becomes of a series that met a limit: other labels that its samples go to.
    fn turn(&self, labels: LabelsRef<'_>, full: &Full) -> std::result::Result<Labels, Refusal> {
        let Some(limit) = self.rules.get(full.rule) else { return Err(self.refusal(full, labels)) };
        let (label, value) = match &limit.action {
            Action::Reject => return Err(self.refusal(full, labels)),
            Action::Drop(label) => (label, ""),
            Action::Overflow(label) => (label, OVERFLOW),
        };
        let wanted = label.as_ref().map_or(full.guilty.as_slice(), std::slice::from_ref);
        let mut turned = labels.to_owned();
        for name in wanted.iter().filter(|name| labels.get(name).is_some()) {
            turned = turned.with(name, value);
        }
        match turned.as_ref().canonical() == labels.canonical() || turned.is_empty() {
            true => Err(self.refusal(full, labels)),
            false => Ok(turned),
        }
    }

    fn refusal(&self, full: &Full, labels: LabelsRef<'_>) -> Refusal {
        let series = labels.to_owned();
        let message = match self.rules.get(full.rule).map(|limit| (limit, &limit.bound)) {
            Some((limit, Bound::Series { max, folded_max, .. })) => {
                let folded = match limit.action {
                    Action::Reject => String::new(),
                    _ => format!(" and {folded_max} folded ones"),
                };
                format!("limit {:?}: {} series, {max}{folded} allowed: {series}", limit.name, full.count)
            }
            Some((limit, Bound::Churn { new_max, window_ms })) => format!(
                "limit {:?}: {} new series in {window_ms} ms, {new_max} allowed, by label {:?}: {series}",
                limit.name,
                full.count,
                full.guilty.join(", "),
            ),
            None => format!("too many series: {series}"),
        };
        Refusal { reason: Reason::CardinalityLimit, message, rule: full.rule }
    }

    fn note(&self, rule: usize, count: impl FnOnce(&mut Counts)) {
        self.limits.counts.lock().get_mut(rule).map(count);
    }
}

/// Holds a rule against itself. Errors: `Input`.
fn checked(limit: &Limit) -> Result<()> {
    let wrong = |message: &str, remedy: &str| Err(Error::input("limit", &limit.name, message, remedy));
    let label = match &limit.action {
        Action::Reject => None,
        Action::Drop(label) | Action::Overflow(label) => Some(label.as_deref()),
    };
    if label == Some(Some(METRIC_NAME)) {
        return wrong("would take the metric's name away", "name the label that makes too many series");
    }
    match &limit.bound {
        Bound::Series { .. } if label == Some(None) => {
            wrong("does not say which label to drop or fold", "name it with label=")
        }
        Bound::Churn { new_max, window_ms } if *new_max < NEW_SERIES_MIN || *window_ms < 1000 => {
            wrong("is narrower than 10 new series in a second", "allow more new series, or a longer window")
        }
        _ => Ok(()),
    }
}

impl Database {
    /// Replaces all limits. Series that are there stay, however many; what is folded stays folded where its rule does,
    /// and is released else. Walks all series once; new ones wait meanwhile. Errors: `Input` for more than 64 limits, two
    /// of one name, or one that does not say what to fold; everything is as before then.
    pub fn set_limits(&self, limits: Vec<Limit>) -> Result<()> {
        if limits.len() > RULES_MAX {
            let (count, why) = (limits.len().to_string(), "a database has at most 64");
            return Err(Error::input(
                "limits",
                &count,
                why,
                "join those that differ in their selector alone",
            ));
        }
        for (at, limit) in limits.iter().enumerate() {
            checked(limit)?;
            if limits.iter().take(at).any(|other| other.name == limit.name) {
                return Err(Error::input(
                    "limit",
                    &limit.name,
                    "is there twice",
                    "give each a name of its own",
                ));
            }
        }
        let mut rules = self.limits.rules.write();
        let mut counted = self.count_series(&limits)?;
        let mut before = std::mem::take(&mut *self.limits.counts.lock());
        let stays = |old: &Limit| limits.iter().any(|new| new.name == old.name && new.same(old));
        if rules.iter().any(|old| matches!(old.action, Action::Overflow(_)) && !stays(old)) {
            self.limits.folds.lock().release();
            self.write_folded();
        }
        for (limit, counts) in limits.iter().zip(&mut counted) {
            let Some(at) = rules.iter().position(|old| old.name == limit.name) else { continue };
            let Some(old) = before.get_mut(at) else { continue };
            (counts.rejected, counts.dropped, counts.folded) = (old.rejected, old.dropped, old.folded);
            counts.churn = std::mem::take(&mut old.churn);
        }
        *self.limits.counts.lock() = counted;
        self.limits.active.store(!limits.is_empty(), Relaxed);
        *rules = limits;
        Ok(())
    }

    /// The series of each group of each rule, as the index has them.
    fn count_series(&self, limits: &[Limit]) -> Result<Vec<Counts>> {
        let budget = Budget::unlimited();
        let mut out = Vec::with_capacity(limits.len());
        for limit in limits {
            let mut counts = Counts::default();
            if let Bound::Series { by, .. } = &limit.bound {
                let ids = self.index.select(&limit.selector, self, &budget)?;
                counts.groups = self.count_groups(by, &ByShard::new(&ids, &budget)?);
            }
            out.push(counts);
        }
        Ok(out)
    }

    fn count_groups(&self, by: &[String], ids: &ByShard) -> HashMap<Box<[u8]>, u64> {
        let names: Vec<Option<u32>> = by.iter().map(|name| self.symbols.lookup(name)).collect();
        let (mut found, mut values) = (HashMap::<Box<[u32]>, u64>::new(), Vec::new());
        for number in 0..SHARDS {
            let shard = self.shard(number);
            for &row in ids.rows(number) {
                let Some(&handle) = shard.series.labels.get(row) else { continue };
                values.clear();
                let value = |&name: &Option<u32>| shard.label_sets.value(&self.shapes, handle, name?);
                values.extend(names.iter().map(|name| value(name).unwrap_or(u32::MAX)));
                match found.get_mut(&values[..]) {
                    Some(count) => *count += 1,
                    None => drop(found.insert(values.as_slice().into(), 1)),
                }
            }
        }
        let text = |values: Box<[u32]>| {
            let texts = values.iter().map(|&value| self.symbols.get(value).to_owned());
            texts.flat_map(|text| text.into_bytes().into_iter().chain([0xff])).collect::<Box<[u8]>>()
        };
        found.into_iter().map(|(values, count)| (text(values), count)).collect()
    }

    /// Errors: `Corruption` where a rule counts other series than the index has. No writer may be at work.
    pub(crate) fn check_limits(&self) -> Result<()> {
        let rules = self.limits.read();
        let counted = self.count_series(&rules.rules)?;
        for ((limit, ours), theirs) in rules.rules.iter().zip(self.limits.counts.lock().iter()).zip(counted) {
            if ours.groups != theirs.groups {
                let message = "counts other series than there are".to_owned();
                return Err(Error::Corruption {
                    what: format!("limit {:?}", limit.name),
                    offset: 0,
                    message,
                });
            }
        }
        Ok(())
    }

    /// Where each limit stands, in order.
    pub fn limit_status(&self) -> Vec<LimitStatus> {
        let rules = self.limits.read();
        let counts = self.limits.counts.lock();
        let status = |(limit, counts): (&Limit, &Counts)| LimitStatus {
            name: limit.name.clone(),
            series: counts.groups.values().sum(),
            groups: counts.groups.len() as u64,
            largest: counts.groups.values().copied().max().unwrap_or(0),
            rejected: counts.rejected,
            dropped: counts.dropped,
            folded: counts.folded,
        };
        rules.rules.iter().zip(counts.iter()).map(status).collect()
    }

    /// What churn rules hold back now: (rule, metric).
    pub fn churning(&self) -> Vec<(String, Churning)> {
        let rules = self.limits.read();
        let counts = self.limits.counts.lock();
        let of = |(limit, counts): (&Limit, &Counts)| {
            counts.churn.capped().into_iter().map(|row| (limit.name.clone(), row)).collect::<Vec<_>>()
        };
        rules.rules.iter().zip(counts.iter()).flat_map(of).collect()
    }

    /// Folded series, the series that they go to, and their samples so far.
    pub fn folded(&self) -> (usize, usize, u64) {
        let folds = self.limits.folds.lock();
        let (sources, targets) = folds.len();
        (sources, targets, folds.samples)
    }

    /// Lets windows go on to `now` (ms), and ends folded series that are silent. Call it every second or so: without it
    /// no churn is seen, and what was folded counts for ever.
    pub fn limits_tick(&self, now: i64) {
        {
            let rules = self.limits.read();
            for (limit, counts) in rules.rules.iter().zip(self.limits.counts.lock().iter_mut()) {
                if let Bound::Churn { new_max, window_ms } = limit.bound {
                    counts.churn.tick(now, window_ms, new_max);
                }
            }
        }
        self.limits.sketches.lock().tick(now);
        self.limits.folds.lock().sweep(now);
        self.write_folded();
    }
}

impl Limit {
    fn same(&self, other: &Limit) -> bool {
        self.bound == other.bound && self.action == other.action && self.selector == other.selector
    }
}

#[cfg(test)]
mod tests;
