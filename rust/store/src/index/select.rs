//! The boolean tree of a selector over posting lists.
//!
//! A part of the tree becomes the series that it takes, or the series that it leaves out, whichever is
//! at hand: `a!="x"` is one posting list, left out. Conjunctions start with the cheapest part and hand
//! what is left to the next, which may then look at those series instead of at every value.

use hashbrown::HashMap;
use metricsdb_model::{Budget, Predicate, Result};
use roaring::RoaringBitmap;

use super::label::Label;
use super::leaf::{Leaf, Test, find};
use super::postings::Ids;
use super::{Forward, Index};

/// How many values are tested in the time that one series' label is fetched and tested.
const FORWARD_WORK: u64 = 8;

/// A set of series, right at least for the series that were asked about.
pub(super) enum Set {
    /// These.
    In(RoaringBitmap),
    /// All but these.
    Out(RoaringBitmap),
}

impl Set {
    fn not(self) -> Set {
        match self {
            Set::In(ids) => Set::Out(ids),
            Set::Out(ids) => Set::In(ids),
        }
    }

    fn or(self, other: Set) -> Set {
        match (self, other) {
            (Set::In(a), Set::In(b)) => Set::In(a | b),
            (Set::In(a), Set::Out(b)) | (Set::Out(b), Set::In(a)) => Set::Out(b - a),
            (Set::Out(a), Set::Out(b)) => Set::Out(a & b),
        }
    }

    fn and(self, other: Set) -> Set {
        match (self, other) {
            (Set::In(a), Set::In(b)) => Set::In(a & b),
            (Set::In(a), Set::Out(b)) | (Set::Out(b), Set::In(a)) => Set::In(a - b),
            (Set::Out(a), Set::Out(b)) => Set::Out(a | b),
        }
    }
}

pub(super) struct Selection<'a> {
    pub index: &'a Index,
    pub forward: &'a dyn Forward,
    pub budget: &'a Budget,
}

/// What a part of a conjunction will be: those that leave out come last, cheap ones first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    leaves_out: bool,
    work: u64,
}

