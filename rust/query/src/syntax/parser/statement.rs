//! Programs and their statements: `RECORD`, `ALERT`, `SLO`, `GROUP`, `EXPLAIN`. Clauses are `clause`'s.
//!
//! A statement begins where its first word cannot be a metric: what follows the word cannot go on with an expression.

use metricsdb_model::{Error, Result, Span};

use super::Parser;
use super::clause::Twice;
use crate::syntax::check;
use crate::syntax::lexer::{Dialect, Keyword, TokenKind};
use crate::syntax::statement::{
    Alert, Body, Burn, Clauses, Explain, Group, LEVELS_MAX, Level, Own, Program, Record, Slo, Statement,
    Subject,
};
use crate::syntax::tree::{BinaryOp, Expr, ValueType};

/// Words that go on with an expression after a metric.
const CONTINUING: [&str; 4] = ["default", "if", "ifnot", "keep_metric_names"];

/// The statements of a text. Fails with `Error::Parse`, and with `Error::Limit` past `QUERY_BYTES_MAX`. O(length).
pub(in crate::syntax) fn program(text: &str) -> Result<Program> {
    let mut parser = super::parser(text, Dialect { metricsql: true, statements: true })?;
    let mut statements = Vec::new();
    while parser.kind() != TokenKind::End {
        statements.push(parser.statement()?);
        if !parser.eat(TokenKind::Semicolon) && parser.kind() != TokenKind::End && parser.begins().is_none() {
            let error = parser.unexpected("", "\";\", a statement or the end");
            let wrong = parser.kind() == TokenKind::Error;
            return Err(if wrong { error } else { error.with_remedy("separate statements by \";\"") });
        }
    }
    Ok(Program { statements })
}

/// Whether a text begins as a statement does, or has several.
pub(in crate::syntax) fn has_statements(text: &str) -> bool {
    let Ok(parser) = super::parser(text, Dialect { metricsql: true, statements: true }) else { return false };
    parser.begins().is_some() || parser.lexed.tokens.iter().any(|token| token.kind == TokenKind::Semicolon)
}

/// Whether a name can stand in a statement without quotes.
pub(in crate::syntax) fn is_statement_name(name: &str) -> bool {
    let word = |c: char| c == '_' || c == ':' || c.is_ascii_alphanumeric();
    let plain = name.chars().all(word) && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty();
    let taken = ["inf", "nan", "labels"].iter().chain(&CONTINUING).any(|w| w.eq_ignore_ascii_case(name));
    plain && !taken && Keyword::lookup(name).is_none()
}

#[derive(Clone, Copy, PartialEq)]
enum Begins {
    Record,
    Alert,
    Slo,
    Group,
    Explain,
}

