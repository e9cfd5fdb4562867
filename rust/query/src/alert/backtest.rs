//! Queries of alerts, live and over stored history, through the one evaluator.

use std::collections::BTreeMap;

use metricsdb_model::{Answer, Budget, Error, Matrix, Result, Source};
use rayon::prelude::*;

use super::compile::{Plan, Query};
use super::identity::{Render, check, rendered};
use super::machine::{Change, Machine, Muting};
use super::readings::Readings;
use super::run::{Pass, order, together};
use crate::exec::{Params, alone, evaluate};

/// Evaluations whose answers stand in memory at once.
const STEPS_PER_CHUNK: i64 = 1024;

/// Runs that go through readings together: the more, the less is read twice, and the fewer cores help.
const GROUP_MAX: usize = 16;

/// When evaluations are: at `start`, `start + step`, …, not after `end`; ms. Queries look at `offset_ms` before.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub start: i64,
    pub end: i64,
    pub step: i64,
    pub offset_ms: i64,
    pub lookback_ms: i64,
}

impl Times {
    fn check(&self) -> Result<()> {
        if self.step <= 0 || self.end < self.start {
            let shown = format!("{}..{} by {}", self.start, self.end, self.step);
            return Err(Error::input(
                "times",
                &shown,
                "are no evaluations",
                "give a positive step, and an end after the start",
            ));
        }
        Ok(())
    }

    /// In parts of so many evaluations that their answers may stand in memory at once.
    fn parts(self) -> impl Iterator<Item = Times> {
        let width = self.step.saturating_mul(STEPS_PER_CHUNK - 1);
        let part = move |start: i64| Times { start, end: self.end.min(start.saturating_add(width)), ..self };
        std::iter::successors(Some(part(self.start)), move |before| {
            before.end.checked_add(self.step).filter(|start| *start <= self.end).map(part)
        })
    }

    fn evaluations(self) -> impl Iterator<Item = i64> {
        std::iter::successors(Some(self.start), move |t| t.checked_add(self.step).filter(|t| *t <= self.end))
    }
}

/// What a query comes to at one evaluation.
pub fn at(query: &Query, at: i64, lookback_ms: i64, source: &dyn Source, budget: &Budget) -> Result<Matrix> {
    let params = Params { lookback_ms, ..Params::instant(&query.text, at) };
    Ok(evaluate(&query.expr, &params, source, budget)?.matrix)
}

/// The same at each of the evaluations of `looks`: at once where no step of the query sees the others.
fn over(query: &Query, looks: Times, source: &dyn Source, budget: &Budget) -> Result<Matrix> {
    let Times { start, end, step, lookback_ms, .. } = looks;
    if start < end && alone(&query.expr, &query.text, step, lookback_ms).is_some() {
        let params = Params { lookback_ms, ..Params::range(&query.text, start, end, step) };
        let Answer { matrix, .. } = evaluate(&query.expr, &params, source, budget)?;
        return Ok(matrix);
    }
    let mut rows: BTreeMap<_, Vec<(i64, f64, Option<_>)>> = BTreeMap::new();
    for t in looks.evaluations() {
        let matrix = at(query, t, lookback_ms, source, budget)?;
        let mut histograms = matrix.histograms.into_iter().peekable();
        for (i, (labels, value)) in matrix.labels.into_iter().zip(matrix.values).enumerate() {
            let histogram = histograms.next_if(|(place, _)| *place == i).map(|(_, h)| h);
            rows.entry(labels).or_default().push((t, value, histogram));
        }
    }
    let mut all = Matrix::default();
    for (labels, samples) in rows {
        for (t, value, histogram) in samples {
            match histogram {
                Some(histogram) => all.push_histogram(t, histogram),
                None => {
                    all.timestamps.push(t);
                    all.values.push(value);
                }
            }
        }
        all.end_row(labels);
    }
    Ok(all)
}

/// Takes what happened, part by part.
pub trait Sink: Send {
    /// Also what nobody is told; else only what changes whether it fires or flaps, or is told.
    const ALL: bool;
    /// Parts come in the order of time; in a part that order holds for each level of each instance alone.
    fn take(&mut self, changes: Vec<Change>);
}

impl Sink for Vec<Change> {
    const ALL: bool = true;

    fn take(&mut self, mut changes: Vec<Change>) {
        order(&mut changes);
        self.extend(changes);
    }
}

