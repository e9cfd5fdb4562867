//! What a call may spend: time, samples, memory. Every long loop asks once per block of work.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::counter::Counter;
use crate::error::{Error, Result};
use crate::memory::QueryShare;

/// Cheap items (a comparison, a copy of a few words) that a loop may handle between two looks at the budget.
pub const ITEMS_PER_CHECK: usize = 4096;
/// A thread looks this many times at what all threads have taken, or more often.
const SAMPLE_LOOKS: u64 = 1024;
const SAMPLES_PER_LOOK_MAX: u64 = 4096;

const CANCELLED: u8 = 1;
const TIMED_OUT: u8 = 2;
const KILLED: u8 = 3;
/// How the call ended, in the switch; 0 while it runs.
const ENDED: u8 = 3;
/// Go through the gate at the next check.
const PAUSE: u8 = 4;

/// The switch that ends a call from outside, or makes it give way. Rust reads no clock: whoever owns time pulls it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicU8>);

impl Stop {
    pub fn cancel(&self) {
        self.end(CANCELLED);
    }

    pub fn time_out(&self) {
        self.end(TIMED_OUT);
    }

    /// As `cancel`, by another than the caller.
    pub fn kill(&self) {
        self.end(KILLED);
    }

    /// The first reason stays.
    fn end(&self, reason: u8) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |s| (s & ENDED == 0).then_some(s | reason));
    }

    /// Whether checks go through the gate of the budget.
    pub fn pause(&self, pause: bool) {
        if pause {
            self.0.fetch_or(PAUSE, Relaxed);
        } else {
            self.0.fetch_and(!PAUSE, Relaxed);
        }
    }

    pub fn is_ended(&self) -> bool {
        self.0.load(Relaxed) & ENDED != 0
    }
}

/// Where work of a lower class gives way. `pass` comes back within milliseconds, whatever happens: then no lock
/// that a check might be made under can hold up anybody for good.
pub trait Gate: Send + Sync {
    fn pass(&self);
}

/// Limits of one call, shared by all threads that work for it. A clone is the same budget.
#[derive(Clone)]
pub struct Budget {
    inner: Arc<Inner>,
    /// Whether samples are counted.
    counts: bool,
}

struct Inner {
    stop: Stop,
    gate: Option<Arc<dyn Gate>>,
    limits: Limits,
    samples: Counter,
    samples_peak: AtomicU64,
    /// Bytes held by what is being computed, and by what stays until the call ends.
    held: AtomicU64,
    kept: AtomicU64,
    peak: AtomicU64,
    visits: Option<Visits>,
    /// What all queries of a database hold together, if that is limited.
    share: Option<QueryShare>,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Milliseconds the caller allowed; only for the message of the error.
    pub timeout_ms: u64,
    pub samples_max: u64,
    pub bytes_max: u64,
}

/// Samples that were looked at, step by step: what Prometheus calls queryable samples. A sample counts at every step
/// whose window it stands in.
#[derive(Debug, Default)]
pub struct Visits {
    per_step: Vec<AtomicU64>,
    /// Subqueries around what is evaluated now: their own steps don't count.
    depth: AtomicU64,
}

impl Visits {
    pub fn new(steps: usize) -> Visits {
        Visits { per_step: (0..steps).map(|_| AtomicU64::new(0)).collect(), depth: AtomicU64::new(0) }
    }

    pub fn add(&self, step: usize, samples: u64) {
        if self.depth.load(Relaxed) == 0
            && let Some(count) = self.per_step.get(step)
        {
            count.fetch_add(samples, Relaxed);
        }
    }

    pub fn enter_subquery(&self) {
        self.depth.fetch_add(1, Relaxed);
    }

    pub fn leave_subquery(&self) {
        self.depth.fetch_sub(1, Relaxed);
    }

    /// Step 0 was computed for all: they looked at as much.
    pub fn repeat_first(&self, before: u64) {
        let Some((first, rest)) = self.per_step.split_first() else { return };
        let more = first.load(Relaxed).saturating_sub(before);
        for count in rest {
            count.fetch_add(more, Relaxed);
        }
    }

    pub fn first(&self) -> u64 {
        self.per_step.first().map_or(0, |count| count.load(Relaxed))
    }

    pub fn steps(&self) -> impl Iterator<Item = u64> {
        self.per_step.iter().map(|count| count.load(Relaxed))
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Budget({:?}, {} samples, {} bytes)",
            self.inner.limits,
            self.samples_used(),
            self.bytes_held()
        )
    }
}

