//! When a step of an expression is final: how far beyond it samples matter.

use metricsdb_model::{Error, Result};

use super::SUBQUERY_STEP_MS_DEFAULT;
use super::times::{QueryTimes, reads_whole_grid};
use crate::function::{Kernel, Special};
use crate::syntax::tree::{At, Call, Duration, DurationExpr, Expr, ExprKind, Extension, Selector};

/// The newest samples that a step can see, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// How far after the step's own time: 0 but for negative offsets and `smoothed`.
    pub ahead: i64,
    /// The latest time that `@` names, where it matters.
    pub pinned: Option<i64>,
}

/// Where an expression is evaluated: so far after the step, or at a time of its own.
#[derive(Clone, Copy)]
enum Place {
    After(i64),
    At(i64),
}

/// Fails for expressions whose steps depend on where the query as a whole starts and ends.
pub fn waits(expr: &Expr, text: &str, step: i64, lookback: i64) -> Result<Waits> {
    let times = QueryTimes { start: 0, end: 0, step };
    let mut walk = Walk { text, inside: false, times, lookback, found: Waits::default() };
    walk.expr(expr, Place::After(0))?;
    Ok(walk.found)
}

struct Walk<'t> {
    text: &'t str,
    /// A subquery has a grid of its own.
    inside: bool,
    times: QueryTimes,
    lookback: i64,
    found: Waits,
}

impl Walk<'_> {
    fn expr(&mut self, expr: &Expr, place: Place) -> Result<()> {
        if !self.inside && reads_whole_grid(expr) {
            return Err(self.refusal("a function of all steps", expr));
        }
        match &expr.kind {
            ExprKind::Selector(selector) => self.selector(selector, expr, place),
            ExprKind::Range { selector, range } => {
                self.refuse_range(range, expr)?;
                self.selector(selector, expr, place)
            }
            ExprKind::Subquery { expr: inner, range, step, offset, at } => {
                self.refuse_range(range, expr)?;
                self.refuse_range(step.as_ref().unwrap_or(&Duration::Ms(SUBQUERY_STEP_MS_DEFAULT)), expr)?;
                let place = self.moved(place, at.as_ref(), offset.as_ref(), expr)?;
                self.see(place, 0);
                let before = std::mem::replace(&mut self.inside, true);
                self.expr(inner, place)?;
                self.inside = before;
                Ok(())
            }
            ExprKind::Call(call) if reads_ends(call) => Err(self.refusal(call.function.name, expr)),
            _ => expr.children().try_for_each(|child| self.expr(child, place)),
        }
    }

    fn selector(&mut self, selector: &Selector, expr: &Expr, place: Place) -> Result<()> {
        let place = self.moved(place, selector.at.as_ref(), selector.offset.as_ref(), expr)?;
        let smoothed = selector.extension == Some(Extension::Smoothed);
        self.see(place, if smoothed { self.lookback } else { 0 });
        Ok(())
    }

    fn see(&mut self, place: Place, after: i64) {
        match place {
            Place::After(ms) => self.found.ahead = self.found.ahead.max(ms.saturating_add(after)),
            Place::At(t) => self.found.pinned = self.found.pinned.max(Some(t.saturating_add(after))),
        }
    }

    fn moved(&self, place: Place, at: Option<&At>, offset: Option<&Duration>, expr: &Expr) -> Result<Place> {
        let back = match offset {
            None => 0,
            Some(offset) => {
                self.refuse_range(offset, expr)?;
                offset.resolve(self.times.step, 0)?
            }
        };
        match (at, place) {
            (Some(At::Time(t)), _) => Ok(Place::At(t.saturating_sub(back))),
            (Some(At::Start), _) => Err(self.refusal("@ start()", expr)),
            (Some(At::End), _) => Err(self.refusal("@ end()", expr)),
            (None, Place::At(t)) => Ok(Place::At(t.saturating_sub(back))),
            (None, Place::After(ms)) => Ok(Place::After(ms.saturating_sub(back))),
        }
    }

    fn refuse_range(&self, duration: &Duration, expr: &Expr) -> Result<()> {
        match duration {
            Duration::Expr(inner) if names_range(inner) => Err(self.refusal("range()", expr)),
            _ => Ok(()),
        }
    }

    fn refusal(&self, what: &str, expr: &Expr) -> Error {
        let message =
            format!("{what} has no meaning in a stream, which has no end; name a time or a duration");
        Error::parse(self.text, expr.span, message)
    }
}

fn reads_ends(call: &Call) -> bool {
    matches!(call.function.kernel, Kernel::Special(Special::Start | Special::End | Special::Range))
}

fn names_range(expr: &DurationExpr) -> bool {
    match expr {
        DurationExpr::Range => true,
        DurationExpr::Seconds(_) | DurationExpr::Number(_) => false,
        DurationExpr::Step | DurationExpr::Window => false,
        DurationExpr::Negate(inner) | DurationExpr::Plus(inner) | DurationExpr::Paren(inner) => {
            names_range(inner)
        }
        DurationExpr::Min(a, b) | DurationExpr::Max(a, b) => names_range(a) || names_range(b),
        DurationExpr::Binary { left, right, .. } => names_range(left) || names_range(right),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::syntax::parse;

    fn found(text: &str) -> Waits {
        waits(&parse(text).unwrap(), text, 15_000, 300_000).unwrap()
    }

    #[test]
    fn a_step_waits_for_the_newest_sample_that_it_can_see() {
        let ahead = |text: &str| {
            let waits = found(text);
            assert_eq!(waits.pinned, None);
            waits.ahead
        };
        assert_eq!(ahead("sum(rate(x[5m]))"), 0);
        assert_eq!(ahead("x offset 5m + time()"), 0);
        assert_eq!(ahead("x offset -5m / y offset -1m"), 300_000);
        assert_eq!(ahead("max_over_time((x offset -1m)[10m:1m] offset -2m)"), 180_000);
        assert_eq!(ahead("max_over_time((x offset -1m)[10m:1m] offset 2m)"), 0);
        assert_eq!(ahead("x smoothed"), 300_000);
        assert_eq!(ahead("rate(x[5m] anchored)"), 0);
        assert_eq!(ahead("topk(scalar(k offset -3s), x)"), 3_000);
    }

    #[test]
    fn what_needs_the_whole_query_is_refused_but_in_a_subquery() {
        for text in ["range_sum(x)", "x default 0", "outliersk(1, x)", "x + end()", "sum(start() * x)"] {
            assert!(waits(&parse(text).unwrap(), text, 15_000, 300_000).is_err(), "{text}");
        }
        assert_eq!(found("max_over_time(range_sum(x)[10m:1m])").ahead, 0);
    }

    #[test]
    fn pinned_times_are_absolute() {
        assert_eq!(found("x @ 100 + y"), Waits { ahead: 0, pinned: Some(100_000) });
        assert_eq!(
            found("max_over_time((x offset -1m)[10m:1m] @ 100)"),
            Waits { ahead: 0, pinned: Some(160_000) }
        );
    }

    #[test]
    fn what_depends_on_the_whole_range_is_refused() {
        for text in
            ["x @ end()", "sum(x) + max_over_time(x[5m] @ start())", "max_over_time(x[5m:1m] @ end())"]
        {
            let error = waits(&parse(text).unwrap(), text, 1, 1).unwrap_err().to_string();
            assert!(error.contains("has no end"), "{error}");
        }
        let text = "max_over_time(x[range()])";
        assert!(waits(&parse(text).unwrap(), text, 1, 1).is_err());
    }
}
