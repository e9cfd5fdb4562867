//! The tree as Prometheus' `/api/v1/parse_query` answers it.

use std::fmt::Write;

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Grouping, MatchOp};

use crate::syntax::tree::{
    At, Binary, Cardinality, Duration, DurationExpr, DurationOp, Expr, ExprKind, Extension, Filter, Selector,
    ValueType,
};

/// The tree as JSON, keys in alphabetical order. Beyond Prometheus' fields: `filter`, where a selector is
/// more than a list of matchers, `keepMetricNames` where that is written, and `rangeExpr`, `stepExpr`, `offsetExpr` for durations whose value is
/// known only with the query's times (the number beside them is then 0).
pub fn to_json(expr: &Expr) -> String {
    let mut out = String::new();
    write_expr(&mut out, expr);
    out
}

/// A JSON object under construction.
struct Object<'o> {
    out: &'o mut String,
    empty: bool,
}

impl<'o> Object<'o> {
    fn new(out: &'o mut String) -> Object<'o> {
        out.push('{');
        Object { out, empty: true }
    }

    fn key(&mut self, key: &str) -> &mut String {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        write_string(self.out, key);
        self.out.push(':');
        self.out
    }

    fn string(&mut self, key: &str, value: &str) {
        write_string(self.key(key), value);
    }

    fn bool(&mut self, key: &str, value: bool) {
        self.key(key).push_str(if value { "true" } else { "false" });
    }

    fn null(&mut self, key: &str) {
        self.key(key).push_str("null");
    }

    fn integer(&mut self, key: &str, value: i64) {
        let _ = write!(self.key(key), "{value}");
    }

    fn expr(&mut self, key: &str, value: &Expr) {
        write_expr(self.key(key), value);
    }

    fn strings(&mut self, key: &str, values: &[String]) {
        write_list(self.key(key), values, |out, value| write_string(out, value));
    }

    fn end(self) {
        self.out.push('}');
    }
}

fn write_list<T>(out: &mut String, items: &[T], write: impl Fn(&mut String, &T)) {
    out.push('[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Line separators are legal JSON, but not legal in scripts that embed it.
            c if (c as u32) < 0x20 || matches!(c, '\u{2028}' | '\u{2029}') => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Go's `FormatFloat(v, 'f', -1, 64)`: no exponent.
fn plain_number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
    } else {
        format!("{value}")
    }
}

fn write_expr(out: &mut String, expr: &Expr) {
    let mut node = Object::new(out);
    match &expr.kind {
        ExprKind::Number(value) | ExprKind::Seconds(value) => {
            node.string("type", "numberLiteral");
            node.string("val", &plain_number(*value));
        }
        ExprKind::String(value) => {
            node.string("type", "stringLiteral");
            node.string("val", value);
        }
        ExprKind::Selector(selector) => write_selector(&mut node, selector, None, "vectorSelector"),
        ExprKind::Range { selector, range } => {
            write_selector(&mut node, selector, Some(range), "matrixSelector");
        }
        ExprKind::Subquery { expr, range, step, offset, at } => {
            node.expr("expr", expr);
            write_duration(&mut node, "offset", offset.as_ref());
            write_duration(&mut node, "range", Some(range));
            write_start_or_end(&mut node, at.as_ref());
            write_duration(&mut node, "step", step.as_ref());
            write_timestamp(&mut node, at.as_ref());
            node.string("type", "subquery");
        }
        ExprKind::Paren(inner) => {
            node.expr("expr", inner);
            node.string("type", "parenExpr");
        }
        ExprKind::Negate(inner) | ExprKind::Plus(inner) => {
            node.expr("expr", inner);
            node.string("op", if matches!(expr.kind, ExprKind::Negate(_)) { "-" } else { "+" });
            node.string("type", "unaryExpr");
        }
        ExprKind::Binary(binary) => write_binary(&mut node, binary),
        ExprKind::Aggregate(aggregate) => {
            let (labels, without) = match &aggregate.grouping {
                Grouping::By(labels) => (labels, false),
                Grouping::Without(labels) => (labels, true),
            };
            node.expr("expr", &aggregate.expr);
            node.strings("grouping", labels);
            node.string("op", aggregate.op.as_str());
            match &aggregate.param {
                Some(param) => node.expr("param", param),
                None => node.null("param"),
            }
            node.string("type", "aggregation");
            node.bool("without", without);
        }
        ExprKind::Call(call) => {
            let function = call.function;
            write_list(node.key("args"), &call.args, write_expr);
            let mut func = Object::new(node.key("func"));
            write_list(func.key("argTypes"), function.args, |out, t| write_string(out, type_name(*t)));
            func.string("name", function.name);
            func.string("returnType", type_name(function.returns));
            func.integer("variadic", if function.repeats { -1 } else { i64::from(function.optional) });
            func.end();
            if call.keep_name {
                node.bool("keepMetricNames", true);
            }
            node.string("type", "call");
        }
    }
    node.end();
}

fn type_name(value: ValueType) -> &'static str {
    match value {
        ValueType::Scalar => "scalar",
        ValueType::Vector => "vector",
        ValueType::Matrix => "matrix",
        ValueType::String => "string",
    }
}

