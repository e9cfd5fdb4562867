//! `anchored` and `smoothed` range vectors of histograms: the histogram at a window's edges comes from those
//! around them, and nothing is extrapolated.

use std::borrow::Cow;
use std::sync::Arc;

use metricsdb_model::histogram::ResetHint;

use super::window::{changed, count_pairs, wrong_kind};
use super::{FloatHistogram, Incompatible, Outcome, Points, Remark, Remarks};
use crate::function::edges;
use crate::function::rate::Extrapolated;
use crate::function::sliding::Sliding;
use crate::syntax::tree::Extension;

/// The histogram at time `t`, on the line between two at different times. A counter that was reset in between is
/// thought to have climbed from zero all the way. A smoothed selector takes both for a counter unless both are
/// marked as gauges. Errors: `Incompatible`.
pub fn interpolate(
    (t0, a): (i64, &FloatHistogram),
    (t1, b): (i64, &FloatHistogram),
    t: i64,
    counter: bool,
) -> Result<(FloatHistogram, Remarks), Incompatible> {
    let mut remarks = Remarks::default();
    if t == t0 {
        return Ok((a.clone(), remarks));
    }
    let mut result = b.clone();
    if t == t1 {
        return Ok((result, remarks));
    }
    if a.is_custom() != b.is_custom() {
        return Err(Incompatible);
    }
    let part = (t - t0) as f64 / (t1 - t0) as f64;
    if counter && b.is_reset_after(a) {
        result.scale(part);
        return Ok((result, remarks));
    }
    remarks.extend(result.sub(a)?.reconciled.then_some(Remark::ReconciledInSubtraction));
    result.scale(part);
    remarks.extend(result.add(a)?.reconciled.then_some(Remark::ReconciledInAddition));
    Ok((result, remarks))
}

/// The function over `(start, end]`, as `function::edges::eval` for floats: the points hold the lookback before
/// `start` too, and when smoothed the one after `end`. Floats alone are its own affair.
pub fn eval(p: &Points<'_>, extension: Extension, sliding: Sliding) -> Outcome {
    if p.histograms.is_empty() {
        return Outcome::float(edges::eval(&p.floats, extension, sliding));
    }
    match sliding {
        Sliding::Extrapolated(_) if !p.floats.values.is_empty() => Outcome::nothing(Remark::MixedTypes),
        Sliding::Extrapolated(kind) => {
            let mut remarks = Remarks::default();
            match gain(p, extension, kind, &mut remarks) {
                Some(gain) => Outcome::histogram(gain, remarks),
                None => Outcome::nothing(remarks),
            }
        }
        Sliding::Resets | Sliding::Changes => counted(p, sliding),
        _ => Outcome::default(),
    }
}

/// Resets or changes from the last point at or before the window's start on.
fn counted(p: &Points<'_>, sliding: Sliding) -> Outcome {
    let points: Vec<_> = p.merged().collect();
    let anchor = points.partition_point(|(t, _)| *t <= p.floats.start).saturating_sub(1);
    if points.last().is_none_or(|(t, _)| *t <= p.floats.start) {
        return Outcome::default();
    }
    let inside = points[anchor..].iter().copied();
    let resets = sliding == Sliding::Resets;
    Outcome::float(Some(if resets {
        count_pairs(inside, p.was_reset())
    } else {
        count_pairs(inside, changed)
    }))
}

