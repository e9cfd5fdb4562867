//! Expressions whose value at a step is a function of the samples that this step sees, to the last bit and remark:
//! what other steps, series and samples the query's range holds makes no difference. Only such steps may be kept from
//! one query and served to another.
//!
//! The evaluator takes care of what is common (`aggregate`, `sliding`, `summary`); here is refused what it does
//! otherwise. A step is told apart from one of an instant query, whose only window may be read another way: ranges
//! that are put together must have two steps at least.

use metricsdb_model::Grouping;

use super::times::{QueryTimes, reads_whole_grid};
use super::waits::{Waits, waits};
use crate::function::{Kernel, Special};
use crate::syntax::tree::{Aggregate, AggregateOp, Binary, BinaryOp, Call, Expr, ExprKind, ValueType};

/// How far a step sees, where each is a function of what it sees.
pub fn alone(expr: &Expr, text: &str, step: i64, lookback: i64) -> Option<Waits> {
    let times = QueryTimes { start: 0, end: 0, step };
    let is_range = matches!(expr.value_type(), ValueType::Scalar | ValueType::Vector);
    let walk = Walk { times, inside: false, names_matter: false };
    if is_range && walk.holds(expr) { waits(expr, text, step, lookback).ok() } else { None }
}

#[derive(Clone, Copy)]
struct Walk {
    times: QueryTimes,
    /// In a subquery, whose grid may have one step here and many there.
    inside: bool,
    /// Above, rows of equal labels may become one, and lose their metric name if the first of them does.
    names_matter: bool,
}

impl Walk {
    fn holds(self, expr: &Expr) -> bool {
        let (holds, walk) = match &expr.kind {
            _ if reads_whole_grid(expr) => (false, self),
            ExprKind::Subquery { .. } => (true, Walk { inside: true, ..self }),
            ExprKind::Binary(binary) => self.binary(binary),
            ExprKind::Aggregate(aggregate) => self.aggregate(aggregate),
            ExprKind::Call(call) => (self.call(call), self),
            _ => (true, self),
        };
        holds && expr.children().all(|child| walk.holds(child))
    }

    fn binary(self, binary: &Binary) -> (bool, Walk) {
        let fills = binary.matching.fill_left.is_some() || binary.matching.fill_right.is_some();
        // `if` and `ifnot` ask whether the right side is one series, in the whole range.
        let holds = !binary.op.is_gap() && !fills && (binary.op != BinaryOp::Or || !self.names_matter);
        let filters = binary.op.is_comparison() && !binary.return_bool;
        (holds, Walk { names_matter: self.names_matter || filters || binary.keep_name, ..self })
    }

    fn aggregate(self, aggregate: &Aggregate) -> (bool, Walk) {
        use AggregateOp::{Stddev, Stdvar};
        // Deviations are not summed exactly: their last bit hangs on the order of rows.
        let holds = !matches!(aggregate.op, Stddev | Stdvar);
        let keeps = match &aggregate.grouping {
            Grouping::By(names) => names.iter().any(|name| name.starts_with("__")),
            Grouping::Without(_) => true,
        };
        (holds, Walk { names_matter: self.names_matter || keeps, ..self })
    }

    fn call(self, call: &Call) -> bool {
        match call.function.kernel {
            // Whether its info series are numbers is asked of the whole range.
            Kernel::Special(Special::Info) => false,
            // Arguments are only looked at where there is a series at all.
            Kernel::Window(_) => match call.function.name {
                "quantile_over_time" | "double_exponential_smoothing" => self.has_constants(call),
                "min_over_time" | "max_over_time" | "sum_over_time" | "avg_over_time" => {
                    self.reads_samples(call)
                }
                _ => true,
            },
            _ => true,
        }
    }

    fn has_constants(self, call: &Call) -> bool {
        let mut scalars = call.args.iter().filter(|arg| arg.value_type() == ValueType::Scalar);
        scalars.all(|arg| matches!(arg.unparenthesized().kind, ExprKind::Number(_) | ExprKind::Seconds(_)))
    }

    /// Whether the windows are never answered from heads of chunks, whose sums are rounded more than once and which
    /// may not tell -0 from 0: that is where they overlap.
    fn reads_samples(self, call: &Call) -> bool {
        match call.args.first().map(|arg| &arg.unparenthesized().kind) {
            Some(ExprKind::Range { selector, range }) => {
                let overlap = self.times.positive(range).is_ok_and(|range| range > self.times.step);
                overlap && selector.at.is_none() && !self.inside
            }
            _ => true,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::syntax::parse;

    fn found(text: &str) -> Option<Waits> {
        alone(&parse(text).unwrap(), text, 60_000, 300_000)
    }

    #[test]
    fn steps_of_common_dashboards_stand_alone() {
        for text in [
            "sum by (job) (rate(http_requests_total[5m]))",
            "histogram_quantile(0.99, sum by (le) (rate(x_bucket[5m])))",
            "sum(rate(a[1m])) / sum(rate(b[1m])) or vector(0)",
            "topk(5, avg_over_time(x[10m]))",
            "max_over_time(rate(x[5m])[1h:1m])",
            "x > 5 and on (job) y",
            "quantile_over_time(0.9, x[5m])",
            "x @ 100 - x offset 1h",
            "time() - timestamp(x)",
        ] {
            assert!(found(text).is_some(), "{text}");
        }
        assert_eq!(found("x smoothed").unwrap().ahead, 300_000);
        assert_eq!(found("rate(x[5m]) / x @ 50").unwrap().pinned, Some(50_000));
    }

    #[test]
    fn steps_that_see_more_than_their_own_samples_do_not() {
        for text in [
            "range_sum(x)",
            "max_over_time(range_sum(x)[1h:1m])",
            "x default 0",
            "x if y",
            "x + fill(0) y",
            "x + end()",
            "x @ start()",
            "stddev(x)",
            "info(x)",
            "sum_over_time(x[1m])",
            "max_over_time(min_over_time(x[5m])[1h:1m])",
            "min_over_time(x[5m] @ 100)",
            "quantile_over_time(scalar(q), x[5m])",
            "sum by (__name__) (x or rate(y[5m]))",
            "(x or rate(y[5m])) > z",
            "\"text\"",
            "x[5m]",
        ] {
            assert!(found(text).is_none(), "{text}");
        }
    }
}
