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
            let was_damaged = to <= self.safe || places.iter().any(|&at| from <= at && at < to);
            lost.cause = if was_damaged { Cause::Damaged } else { Cause::Unsynced };
            recovery.lost.push(lost);
        }
        recovery.skipped.extend(damaged.into_iter().map(|bad| bad.1));
        recovery.unsynced.extend(unsynced.into_iter().map(|bad| bad.1));
    }
}
