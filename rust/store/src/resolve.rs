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
use crate::limits::Found;
use crate::series::ROWS_MAX;
use crate::shard::{Shard, id_of, place_of};
use crate::symbols::Symbols;

/// Why a series can't be taken.
pub(crate) struct Refusal {
    pub reason: Reason,
    pub message: String,
    /// Of `CardinalityLimit`: which limit.
    pub rule: usize,
}

impl Refusal {
    pub fn new(reason: Reason, message: String) -> Refusal {
        Refusal { reason, message, rule: 0 }
    }

    pub fn malformed(message: &str) -> Refusal {
        Refusal::new(Reason::Malformed, message.to_owned())
    }

    pub fn into_error(self) -> Error {
        if self.reason == Reason::CardinalityLimit {
            return Error::Cardinality { message: self.message };
        }
        Error::input("labels", &self.message, self.reason.as_str(), "send other labels")
    }

    fn limit(error: Error) -> Refusal {
        Refusal::new(Reason::LimitExceeded, error.to_string())
    }

    fn labels(error: LabelError) -> Refusal {
        let reason = match error {
            LabelError::Malformed(_) => Reason::Malformed,
            _ => Reason::InvalidLabels,
        };
        Refusal::new(reason, error.to_string())
    }
}

/// Holds a label set against the limits of `bounds`.
pub(crate) fn check_limits(labels: LabelsRef<'_>) -> Result<(), Refusal> {
    let refuse = |reason, message| Err(Refusal::new(reason, message));
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
    /// `Symbols::unlisted` then.
    unlisted: u64,
    canonical: Vec<u8>,
    pairs: Vec<(u32, u32)>,
    /// The pairs that `look_up` is about to find.
    next: Vec<(u32, u32)>,
    /// The label set that was made last.
    made: Vec<u8>,
}

impl Interned {
    pub fn bytes(&self) -> usize {
        heap::vector(&self.canonical)
            + heap::vector(&self.pairs)
            + heap::vector(&self.next)
            + heap::vector(&self.made)
    }

    fn forget_unlisted(&mut self, symbols: &Symbols) {
        let unlisted = symbols.unlisted();
        if self.unlisted != unlisted {
            *self = Interned { unlisted, ..Interned::default() };
        }
    }

    /// The symbols of a label set, in name order, where all of them exist: makes none.
    fn known(&mut self, labels: LabelsRef<'_>, symbols: &Symbols) -> Option<&[(u32, u32)]> {
        self.forget_unlisted(symbols);
        self.look_up(labels, |text| symbols.lookup(text).ok_or(())).ok().map(|()| self.pairs.as_slice())
    }

    /// The symbols of a label set, in name order.
    pub(crate) fn intern(
        &mut self,
        labels: LabelsRef<'_>,
        symbols: &Symbols,
    ) -> Result<&[(u32, u32)], Refusal> {
        self.forget_unlisted(symbols);
        self.look_up(labels, |text| symbols.intern(text)).map_err(Refusal::limit)?;
        Ok(&self.pairs)
    }

    /// Asks for the symbols of those texts that the label set before did not have in the same place. On an error that
    /// one is still the last.
    fn look_up<E>(
        &mut self,
        labels: LabelsRef<'_>,
        symbol: impl Fn(&str) -> Result<u32, E>,
    ) -> Result<(), E> {
        let Interned { canonical, pairs, next, .. } = self;
        let (mut before, mut known) = (canonical.split(|&b| b == 0xff), pairs.iter());
        let mut now = labels.canonical().split(|&b| b == 0xff);
        let symbol = |text: &[u8], before: Option<&[u8]>, known: Option<u32>| match known {
            Some(symbol) if before == Some(text) => Ok(symbol),
            _ => symbol(std::str::from_utf8(text).unwrap_or("")),
        };
        next.clear();
        while let (Some(name), Some(value)) = (now.next(), now.next()) {
            let known = known.next();
            let name = symbol(name, before.next(), known.map(|pair| pair.0))?;
            next.push((name, symbol(value, before.next(), known.map(|pair| pair.1))?));
        }
        std::mem::swap(pairs, next);
        canonical.clear();
        canonical.extend_from_slice(labels.canonical());
        Ok(())
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
    ) -> Result<Found, Refusal> {
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
        let own = labels.hash64();
        let found = self.find_or_make(labels, last)?;
        report.series_created += u64::from(found.is_made());
        if let Found::Series { id, .. } = found
            && self.has_hash(id as u32, own)
        {
            // One that a limit sends elsewhere is to come this way again: there may be room for it then.
            self.raw.insert(hash, id as u32, self.series_count());
        }
        Ok(found)
    }