impl Budget {
    pub fn new(stop: Stop, timeout_ms: u64, samples_max: u64) -> Budget {
        Budget::with(stop, Limits { timeout_ms, samples_max, bytes_max: u64::MAX }, None, None)
    }

    pub fn with(stop: Stop, limits: Limits, gate: Option<Arc<dyn Gate>>, visits: Option<Visits>) -> Budget {
        Budget::sharing(stop, limits, gate, visits, None)
    }

    /// As `with`; what is held counts among what all queries hold, which has a limit too.
    pub fn sharing(
        stop: Stop,
        limits: Limits,
        gate: Option<Arc<dyn Gate>>,
        visits: Option<Visits>,
        share: Option<QueryShare>,
    ) -> Budget {
        let zero = || AtomicU64::new(0);
        let (samples, samples_peak, held, kept, peak) = (Counter::default(), zero(), zero(), zero(), zero());
        let inner = Inner { stop, gate, limits, samples, samples_peak, held, kept, peak, visits, share };
        Budget { inner: Arc::new(inner), counts: true }
    }

    /// For work that is done over again: it stops with this one and holds of its memory, but counts and limits no
    /// sample once more.
    pub fn uncounted(&self) -> Budget {
        Budget { inner: self.inner.clone(), counts: false }
    }

    /// For one more query in the same call: the same limits, counted anew.
    pub fn fresh(&self) -> Budget {
        let Inner { stop, gate, limits, share, .. } = &*self.inner;
        Budget::sharing(stop.clone(), *limits, gate.clone(), None, share.as_ref().map(QueryShare::beside))
    }

    /// Whether samples are counted for the first time here.
    pub fn counts(&self) -> bool {
        self.counts
    }

    pub fn samples_max(&self) -> u64 {
        self.inner.limits.samples_max
    }

    /// No limit at all: for tests and for work that is bounded by its input.
    pub fn unlimited() -> Budget {
        Budget::new(Stop::default(), 0, u64::MAX)
    }

    /// Fails once the call was cancelled, killed or timed out; gives way to work of a higher class. Call it
    /// without a lock.
    #[inline]
    pub fn check(&self) -> Result<()> {
        match self.inner.stop.0.load(Relaxed) {
            0 => Ok(()),
            state => self.give_way(state),
        }
    }

    /// `check` for the item `i` of a loop over cheap items: looks every `ITEMS_PER_CHECK`.
    #[inline]
    pub fn check_at(&self, i: usize) -> Result<()> {
        if i % ITEMS_PER_CHECK == ITEMS_PER_CHECK - 1 { self.check() } else { Ok(()) }
    }

    #[cold]
    fn give_way(&self, state: u8) -> Result<()> {
        if state & ENDED == 0
            && let Some(gate) = &self.inner.gate
        {
            gate.pass();
        }
        match self.inner.stop.0.load(Relaxed) & ENDED {
            0 => Ok(()),
            TIMED_OUT => Err(Error::Timeout { timeout_ms: self.inner.limits.timeout_ms }),
            KILLED => Err(Error::Killed),
            _ => Err(Error::Cancelled),
        }
    }

    /// Counts samples that were loaded or made, and checks: call it once per series or block. Each thread counts for
    /// itself, and looks at what all have taken every thousandth part of the limit: call `check_samples` at the end.
    #[inline]
    pub fn take_samples(&self, count: u64) -> Result<()> {
        if self.counts {
            let before = self.inner.samples.add(count);
            let stride = (self.inner.limits.samples_max / SAMPLE_LOOKS).clamp(1, SAMPLES_PER_LOOK_MAX);
            if (before + count) / stride != before / stride {
                return self.check_samples();
            }
        }
        self.check()
    }

    /// Fails when more samples were taken than allowed.
    pub fn check_samples(&self) -> Result<()> {
        let used = self.samples_used();
        if used > self.inner.limits.samples_max {
            return Err(Error::Limit {
                what: "samples loaded by one query",
                limit: self.inner.limits.samples_max,
                needed: used,
                remedy: "narrow the selector or the time range, or raise max_samples",
            });
        }
        self.check()
    }

