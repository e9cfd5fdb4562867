//! Checks of windows: what a function wants of its samples, and what the samples are like.

use metricsdb_model::{MetricType, Result};

use super::look::Context;
use super::{Finding, Meaning};
use crate::annotations::may_be_counter;
use crate::plan::nodes::{bare, only_selector};
use crate::syntax::Aggregation;
use crate::syntax::tree::{AggregateOp, Call, Duration, Expr, ExprKind, Selector};

/// A metric that falls more often than once in so many samples is no counter.
const FALLS: usize = 10;
/// Scrapes that a window of a rate should hold.
const SCRAPES: i64 = 4;
/// `irate` sees two samples; steps so many times as long as the interval between them pass over the rest.
const LONG_STEP: i64 = 4;

type Found = Result<Option<Finding>>;

fn finding(check: &'static str, expr: &Expr, message: String, rewrite: String) -> Found {
    let meaning = Meaning::Different;
    Ok(Some(Finding { check, message, span: expr.span, rewrite: Some(rewrite), meaning }))
}

/// A call over a range selector: the call, the selector, its range in milliseconds.
fn over_range<'e>(context: &Context<'_>, expr: &'e Expr) -> Option<(&'e Call, &'e Selector, i64, &'e Expr)> {
    let ExprKind::Call(call) = &expr.kind else { return None };
    let arg = call.args.iter().map(bare).find(|a| matches!(a.kind, ExprKind::Range { .. }))?;
    let ExprKind::Range { selector, range } = &arg.kind else { return None };
    Some((call, selector, context.ms(range)?, arg))
}

fn with_range(selector: &Selector, range_ms: i64, of: &Expr) -> Expr {
    let kind = ExprKind::Range { selector: selector.clone(), range: Duration::Ms(range_ms) };
    Expr { kind, span: of.span }
}

/// The call with another name, and another argument in the place of `old`.
fn called(name: &str, call: &Call, old: &Expr, new: &Expr) -> String {
    let args = call
        .args
        .iter()
        .map(|arg| if std::ptr::eq(bare(arg), old) { new.to_string() } else { arg.to_string() });
    format!("{name}({})", args.collect::<Vec<_>>().join(", "))
}

/// The first metric of a selector of which a test holds.
fn metric(context: &Context<'_>, selector: &Selector, test: impl Fn(&str) -> bool) -> Result<Option<String>> {
    Ok(context.names(selector)?.into_iter().find(|name| test(name)))
}

/// `rate` over what is no counter.
pub(super) fn rate_over_gauge(context: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let Some((call, selector, _, arg)) = over_range(context, expr) else { return Ok(None) };
    let instead = match call.function.name {
        "rate" => "deriv",
        "increase" => "delta",
        "irate" => "idelta",
        _ => return Ok(None),
    };
    let kind = |name: &str| (context.around.kind_of)(name);
    let declared = metric(context, selector, |name| kind(name) == Some(MetricType::Gauge))?;
    let (name, why) = match declared {
        Some(name) => (name, "is declared a gauge".to_owned()),
        None => {
            let unknown = |name: &str| kind(name).is_none() && !may_be_counter(name);
            let Some(name) = metric(context, selector, unknown)? else { return Ok(None) };
            let Some(habit) = context.habit(selector)?.filter(|h| h.falls * FALLS >= h.samples) else {
                return Ok(None);
            };
            (name, format!("fell {} times in {} samples", habit.falls, habit.samples))
        }
    };
    let message = format!("{} takes a fall for a restart of a counter, and {name} {why}", call.function.name);
    finding("rate-over-gauge", expr, message, called(instead, call, arg, arg))
}

/// `delta` over a counter.
pub(super) fn delta_over_counter(context: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let Some((call, selector, _, arg)) = over_range(context, expr) else { return Ok(None) };
    let instead = match call.function.name {
        "delta" => "increase",
        "deriv" => "rate",
        "idelta" => "irate",
        _ => return Ok(None),
    };
    let counts = |name: &str| match (context.around.kind_of)(name) {
        Some(kind) => kind == MetricType::Counter,
        None => name.ends_with("_total"),
    };
    let Some(name) = metric(context, selector, counts)? else { return Ok(None) };
    let message = format!("{name} is a counter: {} sees a restart as a fall", call.function.name);
    finding("delta-over-counter", expr, message, called(instead, call, arg, arg))
}

/// `rate(sum(x)[5m:])`: restarts of single series are lost in the sum.
pub(super) fn sum_inside_rate(context: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let ExprKind::Call(call) = &expr.kind else { return Ok(None) };
    if !call.function.wants_counter && call.function.name != "irate" {
        return Ok(None);
    }
    let Some(arg) = call.args.first().map(bare) else { return Ok(None) };
    let ExprKind::Subquery { expr: inner, range, offset: None, at: None, .. } = &arg.kind else {
        return Ok(None);
    };
    let ExprKind::Aggregate(sum) = &bare(inner).kind else { return Ok(None) };
    let ExprKind::Selector(selector) = &bare(&sum.expr).kind else { return Ok(None) };
    let Some(range) = context.ms(range).filter(|_| sum.op == AggregateOp::Sum) else { return Ok(None) };
    let name = call.function.name;
    let windows = with_range(selector, range, arg);
    let rewrite = format!("{}({name}({windows}))", Aggregation(sum));
    let message = format!("a restart of one series is a fall of the sum: take the {name} of each, then sum");
    finding("sum-inside-rate", expr, message, rewrite)
}

