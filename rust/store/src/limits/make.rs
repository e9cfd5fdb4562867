//! How a new series comes in, past the limits or turned by them, and how the samples of folded ones are written.

use metricsdb_model::{Labels, LabelsRef, Reason, ValueKind, WriteReport};

use super::fold::{SOURCES_MAX, Taken};
use super::{Action, Bound, OVERFLOW, RULES_MAX, Rules};
use crate::database::Database;
use crate::late::DuplicatePolicy;
use crate::resolve::{Interned, Refusal};
use crate::series::ANY_GENERATION;
use crate::shard::{Rules as ChunkRules, Staged, Work, place_of};

/// Marks what stands for the id of a series that was refused when it was registered; the rest is its rule.
const REFUSED_BIT: u64 = 1 << 62;

/// What a label set leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Series {
        /// As callers get it: with the generation of its row.
        id: u64,
        made: bool,
    },
    /// It is folded into another series; the id is one for `Database::fold`.
    Folded(u64),
}

impl Found {
    pub fn id(self) -> u64 {
        match self {
            Found::Series { id, .. } | Found::Folded(id) => id,
        }
    }

    pub fn is_made(self) -> bool {
        matches!(self, Found::Series { made: true, .. })
    }
}

/// What stands for the id of a series that a rule refused.
pub fn refused(rule: usize) -> u64 {
    REFUSED_BIT | rule as u64
}

/// The rule that refused the series of an id.
pub fn refused_rule(id: u64) -> Option<usize> {
    let rule = id ^ REFUSED_BIT;
    (rule < RULES_MAX as u64).then_some(rule as usize)
}

/// A sample of a folded series.
#[derive(Clone, Copy, Debug)]
pub struct FoldedSample {
    pub id: u64,
    pub time: i64,
    pub value: f64,
}

impl Database {
    /// The series of a label set that is not there, or what the limits make of it.
    pub(crate) fn make_within_limits(
        &self,
        labels: LabelsRef<'_>,
        last: &mut Interned,
    ) -> Result<Found, Refusal> {
        let rules = self.limits.read();
        if rules.is_empty() {
            return self.make_now(labels, last);
        }
        if let Some(found) = self.find_folded(labels) {
            return Ok(found);
        }
        let (mut turned, mut turned_by) = (None::<Labels>, 0u64);
        let found = loop {
            let now = turned.as_ref().map_or(labels, Labels::as_ref);
            if turned.is_some()
                && let Some(id) = self.find_known(now, last)
            {
                break Found::Series { id, made: false };
            }
            match rules.admit(now, turned_by, |name, value| !self.index.has_value(name, value)) {
                Ok(()) => break self.make_counted(now, last, &rules)?,
                Err(full) => {
                    let bit = 1 << full.rule;
                    let other = match turned_by & bit {
                        0 => rules.turn(now, &full),
                        _ => Err(rules.refusal(&full, now)),
                    };
                    turned = Some(other.inspect_err(|_| rules.note(full.rule, |c| c.rejected += 1))?);
                    turned_by |= bit;
                }
            }
        };
        rules.note_turned(turned_by);
        // Where a second rule dropped what the first had set, a series of its own may be there, which sums don't replace.
        if !turned.is_some_and(|labels| labels.iter().any(|(_, value)| value == OVERFLOW)) {
            return Ok(found);
        }
        let mut folds = self.limits.folds.lock();
        let hash = folds.hash(labels.canonical());
        let folded = folds.add(hash, found.id() as u32);
        drop(folds);
        folded.map(Found::Folded).ok_or_else(|| Refusal {
            reason: Reason::CardinalityLimit,
            message: format!(
                "{SOURCES_MAX} series are folded, the most a database adds up: {}",
                labels.to_owned()
            ),
            rule: turned_by.trailing_zeros() as usize,
        })
    }

    /// What a label set that is folded already leads to.
    pub(crate) fn find_folded(&self, labels: LabelsRef<'_>) -> Option<Found> {
        let folds = self.limits.folds.lock();
        folds.find(folds.hash(labels.canonical())).map(Found::Folded)
    }

    /// Makes a series that the limits have counted already.
    fn make_counted(
        &self,
        labels: LabelsRef<'_>,
        last: &mut Interned,
        rules: &Rules<'_>,
    ) -> Result<Found, Refusal> {
        let found = self.make_now(labels, last);
        if !found.as_ref().is_ok_and(|found| found.is_made()) {
            // It failed, or another thread was first.
            rules.uncount(labels);
        }
        found
    }

