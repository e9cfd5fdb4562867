//! What a regex says about its texts without running it.
//!
//! The tree becomes a short list of alternatives, each a row of fixed texts with gaps between. A gap is
//! `.*`, `.+` or something that only the engine understands; as long as there is none of the last kind the
//! alternatives are the regex.

use std::collections::BTreeSet;

use memchr::memmem::Finder;
use regex_syntax::hir::{Class, Hir, HirKind, Look};

/// Alternatives that a regex is spread into at most; beyond, a part of it counts as unknown.
const ALTERNATIVES_MAX: usize = 1024;
/// Bytes of all alternatives together.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// Characters of a class that is spread into its characters.
const CLASS_CHARS_MAX: usize = 16;

#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub alternatives: Vec<Row>,
    /// The alternatives are the regex; else they only say what is impossible.
    pub exact: bool,
    pub literals: Option<Vec<String>>,
    pub prefixes: Option<Vec<String>>,
    pub takes_any: bool,
}

/// Fixed texts in a row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    prefix: Box<[u8]>,
    /// `None`: the text is just the prefix.
    tail: Option<Tail>,
}

#[derive(Clone, Debug)]
struct Tail {
    /// Fewest bytes between the last inner text (or the prefix) and the suffix: 0 or 1.
    gap: usize,
    /// Each after its own gap.
    inner: Vec<(usize, Finder<'static>)>,
    suffix: Box<[u8]>,
}

impl Row {
    pub(super) fn is_match(&self, text: &[u8]) -> bool {
        let Some(tail) = &self.tail else { return *text == *self.prefix };
        let Some(rest) = text.strip_prefix(&*self.prefix) else { return false };
        let Some(mut rest) = rest.strip_suffix(&*tail.suffix) else { return false };
        for (gap, inner) in &tail.inner {
            let Some(at) = rest.get(*gap..).and_then(|t| inner.find(t)) else { return false };
            rest = &rest[gap + at + inner.needle().len()..];
        }
        rest.len() >= tail.gap
    }
}

#[derive(Clone, PartialEq)]
enum Piece {
    Text(Vec<u8>),
    /// Any text of at least so many characters: 0 or 1.
    Gap(usize),
}

type Pieces = Vec<Piece>;

struct Spread {
    exact: bool,
}

impl Shape {
    pub(super) fn of(hir: &Hir) -> Shape {
        let mut spread = Spread { exact: true };
        let alternatives = spread.alternatives(hir, true, true);
        let rows = |a: &Pieces| row(a.clone());
        let takes = |gap: usize| spread.exact && alternatives.iter().any(|a| *a == [Piece::Gap(gap)]);
        Shape {
            exact: spread.exact,
            literals: if spread.exact { literals(&alternatives) } else { None },
            prefixes: prefixes(&alternatives),
            takes_any: takes(0) || takes(1),
            alternatives: alternatives.iter().map(rows).collect(),
        }
    }
}

impl Spread {
    fn unknown(&mut self) -> Vec<Pieces> {
        self.exact = false;
        vec![vec![Piece::Gap(0)]]
    }

    /// `first` and `last`: nothing of the text can stand before or after what `hir` matches.
    fn alternatives(&mut self, hir: &Hir, first: bool, last: bool) -> Vec<Pieces> {
        match hir.kind() {
            HirKind::Empty => vec![Vec::new()],
            HirKind::Look(Look::Start) if first => vec![Vec::new()],
            HirKind::Look(Look::End) if last => vec![Vec::new()],
            HirKind::Look(_) => self.unknown(),
            HirKind::Literal(text) => vec![vec![Piece::Text(text.0.to_vec())]],
            HirKind::Class(class) => self.class(class),
            HirKind::Capture(capture) => self.alternatives(&capture.sub, first, last),
            HirKind::Repetition(repetition) => {
                let (min, max) = (repetition.min, repetition.max);
                match (min, max) {
                    (0 | 1, None) if is_any(&repetition.sub) => vec![vec![Piece::Gap(min as usize)]],
                    (0, Some(1)) => {
                        let mut out = self.alternatives(&repetition.sub, first, last);
                        out.push(Vec::new());
                        self.bounded(out)
                    }
                    (_, Some(max)) if min == max => {
                        let subs = std::iter::repeat_n(&*repetition.sub, min as usize);
                        self.concatenation(subs, false, false)
                    }
                    _ => self.unknown(),
                }
            }
            HirKind::Concat(subs) => self.concatenation(subs.iter(), first, last),
            HirKind::Alternation(subs) => {
                let out = subs.iter().flat_map(|s| self.alternatives(s, first, last)).collect();
                self.bounded(out)
            }
        }
    }

