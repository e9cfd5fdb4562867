//! `EXPLAIN [ANALYZE] expression`. Whatever is an expression stays one: a metric may be called `explain`.

use metricsdb_model::Result;

use crate::syntax::parse;
use crate::syntax::tree::Expr;

/// What a text asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    Query(Expr),
    /// `text` is the expression's, with blanks where the words stood: places in it are those of the whole.
    Explain {
        analyze: bool,
        text: String,
        expr: Expr,
    },
}

/// Errors: `Parse`, of the expression behind the words where there are some.
pub fn statement(text: &str) -> Result<Statement> {
    let error = match parse(text) {
        Ok(expr) => return Ok(Statement::Query(expr)),
        Err(error) => error,
    };
    let Some(behind) = word(text, 0, "explain") else { return Err(error) };
    let explained = |at: usize, analyze: bool| {
        let text = blanked(text, at);
        parse(&text).map(|expr| Statement::Explain { analyze, text, expr })
    };
    let Some(at) = word(text, behind, "analyze") else { return explained(behind, false) };
    // What follows the word may say that it is a metric: `EXPLAIN analyze`, `EXPLAIN analyze{a="b"}`.
    explained(behind, false).or_else(|_| explained(at, true))
}

/// Where a word ends that comes next, in any case; comments and blanks may stand before it.
fn word(text: &str, from: usize, word: &str) -> Option<usize> {
    let mut rest = text.get(from..)?.trim_start();
    while rest.starts_with('#') {
        rest = rest.split_once('\n').map_or("", |(_, behind)| behind).trim_start();
    }
    let found = rest.get(..word.len()).filter(|found| found.eq_ignore_ascii_case(word))?;
    let behind = rest.get(found.len()..)?;
    let ends = behind.chars().next().is_none_or(|c| !(c == '_' || c == ':' || c.is_ascii_alphanumeric()));
    ends.then(|| text.len() - behind.len())
}

/// The text with blanks up to `end`; line breaks stay.
fn blanked(text: &str, end: usize) -> String {
    let (head, tail) = text.split_at(end);
    // A blank for each character, so that columns stay right.
    head.chars().map(|c| if c == '\n' { c } else { ' ' }).collect::<String>() + tail
}
