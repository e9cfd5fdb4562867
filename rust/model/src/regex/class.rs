//! Character classes and escapes of RE2: `[…]`, `\d`, `[[:alpha:]]`, `\pL`, `\x{1F600}`.

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

use super::parse::Refusal;

/// What one escape stands for.
pub(super) enum Item {
    /// A code point; a surrogate is one too, though no text has it.
    Code(u32),
    Class(ClassUnicode),
}

const ESCAPE: &str = "invalid escape sequence";

const PERL: [(char, &str); 3] = [('d', "09"), ('s', "\t\n\x0c\r  "), ('w', "09AZaz__")];

/// Pairs of first and last character.
const POSIX: [(&str, &str); 14] = [
    ("alnum", "09AZaz"),
    ("alpha", "AZaz"),
    ("ascii", "\0\x7f"),
    ("blank", "\t\t  "),
    ("cntrl", "\0\x1f\x7f\x7f"),
    ("digit", "09"),
    ("graph", "!~"),
    ("lower", "az"),
    ("print", " ~"),
    ("punct", "!/:@[`{~"),
    ("space", "\t\r  "),
    ("upper", "AZ"),
    ("word", "09AZaz__"),
    ("xdigit", "09AFaf"),
];

pub(super) fn range(first: char, last: char, fold: bool) -> ClassUnicode {
    folded(ClassUnicode::new([ClassUnicodeRange::new(first, last)]), fold)
}

fn folded(mut class: ClassUnicode, fold: bool) -> ClassUnicode {
    if fold {
        // Fails only when regex-syntax is built without its case tables.
        let _ = class.try_case_fold_simple();
    }
    class
}

/// The class of the pairs in `ranges`; folded before it is negated, as in Go.
fn listed(ranges: &str, negated: bool, fold: bool) -> ClassUnicode {
    let mut chars = ranges.chars();
    let pairs = std::iter::from_fn(|| Some(ClassUnicodeRange::new(chars.next()?, chars.next()?)));
    finished(ClassUnicode::new(pairs), negated, fold)
}

fn finished(class: ClassUnicode, negated: bool, fold: bool) -> ClassUnicode {
    let mut class = folded(class, fold);
    if negated {
        class.negate();
    }
    class
}

fn take(rest: &mut &str) -> Option<char> {
    let c = rest.chars().next()?;
    *rest = &rest[c.len_utf8()..];
    Some(c)
}

/// What was read of `before` so far.
fn read<'p>(before: &'p str, rest: &str) -> &'p str {
    &before[..before.len() - rest.len()]
}

/// From `[` past its `]`.
pub(super) fn bracketed(rest: &mut &str, fold: bool) -> Result<ClassUnicode, Refusal> {
    let before = *rest;
    let missing = || Refusal::new("missing closing ]", before);
    take(rest);
    let negated = rest.starts_with('^');
    if negated {
        take(rest);
    }
    let mut class = ClassUnicode::empty();
    let mut first = true;
    while first || !rest.starts_with(']') {
        first = false;
        if rest.is_empty() {
            return Err(missing());
        }
        if let Some(posix) = posix(rest, fold)? {
            class.union(&posix);
            continue;
        }
        let start = *rest;
        match class_item(rest, fold)?.ok_or_else(missing)? {
            Item::Class(c) => class.union(&c),
            Item::Code(low) => {
                let mut high = low;
                let dash =
                    rest.strip_prefix('-').filter(|after| !after.is_empty() && !after.starts_with(']'));
                if let Some(after) = dash {
                    *rest = after;
                    high = match class_item(rest, fold)?.ok_or_else(missing)? {
                        Item::Code(high) if high >= low => high,
                        Item::Code(_) => {
                            return Err(Refusal::new("invalid character class range", read(start, rest)));
                        }
                        Item::Class(_) => return Err(Refusal::new(ESCAPE, read(after, rest))),
                    };
                }
                add_codes(&mut class, low, high);
            }
        }
    }
    take(rest);
    Ok(finished(class, negated, fold))
}

/// One character or escape inside of brackets; `None` at the end of the pattern.
fn class_item(rest: &mut &str, fold: bool) -> Result<Option<Item>, Refusal> {
    if rest.starts_with('\\') {
        escape(rest, fold).map(Some)
    } else {
        Ok(take(rest).map(|c| Item::Code(c.into())))
    }
}