    /// The series with this label set, made now where there is none and the limits let it be. The label set was checked.
    pub(crate) fn find_or_make(&self, labels: LabelsRef<'_>, last: &mut Interned) -> Result<Found, Refusal> {
        let admitted = self.admits_series();
        if self.limits.is_active() || !admitted {
            // The text of a series that may be refused must not stay.
            return match self.find_known(labels, last) {
                Some(id) => Ok(Found::Series { id, made: false }),
                None if admitted => self.make_within_limits(labels, last),
                None => self.find_folded(labels).ok_or_else(|| self.refuse_series()),
            };
        }
        let making = self.making.read();
        let pairs = last.intern(labels, &self.symbols)?;
        let hash = labels.hash64();
        let mut shard = self.shard(usize::from((hash >> 56) as u8));
        if let Some(row) = self.find_row(&mut shard, hash, pairs) {
            return Ok(Found::Series { id: shard.public_id(row), made: false });
        }
        match self.limits.try_read() {
            Some(rules) if rules.is_empty() => self.make_in(&mut shard, labels, hash, last),
            _ => {
                drop(shard);
                drop(making);
                self.make_within_limits(labels, last)
            }
        }
    }

    /// The row of a label set, which lives on if it was dying.
    fn find_row(&self, shard: &mut Shard, hash: u64, pairs: &[(u32, u32)]) -> Option<u32> {
        let same = |handle| shard.label_sets.pairs(&self.shapes, handle).eq(pairs.iter().copied());
        let row = shard.series.find(hash, same)?;
        shard.graves.revive(row);
        Some(row)
    }

    /// The series with this label set; makes nothing, no symbol either.
    pub(crate) fn find_known(&self, labels: LabelsRef<'_>, last: &mut Interned) -> Option<u64> {
        let pairs = last.known(labels, &self.symbols)?;
        let hash = labels.hash64();
        let mut shard = self.shard(usize::from((hash >> 56) as u8));
        self.find_row(&mut shard, hash, pairs).map(|row| shard.public_id(row))
    }

    fn has_hash(&self, id: u32, hash: u64) -> bool {
        !self.limits.is_active() || {
            let (number, row) = place_of(id);
            self.shard(number).series.hashes.get(row) == Some(&hash)
        }
    }

    /// The series with this label set, made now where there is none. Who calls it holds the limits.
    pub(crate) fn make_now(&self, labels: LabelsRef<'_>, last: &mut Interned) -> Result<Found, Refusal> {
        let _making = self.making.read();
        let pairs = last.intern(labels, &self.symbols)?;
        let hash = labels.hash64();
        let mut shard = self.shard(usize::from((hash >> 56) as u8));
        match self.find_row(&mut shard, hash, pairs) {
            Some(row) => Ok(Found::Series { id: shard.public_id(row), made: false }),
            None => self.make_in(&mut shard, labels, hash, last),
        }
    }

    /// Makes the series whose label set `last` has interned.
    fn make_in(
        &self,
        shard: &mut Shard,
        labels: LabelsRef<'_>,
        hash: u64,
        last: &mut Interned,
    ) -> Result<Found, Refusal> {
        if shard.series.next_row(None).is_none() {
            let message = format!("shard {} has {ROWS_MAX} series, the most it can hold", shard.number);
            return Err(Refusal::new(Reason::LimitExceeded, message));
        }
        let mark = if shard.precision.is_empty() { 0 } else { self.mark_of(&shard.precision, labels) };
        let row = self.make(shard, hash, &last.pairs, mark, None).map_err(Refusal::limit)?;
        if let Some(journal) = self.journal() {
            journal.series(shard, row, mark, labels.canonical());
        }
        self.limits.note_made(labels, hash, &mut last.made);
        self.importance.note_made(id_of(shard.number, row), labels);
        Ok(Found::Series { id: shard.public_id(row), made: true })
    }

    /// A new series in a shard that has room; its row, which is the wanted one where that is possible.
    pub(crate) fn make(
        &self,
        shard: &mut Shard,
        hash: u64,
        pairs: &[(u32, u32)],
        mark: u8,
        wanted: Option<u32>,
    ) -> metricsdb_model::Result<u32> {
        let full = || Error::Limit {
            what: "series of a shard",
            limit: ROWS_MAX as u64,
            needed: ROWS_MAX as u64 + 1,
            remedy: "spread the series over more stores",
        };
        let row = shard.series.next_row(wanted).ok_or_else(full)?;
        let handle = shard.label_sets.push(&self.shapes, pairs)?;
        // Postings first: whoever finds the id there waits for this shard's lock.
        self.index.add(id_of(shard.number, row), pairs)?;
        shard.series.put(row, hash, handle);
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
