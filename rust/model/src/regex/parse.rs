//! RE2's syntax as Go's `regexp/syntax` reads it with its Perl flags, into the engine's tree.
//!
//! Our own parser, because the languages differ: `\d`, `\w`, `\s`, `\b` are ASCII, `\Q…\E` and octal
//! escapes exist, `a**`, `a{1001}` and flags such as `x` are refused, a stray `{` is text, `&&` in a class
//! is two characters.

use regex_syntax::hir::{Capture, Class, ClassUnicode, Dot, Hir, Look, Repetition};

use super::class::{self, Item};
use crate::bounds::NESTING_MAX;

/// Go's limit for a repeat count, and for the product of nested ones.
const REPEAT_MAX: u32 = 1000;

pub(super) struct Parsed {
    pub hir: Hir,
    pub names: Vec<Option<Box<str>>>,
}

/// What is wrong, in Go's words, and the offending part of the pattern.
#[derive(Debug)]
pub(super) struct Refusal {
    code: &'static str,
    part: String,
}

impl Refusal {
    pub(super) fn new(code: &'static str, part: &str) -> Refusal {
        Refusal { code, part: part.to_owned() }
    }

    pub(super) fn describe(&self) -> String {
        if self.part.is_empty() { self.code.to_owned() } else { format!("{}: `{}`", self.code, self.part) }
    }
}

#[derive(Clone, Copy)]
struct Flags {
    fold: bool,
    lines: bool,
    dot_newline: bool,
    ungreedy: bool,
}

/// A piece of a concatenation.
struct Part {
    hir: Hir,
    /// Product of nested repeat counts, as `REPEAT_MAX` limits it.
    repeats: u32,
    /// Levels of nesting below.
    height: usize,
}

impl Part {
    fn leaf(hir: Hir) -> Part {
        Part { hir, repeats: 1, height: 0 }
    }
}

struct Parser<'p> {
    pattern: &'p str,
    /// What is left to read.
    rest: &'p str,
    flags: Flags,
    names: Vec<Option<Box<str>>>,
}

/// Reads `pattern` with `.` matching newlines. Linear in its length; nesting is limited.
pub(super) fn parse(pattern: &str) -> Result<Parsed, Refusal> {
    let flags = Flags { fold: false, lines: false, dot_newline: true, ungreedy: false };
    let mut parser = Parser { pattern, rest: pattern, flags, names: vec![None] };
    let part = parser.alternation(0)?;
    if !parser.rest.is_empty() {
        return Err(Refusal::new("unexpected )", pattern));
    }
    Ok(Parsed { hir: part.hir, names: parser.names })
}