    /// Fails when `count` values may not stand in memory at once. What an evaluation makes is not
    /// counted again in `samples_used`, but it meets the same limit.
    pub fn hold_samples(&self, count: u64) -> Result<()> {
        if !self.counts {
            return self.check();
        }
        self.inner.samples_peak.fetch_max(count, Relaxed);
        if count > self.inner.limits.samples_max {
            return Err(Error::Limit {
                what: "samples held by one query",
                limit: self.inner.limits.samples_max,
                needed: count,
                remedy: "narrow the selector, the time range or the steps, or raise max_samples",
            });
        }
        self.check()
    }

    pub fn samples_used(&self) -> u64 {
        self.inner.samples.total()
    }

    /// The most values that stood in one block at once.
    pub fn samples_peak(&self) -> u64 {
        self.inner.samples_peak.load(Relaxed)
    }

    pub fn visits(&self) -> Option<&Visits> {
        self.inner.visits.as_ref().filter(|_| self.counts)
    }

    /// The account of memory. `hold` before an allocation; it stays until `release`, or until `settle` says what
    /// is left of a whole computation. So what is held is never less than what is allocated.
    pub fn hold(&self, bytes: usize) -> Result<()> {
        self.take(&self.inner.held, bytes as u64)
    }

    /// As `hold`, until the call ends.
    pub fn keep(&self, bytes: usize) -> Result<()> {
        self.take(&self.inner.kept, bytes as u64)
    }

    /// Counts bytes to an account, unless they are refused: what was refused is not held, and refuses nobody else.
    fn take(&self, account: &AtomicU64, bytes: u64) -> Result<()> {
        let held = self.bytes_held().saturating_add(bytes);
        self.inner.peak.fetch_max(held, Relaxed);
        self.within(held, bytes)?;
        account.fetch_add(bytes, Relaxed);
        self.share(0, bytes);
        Ok(())
    }

    /// Fails where `hold` would, and holds nothing.
    pub fn fits(&self, bytes: usize) -> Result<()> {
        self.within(self.bytes_held().saturating_add(bytes as u64), bytes as u64)
    }

    pub fn release(&self, bytes: usize) {
        self.inner.held.fetch_sub(bytes as u64, Relaxed);
        self.share(bytes as u64, 0);
    }

    /// Tells the account of all queries that `before` bytes have become `after`.
    fn share(&self, before: u64, after: u64) {
        match &self.inner.share {
            Some(share) if after > before => share.take(after - before),
            Some(share) if after < before => share.give(before - after),
            _ => {}
        }
    }

    /// For `settle`.
    pub fn mark(&self) -> u64 {
        self.inner.held.load(Relaxed)
    }

    /// Everything held since `mark` is free again, but for a result of `bytes`. For the one thread that evaluates, when
    /// those that helped it are done.
    pub fn settle(&self, mark: u64, bytes: usize) -> Result<()> {
        let held = mark.saturating_add(bytes as u64);
        self.share(self.inner.held.swap(held, Relaxed), held);
        self.note(held.saturating_add(self.inner.kept.load(Relaxed)))
    }

    fn note(&self, bytes: u64) -> Result<()> {
        self.inner.peak.fetch_max(bytes, Relaxed);
        self.within(bytes, 0)
    }

    /// `more`: what of it is not held yet.
    fn within(&self, bytes: u64, more: u64) -> Result<()> {
        if bytes <= self.inner.limits.bytes_max {
            return self.inner.share.as_ref().map_or(Ok(()), |share| share.admit(more));
        }
        Err(Error::Limit {
            what: "bytes held by one query",
            limit: self.inner.limits.bytes_max,
            needed: bytes,
            remedy: "narrow the selector, the time range or the steps, or raise max_query_memory",
        })
    }

    pub fn bytes_held(&self) -> u64 {
        self.inner.held.load(Relaxed).saturating_add(self.inner.kept.load(Relaxed))
    }

