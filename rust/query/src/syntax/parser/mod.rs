//! Tokens to tree, by precedence climbing. Only the grammar: types are the matter of `check`.

mod aggregate;
mod clause;
mod duration;
mod modifier;
mod selector;
mod statement;
mod template;

use metricsdb_model::bounds::{NESTING_MAX, QUERY_BYTES_MAX, TREE_HEIGHT_MAX};
use metricsdb_model::{Error, Result, Span};

use crate::function::table;
use crate::syntax::lexer::{self, Dialect, Keyword, Lexed, Token, TokenKind};
use crate::syntax::literal::{self, StringError};
use crate::syntax::tree::{AggregateOp, Binary, BinaryOp, Call, Expr, ExprKind, Filter, Selector};
pub(super) use statement::{has_statements, is_statement_name, program};
use template::Templates;

/// The tree of a text, its types not yet checked; with or without what comes from MetricsQL.
pub(super) fn parse(text: &str, metricsql: bool) -> Result<Expr> {
    let mut parser = parser(text, Dialect { metricsql, statements: false })?;
    if parser.kind() == TokenKind::End {
        return Err(Error::parse(text, Span::default(), "no expression found in input"));
    }
    let expr = parser.expr(0)?;
    if parser.kind() != TokenKind::End {
        return Err(parser.unexpected("", ""));
    }
    Ok(expr)
}

fn parser(text: &str, dialect: Dialect) -> Result<Parser<'_>> {
    if text.len() > QUERY_BYTES_MAX {
        return Err(Error::Limit {
            what: "bytes of a query",
            limit: QUERY_BYTES_MAX as u64,
            needed: text.len() as u64,
            remedy: "shorten it, or record parts of it",
        });
    }
    let lexed = lexer::lex(text, dialect);
    let templates = Templates::default();
    let metricsql = dialect.metricsql;
    Ok(Parser { text, metricsql, lexed, at: 0, depth: 0, height: 0, in_slo: false, templates })
}

const POW: u8 = 8;

/// As Prometheus ranks them, and MetricsQL's below; all but `^` group from the left.
fn precedence(op: BinaryOp) -> u8 {
    match op {
        BinaryOp::Default => 1,
        BinaryOp::If | BinaryOp::IfNot => 2,
        BinaryOp::Or => 3,
        BinaryOp::And | BinaryOp::Unless => 4,
        BinaryOp::Equal | BinaryOp::NotEqual => 5,
        BinaryOp::Greater | BinaryOp::GreaterEqual | BinaryOp::Less | BinaryOp::LessEqual => 5,
        BinaryOp::TrimUpper | BinaryOp::TrimLower => 5,
        BinaryOp::Add | BinaryOp::Sub => 6,
        BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod | BinaryOp::Atan2 => 7,
        BinaryOp::Pow => POW,
    }
}

/// What an operand begins with.
enum Leading<'t> {
    Paren,
    Template(usize),
    Aggregate(AggregateOp),
    /// `WITH (`.
    With,
    Call(&'t str),
    Leaf,
}

struct Parser<'t> {
    text: &'t str,
    metricsql: bool,
    lexed: Lexed,
    at: usize,
    /// Calls of `expr`, `filter_or` and `duration_expr` under way: what the stack must hold.
    depth: usize,
    /// Height of the tree parsed last: what later walks of the tree must hold.
    height: usize,
    /// Where `$w` may stand.
    in_slo: bool,
    templates: Templates<'t>,
}

impl<'t> Parser<'t> {
    fn token(&self) -> Token {
        self.ahead(0)
    }

    /// The n-th token from here; past the end the last one again.
    fn ahead(&self, n: usize) -> Token {
        let tokens = &self.lexed.tokens;
        let end = Token { kind: TokenKind::End, span: Span::new(self.text.len(), self.text.len()) };
        tokens.get(self.at + n).or(tokens.last()).copied().unwrap_or(end)
    }

    fn kind(&self) -> TokenKind {
        self.token().kind
    }

    fn advance(&mut self) -> Token {
        let token = self.token();
        self.at += 1;
        token
    }

    fn eat(&mut self, kind: TokenKind) -> bool {
        let found = self.kind() == kind;
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, kind: TokenKind, context: &str, expected: &str) -> Result<Token> {
        if self.kind() == kind { Ok(self.advance()) } else { Err(self.unexpected(context, expected)) }
    }

    /// The span of the token that was taken last.
    fn last_span(&self) -> Span {
        self.lexed.tokens.get(self.at.saturating_sub(1)).map_or(Span::default(), |token| token.span)
    }

