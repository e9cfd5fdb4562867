//! Series that a limit folded: their samples go, added up, into one series, the *target*.
//!
//! A target's value at a time is the sum of what each of its sources last sent up to then, as `sum()` over them would
//! say: a source counts from its sample until its next one, its staleness marker, or `LOOKBACK_MS`, whichever is first.
//! So a target is a list of *cells*, a time and what changes there, of which the newest stay in memory: a source that
//! sends behind another's time changes the cells from there on. Sums are exact, and rounded once.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use hashbrown::{HashMap, HashTable};
use metricsdb_model::ValueKind;
use metricsdb_model::sample::{is_stale, stale};

use super::exact::ExactSum;
use crate::heap;
use crate::late::{DuplicatePolicy, Value, combine};

/// How long a sample counts when no other follows: the lookback of queries.
pub const LOOKBACK_MS: i64 = 300_000;
/// Sources of one database; more are refused.
pub const SOURCES_MAX: usize = 1 << 20;
/// Cells of all targets, and of one, so far as that leaves each the least.
const CELLS_MAX: usize = 1 << 20;
const TARGET_CELLS: [usize; 2] = [16, 1024];
/// Sources that ended are forgotten after so long a silence, or after twice `LOOKBACK_MS` when there is no room.
const FORGET_MS: i64 = 3_600_000;
/// A sweep looks at all sources; one in so many milliseconds is enough.
const SWEEP_MS: i64 = 5_000;
/// Marks the id of a source among those of series.
const SOURCE_BIT: u64 = 1 << 63;
/// More sources than this would not fit an exact sum.
const _: () = assert!(SOURCES_MAX <= 1 << 22);

/// Whether an id is that of a folded series.
pub fn is_source(id: u64) -> bool {
    id & SOURCE_BIT != 0
}

/// A series that has no place of its own.
struct Source {
    hash: u128,
    target: u32,
    /// Tells apart those that had this place one after the other.
    generation: u32,
    /// Time of the newest sample; `i64::MIN` before the first.
    last: i64,
    /// `None` before the first sample, and after a staleness marker.
    value: Option<f64>,
    /// From when on `value` doesn't count any more; `i64::MAX` while it does.
    end: i64,
    /// When its last sample came, by the clock of `sweep`; `i64::MIN` before the first sweep.
    seen: i64,
    used: bool,
    /// Whether an entry of its target's `ends` is its own; none is while it doesn't count.
    queued: bool,
}

/// When a source ends that stays silent, or before; its slot and generation.
type End = Reverse<(i64, u32, u32)>;

/// What changes in a target at a time.
struct Cell {
    time: i64,
    change: ExactSum,
    live: i64,
}

#[derive(Default)]
struct Target {
    /// Ascending.
    cells: VecDeque<Cell>,
    /// Nothing changes at this time or before it any more; `None` while all is there.
    settled: Option<i64>,
    /// Of all cells, those that went among them.
    total: ExactSum,
    live: i64,
    sources: u32,
    dirty: Option<i64>,
    /// Whether it is among those that `Folds::changed` looks at next.
    listed: bool,
    /// Time of the newest sample of all sources.
    newest: Option<i64>,
    /// One of each source that counts, the first on top.
    ends: BinaryHeap<End>,
}

impl Target {
    fn put(&mut self, time: i64, add: Option<f64>, take: Option<f64>) {
        let time = self.settled.map_or(time, |settled| time.max(settled.saturating_add(1)));
        let at = self.cells.partition_point(|cell| cell.time < time);
        if self.cells.get(at).is_none_or(|cell| cell.time != time) {
            self.cells.insert(at, Cell { time, change: ExactSum::default(), live: 0 });
        }
        let Some(cell) = self.cells.get_mut(at) else { return };
        for sum in [&mut cell.change, &mut self.total] {
            add.into_iter().for_each(|v| sum.add(v));
            take.into_iter().for_each(|v| sum.take(v));
        }
        let live = i64::from(add.is_some()) - i64::from(take.is_some());
        cell.live += live;
        self.live += live;
        self.touch(time);
    }

    fn touch(&mut self, time: i64) {
        self.dirty = Some(self.dirty.map_or(time, |dirty| dirty.min(time)));
    }

    /// Has `Folds::changed` look at it when something changed.
    fn list(&mut self, id: u32, list: &mut Vec<u32>) {
        if self.dirty.is_some() && !std::mem::replace(&mut self.listed, true) {
            list.push(id);
        }
    }

