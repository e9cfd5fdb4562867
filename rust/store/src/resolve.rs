//! From label bytes that are not known yet to a series: decode, add what the receiver adds, check the
//! limits, find the series by its canonical form or make it.

use std::sync::atomic::Ordering::Relaxed;

use metricsdb_model::bounds::{LABEL_NAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_PER_SERIES_MAX};
use metricsdb_model::{
    Batch, Error, LabelError, LabelsBuilder, LabelsRef, Reason, WriteReport, batch::Extra,
};

use crate::database::{Database, Scratch};
use crate::heap;
use crate::index::Forward;
use crate::series::ROWS_MAX;
use crate::shard::{Shard, id_of, place_of};
use crate::symbols::Symbols;

/// Why a series can't be taken.
pub(crate) struct Refusal {
    pub reason: Reason,
    pub message: String,
}

impl Refusal {
    pub fn malformed(message: &str) -> Refusal {
        Refusal { reason: Reason::Malformed, message: message.to_owned() }
    }

    pub fn into_error(self) -> Error {
        Error::input("labels", &self.message, self.reason.as_str(), "send other labels")
    }

    fn limit(error: Error) -> Refusal {
        Refusal { reason: Reason::LimitExceeded, message: error.to_string() }
    }

    fn labels(error: LabelError) -> Refusal {
        let reason = match error {
            LabelError::Malformed(_) => Reason::Malformed,
            _ => Reason::InvalidLabels,
        };
        Refusal { reason, message: error.to_string() }
    }
}

/// Holds a label set against the limits of `bounds`.
pub(crate) fn check_limits(labels: LabelsRef<'_>) -> Result<(), Refusal> {
    let refuse = |reason, message| Err(Refusal { reason, message });
    // Lengths need no look at the text: the canonical bytes are name, 0xFF, value, 0xFF.
    let mut parts = labels.canonical().split(|&b| b == 0xff);
    let mut count = 0;
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        count += 1;
        if name.len() > LABEL_NAME_BYTES_MAX {
            let start = String::from_utf8_lossy(&name[..40]);
            return refuse(
                Reason::LimitExceeded,
                format!("label name {start:?}… has {} bytes, {LABEL_NAME_BYTES_MAX} allowed", name.len()),
            );
        }
        if value.len() > LABEL_VALUE_BYTES_MAX {
            return refuse(
                Reason::LimitExceeded,
                format!(
                    "value of label {:?} has {} bytes, {LABEL_VALUE_BYTES_MAX} allowed",
                    String::from_utf8_lossy(name),
                    value.len()
                ),
            );
        }
    }
    match count {
        0 => refuse(Reason::InvalidLabels, "a series needs at least one label with a value".to_owned()),
        n if n > LABELS_PER_SERIES_MAX => refuse(
            Reason::LimitExceeded,
            format!("{} has {n} labels, {LABELS_PER_SERIES_MAX} allowed", labels.metric_name()),
        ),
        _ => Ok(()),
    }
}

/// The label set that was looked up last, and its symbols. Neighbours in a request share most of their
/// labels, so that comparing them saves nine out of ten look-ups.
#[derive(Default)]
pub(crate) struct Interned {
    canonical: Vec<u8>,
    pairs: Vec<(u32, u32)>,
}

impl Interned {
    pub fn bytes(&self) -> usize {
        heap::vector(&self.canonical) + heap::vector(&self.pairs)
    }

    /// The symbols of a label set, in name order.
    pub(crate) fn intern(
        &mut self,
        labels: LabelsRef<'_>,
        symbols: &Symbols,
    ) -> Result<&[(u32, u32)], Refusal> {
        let replaced = self.replace(labels, symbols);
        self.canonical.clear();
        match replaced {
            Ok(count) => {
                self.pairs.truncate(count);
                self.canonical.extend_from_slice(labels.canonical());
                Ok(&self.pairs)
            }
            Err(error) => {
                self.pairs.clear();
                Err(Refusal::limit(error))
            }
        }
    }

    /// Overwrites `pairs` one by one; returns how many there are now.
    fn replace(&mut self, labels: LabelsRef<'_>, symbols: &Symbols) -> metricsdb_model::Result<usize> {
        let Interned { canonical, pairs } = self;
        let mut before = canonical.split(|&b| b == 0xff);
        let mut now = labels.canonical().split(|&b| b == 0xff);
        let symbol = |text: &[u8], before: Option<&[u8]>, known: Option<u32>| match known {
            Some(symbol) if before == Some(text) => Ok(symbol),
            _ => symbols.intern(std::str::from_utf8(text).unwrap_or("")),
        };
        let mut count = 0;
        while let (Some(name), Some(value)) = (now.next(), now.next()) {
            let known = pairs.get(count).copied();
            let name = symbol(name, before.next(), known.map(|pair| pair.0))?;
            let pair = (name, symbol(value, before.next(), known.map(|pair| pair.1))?);
            match pairs.get_mut(count) {
                Some(place) => *place = pair,
                None => pairs.push(pair),
            }
            count += 1;
        }
        Ok(count)
    }
}

