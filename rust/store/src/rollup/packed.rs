//! A series with records as it stands in its shard. What most series of a policy have alike is one for all of them: where
//! their records begin and end, and of series that never change all there is.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, Weak};

use hashbrown::{DefaultHashBuilder, HashTable};
use metricsdb_model::TimeRange;
use parking_lot::Mutex;

use super::kind::Kind;
use super::record::floor_of;
use super::roll::Keeping;
use super::{Beside, Block, LevelRef, LevelSeries, Native, RolledSeries, span_of, stand_in};
use crate::chunk::Chunk;
use crate::heap;

/// Where records of a series stand.
#[derive(Clone, Debug, PartialEq)]
struct Stand {
    raw_from: i64,
    kind: Kind,
    beside: Beside,
    keeping: Option<Keeping>,
    /// Of each level its width, up to where it is made, and up to where it is gone.
    levels: Box<[(i64, i64, i64)]>,
}

/// What few series have.
#[derive(Clone, Default)]
struct Rest {
    dirty: Vec<i64>,
    kept: Vec<Chunk>,
    /// Of each level that has some, with its width.
    native: Vec<(i64, Box<Native>)>,
}

/// A `RolledSeries` in few bytes.
#[derive(Clone)]
pub struct Packed {
    stand: Arc<Stand>,
    /// Of all levels, the finest first.
    blocks: Box<[Block]>,
    rest: Option<Box<Rest>>,
    /// Series that are equal to it are this one.
    common: bool,
}

/// Series of more blocks, or of larger ones, are seldom equal.
const COMMON_BLOCKS: usize = 8;
const COMMON_BYTES: usize = 32;

impl Packed {
    pub fn raw_from(&self) -> i64 {
        self.stand.raw_from
    }

    pub fn kind(&self) -> Kind {
        self.stand.kind
    }

    /// The width of the finest level, and up to where it is made.
    pub fn finest(&self) -> Option<(i64, i64)> {
        self.stand.levels.first().map(|l| (l.0, l.1))
    }

    /// The time up to which records can stand for all samples before another.
    pub(crate) fn stands_until(&self, before: i64) -> i64 {
        self.finest().map_or(i64::MIN, |(every, _)| floor_of(before, every))
    }

    /// Whether its records are of native histograms.
    pub fn is_native(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| !rest.native.is_empty())
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// What the last step said of samples that survive, and of what stands beside records.
    pub fn policy(&self) -> (Option<Keeping>, Beside) {
        (self.stand.keeping, self.stand.beside)
    }

    /// The finest first.
    pub fn levels(&self) -> impl Iterator<Item = LevelRef<'_>> + Clone {
        let mut rest = &self.blocks[..];
        let natives = self.rest.as_ref().map_or(&[][..], |rest| &rest.native);
        self.stand.levels.iter().map(move |&(every, until, floor)| {
            let (blocks, wider) = rest.split_at(rest.partition_point(|b| b.every() <= every));
            rest = wider;
            let native = natives.iter().find(|n| n.0 == every).map(|n| &*n.1);
            LevelRef { every, until, floor, blocks, native }
        })
    }

    /// The times of the oldest and the newest sample that records stand for.
    pub fn span(&self) -> Option<TimeRange> {
        span_of(self.levels())
    }

    /// Whether records stand for samples of this range.
    pub fn stands_in(&self, range: TimeRange) -> bool {
        stand_in(self.levels(), self.raw_from(), range)
    }

    /// A copy to work on: of each block a handle.
    pub fn unpack(&self) -> RolledSeries {
        let level = |LevelRef { every, until, floor, blocks, native }: LevelRef<'_>| {
            let native = native.cloned().map(Box::new);
            LevelSeries { every, until, floor, blocks: blocks.to_vec(), native }
        };
        let Stand { raw_from, kind, beside, keeping, .. } = *self.stand;
        let (dirty, kept) =
            self.rest.as_ref().map_or_else(Default::default, |r| (r.dirty.clone(), r.kept.clone()));
        let levels = self.levels().map(level).collect();
        RolledSeries { raw_from, kind, keeping, beside, dirty, levels, kept }
    }

    /// Samples that survive.
    pub fn kept(&self) -> &[Chunk] {
        self.rest.as_ref().map_or(&[], |rest| &rest.kept)
    }

    /// Ends of buckets that are to be made anew: sorted.
    pub fn dirty(&self) -> &[i64] {
        self.rest.as_ref().map_or(&[], |rest| &rest.dirty)
    }

    /// Notes the end of a bucket that is to be made anew.
    pub fn soil(&mut self, end: i64) {
        let dirty = &mut self.rest.get_or_insert_default().dirty;
        if let Err(at) = dirty.binary_search(&end) {
            dirty.insert(at, end);
        }
        self.common = false;
    }

    pub fn is_dirty(&self, end: i64) -> bool {
        self.dirty().binary_search(&end).is_ok()
    }

    /// Heap bytes; none where others share it all.
    pub fn bytes(&self) -> usize {
        if self.common { 0 } else { self.own_bytes() }
    }

    fn own_bytes(&self) -> usize {
        let rest = self.rest.as_ref().map_or(0, |r| {
            heap::allocated(size_of::<Rest>())
                + heap::vector(&r.dirty)
                + heap::vector(&r.kept)
                + r.kept.iter().map(Chunk::bytes).sum::<usize>()
                + heap::vector(&r.native)
                + r.native.iter().map(|n| n.1.bytes()).sum::<usize>()
        });
        let blocks: usize = self.blocks.iter().map(Block::bytes).sum();
        heap::shared::<Packed>() + heap::slice(&self.blocks) + blocks + rest
    }

    pub fn is_common(&self) -> bool {
        self.common
    }

    fn may_be_common(&self) -> bool {
        self.rest.is_none()
            && self.blocks.len() <= COMMON_BLOCKS
            && self.blocks.iter().all(|b| b.encoded_bytes() <= COMMON_BYTES)
    }

    fn is_same(&self, other: &Packed) -> bool {
        Arc::ptr_eq(&self.stand, &other.stand)
            && self.blocks.len() == other.blocks.len()
            && self.blocks.iter().zip(&other.blocks).all(|(a, b)| a.is_same(b))
    }
}

