//! One limit on the memory of a database: who holds how much, and who is refused when it is short.
//!
//! Steps are refused one after the other, each at a threshold of its own between the soft limit and the hard one;
//! queries of the alert class only beyond it. Nothing is measured here: who holds something says so.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::error::{Error, Result};

/// What queries of the alert class may hold beyond the hard limit: a twentieth of it, and so many bytes, since a
/// small limit has no smaller alerts.
const ALERT_PART: u64 = 20;
const ALERT_BYTES: u64 = 16 << 20;

/// Who is refused, in the order of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    BatchQueries,
    Queries,
    NewSeries,
    /// Of series of low importance.
    LowSamples,
    Samples,
    /// Bodies that are refused before anybody looks into them.
    Bodies,
    AlertQueries,
}

impl Step {
    pub const ALL: [Step; 7] = [
        Step::BatchQueries,
        Step::Queries,
        Step::NewSeries,
        Step::LowSamples,
        Step::Samples,
        Step::Bodies,
        Step::AlertQueries,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Step::BatchQueries => "batch_queries",
            Step::Queries => "queries",
            Step::NewSeries => "new_series",
            Step::LowSamples => "low_samples",
            Step::Samples => "samples",
            Step::Bodies => "bodies",
            Step::AlertQueries => "alert_queries",
        }
    }

    /// As messages say it.
    pub fn plural(self) -> &'static str {
        match self {
            Step::BatchQueries => "queries of class batch",
            Step::Queries => "queries of class query",
            Step::NewSeries => "new series",
            Step::LowSamples => "samples of low importance",
            Step::Samples => "samples",
            Step::Bodies => "bodies",
            Step::AlertQueries => "queries of class alert",
        }
    }

    pub fn is_write(self) -> bool {
        matches!(self, Step::NewSeries | Step::LowSamples | Step::Samples | Step::Bodies)
    }

    /// When it is worth another try: queries end soon, room for samples comes with the upkeep.
    pub fn retry_after_s(self) -> u64 {
        if self.is_write() { 5 } else { 1 }
    }
}

/// Bytes by who holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// The store, when it was last measured.
    pub stored: u64,
    /// Queries that run or are being answered.
    pub queries: u64,
    /// Answers that are kept for the next query.
    pub kept: u64,
    /// Bodies that are being decoded and written.
    pub arriving: u64,
}

impl Shares {
    pub fn total(&self) -> u64 {
        self.stored.saturating_add(self.queries).saturating_add(self.kept).saturating_add(self.arriving)
    }
}

#[derive(Debug)]
pub struct MemoryLimit {
    /// `u64::MAX`: none.
    limit: u64,
    soft: u64,
    stored: AtomicU64,
    queries: AtomicU64,
    kept: AtomicU64,
    arriving: AtomicU64,
    refused: [AtomicU64; Step::ALL.len()],
}

impl Default for MemoryLimit {
    fn default() -> MemoryLimit {
        MemoryLimit::new(u64::MAX, u64::MAX)
    }
}

impl MemoryLimit {
    /// Bytes; the soft limit is not above the hard one.
    pub fn new(limit: u64, soft: u64) -> MemoryLimit {
        let zero = || AtomicU64::new(0);
        MemoryLimit {
            limit,
            soft: soft.min(limit),
            stored: zero(),
            queries: zero(),
            kept: zero(),
            arriving: zero(),
            refused: Default::default(),
        }
    }

    /// Bytes; `None` without a limit.
    pub fn limit(&self) -> Option<u64> {
        (self.limit != u64::MAX).then_some(self.limit)
    }

    pub fn soft(&self) -> u64 {
        self.soft
    }

    pub fn set_stored(&self, bytes: u64) {
        self.stored.store(bytes, Relaxed);
    }

    pub fn set_kept(&self, bytes: u64) {
        self.kept.store(bytes, Relaxed);
    }

    pub fn shares(&self) -> Shares {
        Shares {
            stored: self.stored.load(Relaxed),
            queries: self.queries.load(Relaxed),
            kept: self.kept.load(Relaxed),
            arriving: self.arriving.load(Relaxed),
        }
    }

    /// Bytes from which on a step is refused.
    pub fn threshold(&self, step: Step) -> u64 {
        let between = self.limit - self.soft;
        match step {
            Step::BatchQueries => self.soft + between / 4,
            Step::Queries => self.soft + between / 2,
            Step::NewSeries => self.soft + between / 4 * 3,
            Step::LowSamples => self.soft + between / 8 * 7,
            Step::Samples | Step::Bodies => self.limit,
            Step::AlertQueries => self.limit.saturating_add(self.limit / ALERT_PART + ALERT_BYTES),
        }
    }

