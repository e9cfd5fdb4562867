//! Runs one eval, and the same question asked in other ways.

use std::sync::Arc;

use metricsdb_model::{Answer, AnswerKind, Budget, Labels, Matrix, Point, Row, Severity};
use metricsdb_query::exec::{Params, evaluate};
use metricsdb_query::function::{Kernel, Special};
use metricsdb_query::histogram::FloatHistogram;
use metricsdb_query::syntax;
use metricsdb_query::syntax::tree::{At, Call, Duration, DurationExpr, Expr, ExprKind, Selector};

use crate::notation::Item;
use crate::script::{Eval, Expected, Pattern};
use crate::storage::Storage;

fn is(call: &Call, special: Special) -> bool {
    matches!(call.function.kernel, Kernel::Special(s) if s == special)
}

fn visit<'e>(expr: &'e Expr, see: &mut impl FnMut(&'e Expr)) {
    see(expr);
    match &expr.kind {
        ExprKind::Subquery { expr, .. } => visit(expr, see),
        ExprKind::Paren(inner) | ExprKind::Negate(inner) | ExprKind::Plus(inner) => visit(inner, see),
        ExprKind::Binary(binary) => {
            visit(&binary.left, see);
            visit(&binary.right, see);
        }
        ExprKind::Aggregate(aggregate) => {
            aggregate.param.iter().for_each(|p| visit(p, see));
            visit(&aggregate.expr, see);
        }
        ExprKind::Call(call) => call.args.iter().for_each(|a| visit(a, see)),
        _ => {}
    }
}

/// Ok, or what is different from what was expected.
pub fn run(eval: &Eval, storage: &Storage) -> Result<(), String> {
    let parsed = syntax::parse(&eval.query);
    let answer = parsed.clone().and_then(|expr| {
        let params = match eval.step {
            Some(step) => Params::range(&eval.query, eval.start, eval.end, step),
            None => Params::instant(&eval.query, eval.start),
        };
        evaluate(&expr, &params, storage, &Budget::unlimited())
    });
    let (answer, expr) = match (answer, parsed) {
        (Ok(answer), Ok(expr)) => (answer, expr),
        (Err(e), _) | (_, Err(e)) => return check_failure(eval, &e.to_string()),
    };
    if eval.fail.is_some() {
        return Err(format!("should fail, but answers {}", show(&answer)));
    }
    check_annotations(&answer, Severity::Warning, &eval.warn)?;
    check_annotations(&answer, Severity::Info, &eval.info)?;
    check_answer(eval, &answer)?;
    if eval.step.is_none() && matches!(answer.kind, AnswerKind::Vector | AnswerKind::Scalar) {
        in_a_range(eval, &expr, storage, &answer)?;
        pinned(eval, &expr, storage, &answer)?;
    }
    Ok(())
}

fn check_failure(eval: &Eval, error: &str) -> Result<(), String> {
    match &eval.fail {
        None => Err(format!("fails: {error}")),
        Some(patterns) if patterns.iter().all(|p| p.matches(error)) => Ok(()),
        Some(_) => Err(format!("fails with another message: {error}")),
    }
}

fn check_annotations(answer: &Answer, severity: Severity, expected: &Expected) -> Result<(), String> {
    let found: Vec<&str> =
        answer.annotations.iter().filter(|a| a.severity == severity).map(|a| a.message.as_str()).collect();
    let patterns: &[Pattern] = match expected {
        Expected::Anything => return Ok(()),
        Expected::None if found.is_empty() => return Ok(()),
        Expected::None => return Err(format!("unexpected {severity:?}: {found:?}")),
        Expected::Some(patterns) => patterns,
    };
    if found.is_empty() {
        return Err(format!("no {severity:?}"));
    }
    match found.iter().find(|text| !patterns.iter().any(|p| p.matches(text))) {
        Some(other) => Err(format!("unexpected {severity:?}: {other}")),
        None => Ok(()),
    }
}

fn check_answer(eval: &Eval, answer: &Answer) -> Result<(), String> {
    let wrong = || Err(format!("answers {}", show(answer)));
    if let Some(text) = &eval.string {
        return if answer.string.as_ref() == Some(text) { Ok(()) } else { wrong() };
    }
    if let Some(value) = eval.scalar {
        let matrix = &answer.matrix;
        let same = answer.kind == AnswerKind::Scalar && matrix.values.len() == 1;
        return if same && close(matrix.values[0], value) { Ok(()) } else { wrong() };
    }
    if answer.kind == AnswerKind::Scalar {
        return wrong();
    }
    let (start, step) = match (eval.matrix, eval.step) {
        (Some((start, step)), _) => (start, step),
        (None, Some(step)) => (eval.start, step),
        (None, None) => (eval.start, 1),
    };
    if eval.step.is_some() && !answer.matrix.labels.is_sorted() {
        return Err(format!("is not sorted by labels: {}", show(answer)));
    }
    let expected: Vec<Series> = eval
        .series
        .iter()
        .map(|(labels, items)| {
            let points = items.iter().enumerate().filter_map(|(i, item)| match item {
                Item::Float(v) => Some((start + step * i as i64, Value::Float(*v))),
                Item::Histogram(written) => {
                    let (histogram, hinted) = (written.histogram.clone(), written.hinted);
                    Some((start + step * i as i64, Value::Histogram { histogram, hinted }))
                }
                Item::Gap => None,
            });
            (labels.clone(), points.collect())
        })
        .collect();
    if eval.ordered && expected.iter().map(|(l, _)| l).ne(answer.matrix.labels.iter()) {
        return Err(format!("comes in another order: {}", show(answer)));
    }
    same(&expected, &answer.matrix).map_err(|e| format!("{e}; answers {}", show(answer)))
}

