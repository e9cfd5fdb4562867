//! MetricsQL's `rollup_*`: several numbers of one window, each a series of its own.
//!
//! What lies between neighbouring samples is what Prometheus' `irate` and `idelta` say of the two, so
//! counters that start again count from zero; nothing is extrapolated, and no sample before the window is
//! looked at.

use crate::function::sliding::Sliding;
use crate::function::{Window, WindowFn, over_time, rate};

/// One of the numbers.
#[derive(Debug)]
pub struct Part {
    /// Value of the label `rollup`, and of the optional second argument.
    pub name: &'static str,
    pub kernel: WindowFn,
    pub sliding: Sliding,
}

const fn part(name: &'static str, kernel: WindowFn, sliding: Sliding) -> Part {
    Part { name, kernel, sliding }
}

/// min, max and avg of what `between` says of neighbours.
macro_rules! neighbours {
    ($between:path) => {
        [
            part("min", |w| over(w, $between, over_time::min), Sliding::None),
            part("max", |w| over(w, $between, over_time::max), Sliding::None),
            part("avg", |w| over(w, $between, over_time::avg), Sliding::None),
        ]
    };
}

pub static VALUES: [Part; 3] = [
    part("min", over_time::min, Sliding::Min),
    part("max", over_time::max, Sliding::Max),
    part("avg", over_time::avg, Sliding::Avg),
];
pub static CANDLESTICK: [Part; 4] = [
    part("open", over_time::first, Sliding::None),
    part("high", over_time::max, Sliding::Max),
    part("low", over_time::min, Sliding::Min),
    part("close", over_time::last, Sliding::None),
];
pub static DELTA: [Part; 3] = neighbours!(rate::idelta);
pub static DERIV: [Part; 3] = neighbours!(slope);
pub static INCREASE: [Part; 3] = neighbours!(increase);
pub static RATE: [Part; 3] = neighbours!(rate::irate);
pub static SCRAPE_INTERVAL: [Part; 3] = neighbours!(interval);

/// `whole` over the values of `between`; `None` under two samples.
fn over(w: &Window<'_>, between: WindowFn, whole: WindowFn) -> Option<f64> {
    let pairs = w.timestamps.windows(2).zip(w.values.windows(2));
    let values: Vec<f64> =
        pairs.filter_map(|(timestamps, values)| between(&Window { timestamps, values, ..*w })).collect();
    if values.is_empty() {
        return None;
    }
    whole(&Window { values: &values, timestamps: w.timestamps.get(1..)?, ..*w })
}

fn interval(w: &Window<'_>) -> Option<f64> {
    Some((w.timestamps.last()? - w.timestamps.first()?) as f64 / 1000.0)
}

fn increase(w: &Window<'_>) -> Option<f64> {
    Some(rate::irate(w)? * interval(w)?)
}

fn slope(w: &Window<'_>) -> Option<f64> {
    Some(rate::idelta(w)? / interval(w)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::function::test::window;

    fn all(parts: &[Part], values: &[f64]) -> Vec<Option<f64>> {
        parts.iter().map(|part| (part.kernel)(&window(values))).collect()
    }

    #[test]
    fn neighbours_are_compared_as_irate_does() {
        // 10 s apart: up 20, reset to 5, up 10.
        let values = [10.0, 30.0, 5.0, 15.0];
        assert_eq!(all(&RATE, &values), [Some(0.5), Some(2.0), Some(3.5 / 3.0)]);
        assert_eq!(all(&INCREASE, &values), [Some(5.0), Some(20.0), Some(35.0 / 3.0)]);
        assert_eq!(all(&DELTA, &values), [Some(-25.0), Some(20.0), Some(5.0 / 3.0)]);
        assert_eq!(all(&DERIV, &values)[..2], [Some(-2.5), Some(2.0)]);
        assert_eq!(all(&SCRAPE_INTERVAL, &values), vec![Some(10.0); 3]);
        assert_eq!(all(&RATE, &[1.0]), vec![None; 3]);
    }

    #[test]
    fn values_themselves_need_no_neighbour() {
        assert_eq!(all(&VALUES, &[3.0]), vec![Some(3.0); 3]);
        assert_eq!(all(&CANDLESTICK, &[2.0, 7.0, 1.0, 4.0]), [2.0, 7.0, 1.0, 4.0].map(Some));
    }
}
