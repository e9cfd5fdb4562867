//! `WITH (name = expr, f(x) = expr) expr`: templates, expanded while the text is parsed.
//!
//! A template is a run of tokens and the templates that its body may name: those defined before it, so none
//! can name itself. Each use parses the run again, where a parameter is a template without parameters whose
//! run is the argument. What a text may expand to is bounded in depth by `NESTING_MAX`, as all nesting, and in
//! size by `EXPANDED_BYTES_MAX`.

use std::ops::Range;

use metricsdb_model::bounds::{EXPANDED_BYTES_MAX, TEMPLATES_MAX};
use metricsdb_model::{Error, MatchOp, Matcher, Result, Span, labels::METRIC_NAME};

use super::Parser;
use crate::syntax::lexer::TokenKind;
use crate::syntax::literal::quote;
use crate::syntax::tree::{DurationExpr, Expr, ExprKind, Filter, Selector};

/// All templates that are known at some place: a chain through the arena.
type Scope = Option<usize>;

struct Template<'t> {
    name: &'t str,
    /// `None`: used without parentheses.
    params: Option<Vec<&'t str>>,
    /// Tokens of the body.
    body: Range<usize>,
    /// What the body may name.
    inside: Scope,
    /// The next of the chain, and the length of the chain from here.
    previous: Scope,
    count: usize,
}

/// The templates of a text so far, and what they have come to.
#[derive(Default)]
pub(super) struct Templates<'t> {
    arena: Vec<Template<'t>>,
    scope: Scope,
    expanded_bytes: usize,
}

impl Templates<'_> {
    /// After an error: none is known, but what they came to stays counted.
    pub(super) fn forget(&mut self) {
        self.scope = None;
        self.arena.clear();
    }
}

/// Where the parser goes on after a body, and with which templates.
struct Return {
    at: usize,
    scope: Scope,
    arena: usize,
    span: Span,
    end: usize,
}

/// Words of boolean selectors: between braces they keep their meaning.
pub(super) fn is_filter_word(word: &str) -> bool {
    ["or", "and", "not", "in", "has", "num"].iter().any(|known| known.eq_ignore_ascii_case(word))
}

impl<'t> Parser<'t> {
    /// The template of this name that can be named here.
    pub(super) fn template(&self, name: &str) -> Option<usize> {
        let mut scope = self.templates.scope;
        while let Some(at) = scope {
            let template = self.templates.arena.get(at)?;
            if template.name == name {
                return Some(at);
            }
            scope = template.previous;
        }
        None
    }

    /// The template that the next token names.
    pub(super) fn named_here(&self) -> Option<usize> {
        self.template(self.slice(self.token().span))
    }

    fn define(&mut self, template: Template<'t>) {
        self.templates.scope = Some(self.templates.arena.len());
        self.templates.arena.push(template);
    }

    /// One more name in scope `previous`.
    fn count_in(&self, previous: Scope, span: Span) -> Result<usize> {
        let count = 1 + previous.and_then(|at| self.templates.arena.get(at)).map_or(0, |t| t.count);
        if count <= TEMPLATES_MAX {
            return Ok(count);
        }
        let message = format!("more than {TEMPLATES_MAX} templates and parameters at one place");
        Err(self.error(span, message).with_remedy("split the query"))
    }

    #[inline(never)]
    pub(super) fn with(&mut self) -> Result<Expr> {
        let start = self.advance().span;
        let (scope, arena) = (self.templates.scope, self.templates.arena.len());
        self.expect(TokenKind::LeftParen, "WITH", "\"(\"")?;
        while self.kind() != TokenKind::RightParen {
            self.definition()?;
            if !self.eat(TokenKind::Comma) {
                break;
            }
        }
        self.expect(TokenKind::RightParen, "WITH", "\",\" or \")\"")?;
        let mut expr = self.expr(0)?;
        self.templates.scope = scope;
        self.templates.arena.truncate(arena);
        expr.span = start.to(self.last_span());
        // As the whole query it needs no parentheses.
        if self.depth > 1 { self.enclosed(expr) } else { Ok(expr) }
    }

    /// `name = expr` or `name(a, b) = expr`.
    fn definition(&mut self) -> Result<()> {
        let name = self.expect(TokenKind::Word, "WITH", "a name that is no keyword")?;
        let params = match self.kind() {
            TokenKind::LeftParen => Some(self.parameters()?),
            _ => None,
        };
        self.expect(TokenKind::Assign, "WITH", "\"=\"")?;
        let body = self.run("WITH")?;
        let previous = self.templates.scope;
        let count = self.count_in(previous, name.span)?;
        self.define(Template {
            name: self.slice(name.span),
            params,
            body,
            inside: previous,
            previous,
            count,
        });
        Ok(())
    }

