//! What may follow an operand or an operator: `[…]`, `offset`, `@`, `anchored`, `smoothed`; `bool`,
//! `on`, `ignoring`, `group_left`, `group_right`, `fill`.

use metricsdb_model::{Error, Grouping, Result, Span};

use super::Parser;
use crate::syntax::lexer::{Keyword, TokenKind};
use crate::syntax::tree::{
    At, BinaryOp, Cardinality, Duration, Expr, ExprKind, Extension, Matching, Selector,
};

/// Where `offset` and `@` of an expression are kept.
struct Times<'e> {
    offset: &'e mut Option<Duration>,
    at: &'e mut Option<At>,
}

fn times(expr: &mut Expr) -> Option<Times<'_>> {
    match &mut expr.kind {
        ExprKind::Selector(selector) | ExprKind::Range { selector, .. } => {
            Some(Times { offset: &mut selector.offset, at: &mut selector.at })
        }
        ExprKind::Subquery { offset, at, .. } => Some(Times { offset, at }),
        _ => None,
    }
}

const KEEP_METRIC_NAMES: &str = "keep_metric_names";

/// Marks the call, or the operation in the parentheses; else says what is wrong.
fn keep_name(expr: &mut Expr) -> std::result::Result<(), String> {
    let cannot = |what: &str| format!("{KEEP_METRIC_NAMES} cannot follow {what}");
    let twice = || format!("{KEEP_METRIC_NAMES} stands twice");
    let mut found = &mut expr.kind;
    let mut parenthesized = false;
    while let ExprKind::Paren(inner) = found {
        found = &mut inner.kind;
        parenthesized = true;
    }
    match found {
        ExprKind::Call(call) if !parenthesized && call.keep_name => return Err(twice()),
        ExprKind::Binary(binary) if parenthesized && binary.keep_name => return Err(twice()),
        ExprKind::Call(call) if !parenthesized && call.function.can_keep_name() => call.keep_name = true,
        ExprKind::Call(call) if !parenthesized => return Err(cannot(call.function.name)),
        ExprKind::Binary(binary) if parenthesized => binary.keep_name = true,
        _ => return Err(cannot("this")),
    }
    Ok(())
}