    fn class(&mut self, class: &Class) -> Vec<Pieces> {
        let Class::Unicode(class) = class else { return self.unknown() };
        let size: usize = class.iter().map(|r| r.len()).sum();
        if size > CLASS_CHARS_MAX {
            return self.unknown();
        }
        let chars = class.iter().flat_map(|r| r.start()..=r.end());
        chars.map(|c| vec![Piece::Text(c.to_string().into_bytes())]).collect()
    }

    fn concatenation<'h>(
        &mut self,
        subs: impl ExactSizeIterator<Item = &'h Hir>,
        first: bool,
        last: bool,
    ) -> Vec<Pieces> {
        let count = subs.len();
        let mut out: Vec<Pieces> = vec![Vec::new()];
        for (i, sub) in subs.enumerate() {
            let next = self.alternatives(sub, first && i == 0, last && i + 1 == count);
            let size = |rows: &[Pieces]| rows.iter().map(|r| 1 + bytes(r)).sum::<usize>();
            let crossed = size(&out) * next.len() + size(&next) * out.len();
            let fits = out.len() * next.len() <= ALTERNATIVES_MAX && crossed <= TEXT_BYTES_MAX;
            let next = if fits { next } else { self.unknown() };
            let pairs = out.iter().flat_map(|head| next.iter().map(move |tail| (head, tail)));
            out = pairs.map(|(head, tail)| self.joined(head, tail)).collect();
        }
        out
    }

    fn joined(&mut self, head: &[Piece], tail: &[Piece]) -> Pieces {
        let mut out = head.to_vec();
        for piece in tail {
            match (out.last_mut(), piece) {
                (Some(Piece::Text(text)), Piece::Text(more)) => text.extend_from_slice(more),
                (Some(Piece::Gap(gap)), Piece::Gap(more)) => {
                    // `.+.+` wants two characters; a gap knows one.
                    self.exact &= *gap + more < 2;
                    *gap = (*gap).max(*more);
                }
                (_, piece) => out.push(piece.clone()),
            }
        }
        out
    }

    fn bounded(&mut self, rows: Vec<Pieces>) -> Vec<Pieces> {
        let size: usize = rows.iter().map(|r| bytes(r)).sum();
        if rows.len() <= ALTERNATIVES_MAX && size <= TEXT_BYTES_MAX { rows } else { self.unknown() }
    }
}

fn bytes(row: &[Piece]) -> usize {
    row.iter().map(|p| if let Piece::Text(t) = p { t.len() } else { 0 }).sum()
}

/// Whether `hir` is one character, any.
fn is_any(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Class(Class::Unicode(class)) => *class == any(),
        HirKind::Capture(capture) => is_any(&capture.sub),
        _ => false,
    }
}

fn any() -> regex_syntax::hir::ClassUnicode {
    let mut class = regex_syntax::hir::ClassUnicode::empty();
    class.negate();
    class
}

fn row(mut pieces: Pieces) -> Row {
    let text = |p: Option<Piece>| if let Some(Piece::Text(t)) = p { t } else { Vec::new() };
    let gap = |p: &Piece| if let Piece::Gap(g) = p { Some(*g) } else { None };
    let prefix = text(pieces.first().cloned()).into_boxed_slice();
    let mut middle = pieces.split_off(usize::from(!prefix.is_empty()).min(pieces.len()));
    if middle.is_empty() {
        return Row { prefix, tail: None };
    }
    let suffix = if middle.last().and_then(gap).is_none() { text(middle.pop()) } else { Vec::new() };
    let last = middle.pop().as_ref().and_then(gap).unwrap_or(0);
    let inner = middle
        .chunks(2)
        .filter_map(|pair| match pair {
            [Piece::Gap(gap), Piece::Text(text)] => Some((*gap, Finder::new(text).into_owned())),
            _ => None,
        })
        .collect();
    Row { prefix, tail: Some(Tail { gap: last, inner, suffix: suffix.into_boxed_slice() }) }
}

fn literals(alternatives: &[Pieces]) -> Option<Vec<String>> {
    let text = |row: &Pieces| match row.as_slice() {
        [] => Some(String::new()),
        [Piece::Text(text)] => String::from_utf8(text.clone()).ok(),
        _ => None,
    };
    let set: Option<BTreeSet<String>> = alternatives.iter().map(text).collect();
    Some(set?.into_iter().collect())
}

fn prefixes(alternatives: &[Pieces]) -> Option<Vec<String>> {
    let mut set = BTreeSet::new();
    for row in alternatives {
        match row.first() {
            Some(Piece::Text(text)) => {
                set.insert(String::from_utf8(text.clone()).ok()?);
            }
            Some(Piece::Gap(_)) => return None,
            // The empty text needs no prefix.
            None => {}
        }
    }
    let mut out: Vec<String> = Vec::new();
    for prefix in set {
        if out.last().is_none_or(|before| !prefix.starts_with(before.as_str())) {
            out.push(prefix);
        }
    }
    Some(out)
}