    fn parameters(&mut self) -> Result<Vec<&'t str>> {
        self.advance();
        let mut params: Vec<&'t str> = Vec::new();
        while self.kind() != TokenKind::RightParen {
            let token = self.expect(TokenKind::Word, "WITH", "the name of a parameter")?;
            let name = self.slice(token.span);
            if params.contains(&name) {
                return Err(self.error(token.span, format!("parameter {} stands twice", quote(name))));
            }
            params.push(name);
            if !self.eat(TokenKind::Comma) {
                break;
            }
        }
        self.expect(TokenKind::RightParen, "WITH", "\",\" or \")\"")?;
        Ok(params)
    }

    /// Skips to the comma or parenthesis that ends the expression here; returns what was skipped.
    fn run(&mut self, context: &str) -> Result<Range<usize>> {
        let start = self.at;
        let mut open = 0usize;
        loop {
            match self.kind() {
                TokenKind::Comma if open == 0 => break,
                TokenKind::RightParen if open == 0 => break,
                TokenKind::LeftParen | TokenKind::LeftBrace | TokenKind::LeftBracket => open += 1,
                TokenKind::RightParen | TokenKind::RightBrace | TokenKind::RightBracket => {
                    open = open.saturating_sub(1);
                }
                TokenKind::End | TokenKind::Error => return Err(self.unexpected(context, "an expression")),
                _ => {}
            }
            self.at += 1;
        }
        if start == self.at {
            return Err(self.unexpected(context, "an expression"));
        }
        Ok(start..self.at)
    }

    /// The value of the template named here, in parentheses where it has more than one part.
    #[inline(never)]
    pub(super) fn template_use(&mut self, template: usize) -> Result<Expr> {
        let back = self.enter_template(template)?;
        let mut expr = self.expr(0)?;
        let use_span = back.span;
        self.leave_template(back)?;
        expr.span = use_span;
        if self.kind() == TokenKind::LeftBrace {
            return self.narrowed(expr);
        }
        self.enclosed(expr)
    }

    /// `template{…}`: a selector with more matchers.
    fn narrowed(&mut self, mut expr: Expr) -> Result<Expr> {
        let (more, close) = self.braces()?;
        let span = expr.span.to(close);
        match &mut expr.kind {
            ExprKind::Selector(Selector { filter, offset: None, at: None, extension: None, .. }) => {
                let own = std::mem::replace(filter, Filter::All(Vec::new()));
                *filter = Filter::All(conjuncts(own).into_iter().chain(conjuncts(more)).collect());
            }
            _ => return Err(self.error(span, "only a template that is a plain selector takes matchers")),
        }
        expr.span = span;
        Ok(expr)
    }

    /// With parentheses where the text has none, so that it prints as it was meant.
    fn enclosed(&mut self, expr: Expr) -> Result<Expr> {
        let compound = match expr.kind {
            ExprKind::Binary(_) | ExprKind::Negate(_) | ExprKind::Plus(_) => true,
            ExprKind::Number(value) | ExprKind::Seconds(value) => value.is_sign_negative(),
            _ => false,
        };
        if !compound {
            return Ok(expr);
        }
        self.height = self.above(self.height, 0)?;
        let span = expr.span;
        Ok(Expr { kind: ExprKind::Paren(Box::new(expr)), span })
    }

    /// Adds the matchers of a template that is a selector.
    #[inline(never)]
    pub(super) fn template_filters(&mut self, template: usize, parts: &mut Vec<Filter>) -> Result<()> {
        let back = self.enter_template(template)?;
        let expr = self.expr(0)?;
        let span = back.span;
        self.leave_template(back)?;
        match expr.kind {
            ExprKind::Selector(Selector { name, filter, offset: None, at: None, extension: None }) => {
                if let Some(name) = name {
                    parts.push(Filter::Match(Matcher::new(METRIC_NAME, MatchOp::Equal, &name)?));
                }
                parts.extend(conjuncts(filter));
                Ok(())
            }
            _ => Err(self.not_a(template, span, "a plain selector, as in {job=\"a\"}")),
        }
    }

    /// The text of a template that is a string.
    pub(super) fn template_string(&mut self) -> Result<String> {
        let Some(template) = self.named_here() else { return Err(self.unexpected("", "string")) };
        let back = self.enter_template(template)?;
        let expr = self.expr(0)?;
        let span = back.span;
        self.leave_template(back)?;
        match expr.kind {
            ExprKind::String(text) => Ok(text),
            _ => Err(self.not_a(template, span, "a string")),
        }
    }

    /// The duration of a template that is one, between brackets or after `offset`.
    pub(super) fn template_duration(&mut self, template: usize) -> Result<DurationExpr> {
        let back = self.enter_template(template)?;
        let expr = self.duration_expr(0)?;
        self.leave_template(back)?;
        self.height = self.above(self.height, 0)?;
        let compound =
            matches!(expr, DurationExpr::Binary { .. } | DurationExpr::Negate(_) | DurationExpr::Plus(_));
        Ok(if compound { DurationExpr::Paren(Box::new(expr)) } else { expr })
    }

    fn not_a(&self, template: usize, span: Span, wanted: &str) -> Error {
        let name = self.templates.arena.get(template).map_or("", |t| t.name);
        self.error(span, format!("template {} is not {wanted}", quote(name)))
    }

    /// Reads the name, and the arguments if there are any, and goes to the body.
    fn enter_template(&mut self, template: usize) -> Result<Return> {
        let name = self.advance();
        let scope = self.templates.scope;
        let arena = self.templates.arena.len();
        let Some(found) = self.templates.arena.get(template) else { return Err(self.unexpected("", "")) };
        let (body, inside, params) = (found.body.clone(), found.inside, found.params.clone());
        let called = self.kind() == TokenKind::LeftParen;
        let args = if called { self.template_arguments()? } else { Vec::new() };
        let span = name.span.to(self.last_span());
        self.fits(name.span, called, params.as_ref().map(Vec::len), args.len())?;
        self.spend(&body, span)?;
        let back = Return { at: self.at, scope, arena, span, end: body.end };
        self.templates.scope = inside;
        for (name, body) in params.unwrap_or_default().into_iter().zip(args) {
            let previous = self.templates.scope;
            let count = self.count_in(previous, span)?;
            self.define(Template { name, params: None, body, inside: scope, previous, count });
        }
        self.at = body.start;
        Ok(back)
    }

    fn leave_template(&mut self, back: Return) -> Result<()> {
        if self.at != back.end {
            return Err(self.unexpected("the template", "\",\" or \")\""));
        }
        self.at = back.at;
        self.templates.scope = back.scope;
        self.templates.arena.truncate(back.arena);
        Ok(())
    }

    fn template_arguments(&mut self) -> Result<Vec<Range<usize>>> {
        self.advance();
        let mut args = Vec::new();
        while self.kind() != TokenKind::RightParen {
            args.push(self.run("the arguments")?);
            if !self.eat(TokenKind::Comma) {
                break;
            }
        }
        self.expect(TokenKind::RightParen, "the arguments", "\",\" or \")\"")?;
        Ok(args)
    }

    fn fits(&self, span: Span, called: bool, wanted: Option<usize>, found: usize) -> Result<()> {
        let name = quote(self.slice(span));
        match wanted {
            None if called => Err(self
                .error(span, format!("template {name} takes no arguments"))
                .with_remedy("leave the parentheses out")),
            Some(wanted) if !called || wanted != found => {
                Err(self.error(span, format!("template {name} takes {wanted} argument(s), got {found}")))
            }
            _ => Ok(()),
        }
    }

    /// Counts the bytes of a body that is parsed once more.
    fn spend(&mut self, body: &Range<usize>, span: Span) -> Result<()> {
        let token = |at: usize| self.lexed.tokens.get(at).map_or(Span::default(), |token| token.span);
        let bytes = token(body.end - 1).end.saturating_sub(token(body.start).start) as usize;
        self.templates.expanded_bytes += bytes.max(1);
        if self.templates.expanded_bytes <= EXPANDED_BYTES_MAX {
            return Ok(());
        }
        let message = format!("the templates expand to more than {EXPANDED_BYTES_MAX} bytes");
        Err(self.error(span, message).with_remedy("name fewer templates in one another, or record parts"))
    }
}

/// The parts of a conjunction.
fn conjuncts(filter: Filter) -> Vec<Filter> {
    match filter {
        Filter::All(parts) => parts,
        other => vec![other],
    }
}
