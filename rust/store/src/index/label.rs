//! One label name: its values, their postings, and the values in order.
//!
//! Values stay in the order of their arrival, so a position means the same value and a scan may let go of the
//! lock between blocks; only `compact`, which drops values without series once they are many, moves them, and a
//! scan that it met begins again (`steadily`). The sorted order is made of a few runs; values that came since the
//! last run was made are the unsorted tail, which `sort_tail` keeps short.

use std::sync::Arc;

use hashbrown::HashTable;
use metricsdb_model::Result;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use roaring::RoaringBitmap;

use super::postings::{Ids, Lists, Posting, bitmap_bytes};
use crate::heap;
use crate::symbols::Symbols;

/// Values of the unsorted tail above which it is sorted.
const TAIL_VALUES: usize = 1024;
/// Two runs are merged when the older is at most so many times as long: few runs, few merges.
const RUN_RATIO: usize = 3;
/// No merge makes a run longer than this: who writes sorts, and to merge a million texts takes seconds. A prefix is
/// looked for in each run, which for a million values costs less than to look at the tail does.
const RUN_VALUES_MAX: usize = 1 << 16;

/// Outcomes of tests that a label remembers at most.
const REMEMBERED_MAX: usize = 8;
/// Values without series that are always borne with, and the part of all values that is.
const DEAD_MIN: usize = 256;
const DEAD_PART: usize = 4;

#[derive(Default)]
pub(super) struct Label {
    state: RwLock<State>,
    /// Held by the one who sorts.
    sorting: Mutex<()>,
    /// Newest first.
    remembered: Mutex<Vec<(String, Outcome)>>,
    /// Series of the label, and bytes of its bitmaps, when these were last looked at.
    bitmaps: Mutex<(u64, usize)>,
}

/// Which values pass a test. It cannot go stale between two moves: a position means one value, and a test has no
/// state; values past `seen` are still to be tested.
#[derive(Clone, Default)]
pub(super) struct Outcome {
    /// `State::moves` when it was begun.
    pub moves: u64,
    /// So many entries were tested.
    pub seen: usize,
    /// Positions that passed, ascending.
    pub hits: Arc<Vec<u32>>,
}

#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub value: u32,
    pub posting: Posting,
}

#[derive(Default)]
pub(super) struct State {
    /// In order of arrival.
    pub entries: Vec<Entry>,
    /// Value symbol to position among the entries.
    table: HashTable<u32>,
    lists: Lists,
    /// Every series that has the label.
    pub has: RoaringBitmap,
    /// Positions sorted by text, of all entries but the tail.
    runs: Vec<Arc<[u32]>>,
    tail_start: usize,
    /// Entries without series.
    dead: usize,
    /// How often positions got other values.
    pub moves: u64,
}

