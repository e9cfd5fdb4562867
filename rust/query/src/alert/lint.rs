//! What is probably not meant: alerts that never or always fire, counters compared, clear levels that fire, names that
//! no series has, conditions that cost too much.

use metricsdb_model::{Grouping, MatchOp, Span};

use super::compile::{compares, comparison, constant};
use crate::syntax::quote;
use crate::syntax::statement::{Alert, Body, ClearWhen, Condition};
use crate::syntax::tree::{BinaryOp, Expr, ExprKind, Filter, Selector, ValueType};

/// Samples that one evaluation of a condition may load before it is remarked on.
pub const SAMPLES_MAX: u64 = 10_000_000;
/// A bound that is so many times the highest rate is taken for one of the counter.
const SCALE: f64 = 100.0;

#[derive(Clone, Debug, PartialEq)]
pub struct Lint {
    /// `never_fires`, `always_fires`, `counter_compared`, `clear_while_firing`; of the data as they are: `unknown_metric`,
    /// `unknown_label`, `counter_scale`, `costly`.
    pub check: &'static str,
    pub message: String,
    pub span: Span,
}

/// What is known of the data. `None`: it can't be said.
pub trait Known {
    /// Whether a metric only rises.
    fn is_counter(&self, metric: &str) -> bool;
    /// How many series a selector takes.
    fn series(&self, selector: &str) -> Option<u64>;
    /// The highest value of an expression now.
    fn highest(&self, expr: &str) -> Option<f64>;
    /// How many samples an evaluation loads at most.
    fn samples(&self, expr: &str) -> Option<u64>;
}

/// Remarks on an alert that compiles.
pub fn lint(alert: &Alert, known: &dyn Known) -> Vec<Lint> {
    let mut found = Vec::new();
    let conditions: Vec<&Condition> = match &alert.body {
        Body::Single(condition) => vec![condition],
        Body::Levels(levels) => levels.iter().map(|level| &level.condition).collect(),
    };
    for condition in conditions {
        look(condition, known, &mut found);
        let clear = condition.clear.as_ref().and_then(|clear| match &clear.when {
            ClearWhen::When(expr) => Some(expr),
            ClearWhen::At(_) => None,
        });
        for expr in [Some(&condition.fire), clear].into_iter().flatten() {
            names(expr, known, &mut found);
            cost(expr, known, &mut found);
        }
        scale(&condition.fire, known, &mut found);
    }
    found
}

fn look(condition: &Condition, known: &dyn Known, found: &mut Vec<Lint>) {
    let fire = &condition.fire;
    let is_counter: &dyn Fn(&str) -> bool = &|name| known.is_counter(name);
    let mut add = |check, message: String, span| found.push(Lint { check, message, span });
    match constant(fire) {
        Some(_) => add("always_fires", format!("{fire} is a number, which always fires, 0 too"), fire.span),
        None if always(fire) => {
            let message =
                format!("{fire} has a value wherever there is data, so it always fires; compare it");
            add("always_fires", message, fire.span);
        }
        None => {}
    }
    if !Ranges::of(fire).can_hold() {
        add("never_fires", format!("no value can make {fire} true"), fire.span);
    }
    let mut counters = Vec::new();
    compared_counters(fire, is_counter, &mut counters);
    for (name, span) in counters {
        let message = format!("{name} is a counter, which only rises; compare rate({name}[5m]) or increase");
        add("counter_compared", message, span);
    }
    if let Some(ClearWhen::When(clear)) = condition.clear.as_ref().map(|clear| &clear.when)
        && let (Some((fires, f_op, f)), Some((clears, c_op, c))) = (comparison(fire), comparison(clear))
        && fires.to_string() == clears.to_string()
        && meet(f_op, f, c_op, c)
    {
        let message = "both conditions can be true at once, and then it fires; leave a gap between them";
        add("clear_while_firing", message.to_owned(), clear.span);
    }
}

