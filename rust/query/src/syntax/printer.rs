//! The tree as text, in the form of Prometheus: on one line (`Display`), or broken at 100 characters
//! (`pretty`). Text that was printed parses to the same tree, spans aside.

use std::fmt::{self, Display, Formatter, Write};

use metricsdb_model::{Grouping, NumOp};

use crate::syntax::literal::{format_duration, format_number, quote};
use crate::syntax::tree::{
    Aggregate, At, Binary, BinaryOp, Cardinality, Duration, DurationExpr, DurationOp, Expr, ExprKind,
    Extension, Filter, Matching, Selector,
};

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Number(value) => f.write_str(&format_number(*value)),
            ExprKind::Seconds(value) => write_seconds(f, *value),
            ExprKind::String(text) => f.write_str(&quote(text)),
            ExprKind::Selector(selector) => {
                write_name(f, selector)?;
                write_times(f, selector)
            }
            ExprKind::Range { selector, range } => {
                write_name(f, selector)?;
                write!(f, "[{range}]")?;
                write_times(f, selector)
            }
            ExprKind::Subquery { expr, .. } => {
                write!(f, "{expr}")?;
                write_subquery(f, &self.kind)
            }
            ExprKind::Paren(inner) => write!(f, "({inner}){}", kept_suffix(inner)),
            ExprKind::Negate(inner) => write!(f, "-{inner}"),
            ExprKind::Plus(inner) => write!(f, "+{inner}"),
            ExprKind::Binary(binary) => {
                match is_infinite_base(binary) {
                    true => f.write_str("Inf ")?,
                    false => write!(f, "{} ", binary.left)?,
                }
                write_operator(f, binary)?;
                write!(f, " {}", binary.right)
            }
            ExprKind::Aggregate(aggregate) => {
                write_aggregation(f, aggregate)?;
                match &aggregate.param {
                    Some(param) => write!(f, "({param}, {})", aggregate.expr),
                    None => write!(f, "({})", aggregate.expr),
                }
            }
            ExprKind::Call(call) => {
                write!(f, "{}(", call.function.name)?;
                for (i, arg) in call.args.iter().enumerate() {
                    f.write_str(if i > 0 { ", " } else { "" })?;
                    write!(f, "{arg}")?;
                }
                f.write_str(")")?;
                f.write_str(kept(call.keep_name))
            }
        }
    }
}

fn kept(keep_name: bool) -> &'static str {
    if keep_name { " keep_metric_names" } else { "" }
}

/// What follows the parentheses around this.
fn kept_suffix(inner: &Expr) -> &'static str {
    kept(matches!(&inner.kind, ExprKind::Binary(binary) if binary.keep_name))
}

/// `Inf ^ x`: written `+Inf ^ x`, the plus would bind the whole power.
fn is_infinite_base(binary: &Binary) -> bool {
    binary.op == BinaryOp::Pow && matches!(binary.left.kind, ExprKind::Number(v) if v == f64::INFINITY)
}

fn write_seconds(f: &mut Formatter<'_>, seconds: f64) -> fmt::Result {
    // -0 is not 0: one divided by it tells.
    f.write_str(if seconds == 0.0 && seconds.is_sign_negative() { "-" } else { "" })?;
    f.write_str(&format_duration((seconds * 1e3).round() as i64))
}

/// `name{…}`; plain matchers are sorted, as Prometheus prints them.
fn write_name(f: &mut Formatter<'_>, selector: &Selector) -> fmt::Result {
    f.write_str(selector.name.as_deref().unwrap_or(""))?;
    match &selector.filter {
        Filter::All(parts) if parts.is_empty() && selector.name.is_some() => Ok(()),
        Filter::All(parts) => {
            let mut texts: Vec<String> = parts.iter().map(|part| Part(part).to_string()).collect();
            if parts.iter().all(|part| matches!(part, Filter::Match(_))) {
                texts.sort_unstable();
            }
            write!(f, "{{{}}}", texts.join(","))
        }
        other => write!(f, "{{{other}}}"),
    }
}

