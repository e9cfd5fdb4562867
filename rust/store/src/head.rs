//! Appending in order: into the open chunk, into a larger slab when it is full, behind the last sealed
//! chunk when it has its number of samples.

use metricsdb_model::{Reason, Result, ValueKind, WriteReport};

use crate::chunk::{chunks_of, grown};
use crate::codec::{self, OpenState};
use crate::late::Late;
use crate::series::Head;
use crate::shard::{Rules, Shard, Staged, Work, id_of};
use crate::slab::CLASSES;

/// Samples whose places are read ahead together.
const GROUP: usize = 16;

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
        let mut late = std::mem::take(&mut work.late);
        late.clear();
        let mut unknown = 0;
        let has_starts = !starts.is_empty() || !self.starts.is_empty();
        for (number, group) in staged.chunks(GROUP).enumerate() {
            self.touch(group);
            for (i, s) in group.iter().enumerate() {
                if !self.series.has_of(s.row, s.generation) {
                    unknown += 1;
                    let id = id_of(self.number, s.row);
                    report.reject(Reason::UnknownSeries, 1, || format!("no series has the id {id}"));
                    continue;
                }
                let bits = self.kept(s.row, kind, s.bits);
                let start = || starts.get(number * GROUP + i).copied().unwrap_or(0);
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
        }
        report.accepted += (staged.len() - unknown - late.len()) as u64;
        if !late.is_empty() {
            self.merge_late(&mut late, kind, rules, work, report)?;
        }
        work.late = late;
        Ok(())
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
            if let Some(old) = sealed.replace_last(chunk) {
                self.sealed_count.remove(&old);
            }
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
