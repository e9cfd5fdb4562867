//! The machine: readings to transitions. `docs/alerts.md` has the table that this is.
//!
//! Each level of each instance has a state of its own. Only instances that are not at rest are kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use metricsdb_model::Labels;

use super::compile::{Rules, Timing};
use super::flap::Flapping;
use super::signals::{Seen, Word};
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
    /// The first evaluation without fire since the last with it, for `KEEP FIRING`.
    pub quiet_at: Option<i64>,
    /// The last evaluations, for k of n, the newest in the lowest bit: fire since pending, clear since firing.
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
    pub(super) fn is_firing(&self) -> bool {
        matches!(self.phase, Phase::Firing | Phase::Clearing)
    }

    pub(super) fn is_at_rest(&self) -> bool {
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

    /// One evaluation, and what was seen at it; `None`: it failed.
    pub(super) fn step(&mut self, rules: &Rules, timing: &Timing, now: i64, seen: Option<Seen>) {
        if let Some(flap) = rules.flap {
            self.flapping.begin(flap, now);
        }
        if self.resolved_at.is_some_and(|at| now.saturating_sub(at) >= rules.cooldown_ms) {
            self.resolved_at = None;
        }
        let Some((fire, clear)) = self.conditions(rules, now, seen) else { return };
        self.unknown = false;
        match self.phase {
            Phase::Inactive if fire && self.resolved_at.is_none() => {
                (self.phase, self.pending_at) = (Phase::Pending, now);
                self.rise(rules, timing, now, true);
            }
            Phase::Inactive => {}
            Phase::Pending => self.rise(rules, timing, now, fire),
            Phase::Firing | Phase::Clearing => self.fall(rules, timing, now, fire, clear),
        }
    }

    /// Fire and clear, with what is said of errors and of no data; `None`: it stays as it is.
    fn conditions(&mut self, rules: &Rules, now: i64, seen: Option<Seen>) -> Option<(bool, bool)> {
        let active = self.phase != Phase::Inactive;
        let Some(Seen { fire, clear, data }) = seen else {
            self.unknown |= active && rules.error == OnError::Unknown;
            return (active && rules.error == OnError::Fire).then_some((true, false));
        };
        if data || fire {
            self.nodata_at = None;
            return Some((fire, clear && !fire));
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
                self.fired = (self.fired << 1 | u64::from(fire)) & last(of);
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
        if fire || timing.keep_firing_ms == 0 {
            self.quiet_at = None;
        } else {
            self.quiet_at.get_or_insert(now);
        }
        if let Some(Damp::Of { of, .. }) = timing.clear_damp {
            self.cleared = (self.cleared << 1 | u64::from(clear)) & last(of);
        }
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
    fn is_over(&self, rules: &Rules, timing: &Timing, now: i64) -> bool {
        let damped = match timing.clear_damp {
            None => true,
            Some(Damp::For(ms)) => now.saturating_sub(self.clearing_at) >= ms,
            Some(Damp::Of { count, .. }) => self.cleared.count_ones() >= count,
        };
        let keep = timing.keep_firing_ms;
        let quiet = keep == 0 || self.quiet_at.is_some_and(|at| now.saturating_sub(at) >= keep);
        let held = now.saturating_sub(self.firing_at) >= timing.hold_ms;
        damped && quiet && held && !self.flapping.holds(rules.flap)
    }

    /// How long it stays exactly as it is; `None`: until the next evaluation. Waking too early is no harm. `all`: that it
    /// is pending is of interest, also if it never fires.
    #[inline]
    pub(super) fn sleep(&self, rules: &Rules, timing: &Timing, all: bool) -> Option<Sleep> {
        const NEVER: i64 = i64::MAX;
        if self.nodata_at.is_some() || self.unknown || self.announced != self.is_firing() {
            return None;
        }
        let sleep = match self.phase {
            Phase::Inactive => match (self.resolved_at, timing.damp) {
                (Some(at), _) => Sleep::new(NONE, NONE, at.saturating_add(rules.cooldown_ms)),
                (None, Some(Damp::For(ms))) if !all && rules.forgets_gone() => {
                    Sleep { short_ms: ms, ..Sleep::new(FIRE, NONE, NEVER) }
                }
                (None, _) => Sleep::new(FIRE, NONE, NEVER),
            },
            Phase::Pending => match timing.damp {
                Some(Damp::For(ms)) => Sleep::new(FIRE, FIRE, self.pending_at.saturating_add(ms)),
                _ => return None,
            },
            _ if matches!(timing.clear_damp, Some(Damp::Of { .. })) => return None,
            Phase::Firing if timing.keep_firing_ms == 0 => Sleep::new(CLEAR | DATA, DATA, NEVER),
            Phase::Firing if self.quiet_at.is_none() => Sleep::new(FIRE, FIRE, NEVER),
            Phase::Firing => Sleep::new(FIRE | CLEAR | DATA, DATA, NEVER),
            Phase::Clearing => {
                let damp_ms = if let Some(Damp::For(ms)) = timing.clear_damp { ms } else { 0 };
                let ends = [
                    self.clearing_at.saturating_add(damp_ms),
                    self.firing_at.saturating_add(timing.hold_ms),
                    self.quiet_at.map_or(i64::MIN, |at| at.saturating_add(timing.keep_firing_ms)),
                ];
                let last = ends.into_iter().fold(i64::MIN, i64::max);
                Sleep::new(FIRE | CLEAR | DATA, CLEAR | DATA, last)
            }
        };
        let until = rules.flap.map_or(NEVER, |flap| self.flapping.until(flap));
        Some(Sleep { until: sleep.until.min(until), ..sleep })
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

impl Machine {
    /// Since when each level that fires does, and what stands for those past the cap.
    pub(super) fn firing_since(&self) -> impl Iterator<Item = i64> {
        let levels = self.instances.values().flat_map(|instance| &instance.levels);
        levels.filter(|level| level.is_firing()).map(|level| level.firing_at).chain(self.folded_at)
    }
}

impl Instance {
    pub(super) fn is_at_rest(&self) -> bool {
        !self.folded && self.levels.iter().all(LevelState::is_at_rest)
    }

    /// At rest: as if it had never been, as it is after a restart.
    pub(super) fn forget(&mut self) {
        self.levels.iter_mut().for_each(|level| *level = LevelState::default());
    }

    pub(super) fn is_firing(&self) -> bool {
        self.levels.iter().any(LevelState::is_firing)
    }
}

/// A state that nothing changes while evaluations are `like` in the bits of `mask`, and before a time (ms).
#[derive(Clone, Copy, Debug)]
pub(super) struct Sleep {
    mask: Word,
    like: Word,
    pub until: i64,
    /// Nor does fire that is over before it has lasted so long (ms).
    pub short_ms: i64,
}

impl Sleep {
    #[inline]
    fn new(mask: u32, like: u32, until: i64) -> Sleep {
        let word = |bits: u32| {
            let all = |bit: u32| if bits & bit == 0 { 0 } else { u64::MAX };
            Word { fire: all(FIRE), clear: all(CLEAR), data: all(DATA) }
        };
        Sleep { mask: word(mask), like: word(like), until, short_ms: 0 }
    }

    /// The bits of evaluations that end it.
    #[inline]
    pub fn ends(&self, word: Word) -> u64 {
        ((word.fire ^ self.like.fire) & self.mask.fire)
            | ((word.clear ^ self.like.clear) & self.mask.clear)
            | ((word.data ^ self.like.data) & self.mask.data)
    }
}

/// Which bits of evaluations a sleep is about.
const NONE: u32 = 0;
const FIRE: u32 = 1;
const CLEAR: u32 = 2;
const DATA: u32 = 4;

/// A bit for each of the last `of` evaluations.
fn last(of: u32) -> u64 {
    u64::MAX >> (64 - of)
}

/// Whether `count` of `of` can still be true with one that has been: the window of any of those true so far may
/// reach it if all that follow are.
fn can_reach(fired: u64, count: u32, of: u32) -> bool {
    (0..of).any(|age| fired >> age & 1 == 1 && (fired & last(age + 1)).count_ones() + (of - 1 - age) >= count)
}