/// What series of all shards have in common, for as long as one has it.
#[derive(Default)]
pub struct Commons {
    hasher: DefaultHashBuilder,
    stands: Mutex<Table<Stand>>,
    series: Mutex<Table<Packed>>,
}

struct Table<T> {
    known: HashTable<(u64, Weak<T>)>,
    sweep_at: usize,
    /// Of what is alive, or was at the last sweep.
    bytes: usize,
}

/// Entries below which no sweep is worth its time.
const SWEEP_MIN: usize = 64;

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { known: HashTable::new(), sweep_at: SWEEP_MIN, bytes: 0 }
    }
}

impl<T> Table<T> {
    fn find(&self, hash: u64, same: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let alive = |(h, weak): &(u64, Weak<T>)| *h == hash && weak.upgrade().is_some_and(|t| same(&t));
        self.known.find(hash, alive).and_then(|(_, weak)| weak.upgrade())
    }

    fn insert(&mut self, hash: u64, thing: &Arc<T>, bytes: impl Fn(&T) -> usize) {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|(_, weak)| weak.strong_count() > 0);
            self.sweep_at = (self.known.len() * 2).max(SWEEP_MIN);
            self.bytes = self.known.iter().filter_map(|(_, weak)| weak.upgrade()).map(|t| bytes(&t)).sum();
        }
        self.bytes += bytes(thing);
        self.known.insert_unique(hash, (hash, Arc::downgrade(thing)), |(h, _)| *h);
    }

    fn bytes(&self) -> usize {
        heap::table(&self.known) + self.bytes
    }
}

impl Commons {
    /// A series in few bytes, sharing what others have too.
    pub fn pack(&self, series: RolledSeries) -> Arc<Packed> {
        let RolledSeries { raw_from, kind, keeping, beside, dirty, levels, kept } = series;
        let spans = levels.iter().map(|l| (l.every, l.until, l.floor)).collect();
        let stand = self.stand(Stand { raw_from, kind, beside, keeping, levels: spans });
        let (mut blocks, mut native) = (Vec::new(), Vec::new());
        for level in levels {
            blocks.extend(level.blocks);
            native.extend(level.native.map(|n| (level.every, n)));
        }
        let blocks = blocks.into();
        let any = !dirty.is_empty() || !kept.is_empty() || !native.is_empty();
        let rest = any.then(|| Box::new(Rest { dirty, kept, native }));
        let mut packed = Packed { stand, blocks, rest, common: false };
        if !packed.may_be_common() {
            return Arc::new(packed);
        }
        packed.common = true;
        let mut hasher = self.hasher.build_hasher();
        Arc::as_ptr(&packed.stand).hash(&mut hasher);
        for block in &packed.blocks {
            block.address().hash(&mut hasher);
            block.parts().1.hash(&mut hasher);
        }
        let hash = hasher.finish();
        let mut table = self.series.lock();
        if let Some(known) = table.find(hash, |other| other.is_same(&packed)) {
            return known;
        }
        let packed = Arc::new(packed);
        table.insert(hash, &packed, Packed::own_bytes);
        packed
    }

    fn stand(&self, stand: Stand) -> Arc<Stand> {
        let hash = self.hasher.hash_one((stand.raw_from, stand.kind, stand.beside, &stand.levels));
        let mut table = self.stands.lock();
        if let Some(known) = table.find(hash, |other| *other == stand) {
            return known;
        }
        let stand = Arc::new(stand);
        table.insert(hash, &stand, |s| heap::shared::<Stand>() + heap::slice(&s.levels));
        stand
    }

    /// Heap bytes of what is shared; what died lately may still count.
    pub fn bytes(&self) -> usize {
        self.stands.lock().bytes() + self.series.lock().bytes()
    }
}
