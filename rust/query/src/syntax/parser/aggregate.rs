//! Aggregations, and the lists of labels in parentheses.

use metricsdb_model::{Error, Grouping, MatchOp, Matcher, Result, Span};

use super::Parser;
use crate::syntax::lexer::{Keyword, TokenKind};
use crate::syntax::literal::{self, StringError};
use crate::syntax::tree::{Aggregate, AggregateOp, Expr, ExprKind, Filter, Selector};

impl Parser<'_> {
    /// At the name of an aggregation: whether it is one, or a metric that is called so.
    pub(super) fn aggregates(&self) -> bool {
        matches!(
            self.ahead(1).kind,
            TokenKind::LeftParen | TokenKind::Keyword(Keyword::By | Keyword::Without)
        )
    }

    pub(super) fn aggregate(&mut self, op: AggregateOp) -> Result<Expr> {
        let (start, grouping) = self.aggregate_head(op)?;
        let (args, _) = self.arguments()?;
        self.aggregate_tail(op, start, grouping, args)
    }

    /// The name, and the grouping where it comes first.
    fn aggregate_head(&mut self, op: AggregateOp) -> Result<(Span, Option<Grouping>)> {
        let name = self.advance();
        let grouping = self.grouping()?;
        if self.kind() != TokenKind::LeftParen {
            return Err(self.unexpected("aggregation", ""));
        }
        if op == AggregateOp::CountValues {
            self.label_is_utf8()?;
        }
        Ok((name.span, grouping))
    }

    /// The grouping where it comes last, and the count of the arguments.
    fn aggregate_tail(
        &mut self,
        op: AggregateOp,
        start: Span,
        mut grouping: Option<Grouping>,
        mut args: Vec<Expr>,
    ) -> Result<Expr> {
        if grouping.is_none() {
            grouping = self.grouping()?;
        }
        let grouping = grouping.unwrap_or(Grouping::By(Vec::new()));
        let span = start.to(self.last_span());
        let wanted = if op.has_param() { 2 } else { 1 };
        let found = args.len();
        match (args.pop(), found == wanted) {
            (Some(expr), true) => {
                let aggregate = Aggregate { op, expr, param: args.pop(), grouping };
                Ok(Expr { kind: ExprKind::Aggregate(Box::new(aggregate)), span })
            }
            (None, _) => Err(self.error(span, "no arguments for aggregate expression provided")),
            (Some(_), false) => Err(self.error(
                span,
                format!(
                    "wrong number of arguments for aggregate expression provided, expected {wanted}, got {found}"
                ),
            )),
        }
    }

    /// `firing("Name")`: 1 for each instance of an alert that fires, at whatever level. It is what it prints as: the
    /// series that the alert writes, without the labels that only these have.
    pub(super) fn firing(&mut self, name_span: Span) -> Result<Expr> {
        let (args, close) = self.arguments()?;
        let span = name_span.to(close);
        let [Expr { kind: ExprKind::String(alert), .. }] = &args[..] else {
            return Err(self.error(span, "firing takes the name of an alert, in quotes"));
        };
        let matchers = [("alertname", alert.as_str()), ("alertstate", "firing")];
        let mut filters = Vec::with_capacity(matchers.len());
        for (label, value) in matchers {
            let matcher =
                Matcher::new(label, MatchOp::Equal, value).map_err(|_| self.error(span, "firing"))?;
            filters.push(Filter::Match(matcher));
        }
        let selector = Selector {
            name: Some("ALERTS".to_owned()),
            filter: Filter::All(filters),
            offset: None,
            at: None,
            extension: None,
        };
        let own = ["alertname", "alertstate", "severity"].map(str::to_owned);
        let aggregate = Aggregate {
            op: AggregateOp::Group,
            expr: Expr { kind: ExprKind::Selector(selector), span },
            param: None,
            grouping: Grouping::Without(own.to_vec()),
        };
        Ok(Expr { kind: ExprKind::Aggregate(Box::new(aggregate)), span })
    }

    /// Prometheus finds a label name of broken bytes when it evaluates, and says so without a place; here
    /// it cannot even be held.
    fn label_is_utf8(&self) -> Result<()> {
        let token = self.ahead(1);
        let word = self.slice(token.span);
        if token.kind == TokenKind::String && literal::unquote(word) == Err(StringError::NotUtf8) {
            return Err(Error::execution(format!("invalid label name {word}")));
        }
        Ok(())
    }

    /// `by (…)` or `without (…)`, if one stands here.
    fn grouping(&mut self) -> Result<Option<Grouping>> {
        match self.kind() {
            TokenKind::Keyword(Keyword::By) => {
                self.advance();
                Ok(Some(Grouping::By(self.grouping_labels()?)))
            }
            TokenKind::Keyword(Keyword::Without) => {
                self.advance();
                Ok(Some(Grouping::Without(self.grouping_labels()?)))
            }
            _ => Ok(None),
        }
    }

    /// `( label, … )`, a comma at the end allowed; every keyword may be a label, and a string is one.
    pub(super) fn grouping_labels(&mut self) -> Result<Vec<String>> {
        self.expect(TokenKind::LeftParen, "grouping opts", "\"(\"")?;
        let mut labels = Vec::new();
        while self.kind() != TokenKind::RightParen {
            labels.push(self.grouping_label()?);
            if !self.eat(TokenKind::Comma) {
                break;
            }
        }
        self.expect(TokenKind::RightParen, "grouping opts", "\",\" or \")\"")?;
        Ok(labels)
    }

    fn grouping_label(&mut self) -> Result<String> {
        let token = self.token();
        let word = self.slice(token.span);
        // `inf` and `nan` are numbers elsewhere.
        let numeric = word.starts_with(|c: char| c == '.' || c.is_ascii_digit());
        match token.kind {
            TokenKind::String => {
                let label = self.string()?;
                if label.is_empty() {
                    return Err(self.error(token.span, "invalid label name for grouping: \"\""));
                }
                Ok(label)
            }
            TokenKind::Word | TokenKind::MetricName | TokenKind::Keyword(_) => {
                self.advance();
                Ok(word.to_owned())
            }
            TokenKind::Number if !numeric => {
                self.advance();
                Ok(word.to_owned())
            }
            _ => Err(self.unexpected("grouping opts", "label")),
        }
    }
}
