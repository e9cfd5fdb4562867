//! The account of all bytes by a key. What belongs to no key stands in rows with names in parentheses.

use std::collections::HashMap;
use std::hash::Hash;

use metricsdb_model::labels::METRIC_NAME;
use metricsdb_model::{Budget, Error, Predicate, Result};

use super::Common;
use super::walk::{Held, Rest, open_bytes, shared_bytes, tier_of};
use crate::database::Database;
use crate::shard::Shard;

/// What the account is by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Metric,
    /// Label names: their values' text and index. Samples stand in a row of their own.
    Label,
    Codec,
    Tier,
    Shard,
}

impl By {
    pub const ALL: [By; 5] = [By::Metric, By::Label, By::Codec, By::Tier, By::Shard];

    pub fn name(self) -> &'static str {
        match self {
            By::Metric => "metric",
            By::Label => "label",
            By::Codec => "codec",
            By::Tier => "tier",
            By::Shard => "shard",
        }
    }

    /// Errors: `Input`.
    pub fn from_name(name: &str) -> Result<By> {
        let known = By::ALL.map(By::name).join(", ");
        By::ALL.into_iter().find(|by| by.name() == name).ok_or_else(|| {
            Error::input("by", name, "is no key of the memory account", &format!("use part, {known}"))
        })
    }
}

/// One row of the account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub key: String,
    pub bytes: usize,
    pub series: u64,
    pub samples: u64,
}

/// Rows that are being added up.
struct Fold<K>(HashMap<K, Row>);

impl<K: Hash + Eq> Fold<K> {
    fn new() -> Fold<K> {
        Fold(HashMap::new())
    }

    fn add(&mut self, key: K, bytes: usize, series: u64, samples: u64) {
        let row = self.0.entry(key).or_default();
        row.bytes += bytes;
        row.series += series;
        row.samples += samples;
    }

    fn finish(self, text: impl Fn(K) -> String) -> Vec<Row> {
        self.0.into_iter().map(|(key, row)| Row { key: text(key), ..row }).collect()
    }
}

/// Sums of what no key claimed.
#[derive(Default)]
struct Unclaimed {
    held: Held,
    rest: Rest,
}

impl Unclaimed {
    fn add(&mut self, held: &[Held], rest: Rest) {
        held.iter().for_each(|h| self.held.add(h));
        self.rest.columns += rest.columns;
        self.rest.label_sets += rest.label_sets;
        self.rest.pages += rest.pages;
        self.rest.histograms += rest.histograms;
        self.rest.starts += rest.starts;
        self.rest.rollups += rest.rollups;
    }

    /// The part of shared columns that no series was charged for.
    fn columns(&self, common: &Common) -> usize {
        common.columns.saturating_sub(self.held.shared)
    }

    fn spare(&self, common: &Common) -> usize {
        self.rest.bytes() + common.buffers + common.limits + common.fixed
    }

    fn labels(&self, common: &Common) -> usize {
        self.held.labels
            + common.symbols
            + common.shapes
            + common.raw
            + common.metadata
            + common.index_bytes()
    }
}

fn named(rows: impl IntoIterator<Item = (&'static str, usize)>) -> impl Iterator<Item = Row> {
    let row = |(name, bytes): (&str, usize)| Row { key: format!("({name})"), bytes, ..Row::default() };
    rows.into_iter().filter(|r| r.1 > 0).map(row)
}

/// What some series weigh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    pub series: u64,
    pub samples: u64,
    /// Open and sealed chunks with their heads, slack and times.
    pub sample_bytes: usize,
    /// These, and labels, index and all that is common, by the number of series.
    pub bytes: usize,
}

impl Database {
    /// What the series that satisfy the predicate weigh. Walks every series. Errors: the budget's.
    pub fn weigh(&self, predicate: &Predicate, budget: &Budget) -> Result<Weight> {
        let (series, held) = self.held_by(predicate, budget)?;
        let mut own = 0;
        self.each_shard(|_, held, _| own += held.iter().map(Held::bytes).sum::<usize>());
        let total: usize = self.memory().iter().map(|part| part.bytes).sum();
        let common =
            total.saturating_sub(own) as u128 * u128::from(series) / self.series_count().max(1) as u128;
        Ok(Weight {
            series,
            samples: held.samples,
            sample_bytes: held.sample_bytes(),
            bytes: held.bytes() + common as usize,
        })
    }

