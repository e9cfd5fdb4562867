//! Conditions as bits, one an evaluation: each test of an instance once, and the levels of plans as they follow from them.

use super::compile::{ClearTest, LevelPlan, Plan, Test};
use super::readings::Readings;

/// Evaluations of a word.
pub(super) const WORD: usize = 64;

/// What the conditions of a level came to at 64 evaluations, the first in the lowest bit. Bits past the last evaluation
/// mean nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Word {
    pub fire: u64,
    pub clear: u64,
    pub data: u64,
}

/// What they came to at one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub fire: bool,
    pub clear: bool,
    pub data: bool,
}

impl Word {
    pub fn at(self, step: usize) -> Seen {
        let is = |bits: u64| bits >> (step % WORD) & 1 == 1;
        Seen { fire: is(self.fire), clear: is(self.clear), data: is(self.data) }
    }
}

/// Tests of plans with the same queries, each once.
#[derive(Debug, Default)]
pub(super) struct Tests(Vec<Test>);

/// Where the bits of a level come from: places among tests. Equal where plans read the same.
#[derive(Debug, PartialEq)]
pub(super) struct Wire {
    fire: usize,
    clear: usize,
    /// It is clear where the test does not hold.
    clear_unless: bool,
    /// Of queries that have data where there is a value; none: there always is.
    data: Vec<usize>,
}

impl Tests {
    fn place(&mut self, test: Test) -> usize {
        let known = self.0.iter().position(|known| *known == test);
        known.unwrap_or_else(|| {
            self.0.push(test);
            self.0.len() - 1
        })
    }

    /// The levels of a plan.
    pub fn wire(&mut self, plan: &Plan) -> Vec<Wire> {
        plan.levels.iter().map(|level| self.level(level)).collect()
    }

    fn level(&mut self, level: &LevelPlan) -> Wire {
        let fire = self.place(level.fire);
        let (clear, clear_unless) = match level.clear {
            ClearTest::NotFire => (fire, true),
            ClearTest::NotStay(stay) => (self.place(stay), true),
            ClearTest::When(when) => (self.place(when), false),
        };
        let data = level.compared.iter().map(|query| self.place(Test::Present { query: *query })).collect();
        Wire { fire, clear, clear_unless, data }
    }
}

/// The bits of one instance, found when somebody asks.
pub(super) struct Signals<'r> {
    tests: &'r Tests,
    readings: &'r Readings<'r>,
    place: Option<usize>,
    /// Words of a test, and of a level.
    stride: usize,
    known: Vec<bool>,
    bits: Vec<u64>,
    words: Vec<Word>,
}

impl<'r> Signals<'r> {
    pub fn new(tests: &'r Tests, readings: &'r Readings<'r>) -> Signals<'r> {
        let stride = readings.times().len().div_ceil(WORD);
        let count = tests.0.len();
        let (known, bits) = (vec![false; count], vec![0; count * stride]);
        Signals { tests, readings, place: None, stride, known, bits, words: Vec::new() }
    }

    pub fn readings(&self) -> &'r Readings<'r> {
        self.readings
    }

    /// Turns to an instance; `None`: one that has no value.
    pub fn turn(&mut self, place: Option<usize>) {
        self.place = place;
        self.known.fill(false);
    }

    /// The words of each level, one level after the other.
    pub fn words(&mut self, wires: &[Wire]) -> &[Word] {
        for wire in wires {
            [wire.fire, wire.clear].iter().chain(&wire.data).for_each(|test| self.find(*test));
        }
        self.words.clear();
        for wire in wires {
            let of = |test: usize| &self.bits[test * self.stride..][..self.stride];
            let turned = if wire.clear_unless { u64::MAX } else { 0 };
            let both = of(wire.fire).iter().zip(of(wire.clear));
            let first = self.words.len();
            let data = if wire.data.is_empty() { u64::MAX } else { 0 };
            self.words.extend(both.map(|(fire, clear)| Word { fire: *fire, clear: clear ^ turned, data }));
            for test in &wire.data {
                let words = self.words[first..].iter_mut().zip(of(*test));
                words.for_each(|(word, bits)| word.data |= bits);
            }
        }
        &self.words
    }

    fn find(&mut self, test: usize) {
        if !std::mem::replace(&mut self.known[test], true) {
            let bits = &mut self.bits[test * self.stride..][..self.stride];
            bits.fill(0);
            if let Some(place) = self.place {
                self.readings.holds(self.tests.0[test], place, bits);
            }
        }
    }
}