fn write_times(f: &mut Formatter<'_>, selector: &Selector) -> fmt::Result {
    f.write_str(match selector.extension {
        Some(Extension::Anchored) => " anchored",
        Some(Extension::Smoothed) => " smoothed",
        None => "",
    })?;
    write_at_and_offset(f, selector.at.as_ref(), selector.offset.as_ref())
}

fn write_at_and_offset(f: &mut Formatter<'_>, at: Option<&At>, offset: Option<&Duration>) -> fmt::Result {
    match at {
        Some(At::Time(ms)) => {
            let sign = if *ms < 0 { "-" } else { "" };
            let ms = ms.unsigned_abs();
            write!(f, " @ {sign}{}.{:03}", ms / 1000, ms % 1000)?;
        }
        Some(At::Start) => f.write_str(" @ start()")?,
        Some(At::End) => f.write_str(" @ end()")?,
        None => {}
    }
    match offset {
        None | Some(Duration::Ms(0)) => Ok(()),
        Some(Duration::Expr(expr)) if matches!(**expr, DurationExpr::Binary { .. }) => {
            write!(f, " offset ({expr})")
        }
        Some(duration) => write!(f, " offset {duration}"),
    }
}

/// `[range:step]`, `@` and offset.
fn write_subquery(f: &mut Formatter<'_>, kind: &ExprKind) -> fmt::Result {
    let ExprKind::Subquery { range, step, offset, at, .. } = kind else { return Ok(()) };
    write!(f, "[{range}:")?;
    if let Some(step) = step {
        write!(f, "{step}")?;
    }
    f.write_str("]")?;
    write_at_and_offset(f, at.as_ref(), offset.as_ref())
}

/// The operator with all that belongs to it.
fn write_operator(f: &mut Formatter<'_>, binary: &Binary) -> fmt::Result {
    f.write_str(binary.op.as_str())?;
    f.write_str(if binary.return_bool { " bool" } else { "" })?;
    let Matching { on, card, include, fill_left, fill_right } = &binary.matching;
    let grouped = matches!(card, Cardinality::ManyToOne | Cardinality::OneToMany);
    match on {
        Some(Grouping::By(labels)) => write_labels(f, " on", labels)?,
        // `ignoring ()` says nothing, unless a group follows it.
        Some(Grouping::Without(labels)) if grouped || !labels.is_empty() => {
            write_labels(f, " ignoring", labels)?;
        }
        _ => {}
    }
    match card {
        Cardinality::ManyToOne => write_labels(f, " group_left", include)?,
        Cardinality::OneToMany => write_labels(f, " group_right", include)?,
        Cardinality::OneToOne | Cardinality::ManyToMany => {}
    }
    match (fill_left, fill_right) {
        (Some(left), Some(right)) if left.to_bits() == right.to_bits() => {
            write!(f, " fill ({})", format_number(*left))
        }
        _ => {
            if let Some(value) = fill_left {
                write!(f, " fill_left ({})", format_number(*value))?;
            }
            match fill_right {
                Some(value) => write!(f, " fill_right ({})", format_number(*value)),
                None => Ok(()),
            }
        }
    }
}

/// `sum by (job) `, or just `sum`.
fn write_aggregation(f: &mut Formatter<'_>, aggregate: &Aggregate) -> fmt::Result {
    f.write_str(aggregate.op.as_str())?;
    match &aggregate.grouping {
        Grouping::By(labels) if labels.is_empty() => Ok(()),
        Grouping::By(labels) => {
            write_labels(f, " by", labels)?;
            f.write_str(" ")
        }
        Grouping::Without(labels) => {
            write_labels(f, " without", labels)?;
            f.write_str(" ")
        }
    }
}