    /// All bytes by a key, largest first; the rows add up to the total of `memory`. Walks every series, each
    /// shard locked for its turn: some 100 ms for a million.
    pub fn account(&self, by: By) -> Vec<Row> {
        let mut rows = match by {
            By::Metric => self.by_metric(),
            By::Label => self.by_label(),
            By::Codec => self.by_codec(),
            By::Tier => self.by_tier(),
            By::Shard => self.by_shard(),
        };
        rows.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.key.cmp(&b.key)));
        rows
    }

    fn by_metric(&self) -> Vec<Row> {
        let metric = self.symbols.lookup(METRIC_NAME);
        let (mut fold, mut all) = (Fold::new(), Unclaimed::default());
        self.each_shard(|shard, held, rest| {
            all.add(held, rest);
            for (row, h) in (0u32..).zip(held).filter(|(row, _)| shard.series.has(*row)) {
                let labels = shard.series.labels[row];
                let name = metric.and_then(|m| shard.label_sets.value(&self.shapes, labels, m));
                fold.add(name, h.bytes(), 1, h.samples);
            }
        });
        let mut rows = fold.finish(|name| name.map_or_else(String::new, |n| self.symbols.get(n).to_owned()));
        let common = self.common();
        rows.extend(named([
            ("index", common.index_bytes()),
            ("symbols", common.symbols + common.shapes),
            ("label hashes", common.raw),
            ("metadata", common.metadata),
            ("shared columns", all.columns(&common)),
            ("free pages and buffers", all.spare(&common)),
        ]));
        rows
    }

    /// A text that several labels use is charged to each in equal parts.
    fn by_label(&self) -> Vec<Row> {
        // By shape: series with the same label names are counted together.
        let (mut by_shape, mut all) = (Fold::new(), Unclaimed::default());
        self.each_shard(|shard, held, rest| {
            all.add(held, rest);
            for (row, h) in (0u32..).zip(held).filter(|(row, _)| shard.series.has(*row)) {
                by_shape.add(shard.label_sets.shape(shard.series.labels[row]), 0, 1, h.samples);
            }
        });
        let mut fold = Fold::new();
        let mut words = 0;
        for (shape, counted) in by_shape.0 {
            for &name in self.shapes.names(shape) {
                let bytes = counted.series as usize * size_of::<u32>();
                words += bytes;
                fold.add(name, bytes, counted.series, counted.samples);
            }
        }
        let common = self.common();
        let (texts, text_bytes) = self.text_bytes(&common);
        let mut index_left = common.index_bytes();
        texts.into_iter().for_each(|(name, bytes)| fold.add(name, bytes, 0, 0));
        for label in self.index.bytes_by_label() {
            index_left = index_left.saturating_sub(label.bytes);
            fold.add(label.name, label.bytes, 0, 0);
        }
        let mut rows = fold.finish(|name| self.symbols.get(name).to_owned());
        rows.extend(named([
            ("samples", all.held.sample_bytes()),
            ("series", all.held.columns),
            ("label sets", all.held.labels.saturating_sub(words)),
            ("index", index_left),
            ("symbols", (common.symbols + common.shapes).saturating_sub(text_bytes)),
            ("label hashes", common.raw),
            ("metadata", common.metadata),
            ("shared columns", all.columns(&common)),
            ("free pages and buffers", all.spare(&common)),
        ]));
        rows
    }

    /// Bytes of text, and of its administration, by label name; and their sum.
    fn text_bytes(&self, common: &Common) -> (HashMap<u32, usize>, usize) {
        let mut users = vec![0u32; self.symbols.len()];
        let count = |users: &mut Vec<u32>, symbol: u32| {
            if let Some(n) = users.get_mut(symbol as usize) {
                *n += 1;
            }
        };
        let mut names = Vec::new();
        self.index.each_value(|name, value| {
            if names.last() != Some(&name) {
                names.push(name);
                count(&mut users, name);
            }
            count(&mut users, value);
        });
        let texts: usize = (0..users.len() as u32).map(|s| self.symbols.get(s).len()).sum();
        let each = common.symbols.saturating_sub(texts) / users.len().max(1);
        let mut bytes: HashMap<u32, usize> = HashMap::new();
        let mut total = 0;
        let mut charge = |name: u32, symbol: u32| {
            let users = users.get(symbol as usize).copied().unwrap_or(0).max(1) as usize;
            let share = (self.symbols.get(symbol).len() + each) / users;
            *bytes.entry(name).or_default() += share;
            total += share;
        };
        names.iter().for_each(|&name| charge(name, name));
        self.index.each_value(charge);
        (bytes, total)
    }

    fn by_codec(&self) -> Vec<Row> {
        let (mut fold, mut all) = (Fold::new(), Unclaimed::default());
        let mut heads = 0;
        self.each_shard(|shard, held, rest| {
            all.add(held, rest);
            for row in shard.series.rows() {
                heads += codecs_of(shard, row, &mut fold);
            }
        });
        let mut rows = fold.finish(|(place, codec): (&str, &str)| format!("{place}{codec}"));
        let common = self.common();
        rows.extend(named([
            ("chunk heads and lists", heads + all.held.lists),
            ("histograms", all.held.histograms),
            ("start timestamps", all.held.starts),
            ("rollups", all.held.rollups),
            ("series", all.held.columns),
            ("labels and index", all.labels(&common)),
            ("shared columns", all.columns(&common)),
            ("free pages and buffers", all.spare(&common)),
        ]));
        rows
    }

    fn by_tier(&self) -> Vec<Row> {
        let (mut fold, mut all) = (Fold::new(), Unclaimed::default());
        self.each_shard(|shard, held, rest| {
            all.add(held, rest);
            for (row, h) in (0u32..).zip(held).filter(|(row, _)| shard.series.has(*row)) {
                let head = &shard.series.heads[row];
                if head.is_open() {
                    fold.add("open", h.open_used + h.open_slack, 1, head.state.count() as u64);
                }
                let mut seen = "";
                for chunk in shard.series.sealed[row].iter() {
                    let tier = tier_of(chunk);
                    let (times, values) = shared_bytes(chunk);
                    let bytes = chunk.bytes() + times + values;
                    fold.add(tier, bytes, u64::from(seen != tier), chunk.count() as u64);
                    seen = tier;
                }
            }
        });
        let mut rows = fold.finish(str::to_owned);
        let common = self.common();
        rows.extend(named([
            ("chunk lists", all.held.lists),
            ("histograms", all.held.histograms),
            ("start timestamps", all.held.starts),
            ("rollups", all.held.rollups),
            ("series", all.held.columns),
            ("labels and index", all.labels(&common)),
            ("shared columns", all.columns(&common)),
            ("free pages and buffers", all.spare(&common)),
        ]));
        rows
    }

    fn by_shard(&self) -> Vec<Row> {
        let (mut rows, mut all) = (Vec::new(), Unclaimed::default());
        self.each_shard(|shard, held, rest| {
            all.add(held, Rest::default());
            rows.push(Row {
                key: shard.number.to_string(),
                bytes: held.iter().map(Held::bytes).sum::<usize>() + rest.bytes(),
                series: shard.series.rows().count() as u64,
                samples: held.iter().map(|h| h.samples).sum(),
            });
        });
        let common = self.common();
        rows.extend(named([
            ("index", common.index_bytes()),
            ("symbols", common.symbols + common.shapes),
            ("label hashes", common.raw),
            ("metadata", common.metadata),
            ("shared columns", all.columns(&common)),
            ("buffers", common.buffers + common.limits + common.fixed),
        ]));
        rows
    }
}

