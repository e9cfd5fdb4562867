//! Text to tokens. Three modes, as in Prometheus' lexer: plain; between braces, where every word is a
//! label; between brackets, where `:` separates range and step.

use metricsdb_model::Span;

use crate::syntax::literal;
use crate::syntax::tree::{AggregateOp, BinaryOp};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Token {
    pub kind: TokenKind,
    pub span: Span,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TokenKind {
    /// A word without a colon; between braces also every keyword.
    Word,
    /// A word with a colon.
    MetricName,
    Number,
    Duration,
    /// With its quotes.
    String,
    Keyword(Keyword),
    Op(BinaryOp),
    /// `=`, `=~`, `!~`; `!=` is `Op(NotEqual)`.
    Assign,
    MatchRegex,
    MatchNotRegex,
    LeftParen,
    RightParen,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    Comma,
    Colon,
    At,
    /// `;` and `$w` are of statements alone.
    Semicolon,
    Window,
    End,
    /// The text stops being PromQL here; `Lexed::error` says why. Always the last token.
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keyword {
    Aggregate(AggregateOp),
    And,
    Or,
    Unless,
    Atan2,
    Offset,
    Anchored,
    Smoothed,
    By,
    Without,
    On,
    Ignoring,
    GroupLeft,
    GroupRight,
    Bool,
    Fill,
    FillLeft,
    FillRight,
    Start,
    End,
    Step,
    Range,
    MinOf,
    MaxOf,
}

impl Keyword {
    /// Keywords are case-insensitive.
    pub fn lookup(word: &str) -> Option<Keyword> {
        use AggregateOp as A;
        let lower = word.to_ascii_lowercase();
        Some(match lower.as_str() {
            "and" => Keyword::And,
            "or" => Keyword::Or,
            "unless" => Keyword::Unless,
            "atan2" => Keyword::Atan2,
            "offset" => Keyword::Offset,
            "anchored" => Keyword::Anchored,
            "smoothed" => Keyword::Smoothed,
            "by" => Keyword::By,
            "without" => Keyword::Without,
            "on" => Keyword::On,
            "ignoring" => Keyword::Ignoring,
            "group_left" => Keyword::GroupLeft,
            "group_right" => Keyword::GroupRight,
            "bool" => Keyword::Bool,
            "fill" => Keyword::Fill,
            "fill_left" => Keyword::FillLeft,
            "fill_right" => Keyword::FillRight,
            "start" => Keyword::Start,
            "end" => Keyword::End,
            "step" => Keyword::Step,
            "range" => Keyword::Range,
            "min_of" => Keyword::MinOf,
            "max_of" => Keyword::MaxOf,
            "sum" => Keyword::Aggregate(A::Sum),
            "avg" => Keyword::Aggregate(A::Avg),
            "min" => Keyword::Aggregate(A::Min),
            "max" => Keyword::Aggregate(A::Max),
            "count" => Keyword::Aggregate(A::Count),
            "group" => Keyword::Aggregate(A::Group),
            "stddev" => Keyword::Aggregate(A::Stddev),
            "stdvar" => Keyword::Aggregate(A::Stdvar),
            "topk" => Keyword::Aggregate(A::Topk),
            "bottomk" => Keyword::Aggregate(A::Bottomk),
            "quantile" => Keyword::Aggregate(A::Quantile),
            "count_values" => Keyword::Aggregate(A::CountValues),
            "limitk" => Keyword::Aggregate(A::Limitk),
            "limit_ratio" => Keyword::Aggregate(A::LimitRatio),
            _ => return None,
        })
    }

    /// The function that the word names where a parenthesis follows.
    pub fn function_name(self) -> Option<&'static str> {
        match self {
            Keyword::Start => Some("start"),
            Keyword::End => Some("end"),
            Keyword::Step => Some("step"),
            Keyword::Range => Some("range"),
            Keyword::MinOf => Some("min_of"),
            Keyword::MaxOf => Some("max_of"),
            _ => None,
        }
    }

    /// Not usable as a metric name, as in Prometheus.
    pub fn is_reserved(self) -> bool {
        use Keyword::{Atan2, Bool, GroupLeft, GroupRight, Ignoring, On};
        matches!(self, Atan2 | Bool | GroupLeft | GroupRight | Ignoring | On)
    }
}

/// The tokens of a text; the last one is `End` or `Error`.
pub(super) struct Lexed {
    pub tokens: Vec<Token>,
    pub error: Option<LexError>,
}

pub(super) struct LexError {
    pub message: String,
    pub span: Span,
    pub remedy: Option<String>,
}

/// What a text may hold beside PromQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    /// What comes from MetricsQL.
    pub metricsql: bool,
    pub statements: bool,
}