pub(super) fn write_labels(f: &mut Formatter<'_>, word: &str, labels: &[String]) -> fmt::Result {
    write!(f, "{word} (")?;
    for (i, label) in labels.iter().enumerate() {
        f.write_str(if i > 0 { ", " } else { "" })?;
        write_label(f, label)?;
    }
    f.write_str(")")
}

/// A label, quoted unless it is a plain word.
pub(super) fn write_label(f: &mut Formatter<'_>, label: &str) -> fmt::Result {
    let word = |c: char| c == '_' || c.is_ascii_alphanumeric();
    let plain = label.chars().all(word) && !label.starts_with(|c: char| c.is_ascii_digit());
    if plain && !label.is_empty() { f.write_str(label) } else { f.write_str(&quote(label)) }
}

/// The words of boolean selectors; quoted where they are labels before another word.
const WORDS: [&str; 6] = ["or", "and", "not", "in", "has", "num"];

impl Display for Filter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Filter::All(parts) => write_joined(f, parts, " and "),
            Filter::Any(parts) => write_joined(f, parts, " or "),
            Filter::Not(part) => {
                f.write_str("not ")?;
                match **part {
                    Filter::Not(_) => write!(f, "({part})"),
                    _ => write!(f, "{}", Part(part)),
                }
            }
            Filter::Match(matcher) => {
                write_label(f, &matcher.name)?;
                write!(f, "{}{}", matcher.op.as_str(), quote(&matcher.value))
            }
            Filter::In { label, negated, values } => {
                if WORDS.iter().any(|word| word.eq_ignore_ascii_case(label)) {
                    f.write_str(&quote(label))?;
                } else {
                    write_label(f, label)?;
                }
                f.write_str(if *negated { " not in (" } else { " in (" })?;
                for (i, value) in values.iter().enumerate() {
                    f.write_str(if i > 0 { ", " } else { "" })?;
                    f.write_str(&quote(value))?;
                }
                f.write_str(")")
            }
            Filter::Has(label) => {
                f.write_str("has(")?;
                write_label(f, label)?;
                f.write_str(")")
            }
            Filter::Num { label, op, value } => {
                f.write_str("num(")?;
                write_label(f, label)?;
                let op = match op {
                    NumOp::Greater => ">",
                    NumOp::GreaterEqual => ">=",
                    NumOp::Less => "<",
                    NumOp::LessEqual => "<=",
                    NumOp::Equal => "==",
                };
                write!(f, ") {op} {}", format_number(*value))
            }
        }
    }
}

fn write_joined(f: &mut Formatter<'_>, parts: &[Filter], word: &str) -> fmt::Result {
    for (i, part) in parts.iter().enumerate() {
        f.write_str(if i > 0 { word } else { "" })?;
        write!(f, "{}", Part(part))?;
    }
    Ok(())
}

/// A part of a larger filter: in parentheses where it has parts itself.
struct Part<'e>(&'e Filter);

impl Display for Part<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Filter::All(_) | Filter::Any(_) => write!(f, "({})", self.0),
            _ => write!(f, "{}", self.0),
        }
    }
}

impl Display for Duration {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Duration::Ms(ms) => f.write_str(&format_duration(*ms)),
            Duration::Expr(expr) => write!(f, "{expr}"),
        }
    }
}

impl Display for DurationExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            DurationExpr::Seconds(value) => write_seconds(f, *value),
            DurationExpr::Number(value) => f.write_str(&format_number(*value)),
            DurationExpr::Step => f.write_str("step()"),
            DurationExpr::Range => f.write_str("range()"),
            DurationExpr::Window => f.write_str("$w"),
            DurationExpr::Negate(inner) => write!(f, "-{inner}"),
            DurationExpr::Plus(inner) => write!(f, "+{inner}"),
            DurationExpr::Paren(inner) => write!(f, "({inner})"),
            DurationExpr::Min(a, b) => write!(f, "min_of({a}, {b})"),
            DurationExpr::Max(a, b) => write!(f, "max_of({a}, {b})"),
            DurationExpr::Binary { op, left, right } => {
                let op = match op {
                    DurationOp::Add => "+",
                    DurationOp::Sub => "-",
                    DurationOp::Mul => "*",
                    DurationOp::Div => "/",
                    DurationOp::Mod => "%",
                    DurationOp::Pow => "^",
                };
                write!(f, "{left} {op} {right}")
            }
        }
    }
}

