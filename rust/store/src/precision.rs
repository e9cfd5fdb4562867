//! Which series are rounded, and how: the rules of a database, what they make of samples on their way in, what
//! they would save, and how they are applied to samples that are there already.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{
    Budget, Error, LabelsRef, Policy, Predicate, Quantizer, Result, SeriesSet, TimeRange, ValueKind,
    looks_like_counter,
};
use rayon::prelude::*;

use crate::chunk::{Builder, Chunk, SharedColumns, chunks_of};
use crate::database::Database;
use crate::metadata::COUNTER_ENDINGS;
use crate::shard::{Rules, SHARDS, Shard, Work, id_of};
use crate::view::{ByShard, View};

/// What is known of a series: the number of its rule from 1 on, 0 for none, and this bit for a counter.
const COUNTER: u8 = 0x80;
/// Rules that the number of a series tells apart.
const RULES_MAX: usize = COUNTER as usize - 1;
const _: () = assert!(RULES_MAX == 127, "the message of the error says so");

/// A rule as users write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleText {
    pub selector: String,
    pub policy: String,
    pub counters_exact: bool,
}

/// The rules of a database, in order: the first that matches a series is its own.
#[derive(Default)]
pub struct PrecisionRules {
    rules: Vec<(Predicate, Quantizer)>,
    /// The same, for the journal; of rules that came without text the selector is empty.
    texts: Vec<RuleText>,
}

impl PrecisionRules {
    /// Rules with the text of their selectors.
    pub(crate) fn new(rules: Vec<(String, Predicate, Policy)>) -> Result<PrecisionRules> {
        if rules.len() > RULES_MAX {
            let count = rules.len().to_string();
            let (why, remedy) = ("a database has at most 127", "join selectors that have the same policy");
            return Err(Error::input("precision policies", &count, why, remedy));
        }
        let text = |(selector, _, policy): &(String, Predicate, Policy)| RuleText {
            selector: selector.clone(),
            policy: policy.precision.to_string(),
            counters_exact: policy.counters_exact,
        };
        let texts = rules.iter().map(text).collect();
        let ready = |(_, predicate, policy)| Ok((predicate, Quantizer::new(policy)?));
        Ok(PrecisionRules { rules: rules.into_iter().map(ready).collect::<Result<_>>()?, texts })
    }

    pub(crate) fn texts(&self) -> &[RuleText] {
        &self.texts
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The bits that are kept of a sample; `mark` is that of its series.
    #[inline]
    pub fn apply(&self, mark: u8, kind: ValueKind, bits: u64) -> u64 {
        match self.quantizer(mark) {
            Some(quantizer) => quantizer.apply(kind, mark & COUNTER != 0, bits),
            None => bits,
        }
    }

    #[inline]
    fn quantizer(&self, mark: u8) -> Option<&Quantizer> {
        let at = usize::from(mark & !COUNTER).checked_sub(1)?;
        self.rules.get(at).map(|rule| &rule.1)
    }

    /// The mark of a series that the rule at a position applies to.
    fn mark(at: usize, counter: bool) -> u8 {
        (at as u8 + 1) | if counter { COUNTER } else { 0 }
    }
}

/// What a policy would make of the series of one metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PreviewRow {
    pub metric: String,
    pub series: u64,
    pub samples: u64,
    /// Bytes of sealed chunks, without their times: of the samples as they are, and rounded.
    pub bytes_now: u64,
    pub bytes_then: u64,
    pub abs_error_max: f64,
    /// Of samples that are not 0, as a share of the sample.
    pub rel_error_max: f64,
    /// Root of the mean square of the errors of all samples.
    pub rms_error: f64,
}

/// What `rewrite_precision` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Series that have a rule, and their samples.
    pub series: u64,
    pub samples: u64,
    /// Samples that are others now.
    pub changed: u64,
    /// Bytes of chunks, without what several series hold together.
    pub bytes_before: u64,
    pub bytes_after: u64,
}

impl Database {
    /// Replaces all rules. They apply to what is written from now on; stored samples stay. Costs a selection a
    /// rule and a byte a series. Errors: `Input` for a policy out of its limits or more than
    /// 127 rules; everything is as before then.
    pub fn set_precision(&self, rules: Vec<(Predicate, Policy)>) -> Result<()> {
        let unnamed = rules.into_iter().map(|(predicate, policy)| (String::new(), predicate, policy));
        self.set_precision_rules(unnamed.collect())
    }

    /// The rules as they were written, for who opens a directory.
    pub fn precision_rules(&self) -> Vec<RuleText> {
        self.precision.lock().texts.clone()
    }

