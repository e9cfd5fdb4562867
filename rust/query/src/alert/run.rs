//! A machine over many evaluations: only those that change something are stepped.

use std::sync::Arc;

use metricsdb_model::Labels;

use super::compile::Plan;
use super::machine::{Change, Instance, LevelState, Machine, Muting, Phase, Sleep, State};
use super::readings::Readings;
use super::signals::{Signals, Tests, WORD, Word};

/// What a level of an instance looks like from outside.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    pub state: State,
    /// Also while it clears or nobody knows.
    pub firing: bool,
    pub flapping: bool,
    /// Since when, where it fires.
    pub firing_at: i64,
}

/// Something that happened to a level of an instance, as `Change`.
#[derive(Debug)]
pub struct Event<'e> {
    /// Time of the evaluation, ms.
    pub at: i64,
    /// The same number for the same labels, from 0 on; live it is 0.
    pub instance: usize,
    pub labels: &'e Labels,
    pub level: Option<usize>,
    pub from: Shown,
    pub to: Shown,
    /// Of no meaning where a sink does not take all.
    pub value: f64,
    pub notify: bool,
    pub muted: Option<Arc<str>>,
}

/// Takes what happened.
pub trait Sink: Send {
    /// Also what nobody is told, with values; else only what changes whether it fires or flaps, or is told.
    const ALL: bool;
    /// In the order of time for each level of each instance alone.
    fn take(&mut self, event: Event<'_>);
    /// At the end a level still fires, since `since`.
    fn open(&mut self, since: i64, end: i64);
    /// One for the same rehearsal that has taken nothing.
    fn fresh(&self) -> Self;
    /// Of those that took the parts of a rehearsal.
    fn join(parts: Vec<Self>) -> Self
    where
        Self: Sized;
}

impl Sink for Vec<Change> {
    const ALL: bool = true;

    fn take(&mut self, event: Event<'_>) {
        self.push(Change {
            at: event.at,
            labels: event.labels.clone(),
            level: event.level,
            from: event.from.state,
            to: event.to.state,
            value: event.value,
            since: event.since(),
            firing: event.to.firing,
            flapping: event.to.flapping,
            notify: event.notify,
            muted: event.muted,
        });
    }

    fn open(&mut self, _: i64, _: i64) {}

    fn fresh(&self) -> Vec<Change> {
        Vec::new()
    }

    fn join(parts: Vec<Vec<Change>>) -> Vec<Change> {
        let mut all: Vec<Change> = parts.into_iter().flatten().collect();
        order(&mut all);
        all
    }
}

impl Event<'_> {
    /// Since when it fires, or fired until now.
    pub fn since(&self) -> Option<i64> {
        let fired = |shown: Shown| shown.firing.then_some(shown.firing_at);
        fired(self.to).or(fired(self.from))
    }
}

/// In the order of time, labels, level; what stands for all instances comes last.
pub(super) fn order(changes: &mut [Change]) {
    let key = |c: &Change| (c.at, c.level.is_none());
    changes.sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| (&a.labels, a.level).cmp(&(&b.labels, b.level))));
}

/// A plan over evaluations.
#[derive(Clone, Copy)]
pub(super) struct Run<'r> {
    pub plan: &'r Plan,
    pub readings: &'r Readings<'r>,
    pub mutings: &'r [Muting],
    /// The queries failed at all of them.
    pub failed: bool,
    /// `Sink::ALL`.
    pub all: bool,
}

/// An instance in a run.
pub(super) struct Candidate<'l> {
    state: Instance,
    labels: &'l Labels,
    /// Its number among those of the rehearsal.
    number: usize,
    /// Its place among the readings, where it has any.
    place: Option<usize>,
    /// Up to which evaluation the value of each level is known.
    valued: Vec<usize>,
    before: Vec<Shown>,
}