/// Adds the receiver's labels as Prometheus does: on a clash the sender's label wins or is renamed.
fn merge_extra(sender: &mut LabelsBuilder, extra: &Extra, out: &mut LabelsBuilder) -> Result<(), LabelError> {
    out.clear();
    let mut added: Vec<(&str, &str)> = extra.labels.iter().collect();
    if extra.honor {
        added.retain(|(name, _)| !sender.contains(name));
    }
    let taken: Vec<String> = sender.canonical()?.iter().map(|(n, _)| n.to_owned()).collect();
    for (name, value) in sender.canonical()?.iter() {
        if !added.iter().any(|(n, _)| *n == name) {
            out.push(name, value);
            continue;
        }
        let mut renamed = format!("exported_{name}");
        while taken.contains(&renamed) || added.iter().any(|(n, _)| **n == renamed) {
            renamed.insert_str(0, "exported_");
        }
        out.push(&renamed, value);
    }
    added.iter().for_each(|(n, v)| out.push(n, v));
    Ok(())
}

impl Database {
    /// The series of label bytes whose hash is not known; remembers the hash.
    pub(crate) fn parse_and_make(
        &self,
        batch: &Batch<'_>,
        raw: &[u8],
        hash: u128,
        scratch: &mut Scratch,
        report: &mut WriteReport,
    ) -> Result<u32, Refusal> {
        let Scratch { sender, merged, last, .. } = scratch;
        sender.clear();
        (batch.decode)(raw, sender).map_err(Refusal::labels)?;
        let builder = if batch.extra.labels.is_empty() {
            sender
        } else {
            merge_extra(sender, &batch.extra, merged).map_err(Refusal::labels)?;
            merged
        };
        let labels = builder.canonical().map_err(Refusal::labels)?;
        check_limits(labels)?;
        let (id, made) = self.find_or_make(labels, last)?;
        report.series_created += u64::from(made);
        self.raw.insert(hash, id, self.series_count());
        Ok(id)
    }

    /// The series with this label set, and whether it was made now. The label set was checked.
    pub(crate) fn find_or_make(
        &self,
        labels: LabelsRef<'_>,
        last: &mut Interned,
    ) -> Result<(u32, bool), Refusal> {
        self.admit_series(labels)?;
        let pairs = last.intern(labels, &self.symbols)?;
        let hash = labels.hash64();
        let number = (hash >> 56) as u8;
        let mut shard = self.shard(usize::from(number));
        let same = |handle| shard.label_sets.pairs(&self.shapes, handle).eq(pairs.iter().copied());
        if let Some(row) = shard.series.find(hash, same) {
            return Ok((id_of(number, row), false));
        }
        if shard.series.len() >= ROWS_MAX {
            return Err(Refusal {
                reason: Reason::LimitExceeded,
                message: format!("shard {number} has {ROWS_MAX} series, the most it can hold"),
            });
        }
        let mark = if shard.precision.is_empty() { 0 } else { self.mark_of(&shard.precision, labels) };
        let row = self.make(&mut shard, hash, pairs, mark).map_err(Refusal::limit)?;
        if let Some(journal) = self.journal() {
            journal.series(&mut shard, row, mark, labels.canonical());
        }
        Ok((id_of(number, row), true))
    }

    /// A new series in a shard that has room; its row.
    pub(crate) fn make(
        &self,
        shard: &mut Shard,
        hash: u64,
        pairs: &[(u32, u32)],
        mark: u8,
    ) -> metricsdb_model::Result<u32> {
        let handle = shard.label_sets.push(&self.shapes, pairs)?;
        let row = shard.series.len() as u32;
        // Postings first: whoever finds the id there waits for this shard's lock.
        self.index.add(id_of(shard.number, row), pairs)?;
        shard.series.push(hash, handle);
        shard.series.precision[row] = mark;
        self.series_count.fetch_add(1, Relaxed);
        Ok(row)
    }
}

impl Forward for Database {
    fn value(&self, id: u32, name: u32) -> Option<u32> {
        let (number, row) = place_of(id);
        let shard = self.shard(number);
        let handle = *shard.series.labels.get(row)?;
        shard.label_sets.value(&self.shapes, handle, name)
    }
}