    /// As `set_precision`, each rule with the text of its selector, by which it is known again when a directory is
    /// opened.
    pub fn set_precision_rules(&self, rules: Vec<(String, Predicate, Policy)>) -> Result<()> {
        let rules = Arc::new(PrecisionRules::new(rules)?);
        let mut current = self.precision.lock();
        // Series that come after this find their rule themselves.
        let _inside = self.inside();
        let known = self.index.all();
        let (mut free, mut chosen) = ((*known).clone(), Vec::new());
        for (predicate, _) in &rules.rules {
            let ids = self.index.select(predicate, self, &Budget::unlimited())? & &free;
            free -= &ids;
            chosen.push(ByShard::new(&ids, &Budget::unlimited())?);
        }
        let mut counters = HashMap::new();
        for number in 0..SHARDS {
            let shard = &mut *self.shard(number);
            shard.precision = rules.clone();
            let rows: Vec<u32> = shard.series.rows().collect();
            let (old, new): (Vec<u32>, Vec<u32>) =
                rows.into_iter().partition(|&row| known.contains(id_of(shard.number, row)));
            old.iter().for_each(|&row| shard.series.precision[row] = 0);
            for (at, ids) in chosen.iter().enumerate() {
                for &row in ids.rows(number) {
                    if !shard.series.has(row) {
                        continue;
                    }
                    let counter = self.is_counter(shard, row, &mut counters);
                    shard.series.precision[row] = PrecisionRules::mark(at, counter);
                }
            }
            let mut text = Vec::new();
            for row in new {
                let labels = self.labels_of(shard, row, &mut text);
                shard.series.precision[row] = self.mark_of(&rules, labels.as_ref());
            }
            if let Some(journal) = self.journal() {
                journal.rules(shard, &rules.texts);
            }
        }
        *current = rules;
        drop(current);
        self.durably()
    }

    /// The series that each rule applies to. Walks every series.
    pub fn precision_series(&self) -> Vec<u64> {
        let rules = self.precision.lock();
        let mut counts = vec![0; rules.rules.len()];
        for number in 0..SHARDS {
            for mark in self.shard(number).series.precision.iter() {
                let at = usize::from(mark & !COUNTER).wrapping_sub(1);
                counts.get_mut(at).into_iter().for_each(|count| *count += 1);
            }
        }
        counts
    }

    /// The mark of a series by its labels, where no selection is at hand.
    pub(crate) fn mark_of(&self, rules: &PrecisionRules, labels: LabelsRef<'_>) -> u8 {
        let Some(at) = rules.rules.iter().position(|rule| rule.0.matches(labels)) else { return 0 };
        let name = labels.metric_name();
        PrecisionRules::mark(at, looks_like_counter(name, self.metadata.kind_of(name)))
    }

    /// Whether a row is a counter; `known` remembers it by the symbol of the metric's name.
    fn is_counter(&self, shard: &Shard, row: u32, known: &mut HashMap<u32, bool>) -> bool {
        let handle = shard.series.labels[row];
        let symbol = self.symbols.lookup(METRIC_NAME);
        let Some(name) = symbol.and_then(|s| shard.label_sets.value(&self.shapes, handle, s)) else {
            return false;
        };
        *known.entry(name).or_insert_with(|| {
            let text = self.symbols.get(name);
            looks_like_counter(&text, self.metadata.kind_of(&text))
        })
    }

    /// Looks again at the series of families that declared another type than before.
    pub(crate) fn recount(&self, families: &[String]) {
        // What every write asks takes no lock.
        if families.is_empty() || self.precision.lock().is_empty() {
            return;
        }
        // A journal that is being replayed brings marks of its own.
        if !self.await_replay() {
            return;
        }
        let _current = self.precision.lock();
        let named = |family: &String| {
            let all = COUNTER_ENDINGS.iter().chain([&""]);
            all.map(|end| format!("{family}{end}")).collect::<Vec<_>>()
        };
        let names = Predicate::OneOf {
            name: METRIC_NAME.to_owned(),
            values: families.iter().flat_map(named).collect(),
        };
        // Only a budget fails a selection by values, and this one has no limit.
        let budget = Budget::unlimited();
        let _inside = self.inside();
        let ids = self.index.select(&names, self, &budget).unwrap_or_default();
        let Ok(by_shard) = ByShard::new(&ids, &budget) else { return };
        let mut counters = HashMap::new();
        for number in (0..SHARDS).filter(|&number| !by_shard.rows(number).is_empty()) {
            let shard = &mut *self.shard(number);
            let mut changed = Vec::new();
            for &row in by_shard.rows(number) {
                let counter = self.is_counter(shard, row, &mut counters);
                let mark = &mut shard.series.precision[row];
                let new = (*mark & !COUNTER) | if counter { COUNTER } else { 0 };
                if *mark != 0 && *mark != new {
                    *mark = new;
                    changed.push((row, new));
                }
            }
            if let Some(journal) = self.journal() {
                journal.marks(shard, &changed);
            }
        }
    }