fn write_binary(node: &mut Object<'_>, binary: &Binary) {
    let vectors =
        binary.left.value_type() == ValueType::Vector && binary.right.value_type() == ValueType::Vector;
    node.bool("bool", binary.return_bool);
    if binary.keep_name {
        node.bool("keepMetricNames", true);
    }
    node.expr("lhs", &binary.left);
    if vectors || binary.op.is_gap() {
        let (labels, on): (&[String], bool) = match &binary.matching.on {
            Some(Grouping::By(labels)) => (labels, true),
            Some(Grouping::Without(labels)) => (labels, false),
            None => (&[], false),
        };
        let mut matching = Object::new(node.key("matching"));
        matching.string(
            "card",
            match binary.matching.card {
                Cardinality::OneToOne => "one-to-one",
                Cardinality::ManyToOne => "many-to-one",
                Cardinality::OneToMany => "one-to-many",
                Cardinality::ManyToMany => "many-to-many",
            },
        );
        let mut fill = Object::new(matching.key("fillValues"));
        for (key, value) in [("lhs", binary.matching.fill_left), ("rhs", binary.matching.fill_right)] {
            match value {
                Some(value) if value.is_finite() => fill.key(key).push_str(&plain_number(value)),
                Some(value) => fill.string(key, &plain_number(value)),
                None => fill.null(key),
            }
        }
        fill.end();
        matching.strings("include", &binary.matching.include);
        matching.strings("labels", labels);
        matching.bool("on", on);
        matching.end();
    } else {
        node.null("matching");
    }
    node.string("op", binary.op.as_str());
    node.expr("rhs", &binary.right);
    node.string("type", "binaryExpr");
}

fn write_selector(node: &mut Object<'_>, selector: &Selector, range: Option<&Duration>, kind: &str) {
    node.bool("anchored", selector.extension == Some(Extension::Anchored));
    let plain = match &selector.filter {
        Filter::All(parts) if parts.iter().all(|part| matches!(part, Filter::Match(_))) => parts.as_slice(),
        _ => &[],
    };
    if plain.is_empty() && selector.filter != Filter::All(Vec::new()) {
        node.string("filter", &selector.filter.to_string());
    }
    let name = selector.name.iter().map(|name| (METRIC_NAME, MatchOp::Equal, name.as_str()));
    let matchers: Vec<(&str, MatchOp, &str)> = plain
        .iter()
        .filter_map(|part| match part {
            Filter::Match(m) => Some((m.name.as_str(), m.op, m.value.as_str())),
            _ => None,
        })
        .chain(name)
        .collect();
    write_list(node.key("matchers"), &matchers, |out, (label, op, value)| {
        let mut matcher = Object::new(out);
        matcher.string("name", label);
        matcher.string("type", op.as_str());
        matcher.string("value", value);
        matcher.end();
    });
    node.string("name", selector.name.as_deref().unwrap_or(""));
    write_duration(node, "offset", selector.offset.as_ref());
    if let Some(range) = range {
        write_duration(node, "range", Some(range));
    }
    node.bool("smoothed", selector.extension == Some(Extension::Smoothed));
    write_start_or_end(node, selector.at.as_ref());
    write_timestamp(node, selector.at.as_ref());
    node.string("type", kind);
}

/// Milliseconds; beside them the tree of what is no plain duration.
fn write_duration(node: &mut Object<'_>, key: &str, duration: Option<&Duration>) {
    match duration {
        None => node.integer(key, 0),
        Some(Duration::Ms(ms)) => node.integer(key, *ms),
        Some(Duration::Expr(expr)) => {
            node.integer(key, 0);
            write_duration_expr(node.key(&format!("{key}Expr")), expr);
        }
    }
}

fn write_duration_expr(out: &mut String, expr: &DurationExpr) {
    let (op, left, right): (&str, Option<&DurationExpr>, Option<&DurationExpr>) = match expr {
        DurationExpr::Paren(inner) => return write_duration_expr(out, inner),
        DurationExpr::Seconds(value) | DurationExpr::Number(value) => {
            let mut node = Object::new(out);
            node.string("type", "numberLiteral");
            node.string("val", &plain_number(*value));
            return node.end();
        }
        DurationExpr::Step => ("step", None, None),
        DurationExpr::Range => ("range", None, None),
        DurationExpr::Window => ("$w", None, None),
        DurationExpr::Negate(inner) => ("-", None, Some(inner)),
        DurationExpr::Plus(inner) => ("+", None, Some(inner)),
        DurationExpr::Min(a, b) => ("min_of", Some(a), Some(b)),
        DurationExpr::Max(a, b) => ("max_of", Some(a), Some(b)),
        DurationExpr::Binary { op, left, right } => {
            let op = match op {
                DurationOp::Add => "+",
                DurationOp::Sub => "-",
                DurationOp::Mul => "*",
                DurationOp::Div => "/",
                DurationOp::Mod => "%",
                DurationOp::Pow => "^",
            };
            (op, Some(left), Some(right))
        }
    };
    let mut node = Object::new(out);
    for (key, operand) in [("lhs", left), ("rhs", right)] {
        match operand {
            Some(operand) => write_duration_expr(node.key(key), operand),
            None => node.null(key),
        }
    }
    node.string("op", op);
    node.string("type", "durationExpr");
    node.end();
}

fn write_start_or_end(node: &mut Object<'_>, at: Option<&At>) {
    match at {
        Some(At::Start) => node.string("startOrEnd", "start"),
        Some(At::End) => node.string("startOrEnd", "end"),
        _ => node.null("startOrEnd"),
    }
}

fn write_timestamp(node: &mut Object<'_>, at: Option<&At>) {
    match at {
        Some(At::Time(ms)) => node.integer("timestamp", *ms),
        _ => node.null("timestamp"),
    }
}