    /// The most that was held at once.
    pub fn bytes_peak(&self) -> u64 {
        self.inner.peak.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_bytes(bytes_max: u64) -> Budget {
        let limits = Limits { timeout_ms: 7, samples_max: u64::MAX, bytes_max };
        Budget::with(Stop::default(), limits, None, None)
    }

    #[test]
    fn memory_is_refused_by_number_limit_and_remedy_and_free_again_after() {
        let budget = with_bytes(100);
        assert_eq!(budget.hold(60), Ok(()));
        assert!(budget.fits(41).is_err() && budget.fits(40).is_ok());
        budget.release(60);
        let mark = budget.mark();
        assert_eq!((budget.hold(90), budget.settle(mark, 10)), (Ok(()), Ok(())));
        assert_eq!(budget.keep(30), Ok(()));
        assert_eq!((budget.bytes_held(), budget.bytes_peak()), (40, 90));
        let refused = budget.hold(61).map_err(|e| e.to_string());
        assert_eq!(
            refused,
            Err("limit reached: bytes held by one query: 101 needed, 100 allowed; narrow the selector, the time \
                 range or the steps, or raise max_query_memory"
                .to_owned())
        );
    }

    #[test]
    fn what_queries_hold_together_is_limited_too_and_free_again_when_they_end() {
        use crate::memory::{MemoryLimit, Step};
        let memory = Arc::new(MemoryLimit::new(1000, 0));
        let limits = Limits { timeout_ms: 7, samples_max: u64::MAX, bytes_max: 400 };
        let share = |step| Some(QueryShare::new(memory.clone(), step));
        let query = |step| Budget::sharing(Stop::default(), limits, None, None, share(step));
        let (a, b, alert) = (query(Step::Queries), query(Step::Queries), query(Step::AlertQueries));
        let mark = a.mark();
        assert_eq!((a.hold(300), a.keep(50), b.keep(100)), (Ok(()), Ok(()), Ok(())));
        assert_eq!(memory.shares().queries, 450);
        assert!(matches!(b.fits(50), Err(Error::Memory { step: Step::Queries, .. })) && b.fits(49).is_ok());
        assert!(matches!(b.hold(50), Err(Error::Memory { .. })) && alert.hold(50).is_ok());
        assert!(matches!(a.fresh().hold(1), Err(Error::Memory { .. })));
        assert_eq!((a.settle(mark, 10), memory.shares().queries), (Ok(()), 210));
        drop((a, b, alert));
        assert_eq!(memory.shares().queries, 0);
    }

    #[test]
    fn samples_of_many_threads_are_limited_exactly_in_the_end() {
        for (limit, each) in [(10, 1), (100_000, 1), (100_000, 700)] {
            let budget = Budget::new(Stop::default(), 0, limit);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(
                        || while budget.take_samples(each).is_ok() && budget.samples_used() <= limit {},
                    );
                }
            });
            let used = budget.samples_used();
            assert!(used > limit && used <= limit + limit / 10 + 5 * each, "{used}");
            assert!(budget.check_samples().is_err());
        }
        let budget = Budget::new(Stop::default(), 0, 10);
        assert_eq!((budget.take_samples(10), budget.check_samples()), (Ok(()), Ok(())));
    }

    #[test]
    fn the_first_reason_to_stop_is_the_one_that_is_told() {
        for (pull, error) in [
            (Stop::kill as fn(&Stop), Error::Killed),
            (Stop::cancel, Error::Cancelled),
            (Stop::time_out, Error::Timeout { timeout_ms: 7 }),
        ] {
            let budget = with_bytes(0);
            budget.inner.stop.pause(true);
            assert_eq!(budget.check(), Ok(()));
            pull(&budget.inner.stop);
            budget.inner.stop.kill();
            budget.inner.stop.pause(false);
            assert_eq!(budget.check(), Err(error));
        }
    }

    #[test]
    fn work_done_over_again_counts_no_sample_but_its_memory() {
        let stop = Stop::default();
        let limits = Limits { timeout_ms: 7, samples_max: 10, bytes_max: 100 };
        let budget = Budget::with(stop.clone(), limits, None, Some(Visits::new(1)));
        let again = budget.uncounted();
        assert_eq!(
            (again.take_samples(11), again.hold_samples(11), again.hold(90)),
            (Ok(()), Ok(()), Ok(()))
        );
        assert_eq!((budget.samples_used(), budget.samples_peak(), budget.bytes_held()), (0, 0, 90));
        assert!(again.visits().is_none() && budget.visits().is_some() && again.hold(11).is_err());
        let other = budget.fresh();
        assert_eq!((other.hold(100), other.take_samples(10)), (Ok(()), Ok(())));
        assert!(other.take_samples(1).is_err());
        stop.kill();
        assert_eq!((again.check(), other.check()), (Err(Error::Killed), Err(Error::Killed)));
    }

    #[test]
    fn visits_are_counted_at_their_steps() {
        let visits = Visits::new(3);
        visits.add(0, 2);
        let before = visits.first();
        visits.add(0, 5);
        visits.repeat_first(before);
        visits.enter_subquery();
        visits.add(1, 100);
        visits.leave_subquery();
        visits.add(2, 1);
        visits.add(3, 100);
        assert!(visits.steps().eq([7, 5, 6]));
    }
}