impl Parser<'_> {
    /// The statement that begins here, if none but that can stand here.
    fn begins(&self) -> Option<Begins> {
        let known = [
            ("record", Begins::Record),
            ("alert", Begins::Alert),
            ("slo", Begins::Slo),
            ("group", Begins::Group),
            ("explain", Begins::Explain),
        ];
        let word = self.slice(self.token().span);
        let found = known.into_iter().find(|(known, _)| word.eq_ignore_ascii_case(known))?.1;
        let next = self.ahead(1);
        let named = match next.kind {
            TokenKind::Word => {
                let word = self.slice(next.span);
                !CONTINUING.iter().any(|known| word.eq_ignore_ascii_case(known))
            }
            kind => matches!(kind, TokenKind::MetricName | TokenKind::String),
        };
        // What is explained may begin otherwise, and whatever is an expression stays one: `explain` looks.
        (named || (found == Begins::Explain && next.kind != TokenKind::End)).then_some(found)
    }

    fn statement(&mut self) -> Result<Statement> {
        Ok(match self.begins() {
            None => Statement::Query(self.checked_expr()?),
            Some(Begins::Record) => Statement::Record(self.record()?),
            Some(Begins::Alert) => Statement::Alert(Box::new(self.alert()?)),
            Some(Begins::Slo) => Statement::Slo(self.slo()?),
            Some(Begins::Group) => Statement::Group(self.group()?),
            Some(Begins::Explain) => match self.attempt() {
                Some(expr) => Statement::Query(expr),
                None => Statement::Explain(self.explain()?),
            },
        })
    }

    /// An expression whose types were checked.
    pub(super) fn checked_expr(&mut self) -> Result<Expr> {
        let mut expr = self.expr(0)?;
        check::check(self.text, &mut expr)?;
        Ok(expr)
    }

    /// One that gives series, or a number.
    pub(super) fn series_expr(&mut self, what: &str) -> Result<Expr> {
        let expr = self.checked_expr()?;
        match expr.value_type() {
            ValueType::Scalar | ValueType::Vector => Ok(expr),
            other => {
                let message = format!("{what} takes an instant vector or a scalar, got {}", other.as_str());
                Err(self.error(expr.span, message))
            }
        }
    }

    /// The expression that is the whole statement here; else nothing was read.
    fn attempt(&mut self) -> Option<Expr> {
        let at = self.at;
        let found = self.checked_expr().ok();
        if found.is_some() && matches!(self.kind(), TokenKind::End | TokenKind::Semicolon) {
            return found;
        }
        (self.at, self.depth, self.height) = (at, 0, 0);
        self.templates.forget();
        None
    }

    fn explain(&mut self) -> Result<Explain> {
        self.advance();
        let mut analyze = false;
        if self.at_word("analyze") {
            // What follows the word may say that it is a metric: `EXPLAIN analyze`.
            if let Some(expr) = self.attempt() {
                return Ok(Explain { analyze, subject: Subject::Query(expr) });
            }
            self.advance();
            analyze = true;
        }
        let subject = match self.begins() {
            Some(Begins::Alert) => Subject::Alert(Box::new(self.alert()?)),
            _ => Subject::Query(self.checked_expr()?),
        };
        Ok(Explain { analyze, subject })
    }

    fn record(&mut self) -> Result<Record> {
        let start = self.advance().span;
        let name = self.name("RECORD")?;
        self.expect(TokenKind::Assign, "RECORD", "\"=\"")?;
        let expr = self.series_expr("RECORD")?;
        let (mut labels, mut backfill_ms) = (None, None);
        loop {
            let at = self.token().span;
            if self.eat_word("labels") {
                let found = self.map("LABELS")?;
                labels.once(found).map_err(|()| self.twice("LABELS", at))?;
            } else if self.eat_word("backfill") {
                let found = self.length("BACKFILL")?;
                backfill_ms.once(found).map_err(|()| self.twice("BACKFILL", at))?;
            } else {
                break;
            }
        }
        let labels = labels.unwrap_or_default();
        Ok(Record { name, expr, labels, backfill_ms, span: start.to(self.last_span()) })
    }

    fn group(&mut self) -> Result<Group> {
        let start = self.advance().span;
        let name = self.name("GROUP")?;
        let every_ms = self.eat_word("every").then(|| self.length("EVERY")).transpose()?;
        let offset_ms = self.eat_word("offset").then(|| self.duration("OFFSET")).transpose()?;
        let limit = self.eat_word("limit").then(|| self.integer("LIMIT", u32::MAX)).transpose()?;
        let labels = self.eat_word("labels").then(|| self.map("LABELS")).transpose()?.unwrap_or_default();
        self.expect(TokenKind::LeftBrace, "GROUP", "EVERY, OFFSET, LIMIT, LABELS in this order, or \"{\"")?;
        let mut statements = Vec::new();
        while self.kind() != TokenKind::RightBrace {
            let at = self.token().span;
            match self.begins() {
                Some(Begins::Record | Begins::Alert | Begins::Slo) => statements.push(self.statement()?),
                _ => {
                    let error = self.unexpected("GROUP", "RECORD, ALERT, SLO or \"}\"");
                    let remedy = "write the name after the word, in quotes where it is no plain word";
                    return Err(if self.slice(at).is_empty() { error } else { error.with_remedy(remedy) });
                }
            }
            self.eat(TokenKind::Semicolon);
        }
        self.advance();
        Ok(Group { name, every_ms, offset_ms, limit, labels, statements, span: start.to(self.last_span()) })
    }

    fn alert(&mut self) -> Result<Alert> {
        let start = self.advance().span;
        let name = self.name("ALERT")?;
        let by = match self.eat_word("by") {
            true => Some(self.grouping_labels()?),
            false => None,
        };
        let mut clauses = Clauses::default();
        self.clauses(&mut clauses)?;
        let body = if self.at_word("level") {
            Body::Levels(self.levels()?)
        } else if self.at_word("when") {
            let condition = self.condition()?;
            self.clauses(&mut clauses)?;
            Body::Single(Box::new(condition))
        } else {
            let error = self.unexpected("ALERT", "WHEN, LEVEL or another clause");
            return Err(error.with_remedy("an alert is ALERT name WHEN expression"));
        };
        Ok(Alert { name, by, clauses, body, span: start.to(self.last_span()) })
    }

    fn levels(&mut self) -> Result<Vec<Level>> {
        let mut levels: Vec<Level> = Vec::new();
        while self.at_word("level") {
            let start = self.advance().span;
            let at = self.token().span;
            let name = self.name("LEVEL")?;
            if levels.iter().any(|level| level.name == name) {
                return Err(self.error(at, format!("level {name} stands twice")));
            }
            if levels.len() == LEVELS_MAX {
                return Err(self.error(at, format!("more than {LEVELS_MAX} levels")));
            }
            let condition = self.condition()?;
            let mut own = Own::default();
            while self.own(&mut own)? {}
            let span = start.to(self.last_span());
            levels.push(Level { name, condition, own, span });
        }
        if self.clause(&mut Clauses::default()).is_ok_and(|found| found) {
            let message = "this clause holds for the whole alert";
            return Err(self.error(self.last_span(), message).with_remedy("write it before the first LEVEL"));
        }
        Ok(levels)
    }

    fn slo(&mut self) -> Result<Slo> {
        let start = self.advance().span;
        let name = self.name("SLO")?;
        self.expect_word("target", "SLO")?;
        let at = self.token().span;
        let target = self.signed_number("TARGET", "a percentage, as 99.9%")?;
        self.expect(TokenKind::Op(BinaryOp::Mod), "TARGET", "\"%\"")?;
        if !(target > 0.0 && target < 100.0) {
            return Err(self.error(at, "a target lies between 0% and 100%"));
        }
        self.expect_word("over", "SLO")?;
        let over_ms = self.length("OVER")?;
        self.in_slo = true;
        self.expect_word("bad", "SLO")?;
        let bad = self.series_expr("BAD")?;
        self.expect_word("total", "SLO")?;
        let total = self.series_expr("TOTAL")?;
        self.in_slo = false;
        let mut burns = Vec::new();
        while self.at_word("burn") {
            burns.push(self.burn()?);
        }
        Ok(Slo { name, target, over_ms, bad, total, burns, span: start.to(self.last_span()) })
    }

    fn burn(&mut self) -> Result<Burn> {
        let start = self.advance().span;
        let at = self.token().span;
        let rate = self.signed_number("BURN", "a number")?;
        if !(rate > 0.0 && rate.is_finite()) {
            return Err(self.error(at, "a burn rate is more than 0"));
        }
        self.expect_word("over", "BURN")?;
        let long_ms = self.length("OVER")?;
        self.expect_word("and", "BURN")?;
        let short_ms = self.length("AND")?;
        self.expect_word("level", "BURN")?;
        let level = self.name("LEVEL")?;
        let damp = self.damp()?;
        let mut clauses = Clauses::default();
        self.clauses(&mut clauses)?;
        Ok(Burn { rate, long_ms, short_ms, level, damp, clauses, span: start.to(self.last_span()) })
    }

    /// Whether the next token is this word, in any case.
    pub(super) fn at_word(&self, word: &str) -> bool {
        let token = self.token();
        let is = matches!(token.kind, TokenKind::Word | TokenKind::Keyword(_));
        is && self.slice(token.span).eq_ignore_ascii_case(word)
    }

    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let found = self.at_word(word);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect_word(&mut self, word: &str, context: &str) -> Result<()> {
        if self.eat_word(word) { Ok(()) } else { Err(self.unexpected(context, &word.to_ascii_uppercase())) }
    }

    /// A name: a word that is no keyword, or a string.
    pub(super) fn name(&mut self, context: &str) -> Result<String> {
        let token = self.token();
        let text = match token.kind {
            TokenKind::String => self.string()?,
            TokenKind::Word | TokenKind::MetricName => self.word(),
            TokenKind::Keyword(_) => {
                let error = self.unexpected(context, "a name");
                return Err(error.with_remedy("write a name that is a keyword in quotes"));
            }
            _ => return Err(self.unexpected(context, "a name")),
        };
        if text.is_empty() { Err(self.error(token.span, "a name must not be empty")) } else { Ok(text) }
    }

    /// The text of the next token, which is taken.
    pub(super) fn word(&mut self) -> String {
        let span = self.advance().span;
        self.slice(span).to_owned()
    }

    pub(super) fn twice(&self, what: &str, span: Span) -> Error {
        self.error(span, format!("{what} stands twice"))
    }
}
