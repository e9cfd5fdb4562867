//! Samples that are not newer than their series' newest: each rewrites the chunk that covers it, so that
//! the chunks of a series stay disjoint and sorted; and what becomes of two samples at one time.

use std::cmp::Ordering;

use metricsdb_model::sample::is_stale;
use metricsdb_model::{Error, Reason, Result, ValueKind, WriteReport};

use crate::chunk::chunks_of;
use crate::shard::{Rules, Shard, Work, id_of};

/// Which value stands where two samples of one series have the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DuplicatePolicy {
    /// The one that was written last.
    #[default]
    Last,
    /// The one that was written first.
    First,
    /// The smaller; any number wins over NaN, any NaN over the staleness marker.
    Min,
    /// The larger; any number wins over NaN, any NaN over the staleness marker.
    Max,
    /// The sum; integers whose sum leaves their range are added as floats. A staleness marker gives way.
    Sum,
    /// The first; a second is rejected and reported.
    Error,
}

impl DuplicatePolicy {
    /// Whether a value written twice leaves everything as it is.
    pub fn keeps_equals(self) -> bool {
        !matches!(self, DuplicatePolicy::Sum | DuplicatePolicy::Error)
    }

    /// The policy of this name. Errors: `Input`.
    pub fn from_name(name: &str) -> Result<DuplicatePolicy> {
        match name {
            "last" => Ok(DuplicatePolicy::Last),
            "first" => Ok(DuplicatePolicy::First),
            "min" => Ok(DuplicatePolicy::Min),
            "max" => Ok(DuplicatePolicy::Max),
            "sum" => Ok(DuplicatePolicy::Sum),
            "error" => Ok(DuplicatePolicy::Error),
            _ => Err(Error::input(
                "duplicates",
                name,
                "no such policy",
                "give last, first, min, max, sum or error",
            )),
        }
    }
}

/// A sample that has to be merged in. `older`: before the newest, not at it.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    pub row: u32,
    pub time: i64,
    pub bits: u64,
    /// When its counter began; 0 where that is not known.
    pub start: i64,
    pub older: bool,
}

/// 64 bits and what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    pub bits: u64,
    pub kind: ValueKind,
}

/// A sample of a chunk that is being rewritten.
#[derive(Clone, Copy, Debug)]
pub struct Merged {
    pub time: i64,
    pub value: Value,
    /// The start of a sample that came in late.
    pub start: Option<i64>,
}

impl Value {
    fn float(self) -> f64 {
        self.kind.widen(self.bits)
    }

    /// 0: a number, 1: NaN, 2: the staleness marker.
    fn rank(self) -> u8 {
        match self.kind {
            ValueKind::Int | ValueKind::Uint => 0,
            ValueKind::Float if is_stale(f64::from_bits(self.bits)) => 2,
            ValueKind::Float => u8::from(f64::from_bits(self.bits).is_nan()),
        }
    }

    /// Order of two numbers; exact between integers of one kind.
    fn order(self, other: Value) -> Ordering {
        let order = match self.kind == other.kind {
            true => self.kind.order(self.bits, other.bits),
            false => self.float().partial_cmp(&other.float()),
        };
        order.unwrap_or(Ordering::Equal)
    }

    fn sum(self, other: Value) -> Value {
        if self.kind == other.kind
            && let Some(bits) = self.kind.checked_sum(self.bits, other.bits)
        {
            return Value { bits, kind: self.kind };
        }
        Value { bits: (self.float() + other.float()).to_bits(), kind: ValueKind::Float }
    }
}

/// The value that stands after `new` was written over `old`; `None` when `new` is refused.
pub fn combine(policy: DuplicatePolicy, old: Value, new: Value) -> Option<Value> {
    let pick = |wanted: Ordering| match new.rank().cmp(&old.rank()) {
        Ordering::Less => new,
        Ordering::Equal if new.rank() == 0 && new.order(old) == wanted => new,
        _ => old,
    };
    match policy {
        DuplicatePolicy::Last => Some(new),
        DuplicatePolicy::First => Some(old),
        DuplicatePolicy::Min => Some(pick(Ordering::Less)),
        DuplicatePolicy::Max => Some(pick(Ordering::Greater)),
        DuplicatePolicy::Sum if old.rank() == 2 => Some(new),
        DuplicatePolicy::Sum if new.rank() == 2 => Some(old),
        DuplicatePolicy::Sum => Some(old.sum(new)),
        DuplicatePolicy::Error => None,
    }
}

/// Whether the start of `new` stands after `value` was made of it and `old`.
fn start_stands(policy: DuplicatePolicy, old: Value, new: &Late, value: Value) -> bool {
    match policy {
        DuplicatePolicy::Last => true,
        DuplicatePolicy::First | DuplicatePolicy::Error => false,
        DuplicatePolicy::Min | DuplicatePolicy::Max => value != old,
        DuplicatePolicy::Sum => new.start != 0,
    }
}

/// Where a group of late samples goes.
enum Target {
    Open,
    Sealed(usize),
}