/// What alerts would have done, each told to its sink: each begins at rest at the first evaluation. Variants of one statement share their
/// queries. Fails as queries do, and where a query fails at any evaluation, or two samples are one alert. Without `render`
/// labels that are templates tell no instances apart.
pub fn backtest<S: Sink>(
    plans: Vec<(&Plan, S)>,
    mutings: &[Muting],
    times: Times,
    source: &dyn Source,
    budget: &Budget,
    mut render: Option<&mut Render<'_>>,
) -> Result<Vec<S>> {
    times.check()?;
    let (queries, kinds, mut groups) = sorted(plans, render.is_some());
    for part in times.parts() {
        let evaluations: Vec<i64> = part.evaluations().collect();
        let looks = Times { start: part.start - times.offset_ms, end: part.end - times.offset_ms, ..times };
        let mark = budget.mark();
        let evaluated = queries.iter().map(|query| over(query, looks, source, budget));
        let mut answers = evaluated.collect::<Result<Vec<Matrix>>>()?;
        if times.offset_ms != 0 {
            answers.iter_mut().flat_map(|m| &mut m.timestamps).for_each(|t| *t += times.offset_ms);
        }
        // Variants of one statement read the same rows, which are gathered once.
        let mut own = Vec::with_capacity(kinds.len());
        for kind in &kinds {
            let answers: Vec<&Matrix> = kind.queries.iter().map(|q| &answers[*q]).collect();
            own.push(match render.as_mut().filter(|_| kind.rendered) {
                Some(render) => rendered(kind.plan, &answers, render)?,
                None => Vec::new(),
            });
        }
        let gathered = kinds.iter().zip(&own).map(|(kind, own)| {
            let shared = kind.queries.iter().map(|q| &answers[*q]);
            let answers = if own.is_empty() { shared.collect() } else { own.iter().collect() };
            Readings::new(kind.plan, &evaluations, answers)
        });
        let gathered: Vec<Readings<'_>> = gathered.collect();
        groups.par_iter_mut().try_for_each(|group| {
            budget.check()?;
            let readings = &gathered[group.kind];
            group.runs.first().map_or(Ok(()), |run| check(run.plan, readings))?;
            let mut machines: Vec<_> =
                group.runs.iter_mut().map(|run| (run.plan, &mut run.machine)).collect();
            let found = together(&mut machines, Pass { readings, mutings, failed: false, all: S::ALL });
            for (run, changes) in group.runs.iter_mut().zip(found) {
                run.sink.take(changes);
            }
            Ok::<_, Error>(())
        })?;
        budget.settle(mark, 0)?;
    }
    let mut runs: Vec<Run<'_, S>> = groups.into_iter().flat_map(|group| group.runs).collect();
    runs.sort_by_key(|run| run.place);
    Ok(runs.into_iter().map(|run| run.sink).collect())
}

/// Queries by their places, and what makes instances of their rows.
struct Kind<'p> {
    plan: &'p Plan,
    queries: Vec<usize>,
    /// Its templates are rendered into the rows: they are of one plan alone.
    rendered: bool,
}

impl Kind<'_> {
    fn is(&self, other: &Kind<'_>) -> bool {
        let alike = self.plan.by == other.plan.by && self.plan.own == other.plan.own;
        !self.rendered && !other.rendered && alike && self.queries == other.queries
    }
}

struct Run<'p, S> {
    /// Among the plans as they were given.
    place: usize,
    plan: &'p Plan,
    machine: Machine,
    sink: S,
}

/// Runs that read the same conditions: they differ in times alone.
struct Group<'p, S> {
    kind: usize,
    runs: Vec<Run<'p, S>>,
}

/// Queries, kinds of readings, groups of runs.
type Sorted<'p, S> = (Vec<&'p Query>, Vec<Kind<'p>>, Vec<Group<'p, S>>);

/// Each query once, each kind of readings once, and a run a plan.
fn sorted<S>(plans: Vec<(&Plan, S)>, renders: bool) -> Sorted<'_, S> {
    let (mut queries, mut kinds, mut groups) = (Vec::new(), Vec::new(), Vec::<Group<'_, S>>::new());
    for (place, (plan, sink)) in plans.into_iter().enumerate() {
        let places =
            plan.queries.iter().map(|query| found(&mut queries, query, |a, b| a.text == b.text)).collect();
        let rendered = renders && !plan.templates.is_empty();
        let kind = Kind { plan, queries: places, rendered };
        let kind = found(&mut kinds, kind, Kind::is);
        let run = Run { place, plan, machine: Machine::default(), sink };
        let reads = |run: &Run<'_, S>| run.plan.reads_as(plan);
        let fits = |group: &&mut Group<'_, S>| {
            group.kind == kind && group.runs.len() < GROUP_MAX && group.runs.first().is_some_and(reads)
        };
        match groups.iter_mut().find(fits) {
            Some(group) => group.runs.push(run),
            None => groups.push(Group { kind, runs: vec![run] }),
        }
    }
    (queries, kinds, groups)
}

/// The place of a thing among those known, which it joins if it is new.
fn found<T>(known: &mut Vec<T>, thing: T, same: impl Fn(&T, &T) -> bool) -> usize {
    let place = known.iter().position(|other| same(other, &thing));
    place.unwrap_or_else(|| {
        known.push(thing);
        known.len() - 1
    })
}
