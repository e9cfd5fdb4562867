//! What the queries of an alert came to at some evaluations, instance by instance.
//!
//! Bounds stand in the plan, not here: many variants of one statement share one scan.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use metricsdb_model::answer::Point;
use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Labels, Matrix};

use super::compile::{Plan, Test, compares};
use super::signals::{Signals, Tests, WORD};
use crate::syntax::tree::BinaryOp;

/// Rows of answers by instance. Borrows the answers, which are of the plan's queries in their order, each with
/// samples at some of `times` alone.
pub struct Readings<'m> {
    times: &'m [i64],
    answers: Vec<&'m Matrix>,
    instances: Vec<Entry>,
    /// Some instance has several rows of one query.
    shared: bool,
    /// Of each answer: in each `WORD` evaluations of each of its rows.
    extremes: Vec<Vec<Extremes>>,
    /// Of each answer: of each row as a whole.
    reach: Vec<Vec<Extremes>>,
}

/// Of some values; those that are NaN are neither least nor greatest.
#[derive(Clone, Copy)]
struct Extremes {
    least: f64,
    greatest: f64,
    nan: bool,
}

struct Entry {
    labels: Labels,
    /// (query, row), ascending; rows of a query in the order of their labels.
    rows: Vec<(u32, u32)>,
}