/// Symbols are dense numbers that we gave out ourselves: a multiplication spreads them.
fn hash(value: u32) -> u64 {
    u64::from(value).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl State {
    /// The position of a value symbol.
    pub(super) fn find(&self, value: u32) -> Option<u32> {
        self.table.find(hash(value), |&at| self.value(at) == value).copied()
    }

    pub(super) fn value(&self, at: u32) -> u32 {
        self.entries.get(at as usize).map_or(u32::MAX, |e| e.value)
    }

    pub(super) fn ids(&self, at: u32) -> Ids<'_> {
        self.entries.get(at as usize).map_or(Ids::List(&[]), |e| self.lists.ids(&e.posting))
    }

    pub(super) fn ids_len(&self, at: u32) -> u64 {
        self.entries.get(at as usize).map_or(0, |e| e.posting.len.into())
    }

    fn insert(&mut self, value: u32, id: u32) -> Result<()> {
        let found = self.find(value);
        let revives = found.is_some();
        let at = match found {
            Some(at) => at as usize,
            None => {
                let at = self.entries.len();
                if at == self.entries.capacity() {
                    // By an eighth, not by doubling: millions of values are where memory matters.
                    self.entries.reserve_exact((at / 8).max(4));
                }
                self.entries.push(Entry { value, posting: Posting::default() });
                let entries = &self.entries;
                let rehash = |&at: &u32| hash(entries.get(at as usize).map_or(0, |e| e.value));
                self.table.insert_unique(hash(value), at as u32, rehash);
                at
            }
        };
        if let Some(entry) = self.entries.get_mut(at) {
            self.dead -= usize::from(revives && entry.posting.len == 0);
            self.lists.insert(&mut entry.posting, id)?;
        }
        self.has.insert(id);
        Ok(())
    }

    fn remove(&mut self, value: u32, id: u32) -> Result<()> {
        let at = self.find(value);
        if let Some(entry) = at.and_then(|at| self.entries.get_mut(at as usize)) {
            let before = entry.posting.len;
            self.lists.remove(&mut entry.posting, id)?;
            self.dead += usize::from(before > 0 && entry.posting.len == 0);
            self.has.remove(id);
        }
        Ok(())
    }

    /// Values that some series has.
    pub(super) fn values(&self) -> usize {
        self.entries.len() - self.dead
    }

    /// Drops the entries without series; adds their values to `gone`.
    fn compact(&mut self, gone: &mut Vec<u32>) {
        let old = std::mem::take(&mut self.entries);
        self.entries.reserve_exact(old.len() - self.dead);
        let mut places = Vec::with_capacity(old.len());
        for entry in old {
            let lives = entry.posting.len > 0;
            places.push(lives.then_some(self.entries.len() as u32));
            match lives {
                true => self.entries.push(entry),
                false => gone.push(entry.value),
            }
        }
        let moved = |at: &u32| places.get(*at as usize).copied().flatten();
        for run in &mut self.runs {
            *run = run.iter().filter_map(moved).collect();
        }
        self.runs.retain(|run| !run.is_empty());
        self.tail_start = places.iter().take(self.tail_start).flatten().count();
        self.table = HashTable::with_capacity(self.entries.len());
        for (at, entry) in (0u32..).zip(&self.entries) {
            let entries = &self.entries;
            let rehash = |&at: &u32| hash(entries.get(at as usize).map_or(0, |e| e.value));
            self.table.insert_unique(hash(entry.value), at, rehash);
        }
        self.dead = 0;
        self.moves += 1;
    }

    fn tail(&self) -> std::ops::Range<u32> {
        self.tail_start as u32..self.entries.len() as u32
    }

    /// Positions of the values that begin with `prefix`: slices of the sorted runs.
    fn sorted_with<'a>(&'a self, symbols: &'a Symbols, prefix: &'a str) -> impl Iterator<Item = &'a [u32]> {
        let text = |at: u32| symbols.get(self.value(at));
        self.runs.iter().map(move |run| {
            let start = run.partition_point(|&at| &*text(at) < prefix);
            let hits = run[start..].partition_point(|&at| text(at).starts_with(prefix));
            &run[start..start + hits]
        })
    }

    /// Positions of the values that begin with `prefix`, in any order. Logarithmic in the values, plus
    /// the hits, plus the tail.
    pub(super) fn with_prefix(&self, symbols: &Symbols, prefix: &str, out: &mut Vec<u32>) {
        self.sorted_with(symbols, prefix).for_each(|hits| out.extend_from_slice(hits));
        out.extend(self.tail().filter(|&at| symbols.get(self.value(at)).starts_with(prefix)));
    }

    /// About how many values begin with `prefix`: the tail is counted whole.
    pub(super) fn count_prefix(&self, symbols: &Symbols, prefix: &str) -> u64 {
        let sorted: usize = self.sorted_with(symbols, prefix).map(<[u32]>::len).sum();
        (sorted + self.tail().len()) as u64
    }

    /// Every value's position, in sorted stretches of which the last is not sorted.
    pub(super) fn positions(&self) -> Vec<u32> {
        let mut out = Vec::with_capacity(self.entries.len());
        self.runs.iter().for_each(|run| out.extend_from_slice(run));
        out.extend(self.tail());
        out
    }

    pub(super) fn entry_bytes(&self) -> usize {
        heap::vector(&self.entries) + heap::table(&self.table)
    }

    pub(super) fn order_bytes(&self) -> usize {
        let runs: usize = self.runs.iter().map(|r| heap::allocated(16 + size_of_val(&**r))).sum();
        runs + heap::vector(&self.runs)
    }

    pub(super) fn lists(&self) -> &Lists {
        &self.lists
    }
}