/// A sample of an answer, or one that is expected.
#[derive(Clone, Debug)]
enum Value {
    Float(f64),
    /// The reset hint is only compared where it was written.
    Histogram {
        histogram: Arc<FloatHistogram>,
        hinted: bool,
    },
}

type Series = (Labels, Vec<(i64, Value)>);

fn rows(matrix: &Matrix) -> Vec<Series> {
    let value = |point: Point<'_>| match point {
        Point::Float(v) => Value::Float(v),
        Point::Histogram(h) => {
            Value::Histogram { histogram: Arc::new(FloatHistogram::from_model(h)), hinted: false }
        }
    };
    let row = |row: Row<'_>| (row.labels.clone(), row.points().map(|(t, point)| (t, value(point))).collect());
    matrix.all_series().map(row).collect()
}

/// The first as expected.
fn agree(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => close(*a, *b),
        (Value::Histogram { histogram: a, hinted }, Value::Histogram { histogram: b, .. }) => {
            let (mut x, mut y) = ((**a).clone(), (**b).clone());
            x.compact();
            y.compact();
            let sides = [(&x.positive, &y.positive), (&x.negative, &y.negative)];
            x.schema == y.schema
                && close(x.count, y.count)
                && close(x.sum, y.sum)
                && close(x.zero_count, y.zero_count)
                && close(x.zero_threshold, y.zero_threshold)
                && x.bounds == y.bounds
                && (!hinted || x.reset == y.reset)
                && sides.iter().all(|(x, y)| {
                    x.indices == y.indices && x.counts.iter().zip(&y.counts).all(|(x, y)| close(*x, *y))
                })
        }
        _ => false,
    }
}

fn same(expected: &[Series], matrix: &Matrix) -> Result<(), String> {
    let mut expected: Vec<_> = expected.iter().filter(|(_, points)| !points.is_empty()).collect();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    let mut found = rows(matrix);
    found.sort_by(|a, b| a.0.cmp(&b.0));
    if expected.len() != found.len() {
        return Err(format!("{} series expected, {} found", expected.len(), found.len()));
    }
    for ((wanted, a), (labels, b)) in expected.into_iter().zip(&found) {
        if wanted != labels {
            return Err(format!("{wanted} expected, {labels} found"));
        }
        let equal = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && agree(&a.1, &b.1));
        if !equal {
            return Err(format!("{labels}: {a:?} expected, {b:?} found"));
        }
    }
    Ok(())
}