/// O(length of the text).
pub(super) fn lex(text: &str, dialect: Dialect) -> Lexed {
    let Dialect { metricsql, statements } = dialect;
    let header = statements.then_some(Header::Outside);
    let (parens, brace, bracket) = (Vec::new(), None, None);
    let mut lexer =
        Lexer { text, metricsql, at: 0, parens, brace, bracket, seen_colon: false, header, block: None };
    let mut tokens = Vec::with_capacity(text.len() / 4 + 2);
    loop {
        match lexer.token() {
            Ok(token) => {
                tokens.push(token);
                lexer.follow(token);
                if token.kind == TokenKind::End {
                    return Lexed { tokens, error: None };
                }
            }
            Err(error) => {
                tokens.push(Token { kind: TokenKind::Error, span: error.span });
                return Lexed { tokens, error: Some(error) };
            }
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    /// Numbers may end in `K`, `Ki`, ….
    metricsql: bool,
    at: usize,
    /// Where each open parenthesis stands.
    parens: Vec<usize>,
    brace: Option<usize>,
    bracket: Option<usize>,
    seen_colon: bool,
    /// Where statements are read: how much of a group's head has come.
    header: Option<Header>,
    /// The brace that opened a group.
    block: Option<usize>,
}

/// `GROUP name [EVERY dur] [OFFSET dur] [LIMIT n] [LABELS map] {`: the last brace opens no selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    Outside,
    /// After `GROUP`.
    Word,
    /// After the name, or more.
    Named,
    /// From `LABELS` to the end of the map.
    Map,
}

fn is_word_start(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic()
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// A character as Go's `%q` prints it.
fn quoted(c: char) -> String {
    match c {
        '\'' => "'\\''".to_owned(),
        _ if c.is_control() => format!("{:?}", c),
        _ => format!("'{c}'"),
    }
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.at += rest.find(|c| !keep(c)).unwrap_or(rest.len());
    }

    fn error(&self, start: usize, message: impl Into<String>) -> LexError {
        LexError { message: message.into(), span: Span::new(start, self.at.max(start)), remedy: None }
    }

    /// Something that opens at `open` is never closed: reported at the end, where it is missing.
    fn unclosed(&self, open: usize, message: &str, closing: &str) -> LexError {
        let (line, column) = Span::new(open, open).line_column(self.text);
        let opening = self.text.get(open..).and_then(|rest| rest.chars().next()).unwrap_or(' ');
        let remedy = format!("add {closing} for the {opening} at {line}:{column}");
        let end = self.text.len();
        LexError { message: message.to_owned(), span: Span::new(end, end), remedy: Some(remedy) }
    }

    /// Takes note of what came, for the braces that may follow.
    fn follow(&mut self, token: Token) {
        let Some(header) = self.header else { return };
        let word = self.text.get(token.span.start as usize..token.span.end as usize).unwrap_or("");
        let is = |known: &str| word.eq_ignore_ascii_case(known);
        self.header = Some(match (header, token.kind) {
            (Header::Map, TokenKind::RightBrace) => Header::Named,
            (Header::Map, TokenKind::LeftBrace | TokenKind::Word | TokenKind::Keyword(_)) => Header::Map,
            (Header::Map, TokenKind::Assign | TokenKind::String | TokenKind::Comma) => Header::Map,
            (Header::Word, TokenKind::Word) if is("labels") => Header::Outside,
            (Header::Word, TokenKind::Word | TokenKind::MetricName | TokenKind::String) => Header::Named,
            (Header::Named, TokenKind::Word) if is("labels") => Header::Map,
            (Header::Named, TokenKind::Word) if is("every") || is("limit") => Header::Named,
            (Header::Named, TokenKind::Number) => Header::Named,
            (Header::Named, TokenKind::Keyword(Keyword::Offset) | TokenKind::Duration) => Header::Named,
            (_, TokenKind::Keyword(Keyword::Aggregate(AggregateOp::Group))) if self.parens.is_empty() => {
                Header::Word
            }
            _ => Header::Outside,
        });
    }

    fn skip_blanks(&mut self) {
        loop {
            self.take_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r'));
            // Prometheus knows no comments between brackets.
            if self.bracket.is_some() || self.peek() != Some('#') {
                return;
            }
            self.take_while(|c| c != '\n' && c != '\r');
        }
    }

    fn token(&mut self) -> Result<Token, LexError> {
        self.skip_blanks();
        let start = self.at;
        let Some(c) = self.peek() else { return self.end() };
        let kind = match c {
            '0'..='9' => self.number()?,
            '.' if self.rest()[1..].starts_with(|d: char| d.is_ascii_digit()) => self.number()?,
            '"' | '\'' => self.quoted(c)?,
            '`' => self.raw()?,
            _ if is_word_start(c) => self.word(),
            ':' if self.bracket.is_none() && self.brace.is_none() => self.word(),
            _ => self.symbol(c)?,
        };
        Ok(Token { kind, span: Span::new(start, self.at) })
    }

    fn end(&self) -> Result<Token, LexError> {
        if let Some(at) = self.brace {
            return Err(self.unclosed(at, "unexpected end of input inside braces", "}"));
        }
        if let Some(at) = self.bracket {
            return Err(self.unclosed(at, "unclosed left bracket", "]"));
        }
        if let Some(&at) = self.parens.last() {
            return Err(self.unclosed(at, "unclosed left parenthesis", ")"));
        }
        if let Some(at) = self.block {
            return Err(self.unclosed(at, "unclosed group", "}"));
        }
        Ok(Token { kind: TokenKind::End, span: Span::new(self.at, self.at) })
    }

    fn word(&mut self) -> TokenKind {
        let start = self.at;
        if self.brace.is_some() {
            self.take_while(is_word);
            return TokenKind::Word;
        }
        let colons = self.bracket.is_none();
        self.take_while(|c| is_word(c) || (colons && c == ':'));
        let word = self.text.get(start..self.at).unwrap_or("");
        if let Some(keyword) = Keyword::lookup(word) {
            TokenKind::Keyword(keyword)
        } else if word.eq_ignore_ascii_case("inf") || word.eq_ignore_ascii_case("nan") {
            TokenKind::Number
        } else if word.contains(':') {
            TokenKind::MetricName
        } else {
            TokenKind::Word
        }
    }

    /// A number or a duration: told apart here, judged by `literal`.
    fn number(&mut self) -> Result<TokenKind, LexError> {
        let start = self.at;
        let bytes = self.rest().as_bytes();
        let byte = |i: usize| bytes.get(i).copied().unwrap_or(0);
        let mut n = 0;
        if byte(0) == b'0' && matches!(byte(1), b'x' | b'X') {
            n = 2;
            while byte(n).is_ascii_hexdigit() || byte(n) == b'_' {
                n += 1;
            }
        } else {
            while byte(n).is_ascii_digit() || matches!(byte(n), b'.' | b'_') {
                n += 1;
            }
            let sign = usize::from(matches!(byte(n + 1), b'+' | b'-'));
            if matches!(byte(n), b'e' | b'E') && byte(n + 1 + sign).is_ascii_digit() {
                n += 1 + sign;
                while byte(n).is_ascii_digit() || byte(n) == b'_' {
                    n += 1;
                }
            }
        }
        self.at += n;
        let mut kind = TokenKind::Number;
        if self.peek().is_some_and(is_word) {
            kind = TokenKind::Duration;
            self.take_while(is_word);
        }
        let word = self.text.get(start..self.at).unwrap_or("");
        if kind == TokenKind::Duration && self.metricsql && literal::suffixed(word).is_some() {
            return Ok(TokenKind::Number);
        }
        let units = word.trim_start_matches(|c: char| c.is_ascii_digit());
        if kind == TokenKind::Duration && !units.starts_with(['s', 'm', 'h', 'd', 'w', 'y']) {
            return Err(self.error(start, format!("bad number or duration syntax: {word:?}")));
        }
        Ok(kind)
    }

    fn quoted(&mut self, quote: char) -> Result<TokenKind, LexError> {
        let start = self.at;
        self.at += 1;
        while let Some(c) = self.peek() {
            match c {
                '\n' => break,
                '\\' => {
                    self.at += 1;
                    match self.peek() {
                        None | Some('\n') => break,
                        Some(escaped) => self.at += escaped.len_utf8(),
                    }
                }
                _ => {
                    self.at += c.len_utf8();
                    if c == quote {
                        return Ok(TokenKind::String);
                    }
                }
            }
        }
        let remedy = format!("close it with {quote}");
        let error = self.error(start, "unterminated quoted string");
        Err(LexError { remedy: Some(remedy), ..error })
    }

    fn raw(&mut self) -> Result<TokenKind, LexError> {
        let start = self.at;
        self.at += 1;
        self.take_while(|c| c != '`');
        if self.peek().is_none() {
            let remedy = Some("close it with a back quote".to_owned());
            return Err(LexError { remedy, ..self.error(start, "unterminated raw string") });
        }
        self.at += 1;
        Ok(TokenKind::String)
    }

    fn symbol(&mut self, c: char) -> Result<TokenKind, LexError> {
        let start = self.at;
        self.at += c.len_utf8();
        let next = self.peek();
        let (kind, two) = match (c, next) {
            (',', _) => (TokenKind::Comma, false),
            ('=', Some('=')) => (TokenKind::Op(BinaryOp::Equal), true),
            ('=', Some('~')) if self.brace.is_some() => (TokenKind::MatchRegex, true),
            ('=', Some('~')) => {
                return Err(self.error(start, "unexpected character after '=': '~'"));
            }
            ('=', _) => (TokenKind::Assign, false),
            ('!', Some('=')) => (TokenKind::Op(BinaryOp::NotEqual), true),
            ('!', Some('~')) if self.brace.is_some() => (TokenKind::MatchNotRegex, true),
            ('!', next) => {
                let place = if self.brace.is_some() { " inside braces" } else { "" };
                let found = next.map_or("end of input".to_owned(), quoted);
                return Err(self.error(start, format!("unexpected character after '!'{place}: {found}")));
            }
            ('<', Some('=')) => (TokenKind::Op(BinaryOp::LessEqual), true),
            ('>', Some('=')) => (TokenKind::Op(BinaryOp::GreaterEqual), true),
            ('<', Some('/')) => (TokenKind::Op(BinaryOp::TrimUpper), true),
            ('>', Some('/')) => (TokenKind::Op(BinaryOp::TrimLower), true),
            ('<', _) => (TokenKind::Op(BinaryOp::Less), false),
            ('>', _) => (TokenKind::Op(BinaryOp::Greater), false),
            ('+', _) => (TokenKind::Op(BinaryOp::Add), false),
            ('-', _) => (TokenKind::Op(BinaryOp::Sub), false),
            ('*', _) => (TokenKind::Op(BinaryOp::Mul), false),
            ('/', _) => (TokenKind::Op(BinaryOp::Div), false),
            ('%', _) => (TokenKind::Op(BinaryOp::Mod), false),
            ('^', _) => (TokenKind::Op(BinaryOp::Pow), false),
            ('@', _) => (TokenKind::At, false),
            (';', _) if self.header.is_some() && self.brace.is_none() => (TokenKind::Semicolon, false),
            ('$', Some('w')) if self.header.is_some() => (TokenKind::Window, true),
            (':', _) if self.bracket.is_some() => (self.colon(start)?, false),
            ('(' | ')' | '{' | '}' | '[' | ']', _) => (self.bracketing(c, start)?, false),
            _ => {
                let place = if self.brace.is_some() { " inside braces" } else { "" };
                return Err(self.error(start, format!("unexpected character{place}: {}", quoted(c))));
            }
        };
        self.at += usize::from(two);
        Ok(kind)
    }

    fn colon(&mut self, start: usize) -> Result<TokenKind, LexError> {
        if self.seen_colon {
            return Err(self.error(start, "unexpected colon ':'"));
        }
        self.seen_colon = true;
        Ok(TokenKind::Colon)
    }

    fn bracketing(&mut self, c: char, start: usize) -> Result<TokenKind, LexError> {
        Ok(match c {
            '(' => {
                self.parens.push(start);
                TokenKind::LeftParen
            }
            ')' => {
                if self.parens.pop().is_none() {
                    return Err(self.error(start, "unexpected right parenthesis ')'"));
                }
                TokenKind::RightParen
            }
            '{' if self.header == Some(Header::Named) && self.block.is_none() => {
                self.block = Some(start);
                TokenKind::LeftBrace
            }
            '}' if self.brace.is_none() && self.block.is_some() && self.parens.is_empty() => {
                self.block = None;
                TokenKind::RightBrace
            }
            '{' if self.brace.is_some() => return Err(self.error(start, "unexpected left brace '{'")),
            '{' => {
                self.brace = Some(start);
                TokenKind::LeftBrace
            }
            '}' => {
                if self.brace.take().is_none() {
                    return Err(self.error(start, "unexpected character: '}'"));
                }
                TokenKind::RightBrace
            }
            '[' if self.bracket.is_some() => return Err(self.error(start, "unexpected left bracket '['")),
            '[' => {
                self.bracket = Some(start);
                self.seen_colon = false;
                TokenKind::LeftBracket
            }
            _ => {
                if self.bracket.take().is_none() {
                    return Err(self.error(start, "unexpected right bracket ']'"));
                }
                TokenKind::RightBracket
            }
        })
    }
}
