//! A machine over many evaluations: only those that change something are stepped, and machines that read the same
//! conditions go through each instance together.

use std::sync::Arc;

use metricsdb_model::Labels;

use super::compile::Plan;
use super::machine::{Change, Instance, LevelState, Machine, Muting, Phase, Sleep, State};
use super::readings::{ALL, BLOCK, Readings};

/// Evaluations that machines go through.
#[derive(Clone, Copy)]
pub(super) struct Pass<'r> {
    pub readings: &'r Readings<'r>,
    pub mutings: &'r [Muting],
    /// The queries failed at all of them.
    pub failed: bool,
    /// Also changes that nobody is told, and that are of no episode.
    pub all: bool,
}

/// What holds for all instances of one machine.
struct Run<'r> {
    plan: &'r Plan,
    pass: Pass<'r>,
    changes: Vec<Change>,
}

/// An instance in a run: its place among the readings, where it has any.
#[derive(Default)]
struct Candidate {
    labels: Labels,
    place: Option<usize>,
    state: Instance,
    /// Up to which evaluation the value of each level is known.
    valued: Vec<usize>,
    before: Vec<Before>,
}

/// The bits of one instance, read when somebody asks.
struct Signals<'r> {
    plan: &'r Plan,
    readings: &'r Readings<'r>,
    place: Option<usize>,
    blocks: Vec<Block>,
}

/// `BLOCK` evaluations.
#[derive(Clone, Default)]
struct Block {
    quiet: Option<bool>,
    /// Empty: not read.
    bits: Vec<u32>,
}