impl<'p> Parser<'p> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn take_text(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Up to a `)` that it did not open, or to the end.
    fn alternation(&mut self, depth: usize) -> Result<Part, Refusal> {
        if depth > NESTING_MAX {
            return Err(Refusal::new("expression nests too deeply", ""));
        }
        let mut branches = Vec::new();
        let (mut repeats, mut height) = (1, 0);
        loop {
            let part = self.concatenation(depth)?;
            branches.push(part.hir);
            repeats = repeats.max(part.repeats);
            height = height.max(part.height);
            if !self.take_text("|") {
                return Ok(Part { hir: Hir::alternation(branches), repeats, height });
            }
        }
    }

    fn concatenation(&mut self, depth: usize) -> Result<Part, Refusal> {
        let mut parts: Vec<Part> = Vec::new();
        let mut after_repeat = "";
        while let Some(c) = self.peek() {
            let before = self.rest;
            let mut repeat = "";
            match c {
                '|' | ')' => break,
                '(' => parts.extend(self.group(depth)?),
                '[' => {
                    let class = class::bracketed(&mut self.rest, self.flags.fold)?;
                    parts.push(Part::leaf(Hir::class(Class::Unicode(class))));
                }
                '\\' => self.escape(&mut parts)?,
                _ => match self.repeat()? {
                    Some((min, max)) => {
                        let greedy = self.take_text("?") == self.flags.ungreedy;
                        repeat = &before[..before.len() - self.rest.len()];
                        if !after_repeat.is_empty() {
                            let both =
                                &self.pattern[self.pattern.len() - before.len() - after_repeat.len()..];
                            let both = &both[..after_repeat.len() + repeat.len()];
                            return Err(Refusal::new("invalid nested repetition operator", both));
                        }
                        let missing = Refusal::new("missing argument to repetition operator", repeat);
                        let part = parts.pop().ok_or(missing)?;
                        parts.push(repeated(part, min, max, greedy, repeat)?);
                    }
                    None => {
                        self.take();
                        parts.push(Part::leaf(self.plain(c)));
                    }
                },
            }
            after_repeat = repeat;
        }
        let repeats = parts.iter().map(|p| p.repeats).max().unwrap_or(1);
        let height = parts.iter().map(|p| p.height).max().unwrap_or(0);
        Ok(Part { hir: Hir::concat(parts.into_iter().map(|p| p.hir).collect()), repeats, height })
    }

    fn plain(&self, c: char) -> Hir {
        let flags = self.flags;
        match c {
            '.' if flags.dot_newline => Hir::dot(Dot::AnyChar),
            '.' => Hir::dot(Dot::AnyCharExceptLF),
            '^' => Hir::look(if flags.lines { Look::StartLF } else { Look::Start }),
            '$' => Hir::look(if flags.lines { Look::EndLF } else { Look::End }),
            _ => self.literal(c),
        }
    }

    fn literal(&self, c: char) -> Hir {
        if self.flags.fold {
            Hir::class(Class::Unicode(class::range(c, c, true)))
        } else {
            Hir::literal(c.encode_utf8(&mut [0; 4]).as_bytes())
        }
    }

    /// A repetition operator, without its `?`; `{` that begins none is text.
    fn repeat(&mut self) -> Result<Option<(u32, Option<u32>)>, Refusal> {
        let counts = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => return self.counted_repeat(),
            _ => return Ok(None),
        };
        self.take();
        Ok(Some(counts))
    }

    fn counted_repeat(&mut self) -> Result<Option<(u32, Option<u32>)>, Refusal> {
        let Some((inside, rest)) = self.rest.get(1..).and_then(|t| t.split_once('}')) else {
            return Ok(None);
        };
        let (min, max) = match inside.split_once(',') {
            Some((min, "")) => (min, None),
            Some((min, max)) => (min, Some(max)),
            None => (inside, Some(inside)),
        };
        // Leading zeros make it text, as in Go.
        let is_count = |s: &str| {
            !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()) && (s == "0" || !s.starts_with('0'))
        };
        if !is_count(min) || max.is_some_and(|m| !is_count(m)) {
            return Ok(None);
        }
        let size = |s: &str| s.parse::<u32>().ok().filter(|&n| n <= REPEAT_MAX);
        let refusal = || Refusal::new("invalid repeat count", &self.rest[..inside.len() + 2]);
        let min = size(min).ok_or_else(refusal)?;
        let max = match max {
            Some(max) => Some(size(max).filter(|&max| min <= max).ok_or_else(refusal)?),
            None => None,
        };
        self.rest = rest;
        Ok(Some((min, max)))
    }

    /// From `(` past its `)`; nothing for a group that only sets flags.
    fn group(&mut self, depth: usize) -> Result<Option<Part>, Refusal> {
        let outer = self.flags;
        self.take();
        let mut capture = None;
        if self.rest.starts_with("?P<") || self.rest.starts_with("?<") {
            capture = Some(self.group_name()?);
        } else if self.rest.starts_with('?') {
            if self.group_flags()? {
                return Ok(None);
            }
        } else {
            capture = Some(None);
        }
        let index = self.names.len() as u32;
        let captures = capture.is_some();
        self.names.extend(capture);
        let inner = self.alternation(depth + 1)?;
        if !self.take_text(")") {
            return Err(Refusal::new("missing closing )", self.pattern));
        }
        self.flags = outer;
        let sub = Box::new(inner.hir);
        let hir = if captures { Hir::capture(Capture { index, name: None, sub }) } else { *sub };
        Ok(Some(Part { hir, repeats: inner.repeats, height: inner.height + 1 }))
    }

    fn group_name(&mut self) -> Result<Option<Box<str>>, Refusal> {
        let text = self.rest;
        let refusal = |end: usize| Refusal::new("invalid named capture", &format!("({}", &text[..end]));
        let start = text.find('<').map_or(0, |at| at + 1);
        let end = text.find('>').ok_or_else(|| refusal(text.len()))?;
        let name = &text[start..end];
        let known = self.names.iter().any(|n| n.as_deref() == Some(name));
        let valid = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if known {
            return Err(Refusal::new("duplicate capture group name", name));
        }
        if !valid {
            return Err(refusal(end + 1));
        }
        self.rest = &text[end + 1..];
        Ok(Some(name.into()))
    }

    /// `?flags)` (true) or `?flags:` (false).
    fn group_flags(&mut self) -> Result<bool, Refusal> {
        let before = self.rest;
        self.take();
        let mut flags = self.flags;
        let (mut negative, mut any) = (false, false);
        while let Some(c) = self.take() {
            match c {
                'i' => flags.fold = !negative,
                'm' => flags.lines = !negative,
                's' => flags.dot_newline = !negative,
                'U' => flags.ungreedy = !negative,
                '-' if !negative => {
                    negative = true;
                    any = false;
                    continue;
                }
                ')' | ':' if any || !negative => {
                    self.flags = flags;
                    return Ok(c == ')');
                }
                _ => break,
            }
            any = true;
        }
        let part = &before[..before.len() - self.rest.len()];
        Err(Refusal::new("invalid or unsupported Perl syntax", &format!("({part}")))
    }

    /// From `\` on, outside of classes.
    fn escape(&mut self, parts: &mut Vec<Part>) -> Result<(), Refusal> {
        let look = match self.rest.as_bytes().get(1) {
            Some(b'A') => Some(Look::Start),
            Some(b'z') => Some(Look::End),
            Some(b'b') => Some(Look::WordAscii),
            Some(b'B') => Some(Look::WordAsciiNegate),
            _ => None,
        };
        if let Some(look) = look {
            self.rest = &self.rest[2..];
            parts.push(Part::leaf(Hir::look(look)));
        } else if self.take_text("\\Q") {
            let (quoted, rest) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
            self.rest = rest;
            parts.extend(quoted.chars().map(|c| Part::leaf(self.literal(c))));
        } else {
            let class: ClassUnicode = match class::escape(&mut self.rest, self.flags.fold)? {
                Item::Class(class) => class,
                Item::Code(code) => match char::from_u32(code) {
                    Some(c) => {
                        parts.push(Part::leaf(self.literal(c)));
                        return Ok(());
                    }
                    // A surrogate: no text has it.
                    None => ClassUnicode::empty(),
                },
            };
            parts.push(Part::leaf(Hir::class(Class::Unicode(class))));
        }
        Ok(())
    }
}

fn repeated(part: Part, min: u32, max: Option<u32>, greedy: bool, text: &str) -> Result<Part, Refusal> {
    let height = part.height + 1;
    if height > NESTING_MAX {
        return Err(Refusal::new("expression nests too deeply", ""));
    }
    let counted = min >= 2 || max.is_some_and(|m| m >= 2);
    let repeats = match max.unwrap_or(min) {
        0 if max == Some(0) => 1,
        count => part.repeats.saturating_mul(count.max(1)),
    };
    if counted && repeats > REPEAT_MAX {
        return Err(Refusal::new("invalid repeat count", text));
    }
    let hir = Hir::repetition(Repetition { min, max, greedy, sub: Box::new(part.hir) });
    Ok(Part { hir, repeats, height })
}