impl<'l> Candidate<'l> {
    pub fn new(labels: &'l Labels, number: usize, place: Option<usize>) -> Candidate<'l> {
        let (state, valued, before) = (Instance::default(), Vec::new(), Vec::new());
        Candidate { state, labels, number, place, valued, before }
    }

    /// Begins a run: from a state, or from rest.
    pub fn enter(&mut self, plan: &Plan, state: Option<Instance>) {
        let levels = plan.levels.len();
        match state {
            Some(state) => self.state = state,
            None => {
                self.state.folded = false;
                self.state.levels.clear();
                self.state.levels.resize(levels, LevelState::default());
            }
        }
        self.valued.clear();
        self.valued.resize(levels, 0);
    }

    /// The state to be kept, unless it is at rest.
    pub fn leave(&mut self) -> Option<Instance> {
        (!self.state.is_at_rest()).then(|| std::mem::take(&mut self.state))
    }
}

impl Machine {
    /// Goes on by the evaluations of the readings, which follow all before. `failed`: the queries failed at all of
    /// them. Returns what happened in the order of time, labels, level. O(changes of bits of instances not at rest), and
    /// O(values) to find those that leave it.
    pub fn run(
        &mut self,
        plan: &Plan,
        readings: &Readings<'_>,
        mutings: &[Muting],
        failed: bool,
    ) -> Vec<Change> {
        let run = Run { plan, readings, mutings, failed, all: true };
        let mut changes = Vec::new();
        if readings.times().is_empty() {
            return changes;
        }
        if plan.rules.cap.is_some() {
            self.together(&run, &|_| 0, &mut changes);
        } else {
            self.one_by_one(&run, &mut changes);
        }
        order(&mut changes);
        changes
    }

    /// Those that are not at rest or may leave it: labels and place among the readings.
    fn moving(&self, run: &Run<'_>) -> Vec<(Labels, Option<usize>)> {
        let readings = run.readings;
        let known = self.instances.keys().map(|labels| (labels.clone(), readings.find(labels)));
        let fresh = (0..readings.len()).filter(|place| !readings.rests(run.plan, *place));
        let fresh = fresh.map(|place| (readings.labels(place), place));
        let fresh = fresh.filter(|(labels, _)| !self.instances.contains_key(labels));
        known.chain(fresh.map(|(labels, place)| (labels.clone(), Some(place)))).collect()
    }

    fn one_by_one<S: Sink>(&mut self, run: &Run<'_>, sink: &mut S) {
        let mut tests = Tests::default();
        let wires = tests.wire(run.plan);
        let mut signals = Signals::new(&tests, run.readings);
        for (labels, place) in self.moving(run) {
            signals.turn(place);
            let mut candidate = Candidate::new(&labels, 0, place);
            candidate.enter(run.plan, self.instances.remove(&labels));
            run.instance(&mut candidate, signals.words(&wires), sink);
            if let Some(state) = candidate.leave() {
                self.instances.insert(labels, state);
            }
        }
    }

    /// Where every instance waits for all others at each evaluation. `number` gives those of labels.
    pub(super) fn together<S: Sink>(
        &mut self,
        run: &Run<'_>,
        number: &impl Fn(&Labels) -> usize,
        sink: &mut S,
    ) {
        let mut tests = Tests::default();
        let wires = tests.wire(run.plan);
        let mut signals = Signals::new(&tests, run.readings);
        let mut tracked = self.moving(run);
        tracked.sort_by(|a, b| a.0.cmp(&b.0));
        let mut all: Vec<Candidate<'_>> = Vec::with_capacity(tracked.len());
        let mut words: Vec<Vec<Word>> = Vec::with_capacity(tracked.len());
        for (labels, place) in &tracked {
            let mut candidate = Candidate::new(labels, number(labels), *place);
            candidate.enter(run.plan, self.instances.remove(labels));
            all.push(candidate);
            signals.turn(*place);
            words.push(signals.words(&wires).to_vec());
        }
        for step in 0..run.readings.times().len() {
            for (candidate, words) in all.iter_mut().zip(&words) {
                run.advance(candidate, step, words);
            }
            self.fold(run, &mut all, step, number, sink);
        }
        for mut candidate in all {
            run.value_all(&mut candidate);
            if let Some(state) = candidate.leave() {
                self.instances.insert(candidate.labels.clone(), state);
            }
        }
    }

