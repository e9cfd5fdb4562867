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

    /// `template` with Go's `$1`, `${1}`, `$name`, `${name}` and `$$` filled in from the match of the whole
    /// `text`; `None` where `text` does not match. A group that is unknown or took no part is empty.
    pub fn captures(&self, text: &str, template: &str) -> Option<String> {
        let mut groups = self.engine.create_captures();
        self.engine.captures(text, &mut groups);
        if !groups.is_match() {
            return None;
        }
        let group = |span: Option<regex_automata::Span>| span.and_then(|s| text.get(s.range())).unwrap_or("");
        Some(expand(template, |reference| match reference {
            Reference::Number(n) => group(groups.get_group(n)),
            Reference::Name(name) => group(groups.get_group_by_name(name)),
        }))
    }
}

enum Reference<'a> {
    Number(usize),
    Name(&'a str),
}

/// Go's `Regexp.Expand`.
fn expand<'t>(template: &str, group: impl Fn(Reference<'_>) -> &'t str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = reference(after) {
            let number = name.bytes().all(|b| b.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
            out.push_str(group(match name.parse() {
                Ok(n) if number => Reference::Number(n),
                _ => Reference::Name(name),
            }));
            rest = after;
        } else {
            // Go takes a `$` that begins no reference as text.
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The name after a `$` (in braces or not) and what follows it.
fn reference(text: &str) -> Option<(&str, &str)> {
    let (braced, text) = match text.strip_prefix('{') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let rest = if braced { rest.strip_prefix('}')? } else { rest };
    if name.is_empty() { None } else { Some((name, rest)) }
}
