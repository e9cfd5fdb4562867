//! The machine: readings to transitions. `docs/alerts.md` has the table that this is.
//!
//! Each level of each instance has a state of its own. Only instances that are not at rest are kept. What they do not
//! know of each other is run instance by instance over all evaluations; with `CAP`, evaluation by evaluation.

use std::collections::BTreeMap;
use std::sync::Arc;

use metricsdb_model::Labels;

use super::compile::{Plan, Rules, Timing};
use super::flap::Flapping;
use super::readings::{ALL, BLOCK, CLEAR, DATA, FIRE, Readings};
use crate::syntax::statement::{Damp, OnError, OnNoData};

/// What a level of an instance shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Inactive,
    Pending,
    Firing,
    Clearing,
    /// Active, but for want of data nobody knows.
    Unknown,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Inactive => "inactive",
            State::Pending => "pending",
            State::Firing => "firing",
            State::Clearing => "clearing",
            State::Unknown => "unknown",
        }
    }
}

/// Something that happened to a level of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Time of the evaluation, ms.
    pub at: i64,
    pub labels: Labels,
    /// `None`: the one alert that stands for all instances past `CAP`, whose value is their count.
    pub level: Option<usize>,
    pub from: State,
    /// As `from` where it is only marked as flapping, or somebody is told late.
    pub to: State,
    pub value: f64,
    /// Since when it fires, or fired until now.
    pub since: Option<i64>,
    /// It fires after this, also while it clears or nobody knows.
    pub firing: bool,
    pub flapping: bool,
    /// Somebody is told: that it fires, or that it is over.
    pub notify: bool,
    /// Why nobody is told though it fires.
    pub muted: Option<Arc<str>>,
}

/// For a while nobody is told of some instances, while their state goes on.
#[derive(Clone, Debug)]
pub struct Muting {
    pub from_ms: i64,
    /// Exclusive.
    pub until_ms: i64,
    /// What labels of an instance must be, all of them.
    pub labels: Vec<(String, String)>,
    pub reason: Arc<str>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Inactive,
    Pending,
    Firing,
    Clearing,
}

/// One level of one instance. Times are milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct LevelState {
    pub phase: Phase,
    pub pending_at: i64,
    pub firing_at: i64,
    pub clearing_at: i64,
    /// The first evaluation without fire since the last with it.
    pub quiet_at: Option<i64>,
    /// The last evaluations, the newest in the lowest bit: fire since pending, clear since firing.
    pub fired: u64,
    pub cleared: u64,
    pub nodata_at: Option<i64>,
    pub unknown: bool,
    /// Somebody was told that it fires.
    pub announced: bool,
    /// When it was resolved, until the cool-down is over.
    pub resolved_at: Option<i64>,
    pub value: f64,
    pub flapping: Flapping,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Instance {
    pub levels: Vec<LevelState>,
    /// Past `CAP`: told of by the summary alone.
    pub folded: bool,
}

/// What is known of all instances of one alert between two evaluations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    pub(super) instances: BTreeMap<Labels, Instance>,
    /// Since when instances are folded.
    pub(super) folded_at: Option<i64>,
}

impl LevelState {
    fn is_firing(&self) -> bool {
        matches!(self.phase, Phase::Firing | Phase::Clearing)
    }

    fn is_at_rest(&self) -> bool {
        self.phase == Phase::Inactive && self.resolved_at.is_none() && self.flapping.is_forgotten()
    }

    pub(super) fn shown(&self) -> State {
        match self.phase {
            Phase::Inactive => State::Inactive,
            _ if self.unknown => State::Unknown,
            Phase::Pending => State::Pending,
            Phase::Firing => State::Firing,
            Phase::Clearing => State::Clearing,
        }
    }