    /// After one evaluation of all instances: those past the cap are known before anybody is told.
    fn fold<S: Sink>(
        &mut self,
        run: &Run<'_>,
        all: &mut [Candidate<'_>],
        step: usize,
        number: &impl Fn(&Labels) -> usize,
        sink: &mut S,
    ) {
        let at = run.readings.times()[step];
        let cap = run.plan.rules.cap.map_or(usize::MAX, |cap| cap as usize);
        let fired = |candidate: &Candidate<'_>| candidate.before.iter().any(|before| before.firing);
        let counts = all.iter().filter(|c| c.state.is_firing() && fired(c) && !c.state.folded);
        let mut shown = counts.count();
        for candidate in all.iter_mut() {
            let fired = fired(candidate);
            let state = &mut candidate.state;
            if !state.is_firing() {
                state.folded = false;
            } else if !fired {
                state.folded = shown >= cap;
                shown += usize::from(!state.folded);
            }
        }
        for candidate in all.iter_mut() {
            run.announce(candidate, step, sink);
            if candidate.state.is_at_rest() {
                candidate.state.forget();
            }
        }
        let folded = all.iter().filter(|candidate| candidate.state.folded).count();
        let since = self.folded_at;
        if (folded > 0) != since.is_some() {
            self.folded_at = (folded > 0).then_some(at);
            let labels = Labels::empty();
            let shown = |since: Option<i64>| Shown {
                state: if since.is_some() { State::Firing } else { State::Inactive },
                firing: since.is_some(),
                flapping: false,
                firing_at: since.unwrap_or(at),
            };
            let (from, to) = (shown(since), shown(self.folded_at));
            let (instance, value) = (number(&labels), folded as f64);
            let (labels, level, notify, muted) = (&labels, None, true, None);
            sink.take(Event { at, instance, labels, level, from, to, value, notify, muted });
        }
    }
}

impl Run<'_> {
    /// All evaluations of an instance. `words` are those of `Signals::words`.
    pub fn instance<S: Sink>(&self, candidate: &mut Candidate<'_>, words: &[Word], sink: &mut S) {
        let steps = self.readings.times().len();
        let mut step = self.wakes(&candidate.state, 0, words);
        while step < steps {
            if self.advance(candidate, step, words) {
                self.announce(candidate, step, sink);
            }
            if candidate.state.is_at_rest() {
                candidate.state.forget();
            }
            step = self.wakes(&candidate.state, step + 1, words);
        }
        self.value_all(candidate);
    }

    /// The first evaluation from `step` on that may not leave an instance as it is, as far as the sink asks.
    fn wakes(&self, state: &Instance, step: usize, words: &[Word]) -> usize {
        let steps = self.readings.times().len();
        if self.failed {
            return if state.is_at_rest() { steps } else { step };
        }
        let levels = state.levels.iter().zip(&self.plan.rules.levels);
        let mut first = steps;
        for ((level, timing), words) in levels.zip(words.chunks(steps.div_ceil(WORD))) {
            let Some(sleep) = level.sleep(&self.plan.rules, timing, self.all) else { return step };
            first = self.ends(&sleep, step, first, words);
        }
        first
    }

    /// When a sleep ends, if before `most`.
    #[inline]
    fn ends(&self, sleep: &Sleep, step: usize, most: usize, words: &[Word]) -> usize {
        let times = self.readings.times();
        let mut found = next(words, step, most, |word| sleep.ends(word));
        while sleep.short_ms > 0 && found < most {
            let over = next(words, found, times.len(), |word| !word.fire);
            // What goes on past the last evaluation may last.
            if over == times.len() || times[over - 1].saturating_sub(times[found]) >= sleep.short_ms {
                break;
            }
            found = next(words, over, most, |word| word.fire);
        }
        match times[step.min(found)..found].last() {
            Some(last) if *last >= sleep.until => {
                step + times[step..found].partition_point(|t| *t < sleep.until)
            }
            _ => found,
        }
    }

    /// The states after an evaluation; those before are kept beside. Whether there may be anything to tell.
    fn advance(&self, candidate: &mut Candidate<'_>, step: usize, words: &[Word]) -> bool {
        let rules = &self.plan.rules;
        let now = self.readings.times()[step];
        let stride = self.readings.times().len().div_ceil(WORD);
        candidate.before.clear();
        let mut news = false;
        for (l, (state, timing)) in candidate.state.levels.iter_mut().zip(&rules.levels).enumerate() {
            let before = shown(state);
            candidate.before.push(before);
            let seen = words[l * stride + step / WORD].at(step);
            state.step(rules, timing, now, (!self.failed).then_some(seen));
            if before.state == State::Inactive {
                // What it is from here on is of interest.
                candidate.valued[l] = step;
            }
            news |= before.firing != state.is_firing()
                || state.is_firing() != state.announced
                || (self.all && before.state != state.shown())
                || before.flapping != state.flapping.on;
        }
        news
    }