impl Parser<'_> {
    /// A primary expression and all that is attached to it.
    pub(super) fn postfix(&mut self) -> Result<Expr> {
        let expr = self.primary()?;
        self.attached(expr)
    }

    fn attached(&mut self, mut expr: Expr) -> Result<Expr> {
        loop {
            match self.kind() {
                TokenKind::LeftBracket => expr = self.brackets(expr)?,
                TokenKind::Keyword(Keyword::Offset) => self.offset(&mut expr)?,
                TokenKind::At => self.at_modifier(&mut expr)?,
                TokenKind::Keyword(Keyword::Anchored) => self.extend(&mut expr, Extension::Anchored)?,
                TokenKind::Keyword(Keyword::Smoothed) => self.extend(&mut expr, Extension::Smoothed)?,
                TokenKind::Word if self.keeps_name() => self.keep_name(&mut expr)?,
                _ => return Ok(expr),
            }
            expr.span = expr.span.to(self.last_span());
        }
    }

    /// `[range]`, `[range:]` or `[range:step]`.
    fn brackets(&mut self, expr: Expr) -> Result<Expr> {
        self.advance();
        let height = self.height;
        let range = self.positive_duration()?;
        let span = expr.span;
        if self.eat(TokenKind::RightBracket) {
            self.height = 1;
            return Ok(Expr { kind: self.range(expr, range)?, span });
        }
        self.expect(TokenKind::Colon, "subquery or range", "\":\" or \"]\"")?;
        let step = match self.kind() {
            TokenKind::RightBracket => None,
            _ => Some(self.positive_duration()?),
        };
        self.expect(TokenKind::RightBracket, "subquery selector", "\"]\"")?;
        self.height = self.above(height, 0)?;
        let kind = ExprKind::Subquery { expr: Box::new(expr), range, step, offset: None, at: None };
        Ok(Expr { kind, span })
    }

    fn range(&self, expr: Expr, range: Duration) -> Result<ExprKind> {
        // Prometheus looks for plain offsets and times only: `x @ start()[5m]` and `x offset step()[5m]`
        // mean what they mean with the range in front.
        let refused = match expr.kind {
            ExprKind::Selector(Selector { offset: Some(Duration::Ms(_)), .. }) => {
                "no offset modifiers allowed before range"
            }
            ExprKind::Selector(Selector { at: Some(At::Time(_)), .. }) => {
                "no @ modifiers allowed before range"
            }
            ExprKind::Selector(selector) => return Ok(ExprKind::Range { selector, range }),
            _ => {
                return Err(self
                    .error(expr.span, "ranges only allowed for vector selectors")
                    .with_remedy("a subquery has a colon, as in [5m:]"));
            }
        };
        Err(self.error(expr.span, refused))
    }

    fn offset(&mut self, expr: &mut Expr) -> Result<()> {
        let span = self.advance().span;
        let height = self.height;
        let duration = self.offset_duration()?;
        self.height = height;
        let Some(times) = times(expr) else { return Err(self.misplaced("offset", span)) };
        if times.offset.is_some() {
            return Err(self.error(span, "offset may not be set multiple times"));
        }
        // As in Prometheus, an offset of 0 is none: another may follow.
        *times.offset = (duration != Duration::Ms(0)).then_some(duration);
        Ok(())
    }

    fn at_modifier(&mut self, expr: &mut Expr) -> Result<()> {
        let span = self.advance().span;
        let named = match self.kind() {
            TokenKind::Keyword(Keyword::Start) => Some(At::Start),
            TokenKind::Keyword(Keyword::End) => Some(At::End),
            _ => None,
        };
        let at = match named {
            Some(at) => {
                self.advance();
                self.expect(TokenKind::LeftParen, "@", "\"(\"")?;
                self.expect(TokenKind::RightParen, "@", "\")\"")?;
                at
            }
            None => At::Time(self.timestamp()?),
        };
        let Some(times) = times(expr) else { return Err(self.misplaced("@", span)) };
        if times.at.is_some() {
            return Err(self.error(span, "@ <timestamp> may not be set multiple times"));
        }
        *times.at = Some(at);
        Ok(())
    }

    /// Seconds, to the nearest millisecond.
    fn timestamp(&mut self) -> Result<i64> {
        let start = self.token().span;
        let seconds = self.signed_number("@", "timestamp")?;
        let ms = (seconds * 1000.0).round();
        if ms.is_nan() || ms >= i64::MAX as f64 || ms <= i64::MIN as f64 {
            let message = format!("timestamp out of bounds for @ modifier: {seconds:.6}");
            return Err(self.error(start, message));
        }
        Ok(ms as i64)
    }

    fn misplaced(&self, modifier: &str, span: Span) -> Error {
        let message = format!(
            "{modifier} modifier must be preceded by an instant vector selector or range vector selector or \
             a subquery"
        );
        self.error(span, message).with_remedy("put it next to the metric, inside the parentheses")
    }

    fn extend(&mut self, expr: &mut Expr, extension: Extension) -> Result<()> {
        let token = self.advance();
        let word = match extension {
            Extension::Anchored => "anchored",
            Extension::Smoothed => "smoothed",
        };
        let selector = match &mut expr.kind {
            ExprKind::Selector(selector) | ExprKind::Range { selector, .. } => selector,
            ExprKind::Subquery { .. } => {
                return Err(
                    self.error(token.span, format!("{word} modifier is not supported for subqueries"))
                );
            }
            _ => return Err(self.error(token.span, format!("{word} modifier not implemented"))),
        };
        if selector.extension.is_some_and(|earlier| earlier != extension) {
            return Err(self.error(token.span, "anchored and smoothed modifiers cannot be used together"));
        }
        selector.extension = Some(extension);
        Ok(())
    }

    /// At `keep_metric_names` behind an operand, where PromQL takes no word.
    fn keeps_name(&self) -> bool {
        self.metricsql && self.slice(self.token().span).eq_ignore_ascii_case(KEEP_METRIC_NAMES)
    }

    fn keep_name(&mut self, expr: &mut Expr) -> Result<()> {
        let span = self.advance().span;
        match keep_name(expr) {
            Ok(()) => Ok(()),
            Err(message) => Err(self.error(span, message).with_remedy(
                "write it after a function of one vector, or after an operation in parentheses",
            )),
        }
    }

    /// What stands between an operator and its right operand: `bool` or not, and the matching.
    pub(super) fn binary_modifiers(&mut self, op: BinaryOp) -> Result<(bool, Matching)> {
        let return_bool = self.eat(TokenKind::Keyword(Keyword::Bool));
        let on = match self.kind() {
            TokenKind::Keyword(Keyword::On) => {
                self.advance();
                Some(Grouping::By(self.grouping_labels()?))
            }
            TokenKind::Keyword(Keyword::Ignoring) => {
                self.advance();
                Some(Grouping::Without(self.grouping_labels()?))
            }
            _ => None,
        };
        let mut matching = Matching { on, ..Matching::default() };
        let card = match self.kind() {
            TokenKind::Keyword(Keyword::GroupLeft) => Some(Cardinality::ManyToOne),
            TokenKind::Keyword(Keyword::GroupRight) => Some(Cardinality::OneToMany),
            _ => None,
        };
        if let Some(card) = card {
            if matching.on.is_none() {
                let remedy = "group_left and group_right follow on(…) or ignoring(…)";
                return Err(self.unexpected("", "").with_remedy(remedy));
            }
            self.advance();
            matching.card = card;
            if self.kind() == TokenKind::LeftParen {
                matching.include = self.grouping_labels()?;
            }
        }
        self.fill(&mut matching)?;
        if (op.is_set() || op.is_gap()) && matching.card == Cardinality::OneToOne {
            matching.card = Cardinality::ManyToMany;
        }
        Ok((return_bool, matching))
    }

    /// `fill(v)`, or `fill_left(v)` and `fill_right(v)` in either order. Without a parenthesis the words
    /// are metrics.
    fn fill(&mut self, matching: &mut Matching) -> Result<()> {
        while self.ahead(1).kind == TokenKind::LeftParen {
            let (left, right) = match self.kind() {
                TokenKind::Keyword(Keyword::Fill) => (true, true),
                TokenKind::Keyword(Keyword::FillLeft) => (true, false),
                TokenKind::Keyword(Keyword::FillRight) => (false, true),
                _ => return Ok(()),
            };
            if (left && matching.fill_left.is_some()) || (right && matching.fill_right.is_some()) {
                return Err(self.unexpected("", ""));
            }
            self.at += 2;
            let value = Some(self.signed_number("fill modifier", "number")?);
            self.expect(TokenKind::RightParen, "fill modifier", "\")\"")?;
            if left {
                matching.fill_left = value;
            }
            if right {
                matching.fill_right = value;
            }
        }
        Ok(())
    }
}