    /// One evaluation; `bits` are those of this level alone, `None`: it failed.
    fn step(&mut self, rules: &Rules, timing: &Timing, now: i64, bits: Option<u32>) {
        if let Some(flap) = rules.flap {
            self.flapping.begin(flap, now);
        }
        if self.resolved_at.is_some_and(|at| now.saturating_sub(at) >= rules.cooldown_ms) {
            self.resolved_at = None;
        }
        let Some((fire, clear)) = self.conditions(rules, now, bits) else { return };
        self.unknown = false;
        match self.phase {
            Phase::Inactive if fire && self.resolved_at.is_none() => {
                (self.phase, self.pending_at, self.fired) = (Phase::Pending, now, 1);
                self.rise(rules, timing, now, true);
            }
            Phase::Inactive => {}
            Phase::Pending => {
                self.fired = self.fired << 1 | u64::from(fire);
                self.rise(rules, timing, now, fire);
            }
            Phase::Firing | Phase::Clearing => self.fall(rules, timing, now, fire, clear),
        }
    }

    /// Fire and clear, with what is said of errors and of no data; `None`: it stays as it is.
    fn conditions(&mut self, rules: &Rules, now: i64, bits: Option<u32>) -> Option<(bool, bool)> {
        let active = self.phase != Phase::Inactive;
        let Some(bits) = bits else {
            self.unknown |= active && rules.error == OnError::Unknown;
            return (active && rules.error == OnError::Fire).then_some((true, false));
        };
        if bits & DATA != 0 || bits & FIRE != 0 {
            self.nodata_at = None;
            let fire = bits & FIRE != 0;
            return Some((fire, bits & CLEAR != 0 && !fire));
        }
        if !active {
            return Some((false, true));
        }
        let since = *self.nodata_at.get_or_insert(now);
        if now.saturating_sub(since) < rules.nodata_after_ms {
            return None;
        }
        match rules.nodata {
            OnNoData::Clear => Some((false, true)),
            OnNoData::Fire => Some((true, false)),
            OnNoData::Keep => None,
            OnNoData::Unknown => {
                self.unknown = true;
                None
            }
        }
    }

    /// Pending, with this evaluation's fire counted: fires, waits, or gives up.
    fn rise(&mut self, rules: &Rules, timing: &Timing, now: i64, fire: bool) {
        let (fires, waits) = match timing.damp {
            None => (fire, false),
            Some(Damp::For(ms)) => (fire && now.saturating_sub(self.pending_at) >= ms, fire),
            Some(Damp::Of { count, of }) => {
                self.fired &= last(of);
                (self.fired.count_ones() >= count, can_reach(self.fired, count, of))
            }
        };
        if fires {
            (self.phase, self.firing_at, self.quiet_at, self.cleared) = (Phase::Firing, now, None, 0);
            self.change(rules, now);
        } else if !waits {
            self.end();
        }
    }

    /// Firing or clearing.
    fn fall(&mut self, rules: &Rules, timing: &Timing, now: i64, fire: bool, clear: bool) {
        if fire {
            self.quiet_at = None;
        } else {
            self.quiet_at.get_or_insert(now);
        }
        self.cleared = self.cleared << 1 | u64::from(clear);
        match (self.phase, clear) {
            (Phase::Firing, true) => {
                (self.phase, self.clearing_at) = (Phase::Clearing, now);
                self.moved(rules, now);
            }
            (Phase::Clearing, false) => {
                self.phase = Phase::Firing;
                self.moved(rules, now);
            }
            _ => {}
        }
        if self.phase == Phase::Clearing && self.is_over(rules, timing, now) {
            self.end();
            self.resolved_at = (rules.cooldown_ms > 0).then_some(now);
            self.change(rules, now);
        }
    }

    /// Clearing: whether all that it waits for is over.
    fn is_over(&mut self, rules: &Rules, timing: &Timing, now: i64) -> bool {
        let damped = match timing.clear_damp {
            None => true,
            Some(Damp::For(ms)) => now.saturating_sub(self.clearing_at) >= ms,
            Some(Damp::Of { count, of }) => {
                self.cleared &= last(of);
                self.cleared.count_ones() >= count
            }
        };
        let quiet = self.quiet_at.is_some_and(|at| now.saturating_sub(at) >= timing.keep_firing_ms);
        let held = now.saturating_sub(self.firing_at) >= timing.hold_ms;
        damped && quiet && held && !self.flapping.holds(rules.flap)
    }