/// A window too short for two samples.
pub(super) fn range_too_short(context: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let Some((call, selector, range, arg)) = over_range(context, expr) else { return Ok(None) };
    if !matches!(call.function.name, "rate" | "irate" | "increase" | "delta" | "idelta" | "deriv") {
        return Ok(None);
    }
    let Some(habit) = context.habit(selector)?.filter(|h| range < 2 * h.interval_ms) else { return Ok(None) };
    let longer = with_range(selector, habit.interval_ms.saturating_mul(SCRAPES), arg);
    let message = format!(
        "samples are {} apart, so a window of {} rarely holds the two that {} needs",
        Duration::Ms(habit.interval_ms),
        Duration::Ms(range),
        call.function.name
    );
    finding("range-too-short", expr, message, called(call.function.name, call, arg, &longer))
}

/// A subquery whose steps are finer than its data.
pub(super) fn subquery_too_fine(context: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let ExprKind::Subquery { expr: inner, step, .. } = &expr.kind else { return Ok(None) };
    let step = match step {
        Some(step) => context.ms(step),
        None => Some(context.params.subquery_step_ms),
    };
    let (Some(step), Some(selector)) = (step, only_selector(inner)) else { return Ok(None) };
    // A step near the interval is as good as the interval.
    let Some(habit) = context.habit(selector)?.filter(|h| step.saturating_mul(10) < h.interval_ms * 9) else {
        return Ok(None);
    };
    let mut coarser = expr.clone();
    if let ExprKind::Subquery { step, .. } = &mut coarser.kind {
        *step = Some(Duration::Ms(habit.interval_ms));
    }
    let message = format!(
        "it evaluates every {}, and samples come every {}",
        Duration::Ms(step),
        Duration::Ms(habit.interval_ms)
    );
    finding("subquery-too-fine", expr, message, coarser.to_string())
}

/// `max_over_time(x[1h:])` over a plain selector.
pub(super) fn subquery_of_selector(context: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let ExprKind::Call(call) = &expr.kind else { return Ok(None) };
    if !matches!(
        call.function.name,
        "max_over_time" | "min_over_time" | "avg_over_time" | "last_over_time" | "rate" | "increase"
    ) {
        return Ok(None);
    }
    let Some(arg) = call.args.first().map(bare) else { return Ok(None) };
    let ExprKind::Subquery { expr: inner, range, offset: None, at: None, .. } = &arg.kind else {
        return Ok(None);
    };
    let ExprKind::Selector(selector) = &bare(inner).kind else { return Ok(None) };
    let Some(range) = context.ms(range) else { return Ok(None) };
    if selector.extension.is_some() {
        return Ok(None);
    }
    let windows = with_range(selector, range, arg);
    let message = "a range selector sees the samples themselves, once each".to_owned();
    finding("subquery-of-selector", expr, message, called(call.function.name, call, arg, &windows))
}

/// `topk` in a range query chooses anew at every step.
pub(super) fn topk_over_range(context: &Context<'_>, expr: &Expr, above: Option<&Expr>) -> Found {
    let ExprKind::Aggregate(topk) = &expr.kind else { return Ok(None) };
    let chooses = matches!(topk.op, AggregateOp::Topk | AggregateOp::Bottomk);
    let length = context.params.end.saturating_sub(context.params.start);
    let (Some(step), Some(k)) = (context.params.step, &topk.param) else { return Ok(None) };
    if !chooses || above.is_some() || length < step {
        return Ok(None);
    }
    let inner = bare(&topk.expr);
    let (whole, every) = (Duration::Ms(length.max(1)), Duration::Ms(step));
    let shown = match &inner.kind {
        ExprKind::Binary(_) | ExprKind::Negate(_) => format!("({inner})"),
        _ => inner.to_string(),
    };
    let windows = match &inner.kind {
        ExprKind::Selector(s) if s.at.is_none() && s.offset.is_none() && s.extension.is_none() => {
            format!("{inner}[{whole}] @ end()")
        }
        _ => format!("{shown}[{whole}:{every}] @ end()"),
    };
    let rewrite = format!("{shown} and {}({k}, avg_over_time({windows}))", Aggregation(topk));
    let message = format!(
        "{} is taken anew at each step, so more than {k} series come and go; choose once over the range",
        topk.op.as_str()
    );
    finding("topk-over-range", expr, message, rewrite)
}

/// `irate` looks at the last two samples of steps that hold many.
pub(super) fn irate_in_long_steps(context: &Context<'_>, expr: &Expr, _: Option<&Expr>) -> Found {
    let Some((call, selector, range, arg)) = over_range(context, expr) else { return Ok(None) };
    let Some(step) = context.params.step.filter(|_| call.function.name == "irate") else { return Ok(None) };
    let Some(habit) = context.habit(selector)? else { return Ok(None) };
    if step < habit.interval_ms.saturating_mul(LONG_STEP) {
        return Ok(None);
    }
    let windows = with_range(selector, range.max(step), arg);
    let message = format!(
        "irate sees two samples of each step of {}, which holds {}",
        Duration::Ms(step),
        step / habit.interval_ms
    );
    finding("irate-in-long-steps", expr, message, called("rate", call, arg, &windows))
}