impl<'r> Signals<'r> {
    fn new(plan: &'r Plan, readings: &'r Readings<'r>) -> Signals<'r> {
        let blocks = vec![Block::default(); readings.times().len().div_ceil(BLOCK)];
        Signals { plan, readings, place: None, blocks }
    }

    /// Turns to another instance.
    fn turn(&mut self, place: Option<usize>) {
        self.place = place;
        for block in &mut self.blocks {
            block.quiet = None;
            block.bits.clear();
        }
    }

    /// Whether no level can fire in a block.
    fn is_quiet(&mut self, block: usize) -> bool {
        let quiet = || self.place.is_none_or(|place| self.readings.is_quiet(self.plan, place, block));
        *self.blocks[block].quiet.get_or_insert_with(quiet)
    }

    fn bits(&mut self, block: usize) -> &[u32] {
        let steps = block * BLOCK..self.readings.times().len().min((block + 1) * BLOCK);
        let bits = &mut self.blocks[block].bits;
        if bits.is_empty() {
            match self.place {
                Some(place) => self.readings.signals(self.plan, place, steps, bits),
                None => bits.resize(steps.len(), Readings::silence(self.plan)),
            }
        }
        bits
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
        let pass = Pass { readings, mutings, failed, all: true };
        let mut changes: Vec<Change> = together(&mut [(plan, self)], pass).into_iter().flatten().collect();
        order(&mut changes);
        changes
    }

    /// Where every instance waits for all others at each evaluation.
    fn capped(&mut self, run: &mut Run<'_>) {
        let readings = run.pass.readings;
        let mut tracked: Vec<(Labels, Option<usize>)> =
            self.instances.keys().map(|labels| (labels.clone(), readings.find(labels))).collect();
        let fresh = (0..readings.len()).filter(|place| !readings.rests(run.plan, *place));
        let fresh = fresh.map(|place| (readings.labels(place), place));
        let fresh = fresh.filter(|(labels, _)| !self.instances.contains_key(labels));
        tracked.extend(fresh.map(|(labels, place)| (labels.clone(), Some(place))));
        tracked.sort_by(|a, b| a.0.cmp(&b.0));
        let steps = readings.times().len();
        let mut all: Vec<Candidate> = Vec::with_capacity(tracked.len());
        let mut bits = vec![Vec::new(); tracked.len()];
        for ((labels, place), bits) in tracked.into_iter().zip(&mut bits) {
            let mut candidate = Candidate::default();
            candidate.enter(self, run.plan, &labels, place);
            all.push(candidate);
            match place {
                Some(place) => readings.signals(run.plan, place, 0..steps, bits),
                None => bits.resize(steps, Readings::silence(run.plan)),
            }
        }
        for step in 0..steps {
            for (candidate, bits) in all.iter_mut().zip(&bits) {
                run.advance(candidate, step, bits[step]);
            }
            self.fold(run, &mut all, step);
        }
        for candidate in &mut all {
            run.value_all(candidate);
            candidate.leave(self);
        }
    }

    /// After one evaluation of all instances: those past the cap are known before anybody is told.
    fn fold(&mut self, run: &mut Run<'_>, all: &mut [Candidate], step: usize) {
        let now = run.pass.readings.times()[step];
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

/// In the order of time, labels, level; what stands for all instances comes last.
pub(super) fn order(changes: &mut [Change]) {
    let key = |c: &Change| (c.at, c.level.is_none());
    changes.sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| (&a.labels, a.level).cmp(&(&b.labels, b.level))));
}

/// Machines whose plans read the same conditions (`Plan::reads_as`) go on together: what happened to each, in the order
/// of time for each level of each instance alone.
pub(super) fn together(machines: &mut [(&Plan, &mut Machine)], pass: Pass<'_>) -> Vec<Vec<Change>> {
    let readings = pass.readings;
    let mut runs: Vec<Run<'_>> =
        machines.iter().map(|(plan, _)| Run { plan, pass, changes: Vec::new() }).collect();
    let Some(first) = machines.first().map(|(plan, _)| *plan).filter(|_| !readings.times().is_empty()) else {
        return runs.into_iter().map(|run| run.changes).collect();
    };
    let mut signals = Signals::new(first, readings);
    let mut candidate = Candidate::default();
    for (run, (plan, machine)) in runs.iter_mut().zip(machines.iter_mut()) {
        if plan.rules.cap.is_some() {
            machine.capped(run);
            continue;
        }
        let gone = machine.instances.keys().filter(|labels| readings.find(labels).is_none());
        for labels in gone.cloned().collect::<Vec<_>>() {
            signals.turn(None);
            run.instance(machine, &mut candidate, &labels, &mut signals);
        }
    }
    for place in 0..readings.len() {
        signals.turn(Some(place));
        let (labels, rests) = (readings.labels(place), readings.rests(first, place));
        for (run, (plan, machine)) in runs.iter_mut().zip(machines.iter_mut()) {
            let active = !rests || machine.instances.contains_key(labels);
            if active && plan.rules.cap.is_none() {
                run.instance(machine, &mut candidate, labels, &mut signals);
            }
        }
    }
    runs.into_iter().map(|run| run.changes).collect()
}

impl Candidate {
    /// Takes the state of an instance out of a machine.
    fn enter(&mut self, machine: &mut Machine, plan: &Plan, labels: &Labels, place: Option<usize>) {
        let levels = plan.levels.len();
        (self.labels, self.place) = (labels.clone(), place);
        match machine.instances.remove(labels) {
            Some(known) => self.state = known,
            None => {
                self.state.folded = false;
                self.state.levels.clear();
                self.state.levels.resize(levels, LevelState::default());
            }
        }
        self.valued.clear();
        self.valued.resize(levels, 0);
    }

