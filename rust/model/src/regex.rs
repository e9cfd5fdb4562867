//! Label regexes: RE2's language, fully anchored, `.` matching newlines, as Prometheus compiles them.

use crate::error::{Error, Result};

/// A compiled label regex.
#[derive(Clone, Debug)]
pub struct Regex {
    engine: regex_automata::meta::Regex,
}

impl Regex {
    pub fn new(pattern: &str) -> Result<Regex> {
        let anchored = format!("^(?s:{pattern})$");
        let engine = regex_automata::meta::Regex::new(&anchored)
            .map_err(|e| Error::input("regex", pattern, e.to_string(), "write an RE2 expression"))?;
        Ok(Regex { engine })
    }

    pub fn is_match(&self, text: &str) -> bool {
        self.engine.is_match(text)
    }
}
