//! The automata behind a label regex: a lazy DFA that answers yes or no, and a slower engine that knows
//! groups. A DFA alone is made in a fifth of the time, and label texts are too short for anything more.

use regex_automata::hybrid::dfa::{Cache, Config, DFA};
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures};
use regex_automata::util::pool::Pool;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind, meta};
use regex_syntax::hir::{Class, Hir, HirKind};

/// Bytes of the automaton: hundreds of times what a sensible regex needs, made well within a second.
const AUTOMATON_BYTES_MAX: usize = 16 << 20;
/// Bytes that a search for groups may need.
const GROUP_BYTES_MAX: usize = 256 << 20;
/// Bytes of the states that a DFA keeps; beyond, it starts afresh.
const STATE_BYTES: usize = 1 << 20;
/// Parts of a tree that is certain to stay below the limits above: an automaton spends less than 64
/// states of at most 40 bytes on a part that `is_small` counts.
const SMALL_PARTS: usize = 4096;

const _: () = assert!(SMALL_PARTS * 64 * 40 <= AUTOMATON_BYTES_MAX);

pub(super) struct Engine {
    dfa: DFA,
    caches: Pool<Cache, Box<dyn Fn() -> Cache + Send + Sync>>,
}

impl Engine {
    /// `None` when the automaton would be larger than the limits. `groups`: how many the tree has.
    pub(super) fn new(whole: &Hir, groups: usize) -> Option<Engine> {
        let config = thompson::Config::new()
            // Texts are UTF-8, and a match is the whole of one: it cannot split a character.
            .utf8(false)
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(AUTOMATON_BYTES_MAX));
        let nfa = thompson::Compiler::new().configure(config).build_from_hir(whole).ok()?;
        if group_bytes(&nfa, groups) > GROUP_BYTES_MAX {
            return None;
        }
        let config = Config::new()
            .match_kind(MatchKind::LeftmostFirst)
            .cache_capacity(STATE_BYTES)
            .skip_cache_capacity_check(true);
        let dfa = DFA::builder().configure(config).build_from_nfa(nfa).ok()?;
        let maker = dfa.clone();
        Some(Engine { dfa, caches: Pool::new(Box::new(move || maker.create_cache())) })
    }

    /// `None` in the cases, none known, in which a DFA gives up.
    pub(super) fn is_match(&self, text: &str) -> Option<bool> {
        let input = Input::new(text).anchored(Anchored::Yes).earliest(true);
        let mut cache = self.caches.get();
        self.dfa.try_search_fwd(&mut cache, &input).ok().map(|hit| hit.is_some())
    }
}

/// What a search keeps: two places for each group in each state.
fn group_bytes(nfa: &NFA, groups: usize) -> usize {
    nfa.states().len().saturating_mul(groups).saturating_mul(2 * size_of::<usize>())
}

/// The engine that knows groups.
pub(super) fn groups(whole: &Hir) -> Option<meta::Regex> {
    let config = meta::Config::new().utf8_empty(false).auto_prefilter(false).hybrid(false).dfa(false);
    let syntax = syntax::Config::new().utf8(false);
    meta::Builder::new().configure(config).syntax(syntax).build_from_hir(whole).ok()
}

/// Whether an automaton of this tree is certain to be small.
pub(super) fn is_small(whole: &Hir) -> bool {
    parts(whole) <= SMALL_PARTS
}

fn parts(hir: &Hir) -> usize {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 1,
        HirKind::Literal(text) => text.0.len(),
        HirKind::Class(Class::Unicode(class)) if class.iter().count() <= 16 => class.iter().count() + 1,
        HirKind::Class(_) => SMALL_PARTS,
        HirKind::Repetition(r) => {
            let count = r.max.unwrap_or(r.min).max(1) as usize;
            parts(&r.sub).saturating_mul(count).saturating_add(1)
        }
        HirKind::Capture(capture) => parts(&capture.sub).saturating_add(2),
        HirKind::Concat(subs) | HirKind::Alternation(subs) => {
            subs.iter().fold(1, |sum, sub| sum.saturating_add(parts(sub)))
        }
    }
}