/// Metrics that no series has, and labels that none of a metric's has, in matchers and in `by`.
fn names(expr: &Expr, known: &dyn Known, found: &mut Vec<Lint>) {
    let selector = match &expr.kind {
        ExprKind::Selector(selector) | ExprKind::Range { selector, .. } => Some(selector),
        _ => None,
    };
    if let Some((selector, metric)) = selector.and_then(|s| Some((s, s.name.as_deref()?))) {
        // Alerts write theirs when they are active.
        if metric.starts_with("ALERTS") {
            return;
        }
        if known.series(&format!("{{__name__={}}}", quote(metric))) == Some(0) {
            let message = format!("there is no metric {metric}, so this selects nothing");
            found.push(Lint { check: "unknown_metric", message, span: expr.span });
            return;
        }
        let mut labels = Vec::new();
        wanted(&selector.filter, &mut labels);
        unknown(metric, &labels, expr.span, known, found);
    }
    if let ExprKind::Aggregate(aggregate) = &expr.kind
        && let Grouping::By(labels) = &aggregate.grouping
        && let Some(metric) = lone(&aggregate.expr).and_then(|selector| selector.name.as_deref())
    {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        unknown(metric, &labels, expr.span, known, found);
    }
    expr.children().for_each(|child| names(child, known, found));
}

fn unknown(metric: &str, labels: &[&str], span: Span, known: &dyn Known, found: &mut Vec<Lint>) {
    for label in labels {
        let with = format!("{{__name__={}, {}!=\"\"}}", quote(metric), quote(label));
        let any = format!("{{__name__={}}}", quote(metric));
        if known.series(&with) == Some(0) && known.series(&any).is_some_and(|count| count > 0) {
            let message = format!("no series of {metric} has the label {label}");
            found.push(Lint { check: "unknown_label", message, span });
        }
    }
}

/// Labels that must have a value.
fn wanted<'e>(filter: &'e Filter, found: &mut Vec<&'e str>) {
    match filter {
        Filter::All(parts) => parts.iter().for_each(|part| wanted(part, found)),
        Filter::Match(matcher) => {
            let positive = matches!(matcher.op, MatchOp::Equal | MatchOp::Regex);
            if positive && !matcher.matches("") {
                found.push(&matcher.name);
            }
        }
        _ => {}
    }
}