    /// Inactive, and nothing is left of what it was but what outlives it.
    fn end(&mut self) {
        let (flapping, announced) = (std::mem::take(&mut self.flapping), self.announced);
        *self = LevelState { flapping, announced, value: self.value, ..LevelState::default() };
    }

    fn moved(&mut self, rules: &Rules, now: i64) {
        if rules.flap.is_some() {
            self.flapping.moved_at = now;
        }
    }

    fn change(&mut self, rules: &Rules, now: i64) {
        if let Some(flap) = rules.flap {
            self.flapping.changed(flap, now);
        }
    }
}

/// A bit for each of the last `of` evaluations.
fn last(of: u32) -> u64 {
    u64::MAX >> (64 - of)
}

/// Whether `count` of `of` can still be true with one that has been: the window of any of those true so far may
/// reach it if all that follow are.
fn can_reach(fired: u64, count: u32, of: u32) -> bool {
    (0..of).any(|age| fired >> age & 1 == 1 && (fired & last(age + 1)).count_ones() + (of - 1 - age) >= count)
}

/// One run of the machine: what holds for all instances of it.
struct Run<'r> {
    plan: &'r Plan,
    readings: &'r Readings<'r>,
    mutings: &'r [Muting],
    failed: bool,
    /// Also what nobody is told.
    all: bool,
    changes: Vec<Change>,
}

/// An instance in a run: its place among the readings, where it has any.
struct Candidate {
    labels: Labels,
    place: Option<usize>,
    /// Bits at evaluations from `first` on.
    signals: Vec<u32>,
    first: usize,
    state: Instance,
    /// Up to which evaluation the value of each level is known.
    valued: Vec<usize>,
    before: Vec<Before>,
}

impl Machine {
    /// Goes on by the evaluations of the readings, which follow all before. `failed`: the queries failed at all of
    /// them. Returns what happened in the order of time, labels, level. O(instances not at rest · evaluations), and
    /// O(values) to find those that leave it.
    pub fn run(
        &mut self,
        plan: &Plan,
        readings: &Readings<'_>,
        mutings: &[Muting],
        failed: bool,
    ) -> Vec<Change> {
        let mut changes = self.changes(plan, readings, mutings, failed, true);
        let key = |c: &Change| (c.at, c.level.is_none());
        changes.sort_by(|a, b| {
            key(a).cmp(&key(b)).then_with(|| (&a.labels, a.level).cmp(&(&b.labels, b.level)))
        });
        changes
    }

    /// The same, in the order of time for each level of each instance alone; without `all`, only what changes whether it
    /// fires or flaps, and what somebody is told.
    pub(super) fn changes(
        &mut self,
        plan: &Plan,
        readings: &Readings<'_>,
        mutings: &[Muting],
        failed: bool,
        all: bool,
    ) -> Vec<Change> {
        if readings.times().is_empty() {
            return Vec::new();
        }
        let mut run = Run { plan, readings, mutings, failed, all, changes: Vec::new() };
        let mut places = vec![false; readings.len()];
        let mut tracked: Vec<(Labels, Option<usize>)> = Vec::new();
        for labels in self.instances.keys() {
            let place = readings.find(labels);
            place.into_iter().for_each(|place| places[place] = true);
            tracked.push((labels.clone(), place));
        }
        let fresh = (0..places.len()).filter(|place| !places[*place] && !readings.rests(plan, *place));
        tracked.extend(fresh.map(|place| (readings.labels(place).clone(), Some(place))));
        tracked.sort_by(|a, b| a.0.cmp(&b.0));
        if plan.rules.cap.is_some() {
            let mut all: Vec<Candidate> =
                tracked.into_iter().map(|(labels, place)| self.candidate(&run, labels, place)).collect();
            let steps = readings.times().len();
            all.iter_mut().for_each(|candidate| run.read(candidate, 0..steps));
            for step in 0..steps {
                self.step_all(&mut run, &mut all, step);
            }
            all.iter_mut().for_each(|candidate| run.value_all(candidate));
            all.into_iter().for_each(|candidate| self.keep(candidate));
        } else {
            for (labels, place) in tracked {
                let mut candidate = self.candidate(&run, labels, place);
                run.instance(&mut candidate);
                self.keep(candidate);
            }
        }
        run.changes
    }

