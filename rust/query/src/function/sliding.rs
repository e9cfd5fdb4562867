//! The windows of one series, one after the other. What neighbours share is computed once.

use std::ops::Range;

use crate::function::compensated::{Sum, two_sum};
use crate::function::exact::certain;
use crate::function::rate::{self, Extrapolated};
use crate::function::{Window, WindowFn, starts};

/// How a window function profits from the windows before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sliding {
    /// Every window from the start.
    None,
    /// Constant time but for the resets inside.
    Extrapolated(Extrapolated),
    /// Numbers of such neighbours; logarithmic in the number of such places.
    Resets,
    Changes,
    /// Prefix sums in twice the precision, where windows are long and overlap.
    Sum,
    Avg,
    Min,
    Max,
}

impl Sliding {
    /// Whether it is one that `fill_extremes` knows.
    pub fn is_extreme(self) -> bool {
        matches!(self, Sliding::Min | Sliding::Max)
    }

    /// Fills in the smallest or largest value of windows that share no samples, `absent` for those without any.
    pub fn fill_extremes(
        self,
        values: &[f64],
        windows: impl Iterator<Item = Range<usize>>,
        absent: f64,
        out: &mut [f64],
    ) {
        match self {
            Sliding::Min => fill_extremes(values, windows, absent, out, |v, best| v < best),
            _ => fill_extremes(values, windows, absent, out, |v, best| v > best),
        }
    }
}

#[inline(always)]
fn fill_extremes(
    values: &[f64],
    windows: impl Iterator<Item = Range<usize>>,
    absent: f64,
    out: &mut [f64],
    is_better: impl Fn(f64, f64) -> bool,
) {
    for (slot, window) in out.iter_mut().zip(windows) {
        *slot = match values.get(window) {
            // A number is compared without a branch.
            Some([first, rest @ ..]) if !first.is_nan() => {
                rest.iter().fold(*first, |best, &v| if is_better(v, best) { v } else { best })
            }
            Some([first, rest @ ..]) => {
                let better = |best: f64, v| if best.is_nan() || is_better(v, best) { v } else { best };
                rest.iter().fold(*first, |best, &v| better(best, v))
            }
            _ => absent,
        };
    }
}

/// One series, its staleness markers taken out, prepared for one function.
pub struct Windows<'a> {
    timestamps: &'a [i64],
    values: &'a [f64],
    starts: &'a [i64],
    each: WindowFn,
    state: State,
}

enum State {
    Each,
    /// `places`: the samples that begin a reset.
    Extrapolated {
        kind: Extrapolated,
        places: Vec<usize>,
    },
    Count(Vec<usize>),
    Sum {
        mean: bool,
        before: Range<usize>,
        prefix: Prefix,
    },
    /// `best`: place of the extreme of the window before; a `sign` of -1 looks for the smallest.
    Extreme {
        sign: f64,
        before: Range<usize>,
        best: usize,
    },
}