fn gain(
    p: &Points<'_>,
    extension: Extension,
    kind: Extrapolated,
    remarks: &mut Remarks,
) -> Option<FloatHistogram> {
    let (start, end) = (p.floats.start, p.floats.end);
    let smoothed = extension == Extension::Smoothed;
    let newest = p.times.len().checked_sub(1)?;
    let first = p.times[..newest].partition_point(|t| *t <= start).saturating_sub(1);
    let last = if smoothed { p.times[..newest].partition_point(|t| *t < end) } else { newest };
    if p.times[last] <= start || smoothed && p.times[first] > end {
        return None;
    }
    let counter = kind != Extrapolated::Delta;
    check_range(&p.histograms[first..=last], counter, remarks)?;
    let left = at_edge(p, first, start, smoothed && p.times[first] < start, counter, remarks)?;
    let crosses = smoothed && last > 0 && p.times[last] > end;
    let right = at_edge(p, last - usize::from(crosses), end, crosses, counter, remarks)?;
    if !counter {
        remarks.extend(wrong_kind(&left, &right, false));
    }
    let mut gain = right.clone().into_owned();
    add(&mut gain, &left, false, remarks)?;
    if counter {
        let spent = smoothed && p.times[first] < start;
        if let Some(lost) = lost_at_resets(&p.histograms[first..=last], &left, &right, spent, remarks)? {
            add(&mut gain, &lost, true, remarks)?;
        }
    }
    if kind == Extrapolated::Rate {
        gain.divide((end - start) as f64 / 1000.0);
    }
    gain.reset = ResetHint::Gauge;
    gain.compact();
    Some(gain)
}

/// `None` where exponential and custom buckets are mixed.
fn check_range(range: &[Arc<FloatHistogram>], counter: bool, remarks: &mut Remarks) -> Option<()> {
    let custom = range.first()?.is_custom();
    for h in range {
        if h.is_custom() != custom {
            remarks.add(Remark::MixedSchemas);
            return None;
        }
        remarks.extend((counter && h.reset == ResetHint::Gauge).then_some(Remark::NotCounter));
    }
    Some(())
}

/// The i-th histogram, or the one at time `t` on the line to the next.
fn at_edge<'a>(
    p: &Points<'a>,
    i: usize,
    t: i64,
    between: bool,
    counter: bool,
    remarks: &mut Remarks,
) -> Option<Cow<'a, FloatHistogram>> {
    if !between {
        return Some(Cow::Borrowed(p.histograms.get(i)?));
    }
    let (&[t0, t1], [a, b]) = (p.times.get(i..=i + 1)?, p.histograms.get(i..=i + 1)?) else { return None };
    match interpolate((t0, a), (t1, b), t, counter) {
        Ok((h, more)) => {
            remarks.merge(more);
            Some(Cow::Owned(h))
        }
        Err(Incompatible) => {
            remarks.add(Remark::MixedSchemas);
            None
        }
    }
}

/// What the counter had come to before each reset between both edges. `range` holds the histograms around them;
/// `between`: the left edge lies between the first two, and accounts for a reset there.
fn lost_at_resets(
    range: &[Arc<FloatHistogram>],
    left: &FloatHistogram,
    right: &FloatHistogram,
    between: bool,
    remarks: &mut Remarks,
) -> Option<Option<FloatHistogram>> {
    let (mut before, mut first) = (left, 1);
    if let (true, [a, b, ..]) = (between, range)
        && b.is_reset_after(a)
    {
        (before, first) = (b, 2);
    }
    // The last one is `right`, or lends it its hint.
    let Some(inside) = range.get(first..range.len() - 1) else { return Some(None) };
    let mut lost: Option<FloatHistogram> = None;
    for h in inside.iter().map(Arc::as_ref).chain([right]) {
        if h.is_reset_after(before) {
            match &mut lost {
                Some(lost) => add(lost, before, true, remarks)?,
                None => lost = Some(before.clone()),
            }
        }
        before = h;
    }
    Some(lost)
}

fn add(h: &mut FloatHistogram, other: &FloatHistogram, plus: bool, remarks: &mut Remarks) -> Option<()> {
    let (result, remark) = match plus {
        true => (h.add(other), Remark::ReconciledInAddition),
        false => (h.sub(other), Remark::ReconciledInSubtraction),
    };
    let Ok(done) = result else {
        remarks.add(Remark::MixedSchemas);
        return None;
    };
    remarks.extend(done.reconciled.then_some(remark));
    Some(())
}