    /// What a policy would save on the selected series, and what it would cost: a row a metric, by name.
    /// Changes nothing, and holds no lock while it decodes and encodes. Errors: `Input` for a policy out of its
    /// limits, and what `budget` says, which counts the samples.
    pub fn preview_precision(
        &self,
        predicate: &Predicate,
        policy: Policy,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Vec<PreviewRow>> {
        let quantizer = Quantizer::new(policy)?;
        let view = self.select_exact(predicate, range, budget)?;
        let one = |i: usize| {
            let name = view.labels(i).metric_name().to_owned();
            let counter = looks_like_counter(&name, self.metadata.kind_of(&name));
            let mut row = PreviewRow { metric: name, series: 1, ..PreviewRow::default() };
            measure(&view, i, range, &|kind, bits| quantizer.apply(kind, counter, bits), &mut row)?;
            budget.take_samples(row.samples)?;
            Ok(row)
        };
        let rows: Result<Vec<PreviewRow>> = (0..view.len()).into_par_iter().map(one).collect();
        let mut metrics = BTreeMap::<String, PreviewRow>::new();
        for row in rows?.into_iter().filter(|row| row.samples > 0) {
            match metrics.get_mut(&row.metric) {
                Some(all) => all.merge(&row),
                None => drop(metrics.insert(row.metric.clone(), row)),
            }
        }
        Ok(metrics.into_values().map(PreviewRow::finished).collect())
    }

    /// Applies the rules to what is stored of the selected series. A shard is locked while one of its series is
    /// rewritten: some 50 ns a sample. Errors: what `budget` says, between two series; those done stay done.
    pub fn rewrite_precision(&self, predicate: &Predicate, budget: &Budget) -> Result<Rewritten> {
        let _inside = self.inside();
        let by_shard = ByShard::new(&self.index.select(predicate, self, budget)?, budget)?;
        let (mut done, mut work) = (Rewritten::default(), Work::default());
        for number in 0..SHARDS {
            for &row in by_shard.rows(number) {
                budget.check()?;
                let mut shard = self.shard(number);
                if let Some(journal) = self.journal() {
                    journal.rewrite(&mut shard, row);
                }
                let rewritten = shard.rewrite(row, &self.rules, &mut work, &mut done);
                self.written.note(i64::MIN);
                rewritten?;
            }
        }
        self.durably().map(|()| done)
    }
}

/// Decodes a series, and encodes it twice in the same way.
fn measure(
    view: &View<'_>,
    index: usize,
    range: TimeRange,
    apply: &dyn Fn(ValueKind, u64) -> u64,
    row: &mut PreviewRow,
) -> Result<()> {
    let (mut times, mut bits) = (Vec::new(), Vec::new());
    let runs = view.read_exact(index, range, &mut times, &mut bits)?;
    let (mut times, mut bits) = (times.as_slice(), bits.as_slice());
    let shared = SharedColumns::default();
    for run in runs {
        let (these_times, these) = (times.split_at(run.len), bits.split_at(run.len));
        (times, bits) = (these_times.1, these.1);
        let rounded: Vec<u64> = these.0.iter().map(|&b| apply(run.kind, b)).collect();
        for (&x, &q) in these.0.iter().zip(&rounded).filter(|(x, q)| x != q) {
            row.note(run.kind, x, q);
        }
        let bytes = |bits: &[u64]| -> Result<u64> {
            let chunks = chunks_of(run.kind, these_times.0, bits, &shared)?;
            Ok(chunks.iter().map(|chunk| chunk.bytes() as u64).sum())
        };
        row.samples += run.len as u64;
        row.bytes_now += bytes(these.0)?;
        row.bytes_then += bytes(&rounded)?;
    }
    Ok(())
}

impl PreviewRow {
    /// Takes the error of a sample that changes; until `finished`, `rms_error` is the sum of squares.
    fn note(&mut self, kind: ValueKind, x: u64, q: u64) {
        let error = match kind.is_integer() {
            true => kind.ordered(q).abs_diff(kind.ordered(x)) as f64,
            false => (kind.widen(q) - kind.widen(x)).abs(),
        };
        let size = kind.widen(x).abs();
        self.abs_error_max = self.abs_error_max.max(error);
        self.rel_error_max = self.rel_error_max.max(error / size);
        self.rms_error += error * error;
    }