impl<'a> Windows<'a> {
    /// `timestamps` ascend and are as many as `values`, and as `starts` if there are any.
    pub fn new(
        each: WindowFn,
        sliding: Sliding,
        timestamps: &'a [i64],
        values: &'a [f64],
        starts: &'a [i64],
    ) -> Windows<'a> {
        let resets = || match starts.len() == values.len() {
            true => {
                let is_reset = |&i: &usize| starts::is_reset(timestamps, values, starts, i);
                (1..values.len()).filter(is_reset).collect()
            }
            false => places(values, rate::is_reset),
        };
        let state = match sliding {
            Sliding::None => State::Each,
            Sliding::Extrapolated(Extrapolated::Delta) => State::Each,
            Sliding::Extrapolated(kind) => State::Extrapolated { kind, places: resets() },
            Sliding::Resets => State::Count(resets()),
            Sliding::Changes => State::Count(places(values, rate::is_change)),
            Sliding::Sum | Sliding::Avg => {
                State::Sum { mean: sliding == Sliding::Avg, before: 0..0, prefix: Prefix::Unbuilt }
            }
            Sliding::Min => State::Extreme { sign: -1.0, before: 0..0, best: 0 },
            Sliding::Max => State::Extreme { sign: 1.0, before: 0..0, best: 0 },
        };
        Windows { timestamps, values, starts, each, state }
    }

    /// The function over these samples. `bounds` tells the window's times and arguments; its columns are
    /// not looked at. `None` for an empty or impossible range.
    // Inlined, or the window is copied through memory at every step: a third of the time of a rate.
    #[inline]
    pub fn eval(&mut self, samples: Range<usize>, bounds: &Window<'_>) -> Option<f64> {
        let values = self.values.get(samples.clone()).filter(|v| !v.is_empty())?;
        let timestamps = self.timestamps.get(samples.clone())?;
        let starts = self.starts.get(samples.clone()).unwrap_or(&[]);
        let w = Window { timestamps, values, starts, ..*bounds };
        match &mut self.state {
            State::Each => (self.each)(&w),
            State::Extrapolated { kind, places } => {
                let inside = inside(places, &samples);
                let difference = w.values.last()? - w.values.first()?;
                let gain = inside.iter().fold(difference, |gain, i| gain + self.values[i - 1]);
                rate::extrapolate(&rate::Ends::of(&w)?, *kind, gain)
            }
            State::Count(places) => Some(inside(places, &samples).len() as f64),
            State::Sum { mean, before, prefix } => {
                let overlap = samples.start < before.end && before.start <= samples.start;
                *before = samples.clone();
                if overlap && samples.len() >= PREFIX_SAMPLES_MIN {
                    let divisor = if *mean { samples.len() as f64 } else { 1.0 };
                    if let Some(sum) = prefix.sum(self.values, samples) {
                        return Some(sum / divisor);
                    }
                }
                (self.each)(&w)
            }
            State::Extreme { sign, before, best } => {
                let known =
                    before.start <= samples.start && samples.contains(best) && before.end <= samples.end;
                let from = if known && before.end > *best { before.end } else { samples.start };
                if from == samples.start {
                    *best = from;
                }
                let mut top = self.values[*best] * *sign;
                for i in from..samples.end {
                    let v = self.values[i] * *sign;
                    if v > top || top.is_nan() {
                        (top, *best) = (v, i);
                    }
                }
                *before = samples;
                Some(self.values[*best])
            }
        }
    }
}

/// Where the second of two neighbours makes `what` true.
fn places(values: &[f64], what: impl Fn(f64, f64) -> bool) -> Vec<usize> {
    let pairs = || values.iter().zip(values.iter().skip(1));
    // Counting alone runs in vector registers, and mostly there is nothing to note.
    let count: usize = pairs().map(|(a, b)| usize::from(what(*a, *b))).sum();
    let mut places = Vec::with_capacity(count);
    if count > 0 {
        let found = pairs().enumerate().filter(|(_, (a, b))| what(**a, **b));
        places.extend(found.map(|(i, _)| i + 1));
    }
    places
}

/// Of ascending places those that have their left neighbour in the window too.
#[inline]
fn inside<'p>(places: &'p [usize], samples: &Range<usize>) -> &'p [usize] {
    if places.is_empty() {
        return places;
    }
    let from = places.partition_point(|p| *p <= samples.start);
    let rest = &places[from..];
    &rest[..rest.partition_point(|p| *p < samples.end)]
}

/// Below this many samples a new sum is cheaper than prefix sums.
const PREFIX_SAMPLES_MIN: usize = 32;
const PREFIX_SAMPLES_MAX: usize = 1 << 16;

/// Sums of all samples before each place, and what rounding took from them.
enum Prefix {
    Unbuilt,
    /// Infinities, NaNs or too many samples: every window for itself.
    Unfit,
    Built {
        sums: Vec<Sum>,
        /// The magnitudes of all that rounding took.
        lost: f64,
    },
}

impl Prefix {
    /// The exact sum, rounded once, as that of the window alone would be; `None` where that is not certain.
    fn sum(&mut self, values: &[f64], samples: Range<usize>) -> Option<f64> {
        if let Prefix::Unbuilt = self {
            *self = Prefix::build(values);
        }
        let Prefix::Built { sums, lost } = self else { return None };
        let (a, b) = (sums.get(samples.start)?, sums.get(samples.end)?);
        let (high, low) = two_sum(b.high, -a.high);
        // Both sums have lost something, and three more additions.
        certain(high, low + (b.low - a.low), 2.0 * *lost, values.len() as f64 + 3.0)
    }

