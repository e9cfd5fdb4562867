//! What an evaluation really did, node by node: for EXPLAIN ANALYZE. Switched off it costs a look at an `Option`
//! a node and a row.
//!
//! Nodes are known by their addresses: the tree does not move while it is evaluated. Time comes from a clock that
//! the caller brings.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use metricsdb_model::{SeriesSet, TimeRange};

use super::block::present;
use super::cells::Cell;

/// Nanoseconds since any moment.
pub type Clock<'c> = &'c (dyn Fn() -> u64 + Sync);

/// Rows of a selector that are asked for their codecs.
const CODEC_ROWS: u64 = 64;

/// What was counted at one node.
#[derive(Debug, Default)]
pub struct Counters {
    /// Of the node and what is beneath it. Where rows are read for an aggregation above: of all threads together.
    pub nanos: AtomicU64,
    /// Series with a sample.
    pub series: AtomicU64,
    /// Samples loaded; of a subquery: read again out of its steps.
    pub samples: AtomicU64,
    /// Encoded bytes of the chunks that were looked into.
    pub bytes: AtomicU64,
    /// Values held at once for the node's result; a histogram counts as `cells::cost` says.
    pub values: AtomicU64,
    /// Rows answered from the heads of chunks.
    pub heads: AtomicU64,
    codecs: Mutex<Vec<&'static str>>,
    rows: AtomicU64,
}

impl Counters {
    /// Names of codecs, each once.
    pub fn codecs(&self) -> Vec<&'static str> {
        self.codecs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a read of one row.
    fn read(&self, set: &dyn SeriesSet, row: usize, range: TimeRange, samples: u64, again: bool) {
        self.series.fetch_add(u64::from(samples > 0 && !again), Relaxed);
        self.samples.fetch_add(samples, Relaxed);
        self.bytes.fetch_add(set.encoded_bytes(row, range), Relaxed);
        if self.rows.fetch_add(1, Relaxed) < CODEC_ROWS {
            set.codecs(row, range, &mut self.codecs.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Counts a result that stands in memory.
    pub(crate) fn held(&self, series: usize, values: u64) {
        self.series.fetch_add(series as u64, Relaxed);
        self.values.fetch_add(values, Relaxed);
    }
}

/// The counters of an evaluation.
pub struct Profile<'c> {
    clock: Clock<'c>,
    places: HashMap<usize, usize>,
    counters: Vec<Counters>,
}

/// The address by which a part of the tree is known.
pub fn address<T>(part: &T) -> usize {
    std::ptr::from_ref(part).addr()
}

impl<'c> Profile<'c> {
    /// For `nodes` nodes; `places` leads from addresses to them.
    pub fn new(clock: Clock<'c>, nodes: usize, places: HashMap<usize, usize>) -> Profile<'c> {
        Profile { clock, places, counters: (0..nodes).map(|_| Counters::default()).collect() }
    }

    pub fn counters(&self) -> &[Counters] {
        &self.counters
    }

    pub(crate) fn now(&self) -> u64 {
        (self.clock)()
    }

    /// The counters of a part of the tree, if it is a node.
    pub(crate) fn of<T>(&self, part: &T) -> Option<&Counters> {
        self.counters.get(*self.places.get(&address(part))?)
    }

    pub(crate) fn spent(&self, counters: &Counters, since: u64) {
        counters.nanos.fetch_add(self.now().saturating_sub(since), Relaxed);
    }
}

/// Who is told of rows that are read later.
#[derive(Clone)]
pub(crate) struct Probe<'a> {
    profile: &'a Profile<'a>,
    /// The selector, or the subquery.
    source: Option<&'a Counters>,
    /// The functions over its rows, innermost first: each with the number of maps before its value.
    above: Vec<(usize, &'a Counters)>,
    /// The rows were read once before, and are counted as series already.
    again: bool,
}

impl<'a> Probe<'a> {
    pub fn new<T>(profile: Option<&'a Profile<'a>>, source: &T) -> Option<Box<Probe<'a>>> {
        let profile = profile?;
        Some(Box::new(Probe { profile, source: profile.of(source), above: Vec::new(), again: false }))
    }

    pub fn again(&mut self) {
        self.again = true;
    }

    /// A function whose value is the row after so many maps.
    pub fn add(&mut self, maps: usize, counters: &'a Counters) {
        if !self.source.is_some_and(|source| std::ptr::eq(source, counters)) {
            self.above.push((maps, counters));
        }
    }

    pub fn now(&self) -> u64 {
        self.profile.now()
    }

    pub fn read(&self, set: &dyn SeriesSet, row: usize, range: TimeRange, samples: usize, since: u64) {
        if let Some(source) = self.source {
            self.profile.spent(source, since);
            source.read(set, row, range, samples as u64, self.again);
        }
    }

    pub fn heads(&self) {
        if let Some(source) = self.source {
            source.series.fetch_add(u64::from(!self.again), Relaxed);
            source.heads.fetch_add(1, Relaxed);
        }
    }

    /// The row as it is after so many maps.
    pub fn mapped(&self, maps: usize, row: &[f64], cells: &[Cell]) {
        for (_, counters) in self.above.iter().filter(|(at, _)| *at == maps) {
            let any = row.iter().any(|&v| present(v)) || cells.iter().any(Option::is_some);
            counters.series.fetch_add(u64::from(any), Relaxed);
        }
    }

    pub fn filled(&self, since: u64) {
        self.above.iter().for_each(|(_, counters)| self.profile.spent(counters, since));
    }

    /// All rows are to stand in memory.
    pub fn held(&self, values: u64) {
        if let Some(counters) = self.above.last().map(|a| a.1).or(self.source) {
            counters.values.fetch_add(values, Relaxed);
        }
    }
}