    /// Ends its sources that don't count at `time` any more.
    fn lapse(&mut self, sources: &mut [Source], time: Option<i64>) {
        let Some(time) = time else { return };
        while let Some(&Reverse((_, slot, generation))) = self.ends.peek().filter(|end| end.0.0 <= time) {
            self.ends.pop();
            let Some(source) = sources.get_mut(slot as usize).filter(|source| source.is(generation)) else {
                continue;
            };
            source.lapse(self, time);
            source.queued = source.counts();
            if source.queued {
                // It has sent meanwhile.
                self.ends.push(Reverse((source.silent_end(), slot, generation)));
            }
        }
    }

    /// The value of each cell that changed, newest first.
    fn changed(&mut self, mut take: impl FnMut(i64, f64)) {
        let Some(dirty) = self.dirty.take() else { return };
        let (mut sum, mut live) = (self.total.clone(), self.live);
        for cell in self.cells.iter().rev().take_while(|cell| cell.time >= dirty) {
            take(cell.time, if live > 0 { sum.value() } else { stale() });
            sum.take_sum(&cell.change);
            live -= cell.live;
        }
    }

    fn settle_first(&mut self) {
        if let Some(cell) = self.cells.pop_front() {
            self.settled = self.settled.max(Some(cell.time));
        }
    }
}

/// What became of a sample of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    New,
    Duplicate,
    /// A second one at its time, which the policy refuses.
    Twice,
    /// Older than the source's newest, or than what its target can still change.
    TooOld,
    /// No such source, or not any more.
    Unknown,
}

/// A value of a target that is to be written over whatever stands at its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Folded {
    pub target: u32,
    pub time: i64,
    pub value: f64,
}

#[derive(Default)]
pub struct Folds {
    /// Keys the hashes of sources.
    key: u64,
    sources: Vec<Source>,
    free: Vec<u32>,
    by_hash: HashTable<u32>,
    targets: HashMap<u32, Target>,
    /// Targets that changed.
    listed: Vec<u32>,
    cells: usize,
    swept: Option<i64>,
    pub samples: u64,
}

impl Folds {
    pub fn new(key: u64) -> Folds {
        Folds { key, ..Folds::default() }
    }

    pub fn hash(&self, canonical: &[u8]) -> u128 {
        xxhash_rust::xxh3::xxh3_128_with_seed(canonical, self.key)
    }

    /// Sources, and the series that they go to.
    pub fn len(&self) -> (usize, usize) {
        (self.by_hash.len(), self.targets.len())
    }

    fn id(&self, slot: u32) -> u64 {
        let generation = self.sources.get(slot as usize).map_or(0, |source| source.generation);
        SOURCE_BIT | u64::from(generation) << 32 | u64::from(slot)
    }

    /// The id of a label set that is folded already.
    pub fn find(&self, hash: u128) -> Option<u64> {
        let same = |&slot: &u32| self.sources.get(slot as usize).is_some_and(|source| source.hash == hash);
        self.by_hash.find(hash as u64, same).map(|&slot| self.id(slot))
    }

    /// Whether an id is one of a source.
    pub fn contains(&self, id: u64) -> bool {
        let slot = id as u32;
        is_source(id)
            && self.id(slot) == id
            && self.sources.get(slot as usize).is_some_and(|source| source.used)
    }

    /// Folds one more into the series `target`; `None` when there are `SOURCES_MAX`.
    pub fn add(&mut self, hash: u128, target: u32) -> Option<u64> {
        if let Some(id) = self.find(hash) {
            return Some(id);
        }
        if self.by_hash.len() >= SOURCES_MAX {
            self.forget_silent(2 * LOOKBACK_MS);
        }
        if self.by_hash.len() >= SOURCES_MAX {
            return None;
        }
        let (last, end, seen) = (i64::MIN, i64::MAX, self.now());
        let source =
            Source { hash, target, generation: 0, last, value: None, end, seen, used: true, queued: false };
        let slot = match self.free.pop() {
            Some(slot) => {
                let place = self.sources.get_mut(slot as usize)?;
                let generation = (place.generation + 1) & 0x7fff_ffff;
                *place = Source { generation, ..source };
                slot
            }
            None => {
                self.sources.push(source);
                self.sources.len() as u32 - 1
            }
        };
        let sources = &self.sources;
        let rehash = |&slot: &u32| sources.get(slot as usize).map_or(0, |source| source.hash as u64);
        self.by_hash.insert_unique(hash as u64, slot, rehash);
        self.targets.entry(target).or_default().sources += 1;
        Some(self.id(slot))
    }

    fn now(&self) -> i64 {
        self.swept.unwrap_or(i64::MIN)
    }

    /// Up to where a sample ends the sources that are silent: one whose clock is fast ends nobody.
    fn until(&self) -> Option<i64> {
        Some(self.swept.map_or(i64::MAX, |swept| swept.saturating_add(SWEEP_MS)))
    }

