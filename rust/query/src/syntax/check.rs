//! The types of arguments and operands, and what else Prometheus refuses though its grammar allows it.
//! Messages are Prometheus' own.

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Error, Grouping, Result, Span};

use crate::syntax::literal::quote;
use crate::syntax::predicate::predicate;
use crate::syntax::tree::{
    Aggregate, AggregateOp, Binary, BinaryOp, Call, Cardinality, Expr, ExprKind, Filter, Matching, Selector,
    ValueType,
};

/// Checks a tree as it was parsed from `text`; its recursion is bounded by `TREE_HEIGHT_MAX`. A matching
/// that says nothing (`1 + on() x`) is taken away.
pub(super) fn check(text: &str, expr: &mut Expr) -> Result<ValueType> {
    Check { text }.expr(expr)
}

struct Check<'t> {
    text: &'t str,
}

impl Check<'_> {
    fn error(&self, span: Span, message: impl Into<String>) -> Error {
        Error::parse(self.text, span, message)
    }

    fn expr(&self, expr: &mut Expr) -> Result<ValueType> {
        let span = expr.span;
        match &mut expr.kind {
            ExprKind::Number(_) => Ok(ValueType::Scalar),
            ExprKind::String(_) => Ok(ValueType::String),
            ExprKind::Selector(selector) => {
                self.selector(selector, span)?;
                Ok(ValueType::Vector)
            }
            ExprKind::Range { selector, .. } => {
                self.selector(selector, span)?;
                Ok(ValueType::Matrix)
            }
            ExprKind::Subquery { expr, .. } => match self.expr(expr)? {
                ValueType::Vector => Ok(ValueType::Matrix),
                found => Err(self.error(
                    span,
                    format!("subquery is only allowed on instant vector, got {} instead", found.as_str()),
                )),
            },
            ExprKind::Paren(inner) => self.expr(inner),
            ExprKind::Negate(inner) | ExprKind::Plus(inner) => match self.expr(inner)? {
                found @ (ValueType::Scalar | ValueType::Vector) => Ok(found),
                found => Err(self.error(
                    span,
                    format!(
                        "unary expression only allowed on expressions of type scalar or instant vector, got {}",
                        quote(found.as_str())
                    ),
                )),
            },
            ExprKind::Binary(binary) => self.binary(binary, span),
            ExprKind::Aggregate(aggregate) => self.aggregate(aggregate),
            ExprKind::Call(call) => self.call(call, span),
        }
    }

    fn expect(&self, expr: &mut Expr, wanted: ValueType, context: &str) -> Result<()> {
        let found = self.expr(expr)?;
        if found == wanted {
            return Ok(());
        }
        let message = format!("expected type {} in {context}, got {}", wanted.as_str(), found.as_str());
        let error = self.error(expr.span, message);
        Err(match (wanted, found) {
            (ValueType::Matrix, ValueType::Vector) => error.with_remedy("give it a range, as in x[5m]"),
            (ValueType::Vector, ValueType::Matrix) => {
                error.with_remedy("leave the range out, or apply a function")
            }
            (ValueType::Vector, ValueType::Scalar) => {
                error.with_remedy("vector(…) makes a vector of a scalar")
            }
            (ValueType::Scalar, ValueType::Vector) => {
                error.with_remedy("scalar(…) makes a scalar of a vector")
            }
            _ => error,
        })
    }

    fn aggregate(&self, aggregate: &mut Aggregate) -> Result<ValueType> {
        self.expect(&mut aggregate.expr, ValueType::Vector, "aggregation expression")?;
        if let Some(param) = &mut aggregate.param {
            let wanted = match aggregate.op {
                AggregateOp::CountValues => ValueType::String,
                _ => ValueType::Scalar,
            };
            self.expect(param, wanted, "aggregation parameter")?;
        }
        Ok(ValueType::Vector)
    }

    fn call(&self, call: &mut Call, span: Span) -> Result<ValueType> {
        let (function, found) = (call.function, call.args.len());
        let (min, max) = (function.args_min(), function.args_max());
        let name = quote(function.name);
        if max == Some(min) && found != min {
            let message = format!("expected {min} argument(s) in call to {name}, got {found}");
            return Err(self.error(span, message));
        }
        if found < min {
            let message = format!("expected at least {min} argument(s) in call to {name}, got {found}");
            return Err(self.error(span, message));
        }
        if let Some(max) = max.filter(|max| found > *max) {
            let message = format!("expected at most {max} argument(s) in call to {name}, got {found}");
            return Err(self.error(span, message));
        }
        let bare_labels = function.name == "info";
        for (i, arg) in call.args.iter_mut().enumerate() {
            match &arg.kind {
                ExprKind::Selector(selector) if bare_labels && i == 1 => {
                    self.info_selector(selector, arg.span)?;
                }
                _ => {
                    let wanted = function.arg_type(i).unwrap_or(ValueType::Vector);
                    self.expect(arg, wanted, &format!("call to function {name}"))?;
                    if bare_labels && i == 1 {
                        return Err(self.error(arg.span, "expected label selectors only"));
                    }
                }
            }
        }
        Ok(function.returns)
    }

    /// The second argument of `info` says which labels to take: it may match everything.
    fn info_selector(&self, selector: &Selector, span: Span) -> Result<()> {
        if selector.name.is_some() {
            return Err(self.error(span, "expected label selectors only, got vector selector instead"));
        }
        predicate(selector).map(|_| ()).map_err(|error| self.input(span, error))
    }

    fn selector(&self, selector: &Selector, span: Span) -> Result<()> {
        let predicate = predicate(selector).map_err(|error| self.input(span, error))?;
        if let Some(name) = &selector.name {
            if let Some(second) = second_name(&selector.filter) {
                let message =
                    format!("metric name must not be set twice: {} or {}", quote(name), quote(second));
                return Err(self.error(span, message));
            }
        } else if predicate.matches_empty() {
            let message = "vector selector must contain at least one non-empty matcher";
            return Err(self
                .error(span, message)
                .with_remedy("name a metric, or a label that must be there, as in {job=~\".+\"}"));
        }
        Ok(())
    }

    /// A regex that does not compile, as an error at its selector.
    fn input(&self, span: Span, error: Error) -> Error {
        match error {
            Error::Input { message, remedy, .. } => {
                self.error(span, format!("error parsing regexp: {message}")).with_remedy(remedy)
            }
            other => other,
        }
    }

    fn binary(&self, binary: &mut Binary, span: Span) -> Result<ValueType> {
        let left = self.expr(&mut binary.left)?;
        let right = self.expr(&mut binary.right)?;
        let op_span = self.op_span(binary);
        let scalars = left == ValueType::Scalar && right == ValueType::Scalar;
        if binary.return_bool && !binary.op.is_comparison() {
            let message = "bool modifier can only be used on comparison operators";
            return Err(self.error(op_span, message));
        }
        if scalars && binary.op.is_comparison() && !binary.return_bool {
            return Err(self
                .error(op_span, "comparisons between scalars must use BOOL modifier")
                .with_remedy(format!("write {} bool", binary.op.as_str())));
        }
        if let Some(Grouping::By(on)) = &binary.matching.on
            && let Some(label) = on.iter().find(|label| binary.matching.include.contains(label))
        {
            let message = format!("label {} must not occur in ON and GROUP clause at once", quote(label));
            return Err(self.error(op_span, message));
        }
        for (side, operand) in [(left, &binary.left), (right, &binary.right)] {
            if !matches!(side, ValueType::Scalar | ValueType::Vector) {
                let message = "binary expression must contain only scalar and instant vector types";
                return Err(self.error(operand.span, message));
            }
        }
        if left == ValueType::Vector && right == ValueType::Vector {
            self.vector_matching(&mut binary.matching, binary.op, span)?;
            return Ok(ValueType::Vector);
        }
        if binary.op.is_set() {
            let message =
                format!("set operator {} not allowed in binary scalar expression", quote(binary.op.as_str()));
            return Err(self.error(span, message));
        }
        let labels = match &binary.matching.on {
            Some(Grouping::By(labels) | Grouping::Without(labels)) => labels.len(),
            None => 0,
        };
        if labels > 0 {
            return Err(self.error(span, "vector matching only allowed between instant vectors"));
        }
        if binary.matching.fill_left.is_some() || binary.matching.fill_right.is_some() {
            let message = "filling in missing series only allowed between instant vectors";
            return Err(self.error(span, message));
        }
        binary.matching = Matching::default();
        Ok(if scalars { ValueType::Scalar } else { ValueType::Vector })
    }

    fn vector_matching(&self, matching: &mut Matching, op: BinaryOp, span: Span) -> Result<()> {
        let grouped = matches!(matching.card, Cardinality::ManyToOne | Cardinality::OneToMany);
        if op.is_set() && grouped {
            let message = format!("no grouping allowed for {} operation", quote(op.as_str()));
            return Err(self.error(span, message));
        }
        if op.is_set() && (matching.fill_left.is_some() || matching.fill_right.is_some()) {
            return Err(self.error(span, "filling in missing series not allowed for set operators"));
        }
        if !grouped && matching.on == Some(Grouping::Without(Vec::new())) {
            matching.on = None;
        }
        Ok(())
    }

    /// Where the operator stands: the first thing after the left operand.
    fn op_span(&self, binary: &Binary) -> Span {
        let (start, end) = (binary.left.span.end as usize, binary.right.span.start as usize);
        let between = self.text.get(start..end).unwrap_or("");
        let blank = between.len() - between.trim_start().len();
        Span::new(start + blank, end.max(start + blank))
    }
}

/// The value of a matcher on the metric name between the braces.
fn second_name(filter: &Filter) -> Option<&str> {
    match filter {
        Filter::All(parts) | Filter::Any(parts) => parts.iter().find_map(second_name),
        Filter::Not(part) => second_name(part),
        Filter::Match { label, value, .. } if label == METRIC_NAME => Some(value),
        Filter::In { label, .. } | Filter::Num { label, .. } | Filter::Has(label) if label == METRIC_NAME => {
            Some(label)
        }
        _ => None,
    }
}
