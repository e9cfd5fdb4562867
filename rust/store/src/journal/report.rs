//! What a recovery did and found; and which of the bad bytes of a journal were safe once, and which may never have been.

use super::frame::Place;

/// Bytes of a file that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub file: String,
    pub offset: u64,
    pub bytes: u64,
    pub why: String,
}

/// How something can have got lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was safe from a power cut once: files were damaged.
    Damaged,
    /// Nothing shows that it was synced: a power cut took it, or damage did.
    Unsynced,
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Damaged => "damaged",
            Cause::Unsynced => "unsynced",
        }
    }
}

/// What a recovery knows to be lost, as closely as it knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub shard: u8,
    /// `None`: some series of the shard.
    pub series: Option<String>,
    /// Between these times, both included; `None` where a side is open.
    pub start: Option<i64>,
    pub end: Option<i64>,
    pub samples: Option<u64>,
    pub what: String,
    pub cause: Cause,
}

/// What a recovery did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The number of the checkpoint.
    pub checkpoint: Option<u64>,
    pub segments: u64,
    pub series: u64,
    /// Samples and histograms, those of the journal counted once more where they stand twice.
    pub samples: u64,
    pub frames: u64,
    pub checkpoint_bytes: u64,
    pub journal_bytes: u64,
    /// The last bytes of segments that were cut while they were written: what no caller was told to be safe.
    pub cut: Vec<Skipped>,
    /// Bad bytes before good ones, which were kept, in a part of the journal that was not synced as far as is known.
    pub unsynced: Vec<Skipped>,
    /// Bad bytes of what was safe once.
    pub skipped: Vec<Skipped>,
    pub lost: Vec<Lost>,
}

impl Recovery {
    /// Whether something is gone that was safe once.
    pub fn is_damaged(&self) -> bool {
        !self.skipped.is_empty() || self.lost.iter().any(|lost| lost.cause == Cause::Damaged)
    }

    /// Whether nothing is known to be gone.
    pub fn is_whole(&self) -> bool {
        self.skipped.is_empty() && self.unsynced.is_empty() && self.lost.is_empty()
    }
}

/// Something that is lost, and between which places of the journal it stood.
#[derive(Clone, Debug)]
pub struct Loss {
    pub lost: Lost,
    pub from: Place,
    pub to: Place,
}

/// Bad places and losses of a journal, until it is known how far it was synced.
#[derive(Default)]
pub struct Doubts {
    /// All before this place was safe from a power cut.
    safe: Place,
    bad: Vec<(Place, Skipped)>,
}

impl Doubts {
    pub fn synced(&mut self, to: Place) {
        self.safe = self.safe.max(to);
    }

    pub fn bad(&mut self, place: Place, skipped: Skipped) {
        self.bad.push((place, skipped));
    }

    /// Puts everything under its name. What stood on both sides of where the sync ended was damaged if anything there was.
    pub fn settle(self, losses: Vec<Loss>, recovery: &mut Recovery) {
        let (damaged, unsynced): (Vec<_>, Vec<_>) = self.bad.into_iter().partition(|bad| bad.0 < self.safe);
        // Bytes of a checkpoint stand before all journals.
        let before = (!recovery.skipped.is_empty()).then_some(Place::default());
        let places: Vec<Place> = before.into_iter().chain(damaged.iter().map(|bad| bad.0)).collect();
        for Loss { mut lost, from, to } in losses {
            // One that ends behind the last sync ends behind all these places.
            let was_damaged = to <= self.safe || places.iter().any(|&at| from <= at);
            lost.cause = if was_damaged { Cause::Damaged } else { Cause::Unsynced };
            recovery.lost.push(lost);
        }
        recovery.skipped.extend(damaged.into_iter().map(|bad| bad.1));
        recovery.unsynced.extend(unsynced.into_iter().map(|bad| bad.1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: u64) -> Place {
        Place { segment: 1, offset }
    }

    fn skipped(offset: u64) -> Skipped {
        Skipped { file: "journal".to_owned(), offset, bytes: 1, why: "bad".to_owned() }
    }

    fn loss(from: u64, to: u64) -> Loss {
        let (what, cause) = (format!("{from} to {to}"), Cause::Unsynced);
        let lost = Lost { shard: 0, series: None, start: None, end: None, samples: None, what, cause };
        Loss { lost, from: place(from), to: place(to) }
    }

    #[test]
    fn what_stood_on_both_sides_of_the_last_sync_was_damaged_where_bad_bytes_of_before_are_in_it() {
        let mut doubts = Doubts::default();
        doubts.synced(place(100));
        [50, 150].into_iter().for_each(|at| doubts.bad(place(at), skipped(at)));
        let mut recovery = Recovery::default();
        doubts.settle(vec![loss(10, 90), loss(40, 160), loss(60, 160), loss(120, 160)], &mut recovery);
        let causes: Vec<Cause> = recovery.lost.iter().map(|lost| lost.cause).collect();
        assert_eq!(causes, [Cause::Damaged, Cause::Damaged, Cause::Unsynced, Cause::Unsynced]);
        assert_eq!((recovery.skipped, recovery.unsynced), (vec![skipped(50)], vec![skipped(150)]));
    }

    #[test]
    fn bad_bytes_of_a_checkpoint_stand_before_all_of_the_journal() {
        let mut recovery = Recovery { skipped: vec![skipped(7)], ..Recovery::default() };
        let from_the_start = Loss { from: Place::default(), ..loss(0, 160) };
        Doubts::default().settle(vec![from_the_start, loss(1, 160)], &mut recovery);
        let causes: Vec<&str> = recovery.lost.iter().map(|lost| lost.cause.as_str()).collect();
        assert_eq!(causes, ["damaged", "unsynced"]);
    }
}
