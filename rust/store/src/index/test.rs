//! What a selector asks of one label, and which posting lists answer it.

use metricsdb_model::predicate::num_matches;
use metricsdb_model::regex::Regex;
use metricsdb_model::{Budget, MatchOp, NumOp, Predicate, Result};
use roaring::RoaringBitmap;

use super::gather::Gather;
use super::label::{Label, State};
use super::lists::Ids;
use crate::symbols::Symbols;

/// Values or lists handled under one hold of a label's lock, and between two looks at the budget.
const BLOCK: usize = 2048;

/// A test of a label's value; "" where the label is absent.
#[derive(Clone, Copy)]
pub(super) enum Test<'p> {
    Word(&'p str),
    Words(&'p [String]),
    Pattern(&'p Regex),
    Number(NumOp, f64),
}

/// A leaf of the selector's tree: the label, its test, and whether the outcome is turned round.
pub(super) struct Leaf<'p> {
    pub name: &'p str,
    pub test: Test<'p>,
    pub negative: bool,
}

impl<'p> Leaf<'p> {
    /// `None` for the inner nodes of the tree.
    pub(super) fn of(predicate: &'p Predicate) -> Option<Leaf<'p>> {
        let (name, test, negative) = match predicate {
            Predicate::Match(m) => {
                let test = match &m.regex {
                    None => Test::Word(&m.value),
                    Some(regex) => regex.literals().map_or(Test::Pattern(regex), Test::Words),
                };
                (&m.name, test, matches!(m.op, MatchOp::NotEqual | MatchOp::NotRegex))
            }
            Predicate::OneOf { name, values } => (name, Test::Words(values), false),
            Predicate::Num { name, op, value } => (name, Test::Number(*op, *value), false),
            Predicate::All(_) | Predicate::Any(_) | Predicate::Not(_) => return None,
        };
        Some(Leaf { name, test, negative })
    }
}

impl Test<'_> {
    pub(super) fn accepts(&self, text: &str) -> bool {
        match self {
            Test::Word(word) => *word == text,
            Test::Words(words) => words.iter().any(|w| w == text),
            Test::Pattern(regex) => regex.is_match(text),
            Test::Number(op, than) => num_matches(text, *op, *than),
        }
    }

    /// True for a test that every value passes.
    pub(super) fn takes_any(&self) -> bool {
        matches!(self, Test::Pattern(regex) if regex.takes_any())
    }

    /// About how many values must be looked up or tested, and how many ids merged.
    pub(super) fn work(&self, label: &Label, symbols: &Symbols) -> u64 {
        let state = label.read();
        let len = |word: &str| find(&state, symbols, word).map_or(0, |at| state.ids_len(at));
        match self {
            Test::Word(word) => len(word),
            Test::Words(words) if words.len() <= 64 => words.iter().map(|w| len(w)).sum(),
            Test::Words(words) => words.len() as u64 * 8,
            Test::Pattern(regex) if regex.takes_any() => state.has.len() / 64,
            Test::Pattern(regex) => match regex.prefixes() {
                Some(prefixes) if prefixes.len() <= 64 => {
                    prefixes.iter().map(|p| state.count_prefix(symbols, p)).sum::<u64>() * 4
                }
                _ => state.entries.len() as u64 * 4,
            },
            Test::Number(..) => state.entries.len() as u64 * 4,
        }
    }

    /// The series whose label has a value, and one that passes.
    pub(super) fn series(&self, label: &Label, symbols: &Symbols, budget: &Budget) -> Result<RoaringBitmap> {
        match self {
            Test::Word(word) => Ok(words(label, symbols, [*word].into_iter())),
            Test::Words(list) => Ok(words(label, symbols, list.iter().map(String::as_str))),
            Test::Pattern(regex) if regex.takes_any() => Ok(label.read().has.clone()),
            Test::Pattern(regex) => match candidates(regex, label, symbols) {
                Some(positions) => {
                    let mut out = Gather::default();
                    for block in positions.chunks(BLOCK) {
                        budget.check()?;
                        let state = label.read();
                        let passing =
                            block.iter().filter(|&&at| regex.is_match(&symbols.get(state.value(at))));
                        passing.for_each(|&at| out.add(state.ids(at)));
                    }
                    Ok(out.finish())
                }
                None => self.scan(label, symbols, budget),
            },
            Test::Number(..) => self.scan(label, symbols, budget),
        }
    }

    /// Tests every value, in the order of arrival, in which texts lie side by side.
    fn scan(&self, label: &Label, symbols: &Symbols, budget: &Budget) -> Result<RoaringBitmap> {
        let count = label.read().entries.len();
        let mut hits: Vec<u32> = Vec::new();
        for start in (0..count).step_by(BLOCK) {
            budget.check()?;
            let state = label.read();
            let block = state.entries.get(start..count.min(start + BLOCK)).unwrap_or(&[]);
            let passing =
                block.iter().zip(start as u32..).filter(|(e, _)| self.accepts(&symbols.get(e.value)));
            hits.extend(passing.map(|(_, at)| at));
        }
        if hits.len() <= count / 2 {
            return gather(label, hits.iter().copied(), budget);
        }
        // Most values pass: the series of the others, taken from all that have the label, are fewer.
        let mut passing = hits.iter().copied().peekable();
        let failing = (0..count as u32).filter(|at| passing.next_if_eq(at).is_none());
        let failing = gather(label, failing, budget)?;
        Ok(&label.read().has - failing)
    }
}

pub(super) fn find(state: &State, symbols: &Symbols, word: &str) -> Option<u32> {
    symbols.lookup(word).and_then(|value| state.find(value))
}

/// The values that begin as the regex demands; `None` when that is no help.
fn candidates(regex: &Regex, label: &Label, symbols: &Symbols) -> Option<Vec<u32>> {
    let state = label.read();
    let mut positions = Vec::new();
    for prefix in regex.prefixes()? {
        state.with_prefix(symbols, prefix, &mut positions);
    }
    // Values side by side are tested four times as fast as values in order of their text.
    (positions.len() <= state.entries.len() / 4 + 64).then_some(positions)
}

fn words<'w>(label: &Label, symbols: &Symbols, words: impl Iterator<Item = &'w str>) -> RoaringBitmap {
    let mut out = Gather::default();
    let state = label.read();
    for at in words.filter_map(|w| find(&state, symbols, w)) {
        out.add(state.ids(at));
    }
    out.finish()
}

fn gather(label: &Label, positions: impl Iterator<Item = u32>, budget: &Budget) -> Result<RoaringBitmap> {
    let mut positions = positions.peekable();
    let mut out = Gather::default();
    while positions.peek().is_some() {
        budget.check()?;
        let state = label.read();
        positions.by_ref().take(BLOCK).for_each(|at| out.add(state.ids(at)));
    }
    Ok(out.finish())
}

/// Whether some series of a posting list is among `ids`.
pub(super) fn meets(list: Ids<'_>, ids: &RoaringBitmap) -> bool {
    match list {
        Ids::List(list) => list.iter().any(|&id| ids.contains(id)),
        Ids::Bitmap(list) => !list.is_disjoint(ids),
    }
}
