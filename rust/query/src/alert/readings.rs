//! What the queries of an alert came to at some evaluations, instance by instance.
//!
//! Bounds stand in the plan, not here: many variants of one statement share one scan.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use metricsdb_model::answer::Point;
use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Labels, Matrix};

use super::compile::{ClearTest, LevelPlan, Plan, Test, compares};
use crate::syntax::tree::BinaryOp;

/// One level at one evaluation: three bits, shifted by the level.
pub(crate) const FIRE: u32 = 1;
pub(crate) const CLEAR: u32 = 1 << 8;
pub(crate) const DATA: u32 = 1 << 16;
/// The bits of one kind for all levels.
pub(crate) const ALL: u32 = 0xff;
/// Evaluations that are looked at together: where none of them can fire, none is read.
pub(crate) const BLOCK: usize = 64;

/// Rows of answers by instance. Borrows the answers, which are of the plan's queries in their order, each with
/// samples at some of `times` alone.
pub struct Readings<'m> {
    times: &'m [i64],
    answers: Vec<&'m Matrix>,
    instances: Vec<Entry>,
    /// Some instance has several rows of one query.
    shared: bool,
    /// Of each row of each answer.
    extremes: Vec<Vec<Extremes>>,
}

/// Least and greatest value of a row.
struct Extremes {
    whole: (f64, f64),
    blocks: Vec<(f64, f64)>,
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
        let extremes = answers
            .iter()
            .map(|matrix| (0..matrix.len()).map(|row| extremes(matrix, row, times)).collect())
            .collect();
        Readings { times, answers, instances, shared, extremes }
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

    /// What is said of an instance that has no value at all, level by level.
    pub(crate) fn silence(plan: &Plan) -> u32 {
        plan.levels.iter().enumerate().fold(0, |bits, (l, level)| {
            let clear = if matches!(level.clear, ClearTest::When(_)) { 0 } else { CLEAR << l };
            let data = if level.compared.is_empty() { DATA << l } else { 0 };
            bits | clear | data
        })
    }

    /// Whether no level can fire in a block of evaluations.
    pub(crate) fn is_quiet(&self, plan: &Plan, instance: usize, block: usize) -> bool {
        self.is_quiet_within(plan, instance, |row| row.blocks[block])
    }

    /// Whether no level can fire at any evaluation.
    pub(crate) fn rests(&self, plan: &Plan, instance: usize) -> bool {
        self.is_quiet_within(plan, instance, |row| row.whole)
    }