    /// Takes a sample of a source. Call `changed` after a batch of them.
    pub fn write(&mut self, id: u64, time: i64, value: f64, duplicates: DuplicatePolicy) -> Taken {
        let (slot, generation, now) = (id as u32, (id >> 32) as u32 & 0x7fff_ffff, self.now());
        let Some(source) = self.sources.get_mut(slot as usize) else { return Taken::Unknown };
        if !source.is(generation) {
            return Taken::Unknown;
        }
        let Some(target) = self.targets.get_mut(&source.target) else { return Taken::Unknown };
        if time < source.last || target.settled.is_some_and(|settled| time <= settled) {
            return Taken::TooOld;
        }
        let cells = target.cells.len();
        source.lapse(target, time);
        if let Some(old) = source.value.filter(|_| source.end != i64::MAX && source.end > time) {
            // It was thought to have ended, and comes late.
            target.put(source.end, Some(old), None);
            source.end = i64::MAX;
        }
        let counts = source.value.filter(|_| source.end == i64::MAX);
        let mut new = value;
        let mut taken = Taken::New;
        if time == source.last {
            let float = |value: f64| Value { bits: value.to_bits(), kind: ValueKind::Float };
            match combine(duplicates, float(counts.unwrap_or_else(stale)), float(value)) {
                Some(kept) => new = f64::from_bits(kept.bits),
                None => return Taken::Twice,
            }
            taken = Taken::Duplicate;
        }
        source.value = Some(new).filter(|new| !is_stale(*new));
        if source.value.is_some() || counts.is_some() {
            target.put(time, source.value, counts);
        }
        (source.last, source.end, source.seen) = (time, i64::MAX, now);
        target.newest = target.newest.max(Some(time));
        if source.counts() && !source.queued {
            source.queued = true;
            target.ends.push(Reverse((source.silent_end(), slot, generation)));
        }
        if target.ends.peek().is_some_and(|end| end.0.0 <= time) {
            // Even where it is a marker that changes nothing itself.
            target.touch(time);
        }
        target.list(source.target, &mut self.listed);
        self.cells += target.cells.len() - cells;
        self.samples += 1;
        taken
    }

    /// What is to be written of the targets that changed, each in the order of time.
    pub fn changed(&mut self) -> Vec<Folded> {
        let mut out = Vec::new();
        let until = self.until();
        let [least, most] = TARGET_CELLS;
        let allowed = (CELLS_MAX / self.targets.len().max(1)).clamp(least, most);
        for id in std::mem::take(&mut self.listed) {
            let Some(target) = self.targets.get_mut(&id) else { continue };
            target.listed = false;
            let cells = target.cells.len();
            target.lapse(&mut self.sources, target.newest.min(until));
            self.cells += target.cells.len() - cells;
            let from = out.len();
            target.changed(|time, value| out.push(Folded { target: id, time, value }));
            out[from..].reverse();
            while target.cells.len() > allowed {
                target.settle_first();
                self.cells -= 1;
            }
        }
        out
    }

    /// Ends sources from which nothing came for `LOOKBACK_MS`, where their newest sample stops to count, and forgets them
    /// later. `now` is the clock of whoever calls; it need not be that of the senders.
    pub fn sweep(&mut self, now: i64) {
        if self.swept.is_some_and(|swept| now < swept.saturating_add(SWEEP_MS)) {
            return;
        }
        self.swept = Some(now);
        for source in self.sources.iter_mut().filter(|source| source.used) {
            if source.seen == i64::MIN {
                source.seen = now;
            }
            if source.seen > now.saturating_sub(LOOKBACK_MS) {
                continue;
            }
            let Some(target) = self.targets.get_mut(&source.target) else { continue };
            let cells = target.cells.len();
            source.lapse(target, i64::MAX);
            target.list(source.target, &mut self.listed);
            self.cells += target.cells.len() - cells;
        }
        // Those that were ahead of the clock.
        let until = self.until();
        for (&id, target) in &mut self.targets {
            let cells = target.cells.len();
            target.lapse(&mut self.sources, target.newest.min(until));
            target.list(id, &mut self.listed);
            self.cells += target.cells.len() - cells;
        }
        self.forget_silent(FORGET_MS);
    }