    fn merge(&mut self, other: &PreviewRow) {
        self.series += other.series;
        self.samples += other.samples;
        self.bytes_now += other.bytes_now;
        self.bytes_then += other.bytes_then;
        self.abs_error_max = self.abs_error_max.max(other.abs_error_max);
        self.rel_error_max = self.rel_error_max.max(other.rel_error_max);
        self.rms_error += other.rms_error;
    }

    fn finished(self) -> PreviewRow {
        PreviewRow { rms_error: (self.rms_error / self.samples.max(1) as f64).sqrt(), ..self }
    }
}

impl Shard {
    /// The bits that are kept of a sample of a row.
    #[inline]
    pub fn kept(&self, row: u32, kind: ValueKind, bits: u64) -> u64 {
        if self.precision.is_empty() {
            return bits;
        }
        self.precision.apply(self.series.precision[row], kind, bits)
    }

    /// Rounds what is stored of a row, if it has a rule.
    pub(crate) fn rewrite(
        &mut self,
        row: u32,
        rules: &Rules,
        work: &mut Work,
        done: &mut Rewritten,
    ) -> Result<()> {
        let mark = self.series.precision[row];
        if self.precision.quantizer(mark).is_none() {
            return Ok(());
        }
        let precision = self.precision.clone();
        let round = |kind: ValueKind, bits: &mut [u64]| -> u64 {
            let mut changed = 0;
            for b in bits {
                let kept = precision.apply(mark, kind, *b);
                changed += u64::from(kept != *b);
                *b = kept;
            }
            changed
        };
        done.series += 1;
        done.bytes_before += self.row_bytes(row);
        self.rewrite_sealed(row, &round, work, done)?;
        self.rewrite_open(row, &round, rules, work, done)?;
        self.rollups.remake(row, &self.shared_columns)?;
        done.bytes_after += self.row_bytes(row);
        Ok(())
    }

    fn rewrite_sealed(
        &mut self,
        row: u32,
        round: &impl Fn(ValueKind, &mut [u64]) -> u64,
        work: &mut Work,
        done: &mut Rewritten,
    ) -> Result<()> {
        let before: Vec<Chunk> = self.series.sealed[row].iter().cloned().collect();
        let (mut after, mut changed) = (Vec::new(), 0);
        // Neighbours together, since they are shorter now; a dense chunk stays one.
        let together = |a: &Chunk, b: &Chunk| a.kind() == b.kind() && !a.is_dense() && !b.is_dense();
        for run in before.chunk_by(together) {
            let Some(first) = run.first() else { continue };
            work.times.clear();
            work.bits.clear();
            for chunk in run {
                chunk.decode_into(&mut work.times, &mut work.bits)?;
            }
            done.samples += work.bits.len() as u64;
            match round(first.kind(), &mut work.bits) {
                0 => {
                    after.extend_from_slice(run);
                    continue;
                }
                count => changed += count,
            }
            if first.is_dense() {
                after
                    .push(Builder::dense(first.kind(), &work.times, &work.bits).finish(&self.shared_columns));
            } else {
                after.extend(chunks_of(first.kind(), &work.times, &work.bits, &self.shared_columns)?);
            }
        }
        if changed > 0 {
            self.swap_sealed(row, 0, before.len(), after);
            done.changed += changed;
        }
        Ok(())
    }

    fn rewrite_open(
        &mut self,
        row: u32,
        round: &impl Fn(ValueKind, &mut [u64]) -> u64,
        rules: &Rules,
        work: &mut Work,
        done: &mut Rewritten,
    ) -> Result<()> {
        let head = self.series.heads[row];
        if !head.is_open() {
            return Ok(());
        }
        self.decode_open(&head.state, self.open_bytes(&head), work)?;
        let (times, mut bits) = (std::mem::take(&mut work.times), std::mem::take(&mut work.bits));
        done.samples += bits.len() as u64;
        let kind = head.state.kind();
        let changed = round(kind, &mut bits);
        if changed > 0 {
            self.close(row);
            for (&time, &bits) in times.iter().zip(&bits) {
                self.push(row, kind, time, bits, rules, work)?;
            }
            done.changed += changed;
        }
        Ok(())
    }

    fn row_bytes(&self, row: u32) -> u64 {
        let head = &self.series.heads[row];
        let open = if head.is_open() { head.state.used_bytes() } else { 0 };
        (self.series.sealed[row].iter().map(Chunk::bytes).sum::<usize>() + open) as u64
    }
}

#[cfg(test)]
mod tests;
