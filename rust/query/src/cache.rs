//! Answers of range queries, kept so that the next query of a dashboard evaluates only its new steps.
//!
//! A step that is served equals one that is evaluated, because
//! 1. its expression passed `exec::alone`: the step is a function of the samples up to `see`, the step's time and as
//!    far ahead as the expression looks, or the time that `@` pins. Answers with annotations are not kept; those that
//!    come of the new steps alone are those of the whole, since the last kept step is evaluated again: what the two
//!    parts see has no gap in between. Should there be some, all is evaluated.
//! 2. `see` is not after `valid_until`, and no sample up to that time was written since the evaluation began. A
//!    writer tells the lowest time of its samples when they can be read, and before it returns. A query first takes
//!    what was told and lowers every entry by it, then looks. So a write that returned before the query came was told
//!    before the entry was looked at. A write that an evaluation saw in part or not at all tells of itself after the
//!    evaluation began: since then the evaluation stands in `running`, which is lowered like an entry, and what it
//!    makes is valid no further. Taking and lowering are one step under the lock, so nobody looks in between.
//!
//! What is served beside a write that has not returned yet may show it in part, as an evaluation may.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metricsdb_model::{Annotation, Answer, AnswerKind, Budget, Histogram, Labels, Matrix, Result};

use crate::exec::{self, Params, Waits};
use crate::syntax::tree::Expr;

/// Entries beyond this push out the one that was used the longest ago: all are walked at every look.
const ENTRIES_MAX: usize = 4096;
/// An answer that takes more than this share of the memory is not kept.
const SHARE: usize = 4;
/// Times beyond this, in milliseconds, are not calculated with.
const TIME_MAX: i64 = 1 << 60;

/// What makes two queries the same, but for their times.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    text: String,
    step: i64,
    /// Start modulo step.
    phase: i64,
    lookback: i64,
    subquery_step: i64,
    /// Binary digits of the number of steps: a short and a long view of one expression are kept both.
    size: u32,
}

struct Entry {
    matrix: Arc<Matrix>,
    /// The first and the last step.
    first: i64,
    last: i64,
    waits: Waits,
    /// All samples up to here are those that the answer was made of.
    valid_until: i64,
    bytes: usize,
    used: u64,
}

impl Entry {
    /// The last step that still holds; `None` for none.
    fn holds_until(&self) -> Option<i64> {
        let pinned = self.waits.pinned.is_none_or(|pinned| pinned <= self.valid_until);
        let last = self.last.min(self.valid_until.saturating_sub(self.waits.ahead));
        (pinned && last >= self.first).then_some(last)
    }
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    /// `valid_until` of evaluations under way.
    running: HashMap<u64, i64>,
    /// Counts evaluations, and orders uses.
    clock: u64,
    counts: Counts,
}

/// What a cache did, and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Range queries that were answered without any evaluation, whose first steps were served, and others.
    pub whole: u64,
    pub partly: u64,
    pub missed: u64,
    pub entries: usize,
    pub bytes: usize,
}

impl State {
    /// Nothing from `lowest` on is sure to be as it was.
    fn lower(&mut self, lowest: i64) {
        if lowest == i64::MAX {
            return;
        }
        let valid = lowest.saturating_sub(1);
        self.running.values_mut().for_each(|until| *until = (*until).min(valid));
        let bytes = &mut self.counts.bytes;
        self.entries.retain(|_, entry| {
            // Nothing is before the lowest time of all.
            entry.valid_until = if lowest == i64::MIN { i64::MIN } else { entry.valid_until.min(valid) };
            let holds = lowest != i64::MIN && entry.holds_until().is_some();
            *bytes -= if holds { 0 } else { entry.bytes };
            holds
        });
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.counts.bytes -= entry.bytes;
        }
    }

    fn insert(&mut self, key: Key, entry: Entry, bytes_max: usize) {
        self.remove(&key);
        self.counts.bytes += entry.bytes;
        self.entries.insert(key, entry);
        while self.counts.bytes > bytes_max || self.entries.len() > ENTRIES_MAX {
            let Some(oldest) = self.entries.iter().min_by_key(|(_, e)| e.used).map(|(k, _)| k.clone()) else {
                return;
            };
            self.remove(&oldest);
        }
    }
}

/// Answers of one source. All methods may be called from many threads at once.
pub struct Cache {
    bytes_max: usize,
    state: Mutex<State>,
}

