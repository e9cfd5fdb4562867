//! Many runs over the same instances: each instance at once for all of them, so that its values are read once.

use std::collections::HashMap;

use metricsdb_model::{Budget, Labels, Result};
use rayon::prelude::*;

use super::compile::Plan;
use super::machine::{Instance, LevelState, Muting};
use super::readings::Readings;
use super::run::{Candidate, Run, Sink};
use super::signals::{Signals, Tests, Wire};

/// Runs that read the same conditions: they differ in times alone.
pub(super) struct Group<'p> {
    wires: Vec<Wire>,
    /// Plans with their places among those of the sinks.
    runs: Vec<(usize, &'p Plan)>,
}

/// Runs over the same readings, all of which the instances of an alert go through one by one.
#[derive(Default)]
pub(super) struct Lanes<'p> {
    tests: Tests,
    groups: Vec<Group<'p>>,
    /// Of all instances that were met.
    numbers: HashMap<Labels, usize>,
    lanes: Vec<Lane>,
}

/// An instance.
struct Lane {
    labels: Labels,
    /// Among the readings.
    place: Option<usize>,
    /// Of runs in which it is not at rest, in the order of groups.
    states: Vec<(usize, Instance)>,
}

impl<'p> Lanes<'p> {
    /// One more run, whose sinks are at `place`.
    pub fn join(&mut self, place: usize, plan: &'p Plan) {
        let wires = self.tests.wire(plan);
        match self.groups.iter_mut().find(|group| group.wires == wires) {
            Some(group) => group.runs.push((place, plan)),
            None => self.groups.push(Group { wires, runs: vec![(place, plan)] }),
        }
    }

    /// A plan for each of the conditions that are read.
    pub fn plans(&self) -> impl Iterator<Item = &'p Plan> {
        self.groups.iter().filter_map(|group| group.runs.first()).map(|(_, plan)| *plan)
    }

    /// The number of an instance that was met.
    pub fn number(&self, labels: &Labels) -> usize {
        self.numbers.get(labels).copied().unwrap_or_default()
    }

    /// The number of an instance that may be new.
    pub fn meet(&mut self, labels: &Labels) -> usize {
        let Lanes { numbers, lanes, .. } = self;
        *numbers.entry(labels.clone()).or_insert_with(|| {
            lanes.push(Lane { labels: labels.clone(), place: None, states: Vec::new() });
            lanes.len() - 1
        })
    }

    /// Finds the instances among other readings.
    pub fn turn(&mut self, readings: &Readings<'_>) {
        self.lanes.iter_mut().for_each(|lane| lane.place = None);
        for place in 0..readings.len() {
            let number = self.meet(readings.labels(place));
            self.lanes[number].place = Some(place);
        }
    }

    /// All runs go on by the evaluations of the readings. `sinks`: one of each run for each part of the
    /// instances, which go on side by side.
    pub fn go_on<S: Sink>(
        &mut self,
        readings: &Readings<'_>,
        mutings: &[Muting],
        sinks: &mut [Vec<S>],
        budget: &Budget,
    ) -> Result<()> {
        let width = self.lanes.len().div_ceil(sinks.len()).max(1);
        let parts = self.lanes.par_chunks_mut(width).zip(sinks).enumerate();
        let (tests, groups) = (&self.tests, &self.groups);
        parts.try_for_each(|(part, (lanes, sinks))| {
            let mut signals = Signals::new(tests, readings);
            for (i, lane) in lanes.iter_mut().enumerate() {
                budget.check()?;
                signals.turn(lane.place);
                lane.go_on(part * width + i, groups, &mut signals, mutings, sinks);
            }
            Ok(())
        })
    }

    /// Tells the sinks what still fires at the end.
    pub fn finish<S: Sink>(&self, end: i64, sinks: &mut [S]) {
        for (run, state) in self.lanes.iter().flat_map(|lane| &lane.states) {
            let firing = state.levels.iter().filter(|level| level.is_firing());
            firing.for_each(|level: &LevelState| sinks[*run].open(level.firing_at, end));
        }
    }
}

impl Lane {
    fn go_on<S: Sink>(
        &mut self,
        number: usize,
        groups: &[Group<'_>],
        signals: &mut Signals<'_>,
        mutings: &[Muting],
        sinks: &mut [S],
    ) {
        let readings = signals.readings();
        let known = std::mem::take(&mut self.states);
        self.states.reserve(known.len());
        let mut states = known.into_iter().peekable();
        let mut candidate = Candidate::new(&self.labels, number, self.place);
        for group in groups {
            let moves = |plan: &Plan| self.place.is_some_and(|place| !readings.rests(plan, place));
            let fresh = group.runs.first().is_some_and(|(_, plan)| moves(plan));
            let own = |run: usize| group.runs.iter().any(|(known, _)| *known == run);
            if !fresh && !states.peek().is_some_and(|(run, _)| own(*run)) {
                continue;
            }
            let words = signals.words(&group.wires);
            for (run, plan) in &group.runs {
                let state = states.next_if(|(known, _)| known == run).map(|(_, state)| state);
                if !fresh && state.is_none() {
                    continue;
                }
                candidate.enter(plan, state);
                let over = Run { plan, readings, mutings, failed: false, all: S::ALL };
                over.instance(&mut candidate, words, &mut sinks[*run]);
                if let Some(state) = candidate.leave() {
                    self.states.push((*run, state));
                }
            }
        }
    }
}