    fn candidate(&mut self, run: &Run<'_>, labels: Labels, place: Option<usize>) -> Candidate {
        let state = self.instances.remove(&labels).unwrap_or_else(|| Instance {
            levels: vec![LevelState::default(); run.plan.levels.len()],
            folded: false,
        });
        let valued = vec![0; run.plan.levels.len()];
        Candidate { labels, place, signals: Vec::new(), first: 0, state, valued, before: Vec::new() }
    }

    fn keep(&mut self, candidate: Candidate) {
        if !candidate.state.is_at_rest() {
            self.instances.insert(candidate.labels, candidate.state);
        }
    }

    /// One evaluation of all instances, so that those past the cap are known before anybody is told.
    fn step_all(&mut self, run: &mut Run<'_>, all: &mut [Candidate], step: usize) {
        for candidate in all.iter_mut() {
            run.advance(candidate, step);
        }
        let now = run.readings.times()[step];
        let cap = run.plan.rules.cap.map_or(usize::MAX, |cap| cap as usize);
        let fired = |candidate: &Candidate| candidate.before.iter().any(|before| before.firing);
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
            run.announce(candidate, step);
            if candidate.state.is_at_rest() {
                candidate.state.forget();
            }
        }
        let folded = all.iter().filter(|candidate| candidate.state.folded).count();
        if (folded > 0) != self.folded_at.is_some() {
            let (from, to) =
                if folded > 0 { (State::Inactive, State::Firing) } else { (State::Firing, State::Inactive) };
            let (at, labels, level, value, firing) = (now, Labels::empty(), None, folded as f64, folded > 0);
            let since = self.folded_at.or(Some(now));
            self.folded_at = firing.then_some(now);
            run.changes.push(Change {
                at,
                labels,
                level,
                from,
                to,
                value,
                since,
                firing,
                flapping: false,
                notify: true,
                muted: None,
            });
        }
    }
}

/// A level before an evaluation.
#[derive(Clone, Copy)]
struct Before {
    shown: State,
    flapping: bool,
    firing: bool,
    firing_at: i64,
}

impl Instance {
    fn is_at_rest(&self) -> bool {
        !self.folded && self.levels.iter().all(LevelState::is_at_rest)
    }

    /// At rest: as if it had never been, as it is after a restart.
    fn forget(&mut self) {
        self.levels.iter_mut().for_each(|level| *level = LevelState::default());
    }

    fn is_firing(&self) -> bool {
        self.levels.iter().any(LevelState::is_firing)
    }
}

