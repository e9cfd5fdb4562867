//! Label regexes: RE2's language, fully anchored, `.` matching newlines, as Prometheus compiles them.
//!
//! Most label regexes are lists of words or words with `.*` around them. These never reach the engine:
//! `shape` takes them apart once, and an index reads sets and prefixes off the result.

mod class;
mod engine;
mod expand;
mod parse;
mod shape;

use std::fmt;
use std::sync::{Arc, OnceLock};

use regex_automata::{Anchored, Input, meta};
use regex_syntax::hir::{Hir, Look};

use crate::error::{Error, Result};
use engine::Engine;
use shape::Shape;

/// Alternatives that are tried one by one before the engine is asked instead.
const ALTERNATIVES_TRIED_MAX: usize = 8;

/// A compiled label regex. It always matches whole texts, never parts. Cheap to clone.
#[derive(Clone)]
pub struct Regex(Arc<Compiled>);

struct Compiled {
    pattern: Box<str>,
    shape: Shape,
    /// The pattern between the anchors of the whole text.
    whole: Hir,
    /// Made at once where it is certain to be asked or might be refused, else on demand.
    engine: OnceLock<Option<Engine>>,
    /// Made on demand: only templates need it.
    groups: OnceLock<Option<meta::Regex>>,
    /// Name of each capture group; the first stands for the whole match.
    names: Vec<Option<Box<str>>>,
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Regex({:?})", self.0.pattern)
    }
}

impl Regex {
    /// Fails with `Error::Input`, worded as Go words it, when `pattern` is not RE2 or is too large.
    pub fn new(pattern: &str) -> Result<Regex> {
        let refuse = |message: String| {
            let message = format!("error parsing regexp: {message}");
            Error::input("regex", pattern, message, "write an RE2 expression, as Prometheus takes it")
        };
        let parsed = parse::parse(pattern).map_err(|e| refuse(e.describe()))?;
        let shape = Shape::of(&parsed.hir);
        let whole = Hir::concat(vec![Hir::look(Look::Start), parsed.hir, Hir::look(Look::End)]);
        let engine = OnceLock::new();
        if !(shape.exact && engine::is_small(&whole)) {
            let made = Engine::new(&whole, parsed.names.len());
            if made.is_none() {
                return Err(refuse("expression too large".to_owned()));
            }
            // Set once: the cell is new.
            let _ = engine.set(made);
        }
        let (pattern, names, groups) = (pattern.into(), parsed.names, OnceLock::new());
        Ok(Regex(Arc::new(Compiled { pattern, shape, whole, engine, groups, names })))
    }

    /// The text that `new` was given.
    pub fn pattern(&self) -> &str {
        &self.0.pattern
    }

    pub fn is_match(&self, text: &str) -> bool {
        let shape = &self.0.shape;
        if let Some(literals) = &shape.literals {
            return literals.binary_search_by(|l| (**l).cmp(text)).is_ok();
        }
        if shape.alternatives.len() <= ALTERNATIVES_TRIED_MAX {
            let possible = shape.alternatives.iter().any(|a| a.is_match(text.as_bytes()));
            if shape.exact || !possible {
                return possible;
            }
        }
        let engine = self.0.engine.get_or_init(|| Engine::new(&self.0.whole, self.0.names.len()));
        match engine.as_ref().and_then(|e| e.is_match(text)) {
            Some(hit) => hit,
            None => self.groups().is_some_and(|g| g.is_match(Input::new(text).anchored(Anchored::Yes))),
        }
    }

    /// All texts that match, sorted, where they are few and known; "" may be among them.
    pub fn literals(&self) -> Option<&[String]> {
        self.0.shape.literals.as_deref()
    }

    /// Every non-empty text that matches begins with one of these: sorted, none empty, none the
    /// beginning of another. `None` when nothing of the kind is known.
    pub fn prefixes(&self) -> Option<&[String]> {
        self.0.shape.prefixes.as_deref()
    }

    /// True when every non-empty text is known to match (`.*`, `.+`).
    pub fn takes_any(&self) -> bool {
        self.0.shape.takes_any
    }

    fn groups(&self) -> Option<&meta::Regex> {
        self.0.groups.get_or_init(|| engine::groups(&self.0.whole)).as_ref()
    }

    /// `template` with Go's `$1`, `${1}`, `$name`, `${name}` and `$$` filled in from the match of the whole
    /// `text`; `None` where `text` does not match. A group that is unknown or took no part is empty.
    pub fn captures(&self, text: &str, template: &str) -> Option<String> {
        let engine = self.groups()?;
        let mut groups = engine.create_captures();
        engine.captures(Input::new(text).anchored(Anchored::Yes), &mut groups);
        if !groups.is_match() {
            return None;
        }
        Some(expand::expand(template, |reference| {
            let index = match reference {
                expand::Reference::Number(n) => Some(n),
                expand::Reference::Name(name) => self.0.names.iter().position(|n| n.as_deref() == Some(name)),
            };
            index.and_then(|i| groups.get_group(i)).and_then(|span| text.get(span.range())).unwrap_or("")
        }))
    }
}

#[cfg(test)]
mod tests;
