//! Functions over windows with histograms in them, and floats among those.

use std::sync::Arc;

use metricsdb_model::histogram::ResetHint;

use super::{Accumulator, FloatHistogram, Incompatible, Remark, Remarks};
use crate::function::rate::{Ends, Extrapolated, extrapolate, is_change, is_reset};
use crate::function::table::Function;
use crate::function::{Kernel, Window, WindowFn, rate, starts};

/// The points of one series in one window: floats and histograms, each in the order of time.
#[derive(Clone, Copy, Debug)]
pub struct Points<'a> {
    /// The floats, the window itself, and the scalars of the call.
    pub floats: Window<'a>,
    /// Times of the histograms, as long as these.
    pub times: &'a [i64],
    pub histograms: &'a [Arc<FloatHistogram>],
    /// Start timestamps of the histograms in milliseconds, 0 where unknown; empty if none is known.
    pub starts: &'a [i64],
    /// Where records stand for histograms: `histograms` are then those that tell every gain.
    pub stood: Option<&'a StoodPoints>,
}

/// All histograms of a window that records stand for.
#[derive(Clone, Debug, Default)]
pub struct StoodPoints {
    pub count: usize,
    /// Together they are the sum of all.
    pub sums: Vec<Arc<FloatHistogram>>,
}

/// A sample that a function gives.
#[derive(Clone, Debug)]
pub enum Point {
    Float(f64),
    Histogram(Arc<FloatHistogram>),
}

/// What a function makes of a window; `None`: no sample at this step.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub point: Option<Point>,
    pub remarks: Remarks,
}

impl Outcome {
    pub fn float(value: Option<f64>) -> Outcome {
        Outcome { point: value.map(Point::Float), remarks: Remarks::default() }
    }

    pub fn histogram(value: FloatHistogram, remarks: Remarks) -> Outcome {
        Outcome { point: Some(Point::Histogram(Arc::new(value))), remarks }
    }

    pub fn nothing(remarks: impl Into<Remarks>) -> Outcome {
        Outcome { point: None, remarks: remarks.into() }
    }
}

/// Called with at least one histogram in the window.
pub type PointsFn = fn(&Points<'_>) -> Outcome;

/// Of which histograms a function comes to the same where records stand for those of whole windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadsRecords {
    OfNone,
    /// Records of gauges don't keep where a count fell: it falls all the time.
    OfCounters,
    OfAll,
}

pub fn reads_records(function: &Function) -> ReadsRecords {
    match function.name {
        "irate" | "idelta" | "changes" => ReadsRecords::OfNone,
        "rate" | "increase" | "resets" => ReadsRecords::OfCounters,
        _ => ReadsRecords::OfAll,
    }
}

/// What this function does where histograms are among the points. `None`: it computes the floats alone, by
/// `Points::floats_alone`.
pub fn window_fn(function: &Function) -> Option<PointsFn> {
    Some(match function.name {
        "rate" => |p| extrapolated(p, Extrapolated::Rate),
        "increase" => |p| extrapolated(p, Extrapolated::Increase),
        "delta" => |p| extrapolated(p, Extrapolated::Delta),
        "irate" => |p| instant(p, true),
        "idelta" => |p| instant(p, false),
        "sum_over_time" => |p| accumulated(p, Accumulator::sum_of),
        "avg_over_time" => |p| match p.stood {
            Some(stood) => mean_of_stood(p, stood.count),
            None => accumulated(p, Accumulator::mean_of),
        },
        "count_over_time" => |p| Outcome::float(Some((p.count() + p.floats.values.len()) as f64)),
        "present_over_time" => |_| Outcome::float(Some(1.0)),
        "first_over_time" => |p| p.at(|p| p.merged().next()),
        "last_over_time" => |p| p.at(Points::last),
        "ts_of_first_over_time" => |p| Outcome::float(p.merged().next().map(|(t, _)| t as f64 / 1000.0)),
        "ts_of_last_over_time" => |p| Outcome::float(p.last().map(|(t, _)| t as f64 / 1000.0)),
        "changes" => |p| Outcome::float(Some(count_pairs(p.merged(), changed))),
        "resets" => |p| Outcome::float(Some(count_pairs(p.merged(), p.was_reset()))),
        _ => return None,
    })
}

/// One of the points, without copying it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ref<'a> {
    /// With its place among the floats.
    Float(usize, f64),
    /// With its place among the histograms.
    Histogram(usize, &'a Arc<FloatHistogram>),
}