impl<'m> Readings<'m> {
    /// O(rows), and O(samples) for their extremes where there are many evaluations.
    pub fn new(plan: &Plan, times: &'m [i64], answers: Vec<&'m Matrix>) -> Readings<'m> {
        let mut places: HashMap<Labels, usize> = HashMap::new();
        let mut instances: Vec<Entry> = Vec::new();
        for (query, matrix) in answers.iter().enumerate() {
            let mut rows: Vec<usize> = (0..matrix.len()).collect();
            rows.sort_by(|a, b| matrix.labels[*a].cmp(&matrix.labels[*b]));
            for row in rows {
                let labels = instance(&matrix.labels[row], plan);
                let place = *places.entry(labels).or_insert_with_key(|labels| {
                    instances.push(Entry { labels: labels.clone(), rows: Vec::new() });
                    instances.len() - 1
                });
                instances[place].rows.push((query as u32, row as u32));
            }
        }
        instances.sort_by(|a, b| a.labels.cmp(&b.labels));
        let shared = instances.iter().any(|entry| entry.rows.windows(2).any(|pair| pair[0].0 == pair[1].0));
        let extremes: Vec<Vec<Extremes>> = answers.iter().map(|matrix| extremes(matrix, times)).collect();
        let words = times.len().div_ceil(WORD).max(1);
        let row = |row: &[Extremes]| row.iter().fold(Extremes::NONE, |all, more| all.with(more));
        let reach = extremes.iter().map(|all| all.chunks(words).map(row).collect()).collect();
        Readings { times, answers, instances, shared, extremes, reach }
    }

    pub fn times(&self) -> &'m [i64] {
        self.times
    }

    /// How many instances have a value; they are in the order of their labels.
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    pub(crate) fn labels(&self, instance: usize) -> &Labels {
        &self.instances[instance].labels
    }

    /// The place of an instance.
    pub(crate) fn find(&self, labels: &Labels) -> Option<usize> {
        self.instances.binary_search_by(|entry| entry.labels.cmp(labels)).ok()
    }

    /// Whether no level can fire at any evaluation.
    pub(super) fn rests(&self, plan: &Plan, instance: usize) -> bool {
        let rows = &self.instances[instance].rows;
        let may = |test: Test, &(query, row): &(u32, u32)| match test {
            Test::Present { query: wanted } => wanted == query as usize,
            Test::Compare { query: wanted, op, bound } => {
                let Extremes { least, greatest, .. } = self.reach[query as usize][row as usize];
                wanted == query as usize
                    && match op {
                        BinaryOp::Greater | BinaryOp::GreaterEqual => compares(op, greatest, bound),
                        BinaryOp::Less | BinaryOp::LessEqual => compares(op, least, bound),
                        _ => true,
                    }
            }
        };
        !plan.levels.iter().any(|level| rows.iter().any(|row| may(level.fire, row)))
    }

    /// What the conditions came to, as one number: equal where the machine would go the same way.
    pub fn digest(&self, plan: &Plan) -> u64 {
        let all = !plan.only_fire_matters();
        let mut hasher = DefaultHasher::new();
        let mut tests = Tests::default();
        let wires = tests.wire(plan);
        let mut signals = Signals::new(&tests, self);
        for place in (0..self.len()).filter(|place| all || !self.rests(plan, *place)) {
            signals.turn(Some(place));
            let words = signals.words(&wires);
            if all || words.iter().any(|word| word.fire != 0) {
                self.labels(place).hash(&mut hasher);
                words.hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    pub(crate) fn shared(&self) -> bool {
        self.shared
    }

    /// The rows of a query that an instance has.
    pub(crate) fn rows(&self, instance: usize, query: usize) -> impl Iterator<Item = u32> {
        let rows = self.instances[instance].rows.iter();
        rows.filter(move |(wanted, _)| *wanted as usize == query).map(|(_, row)| *row)
    }

    /// Whether two of some rows fire at one evaluation.
    pub(crate) fn meet(&self, test: Test, rows: &[u32]) -> bool {
        let (query, compare) = parts(test);
        let words = self.times.len().div_ceil(WORD);
        let (mut fired, mut now) = (vec![0; words], vec![0; words]);
        rows.iter().any(|row| {
            now.fill(0);
            self.apply(compare, query, *row as usize, &mut now);
            let both = fired.iter().zip(&now).any(|(fired, now)| fired & now != 0);
            fired.iter_mut().zip(&now).for_each(|(fired, now)| *fired |= now);
            both
        })
    }

    /// Sets the bits of evaluations at which a test holds for a row of an instance.
    pub(super) fn holds(&self, test: Test, instance: usize, out: &mut [u64]) {
        let (query, compare) = parts(test);
        for row in self.rows(instance, query) {
            self.apply(compare, query, row as usize, out);
        }
    }

    /// The same for one row, where it has a value that compares so, or any value.
    fn apply(&self, compare: Option<(BinaryOp, f64)>, query: usize, row: usize, out: &mut [u64]) {
        let matrix = self.answers[query];
        let (_, times, values) = matrix.row(row);
        if times.len() != self.times.len() || !matrix.histograms.is_empty() {
            return self.apply_sparse(compare, query, row, out);
        }
        let extremes = &self.extremes[query][row * out.len()..];
        let words = values.chunks(WORD).zip(extremes).zip(out);
        match compare {
            None => words.for_each(|((values, _), out)| *out |= u64::MAX >> (WORD - values.len())),
            Some((BinaryOp::Greater, bound)) => above(words, |value| value > bound),
            Some((BinaryOp::GreaterEqual, bound)) => above(words, |value| value >= bound),
            Some((BinaryOp::Less, bound)) => below(words, |value| value < bound),
            Some((BinaryOp::LessEqual, bound)) => below(words, |value| value <= bound),
            Some((op, bound)) => {
                words.for_each(|((values, _), out)| *out |= word(values, |value| compares(op, value, bound)));
            }
        }
    }

    fn apply_sparse(&self, compare: Option<(BinaryOp, f64)>, query: usize, row: usize, out: &mut [u64]) {
        let mut step = 0;
        for (t, point) in self.answers[query].series(row).points() {
            while self.times.get(step).is_some_and(|time| *time < t) {
                step += 1;
            }
            // Comparisons drop histograms, as in PromQL.
            let holds = match (compare, point) {
                (None, _) => true,
                (Some((op, bound)), Point::Float(value)) => compares(op, value, bound),
                (Some(_), Point::Histogram(_)) => false,
            };
            if let Some(word) = out.get_mut(step / WORD).filter(|_| holds && self.times.get(step) == Some(&t))
            {
                *word |= 1 << (step % WORD);
            }
        }
    }

    /// The value that an instance shows: of the first series that fires, else of the first that has one.
    pub(crate) fn value(&self, plan: &Plan, level: usize, instance: usize, step: usize) -> Option<f64> {
        let level = &plan.levels[level];
        let t = self.times[step];
        let (fires, op, bound) = match level.fire {
            Test::Present { query } => (query, None, 0.0),
            Test::Compare { query, op, bound } => (query, Some(op), bound),
        };
        let at = |&(query, row): &(u32, u32)| {
            let (_, times, values) = self.answers[query as usize].row(row as usize);
            // As in Prometheus, a histogram's value is 0.
            let found =
                if times.len() == self.times.len() { Some(step) } else { times.binary_search(&t).ok() };
            found.map(|at| if self.is_histogram(query, row, at) { 0.0 } else { values[at] })
        };
        let rows = &self.instances[instance].rows;
        let of = |wanted: usize| rows.iter().filter(move |(query, _)| *query as usize == wanted);
        let firing = of(fires).filter_map(at).find(|value| op.is_none_or(|op| compares(op, *value, bound)));
        firing.or_else(|| of(fires).chain(level.compared.iter().flat_map(|q| of(*q))).find_map(at))
    }

    fn is_histogram(&self, query: u32, row: u32, at: usize) -> bool {
        let matrix = self.answers[query as usize];
        let place = matrix.offsets[row as usize] + at;
        matrix.histograms.binary_search_by_key(&place, |(place, _)| *place).is_ok()
    }
}

/// The labels that make an instance.
fn instance(labels: &Labels, plan: &Plan) -> Labels {
    let own = |name: &str| plan.own.iter().any(|known| known == name);
    match &plan.by {
        Some(by) => labels.retain(|name| by.iter().any(|known| known == name) && !own(name)),
        None => labels.retain(|name| name != METRIC_NAME && !own(name)),
    }
}

/// The query of a test, and what it compares with.
fn parts(test: Test) -> (usize, Option<(BinaryOp, f64)>) {
    match test {
        Test::Present { query } => (query, None),
        Test::Compare { query, op, bound } => (query, Some((op, bound))),
    }
}

/// Values of words, their extremes, and where their bits go.
trait Words<'w>: Iterator<Item = ((&'w [f64], &'w Extremes), &'w mut u64)> {}

impl<'w, I: Iterator<Item = ((&'w [f64], &'w Extremes), &'w mut u64)>> Words<'w> for I {}

