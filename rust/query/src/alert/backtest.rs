//! Queries of alerts, live and over stored history, through the one evaluator.

use std::collections::BTreeMap;

use metricsdb_model::{Answer, Budget, Error, Labels, Matrix, Result, Source};
use rayon::prelude::*;

use super::compile::{Plan, Query};
use super::identity::{Render, check, rendered};
use super::lanes::Lanes;
use super::machine::{Machine, Muting};
use super::readings::Readings;
use super::run::{Run, Sink};
use crate::exec::{Params, alone, evaluate};

/// Evaluations whose answers stand in memory at once.
const STEPS_PER_CHUNK: i64 = 1024;

/// Parts of the instances that go on side by side: more than a machine has cores, for some are slower.
const PARTS: usize = 32;

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

/// What alerts would have done, each told to its sink: each begins at rest at the first evaluation. Variants of one statement share their
/// queries. Fails as queries do, and where a query fails at any evaluation, or two samples are one alert. Without `render`
/// labels that are templates tell no instances apart. O(samples), and O(changes of bits) for each plan.
pub fn backtest<S: Sink>(
    plans: Vec<(&Plan, S)>,
    mutings: &[Muting],
    times: Times,
    source: &dyn Source,
    budget: &Budget,
    mut render: Option<&mut Render<'_>>,
) -> Result<Vec<S>> {
    times.check()?;
    let (plans, mut sinks): (Vec<&Plan>, Vec<S>) = plans.into_iter().unzip();
    let (queries, mut kinds) = sorted(&plans, &sinks, render.is_some());
    for part in times.parts() {
        let evaluations: Vec<i64> = part.evaluations().collect();
        let looks = Times { start: part.start - times.offset_ms, end: part.end - times.offset_ms, ..times };
        let mark = budget.mark();
        let evaluated = queries.iter().map(|query| over(query, looks, source, budget));
        let mut answers = evaluated.collect::<Result<Vec<Matrix>>>()?;
        if times.offset_ms != 0 {
            answers.iter_mut().flat_map(|m| &mut m.timestamps).for_each(|t| *t += times.offset_ms);
        }
        for kind in &mut kinds {
            let shared: Vec<&Matrix> = kind.queries.iter().map(|q| &answers[*q]).collect();
            let own = match render.as_mut().filter(|_| kind.rendered) {
                Some(render) => rendered(kind.plan, &shared, render)?,
                None => Vec::new(),
            };
            let answers = if own.is_empty() { shared } else { own.iter().collect() };
            kind.go_on(&Readings::new(kind.plan, &evaluations, answers), mutings, budget)?;
        }
        budget.settle(mark, 0)?;
    }
    for kind in kinds {
        let places = kind.places.clone();
        places.into_iter().zip(kind.finish(times.end)).for_each(|(place, sink)| sinks[place] = sink);
    }
    Ok(sinks)
}

/// Plans that read the same rows: of the same queries, whose rows make the same instances.
struct Kind<'p, S> {
    /// One of them.
    plan: &'p Plan,
    queries: Vec<usize>,
    /// Its templates are rendered into the rows: they are of one plan alone.
    rendered: bool,
    /// Where its plans stand among all.
    places: Vec<usize>,
    lanes: Lanes<'p>,
    capped: Vec<Capped<'p, S>>,
    /// Of each part of the instances, one of each plan.
    parts: Vec<Vec<S>>,
    /// One of each plan for what is of no part.
    whole: Vec<S>,
}

/// A run with a cap, whose instances go on together.
struct Capped<'p, S> {
    /// Of its sink among those of its kind.
    place: usize,
    plan: &'p Plan,
    machine: Machine,
    sink: S,
}

impl<S: Sink> Kind<'_, S> {
    fn go_on(&mut self, readings: &Readings<'_>, mutings: &[Muting], budget: &Budget) -> Result<()> {
        let capped = self.capped.iter().map(|one| one.plan);
        self.lanes.plans().chain(capped).try_for_each(|plan| check(plan, readings))?;
        self.lanes.turn(readings);
        self.lanes.go_on(readings, mutings, &mut self.parts, budget)?;
        let number = |labels: &Labels| self.lanes.number(labels);
        self.capped.par_iter_mut().try_for_each(|one| {
            let run = Run { plan: one.plan, readings, mutings, failed: false, all: S::ALL };
            one.machine.together(&run, &number, &mut one.sink);
            budget.check()
        })
    }

    fn finish(mut self, end: i64) -> Vec<S> {
        self.lanes.finish(end, &mut self.whole);
        for mut one in self.capped {
            one.machine.firing_since().for_each(|since| one.sink.open(since, end));
            self.whole[one.place] = one.sink;
        }
        let all = self.parts.into_iter().chain([self.whole]);
        let mut parts: Vec<_> = all.map(Vec::into_iter).collect();
        let next = |_| S::join(parts.iter_mut().filter_map(Iterator::next).collect());
        self.places.iter().map(next).collect()
    }
}

/// Each query once, and each kind of plans.
fn sorted<'p, S: Sink>(plans: &[&'p Plan], sinks: &[S], renders: bool) -> (Vec<&'p Query>, Vec<Kind<'p, S>>) {
    let (mut queries, mut kinds) = (Vec::new(), Vec::<Kind<'_, S>>::new());
    for (place, plan) in plans.iter().copied().enumerate() {
        let places: Vec<usize> =
            plan.queries.iter().map(|query| found(&mut queries, query, |a, b| a.text == b.text)).collect();
        let rendered = renders && !plan.templates.is_empty();
        let alike = |kind: &Kind<'_, S>| {
            let labels = kind.plan.by == plan.by && kind.plan.own == plan.own;
            !rendered && !kind.rendered && labels && kind.queries == places
        };
        let at = kinds.iter().position(alike).unwrap_or(kinds.len());
        if at == kinds.len() {
            kinds.push(Kind {
                plan,
                queries: places,
                rendered,
                places: Vec::new(),
                lanes: Lanes::default(),
                capped: Vec::new(),
                parts: (0..PARTS).map(|_| Vec::new()).collect(),
                whole: Vec::new(),
            });
        }
        let kind = &mut kinds[at];
        let own = kind.places.len();
        kind.places.push(place);
        let all = kind.parts.iter_mut().chain([&mut kind.whole]);
        all.for_each(|part| part.push(sinks[place].fresh()));
        match plan.rules.cap {
            None => kind.lanes.join(own, plan),
            Some(_) => {
                // What stands for those past the cap.
                kind.lanes.meet(&Labels::empty());
                let (machine, sink) = (Machine::default(), sinks[place].fresh());
                kind.capped.push(Capped { place: own, plan, machine, sink });
            }
        }
    }
    (queries, kinds)
}

/// The place of a thing among those known, which it joins if it is new.
fn found<T>(known: &mut Vec<T>, thing: T, same: impl Fn(&T, &T) -> bool) -> usize {
    let place = known.iter().position(|other| same(other, &thing));
    place.unwrap_or_else(|| {
        known.push(thing);
        known.len() - 1
    })
}
