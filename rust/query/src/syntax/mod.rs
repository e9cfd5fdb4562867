//! PromQL text to tree and back. Knows no storage and no evaluation.

mod check;
mod duration;
mod json;
mod lexer;
pub(crate) mod literal;
mod parser;
mod predicate;
mod printer;
pub mod statement;
pub mod tree;

use metricsdb_model::{Error, Predicate, Result};

pub use json::to_json;
pub use literal::quote;
pub use predicate::predicate;
pub use printer::pretty;
pub(crate) use printer::{Aggregation, Operator};
use statement::{Program, Statement};
use tree::{Expr, ExprKind};

/// The checked tree of an expression: all of PromQL with its experimental parts, the boolean selectors, and
/// MetricsQL's additions. Fails with `Error::Parse`, in Prometheus' words where Prometheus has words for it, and with
/// `Error::Limit` for a text past `QUERY_BYTES_MAX`. O(length).
pub fn parse(text: &str) -> Result<Expr> {
    checked(text, true)
}

/// As `parse`, but without what comes from MetricsQL: for the tests that PromQL keeps its meaning beside it.
#[doc(hidden)]
pub fn parse_without_metricsql(text: &str) -> Result<Expr> {
    checked(text, false)
}

/// The statements of a text, all checked. A text that is an expression is one query, whatever its first word.
/// Fails as `parse` does. O(length).
pub fn program(text: &str) -> Result<Program> {
    match parse(text) {
        Ok(expr) => Ok(Program { statements: vec![Statement::Query(expr)] }),
        Err(_) if parser::has_statements(text) => parser::program(text),
        Err(error) => Err(error),
    }
}

fn checked(text: &str, metricsql: bool) -> Result<Expr> {
    let mut expr = parser::parse(text, metricsql)?;
    check::check(text, &mut expr)?;
    Ok(expr)
}

/// The predicate of a text that is just a selector, as `match[]` parameters are. Fails with
/// `Error::Parse` for any other expression, and for a selector with a modifier.
pub fn selector(text: &str) -> Result<Predicate> {
    let expr = parse(text)?;
    match &expr.kind {
        ExprKind::Selector(s) if s.offset.is_none() && s.at.is_none() && s.extension.is_none() => {
            Ok(predicate(s))
        }
        _ => Err(Error::parse(text, expr.span, "expected a series selector without modifiers")
            .with_remedy("write it as name{label=\"value\"}")),
    }
}

#[cfg(test)]
mod tests;