    fn build(values: &[f64]) -> Prefix {
        if values.len() > PREFIX_SAMPLES_MAX {
            return Prefix::Unfit;
        }
        let mut sums = Vec::with_capacity(values.len() + 1);
        let (mut sum, mut lost) = (Sum::default(), 0.0);
        sums.push(sum);
        for v in values {
            let (high, error) = two_sum(sum.high, *v);
            sum = Sum { high, low: sum.low + error };
            lost += error.abs();
            sums.push(sum);
        }
        if sum.high.is_finite() && f64::is_finite(lost) {
            Prefix::Built { sums, lost }
        } else {
            Prefix::Unfit
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::function::Kernel;
    use crate::function::table::{FUNCTIONS, Function};
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            10 => (0..20i32).prop_map(f64::from),
            10 => -1e9..1e9f64,
            1 => Just(f64::NAN),
            1 => Just(f64::INFINITY),
            1 => Just(f64::NEG_INFINITY),
            1 => Just(0.0),
            1 => Just(-0.0),
            1 => Just(1e300),
        ]
    }

    fn same(a: Option<f64>, b: Option<f64>) -> bool {
        a.map(f64::to_bits) == b.map(f64::to_bits)
    }

    fn check(function: &Function, values: &[f64], starts: &[i64], length: usize, step: usize) {
        let Kernel::Window(each) = function.kernel else { return };
        let timestamps: Vec<i64> = (0..values.len() as i64).map(|i| i * 1000).collect();
        let mut windows = Windows::new(each, function.sliding, &timestamps, values, starts);
        let (mut all, mut seen) = (Vec::new(), Vec::new());
        for start in (0..values.len()).step_by(step) {
            let samples = start..(start + length).min(values.len());
            let bounds = Window {
                timestamps: &[],
                values: &[],
                starts: &[],
                start: start as i64 * 1000 - 500,
                end: samples.end as i64 * 1000,
                at: samples.end as i64 * 1000,
                args: &[0.5, 0.5],
            };
            let w = Window {
                timestamps: &timestamps[samples.clone()],
                values: &values[samples.clone()],
                starts: starts.get(samples.clone()).unwrap_or(&[]),
                ..bounds
            };
            let (fast, slow) = (windows.eval(samples.clone(), &bounds), each(&w));
            assert!(same(fast, slow), "{} over {samples:?}: {fast:?} {slow:?}", function.name);
            all.push(slow);
            seen.push(samples);
        }
        if step >= length && function.sliding.is_extreme() {
            let mut apart = vec![0.0; all.len()];
            function.sliding.fill_extremes(values, seen.into_iter(), -1.0, &mut apart);
            assert!(all.iter().zip(&apart).all(|(slow, apart)| same(*slow, Some(*apart))), "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn sliding_agrees_with_every_window_for_itself(
            values in prop::collection::vec(value(), 1..120),
            length in 1usize..80,
            step in 1usize..9,
        ) {
            FUNCTIONS.iter().for_each(|f| check(f, &values, &[], length, step));
        }

        #[test]
        fn sliding_agrees_where_starts_are_known(
            samples in prop::collection::vec((value(), 0..120i64, any::<bool>()), 1..120),
            length in 1usize..80,
            step in 1usize..9,
        ) {
            let values: Vec<f64> = samples.iter().map(|s| s.0).collect();
            let start = |(i, s): (usize, &(f64, i64, bool))| if s.2 { (i as i64 - 1) * 1000 } else { s.1 * 1000 };
            let starts: Vec<i64> = samples.iter().enumerate().map(start).collect();
            FUNCTIONS.iter().for_each(|f| check(f, &values, &starts, length, step));
        }

        #[test]
        fn prefix_sums_are_those_of_each_window(
            values in prop::collection::vec(-1e12..1e12f64, 40..300),
            length in 32usize..100,
        ) {
            FUNCTIONS.iter().filter(|f| f.sliding == Sliding::Sum).for_each(|f| check(f, &values, &[], length, 1));
        }
    }

    #[test]
    fn cancellation_is_noticed() {
        let mut values = vec![1.0; 200];
        values[0] = 1e100;
        values[1] = -1e100;
        for name in ["sum_over_time", "avg_over_time"] {
            check(crate::function::table::lookup(name).unwrap(), &values, &[], 50, 1);
        }
    }

    #[test]
    fn ranges_outside_the_series_are_nothing() {
        let f = crate::function::table::lookup("sum_over_time").unwrap();
        let Kernel::Window(each) = f.kernel else { panic!("sum_over_time has windows") };
        let bounds = Window { timestamps: &[], values: &[], starts: &[], start: 0, end: 1, at: 1, args: &[] };
        let mut windows = Windows::new(each, f.sliding, &[0], &[1.0], &[]);
        assert_eq!(windows.eval(0..0, &bounds), None);
        assert_eq!(windows.eval(0..2, &bounds), None);
        assert_eq!(windows.eval(0..1, &bounds), Some(1.0));
    }
}