impl Label {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        // Not recursive, so that readers cannot keep a writer out: a thread holds one label at a time.
        self.state.read()
    }

    /// Adds the series to the value's postings. True when the tail has become long just now.
    pub(super) fn insert(&self, value: u32, id: u32) -> Result<bool> {
        let mut state = self.state.write();
        let before = state.entries.len();
        state.insert(value, id)?;
        let tail = state.entries.len() - state.tail_start;
        Ok(state.entries.len() > before && tail.is_multiple_of(TAIL_VALUES))
    }

    pub(super) fn remove(&self, value: u32, id: u32) -> Result<()> {
        self.state.write().remove(value, id)
    }

    /// Drops the values without series, where they are many. Readers and writers of the label wait meanwhile: some
    /// 30 ns a value.
    pub(super) fn compact(&self, gone: &mut Vec<u32>) {
        let due = |state: &State| state.dead > DEAD_MIN && state.dead * DEAD_PART > state.entries.len();
        if !due(&self.read()) {
            return;
        }
        let _alone = self.sorting.lock();
        let mut state = self.state.write();
        if due(&state) {
            state.compact(gone);
            self.remembered.lock().clear();
        }
    }

    /// What `f` makes of positions that it keeps between two looks at the label: again, if they moved meanwhile.
    pub(super) fn steadily<T>(&self, mut f: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            let moves = self.read().moves;
            let out = f()?;
            if self.read().moves == moves {
                return Ok(out);
            }
        }
    }

    /// What is known of the test with this key.
    pub(super) fn recall(&self, key: &str) -> Option<Outcome> {
        let mut remembered = self.remembered.lock();
        let at = remembered.iter().position(|r| r.0 == key)?;
        remembered[..=at].rotate_right(1);
        remembered.first().map(|r| r.1.clone())
    }

    /// Keeps an outcome, and forgets the oldest: together they hold a position for each value at most.
    pub(super) fn remember(&self, key: String, outcome: Outcome) {
        let mut left = outcome.seen;
        // No move while it is put there.
        let state = self.read();
        if state.moves != outcome.moves {
            return;
        }
        let mut remembered = self.remembered.lock();
        remembered.retain(|r| r.0 != key);
        remembered.insert(0, (key, outcome));
        remembered.truncate(REMEMBERED_MAX);
        remembered.retain(|r| {
            let fits = r.1.hits.len() <= left;
            left = left.saturating_sub(r.1.hits.len());
            fits
        });
    }

    /// Bytes of the label's bitmaps, which are looked at again when its series have become more or fewer by a
    /// sixteenth.
    pub(super) fn quick_bitmap_bytes(&self, state: &State) -> usize {
        let mut known = self.bitmaps.lock();
        let series = state.has.len();
        if series.abs_diff(known.0) * 16 >= known.0 {
            *known = (series, state.lists.bitmap_bytes() + bitmap_bytes(&state.has));
        }
        known.1
    }

    pub(super) fn remembered_bytes(&self) -> usize {
        let remembered = self.remembered.lock();
        let owned = |(key, outcome): &(String, Outcome)| {
            heap::allocated(key.capacity()) + heap::shared::<Vec<u32>>() + heap::vector(&outcome.hits)
        };
        remembered.iter().map(owned).sum::<usize>() + heap::vector(&remembered)
    }

    /// Sorts the tail into a run and merges runs of like length, up to a length: amortised a constant number of text
    /// comparisons a value. Nobody waits meanwhile, and others who would sort go on.
    pub(super) fn sort_tail(&self, symbols: &Symbols) {
        let Some(_alone) = self.sorting.try_lock() else { return };
        let (mut sorted, kept, end) = {
            let state = self.read();
            let tail = state.tail();
            if tail.len() < TAIL_VALUES {
                return;
            }
            let mut kept = state.runs.len();
            let mut length = tail.len();
            while let Some(older) = kept.checked_sub(1).and_then(|at| state.runs.get(at)) {
                if older.len() > RUN_RATIO * length || older.len() + length > RUN_VALUES_MAX {
                    break;
                }
                kept -= 1;
                length += older.len();
            }
            let merged = state.runs[kept..].iter().flat_map(|run| run.iter().copied());
            let end = tail.end as usize;
            let keyed = merged.chain(tail).map(|at| (at, state.value(at)));
            (keyed.collect::<Vec<(u32, u32)>>(), kept, end)
        };
        // A stable sort finds the runs that are sorted already and merges them.
        sorted.sort_by(|a, b| symbols.get(a.1).cmp(&symbols.get(b.1)));
        let run: Arc<[u32]> = sorted.iter().map(|s| s.0).collect();
        let mut state = self.state.write();
        state.runs.truncate(kept);
        state.runs.push(run);
        state.tail_start = end;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nobody_who_writes_sorts_more_than_a_run_however_many_values_there_are() {
        let symbols = Symbols::new();
        let label = Label::default();
        let mut longest = 0;
        for i in 0..4 * RUN_VALUES_MAX as u32 {
            // Scattered, so that each run spans all texts.
            let text = format!("{:08x}", i.wrapping_mul(0x9e37_79b9));
            if label.insert(symbols.intern(&text).unwrap(), i).unwrap() {
                let before = label.read().runs.clone();
                label.sort_tail(&symbols);
                let state = label.read();
                let kept = before.iter().zip(&state.runs).take_while(|(a, b)| Arc::ptr_eq(a, b)).count();
                longest = longest.max(state.runs[kept..].iter().map(|run| run.len()).sum());
            }
        }
        assert!((RUN_VALUES_MAX / 2..=RUN_VALUES_MAX).contains(&longest), "{longest}");
        let state = label.read();
        assert!(state.runs.len() < 16, "{}", state.runs.len());
        let mut got = Vec::new();
        state.with_prefix(&symbols, "00", &mut got);
        got.sort_unstable();
        let all = 0..4 * RUN_VALUES_MAX as u32;
        let expected: Vec<u32> = all.filter(|i| i.wrapping_mul(0x9e37_79b9) >> 24 == 0).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn prefixes_are_found_in_every_run_and_in_the_tail() {
        let symbols = Symbols::new();
        let label = Label::default();
        let text = |i: u32| format!("{}-{i}", ["api", "web", "db"][i as usize % 3]);
        for i in 0..20_000u32 {
            let long = label.insert(symbols.intern(&text(i)).unwrap(), i).unwrap();
            if long && i < 18_000 {
                label.sort_tail(&symbols);
            }
        }
        let state = label.read();
        assert!(state.runs.len() > 1 && !state.tail().is_empty());
        assert!(state.runs.iter().all(|r| r.is_sorted_by_key(|&at| symbols.get(state.value(at)).to_owned())));
        for prefix in ["", "api-1", "web", "db-19999", "x"] {
            let mut got = Vec::new();
            state.with_prefix(&symbols, prefix, &mut got);
            got.sort_unstable();
            let expected: Vec<u32> = (0..20_000).filter(|&i| text(i).starts_with(prefix)).collect();
            assert_eq!(got, expected, "{prefix}");
        }
        let mut all = state.positions();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..20_000));
    }
}
