//! Appending in order: into the open chunk, into a larger slab when it is full, behind the last sealed
//! chunk when it has its number of samples. Columns that bring whole blocks of a series are sealed as they are.

use metricsdb_model::{Reason, Result, ValueKind, WriteReport};

use crate::chunk::{BLOCK_SAMPLES, chunks_behind, chunks_of, grown};
use crate::codec::{self, OpenState};
use crate::late::Late;
use crate::series::Head;
use crate::shard::{Rules, Shard, Staged, Work, id_of};
use crate::slab::CLASSES;

/// Samples whose places are read ahead together.
const GROUP: usize = 16;
/// Samples of one series in a row that no open chunk needs to see: a block of a sealed one.
const RUN: usize = BLOCK_SAMPLES;

/// What became of one sample.
enum Placed {
    Appended,
    /// Not newer than the newest; `older` when not equal to it.
    Late {
        older: bool,
    },
    /// The newest sample once more, to the bit.
    Repeated,
}

impl Shard {
    /// Appends samples in the order given; those of one series need not be in time order. `starts` is as long
    /// as `staged`, or empty. Counts what happened into `report`.
    pub fn append(
        &mut self,
        staged: &[Staged],
        starts: &[i64],
        kind: ValueKind,
        rules: &Rules,
        work: &mut Work,
        report: &mut WriteReport,
    ) -> Result<()> {
        if self.behind.is_some() {
            self.put_off(staged, report);
            return Ok(());
        }
        let mut late = std::mem::take(&mut work.late);
        late.clear();
        let mut unknown = 0;
        let has_starts = !starts.is_empty() || !self.starts.is_empty();
        let mut at = 0;
        while let Some(rest) = staged.get(at..).filter(|rest| !rest.is_empty()) {
            let run = self.run(rest, kind);
            if run > 0 {
                let row = rest[0].row;
                self.append_run(row, &rest[..run], starts.get(at..at + run).unwrap_or(&[]), kind, work)?;
                at += run;
                continue;
            }
            let group = &rest[..before_run(rest)];
            self.touch(group);
            for (i, s) in group.iter().enumerate() {
                if !self.knows(s, report) {
                    unknown += 1;
                    continue;
                }
                let bits = self.kept(s.row, kind, s.bits);
                let start = || starts.get(at + i).copied().unwrap_or(0);
                let wait = |older| Late { row: s.row, time: s.time, bits, start: start(), older };
                match self.place(s.row, kind, s.time, bits, rules, work)? {
                    Placed::Appended if has_starts => self.note_start(s.row, s.time, start())?,
                    Placed::Appended => {}
                    Placed::Late { older } => late.push(wait(older)),
                    Placed::Repeated
                        if late.is_empty() && (!has_starts || self.starts.says(s.row, s.time, start())) =>
                    {
                        report.duplicates += 1;
                    }
                    // One of those that wait may be about to replace the newest; or its start is another.
                    Placed::Repeated => late.push(wait(false)),
                }
            }
            at += group.len();
        }
        report.accepted += (staged.len() - unknown - late.len()) as u64;
        if !late.is_empty() {
            self.merge_late(&mut late, kind, rules, work, report)?;
        }
        work.late = late;
        Ok(())
    }

    /// Whether the sample's series is there; else it is rejected.
    fn knows(&self, s: &Staged, report: &mut WriteReport) -> bool {
        let known = self.series.has_of(s.row, s.generation);
        if !known {
            let id = id_of(self.number, s.row);
            report.reject(Reason::UnknownSeries, 1, || format!("no series has the id {id}"));
        }
        known
    }

    /// Counts samples whose frames wait behind a journal that is still being replayed.
    fn put_off(&self, staged: &[Staged], report: &mut WriteReport) {
        report.accepted += staged.iter().filter(|s| self.knows(s, report)).count() as u64;
    }

    /// How many of the first samples are one series' in rising order, newer than all that it has, if those are enough for
    /// a block; else 0.
    #[inline]
    fn run(&self, staged: &[Staged], kind: ValueKind) -> usize {
        let Some((first, end)) = staged.first().zip(staged.get(RUN - 1)) else { return 0 };
        if first.row != end.row
            || !self.rollups.is_empty()
            || !self.series.has_of(first.row, first.generation)
        {
            return 0;
        }
        let head = &self.series.heads[first.row];
        let newest = self.newest(first.row);
        if newest.is_some_and(|newest| first.time <= newest) || (head.is_open() && head.state.kind() != kind)
        {
            return 0;
        }
        let same = |a: &Staged, b: &Staged| (a.row, a.generation) == (b.row, b.generation) && a.time < b.time;
        let goes_on = staged.windows(2).take_while(|pair| same(&pair[0], &pair[1])).count() + 1;
        if goes_on >= RUN { goes_on } else { 0 }
    }