/// What holds for a value holds for all that are greater: extremes may tell without a look at the values.
#[inline]
fn above<'w>(words: impl Words<'w>, holds: impl Fn(f64) -> bool) {
    for ((values, of), out) in words {
        *out |= decided(values, holds(of.least) & !of.nan, holds(of.greatest), &holds);
    }
}

/// The same for all that are less.
#[inline]
fn below<'w>(words: impl Words<'w>, holds: impl Fn(f64) -> bool) {
    for ((values, of), out) in words {
        *out |= decided(values, holds(of.greatest) & !of.nan, holds(of.least), &holds);
    }
}

#[inline]
fn decided(values: &[f64], all: bool, any: bool, holds: impl Fn(f64) -> bool) -> u64 {
    match (all, any) {
        (true, _) => u64::MAX >> (WORD - values.len()),
        (false, true) => word(values, holds),
        (false, false) => 0,
    }
}

/// A bit a value.
#[inline]
fn word(values: &[f64], holds: impl Fn(f64) -> bool) -> u64 {
    // Bytes first, which the compiler does many at a time; a product brings the lowest bits of eight together.
    let mut bytes = [0; WORD];
    bytes.iter_mut().zip(values).for_each(|(byte, value)| *byte = u8::from(holds(*value)));
    let (eights, _) = bytes.as_chunks::<8>();
    let bits = |eight: &[u8; 8]| u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    eights.iter().rev().fold(0, |word, eight| word << 8 | bits(eight))
}

/// Extremes of each `WORD` evaluations of each row.
fn extremes(matrix: &Matrix, times: &[i64]) -> Vec<Extremes> {
    let mut found = Vec::with_capacity(matrix.len() * times.len().div_ceil(WORD));
    for row in 0..matrix.len() {
        let (_, stamps, values) = matrix.row(row);
        let whole = stamps.len() == times.len();
        let mut from = 0;
        found.extend(times.chunks(WORD).map(|word| {
            let to = if whole {
                from + word.len()
            } else {
                from + stamps[from..].partition_point(|t| word.last().is_some_and(|last| t <= last))
            };
            let values = &values[from..to];
            from = to;
            Extremes::of(values)
        }));
    }
    found
}

impl Extremes {
    const NONE: Extremes = Extremes { least: f64::INFINITY, greatest: f64::NEG_INFINITY, nan: false };

    fn of(values: &[f64]) -> Extremes {
        // Eight at a time: one after the other, each comparison would wait for the last.
        let (eights, rest) = values.as_chunks::<8>();
        let (mut least, mut greatest, mut nan) = ([f64::INFINITY; 8], [f64::NEG_INFINITY; 8], false);
        for eight in eights {
            for (i, value) in eight.iter().enumerate() {
                least[i] = least[i].min(*value);
                greatest[i] = greatest[i].max(*value);
                nan |= value.is_nan();
            }
        }
        let lanes = least.iter().zip(&greatest);
        let lanes = lanes.map(|(least, greatest)| Extremes { least: *least, greatest: *greatest, nan });
        let rest = rest.iter().map(|value| Extremes { least: *value, greatest: *value, nan: value.is_nan() });
        lanes.chain(rest).fold(Extremes::NONE, |all, more| all.with(&more))
    }

    /// Of both.
    fn with(self, more: &Extremes) -> Extremes {
        Extremes {
            least: self.least.min(more.least),
            greatest: self.greatest.max(more.greatest),
            nan: self.nan | more.nan,
        }
    }
}