/// Adds a range of code points, leaving out the surrogates.
fn add_codes(class: &mut ClassUnicode, low: u32, high: u32) {
    for (low, high) in [(low, high.min(0xd7ff)), (low.max(0xe000), high)] {
        if let (true, Some(low), Some(high)) = (low <= high, char::from_u32(low), char::from_u32(high)) {
            class.push(ClassUnicodeRange::new(low, high));
        }
    }
}

/// `[:name:]` or `[:^name:]`; `[:` without its end is text.
fn posix(rest: &mut &str, fold: bool) -> Result<Option<ClassUnicode>, Refusal> {
    let Some((inside, after)) = rest.strip_prefix("[:").and_then(|t| t.split_once(":]")) else {
        return Ok(None);
    };
    let (negated, name) = match inside.strip_prefix('^') {
        Some(name) => (true, name),
        None => (false, inside),
    };
    let part = read(rest, after);
    let known = POSIX.iter().find(|p| p.0 == name);
    let (_, ranges) = known.ok_or_else(|| Refusal::new("invalid character class range", part))?;
    *rest = after;
    Ok(Some(listed(ranges, negated, fold)))
}

/// From `\` past the escape.
pub(super) fn escape(rest: &mut &str, fold: bool) -> Result<Item, Refusal> {
    let before = *rest;
    take(rest);
    let Some(c) = take(rest) else {
        return Err(Refusal::new("trailing backslash at end of expression", ""));
    };
    if let Some((_, ranges)) = PERL.iter().find(|p| p.0 == c.to_ascii_lowercase()) {
        return Ok(Item::Class(listed(ranges, c.is_ascii_uppercase(), fold)));
    }
    let code = match c {
        'p' | 'P' => return unicode(rest, before, c == 'P', fold).map(Item::Class),
        'a' => Some(7),
        'f' => Some(12),
        't' => Some(9),
        'n' => Some(10),
        'r' => Some(13),
        'v' => Some(11),
        'x' => hexadecimal(rest),
        // A single digit but 0 would be a back-reference, which RE2 does not have.
        '1'..='7' if !rest.starts_with(|c| ('0'..='7').contains(&c)) => None,
        '0'..='7' => Some(octal(c, rest)),
        _ if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(c.into()),
        _ => None,
    };
    code.map(Item::Code).ok_or_else(|| Refusal::new(ESCAPE, read(before, rest)))
}

/// Up to three octal digits, of which one is read.
fn octal(first: char, rest: &mut &str) -> u32 {
    let mut code = u32::from(first) - u32::from('0');
    for _ in 0..2 {
        let Some(digit) = rest.chars().next().and_then(|c| c.to_digit(8)) else { break };
        take(rest);
        code = code * 8 + digit;
    }
    code
}

/// `7F` or `{10FFFF}` after `\x`.
fn hexadecimal(rest: &mut &str) -> Option<u32> {
    let digits = match rest.strip_prefix('{') {
        Some(text) => {
            let (digits, after) = text.split_once('}')?;
            *rest = after;
            digits
        }
        None => {
            let (digits, after) = rest.split_at_checked(2)?;
            *rest = after;
            digits
        }
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, 16).ok().filter(|&code| code <= 0x10_ffff)
}

/// `L`, `{Greek}` or `{^Greek}` after `\p` or `\P`.
fn unicode(rest: &mut &str, before: &str, capital: bool, fold: bool) -> Result<ClassUnicode, Refusal> {
    let refusal = |rest: &str| Refusal::new("invalid character class range", read(before, rest));
    let name = match rest.strip_prefix('{') {
        Some(text) => {
            let (name, after) = text.split_once('}').ok_or_else(|| refusal(""))?;
            *rest = after;
            name
        }
        None => {
            let text = *rest;
            take(rest).ok_or_else(|| refusal(""))?;
            read(text, rest)
        }
    };
    let (caret, name) = match name.strip_prefix('^') {
        Some(name) => (true, name),
        None => (false, name),
    };
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let tree = if plain { regex_syntax::parse(&format!("\\p{{{name}}}")).ok() } else { None };
    match tree.as_ref().map(|t| t.kind()) {
        Some(HirKind::Class(Class::Unicode(class))) => Ok(finished(class.clone(), caret != capital, fold)),
        _ => Err(refusal(rest)),
    }
}
