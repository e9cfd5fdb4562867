//! Series that stand for others: what is left of a source of which a sample was drawn.

use std::collections::HashMap;

use crate::labels::Labels;
use crate::time::TimeRange;

/// How a sample was drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    /// As a person reads it: `1 in 10 by job`.
    pub text: String,
    /// What is younger (milliseconds) was not drawn from.
    pub until: i64,
    /// Whether series were drawn at random, so that sums and counts can be scaled.
    pub scales: bool,
}

/// One series of `kept` that were drawn from `of` of a stratum, by the draw of this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    pub draw: u32,
    pub stratum: u64,
    pub of: u32,
    pub kept: u32,
}

impl Drawn {
    /// How many series it stands for, itself among them.
    pub fn weight(&self) -> f64 {
        f64::from(self.of) / f64::from(self.kept.max(1))
    }
}

/// What of a source's series were drawn, by the hash of their labels; others stand for themselves.
#[derive(Clone, Debug)]
pub struct Sampling {
    pub draws: Vec<Draw>,
    pub series: HashMap<u64, Drawn>,
    /// Where the source has samples.
    pub range: TimeRange,
}

impl Sampling {
    pub fn of(&self, labels: &Labels) -> Option<Drawn> {
        self.series.get(&labels.hash64()).copied().filter(|one| self.draws.len() > one.draw as usize)
    }
}