impl Shard {
    /// Merges samples, in the order they were written, into the chunks that cover them. Each series' cost
    /// is that of the chunks touched, not of the samples.
    pub fn merge_late(
        &mut self,
        late: &mut Vec<Late>,
        kind: ValueKind,
        rules: &Rules,
        work: &mut Work,
        report: &mut WriteReport,
    ) -> Result<()> {
        late.sort_by_key(|l| (l.row, l.time));
        if !self.rollups.is_empty() {
            late.retain(|l| self.note_late(l, report));
        }
        let mut merged = std::mem::take(&mut work.merged);
        let mut rest: &[Late] = late;
        while let Some(first) = rest.first() {
            let row = first.row;
            let (target, end) = self.target(row, first.time);
            let len = rest.partition_point(|l| l.row == row && end.is_none_or(|end| l.time < end));
            let (group, after) = rest.split_at(len);
            rest = after;
            let base = match target {
                Target::Open => {
                    let head = &self.series.heads[row];
                    self.decode_open(&head.state, self.open_bytes(head), work)?;
                    head.state.kind()
                }
                Target::Sealed(at) => self.decode_sealed(row, at, work)?,
            };
            merged.clear();
            let changed = self.merge(group, kind, base, rules.duplicates, work, &mut merged, report);
            self.patch_starts(row, &merged)?;
            if !changed {
                continue;
            }
            match target {
                Target::Open => {
                    self.close(row);
                    for m in &merged {
                        self.push(row, m.value.kind, m.time, m.value.bits, rules, work)?;
                    }
                }
                Target::Sealed(at) => self.replace(row, at, &merged, work)?,
            }
        }
        work.merged = merged;
        Ok(())
    }

    /// Whether a late sample can still be taken; its record is made anew then.
    fn note_late(&mut self, late: &Late, report: &mut WriteReport) -> bool {
        let taken = self.rollups.late(late.row, late.time);
        if !taken {
            let id = id_of(self.number, late.row);
            report.reject(Reason::OutOfRetention, 1, || {
                format!("of series {id} only rollups are left at {} ms", late.time)
            });
        }
        taken
    }

    /// Notes the starts of the late samples that stand now.
    fn patch_starts(&mut self, row: u32, merged: &[Merged]) -> Result<()> {
        let late = || merged.iter().filter_map(|m| Some((m.time, m.start?)));
        if self.starts.is_empty() && late().all(|(_, start)| start == 0) {
            return Ok(());
        }
        let points: Vec<(i64, i64)> = late().collect();
        self.starts.patch(row, &points, &self.shared_columns)
    }

    /// The chunk for a late sample, and the time from which the next chunk is responsible.
    fn target(&self, row: u32, time: i64) -> (Target, Option<i64>) {
        let open = self.open_span(&self.series.heads[row]).map(|span| span.start);
        let list = &self.series.sealed[row];
        if list.is_empty() || open.is_some_and(|first| time >= first) {
            return (Target::Open, None);
        }
        let at = list.begun(time).saturating_sub(1);
        (Target::Sealed(at), list.get(at + 1).map(|c| c.first()).or(open))
    }

    fn decode_sealed(&self, row: u32, at: usize, work: &mut Work) -> Result<ValueKind> {
        work.times.clear();
        work.bits.clear();
        match self.series.sealed[row].get(at) {
            Some(chunk) => {
                chunk.decode_into(&mut work.times, &mut work.bits)?;
                Ok(chunk.kind())
            }
            None => Ok(ValueKind::Float),
        }
    }

    /// Merges the decoded chunk in `work` with a group of late samples; whether anything is different.
    #[allow(clippy::too_many_arguments)] // two columns to merge, where to, and what to count
    fn merge(
        &self,
        group: &[Late],
        kind: ValueKind,
        base: ValueKind,
        policy: DuplicatePolicy,
        work: &Work,
        merged: &mut Vec<Merged>,
        report: &mut WriteReport,
    ) -> bool {
        let mut changed = false;
        let mut at = 0;
        let base = |i: usize| {
            let value = Value { bits: work.bits[i], kind: base };
            Merged { time: work.times[i], value, start: None }
        };
        for l in group {
            while at < work.times.len() && work.times[at] <= l.time {
                merged.push(base(at));
                at += 1;
            }
            let new = Value { bits: l.bits, kind };
            match merged.last_mut().filter(|m| m.time == l.time) {
                Some(old) => {
                    let Some(mut value) = combine(policy, old.value, new) else {
                        let id = id_of(self.number, l.row);
                        report.reject(Reason::DuplicateSample, 1, || {
                            format!("series {id} has a sample at {} ms already", l.time)
                        });
                        continue;
                    };
                    if policy == DuplicatePolicy::Sum {
                        value.bits = self.kept(l.row, value.kind, value.bits);
                    }
                    report.duplicates += 1;
                    changed |= old.value != value;
                    if start_stands(policy, old.value, l, value) {
                        old.start = Some(l.start);
                    }
                    old.value = value;
                }
                None => {
                    merged.push(Merged { time: l.time, value: new, start: Some(l.start) });
                    changed = true;
                }
            }
            report.accepted += 1;
            report.out_of_order += u64::from(l.older);
        }
        merged.extend((at..work.times.len()).map(base));
        changed
    }

    /// Puts chunks made of `merged` in the place of one sealed chunk: one or more per run of a kind.
    fn replace(&mut self, row: u32, at: usize, merged: &[Merged], work: &mut Work) -> Result<()> {
        let mut chunks = Vec::new();
        for run in merged.chunk_by(|a, b| a.value.kind == b.value.kind) {
            work.times.clear();
            work.bits.clear();
            work.times.extend(run.iter().map(|m| m.time));
            work.bits.extend(run.iter().map(|m| m.value.bits));
            let kind = run.first().map_or(ValueKind::Float, |m| m.value.kind);
            chunks.extend(chunks_of(kind, &work.times, &work.bits, &self.shared_columns)?);
        }
        self.swap_sealed(row, at, 1, chunks);
        Ok(())
    }
}