impl Run<'_> {
    fn instance(&mut self, candidate: &mut Candidate) {
        let steps = self.readings.times().len();
        for (block, first) in (0..steps).step_by(BLOCK).enumerate() {
            if candidate.state.is_at_rest() {
                candidate.state.forget();
                // Nothing but fire ends it.
                let quiet =
                    candidate.place.is_none_or(|place| self.readings.is_quiet(self.plan, place, block));
                if quiet || self.failed {
                    continue;
                }
            }
            self.read(candidate, first..steps.min(first + BLOCK));
            self.block(candidate);
        }
        self.value_all(candidate);
    }

    /// The evaluations whose bits were read.
    fn block(&mut self, candidate: &mut Candidate) {
        let mut at = 0;
        while at < candidate.signals.len() {
            if candidate.state.is_at_rest() {
                candidate.state.forget();
                match candidate.signals[at..].iter().position(|bits| bits & ALL != 0) {
                    Some(ahead) if !self.failed => at += ahead,
                    _ => return,
                }
            }
            if self.advance(candidate, candidate.first + at) {
                self.announce(candidate, candidate.first + at);
            }
            at += 1;
        }
    }

    fn read(&self, candidate: &mut Candidate, steps: std::ops::Range<usize>) {
        candidate.first = steps.start;
        match candidate.place {
            Some(place) => self.readings.signals(self.plan, place, steps, &mut candidate.signals),
            None => {
                candidate.signals.clear();
                candidate.signals.resize(steps.len(), Readings::silence(self.plan));
            }
        }
    }

    /// The states after an evaluation; those before are kept beside. Whether there may be anything to tell.
    fn advance(&mut self, candidate: &mut Candidate, step: usize) -> bool {
        let rules = &self.plan.rules;
        let now = self.readings.times()[step];
        let bits = candidate.signals[step - candidate.first];
        candidate.before.clear();
        let mut news = false;
        for (l, (state, timing)) in candidate.state.levels.iter_mut().zip(&rules.levels).enumerate() {
            let (shown, firing) = (state.shown(), state.is_firing());
            let (flapping, firing_at) = (state.flapping.on, state.firing_at);
            candidate.before.push(Before { shown, flapping, firing, firing_at });
            state.step(rules, timing, now, (!self.failed).then_some(bits >> l));
            if shown == State::Inactive {
                // What it is from here on is of interest.
                candidate.valued[l] = step;
            }
            news |= firing != state.is_firing()
                || state.is_firing() != state.announced
                || (self.all && shown != state.shown())
                || flapping != state.flapping.on;
        }
        news
    }

    /// Takes over the last value of a level up to an evaluation.
    fn value(&self, candidate: &mut Candidate, level: usize, step: usize) {
        let Some(place) = candidate.place.filter(|_| !self.failed) else { return };
        let steps = candidate.valued[level]..=step;
        if let Some(value) = steps.rev().find_map(|step| self.readings.value(self.plan, level, place, step)) {
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
    fn announce(&mut self, candidate: &mut Candidate, step: usize) {
        let now = self.readings.times()[step];
        let highest = candidate.state.levels.iter().rposition(LevelState::is_firing);
        let folded = candidate.state.folded;
        for level in 0..candidate.state.levels.len() {
            let before = candidate.before[level];
            let mut muted = None;
            let mut notify = false;
            let state = &mut candidate.state.levels[level];
            if state.is_firing() && !state.announced {
                muted = if highest != Some(level) {
                    Some("level".into())
                } else if folded {
                    Some("cap".into())
                } else if state.flapping.mutes(self.plan.rules.flap) {
                    Some("flap".into())
                } else {
                    self.muted(&candidate.labels, level, now)
                };
                notify = muted.is_none();
                state.announced = notify;
            } else if !state.is_firing() {
                notify = std::mem::take(&mut state.announced);
            }
            let fires = before.firing != state.is_firing();
            let changed =
                fires || before.flapping != state.flapping.on || (self.all && before.shown != state.shown());
            if changed || notify {
                self.value(candidate, level, step);
                self.changes.push(change(candidate, level, now, notify, muted));
            }
        }
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

/// What became of a level at an evaluation.
fn change(candidate: &Candidate, level: usize, at: i64, notify: bool, muted: Option<Arc<str>>) -> Change {
    let (before, state) = (candidate.before[level], &candidate.state.levels[level]);
    let firing = state.is_firing();
    Change {
        at,
        labels: candidate.labels.clone(),
        level: Some(level),
        from: before.shown,
        to: state.shown(),
        value: state.value,
        since: if firing { Some(state.firing_at) } else { before.firing.then_some(before.firing_at) },
        firing,
        flapping: state.flapping.on,
        notify,
        muted,
    }
}