/// An evaluation under way: on the list until it is dropped.
struct Running<'c> {
    cache: &'c Cache,
    number: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.cache.lock().running.remove(&self.number);
    }
}

/// What of a query is known.
struct Known {
    matrix: Arc<Matrix>,
    /// The last known step that is asked for.
    last: i64,
}

impl Cache {
    /// Holds so many bytes at most; with 0 nothing.
    pub fn new(bytes_max: usize) -> Cache {
        Cache { bytes_max, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn counts(&self) -> Counts {
        let state = self.lock();
        Counts { entries: state.entries.len(), ..state.counts }
    }

    /// Forgets all answers; bytes that they held.
    pub fn clear(&self) -> usize {
        let mut state = self.lock();
        state.entries.clear();
        std::mem::take(&mut state.counts.bytes)
    }

    /// The answer of `evaluate` for these times, bit by bit; only steps that are not known are evaluated. `written`
    /// tells the lowest time (ms) of all samples that were written or changed since it was last asked, `i64::MAX` for
    /// none, `i64::MIN` where all may have changed: nobody else may ask it. `samples_loaded` counts what is evaluated
    /// here. Errors: those of `evaluate`, and the budget's.
    pub fn answer(
        &self,
        expr: &Expr,
        params: &Params<'_>,
        budget: &Budget,
        written: &dyn Fn() -> i64,
        evaluate: &dyn Fn(&Params<'_>) -> Result<Answer>,
    ) -> Result<Answer> {
        // Who counts samples step by step wants them counted.
        let wanted = self.bytes_max > 0 && budget.visits().is_none();
        let Some((key, waits, end)) = wanted.then(|| key_of(expr, params)).flatten() else {
            return evaluate(params);
        };
        let (running, known) = self.begin(&key, params.start, end, written);
        if let Some(known) = known {
            let rest = Params { start: known.last, ..*params };
            let new = if known.last == end { nothing() } else { evaluate(&rest)? };
            if new.annotations.is_empty() && !new.rolled {
                let before = if known.last == end { i64::MAX } else { known.last };
                let matrix = join(&known.matrix, params.start, end, before, &new.matrix, budget)?;
                if known.last != end {
                    self.keep(key, &matrix, (params.start, end), waits, &running, written, budget)?;
                }
                return Ok(Answer { matrix, ..new });
            }
            self.lock().remove(&key);
        }
        let answer = evaluate(params)?;
        // What records say of a window may differ from its samples in the last bit.
        if answer.annotations.is_empty() && !answer.rolled {
            self.keep(key, &answer.matrix, (params.start, end), waits, &running, written, budget)?;
        }
        Ok(answer)
    }

    /// Lowers what is kept, notes an evaluation, and looks. Two steps at least stay to be evaluated, or none.
    fn begin(
        &self,
        key: &Key,
        start: i64,
        end: i64,
        written: &dyn Fn() -> i64,
    ) -> (Running<'_>, Option<Known>) {
        let state = &mut *self.lock();
        state.lower(written());
        state.clock += 1;
        let number = state.clock;
        state.running.insert(number, i64::MAX);
        let known = state.entries.get_mut(key).and_then(|entry| {
            let last = entry.holds_until()?.min(end);
            let last = start + (last - start).div_euclid(key.step) * key.step;
            if start < entry.first || last <= start {
                return None;
            }
            entry.used = number;
            Some(Known { matrix: entry.matrix.clone(), last })
        });
        match &known {
            Some(known) if known.last == end => state.counts.whole += 1,
            Some(_) => state.counts.partly += 1,
            None => state.counts.missed += 1,
        }
        (Running { cache: self, number }, known)
    }

    #[allow(clippy::too_many_arguments)] // An entry's parts.
    fn keep(
        &self,
        key: Key,
        matrix: &Matrix,
        (first, last): (i64, i64),
        waits: Waits,
        running: &Running<'_>,
        written: &dyn Fn() -> i64,
        budget: &Budget,
    ) -> Result<()> {
        let bytes = bytes_of(matrix) + 2 * (key.text.len() + size_of::<(Key, Entry)>());
        if bytes > self.bytes_max / SHARE {
            self.lock().remove(&key);
            return Ok(());
        }
        budget.fits(bytes)?;
        let matrix = Arc::new(matrix.clone());
        let state = &mut *self.lock();
        state.lower(written());
        let valid_until = state.running.get(&running.number).copied().unwrap_or(i64::MIN);
        let used = state.clock;
        let entry = Entry { matrix, first, last, waits, valid_until, bytes, used };
        if valid_until != i64::MIN && entry.holds_until().is_some() {
            state.insert(key, entry, self.bytes_max);
        } else {
            state.remove(&key);
        }
        Ok(())
    }
}

/// The key of a query whose steps can be kept, how far they see, and its last step.
fn key_of(expr: &Expr, params: &Params<'_>) -> Option<(Key, Waits, i64)> {
    let Params { start, end, step: Some(step), .. } = *params else { return None };
    let sane = |time: i64| (-TIME_MAX..TIME_MAX).contains(&time);
    if !(sane(start) && sane(end) && sane(step) && sane(params.lookback_ms))
        || step <= 0
        || end - start < step
    {
        return None;
    }
    let waits = exec::alone(expr, params.text, step, params.lookback_ms)?;
    let steps = (end - start) / step;
    let key = Key {
        text: params.text.to_owned(),
        step,
        phase: start.rem_euclid(step),
        lookback: params.lookback_ms,
        subquery_step: params.subquery_step_ms,
        size: i64::BITS - steps.leading_zeros(),
    };
    Some((key, waits, start + steps * step))
}

fn nothing() -> Answer {
    let annotations: Vec<Annotation> = Vec::new();
    Answer {
        kind: AnswerKind::Matrix,
        matrix: Matrix::default(),
        string: None,
        annotations,
        samples_loaded: 0,
        rolled: false,
    }
}

/// The samples of `old` from `start` to `end` that come before `cut`, and those of `new`, whose rows are in the order
/// of their labels too.
fn join(old: &Matrix, start: i64, end: i64, cut: i64, new: &Matrix, budget: &Budget) -> Result<Matrix> {
    let mut out = Matrix::default();
    let samples = old.timestamps.len() + new.timestamps.len();
    budget.hold(bytes_of(old) + bytes_of(new))?;
    out.timestamps.reserve_exact(samples);
    out.values.reserve_exact(samples);
    let (mut a, mut b) = (0, 0);
    while a < old.len() || b < new.len() {
        budget.check_at(a + b)?;
        let order = match (old.labels.get(a), new.labels.get(b)) {
            (Some(x), Some(y)) => x.cmp(y),
            (Some(_), None) => std::cmp::Ordering::Less,
            _ => std::cmp::Ordering::Greater,
        };
        let before = out.timestamps.len();
        if order.is_le() {
            let (row, last) = (old.row(a).1, end.min(cut - 1));
            push(old, a, row.partition_point(|t| *t < start)..row.partition_point(|t| *t <= last), &mut out);
        }
        if order.is_ge() {
            push(new, b, 0..new.row(b).1.len(), &mut out);
        }
        let labels = if order.is_le() { &old.labels[a] } else { &new.labels[b] };
        if out.timestamps.len() > before {
            out.end_row(labels.clone());
        }
        (a, b) = (a + usize::from(order.is_le()), b + usize::from(order.is_ge()));
    }
    out.timestamps.shrink_to_fit();
    out.values.shrink_to_fit();
    Ok(out)
}

/// Adds some samples of a row to the row that is being made.
fn push(from: &Matrix, row: usize, samples: std::ops::Range<usize>, out: &mut Matrix) {
    let first = from.offsets[row];
    let (start, end) = (first + samples.start, first + samples.end);
    let place = out.timestamps.len();
    out.timestamps.extend_from_slice(&from.timestamps[start..end]);
    out.values.extend_from_slice(&from.values[start..end]);
    let at = from.histograms.partition_point(|(at, _)| *at < start);
    let found = from.histograms[at..].iter().take_while(|(at, _)| *at < end);
    out.histograms.extend(found.map(|(at, histogram)| (at - start + place, histogram.clone())));
}

fn bytes_of(matrix: &Matrix) -> usize {
    let labels: usize =
        matrix.labels.iter().map(|l| size_of::<Labels>() + size_of::<usize>() + l.heap_bytes()).sum();
    let histograms = matrix.histograms.iter().map(|(_, h)| size_of::<(usize, Histogram)>() + h.bytes());
    labels + histograms.sum::<usize>() + matrix.timestamps.len() * (size_of::<i64>() + size_of::<f64>())
}
