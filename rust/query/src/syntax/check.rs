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

    // As in the parser, what calls itself is cut small, and errors are made elsewhere.
    fn expr(&self, expr: &mut Expr) -> Result<ValueType> {
        let span = expr.span;
        match &mut expr.kind {
            ExprKind::Number(_) | ExprKind::Seconds(_) => Ok(ValueType::Scalar),
            ExprKind::String(_) => Ok(ValueType::String),
            ExprKind::Selector(selector) => self.selector(selector, span).map(|()| ValueType::Vector),
            ExprKind::Range { selector, .. } => self.selector(selector, span).map(|()| ValueType::Matrix),
            ExprKind::Subquery { expr, .. } => self.expr(expr).and_then(|found| self.subquery(found, span)),
            ExprKind::Paren(inner) => self.expr(inner),
            ExprKind::Negate(inner) | ExprKind::Plus(inner) => {
                self.expr(inner).and_then(|found| self.signed(found, span))
            }
            ExprKind::Binary(binary) => self.binary(binary, span),
            ExprKind::Aggregate(aggregate) => self.aggregate(aggregate),
            ExprKind::Call(call) => self.call(call, span),
        }
    }

    fn subquery(&self, found: ValueType, span: Span) -> Result<ValueType> {
        if found == ValueType::Vector {
            return Ok(ValueType::Matrix);
        }
        let message = format!("subquery is only allowed on instant vector, got {} instead", found.as_str());
        Err(self.error(span, message))
    }

    fn signed(&self, found: ValueType, span: Span) -> Result<ValueType> {
        if matches!(found, ValueType::Scalar | ValueType::Vector) {
            return Ok(found);
        }
        let message = format!(
            "unary expression only allowed on expressions of type scalar or instant vector, got {}",
            quote(found.as_str())
        );
        Err(self.error(span, message))
    }

    fn expect(&self, expr: &mut Expr, wanted: ValueType, context: &str) -> Result<()> {
        let found = self.expr(expr)?;
        if found == wanted { Ok(()) } else { Err(self.mistyped(expr.span, wanted, found, context)) }
    }

    fn mistyped(&self, span: Span, wanted: ValueType, found: ValueType, context: &str) -> Error {
        let message = format!("expected type {} in {context}, got {}", wanted.as_str(), found.as_str());
        let error = self.error(span, message);
        match (wanted, found) {
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
        }
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
        self.argument_count(call, span)?;
        for i in 0..call.args.len() {
            self.argument(call, i)?;
        }
        Ok(call.function.returns)
    }

    fn argument(&self, call: &mut Call, i: usize) -> Result<()> {
        let function = call.function;
        let Some(arg) = call.args.get_mut(i) else { return Ok(()) };
        if function.name == "info" && i == 1 {
            return self.info_selector(arg);
        }
        let found = self.expr(arg)?;
        match function.arg_type(i) {
            Some(wanted) if wanted != found => {
                let context = format!("call to function {}", quote(function.name));
                Err(self.mistyped(arg.span, wanted, found, &context))
            }
            _ => Ok(()),
        }
    }

    fn argument_count(&self, call: &Call, span: Span) -> Result<()> {
        let (min, max, found) = (call.function.args_min(), call.function.args_max(), call.args.len());
        let (bound, wanted) = match max {
            Some(max) if max == min && found != min => ("", min),
            _ if found < min => ("at least ", min),
            Some(max) if found > max => ("at most ", max),
            _ => return Ok(()),
        };
        let name = quote(call.function.name);
        let message = format!("expected {bound}{wanted} argument(s) in call to {name}, got {found}");
        Err(self.error(span, message))
    }

    /// The second argument of `info` says which labels to take: it may match everything.
    fn info_selector(&self, arg: &Expr) -> Result<()> {
        match &arg.kind {
            ExprKind::Selector(selector) if selector.name.is_none() => Ok(()),
            ExprKind::Selector(_) => {
                let message = "expected label selectors only, got vector selector instead";
                Err(self.error(arg.span, message))
            }
            _ => Err(self.error(arg.span, "expected label selectors only")),
        }
    }

    fn selector(&self, selector: &Selector, span: Span) -> Result<()> {
        if let Some(name) = &selector.name {
            if let Some(second) = second_name(&selector.filter) {
                let message =
                    format!("metric name must not be set twice: {} or {}", quote(name), quote(second));
                return Err(self.error(span, message));
            }
        } else if predicate(selector).matches_empty() {
            let message = "vector selector must contain at least one non-empty matcher";
            return Err(self
                .error(span, message)
                .with_remedy("name a metric, or a label that must be there, as in {job=~\".+\"}"));
        }
        Ok(())
    }

    fn binary(&self, binary: &mut Binary, span: Span) -> Result<ValueType> {
        let left = self.expr(&mut binary.left)?;
        let right = self.expr(&mut binary.right)?;
        self.operator(binary, left, right)?;
        if binary.op.is_gap() {
            self.vector_matching(&mut binary.matching, binary.op, span)?;
            let scalars = left == ValueType::Scalar && right == ValueType::Scalar;
            return Ok(if scalars { ValueType::Scalar } else { ValueType::Vector });
        }
        if left == ValueType::Vector && right == ValueType::Vector {
            self.vector_matching(&mut binary.matching, binary.op, span)?;
            return Ok(ValueType::Vector);
        }
        self.no_matching(binary, span)?;
        binary.matching = Matching::default();
        Ok(if left == right { ValueType::Scalar } else { ValueType::Vector })
    }

    fn operator(&self, binary: &Binary, left: ValueType, right: ValueType) -> Result<()> {
        let comparison = binary.op.is_comparison();
        if binary.return_bool && !comparison {
            let message = "bool modifier can only be used on comparison operators";
            return Err(self.error(self.op_span(binary), message));
        }
        let scalars = left == ValueType::Scalar && right == ValueType::Scalar;
        if scalars && comparison && !binary.return_bool {
            let message = "comparisons between scalars must use BOOL modifier";
            let remedy = format!("write {} bool", binary.op.as_str());
            return Err(self.error(self.op_span(binary), message).with_remedy(remedy));
        }
        if let Some(Grouping::By(on)) = &binary.matching.on
            && let Some(label) = on.iter().find(|label| binary.matching.include.contains(label))
        {
            let message = format!("label {} must not occur in ON and GROUP clause at once", quote(label));
            return Err(self.error(self.op_span(binary), message));
        }
        for (side, operand) in [(left, &binary.left), (right, &binary.right)] {
            if !matches!(side, ValueType::Scalar | ValueType::Vector) {
                let message = "binary expression must contain only scalar and instant vector types";
                return Err(self.error(operand.span, message));
            }
        }
        Ok(())
    }

    /// With a scalar on one side there is nothing to match.
    fn no_matching(&self, binary: &Binary, span: Span) -> Result<()> {
        if binary.op.is_set() {
            let op = quote(binary.op.as_str());
            let message = format!("set operator {op} not allowed in binary scalar expression");
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
        Ok(())
    }

    fn vector_matching(&self, matching: &mut Matching, op: BinaryOp, span: Span) -> Result<()> {
        let grouped = matches!(matching.card, Cardinality::ManyToOne | Cardinality::OneToMany);
        let many = op.is_set() || op.is_gap();
        if many && grouped {
            let message = format!("no grouping allowed for {} operation", quote(op.as_str()));
            return Err(self.error(span, message));
        }
        if many && (matching.fill_left.is_some() || matching.fill_right.is_some()) {
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
        Filter::Match(matcher) if matcher.name == METRIC_NAME => Some(&matcher.value),
        Filter::In { label, .. } | Filter::Num { label, .. } | Filter::Has(label) if label == METRIC_NAME => {
            Some(label)
        }
        _ => None,
    }
}