fn close(a: f64, b: f64) -> bool {
    use metricsdb_model::sample::is_stale;
    if is_stale(a) || is_stale(b) {
        return is_stale(a) && is_stale(b);
    }
    if a == b || (a.is_nan() && b.is_nan()) {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < 1e-6 * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < 1e-6
}

/// The samples of an answer at one time.
fn at(matrix: &Matrix, time: i64) -> Vec<Series> {
    let mut rows = rows(matrix);
    for (_, points) in &mut rows {
        points.retain(|(t, _)| *t == time);
    }
    rows.retain(|(_, points)| !points.is_empty());
    rows
}

fn depends_on_query_times(expr: &Expr) -> bool {
    let mut found = false;
    visit(expr, &mut |expr| {
        found |= match &expr.kind {
            ExprKind::Call(call) => {
                [Special::Start, Special::End, Special::Step, Special::Range].iter().any(|&s| is(call, s))
            }
            ExprKind::Selector(s) => selector_depends(s),
            ExprKind::Range { selector, range } => selector_depends(selector) || duration_depends(range),
            ExprKind::Subquery { range, step, offset, at, .. } => {
                let durations = [Some(range), step.as_ref(), offset.as_ref()];
                matches!(at, Some(At::Start | At::End))
                    || durations.into_iter().flatten().any(duration_depends)
            }
            _ => false,
        };
    });
    found
}

fn selector_depends(selector: &Selector) -> bool {
    matches!(selector.at, Some(At::Start | At::End)) || selector.offset.as_ref().is_some_and(duration_depends)
}

fn duration_depends(duration: &Duration) -> bool {
    fn depends(expr: &DurationExpr) -> bool {
        match expr {
            DurationExpr::Step | DurationExpr::Range => true,
            DurationExpr::Seconds(_) | DurationExpr::Number(_) | DurationExpr::Window => false,
            DurationExpr::Negate(a) | DurationExpr::Plus(a) | DurationExpr::Paren(a) => depends(a),
            DurationExpr::Binary { left, right, .. } => depends(left) || depends(right),
            DurationExpr::Min(a, b) | DurationExpr::Max(a, b) => depends(a) || depends(b),
        }
    }
    matches!(duration, Duration::Expr(expr) if depends(expr))
}

/// The middle step of a range query says the same.
fn in_a_range(eval: &Eval, expr: &Expr, storage: &Storage, answer: &Answer) -> Result<(), String> {
    if depends_on_query_times(expr) {
        return Ok(());
    }
    let params = Params::range(&eval.query, eval.start - 60_000, eval.start + 60_000, 60_000);
    let range = evaluate(expr, &params, storage, &Budget::unlimited())
        .map_err(|e| format!("as a range query, fails: {e}"))?;
    let mut middle = Matrix::default();
    for (labels, points) in at(&range.matrix, eval.start) {
        for (t, value) in points {
            match value {
                Value::Float(value) => {
                    middle.timestamps.push(t);
                    middle.values.push(value);
                }
                Value::Histogram { histogram, .. } => middle.push_histogram(t, histogram.to_model()),
            }
        }
        middle.end_row(labels);
    }
    same(&rows(&answer.matrix), &middle).map_err(|e| format!("as a range query: {e}"))
}

/// Pinned with `@` to its time, the query says the same at any time.
fn pinned(eval: &Eval, expr: &Expr, storage: &Storage, answer: &Answer) -> Result<(), String> {
    let mut timely = depends_on_query_times(expr);
    visit(expr, &mut |expr| {
        if let ExprKind::Call(call) = &expr.kind {
            timely |= reads_time(call.function.name);
        }
    });
    if timely {
        return Ok(());
    }
    let mut expr = expr.clone();
    pin(&mut expr, eval.start);
    let t = eval.start;
    let times = if t == 0 { vec![-1000, 0, 1000] } else { vec![-10 * t, 0, t / 5, t, 10 * t] };
    for time in times {
        let params = Params::instant(&eval.query, time);
        let moved = evaluate(&expr, &params, storage, &Budget::unlimited())
            .map_err(|e| format!("pinned, fails at {time}: {e}"))?;
        let mut back = moved.matrix;
        back.timestamps.fill(t);
        same(&rows(&answer.matrix), &back).map_err(|e| format!("pinned, at {time}: {e}"))?;
    }
    Ok(())
}

fn reads_time(function: &str) -> bool {
    const TIMELY: [&str; 12] = [
        "day_of_month",
        "day_of_week",
        "day_of_year",
        "days_in_month",
        "hour",
        "minute",
        "month",
        "predict_linear",
        "time",
        "timestamp",
        "year",
        "start_timestamp",
    ];
    TIMELY.contains(&function)
}

/// Sets `@` where none is; what stands in a subquery moves with it.
fn pin(expr: &mut Expr, time: i64) {
    match &mut expr.kind {
        ExprKind::Selector(selector) | ExprKind::Range { selector, .. } => {
            selector.at.get_or_insert(At::Time(time));
        }
        ExprKind::Subquery { at, .. } => {
            at.get_or_insert(At::Time(time));
        }
        ExprKind::Paren(inner) | ExprKind::Negate(inner) | ExprKind::Plus(inner) => pin(inner, time),
        ExprKind::Binary(binary) => {
            pin(&mut binary.left, time);
            pin(&mut binary.right, time);
        }
        ExprKind::Aggregate(aggregate) => {
            aggregate.param.iter_mut().for_each(|p| pin(p, time));
            pin(&mut aggregate.expr, time);
        }
        ExprKind::Call(call) => call.args.iter_mut().for_each(|a| pin(a, time)),
        ExprKind::Number(_) | ExprKind::Seconds(_) | ExprKind::String(_) => {}
    }
}

fn show(answer: &Answer) -> String {
    let series: Vec<String> = answer
        .matrix
        .all_series()
        .take(12)
        .map(|row| {
            let points = row.points().take(20).map(|(t, point)| match point {
                Point::Float(v) => format!("{v}@{}s", t as f64 / 1000.0),
                Point::Histogram(h) => format!("{h:?}@{}s", t as f64 / 1000.0),
            });
            format!("{} {}", row.labels, points.collect::<Vec<_>>().join(" "))
        })
        .collect();
    format!("{} [{}] {:?}", answer.kind.as_str(), series.join("; "), answer.annotations)
}