/// The selector of an expression in which series keep their labels.
fn lone(expr: &Expr) -> Option<&Selector> {
    match &expr.kind {
        ExprKind::Selector(selector) | ExprKind::Range { selector, .. } => Some(selector),
        ExprKind::Paren(inner) | ExprKind::Negate(inner) | ExprKind::Plus(inner) => lone(inner),
        ExprKind::Call(call)
            if call.function.name != "label_replace" && call.function.name != "label_join" =>
        {
            match &call.args[..] {
                [only] => lone(only),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A rate that is compared with what the counter itself may come to.
fn scale(fire: &Expr, known: &dyn Known, found: &mut Vec<Lint>) {
    let Some((compared, BinaryOp::Greater | BinaryOp::GreaterEqual, bound)) = comparison(fire) else {
        return;
    };
    let ExprKind::Call(call) = &compared.unparenthesized().kind else { return };
    if !matches!(call.function.name, "rate" | "irate") {
        return;
    }
    let Some(selector) = lone(compared).and_then(|s| s.name.as_deref()) else { return };
    let (Some(rate), Some(counter)) = (known.highest(&compared.to_string()), known.highest(selector)) else {
        return;
    };
    if rate > 0.0 && bound >= rate * SCALE && bound <= counter {
        let message = format!(
            "{compared} is {rate:.3} at most now; {bound} is rather a value of {selector} itself, which is {counter}"
        );
        found.push(Lint { check: "counter_scale", message, span: fire.span });
    }
}

fn cost(expr: &Expr, known: &dyn Known, found: &mut Vec<Lint>) {
    if let Some(samples) = known.samples(&expr.to_string()).filter(|samples| *samples > SAMPLES_MAX) {
        let message =
            format!("each evaluation loads up to {samples} samples; record a part of it, or narrow it");
        found.push(Lint { check: "costly", message, span: expr.span });
    }
}

/// Whether the expression gives something for every series that it looks at.
fn always(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Paren(inner) | ExprKind::Plus(inner) | ExprKind::Negate(inner) => always(inner),
        ExprKind::Binary(binary) if binary.op.is_comparison() => binary.return_bool,
        ExprKind::Binary(binary) if binary.op.is_set() || binary.op.is_gap() => false,
        ExprKind::Binary(binary) => always(&binary.left) && always(&binary.right),
        // `absent` and its like have values only where something is missing.
        ExprKind::Call(call) if call.function.name.starts_with("absent") => false,
        ExprKind::Call(call) => call.args.iter().all(|arg| match arg.value_type() {
            ValueType::Matrix => true,
            ValueType::Vector => always(arg),
            ValueType::Scalar | ValueType::String => true,
        }),
        // A selector, an aggregate, or a number beside one.
        _ => true,
    }
}

/// The values of one expression that several comparisons leave.
struct Ranges {
    /// (expression, comparison, bound); all of them must hold.
    all: Vec<(String, BinaryOp, f64)>,
    /// A comparison of two numbers that is false.
    never: bool,
}

impl Ranges {
    fn of(expr: &Expr) -> Ranges {
        let mut ranges = Ranges { all: Vec::new(), never: false };
        ranges.gather(expr);
        ranges
    }

    fn gather(&mut self, expr: &Expr) {
        if let Some((compared, op, bound)) = comparison(expr) {
            self.gather(compared);
            // Chains as `x > 5 < 3` compare the same values again.
            let mut values = compared;
            while let Some((inner, ..)) = comparison(values) {
                values = inner;
            }
            self.all.push((values.unparenthesized().to_string(), op, bound));
            return;
        }
        match &expr.kind {
            ExprKind::Paren(inner) | ExprKind::Plus(inner) => self.gather(inner),
            ExprKind::Binary(binary) if binary.op == BinaryOp::And => {
                self.gather(&binary.left);
                self.gather(&binary.right);
            }
            ExprKind::Binary(binary) if binary.op.is_comparison() => {
                let same = binary.left.to_string() == binary.right.to_string();
                self.never |= same && !binary.return_bool && is_strict(binary.op);
            }
            _ => {}
        }
    }

    fn can_hold(&self) -> bool {
        let impossible = |(_, op, bound): &(String, BinaryOp, f64)| match op {
            BinaryOp::NotEqual => false,
            BinaryOp::Greater => *bound == f64::INFINITY || bound.is_nan(),
            BinaryOp::Less => *bound == f64::NEG_INFINITY || bound.is_nan(),
            _ => bound.is_nan(),
        };
        let clash = |a: &(String, BinaryOp, f64), b: &(String, BinaryOp, f64)| {
            a.0 == b.0 && !meet(a.1, a.2, b.1, b.2)
        };
        let pairs =
            self.all.iter().enumerate().flat_map(|(i, a)| self.all[i + 1..].iter().map(move |b| (a, b)));
        !self.never && !self.all.iter().any(impossible) && !pairs.into_iter().any(|(a, b)| clash(a, b))
    }
}

fn is_strict(op: BinaryOp) -> bool {
    matches!(op, BinaryOp::Greater | BinaryOp::Less)
}

/// Whether one number can compare so with both bounds. Ends, middles and what lies beyond are enough to try.
fn meet(a_op: BinaryOp, a: f64, b_op: BinaryOp, b: f64) -> bool {
    let tries = [a, b, a / 2.0 + b / 2.0, a.min(b) - 1.0, a.max(b) + 1.0, f64::MIN, f64::MAX];
    tries.into_iter().any(|value| compares(a_op, value, a) && compares(b_op, value, b))
}

/// Selectors of counters that are compared as they are.
fn compared_counters(expr: &Expr, is_counter: &dyn Fn(&str) -> bool, found: &mut Vec<(String, Span)>) {
    match &expr.kind {
        ExprKind::Paren(inner) | ExprKind::Plus(inner) => compared_counters(inner, is_counter, found),
        ExprKind::Binary(binary) if binary.op.is_set() || binary.op.is_gap() => {
            compared_counters(&binary.left, is_counter, found);
            compared_counters(&binary.right, is_counter, found);
        }
        ExprKind::Binary(binary) if binary.op.is_comparison() => {
            for (side, other) in [(&binary.left, &binary.right), (&binary.right, &binary.left)] {
                if let ExprKind::Selector(selector) = &side.unparenthesized().kind
                    && let Some(name) = selector.name.as_deref().filter(|name| is_counter(name))
                    && constant(other).is_some()
                {
                    found.push((name.to_owned(), side.span));
                }
            }
        }
        _ => {}
    }
}