/// Characters of a line, as Prometheus' formatter breaks.
const LINE_MAX: usize = 100;

/// The expression over several lines, as `/api/v1/format_query` answers: what does not fit into a line of
/// 100 characters is broken, two blanks per level. O(length × depth).
pub fn pretty(expr: &Expr) -> String {
    let mut out = String::new();
    write_pretty(&mut out, expr, 0);
    out
}

fn indent(out: &mut String, level: usize) {
    out.extend(std::iter::repeat_n("  ", level));
}

fn write_pretty(out: &mut String, expr: &Expr, level: usize) {
    let line = expr.to_string();
    if line.len() <= LINE_MAX {
        indent(out, level);
        out.push_str(&line);
        return;
    }
    match &expr.kind {
        ExprKind::Binary(binary) => {
            match is_infinite_base(binary) {
                true => {
                    indent(out, level + 1);
                    out.push_str("Inf");
                }
                false => write_pretty(out, &binary.left, level + 1),
            }
            out.push('\n');
            indent(out, level);
            let _ = write!(out, "{}", Operator(binary));
            out.push('\n');
            write_pretty(out, &binary.right, level + 1);
        }
        ExprKind::Aggregate(aggregate) => {
            let args: Vec<&Expr> = aggregate.param.iter().chain([&aggregate.expr]).collect();
            write_block(out, &Aggregation(aggregate).to_string(), &args, level);
        }
        ExprKind::Call(call) => {
            write_block(out, call.function.name, &call.args.iter().collect::<Vec<_>>(), level);
            out.push_str(kept(call.keep_name));
        }
        ExprKind::Paren(inner) => {
            write_block(out, "", &[inner], level);
            out.push_str(kept_suffix(inner));
        }
        ExprKind::Subquery { expr: inner, .. } => {
            write_pretty(out, inner, level);
            let _ = write!(out, "{}", Suffix(&expr.kind));
        }
        ExprKind::Negate(inner) | ExprKind::Plus(inner) => {
            let mut child = String::new();
            write_pretty(&mut child, inner, level);
            indent(out, level);
            out.push(if matches!(expr.kind, ExprKind::Negate(_)) { '-' } else { '+' });
            out.push_str(child.trim_start());
        }
        ExprKind::Number(_)
        | ExprKind::Seconds(_)
        | ExprKind::String(_)
        | ExprKind::Selector(_)
        | ExprKind::Range { .. } => {
            indent(out, level);
            out.push_str(&line);
        }
    }
}

/// `head(` and one argument per line.
fn write_block(out: &mut String, head: &str, args: &[&Expr], level: usize) {
    indent(out, level);
    out.push_str(head);
    out.push_str("(\n");
    for (i, arg) in args.iter().enumerate() {
        out.push_str(if i > 0 { ",\n" } else { "" });
        write_pretty(out, arg, level + 1);
    }
    out.push('\n');
    indent(out, level);
    out.push(')');
}

/// An operator with its modifiers.
pub(crate) struct Operator<'e>(pub &'e Binary);
/// An aggregation without its arguments.
pub(crate) struct Aggregation<'e>(pub &'e Aggregate);
struct Suffix<'e>(&'e ExprKind);

impl Display for Operator<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_operator(f, self.0)
    }
}

impl Display for Aggregation<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_aggregation(f, self.0)
    }
}

impl Display for Suffix<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_subquery(f, self.0)
    }
}