    fn slice(&self, span: Span) -> &'t str {
        self.text.get(span.start as usize..span.end as usize).unwrap_or("")
    }

    fn error(&self, span: Span, message: impl Into<String>) -> Error {
        Error::parse(self.text, span, message)
    }

    /// The error "unexpected … in …, expected …" at the next token; an error of the lexer goes first.
    fn unexpected(&self, context: &str, expected: &str) -> Error {
        let token = self.token();
        if let (TokenKind::Error, Some(error)) = (token.kind, &self.lexed.error) {
            let found = self.error(error.span, error.message.clone());
            return match &error.remedy {
                Some(remedy) => found.with_remedy(remedy.as_str()),
                None => found,
            };
        }
        let mut message = format!("unexpected {}", self.describe(token));
        if !context.is_empty() {
            message.push_str(" in ");
            message.push_str(context);
        }
        if !expected.is_empty() {
            message.push_str(", expected ");
            message.push_str(expected);
        }
        self.error(token.span, message)
    }

    /// A token in the words of Prometheus' messages.
    fn describe(&self, token: Token) -> String {
        let word = self.slice(token.span);
        let short = || match word.char_indices().nth(10) {
            Some((cut, _)) => format!("{}...", literal::quote(&word[..cut])),
            None => literal::quote(word),
        };
        match token.kind {
            TokenKind::End | TokenKind::Error => "end of input".to_owned(),
            TokenKind::Word => format!("identifier {}", literal::quote(word)),
            TokenKind::MetricName => format!("metric identifier {}", literal::quote(word)),
            TokenKind::Number => format!("number {}", short()),
            TokenKind::Duration => format!("duration {}", short()),
            TokenKind::String => format!("string {}", short()),
            TokenKind::Op(_) => format!("<op:{word}>"),
            TokenKind::Keyword(Keyword::Aggregate(_)) => format!("<aggr:{word}>"),
            TokenKind::Keyword(Keyword::And | Keyword::Or | Keyword::Unless | Keyword::Atan2) => {
                format!("<op:{word}>")
            }
            TokenKind::Keyword(keyword) if keyword.function_name().is_some() => literal::quote(word),
            TokenKind::Keyword(_) => format!("<{word}>"),
            _ => short(),
        }
    }

    /// Counts one more level of recursion.
    fn enter(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            let message = format!("nested deeper than {NESTING_MAX} levels");
            return Err(self.error(self.token().span, message).with_remedy("record the inner parts"));
        }
        Ok(())
    }

    /// The height of a node over subtrees of these heights.
    fn above(&self, left: usize, right: usize) -> Result<usize> {
        let height = left.max(right) + 1;
        if height > TREE_HEIGHT_MAX {
            let message = format!("more than {TREE_HEIGHT_MAX} operators over one another");
            return Err(self
                .error(self.token().span, message)
                .with_remedy("split the chain, or record parts"));
        }
        Ok(height)
    }

    // What calls itself is cut small: the frames of `expr`, `unary`, `postfix`, `primary` lie on the stack
    // once per level of nesting, and without optimization each temporary has its own place in them.
    fn expr(&mut self, min: u8) -> Result<Expr> {
        self.enter()?;
        let mut left = self.unary()?;
        while let Some(op) = self.binary_op().filter(|op| precedence(*op) >= min) {
            left = self.operation(op, left)?;
        }
        self.depth -= 1;
        Ok(left)
    }

    /// The operator and its right operand, after the left one.
    fn operation(&mut self, op: BinaryOp, left: Expr) -> Result<Expr> {
        let height = self.height;
        self.advance();
        let (return_bool, matching) = self.binary_modifiers(op)?;
        let right = self.expr(if op == BinaryOp::Pow { POW } else { precedence(op) + 1 })?;
        self.height = self.above(height, self.height)?;
        let span = left.span.to(right.span);
        let binary = Binary { op, left, right, return_bool, matching, keep_name: false };
        Ok(Expr { kind: ExprKind::Binary(Box::new(binary)), span })
    }

    fn binary_op(&self) -> Option<BinaryOp> {
        match self.kind() {
            TokenKind::Op(op) => Some(op),
            TokenKind::Keyword(Keyword::And) => Some(BinaryOp::And),
            TokenKind::Keyword(Keyword::Or) => Some(BinaryOp::Or),
            TokenKind::Keyword(Keyword::Unless) => Some(BinaryOp::Unless),
            TokenKind::Keyword(Keyword::Atan2) => Some(BinaryOp::Atan2),
            TokenKind::Word if self.metricsql => self.gap_op(),
            _ => None,
        }
    }

    /// A word where an operator is due: PromQL has none there that is not a keyword.
    fn gap_op(&self) -> Option<BinaryOp> {
        let word = self.slice(self.token().span);
        let known = [BinaryOp::Default, BinaryOp::If, BinaryOp::IfNot];
        known.into_iter().find(|op| op.as_str().eq_ignore_ascii_case(word))
    }

    /// A sign binds as `*` does: `-a^b` is `-(a^b)`, `-a*b` is `(-a)*b`.
    fn unary(&mut self) -> Result<Expr> {
        match self.kind() {
            TokenKind::Op(BinaryOp::Sub) => self.signed(true),
            TokenKind::Op(BinaryOp::Add) => self.signed(false),
            _ => self.postfix(),
        }
    }

    fn signed(&mut self, negative: bool) -> Result<Expr> {
        let start = self.advance().span;
        let operand = self.expr(POW)?;
        let span = start.to(operand.span);
        let sign = if negative { -1.0 } else { 1.0 };
        match operand.kind {
            ExprKind::Number(value) => return Ok(Expr { kind: ExprKind::Number(sign * value), span }),
            ExprKind::Seconds(value) => return Ok(Expr { kind: ExprKind::Seconds(sign * value), span }),
            _ => {}
        }
        self.height = self.above(self.height, 0)?;
        let operand = Box::new(operand);
        let kind = if negative { ExprKind::Negate(operand) } else { ExprKind::Plus(operand) };
        Ok(Expr { kind, span })
    }

    fn primary(&mut self) -> Result<Expr> {
        match self.leading() {
            Leading::Paren => self.paren(),
            Leading::Template(template) => self.template_use(template),
            Leading::Aggregate(op) => self.aggregate(op),
            Leading::With => self.with(),
            Leading::Call(name) => self.call(name),
            Leading::Leaf => self.leaf(),
        }
    }

    fn leading(&self) -> Leading<'t> {
        let kind = self.kind();
        let word = self.slice(self.token().span);
        let metricsql = self.metricsql && kind == TokenKind::Word;
        if kind == TokenKind::LeftParen {
            return Leading::Paren;
        }
        if metricsql && let Some(template) = self.template(word) {
            return Leading::Template(template);
        }
        let aggregate = match kind {
            TokenKind::Keyword(Keyword::Aggregate(op)) => Some(op),
            _ if metricsql => AggregateOp::of_metricsql(word),
            _ => None,
        };
        if let Some(op) = aggregate.filter(|_| self.aggregates()) {
            return Leading::Aggregate(op);
        }
        match self.function_name() {
            Some(name) if metricsql && name.eq_ignore_ascii_case("with") => Leading::With,
            Some(name) => Leading::Call(name),
            None => Leading::Leaf,
        }
    }

    /// The name of the function that is called here, if one is.
    fn function_name(&self) -> Option<&'t str> {
        if self.ahead(1).kind != TokenKind::LeftParen {
            return None;
        }
        match self.kind() {
            TokenKind::Word => Some(self.slice(self.token().span)),
            TokenKind::Keyword(keyword) => keyword.function_name(),
            _ => None,
        }
    }

    fn leaf(&mut self) -> Result<Expr> {
        let token = self.token();
        let kind = match token.kind {
            TokenKind::Number => ExprKind::Number(self.number()?),
            TokenKind::Duration => ExprKind::Seconds(self.number()?),
            TokenKind::String => ExprKind::String(self.string()?),
            TokenKind::LeftBrace => return self.selector(None),
            TokenKind::Word | TokenKind::MetricName => return self.selector(Some(token)),
            TokenKind::Keyword(keyword) if !keyword.is_reserved() => return self.selector(Some(token)),
            _ => return Err(self.unexpected("", "")),
        };
        self.height = 1;
        Ok(Expr { kind, span: token.span })
    }

    /// A number, or a duration as seconds.
    fn number(&mut self) -> Result<f64> {
        let token = self.advance();
        let word = self.slice(token.span);
        if token.kind == TokenKind::Duration {
            let ms = literal::duration_ms(word).map_err(|m| self.error(token.span, m))?;
            return Ok(ms as f64 / 1000.0);
        }
        literal::number(word)
            .ok_or_else(|| self.error(token.span, format!("error parsing number: {}", literal::quote(word))))
    }

    /// A number that may have a sign.
    fn signed_number(&mut self, context: &str, expected: &str) -> Result<f64> {
        let negative = self.kind() == TokenKind::Op(BinaryOp::Sub);
        if negative || self.kind() == TokenKind::Op(BinaryOp::Add) {
            self.advance();
        }
        match self.kind() {
            TokenKind::Number | TokenKind::Duration => {
                let value = self.number()?;
                Ok(if negative { -value } else { value })
            }
            _ => Err(self.unexpected(context, expected)),
        }
    }

    fn string(&mut self) -> Result<String> {
        let token = self.advance();
        let word = self.slice(token.span);
        literal::unquote(word).map_err(|error| match error {
            StringError::Escape(offset, message) => {
                let start = token.span.start as usize + offset;
                self.error(Span::new(start, token.span.end as usize), message)
            }
            StringError::NotUtf8 => self
                .error(token.span, format!("{word} is not valid UTF-8"))
                .with_remedy("write code points as \\u00e9, not bytes as \\xe9"),
        })
    }

    fn paren(&mut self) -> Result<Expr> {
        let open = self.advance();
        let inner = self.expr(0)?;
        let close = self.expect(TokenKind::RightParen, "", "")?;
        self.height = self.above(self.height, 0)?;
        Ok(Expr { kind: ExprKind::Paren(Box::new(inner)), span: open.span.to(close.span) })
    }

    fn call(&mut self, name: &str) -> Result<Expr> {
        let name_span = self.advance().span;
        let known = table::lookup(name).filter(|function| self.metricsql || !function.metricsql);
        let Some(function) = known else {
            return match self.metricsql && name == "firing" {
                true => self.firing(name_span),
                false => Err(self.unknown(name, name_span)),
            };
        };
        let (args, close) = self.arguments()?;
        let kind = ExprKind::Call(Call { function, args, name_span, keep_name: false });
        Ok(Expr { kind, span: name_span.to(close) })
    }

    fn unknown(&self, name: &str, span: Span) -> Error {
        let error = self.error(span, format!("unknown function with name {}", literal::quote(name)));
        match nearest_function(name) {
            Some(known) => error.with_remedy(format!("did you mean {known}?")),
            None => error,
        }
    }

    /// `( expr, … )`; returns the span of the closing parenthesis.
    fn arguments(&mut self) -> Result<(Vec<Expr>, Span)> {
        self.expect(TokenKind::LeftParen, "", "")?;
        let mut args = Vec::new();
        let mut height = 0;
        while self.kind() != TokenKind::RightParen {
            args.push(self.expr(0)?);
            height = self.height.max(height);
            if !self.argument_follows()? {
                break;
            }
        }
        let close = self.expect(TokenKind::RightParen, "", "")?;
        self.height = self.above(height, 0)?;
        Ok((args, close.span))
    }

    /// After an argument: whether a comma and another one follow.
    fn argument_follows(&mut self) -> Result<bool> {
        if self.kind() != TokenKind::Comma {
            return Ok(false);
        }
        let comma = self.advance();
        if self.kind() == TokenKind::RightParen {
            let message = "trailing commas not allowed in function call args";
            return Err(self.error(comma.span, message));
        }
        Ok(true)
    }

    /// A selector whose name, if any, is the next token.
    fn selector(&mut self, name: Option<Token>) -> Result<Expr> {
        let mut span = self.token().span;
        let name = name.map(|token| {
            self.at += 1;
            self.slice(token.span).to_owned()
        });
        let mut filter = Filter::All(Vec::new());
        if self.kind() == TokenKind::LeftBrace {
            let (braces, close) = self.braces()?;
            filter = braces;
            span = span.to(close);
        }
        self.height = 1;
        let selector = Selector { name, filter, offset: None, at: None, extension: None };
        Ok(Expr { kind: ExprKind::Selector(selector), span })
    }
}

/// The function whose name is the fewest edits away, if that is few enough to be a slip.
fn nearest_function(name: &str) -> Option<&'static str> {
    let few = 1 + name.len() / 5;
    let name = name.to_ascii_lowercase();
    table::FUNCTIONS
        .iter()
        .map(|f| (edits(&name, f.name), !f.name.starts_with(&name), f.name))
        .filter(|(distance, ..)| *distance <= few)
        .min()
        .map(|(_, _, known)| known)
}

/// Levenshtein distance over bytes; `a` is cut to 64.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().take(64).enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
