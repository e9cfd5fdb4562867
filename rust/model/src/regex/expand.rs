//! Go's template language of `Regexp.Expand`.

pub(super) enum Reference<'a> {
    Number(usize),
    Name(&'a str),
}

/// `template` with every reference replaced by what `group` gives for it.
pub(super) fn expand<'t>(template: &str, group: impl Fn(Reference<'_>) -> &'t str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = reference(after) {
            out.push_str(group(parse(name)));
            rest = after;
        } else {
            // A `$` that begins no reference is text.
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// A number has no leading zero and fewer than ten digits; all else is a name.
fn parse(name: &str) -> Reference<'_> {
    let digits = name.bytes().all(|b| b.is_ascii_digit());
    let canonical = name == "0" || !name.starts_with('0');
    match name.parse() {
        Ok(n) if digits && canonical && name.len() < 10 => Reference::Number(n),
        _ => Reference::Name(name),
    }
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
