//! Figures of a rehearsal, without its transitions: many variants make more of those than memory holds.

use std::collections::{HashMap, HashSet};

use metricsdb_model::Labels;

use super::backtest::Sink;
use super::machine::Change;

/// Counts transitions as they come, of each level of each instance in the order of time.
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
    instances: HashSet<Labels>,
    levels: HashMap<(Labels, Option<usize>), Going>,
}

/// What a level of an instance is about.
#[derive(Clone, Copy, Debug, Default)]
struct Going {
    /// Since when it fires.
    open: Option<i64>,
    flapping: bool,
    fired: bool,
}

impl Sink for Tally {
    const ALL: bool = false;

    fn take(&mut self, changes: Vec<Change>) {
        // Changes of an instance stand together: it is looked up once for all of them.
        for same in changes.chunk_by(|a, b| a.level == b.level && a.labels == b.labels) {
            let key = (same[0].labels.clone(), same[0].level);
            let mut going = self.levels.get(&key).copied().unwrap_or_default();
            let fired = going.fired;
            same.iter().for_each(|change| self.count(change, &mut going));
            if going.fired != fired {
                self.instances.insert(key.0.clone());
            }
            self.levels.insert(key, going);
        }
    }
}

impl Tally {
    pub fn new(incidents: &[(i64, i64)]) -> Tally {
        Tally {
            incidents: incidents.iter().map(|(from, to)| (*from, *to, false)).collect(),
            ..Tally::default()
        }
    }

    /// Ends what still fires with the rehearsal.
    pub fn finish(&mut self, end: i64) {
        for start in std::mem::take(&mut self.levels).into_values().filter_map(|going| going.open) {
            self.close(start, end);
        }
    }

    /// Instances that fired.
    pub fn instances(&self) -> u64 {
        self.instances.len() as u64
    }

    /// Incidents during which something fired.
    pub fn hits(&self) -> u64 {
        self.incidents.iter().filter(|(.., hit)| *hit).count() as u64
    }

    pub fn misses(&self) -> u64 {
        self.incidents.len() as u64 - self.hits()
    }

    fn count(&mut self, change: &Change, going: &mut Going) {
        self.notifications += u64::from(change.notify);
        self.pages += u64::from(change.notify && change.firing);
        self.flaps += u64::from(change.flapping && !going.flapping);
        going.flapping = change.flapping;
        match (change.firing, going.open) {
            (true, None) => {
                self.firings += 1;
                (going.open, going.fired) = (Some(change.at), true);
            }
            (false, Some(start)) => {
                going.open = None;
                self.close(start, change.at);
            }
            _ => {}
        }
    }

    fn close(&mut self, start: i64, end: i64) {
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
