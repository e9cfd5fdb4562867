//! Functions of a window that need what its samples come to, not the samples: storage may know that
//! without decoding.

use metricsdb_model::{Summary, Wants};

use super::rate::{Ends, Extrapolated, extrapolate};

/// What the function wants to know, and how it uses it; the window's ends are in milliseconds, the first
/// exclusive.
#[derive(Clone, Copy, Debug)]
pub struct OfSummary {
    pub wants: Wants,
    /// With more resets the function needs the samples: it adds up what each one took in their order.
    pub resets_max: u64,
    pub eval: fn(&Summary, i64, i64) -> Option<f64>,
    /// It gives an extreme: which of two zeros, or of several NaNs, only the samples tell.
    pub picks: bool,
}

impl OfSummary {
    /// What it makes of a summary whose samples are there: `None` where these might give other bits.
    pub fn exactly(&self, s: &Summary, start: i64, end: i64) -> Option<Option<f64>> {
        if !matches!(self.wants, Wants::Bounds | Wants::Resets) || s.resets > self.resets_max {
            return None;
        }
        let value = (self.eval)(s, start, end);
        let doubtful = self.picks && value.is_some_and(|v| v == 0.0 || v.is_nan());
        (!doubtful).then_some(value)
    }
}

/// The function of this name as one of a summary.
pub fn lookup(name: &str) -> Option<OfSummary> {
    let bounds = |eval| Some(OfSummary { wants: Wants::Bounds, resets_max: u64::MAX, eval, picks: false });
    let sum = |eval| Some(OfSummary { wants: Wants::Sum, resets_max: u64::MAX, eval, picks: false });
    let deviation =
        |eval| Some(OfSummary { wants: Wants::Deviation, resets_max: u64::MAX, eval, picks: false });
    let resets = |resets_max, eval| Some(OfSummary { wants: Wants::Resets, resets_max, eval, picks: false });
    let picks = |eval| Some(OfSummary { wants: Wants::Bounds, resets_max: u64::MAX, eval, picks: true });
    match name {
        "count_over_time" => bounds(|s, _, _| Some(s.count as f64)),
        "present_over_time" => bounds(|_, _, _| Some(1.0)),
        "first_over_time" => bounds(|s, _, _| Some(s.first.1)),
        "last_over_time" => bounds(|s, _, _| Some(s.last.1)),
        "min_over_time" => picks(|s, _, _| Some(s.min)),
        "max_over_time" => picks(|s, _, _| Some(s.max)),
        "sum_over_time" => sum(|s, _, _| Some(s.sum())),
        "avg_over_time" => sum(|s, _, _| Some(s.sum() / s.count as f64)),
        "stddev_over_time" => deviation(|s, _, _| Some((s.deviation? / s.count as f64).sqrt())),
        "stdvar_over_time" => deviation(|s, _, _| Some(s.deviation? / s.count as f64)),
        "resets" => resets(u64::MAX, |s, _, _| Some(s.resets as f64)),
        "delta" => bounds(|s, start, end| gain(s, start, end, Extrapolated::Delta)),
        "increase" => resets(1, |s, start, end| gain(s, start, end, Extrapolated::Increase)),
        "rate" => resets(1, |s, start, end| gain(s, start, end, Extrapolated::Rate)),
        _ => None,
    }
}

fn gain(s: &Summary, start: i64, end: i64, kind: Extrapolated) -> Option<f64> {
    // As where samples are read: nothing is added where nothing was lost, or a difference of -0 would become 0.
    let difference = s.last.1 - s.first.1;
    let lost = kind != Extrapolated::Delta && s.resets > 0;
    let ends = Ends {
        first: s.first.0,
        last: s.last.0,
        count: usize::try_from(s.count).ok()?,
        value: s.first.1,
        since: 0,
        start,
        end,
    };
    extrapolate(&ends, kind, if lost { difference + s.reset_from } else { difference })
}
