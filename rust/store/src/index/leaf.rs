//! What a selector asks of one label, and which posting lists answer it.

use std::ops::Range;
use std::sync::Arc;

use metricsdb_model::predicate::num_matches;
use metricsdb_model::regex::Regex;
use metricsdb_model::{Budget, MatchOp, NumOp, Predicate, Result};
use roaring::RoaringBitmap;

use super::gather::Gather;
use super::label::{Label, Outcome, State};
use super::postings::Ids;
use crate::symbols::Symbols;

/// Values or lists handled under one hold of a label's lock, and between two looks at the budget.
const BLOCK: usize = 2048;
/// The same for long values: a test may take some nanoseconds a byte.
const BLOCK_BYTES: usize = 1 << 18;
/// Values of a label from which on the outcomes of its tests are remembered.
const REMEMBER_VALUES_MIN: usize = 512;

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

    /// Values that are tested one by one: none for words, nor where the outcome is remembered.
    pub(super) fn values_tested(&self, label: &Label, symbols: &Symbols) -> u64 {
        let state = label.read();
        let all = state.entries.len();
        match self {
            Test::Word(_) | Test::Words(_) => return 0,
            Test::Pattern(regex) if regex.takes_any() => return 0,
            Test::Pattern(regex) => match regex.prefixes() {
                Some(prefixes) if prefixes.len() <= 64 => {
                    let few: u64 = prefixes.iter().map(|p| state.count_prefix(symbols, p)).sum();
                    if few < all as u64 / 4 {
                        return few;
                    }
                }
                _ => {}
            },
            Test::Number(..) => {}
        }
        drop(state);
        let known = self.key().filter(|_| all >= REMEMBER_VALUES_MIN).and_then(|key| label.recall(&key));
        known.map_or(all, |outcome| all.saturating_sub(outcome.seen)) as u64
    }

    /// The series whose label has a value, and one that passes.
    pub(super) fn series(&self, label: &Label, symbols: &Symbols, budget: &Budget) -> Result<RoaringBitmap> {
        label.steadily(|| self.series_once(label, symbols, budget))
    }

    fn series_once(&self, label: &Label, symbols: &Symbols, budget: &Budget) -> Result<RoaringBitmap> {
        match self {
            Test::Word(word) => words(label, symbols, [*word].into_iter(), budget),
            Test::Words(list) => words(label, symbols, list.iter().map(String::as_str), budget),
            Test::Pattern(regex) if regex.takes_any() => Ok(label.read().has.clone()),
            Test::Pattern(_) | Test::Number(..) => {
                let Outcome { seen, hits, .. } = self.outcome(label, symbols, budget)?;
                if hits.len() <= seen / 2 {
                    return gather(label, hits.iter().copied(), budget);
                }
                // Most values pass: the series of the others, taken from all that have the label, are fewer.
                let mut passing = hits.iter().copied().peekable();
                let failing = (0..seen as u32).filter(|at| passing.next_if_eq(at).is_none());
                let failing = gather(label, failing, budget)?;
                Ok(&label.read().has - failing)
            }
        }
    }

    /// What tells this test from others of its kind.
    fn key(&self) -> Option<String> {
        match self {
            Test::Pattern(regex) => Some(format!("~{}", regex.pattern())),
            Test::Number(op, than) => Some(format!("{op:?} {:x}", than.to_bits())),
            Test::Word(_) | Test::Words(_) => None,
        }
    }

    /// Which of the label's values pass.
    fn outcome(&self, label: &Label, symbols: &Symbols, budget: &Budget) -> Result<Outcome> {
        let (count, moves) = {
            let state = label.read();
            (state.entries.len(), state.moves)
        };
        let key = self.key().filter(|_| count >= REMEMBER_VALUES_MIN);
        let known = key.as_ref().and_then(|k| label.recall(k));
        if let Some(outcome) = known.as_ref().filter(|o| o.seen >= count) {
            return Ok(outcome.clone());
        }
        let begun = match known {
            Some(outcome) => outcome,
            None => self.by_prefix(label, symbols, budget)?.unwrap_or_default(),
        };
        let count = count.max(begun.seen);
        let mut hits = Arc::unwrap_or_clone(begun.hits);
        self.scan(begun.seen..count, label, symbols, budget, &mut hits)?;
        let outcome = Outcome { moves, seen: count, hits: Arc::new(hits) };
        if let Some(key) = key {
            label.remember(key, outcome.clone());
        }
        Ok(outcome)
    }

    /// Tests values in the order of their arrival, in which texts lie side by side.
    fn scan(
        &self,
        range: Range<usize>,
        label: &Label,
        symbols: &Symbols,
        budget: &Budget,
        hits: &mut Vec<u32>,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            budget.check()?;
            let (state, mut bytes) = (label.read(), 0);
            let Some(block) = state.entries.get(at..range.end.min(at + BLOCK)) else { break };
            for entry in block {
                let text = symbols.get(entry.value);
                if self.accepts(&text) {
                    hits.push(at as u32);
                }
                at += 1;
                bytes += text.len();
                if bytes > BLOCK_BYTES {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The outcome for a regex that names the beginnings of its texts, unless so many values begin like
    /// that that a scan is as good.
    fn by_prefix(&self, label: &Label, symbols: &Symbols, budget: &Budget) -> Result<Option<Outcome>> {
        let Test::Pattern(regex) = self else { return Ok(None) };
        let Some(prefixes) = regex.prefixes() else { return Ok(None) };
        let mut positions = Vec::new();
        let seen = {
            let state = label.read();
            prefixes.iter().for_each(|p| state.with_prefix(symbols, p, &mut positions));
            state.entries.len()
        };
        if positions.len() > seen / 4 + 64 {
            return Ok(None);
        }
        let mut hits = Vec::with_capacity(positions.len());
        for block in positions.chunks(BLOCK) {
            budget.check()?;
            let state = label.read();
            hits.extend(block.iter().copied().filter(|&at| regex.is_match(&symbols.get(state.value(at)))));
        }
        hits.sort_unstable();
        Ok(Some(Outcome { seen, hits: Arc::new(hits), ..Outcome::default() }))
    }
}

pub(super) fn find(state: &State, symbols: &Symbols, word: &str) -> Option<u32> {
    symbols.lookup(word).and_then(|value| state.find(value))
}

fn words<'w>(
    label: &Label,
    symbols: &Symbols,
    words: impl Iterator<Item = &'w str>,
    budget: &Budget,
) -> Result<RoaringBitmap> {
    let mut words = words.peekable();
    let mut out = Gather::default();
    while words.peek().is_some() {
        budget.check()?;
        let state = label.read();
        out.add(words.by_ref().take(BLOCK).filter_map(|w| find(&state, symbols, w)).map(|at| state.ids(at)));
    }
    Ok(out.finish())
}

fn gather(label: &Label, positions: impl Iterator<Item = u32>, budget: &Budget) -> Result<RoaringBitmap> {
    let mut positions = positions.peekable();
    let mut out = Gather::default();
    while positions.peek().is_some() {
        budget.check()?;
        let state = label.read();
        out.add(positions.by_ref().take(BLOCK).map(|at| state.ids(at)));
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
