//! Label regexes: RE2's language, fully anchored, `.` matching newlines, as Prometheus compiles them.
//!
//! Most label regexes are lists of words or words with `.*` around them. These never reach the engine:
//! `shape` takes them apart once, and an index reads sets and prefixes off the result.

mod class;
mod expand;
mod parse;
mod shape;

use std::fmt;

use regex_automata::meta;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};
use regex_syntax::hir::{Hir, Look};

use crate::error::{Error, Result};
use shape::Shape;

/// Bytes that a compiled regex may take: hundreds of times what a sensible one needs, and compiled in
/// well under a second.
const ENGINE_BYTES_MAX: usize = 16 << 20;
/// Alternatives that are tried one by one before the engine is asked instead.
const ALTERNATIVES_TRIED_MAX: usize = 8;

/// A compiled label regex. It always matches whole texts, never parts.
#[derive(Clone)]
pub struct Regex {
    pattern: Box<str>,
    engine: meta::Regex,
    shape: Shape,
    /// Name of each capture group; the first stands for the whole match.
    names: Vec<Option<Box<str>>>,
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Regex({:?})", self.pattern)
    }
}

impl Regex {
    /// Fails with `Error::Input`, worded as Go words it, when `pattern` is not RE2 or is too large.
    pub fn new(pattern: &str) -> Result<Regex> {
        let refuse = |message: String| {
            Error::input("regex", pattern, message, "write an RE2 expression, as Prometheus takes it")
        };
        let parsed =
            parse::parse(pattern).map_err(|e| refuse(format!("error parsing regexp: {}", e.describe())))?;
        let shape = Shape::of(&parsed.hir);
        let whole = Hir::concat(vec![Hir::look(Look::Start), parsed.hir, Hir::look(Look::End)]);
        let config = meta::Config::new()
            // Texts are UTF-8, and a match is the whole of one: it cannot split a character.
            .utf8_empty(false)
            .auto_prefilter(false)
            .nfa_size_limit(Some(ENGINE_BYTES_MAX))
            .onepass_size_limit(Some(1 << 20));
        let engine = meta::Builder::new()
            .configure(config)
            .syntax(syntax::Config::new().utf8(false))
            .build_from_hir(&whole)
            .map_err(|_| refuse("error parsing regexp: expression too large".to_owned()))?;
        Ok(Regex { pattern: pattern.into(), engine, shape, names: parsed.names })
    }

    /// The text that `new` was given.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    pub fn is_match(&self, text: &str) -> bool {
        if let Some(literals) = self.literals() {
            return literals.binary_search_by(|l| (**l).cmp(text)).is_ok();
        }
        if self.shape.alternatives.len() <= ALTERNATIVES_TRIED_MAX {
            let possible = self.shape.alternatives.iter().any(|a| a.is_match(text.as_bytes()));
            if self.shape.exact || !possible {
                return possible;
            }
        }
        self.engine.is_match(Input::new(text).anchored(Anchored::Yes))
    }

    /// All texts that match, sorted, where they are few and known; "" may be among them.
    pub fn literals(&self) -> Option<&[String]> {
        self.shape.literals.as_deref()
    }

    /// Every non-empty text that matches begins with one of these: sorted, none empty, none the
    /// beginning of another. `None` when nothing of the kind is known.
    pub fn prefixes(&self) -> Option<&[String]> {
        self.shape.prefixes.as_deref()
    }

    /// True when every non-empty text is known to match (`.*`, `.+`).
    pub fn takes_any(&self) -> bool {
        self.shape.takes_any
    }

    /// `template` with Go's `$1`, `${1}`, `$name`, `${name}` and `$$` filled in from the match of the whole
    /// `text`; `None` where `text` does not match. A group that is unknown or took no part is empty.
    pub fn captures(&self, text: &str, template: &str) -> Option<String> {
        let mut groups = self.engine.create_captures();
        self.engine.captures(Input::new(text).anchored(Anchored::Yes), &mut groups);
        if !groups.is_match() {
            return None;
        }
        Some(expand::expand(template, |reference| {
            let index = match reference {
                expand::Reference::Number(n) => Some(n),
                expand::Reference::Name(name) => self.names.iter().position(|n| n.as_deref() == Some(name)),
            };
            index.and_then(|i| groups.get_group(i)).and_then(|span| text.get(span.range())).unwrap_or("")
        }))
    }
}

#[cfg(test)]
mod tests;