    /// Whether there is room for `more` bytes of this step. Errors: `Memory`.
    #[inline]
    pub fn admit(&self, step: Step, more: u64) -> Result<()> {
        if self.limit == u64::MAX {
            return Ok(());
        }
        let held = self.shares().total();
        match held.saturating_add(more) < self.threshold(step) {
            true => Ok(()),
            false => Err(self.refusal(step)),
        }
    }

    /// The error of a step that finds no room.
    pub fn refusal(&self, step: Step) -> Error {
        Error::Memory { step, held: self.shares().total(), limit: self.limit }
    }

    /// Counts queries, series, samples or bodies that were refused.
    pub fn count_refused(&self, step: Step, count: u64) {
        if let Some(refused) = self.refused.get(step as usize) {
            refused.fetch_add(count, Relaxed);
        }
    }

    /// By step: queries, series, samples or bodies.
    pub fn refused(&self) -> impl Iterator<Item = (Step, u64)> {
        Step::ALL.into_iter().zip(&self.refused).map(|(step, count)| (step, count.load(Relaxed)))
    }

    /// Room for a body on its way in, until the guard goes; counts one that is refused. Errors: `Memory`.
    pub fn arrive(&self, bytes: u64) -> Result<Arriving<'_>> {
        self.admit(Step::Bodies, bytes).inspect_err(|_| self.count_refused(Step::Bodies, 1))?;
        self.arriving.fetch_add(bytes, Relaxed);
        Ok(Arriving { memory: self, bytes })
    }
}

/// A body that is being written.
pub struct Arriving<'m> {
    memory: &'m MemoryLimit,
    bytes: u64,
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.memory.arriving.fetch_sub(self.bytes, Relaxed);
    }
}

/// What one query adds to what all queries of a database hold; given back when dropped.
pub struct QueryShare {
    memory: Arc<MemoryLimit>,
    step: Step,
    bytes: AtomicU64,
}

impl fmt::Debug for QueryShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueryShare({}, {} bytes)", self.step.as_str(), self.bytes.load(Relaxed))
    }
}

impl QueryShare {
    pub fn new(memory: Arc<MemoryLimit>, step: Step) -> QueryShare {
        QueryShare { memory, step, bytes: AtomicU64::new(0) }
    }

    /// For another budget of the same call.
    pub(crate) fn beside(&self) -> QueryShare {
        QueryShare::new(self.memory.clone(), self.step)
    }

    pub(crate) fn take(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.memory.queries.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn give(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
        self.memory.queries.fetch_sub(bytes, Relaxed);
    }

    /// Whether all may hold so many bytes more. Errors: `Memory`.
    pub(crate) fn admit(&self, more: u64) -> Result<()> {
        self.memory.admit(self.step, more)
    }
}

impl Drop for QueryShare {
    fn drop(&mut self) {
        self.memory.queries.fetch_sub(*self.bytes.get_mut(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_refused_one_after_the_other_and_alerts_last() {
        let memory = MemoryLimit::new(1000, 800);
        let alerts = memory.threshold(Step::AlertQueries);
        assert_eq!(alerts, 1050 + (16 << 20));
        for (stored, refused) in
            [(849, 0), (850, 1), (900, 2), (950, 3), (975, 4), (1000, 6), (alerts - 1, 6), (alerts, 7)]
        {
            memory.set_stored(stored);
            let by_step = Step::ALL.map(|step| memory.admit(step, 0).is_err());
            assert_eq!(by_step, std::array::from_fn(|i| i < refused), "{stored}");
        }
        assert_eq!(MemoryLimit::default().admit(Step::BatchQueries, u64::MAX), Ok(()));
        assert_eq!(MemoryLimit::default().limit(), None);
    }

    #[test]
    fn what_is_held_by_several_adds_up_and_is_given_back() {
        let memory = Arc::new(MemoryLimit::new(1000, 0));
        memory.set_stored(100);
        memory.set_kept(50);
        let (a, b) = (
            QueryShare::new(memory.clone(), Step::Queries),
            QueryShare::new(memory.clone(), Step::BatchQueries),
        );
        a.take(200);
        b.take(30);
        b.give(10);
        let body = memory.arrive(7).ok();
        assert_eq!(memory.shares(), Shares { stored: 100, queries: 220, kept: 50, arriving: 7 });
        assert_eq!((a.admit(122), b.admit(0).is_err()), (Ok(()), true));
        assert_eq!(a.admit(123), Err(memory.refusal(Step::Queries)));
        assert!(memory.arrive(1000).is_err());
        drop((a, b, body));
        assert_eq!(memory.shares().total(), 150);
        memory.count_refused(Step::Samples, 3);
        assert_eq!(memory.refused().map(|r| r.1).collect::<Vec<_>>(), [0, 0, 0, 0, 3, 1, 0]);
    }
}