    /// Seals what `run` found, behind what the series of the row has.
    fn append_run(
        &mut self,
        row: u32,
        run: &[Staged],
        starts: &[i64],
        kind: ValueKind,
        work: &mut Work,
    ) -> Result<()> {
        self.seal(row, work)?;
        work.times.clear();
        work.bits.clear();
        work.times.extend(run.iter().map(|s| s.time));
        work.bits.extend(run.iter().map(|s| self.kept(row, kind, s.bits)));
        let sealed = &mut self.series.sealed[row];
        let (goes_on, chunks) =
            chunks_behind(sealed.last(), kind, &work.times, &work.bits, &self.shared_columns)?;
        for (i, chunk) in chunks.into_iter().enumerate() {
            self.sealed_count.add(&chunk);
            if i > 0 || !goes_on {
                sealed.push(chunk);
            } else {
                sealed.replace_last(chunk).iter().for_each(|old| self.sealed_count.remove(old));
            }
        }
        if starts.is_empty() && self.starts.is_empty() {
            return Ok(());
        }
        let each = run.iter().enumerate();
        each.map(|(i, s)| (s.time, starts.get(i).copied().unwrap_or(0)))
            .try_for_each(|(time, start)| self.note_start(row, time, start))
    }

    /// Reads where the next samples go, so that their cache misses overlap: nothing else is done here.
    #[inline]
    fn touch(&self, group: &[Staged]) {
        let mut seen = 0u8;
        for s in group {
            if let Some(head) = self.series.heads.get(s.row).filter(|head| head.is_open()) {
                let bytes = self.arena.bytes(head.slab, head.class);
                seen ^= bytes.get(head.state.used_bytes()).copied().unwrap_or(0);
            }
        }
        std::hint::black_box(seen);
    }

    #[inline]
    fn place(
        &mut self,
        row: u32,
        kind: ValueKind,
        time: i64,
        bits: u64,
        rules: &Rules,
        work: &mut Work,
    ) -> Result<Placed> {
        let head = &mut self.series.heads[row];
        if head.is_open() && time > head.state.last_time() && head.state.kind() == kind {
            let bytes = self.arena.bytes_mut(head.slab, head.class);
            if codec::open::append(&mut head.state, bytes, time, bits).is_ok() {
                if head.state.is_due(rules.samples_per_chunk) {
                    self.seal(row, work)?;
                }
                return Ok(Placed::Appended);
            }
        } else if let Some(newest) = self.newest(row)
            && time <= newest
        {
            // Two senders of the same samples are usual: nothing has to be decoded for the second.
            let state = &self.series.heads[row].state;
            let same = time == state.last_time() && bits == state.last_bits() && state.kind() == kind;
            if same && self.series.heads[row].is_open() && rules.duplicates.keeps_equals() {
                return Ok(Placed::Repeated);
            }
            return Ok(Placed::Late { older: time < newest });
        }
        if !self.rollups.is_empty() && !self.rollups.takes(row, time) {
            return Ok(Placed::Late { older: true });
        }
        self.push(row, kind, time, bits, rules, work)?;
        Ok(Placed::Appended)
    }

    /// Appends a sample that is newer than all of its row, whatever has to grow, open or be sealed.
    pub fn push(
        &mut self,
        row: u32,
        kind: ValueKind,
        time: i64,
        bits: u64,
        rules: &Rules,
        work: &mut Work,
    ) -> Result<()> {
        if self.series.heads[row].is_open() && self.series.heads[row].state.kind() != kind {
            self.seal(row, work)?;
        }
        loop {
            let head = &mut self.series.heads[row];
            if !head.is_open() {
                let state = OpenState::behind(&head.state, kind);
                *head = Head { state, slab: self.arena.take(0), class: 0, ..*head };
            }
            let bytes = self.arena.bytes_mut(head.slab, head.class);
            if codec::open::append(&mut head.state, bytes, time, bits).is_ok() {
                break;
            }
            if head.class as usize + 1 < CLASSES.len() && !head.state.holds_long_run() {
                head.slab = self.arena.grow(head.slab, head.class, head.class + 1);
                head.class += 1;
            } else {
                self.seal(row, work)?;
            }
        }
        if self.series.heads[row].state.is_due(rules.samples_per_chunk) {
            self.seal(row, work)?;
        }
        Ok(())
    }

    /// Makes the open chunk of a row a sealed one and gives its slab back.
    pub fn seal(&mut self, row: u32, work: &mut Work) -> Result<()> {
        let head = self.series.heads[row];
        if !head.is_open() {
            return Ok(());
        }
        self.decode_open(&head.state, self.open_bytes(&head), work)?;
        let kind = head.state.kind();
        let sealed = &mut self.series.sealed[row];
        let larger = match sealed.last() {
            Some(last) => grown(last, kind, &work.times, &work.bits, &self.shared_columns)?,
            None => None,
        };
        if let Some(chunk) = larger {
            self.sealed_count.add(&chunk);
            sealed.replace_last(chunk).iter().for_each(|old| self.sealed_count.remove(old));
        } else {
            for chunk in chunks_of(kind, &work.times, &work.bits, &self.shared_columns)? {
                self.sealed_count.add(&chunk);
                sealed.push(chunk);
            }
        }
        self.close(row);
        Ok(())
    }

    /// Forgets the open chunk of a row.
    pub fn close(&mut self, row: u32) {
        let head = &mut self.series.heads[row];
        if head.is_open() {
            self.arena.give(head.slab, head.class);
            *head = head.closed_again();
        }
    }
}

/// How many samples are looked at together: those before a series of many samples, that it may go whole.
#[inline]
fn before_run(rest: &[Staged]) -> usize {
    let group = rest.len().min(GROUP);
    match (rest.get(group - 1), rest.get(group + RUN)) {
        (Some(last), Some(later)) if last.row == later.row => {
            rest.iter().position(|s| s.row == last.row).filter(|&at| at > 0).unwrap_or(group)
        }
        _ => group,
    }
}

#[cfg(test)]
mod tests;
