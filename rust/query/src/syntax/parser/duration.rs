//! Durations: literals, and the arithmetic over `step()`, `range()`, `min_of()` and `max_of()`.

use metricsdb_model::{Result, Span};

use super::Parser;
use crate::syntax::duration::milliseconds;
use crate::syntax::lexer::{Keyword, TokenKind};
use crate::syntax::tree::{AggregateOp, BinaryOp, Duration, DurationExpr, DurationOp};

const POW: u8 = 3;

fn operator(kind: TokenKind) -> Option<(DurationOp, u8)> {
    match kind {
        TokenKind::Op(BinaryOp::Add) => Some((DurationOp::Add, 1)),
        TokenKind::Op(BinaryOp::Sub) => Some((DurationOp::Sub, 1)),
        TokenKind::Op(BinaryOp::Mul) => Some((DurationOp::Mul, 2)),
        TokenKind::Op(BinaryOp::Div) => Some((DurationOp::Div, 2)),
        TokenKind::Op(BinaryOp::Mod) => Some((DurationOp::Mod, 2)),
        TokenKind::Op(BinaryOp::Pow) => Some((DurationOp::Pow, POW)),
        _ => None,
    }
}

fn literal(expr: &DurationExpr) -> Option<f64> {
    match expr {
        DurationExpr::Seconds(value) | DurationExpr::Number(value) => Some(*value),
        DurationExpr::Paren(inner) => literal(inner),
        _ => None,
    }
}

fn negate(expr: DurationExpr) -> DurationExpr {
    match expr {
        DurationExpr::Seconds(value) => DurationExpr::Seconds(-value),
        DurationExpr::Number(value) => DurationExpr::Number(-value),
        other => DurationExpr::Negate(Box::new(other)),
    }
}

impl Parser<'_> {
    /// A range or a step, between brackets.
    pub(super) fn positive_duration(&mut self) -> Result<Duration> {
        let start = self.token().span;
        let expr = self.duration_expr(0)?;
        let duration = self.settle(expr, start)?;
        if matches!(duration, Duration::Ms(ms) if ms <= 0) {
            return Err(self.error(start, "duration must be greater than 0"));
        }
        Ok(duration)
    }

    /// After `offset`: one operand with a sign; arithmetic needs parentheses, since `a offset 5m + b` adds
    /// to `a`.
    pub(super) fn offset_duration(&mut self) -> Result<Duration> {
        let start = self.token().span;
        let negative = self.kind() == TokenKind::Op(BinaryOp::Sub);
        if negative || self.kind() == TokenKind::Op(BinaryOp::Add) {
            self.advance();
        }
        let operand = self.duration_operand("offset", "number, duration, step(), or range()")?;
        self.settle(if negative { negate(operand) } else { operand }, start)
    }

    /// A literal becomes milliseconds at once.
    fn settle(&self, expr: DurationExpr, span: Span) -> Result<Duration> {
        match literal(&expr).map(milliseconds) {
            Some(Some(ms)) => Ok(Duration::Ms(ms)),
            Some(None) => Err(self.error(span, "duration out of range")),
            None => Ok(Duration::Expr(Box::new(expr))),
        }
    }

    pub(super) fn duration_expr(&mut self, min: u8) -> Result<DurationExpr> {
        self.enter()?;
        let mut left = self.duration_unary()?;
        let mut height = self.height;
        while let Some((op, rank)) = operator(self.kind()).filter(|(_, rank)| *rank >= min) {
            self.advance();
            let start = self.token().span;
            let right = self.duration_expr(if op == DurationOp::Pow { rank } else { rank + 1 })?;
            let zero = literal(&right) == Some(0.0);
            match op {
                DurationOp::Div if zero => return Err(self.error(start, "division by zero")),
                DurationOp::Mod if zero => return Err(self.error(start, "modulo by zero")),
                _ => {}
            }
            height = self.above(height, self.height)?;
            left = DurationExpr::Binary { op, left: Box::new(left), right: Box::new(right) };
        }
        self.height = height;
        self.depth -= 1;
        Ok(left)
    }

    /// As in expressions, a sign binds as `*` does.
    fn duration_unary(&mut self) -> Result<DurationExpr> {
        let negative = match self.kind() {
            TokenKind::Op(BinaryOp::Sub) => true,
            TokenKind::Op(BinaryOp::Add) => false,
            _ => return self.duration_operand("duration expression", "number, duration, step(), or range()"),
        };
        self.advance();
        let operand = self.duration_expr(POW)?;
        self.height = self.above(self.height, 0)?;
        Ok(match (negative, literal(&operand)) {
            (true, _) => negate(operand),
            (false, Some(_)) => operand,
            (false, None) => DurationExpr::Plus(Box::new(operand)),
        })
    }

    fn duration_operand(&mut self, context: &str, expected: &str) -> Result<DurationExpr> {
        self.height = 1;
        match self.kind() {
            TokenKind::Number => Ok(DurationExpr::Number(self.number()?)),
            TokenKind::Duration => Ok(DurationExpr::Seconds(self.number()?)),
            TokenKind::Window if self.in_slo => {
                self.advance();
                Ok(DurationExpr::Window)
            }
            TokenKind::Keyword(Keyword::Step) => {
                self.no_arguments(context)?;
                Ok(DurationExpr::Step)
            }
            TokenKind::Keyword(Keyword::Range) => {
                self.no_arguments(context)?;
                Ok(DurationExpr::Range)
            }
            TokenKind::Keyword(Keyword::MinOf | Keyword::Aggregate(AggregateOp::Min)) => {
                let (a, b) = self.two_arguments(context)?;
                Ok(DurationExpr::Min(Box::new(a), Box::new(b)))
            }
            TokenKind::Keyword(Keyword::MaxOf | Keyword::Aggregate(AggregateOp::Max)) => {
                let (a, b) = self.two_arguments(context)?;
                Ok(DurationExpr::Max(Box::new(a), Box::new(b)))
            }
            TokenKind::LeftParen => {
                self.advance();
                let inner = self.duration_expr(0)?;
                self.expect(TokenKind::RightParen, context, "\")\"")?;
                self.height = self.above(self.height, 0)?;
                // A negative base of `^` needs its parentheses.
                let bare = literal(&inner).is_some_and(f64::is_sign_positive);
                Ok(if bare { inner } else { DurationExpr::Paren(Box::new(inner)) })
            }
            TokenKind::Word => match self.named_here() {
                Some(template) => self.template_duration(template),
                None => Err(self.unexpected(context, expected)),
            },
            _ => Err(self.unexpected(context, expected)),
        }
    }

    fn no_arguments(&mut self, context: &str) -> Result<()> {
        self.advance();
        self.expect(TokenKind::LeftParen, context, "\"(\"")?;
        self.expect(TokenKind::RightParen, context, "\")\"")?;
        Ok(())
    }

    fn two_arguments(&mut self, context: &str) -> Result<(DurationExpr, DurationExpr)> {
        self.advance();
        self.expect(TokenKind::LeftParen, context, "\"(\"")?;
        let a = self.duration_expr(0)?;
        let height = self.height;
        self.expect(TokenKind::Comma, context, "\",\"")?;
        let b = self.duration_expr(0)?;
        self.height = self.above(height, self.height)?;
        self.expect(TokenKind::RightParen, context, "\")\"")?;
        Ok((a, b))
    }
}
