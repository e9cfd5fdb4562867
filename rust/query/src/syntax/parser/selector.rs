//! What stands between the braces of a selector: PromQL's matchers, and `and`, `or`, `not`, `in`,
//! `has()`, `num()` where PromQL has only errors.
//!
//! Those words may all be labels too. A word is a label if an operator follows it; two or three tokens
//! decide, so no selector that PromQL accepts changes its meaning.

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Error, MatchOp, Matcher, NumOp, Result, Span};

use super::Parser;
use crate::syntax::lexer::TokenKind;
use crate::syntax::tree::{BinaryOp, Filter};

const MATCHING: &str = "label matching";

impl Parser<'_> {
    /// `{ … }`; returns the span of the closing brace.
    pub(super) fn braces(&mut self) -> Result<(Filter, Span)> {
        self.advance();
        let mut filter = Filter::All(Vec::new());
        if self.kind() != TokenKind::RightBrace {
            let parts = self.alternatives()?;
            filter = any_or_only(parts.into_iter().map(Filter::All).collect());
            if let Filter::Any(parts) = filter {
                filter = Filter::Any(parts.into_iter().map(unwrapped).collect());
            }
        }
        if self.kind() != TokenKind::RightBrace {
            return Err(self.unexpected_match("\",\" or \"}\""));
        }
        Ok((filter, self.advance().span))
    }

    /// What only the boolean selectors know is no token to Prometheus: where it stands wrong, its lexer
    /// says so.
    fn unexpected_match(&self, expected: &str) -> Error {
        let span = self.token().span;
        match (self.kind(), self.slice(span).chars().next()) {
            (TokenKind::Op(BinaryOp::NotEqual | BinaryOp::Equal), _) => self.unexpected(MATCHING, expected),
            (
                TokenKind::Op(_)
                | TokenKind::LeftParen
                | TokenKind::Number
                | TokenKind::Duration
                | TokenKind::At,
                Some(c),
            ) => self.error(span, format!("unexpected character inside braces: '{c}'")),
            _ => self.unexpected(MATCHING, expected),
        }
    }

    /// Whether the n-th token from here is this word, in any case.
    fn is_word(&self, n: usize, word: &str) -> bool {
        let token = self.ahead(n);
        token.kind == TokenKind::Word && self.slice(token.span).eq_ignore_ascii_case(word)
    }

    /// Whether an operator that takes a label on its left begins at the n-th token from here.
    fn label_operator(&self, n: usize) -> bool {
        let in_list = |n: usize| self.is_word(n, "in") && self.ahead(n + 1).kind == TokenKind::LeftParen;
        match self.ahead(n).kind {
            TokenKind::Assign | TokenKind::MatchRegex | TokenKind::MatchNotRegex => true,
            TokenKind::Op(BinaryOp::NotEqual) => true,
            _ => in_list(n) || (self.is_word(n, "not") && in_list(n + 1)),
        }
    }

    /// Whether this word stands here as a word of the language, not as a label.
    fn is_connective(&self, word: &str) -> bool {
        self.is_word(0, word) && !self.label_operator(1)
    }

    /// `… or …`: the conjunctions between the `or`s.
    fn alternatives(&mut self) -> Result<Vec<Vec<Filter>>> {
        self.enter()?;
        let mut parts = vec![self.conjunction()?];
        while self.is_word(0, "or") {
            self.advance();
            parts.push(self.conjunction()?);
        }
        self.depth -= 1;
        Ok(parts)
    }

    fn conjunction(&mut self) -> Result<Vec<Filter>> {
        let mut parts = Vec::new();
        loop {
            match self.named_filter() {
                // Its matchers stand among the others, as if written here.
                Some(template) => self.template_filters(template, &mut parts)?,
                None => parts.push(self.negation()?),
            }
            if self.eat(TokenKind::Comma) {
                let closed = matches!(self.kind(), TokenKind::RightBrace | TokenKind::RightParen);
                if closed || self.is_connective("or") {
                    return Ok(parts);
                }
            } else if self.is_word(0, "and") {
                self.advance();
            } else {
                return Ok(parts);
            }
        }
    }

    /// The template whose name stands here where PromQL wants an operator behind a label.
    fn named_filter(&self) -> Option<usize> {
        let word = self.slice(self.token().span);
        let free = self.kind() == TokenKind::Word && !self.label_operator(1);
        if free && !super::template::is_filter_word(word) { self.template(word) } else { None }
    }

    #[inline(never)]
    fn template_filter(&mut self, template: usize) -> Result<Filter> {
        let mut parts = Vec::new();
        self.template_filters(template, &mut parts)?;
        Ok(unwrapped(Filter::All(parts)))
    }

    fn negation(&mut self) -> Result<Filter> {
        if self.is_connective("not") {
            self.advance();
            return Ok(Filter::Not(Box::new(self.part()?)));
        }
        self.part()
    }

    fn part(&mut self) -> Result<Filter> {
        let called = self.ahead(1).kind == TokenKind::LeftParen;
        if let Some(template) = self.named_filter() {
            return self.template_filter(template);
        }
        match self.kind() {
            TokenKind::LeftParen => {
                self.advance();
                let parts = self.alternatives()?;
                self.expect(TokenKind::RightParen, MATCHING, "\")\"")?;
                Ok(any_or_only(parts.into_iter().map(|parts| unwrapped(Filter::All(parts))).collect()))
            }
            TokenKind::Word | TokenKind::String if self.label_operator(1) => self.label_match(),
            TokenKind::Word if called && self.is_word(0, "has") => {
                self.advance();
                Ok(Filter::Has(self.label_in_parens()?))
            }
            TokenKind::Word if called && self.is_word(0, "num") => {
                self.advance();
                let label = self.label_in_parens()?;
                Ok(Filter::Num { label, op: self.num_op()?, value: self.num_value()? })
            }
            TokenKind::String => {
                let span = self.token().span;
                let value = self.string()?;
                if value.is_empty() {
                    return Err(self.error(span, "invalid metric name \"\""));
                }
                let (name, op) = (METRIC_NAME.to_owned(), MatchOp::Equal);
                Ok(Filter::Match(Matcher { name, op, value, regex: None }))
            }
            TokenKind::Word => {
                self.advance();
                Err(self.unexpected_match("label matching operator"))
            }
            _ => Err(self.unexpected_match("identifier or \"}\"")),
        }
    }

    fn label(&mut self) -> Result<String> {
        let token = self.token();
        match token.kind {
            TokenKind::Word => {
                self.advance();
                Ok(self.slice(token.span).to_owned())
            }
            TokenKind::String => {
                let label = self.string()?;
                if label.is_empty() {
                    return Err(self.error(token.span, "invalid label name \"\""));
                }
                Ok(label)
            }
            _ => Err(self.unexpected(MATCHING, "identifier")),
        }
    }

    fn label_in_parens(&mut self) -> Result<String> {
        self.expect(TokenKind::LeftParen, MATCHING, "\"(\"")?;
        let label = self.label()?;
        self.expect(TokenKind::RightParen, MATCHING, "\")\"")?;
        Ok(label)
    }

    fn label_match(&mut self) -> Result<Filter> {
        let start = self.token().span;
        let label = self.label()?;
        let op = match self.kind() {
            TokenKind::Assign => MatchOp::Equal,
            TokenKind::Op(BinaryOp::NotEqual) => MatchOp::NotEqual,
            TokenKind::MatchRegex => MatchOp::Regex,
            TokenKind::MatchNotRegex => MatchOp::NotRegex,
            _ => return self.label_in(label),
        };
        self.advance();
        let value = self.value()?;
        let matcher = Matcher::new(&label, op, &value);
        Ok(Filter::Match(matcher.map_err(|error| self.regex_error(start, error))?))
    }

    fn regex_error(&self, start: Span, error: Error) -> Error {
        match error {
            Error::Input { message, remedy, .. } => {
                self.error(start.to(self.last_span()), message).with_remedy(remedy)
            }
            other => other,
        }
    }

    fn value(&mut self) -> Result<String> {
        match self.kind() {
            TokenKind::String => self.string(),
            TokenKind::Word if self.named_here().is_some() => self.template_string(),
            _ => Err(self.unexpected_match("string")),
        }
    }

    /// `in ("a", "b")` or `not in (…)`.
    fn label_in(&mut self, label: String) -> Result<Filter> {
        let negated = self.is_word(0, "not");
        self.at += if negated { 2 } else { 1 };
        self.expect(TokenKind::LeftParen, MATCHING, "\"(\"")?;
        let mut values = vec![self.value()?];
        while self.eat(TokenKind::Comma) && self.kind() != TokenKind::RightParen {
            values.push(self.value()?);
        }
        self.expect(TokenKind::RightParen, MATCHING, "\",\" or \")\"")?;
        Ok(Filter::In { label, negated, values })
    }

    fn num_op(&mut self) -> Result<NumOp> {
        let op = match self.kind() {
            TokenKind::Op(BinaryOp::Greater) => NumOp::Greater,
            TokenKind::Op(BinaryOp::GreaterEqual) => NumOp::GreaterEqual,
            TokenKind::Op(BinaryOp::Less) => NumOp::Less,
            TokenKind::Op(BinaryOp::LessEqual) => NumOp::LessEqual,
            TokenKind::Op(BinaryOp::Equal) => NumOp::Equal,
            _ => return Err(self.unexpected(MATCHING, "\">\", \">=\", \"<\", \"<=\" or \"==\"")),
        };
        self.advance();
        Ok(op)
    }

    /// A number; `inf` is a word between braces.
    fn num_value(&mut self) -> Result<f64> {
        let negative = self.kind() == TokenKind::Op(BinaryOp::Sub);
        let signed = negative || self.kind() == TokenKind::Op(BinaryOp::Add);
        if self.is_word(usize::from(signed), "inf") {
            self.at += 1 + usize::from(signed);
            return Ok(if negative { f64::NEG_INFINITY } else { f64::INFINITY });
        }
        self.signed_number(MATCHING, "number")
    }
}

/// A conjunction of one part is that part.
fn unwrapped(filter: Filter) -> Filter {
    match filter {
        Filter::All(mut parts) if parts.len() == 1 => parts.remove(0),
        other => other,
    }
}

fn any_or_only(mut parts: Vec<Filter>) -> Filter {
    if parts.len() == 1 { parts.remove(0) } else { Filter::Any(parts) }
}