    /// Takes over the last value of a level up to an evaluation, where the sink asks for values.
    fn value(&self, candidate: &mut Candidate<'_>, level: usize, step: usize) {
        let Some(place) = candidate.place.filter(|_| self.all && !self.failed) else { return };
        let mut steps = (candidate.valued[level]..=step).rev();
        if let Some(value) = steps.find_map(|step| self.readings.value(self.plan, level, place, step)) {
            candidate.state.levels[level].value = value;
        }
        candidate.valued[level] = step + 1;
    }

    /// The same for all that are active, at the end.
    fn value_all(&self, candidate: &mut Candidate) {
        for level in 0..candidate.state.levels.len() {
            if candidate.state.levels[level].phase != Phase::Inactive {
                self.value(candidate, level, self.readings.times().len() - 1);
            }
        }
    }

    /// Tells what happened, and whom: the highest level that fires goes first.
    fn announce<S: Sink>(&self, candidate: &mut Candidate<'_>, step: usize, sink: &mut S) {
        let highest = candidate.state.levels.iter().rposition(LevelState::is_firing);
        for level in 0..candidate.state.levels.len() {
            self.event(candidate, level, highest, step).into_iter().for_each(|event| sink.take(event));
        }
    }

    fn event<'l>(
        &self,
        candidate: &mut Candidate<'l>,
        level: usize,
        highest: Option<usize>,
        step: usize,
    ) -> Option<Event<'l>> {
        let at = self.readings.times()[step];
        let (mut muted, mut notify) = (None, false);
        let state = &mut candidate.state.levels[level];
        if state.is_firing() && !state.announced {
            muted = if highest != Some(level) {
                Some("level".into())
            } else if candidate.state.folded {
                Some("cap".into())
            } else if state.flapping.mutes(self.plan.rules.flap) {
                Some("flap".into())
            } else {
                self.muted(candidate.labels, level, at)
            };
            notify = muted.is_none();
            state.announced = notify;
        } else if !state.is_firing() {
            notify = std::mem::take(&mut state.announced);
        }
        let (from, to) = (candidate.before[level], shown(state));
        let changed =
            from.firing != to.firing || from.flapping != to.flapping || (self.all && from.state != to.state);
        if !changed && !notify {
            return None;
        }
        self.value(candidate, level, step);
        let (instance, value) = (candidate.number, candidate.state.levels[level].value);
        let (labels, level) = (candidate.labels, Some(level));
        Some(Event { at, instance, labels, level, from, to, value, notify, muted })
    }

    /// The reason of the first muting that is about a level of an instance.
    fn muted(&self, labels: &Labels, level: usize, now: i64) -> Option<Arc<str>> {
        let own = &self.plan.levels[level].labels;
        let value =
            |name: &str| own.iter().find(|(known, _)| known == name).map_or(labels.value(name), |(_, v)| v);
        let found = self.mutings.iter().find(|muting| {
            (muting.from_ms..muting.until_ms).contains(&now)
                && muting.labels.iter().all(|(name, wanted)| value(name) == wanted)
        });
        found.map(|muting| muting.reason.clone())
    }
}

/// The first evaluation from `step` on with a bit, if before `most`.
#[inline]
fn next(words: &[Word], step: usize, most: usize, bits: impl Fn(Word) -> u64) -> usize {
    let mut place = step / WORD;
    let mut mask = u64::MAX << (step % WORD);
    while place * WORD < most {
        let found = bits(words[place]) & mask;
        if found != 0 {
            return most.min(place * WORD + found.trailing_zeros() as usize);
        }
        (place, mask) = (place + 1, u64::MAX);
    }
    most
}

#[inline]
fn shown(level: &LevelState) -> Shown {
    Shown {
        state: level.shown(),
        firing: level.is_firing(),
        flapping: level.flapping.on,
        firing_at: level.firing_at,
    }
}