impl<'a> Points<'a> {
    /// How many histograms there are, or were.
    fn count(&self) -> usize {
        self.stood.map_or(self.times.len(), |stood| stood.count)
    }

    /// The function of the floats, with a remark on the histograms that it leaves out.
    pub fn floats_alone(&self, kernel: WindowFn) -> Outcome {
        if self.floats.values.is_empty() {
            return Outcome::default();
        }
        let point = kernel(&self.floats).map(Point::Float);
        let ignored = (!self.histograms.is_empty()).then_some(Remark::HistogramsIgnored);
        Outcome { point, remarks: ignored.map(Remarks::from).unwrap_or_default() }
    }

    /// The function over these points, whatever they are. Cheaper: take `window_fn` once a call.
    pub fn eval(&self, function: &Function) -> Outcome {
        let Kernel::Window(kernel) = function.kernel else { return Outcome::default() };
        if self.histograms.is_empty() {
            return Outcome::float(if self.floats.values.is_empty() { None } else { kernel(&self.floats) });
        }
        match window_fn(function) {
            Some(f) => f(self),
            None => self.floats_alone(kernel),
        }
    }

    /// All points in the order of time; at one time the float comes first.
    pub(super) fn merged(&self) -> impl Iterator<Item = (i64, Ref<'a>)> + use<'a> {
        let Window { timestamps, values, .. } = self.floats;
        let floats = values.iter().enumerate().map(|(i, v)| Ref::Float(i, *v));
        let mut floats = timestamps.iter().copied().zip(floats).peekable();
        let histograms = self.histograms.iter().enumerate().map(|(i, h)| Ref::Histogram(i, h));
        let mut histograms = self.times.iter().copied().zip(histograms).peekable();
        std::iter::from_fn(move || match (floats.peek(), histograms.peek()) {
            (Some((f, _)), Some((h, _))) if h < f => histograms.next(),
            (None, _) => histograms.next(),
            _ => floats.next(),
        })
    }

    fn last(&self) -> Option<(i64, Ref<'a>)> {
        let float = self.floats.timestamps.last().zip(self.floats.values.last());
        let float = float.map(|(t, v)| (*t, Ref::Float(self.floats.values.len() - 1, *v)));
        let histogram = self.times.last().zip(self.histograms.last());
        let histogram = histogram.map(|(t, h)| (*t, Ref::Histogram(self.histograms.len() - 1, h)));
        match (float, histogram) {
            (Some((f, _)), Some((h, _))) if h < f => float,
            (float, None) => float,
            (_, histogram) => histogram,
        }
    }

    fn at(&self, which: impl Fn(&Points<'a>) -> Option<(i64, Ref<'a>)>) -> Outcome {
        let point = which(self).map(|(_, point)| match point {
            Ref::Float(_, v) => Point::Float(v),
            Ref::Histogram(_, h) => Point::Histogram(Arc::clone(h)),
        });
        Outcome { point, remarks: Remarks::default() }
    }

    /// Whether the histogram after the i-th one began anew, by start timestamps or counts.
    fn resets_after(&self, i: usize) -> bool {
        if self.starts_anew_after(i) {
            return true;
        }
        matches!(self.histograms.get(i..=i + 1), Some([a, b]) if b.is_reset_after(a))
    }

    fn starts_anew_after(&self, i: usize) -> bool {
        let pair = self.starts.get(i..=i + 1).zip(self.times.get(i..=i + 1));
        matches!(pair, Some((&[s0, s1], &[t0, t1])) if starts::begins_anew((t0, t1), (s0, s1)))
    }

    pub(super) fn was_reset(&self) -> impl Fn(Ref<'a>, Ref<'a>) -> bool + use<'a, '_> {
        |before, after| match (before, after) {
            (Ref::Float(i, a), Ref::Float(j, b)) => {
                let Window { timestamps, values, starts, .. } = self.floats;
                is_reset(a, b) || j == i + 1 && starts::is_reset(timestamps, values, starts, j)
            }
            (Ref::Histogram(i, a), Ref::Histogram(j, b)) => {
                b.is_reset_after(a) || j == i + 1 && self.starts_anew_after(i)
            }
            _ => true,
        }
    }
}

pub(super) fn changed(before: Ref<'_>, after: Ref<'_>) -> bool {
    match (before, after) {
        (Ref::Float(_, a), Ref::Float(_, b)) => is_change(a, b),
        (Ref::Histogram(_, a), Ref::Histogram(_, b)) => !Arc::ptr_eq(a, b) && !a.same(b),
        _ => true,
    }
}

pub(super) fn count_pairs<'a>(
    points: impl Iterator<Item = (i64, Ref<'a>)>,
    what: impl Fn(Ref<'a>, Ref<'a>) -> bool,
) -> f64 {
    let mut before = None;
    let mut count = 0.0;
    for (_, point) in points {
        if before.is_some_and(|b| what(b, point)) {
            count += 1.0;
        }
        before = Some(point);
    }
    count
}

fn accumulated(p: &Points<'_>, begin: fn(&FloatHistogram) -> Accumulator) -> Outcome {
    if !p.floats.values.is_empty() {
        return Outcome::nothing(Remark::MixedTypes);
    }
    let all = p.stood.map_or(p.histograms, |stood| &stood.sums);
    let Some((first, others)) = all.split_first() else { return Outcome::default() };
    let mut sum = begin(first);
    if others.iter().try_for_each(|h| sum.add(h)).is_err() {
        return Outcome::nothing(Remark::MixedSchemas);
    }
    Outcome::histogram(sum.finish(), sum.remarks())
}

fn mean_of_stood(p: &Points<'_>, count: usize) -> Outcome {
    let mut sum = accumulated(p, Accumulator::sum_of);
    if let Some(Point::Histogram(total)) = &mut sum.point {
        Arc::make_mut(total).divide(count as f64);
    }
    sum
}

/// irate and idelta: of the last two points.
fn instant(p: &Points<'_>, counter: bool) -> Outcome {
    let total = p.times.len() + p.floats.timestamps.len();
    let mut last = p.merged().skip(total.saturating_sub(2));
    let (Some((t0, a)), Some((t1, b))) = (last.next(), last.next()) else { return Outcome::default() };
    if t0 == t1 {
        return Outcome::default();
    }
    let (i, a, b) = match (a, b) {
        (Ref::Histogram(i, a), Ref::Histogram(_, b)) => (i, a, b),
        (Ref::Float(..), Ref::Float(..)) => {
            let kernel = if counter { rate::irate } else { rate::idelta };
            return Outcome::float(kernel(&p.floats));
        }
        _ => return Outcome::nothing(Remark::MixedTypes),
    };
    let mut remarks = Remarks::default();
    remarks.extend(wrong_kind(a, b, counter));
    let mut result = (**b).clone();
    if !counter || !p.resets_after(i) {
        match result.sub(a) {
            Err(Incompatible) => {
                remarks.add(Remark::MixedSchemas);
                return Outcome::nothing(remarks);
            }
            Ok(done) => remarks.extend(done.reconciled.then_some(Remark::ReconciledInSubtraction)),
        }
    }
    result.reset = ResetHint::Gauge;
    result.compact();
    if counter {
        result.divide((t1 - t0) as f64 / 1000.0);
    }
    Outcome::histogram(result, remarks)
}

/// The remark on a gauge taken for a counter, or the other way round.
pub(super) fn wrong_kind(a: &FloatHistogram, b: &FloatHistogram, counter: bool) -> Option<Remark> {
    let gauges = [a, b].map(|h| h.reset == ResetHint::Gauge);
    match counter {
        true => gauges.contains(&true).then_some(Remark::NotCounter),
        false => gauges.contains(&false).then_some(Remark::NotGauge),
    }
}

/// rate, increase and delta.
fn extrapolated(p: &Points<'_>, kind: Extrapolated) -> Outcome {
    if !p.floats.values.is_empty() {
        return Outcome::nothing(Remark::MixedTypes);
    }
    let (Some(first), Some(&t)) = (p.histograms.first(), p.times.first()) else { return Outcome::default() };
    let counter = kind != Extrapolated::Delta;
    let mut remarks = Remarks::default();
    let mut result = match p.count() {
        1 => FloatHistogram::empty(first),
        _ => match gain(p, counter, &mut remarks) {
            Some(gain) => gain,
            None => return Outcome::nothing(remarks),
        },
    };
    let start = p.starts.first().copied().filter(|s| counter && *s != 0 && *s > p.floats.start && *s < t);
    let factor = match start {
        Some(start) => {
            if p.histograms.len() == 1 {
                result = (**first).clone();
            } else {
                match result.add(first) {
                    Ok(done) => remarks.extend(done.reconciled.then_some(Remark::ReconciledInAddition)),
                    Err(Incompatible) => {
                        remarks.add(Remark::MixedSchemas);
                        return Outcome::nothing(remarks);
                    }
                }
            }
            Some(stretch_from_start(p, start, kind))
        }
        None => stretch(p, result.count, kind),
    };
    let Some(factor) = factor else { return Outcome::nothing(remarks) };
    result.scale(factor);
    Outcome::histogram(result, remarks)
}

/// Last minus first with resets added; `None`: the buckets don't fit, as a remark says.
fn gain(p: &Points<'_>, counter: bool, remarks: &mut Remarks) -> Option<FloatHistogram> {
    let ([first, .., last], [_, rest @ ..]) = (p.histograms, p.histograms) else { return None };
    let second = &rest[0];
    if counter {
        remarks.extend(wrong_kind(first, last, true));
    }
    // After a reset the first one only says what it had come to: its buckets don't matter.
    let nothing = FloatHistogram::empty(second);
    let from = if counter && p.resets_after(0) { &nothing } else { first.as_ref() };
    if last.is_custom() != from.is_custom() {
        remarks.add(Remark::MixedSchemas);
        return None;
    }
    let mut schema = last.schema.min(from.schema);
    for h in rest[..rest.len() - 1].iter().filter(|_| counter) {
        if h.is_custom() != from.is_custom() {
            *remarks = Remark::MixedSchemas.into();
            return None;
        }
        remarks.extend((h.reset == ResetHint::Gauge).then_some(Remark::NotCounter));
        schema = schema.min(h.schema);
    }
    let mut gain = (**last).clone();
    gain.reduce_resolution(schema);
    let fitted = |result: Result<super::Combined, Incompatible>, remark, remarks: &mut Remarks| match result {
        Ok(done) => {
            remarks.extend(done.reconciled.then_some(remark));
            Some(())
        }
        Err(Incompatible) => {
            *remarks = Remark::MixedSchemas.into();
            None
        }
    };
    fitted(gain.sub(from), Remark::ReconciledInSubtraction, remarks)?;
    if counter {
        let mut before = from;
        for (i, h) in rest.iter().enumerate() {
            remarks.extend(p.start_overlaps_after(i));
            if p.starts_anew_after(i) || h.is_reset_after(before) {
                fitted(gain.add(before), Remark::ReconciledInAddition, remarks)?;
            }
            before = h;
        }
    } else {
        remarks.extend(wrong_kind(first, last, false));
    }
    gain.reset = ResetHint::Gauge;
    gain.compact();
    Some(gain)
}

impl Points<'_> {
    fn start_overlaps_after(&self, i: usize) -> Option<Remark> {
        let (&[before, start], &t) = (self.starts.get(i..=i + 1)?, self.times.get(i)?) else { return None };
        starts::overlaps(t, (before, start)).then_some(Remark::StartOverlap)
    }
}

