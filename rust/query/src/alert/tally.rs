//! Figures of a rehearsal, without its transitions: many variants make more of those than memory holds.

use super::run::{Event, Sink};

/// Counts what happens as it comes.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Times that a level of an instance began to fire.
    pub firings: u64,
    pub notifications: u64,
    /// Those that say that it fires.
    pub pages: u64,
    /// Times that one was marked as flapping.
    pub flaps: u64,
    pub firing_ms: i64,
    pub longest_ms: i64,
    /// Episodes that lie in no incident.
    pub false_alarms: u64,
    /// First and last moment of each known incident, and whether something fired then.
    incidents: Vec<(i64, i64, bool)>,
    /// Instances that fired, a bit each.
    fired: Vec<u64>,
}

impl Sink for Tally {
    const ALL: bool = false;

    fn take(&mut self, event: Event<'_>) {
        let Event { at, from, to, notify, .. } = event;
        self.notifications += u64::from(notify);
        self.pages += u64::from(notify && to.firing);
        self.flaps += u64::from(to.flapping && !from.flapping);
        match (from.firing, to.firing) {
            (false, true) => {
                self.firings += 1;
                self.mark(event.instance);
            }
            (true, false) => event.since().into_iter().for_each(|since| self.episode(since, at)),
            _ => {}
        }
    }

    fn open(&mut self, since: i64, end: i64) {
        self.episode(since, end);
    }

    fn fresh(&self) -> Tally {
        Tally { incidents: self.incidents.clone(), ..Tally::default() }
    }

    fn join(parts: Vec<Tally>) -> Tally {
        parts.into_iter().reduce(Tally::with).unwrap_or_default()
    }
}

impl Tally {
    pub fn new(incidents: &[(i64, i64)]) -> Tally {
        Tally {
            incidents: incidents.iter().map(|(from, to)| (*from, *to, false)).collect(),
            ..Tally::default()
        }
    }

    /// Instances that fired.
    pub fn instances(&self) -> u64 {
        self.fired.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Incidents during which something fired.
    pub fn hits(&self) -> u64 {
        self.incidents.iter().filter(|(.., hit)| *hit).count() as u64
    }

    pub fn misses(&self) -> u64 {
        self.incidents.len() as u64 - self.hits()
    }

    fn with(mut self, other: Tally) -> Tally {
        self.firings += other.firings;
        self.notifications += other.notifications;
        self.pages += other.pages;
        self.flaps += other.flaps;
        self.firing_ms = self.firing_ms.saturating_add(other.firing_ms);
        self.longest_ms = self.longest_ms.max(other.longest_ms);
        self.false_alarms += other.false_alarms;
        let incidents = self.incidents.iter_mut().zip(other.incidents);
        incidents.for_each(|((.., hit), (.., too))| *hit |= too);
        self.fired.resize(self.fired.len().max(other.fired.len()), 0);
        self.fired.iter_mut().zip(other.fired).for_each(|(fired, too)| *fired |= too);
        self
    }

    fn mark(&mut self, instance: usize) {
        if self.fired.len() <= instance / 64 {
            self.fired.resize(instance / 64 + 1, 0);
        }
        self.fired[instance / 64] |= 1 << (instance % 64);
    }

    fn episode(&mut self, start: i64, end: i64) {
        let length = end.saturating_sub(start);
        self.firing_ms = self.firing_ms.saturating_add(length);
        self.longest_ms = self.longest_ms.max(length);
        let mut alone = true;
        for (from, to, hit) in &mut self.incidents {
            let meets = start <= *to && end >= *from;
            *hit |= meets;
            alone &= !meets;
        }
        self.false_alarms += u64::from(alone);
    }
}