/// Adds the chunks of one series by codec; returns the bytes of their heads and of the allocator.
fn codecs_of(shard: &Shard, row: u32, fold: &mut Fold<(&'static str, &'static str)>) -> usize {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    let mut add = |key: (&'static str, &'static str), bytes: usize, samples: usize| {
        let is_new = !seen.contains(&key);
        if is_new {
            seen.push(key);
        }
        fold.add(key, bytes, u64::from(is_new), samples as u64);
    };
    let head = &shard.series.heads[row];
    if head.is_open() {
        let (used, slack) = open_bytes(head);
        add(("open ", head.state.codec()), used + slack, head.state.count());
    }
    let mut heads = 0;
    for chunk in shard.series.sealed[row].iter() {
        let (times, together) = shared_bytes(chunk);
        let mut left = chunk.bytes();
        if together > 0 {
            add(("", "together"), together, chunk.count());
        } else {
            for block in chunk.blocks().into_iter().flatten().flatten() {
                if let Ok(section) = block.section() {
                    // A chunk in common has its bytes among what is shared.
                    let bytes = block.bytes.len().min(left);
                    left -= bytes;
                    add(("", section.name()), bytes, block.count);
                }
            }
        }
        heads += left;
        add(("times: ", if chunk.is_regular() { "regular" } else { "column" }), times, chunk.count());
    }
    heads
}