/// By how much the gain is stretched over the window; `count` is the gain of the count.
fn stretch(p: &Points<'_>, count: f64, kind: Extrapolated) -> Option<f64> {
    let (first, last) = (*p.times.first()?, *p.times.last()?);
    let reached = p.histograms.first()?.count;
    // The share of what was reached before in what was gained says where zero was; below 0: nowhere.
    let value = if count > 0.0 && reached >= 0.0 { reached / count } else { -1.0 };
    let Window { start, end, .. } = p.floats;
    let ends = Ends { first, last, count: p.count(), value, since: 0, start, end };
    extrapolate(&ends, kind, 1.0)
}

/// As `stretch`, where the first histogram's start timestamp lies in the window: there it was zero.
fn stretch_from_start(p: &Points<'_>, zero: i64, kind: Extrapolated) -> f64 {
    let last = p.times.last().copied().unwrap_or(zero);
    let first = p.times.first().copied().unwrap_or(zero);
    let seconds = |ms: i64| ms as f64 / 1000.0;
    let Window { start, end, .. } = p.floats;
    let interval = seconds(last - first) / (p.times.len().max(2) - 1) as f64;
    let after = seconds(end - last);
    let after = if after >= interval * 1.1 { interval / 2.0 } else { after };
    let sampled = seconds(last - zero);
    let factor = (sampled + after) / sampled;
    if kind == Extrapolated::Rate { factor / seconds(end - start) } else { factor }
}