    /// Takes samples of folded series, and writes the sums that they change.
    pub(crate) fn fold(&self, samples: &mut Vec<FoldedSample>, report: &mut WriteReport) {
        if samples.is_empty() || !self.admit_samples(samples.len(), report) {
            return samples.clear();
        }
        samples.sort_by_key(|sample| (sample.id, sample.time));
        {
            let mut folds = self.limits.folds.lock();
            for &FoldedSample { id, time, value } in samples.iter() {
                match folds.write(id, time, value, self.rules.duplicates) {
                    Taken::New => report.accepted += 1,
                    Taken::Duplicate => {
                        report.accepted += 1;
                        report.duplicates += 1;
                    }
                    Taken::Twice => report.reject(Reason::DuplicateSample, 1, || {
                        format!("a folded series has a sample at {time} ms already")
                    }),
                    Taken::TooOld => report.reject(Reason::CardinalityLimit, 1, || {
                        format!("a sample at {time} ms is too old to be added to a sum of folded series")
                    }),
                    Taken::Unknown => report.reject(Reason::UnknownSeries, 1, || {
                        format!("the folded series of id {id} was silent for too long; register it again")
                    }),
                }
            }
        }
        samples.clear();
        self.write_folded();
    }

    /// Writes the sums of folded series that changed, over whatever stands at their times.
    pub(crate) fn write_folded(&self) {
        // Held until all is written, so that a newer sum is never followed by an older one.
        let mut folds = self.limits.folds.lock();
        let mut sums = folds.changed();
        if sums.is_empty() {
            return;
        }
        sums.sort_by_key(|sum| place_of(sum.target).0);
        let (mut work, mut report) = (Work::default(), WriteReport::default());
        let rules = ChunkRules { duplicates: DuplicatePolicy::Last, ..self.rules };
        for of_shard in sums.chunk_by(|a, b| place_of(a.target).0 == place_of(b.target).0) {
            let Some(first) = of_shard.first() else { continue };
            let mut shard = self.shard(place_of(first.target).0);
            let staged: Vec<Staged> = of_shard
                .iter()
                .map(|sum| Staged {
                    row: place_of(sum.target).1,
                    generation: ANY_GENERATION,
                    time: sum.time,
                    bits: sum.value.to_bits(),
                })
                .filter(|staged| shard.series.has(staged.row))
                .collect();
            if let Some(journal) = self.journal() {
                journal.folded(&mut shard, &staged);
            }
            self.count_appended(staged.len());
            let appended = shard.append(&staged, &[], ValueKind::Float, &rules, &mut work, &mut report);
            debug_assert!(appended.is_ok(), "only what is stored can be bad: {appended:?}");
        }
        self.written.note(sums.iter().map(|sum| sum.time).min().unwrap_or(i64::MAX));
        drop(folds);
        self.relieve();
    }

    /// Why a histogram is not taken whose id is that of no series; `None` where the id was never one.
    pub(crate) fn no_histogram(&self, id: u64) -> Option<String> {
        match refused_rule(id) {
            Some(rule) => Some(self.refused_by(rule)),
            None => self
                .limits
                .folds
                .lock()
                .contains(id)
                .then(|| "native histograms of a folded series are not added up".to_owned()),
        }
    }

    /// What to tell of a sample whose series was refused when it was registered.
    pub(crate) fn refused_by(&self, rule: usize) -> String {
        let rules = self.limits.read();
        match rules.rules.get(rule) {
            Some(limit) => {
                let allowed = match &limit.bound {
                    Bound::Series { max, .. } => format!("{max} series"),
                    Bound::Churn { new_max, window_ms } => format!("{new_max} new series in {window_ms} ms"),
                };
                format!("limit {:?}: {allowed} allowed, and this would be one more", limit.name)
            }
            None => "a limit refused the series when it was registered; register it again".to_owned(),
        }
    }
}

impl Rules<'_> {
    /// Counts a series that some rules turned away from where it would have gone.
    fn note_turned(&self, turned_by: u64) {
        for (rule, limit) in self.rules.iter().enumerate().filter(|(rule, _)| turned_by & 1 << rule != 0) {
            self.note(rule, |counts| match limit.action {
                Action::Overflow(_) => counts.folded += 1,
                Action::Drop(_) => counts.dropped += 1,
                Action::Reject => {}
            });
        }
    }
}