    /// Forgets what has ended and was silent for so long; call `changed` first. None can come back to a time before its end.
    fn forget_silent(&mut self, silent_ms: i64) {
        let since = self.now().saturating_sub(silent_ms);
        let silent = |source: &Source| source.used && !source.counts() && source.seen <= since;
        let mut settled: HashMap<u32, i64> = HashMap::new();
        for source in self.sources.iter().filter(|source| silent(source)) {
            let over = if source.value.is_some() { source.end } else { source.last };
            settled.entry(source.target).and_modify(|time| *time = over.max(*time)).or_insert(over);
        }
        // What ends up to there ends at its own time, before no cell may be put there any more.
        for (&id, &over) in &settled {
            let Some(target) = self.targets.get_mut(&id) else { continue };
            target.lapse(&mut self.sources, Some(over));
            target.list(id, &mut self.listed);
        }
        for slot in 0..self.sources.len() as u32 {
            if self.sources.get(slot as usize).is_some_and(silent) {
                self.forget(slot);
            }
        }
        for (id, over) in settled {
            if let Some(target) = self.targets.get_mut(&id) {
                target.settled = target.settled.max(Some(over));
                let sources = &self.sources;
                let is = |slot: u32, generation| sources.get(slot as usize).is_some_and(|s| s.is(generation));
                target.ends.retain(|&Reverse((_, slot, generation))| is(slot, generation));
            }
        }
        let mut cells = 0;
        for target in self.targets.values_mut() {
            if target.sources == 0 && !target.listed {
                // Changes that came too late for their time stand behind the end of their source.
                let last = target.cells.back().map(|cell| cell.time);
                target.settled = target.settled.max(last);
            }
            while !target.listed
                && target.cells.front().is_some_and(|cell| target.settled.is_some_and(|s| cell.time <= s))
            {
                target.cells.pop_front();
            }
            cells += target.cells.len();
        }
        self.cells = cells;
    }

    /// Ends all sources behind their newest sample: from now on they are series of their own, or are folded anew.
    pub fn release(&mut self) {
        for slot in 0..self.sources.len() as u32 {
            let Some(source) = self.sources.get_mut(slot as usize).filter(|source| source.used) else {
                continue;
            };
            let Some(target) = self.targets.get_mut(&source.target) else { continue };
            if let Some(old) = source.value.filter(|_| source.end == i64::MAX) {
                let cells = target.cells.len();
                target.put(source.last.saturating_add(1), None, Some(old));
                target.list(source.target, &mut self.listed);
                self.cells += target.cells.len() - cells;
            }
            self.forget(slot);
        }
        self.targets.values_mut().for_each(|target| target.ends = BinaryHeap::new());
    }

    fn forget(&mut self, slot: u32) {
        let Some(source) = self.sources.get_mut(slot as usize) else { return };
        source.used = false;
        if let Some(target) = self.targets.get_mut(&source.target) {
            target.sources -= 1;
        }
        if let Ok(entry) = self.by_hash.find_entry(source.hash as u64, |&other| other == slot) {
            entry.remove();
            self.free.push(slot);
        }
    }

    /// Whether some source goes there.
    pub fn is_target(&self, id: u32) -> bool {
        self.targets.get(&id).is_some_and(|target| target.sources > 0)
    }

    /// Forgets targets whose series are gone, and that have no sources.
    pub fn forget_targets(&mut self, gone: &[u32]) {
        if self.targets.is_empty() {
            return;
        }
        for id in gone {
            self.cells -= self.targets.remove(id).map_or(0, |target| target.cells.len());
        }
    }

    /// About what is held; an upper bound where targets have few cells.
    pub fn bytes(&self) -> usize {
        heap::vector(&self.sources)
            + heap::vector(&self.free)
            + heap::vector(&self.listed)
            + heap::table(&self.by_hash)
            + heap::map::<u32, Target>(self.targets.capacity())
            + self.targets.values().map(Target::bytes).sum::<usize>()
    }
}

impl Source {
    /// Whether this is the one that had its place in that generation.
    fn is(&self, generation: u32) -> bool {
        self.used && self.generation == generation
    }

    /// Whether its newest sample counts for as long as none follows.
    fn counts(&self) -> bool {
        self.value.is_some() && self.end == i64::MAX
    }

    /// Where its newest sample stops to count when none follows.
    fn silent_end(&self) -> i64 {
        self.last.saturating_add(LOOKBACK_MS)
    }

    /// Ends the value where it doesn't count at `time` any more.
    fn lapse(&mut self, target: &mut Target, time: i64) {
        let end = self.silent_end();
        if let Some(old) = self.value.filter(|_| self.end == i64::MAX && end <= time) {
            target.put(end, None, Some(old));
            self.end = end;
        }
    }
}

impl Target {
    fn bytes(&self) -> usize {
        heap::allocated(self.cells.capacity() * size_of::<Cell>())
            + heap::allocated(self.ends.capacity() * size_of::<End>())
            + self.total.bytes()
            + self.cells.iter().map(|cell| cell.change.bytes()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests;