impl Selection<'_> {
    /// `within`: only these series matter to the caller; `None`: all.
    pub(super) fn eval(&self, predicate: &Predicate, within: Option<&RoaringBitmap>) -> Result<Set> {
        if let Some(leaf) = Leaf::of(predicate) {
            return self.leaf(&leaf, within);
        }
        match predicate {
            Predicate::All(parts) => self.all(parts, within),
            Predicate::Any(parts) => {
                let mut out = Set::In(RoaringBitmap::new());
                for part in parts {
                    out = out.or(self.eval(part, within)?);
                }
                Ok(out)
            }
            Predicate::Not(part) => Ok(self.eval(part, within)?.not()),
            Predicate::Match(_) | Predicate::OneOf { .. } | Predicate::Num { .. } => {
                Ok(Set::In(RoaringBitmap::new()))
            }
        }
    }

    fn all(&self, parts: &[Predicate], within: Option<&RoaringBitmap>) -> Result<Set> {
        let mut parts: Vec<(Cost, &Predicate)> = parts.iter().map(|p| (self.cost(p), p)).collect();
        parts.sort_by(|a, b| a.0.cmp(&b.0));
        let mut acc = Set::Out(RoaringBitmap::new());
        for (_, part) in parts {
            acc = match acc {
                Set::In(ids) if ids.is_empty() => return Ok(Set::In(ids)),
                Set::In(mut ids) => match Leaf::of(part) {
                    Some(leaf) if self.narrow(&mut ids, &leaf) => Set::In(ids),
                    _ => {
                        let other = self.eval(part, Some(&ids))?;
                        Set::In(ids).and(other)
                    }
                },
                out => {
                    let other = self.eval(part, within)?;
                    out.and(other)
                }
            };
        }
        Ok(acc)
    }

    fn cost(&self, predicate: &Predicate) -> Cost {
        if let Some(leaf) = Leaf::of(predicate) {
            let work = self.index.label(leaf.name).map_or(0, |l| leaf.test.work(&l, &self.index.symbols));
            return Cost { leaves_out: leaf.test.accepts("") != leaf.negative, work };
        }
        let sum = |parts: &[Predicate]| -> (bool, bool, u64) {
            parts.iter().map(|p| self.cost(p)).fold((false, true, 0), |(any, all, work), c| {
                (any | c.leaves_out, all & c.leaves_out, work.saturating_add(c.work))
            })
        };
        match predicate {
            Predicate::All(parts) => {
                let (_, leaves_out, work) = sum(parts);
                Cost { leaves_out, work }
            }
            Predicate::Any(parts) => {
                let (leaves_out, _, work) = sum(parts);
                Cost { leaves_out, work }
            }
            Predicate::Not(part) => {
                let cost = self.cost(part);
                Cost { leaves_out: !cost.leaves_out, ..cost }
            }
            Predicate::Match(_) | Predicate::OneOf { .. } | Predicate::Num { .. } => {
                Cost { leaves_out: false, work: 0 }
            }
        }
    }

    /// Label values that a selection tests at most.
    pub(super) fn values_tested(&self, predicate: &Predicate) -> u64 {
        match predicate {
            Predicate::All(parts) | Predicate::Any(parts) => {
                parts.iter().fold(0, |sum, part| sum.saturating_add(self.values_tested(part)))
            }
            Predicate::Not(part) => self.values_tested(part),
            leaf => Leaf::of(leaf).map_or(0, |leaf| {
                let label = self.index.label(leaf.name);
                label.map_or(0, |label| leaf.test.values_tested(&label, &self.index.symbols))
            }),
        }
    }

    /// Cuts `ids` down in place where one stored set suffices; says whether it did.
    fn narrow(&self, ids: &mut RoaringBitmap, leaf: &Leaf<'_>) -> bool {
        let Test::Word(word) = leaf.test else { return false };
        let label = self.index.label(leaf.name);
        let state = label.as_ref().map(|l| l.read());
        let keep = (word.is_empty()) == leaf.negative;
        let cut = |ids: &mut RoaringBitmap, by: &RoaringBitmap| {
            if keep {
                *ids &= by;
            } else {
                *ids -= by;
            }
        };
        let Some(state) = state else {
            cut(ids, &RoaringBitmap::new());
            return true;
        };
        if word.is_empty() {
            cut(ids, &state.has);
            return true;
        }
        match find(&state, &self.index.symbols, word).map_or(Ids::List(&[]), |at| state.ids(at)) {
            Ids::List(list) if keep => *ids = list.iter().copied().filter(|&id| ids.contains(id)).collect(),
            Ids::List(list) => list.iter().for_each(|&id| {
                ids.remove(id);
            }),
            Ids::Bitmap(by) => cut(ids, by),
        }
        true
    }

    fn leaf(&self, leaf: &Leaf<'_>, within: Option<&RoaringBitmap>) -> Result<Set> {
        let takes_absent = leaf.test.accepts("");
        let set = match self.index.label(leaf.name) {
            None if takes_absent => Set::Out(RoaringBitmap::new()),
            None => Set::In(RoaringBitmap::new()),
            // `.*`: with and without the label.
            Some(_) if takes_absent && leaf.test.takes_any() => Set::Out(RoaringBitmap::new()),
            Some(label) => match within.filter(|ids| self.prefers_forward(&leaf.test, &label, ids.len())) {
                Some(ids) => Set::In(self.by_series(leaf, ids)?),
                None => {
                    let series = leaf.test.series(&label, &self.index.symbols, self.budget)?;
                    if takes_absent { Set::Out(&label.read().has - series) } else { Set::In(series) }
                }
            },
        };
        Ok(if leaf.negative { set.not() } else { set })
    }

    /// Whether fetching the label of each of `count` series is less work than testing values.
    fn prefers_forward(&self, test: &Test<'_>, label: &Label, count: u64) -> bool {
        let tests_values = match test {
            Test::Word(_) | Test::Words(_) => false,
            Test::Pattern(regex) => !regex.takes_any(),
            Test::Number(..) => true,
        };
        // The work of a test is four for each value.
        tests_values && count * FORWARD_WORK * 4 < test.work(label, &self.index.symbols)
    }

    /// Those of `ids` whose value passes, absent ones among them.
    fn by_series(&self, leaf: &Leaf<'_>, ids: &RoaringBitmap) -> Result<RoaringBitmap> {
        let symbols = &self.index.symbols;
        let Some(name) = symbols.lookup(leaf.name) else { return Ok(RoaringBitmap::new()) };
        let mut known: HashMap<Option<u32>, bool> = HashMap::new();
        let mut out = Vec::new();
        for (i, id) in ids.iter().enumerate() {
            if i % 1024 == 0 {
                self.budget.check()?;
            }
            let value = self.forward.value(id, name);
            let passes = known.entry(value).or_insert_with(|| match value {
                Some(value) => leaf.test.accepts(&symbols.get(value)),
                None => leaf.test.accepts(""),
            });
            if *passes {
                out.push(id);
            }
        }
        Ok(out.into_iter().collect())
    }
}