    #[inline]
    fn is_quiet_within(&self, plan: &Plan, instance: usize, of: impl Fn(&Extremes) -> (f64, f64)) -> bool {
        let rows = &self.instances[instance].rows;
        let may = |test: Test, &(query, row): &(u32, u32)| match test {
            Test::Present { query: wanted } => wanted == query as usize,
            Test::Compare { query: wanted, op, bound } => {
                let (least, greatest) = of(&self.extremes[query as usize][row as usize]);
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
        let mut signals = Vec::new();
        for place in (0..self.len()).filter(|place| all || !self.rests(plan, *place)) {
            self.signals(plan, place, 0..self.times.len(), &mut signals);
            if all || signals.iter().any(|bits| bits & ALL != 0) {
                self.labels(place).hash(&mut hasher);
                signals.hash(&mut hasher);
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
        let (query, compare) = match test {
            Test::Present { query } => (query, None),
            Test::Compare { query, op, bound } => (query, Some((op, bound))),
        };
        let steps = self.times.len();
        let mut fired = vec![0u32; steps];
        let mut now = Vec::new();
        for row in rows {
            now.clear();
            now.resize(steps, 0);
            self.apply(compare, query, *row as usize, 0..steps, &mut now, (1, 0));
            fired.iter_mut().zip(&now).for_each(|(count, one)| *count += one);
        }
        fired.iter().any(|count| *count > 1)
    }

    /// Writes the bits of an instance at some evaluations.
    pub(crate) fn signals(&self, plan: &Plan, instance: usize, steps: Range<usize>, out: &mut Vec<u32>) {
        out.clear();
        out.resize(steps.len(), Readings::silence(plan));
        for (l, level) in plan.levels.iter().enumerate() {
            for &(query, row) in &self.instances[instance].rows {
                let (query, row) = (query as usize, row as usize);
                if self.at_once(level, l, query, row, &steps, out) {
                    continue;
                }
                let mut apply = |test: Option<Test>, set: u32, unset: u32| {
                    let compare = match test {
                        None => None,
                        Some(Test::Present { query: wanted }) if wanted == query => None,
                        Some(Test::Compare { query: wanted, op, bound }) if wanted == query => {
                            Some((op, bound))
                        }
                        Some(_) => return,
                    };
                    self.apply(compare, query, row, steps.clone(), out, (set, unset));
                };
                // A compared query has data; fire unsets clear where nothing else says when it is clear.
                if level.compared.contains(&query) {
                    apply(None, DATA << l, 0);
                }
                let unset = if level.clear == ClearTest::NotFire { CLEAR << l } else { 0 };
                apply(Some(level.fire), FIRE << l, unset);
                match level.clear {
                    ClearTest::NotFire => {}
                    ClearTest::NotStay(stay) => apply(Some(stay), 0, CLEAR << l),
                    ClearTest::When(when) => apply(Some(when), CLEAR << l, 0),
                }
            }
        }
    }

    /// Values of a row at some evaluations, where it has one at each.
    fn dense(&self, query: usize, row: usize, steps: &Range<usize>) -> Option<&'m [f64]> {
        let matrix = self.answers[query];
        let (_, times, values) = matrix.row(row);
        let dense = times.len() == self.times.len() && matrix.histograms.is_empty();
        if dense { values.get(steps.clone()) } else { None }
    }

    /// Most levels compare one query alone: its values are read once. False: nothing was done.
    fn at_once(
        &self,
        level: &LevelPlan,
        l: usize,
        query: usize,
        row: usize,
        steps: &Range<usize>,
        out: &mut [u32],
    ) -> bool {
        use BinaryOp::{Greater, GreaterEqual, Less, LessEqual};
        let Test::Compare { query: wanted, op, bound } = level.fire else { return false };
        let stay = match level.clear {
            ClearTest::NotFire => bound,
            ClearTest::NotStay(Test::Compare { bound: stay, .. }) => stay,
            _ => return false,
        };
        let Some(values) = self.dense(query, row, steps).filter(|_| wanted == query) else { return false };
        let bounds = (bound, stay);
        match op {
            Greater => both(out, values, l, bounds, |value, bound| value > bound),
            GreaterEqual => both(out, values, l, bounds, |value, bound| value >= bound),
            Less => both(out, values, l, bounds, |value, bound| value < bound),
            LessEqual => both(out, values, l, bounds, |value, bound| value <= bound),
            _ => return false,
        }
        true
    }

    /// Sets and unsets bits where a row has a value that compares so, or any value.
    fn apply(
        &self,
        compare: Option<(BinaryOp, f64)>,
        query: usize,
        row: usize,
        steps: Range<usize>,
        out: &mut [u32],
        (set, unset): (u32, u32),
    ) {
        let Some(values) = self.dense(query, row, &steps) else {
            return self.apply_sparse(compare, query, row, steps, out, (set, unset));
        };
        match compare {
            None => out.iter_mut().for_each(|bits| *bits = (*bits & !unset) | set),
            Some((op, bound)) => {
                let holds = out.iter_mut().zip(values).filter(|(_, value)| compares(op, **value, bound));
                holds.for_each(|(bits, _)| *bits = (*bits & !unset) | set);
            }
        }
    }

    fn apply_sparse(
        &self,
        compare: Option<(BinaryOp, f64)>,
        query: usize,
        row: usize,
        steps: Range<usize>,
        out: &mut [u32],
        (set, unset): (u32, u32),
    ) {
        let times = &self.times[steps];
        let mut step = 0;
        let points = self.answers[query].series(row).points();
        let after = |t: &i64| times.last().is_none_or(|last| t > last);
        let before = |t: &i64| times.first().is_some_and(|first| t < first);
        for (t, point) in points.skip_while(|(t, _)| before(t)).take_while(|(t, _)| !after(t)) {
            while times.get(step).is_some_and(|time| *time < t) {
                step += 1;
            }
            // Comparisons drop histograms, as in PromQL.
            let holds = match (compare, point) {
                (None, _) => true,
                (Some((op, bound)), Point::Float(value)) => compares(op, value, bound),
                (Some(_), Point::Histogram(_)) => false,
            };
            if let Some(bits) = out.get_mut(step).filter(|_| holds && times[step] == t) {
                *bits = (*bits & !unset) | set;
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

/// Least and greatest value of a row in each block of evaluations.
fn extremes(matrix: &Matrix, row: usize, times: &[i64]) -> Extremes {
    let (_, stamps, values) = matrix.row(row);
    let whole = stamps.len() == times.len();
    let none = (f64::INFINITY, f64::NEG_INFINITY);
    let mut from = 0;
    let blocks: Vec<(f64, f64)> = times
        .chunks(BLOCK)
        .map(|block| {
            let to = if whole {
                from + block.len()
            } else {
                from + stamps[from..].partition_point(|t| block.last().is_some_and(|last| t <= last))
            };
            let block = &values[from..to];
            from = to;
            block.iter().fold(none, |(least, greatest), v| (least.min(*v), greatest.max(*v)))
        })
        .collect();
    let whole =
        blocks.iter().fold(none, |(least, greatest), block| (least.min(block.0), greatest.max(block.1)));
    Extremes { whole, blocks }
}

/// Fire and clear of level `l`, where values compare with the one bound and the other.
#[inline]
fn both(
    out: &mut [u32],
    values: &[f64],
    l: usize,
    (fire, stay): (f64, f64),
    holds: impl Fn(f64, f64) -> bool,
) {
    for (bits, value) in out.iter_mut().zip(values) {
        // All bits or none, so that the loop has no branch.
        let fires = u32::from(holds(*value, fire)).wrapping_neg();
        let stays = u32::from(holds(*value, stay)).wrapping_neg();
        *bits = (*bits & !(CLEAR << l & stays)) | (FIRE << l & fires) | DATA << l;
    }
}