    /// And back, unless it is at rest.
    fn leave(&mut self, machine: &mut Machine) {
        if !self.state.is_at_rest() {
            machine.instances.insert(self.labels.clone(), std::mem::take(&mut self.state));
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

impl Run<'_> {
    fn instance(
        &mut self,
        machine: &mut Machine,
        candidate: &mut Candidate,
        labels: &Labels,
        signals: &mut Signals<'_>,
    ) {
        candidate.enter(machine, self.plan, labels, signals.place);
        for block in 0..signals.blocks.len() {
            // Nothing but fire ends rest.
            let rests = candidate.state.is_at_rest();
            if !(rests && (self.pass.failed || signals.is_quiet(block))) {
                self.block(candidate, block * BLOCK, signals.bits(block));
            }
        }
        self.value_all(candidate);
        candidate.leave(machine);
    }

    /// Evaluations from `first` on, with their bits.
    fn block(&mut self, candidate: &mut Candidate, first: usize, bits: &[u32]) {
        let mut at = 0;
        loop {
            if candidate.state.is_at_rest() {
                candidate.state.forget();
            }
            at += self.asleep(&candidate.state, first + at, &bits[at..]);
            let Some(bits) = bits.get(at) else { return };
            if self.advance(candidate, first + at, *bits) {
                self.announce(candidate, first + at);
            }
            at += 1;
        }
    }

    /// How many evaluations from `step` on, with these bits, leave an instance as it is.
    fn asleep(&self, state: &Instance, step: usize, bits: &[u32]) -> usize {
        if self.pass.failed {
            return 0;
        }
        let rules = &self.plan.rules;
        let mut whole = Sleep { mask: 0, bits: 0, until: i64::MAX };
        if state.is_at_rest() {
            whole.mask = ALL;
        } else {
            for (l, (level, timing)) in state.levels.iter().zip(&rules.levels).enumerate() {
                let Some(sleep) = level.sleep(rules, timing) else { return 0 };
                whole.mask |= sleep.mask << l;
                whole.bits |= sleep.bits << l;
                whole.until = whole.until.min(sleep.until);
            }
        }
        let alike = |bits: &u32| (bits & whole.mask) ^ whole.bits;
        if bits.first().is_none_or(|bits| alike(bits) != 0) {
            return 0;
        }
        let times = &self.pass.readings.times()[step..step + bits.len()];
        let most =
            if whole.until == i64::MAX { times.len() } else { times.partition_point(|t| *t < whole.until) };
        // A few at a time, so that the comparison has no branch.
        let parts = bits[..most].chunks(16);
        let same = parts.take_while(|part| part.iter().fold(0, |any, bits| any | alike(bits)) == 0);
        let whole_parts = same.map(<[u32]>::len).sum::<usize>();
        let rest = bits[whole_parts..most].iter().take(16);
        whole_parts + rest.take_while(|bits| alike(bits) == 0).count()
    }

    /// The states after an evaluation; those before are kept beside. Whether there may be anything to tell.
    fn advance(&self, candidate: &mut Candidate, step: usize, bits: u32) -> bool {
        let rules = &self.plan.rules;
        let now = self.pass.readings.times()[step];
        candidate.before.clear();
        let mut news = false;
        for (l, (state, timing)) in candidate.state.levels.iter_mut().zip(&rules.levels).enumerate() {
            let (shown, firing) = (state.shown(), state.is_firing());
            let (flapping, firing_at) = (state.flapping.on, state.firing_at);
            candidate.before.push(Before { shown, flapping, firing, firing_at });
            state.step(rules, timing, now, (!self.pass.failed).then_some(bits >> l));
            if shown == State::Inactive {
                // What it is from here on is of interest.
                candidate.valued[l] = step;
            }
            news |= firing != state.is_firing()
                || state.is_firing() != state.announced
                || (self.pass.all && shown != state.shown())
                || flapping != state.flapping.on;
        }
        news
    }

    /// Takes over the last value of a level up to an evaluation.
    fn value(&self, candidate: &mut Candidate, level: usize, step: usize) {
        let Some(place) = candidate.place.filter(|_| !self.pass.failed) else { return };
        let steps = candidate.valued[level]..=step;
        if let Some(value) =
            steps.rev().find_map(|step| self.pass.readings.value(self.plan, level, place, step))
        {
            candidate.state.levels[level].value = value;
        }
        candidate.valued[level] = step + 1;
    }

    /// The same for all that are active, at the end.
    fn value_all(&self, candidate: &mut Candidate) {
        for level in 0..candidate.state.levels.len() {
            if candidate.state.levels[level].phase != Phase::Inactive {
                self.value(candidate, level, self.pass.readings.times().len() - 1);
            }
        }
    }

    /// Tells what happened, and whom: the highest level that fires goes first.
    fn announce(&mut self, candidate: &mut Candidate, step: usize) {
        let now = self.pass.readings.times()[step];
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
            let changed = fires
                || before.flapping != state.flapping.on
                || (self.pass.all && before.shown != state.shown());
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
        let found = self.pass.mutings.iter().find(|muting| {
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
