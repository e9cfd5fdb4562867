//! The one window through which a query sees storage. Memory, recalled data, other machines and tests
//! are all a `Source`, so one evaluator serves them all.

use crate::budget::Budget;
use crate::drawn::{Draw, Drawn};
use crate::error::Result;
use crate::histogram::{Histogram, HistogramSamples};
use crate::labels::Labels;
use crate::numbered::Numbered;
use crate::predicate::Predicate;
use crate::sample::Samples;
use crate::sketch::Sketch;
use crate::summary::{Summary, Wants};
use crate::time::TimeRange;

/// Rows whose labels are made or hashed between two looks at the budget.
const ROWS_PER_CHECK: usize = 256;
/// What a group takes in a vector that doubles as it grows, its text aside; and a row in a table of all groups.
const GROUP_BYTES: usize = 64;
const TABLE_BYTES: usize = 64;

pub trait Source: Sync {
    /// The series that satisfy `predicate` and may have a sample in `range`; a consistent view: later
    /// writes do not show in it.
    fn select<'a>(
        &'a self,
        predicate: &Predicate,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Box<dyn SeriesSet + 'a>>;

    /// As `select`, for callers that ask for the newest sample of each series in `range` alone: of others the
    /// set may know nothing. Stores override it where they know that one without copying more.
    fn select_newest<'a>(
        &'a self,
        predicate: &Predicate,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Box<dyn SeriesSet + 'a>> {
        self.select(predicate, range, budget)
    }

    /// How many of the series that satisfy `predicate` have a newest sample in `range` that is no staleness marker, group
    /// by group; groups without any are left out. The budget counts the samples. `None` where storage has no shorter
    /// way than `select_newest`.
    fn count_newest(
        &self,
        _predicate: &Predicate,
        _range: TimeRange,
        _grouping: &Grouping,
        _budget: &Budget,
    ) -> Result<Option<Vec<(Labels, u64)>>> {
        Ok(None)
    }

    /// What `select` and the reads of all its series would come to, known without reading a sample. `None`
    /// where storage can't say: then nothing is bounded.
    fn bound(&self, _predicate: &Predicate, _range: TimeRange, _budget: &Budget) -> Result<Option<Bound>> {
        Ok(None)
    }

    /// How many values a label has among all series; `None` where storage can't say at once.
    fn label_size(&self, _label: &str) -> Option<u64> {
        None
    }

    /// All samples there are, at most; `None` where storage can't say at once.
    fn samples_at_most(&self) -> Option<u64> {
        None
    }

    /// Whether some series may stand for others, which are gone.
    fn has_draws(&self) -> bool {
        false
    }
}

/// What a selection comes to: a lower and an upper bound, equal where the heads of chunks know it exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    pub series_min: u64,
    pub series: u64,
    /// Samples in the range, staleness markers among them. A histogram counts as `HistogramSamples::cost` says.
    pub samples_min: u64,
    pub samples: u64,
    /// Of `samples`: those of series that hold histograms. All of these are read even where others are asked for
    /// their newest sample.
    pub mixed: u64,
    /// What one histogram of each series costs at most, all series together; histograms of one series added up take
    /// no more than that.
    pub width: u64,
    /// Encoded bytes of the chunks that must be looked into.
    pub bytes: u64,
}

/// Series in no particular order. All methods may be called from many threads at once.
pub trait SeriesSet: Send + Sync {
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole label set, metric name included.
    fn labels(&self, index: usize) -> Labels;

    /// Appends the samples of one series in `range`, in time order, staleness markers included.
    /// `range` lies within the one given to `select`.
    fn read(&self, index: usize, range: TimeRange, out: &mut Samples) -> Result<()>;

    /// Appends the values of the samples that `read` gives, for who has no use for their times. Stores override it where
    /// times take work.
    fn read_values(&self, index: usize, range: TimeRange, out: &mut Vec<f64>) -> Result<()> {
        let mut samples = Samples::default();
        self.read(index, range, &mut samples)?;
        out.append(&mut samples.values);
        Ok(())
    }

    /// How many samples one series has in `range`, and their exact sum, where all are integers that a double holds and
    /// storage knows that in less time than it takes to read them. `None` where it does not: then read them.
    fn integer_sum(&self, _index: usize, _range: TimeRange) -> Result<Option<(u64, i64)>> {
        Ok(None)
    }

    /// The newest sample of one series in `range`, be it a staleness marker. Stores override it where they know
    /// it without decoding.
    fn newest(&self, index: usize, range: TimeRange) -> Result<Option<(i64, f64)>> {
        let mut samples = Samples::default();
        self.read(index, range, &mut samples)?;
        Ok(samples.timestamps.last().copied().zip(samples.values.last().copied()))
    }

    /// Whether one series may have histograms. Stores without them keep the default.
    fn has_histograms(&self, _index: usize) -> bool {
        false
    }

    /// Whether any series may.
    fn any_histograms(&self) -> bool {
        (0..self.len()).any(|i| self.has_histograms(i))
    }

    /// Appends the histograms of one series in `range`, in time order, stale ones included. `read` does not
    /// show them: a sample is a number or a histogram.
    fn read_histograms(&self, _index: usize, _range: TimeRange, _out: &mut HistogramSamples) -> Result<()> {
        Ok(())
    }

    /// The newest histogram of one series before `time`, in milliseconds, with its time: it may lie before the
    /// range given to `select`. Only it tells whether the first one in a range follows a reset.
    fn histogram_before(&self, _index: usize, _time: i64) -> Result<Option<(i64, Histogram)>> {
        Ok(None)
    }

    /// Whether a sample of one series may have a start timestamp. Stores without them keep the default.
    fn has_starts(&self, _index: usize) -> bool {
        false
    }

    /// Appends, for each of these ascending times of samples or histograms of one series, when the counter
    /// began: milliseconds, 0 where that is not known.
    fn read_starts(&self, _index: usize, timestamps: &[i64], out: &mut Vec<i64>) -> Result<()> {
        out.resize(out.len() + timestamps.len(), 0);
        Ok(())
    }

    /// What all samples of one series in `range` come to, without the staleness markers. `None` where storage
    /// knows no more of them than the samples: then read them.
    fn summary(&self, _index: usize, _range: TimeRange, _wants: Wants) -> Result<Option<Summary>> {
        Ok(None)
    }

    /// The width in milliseconds of the widest rollup bucket that stands for samples of one series in `range`; 0 where
    /// all of them are there. Where it is not, `read` gives points that stand for samples.
    fn resolution(&self, _index: usize, _range: TimeRange) -> i64 {
        0
    }

    /// What ascending windows of one series come to, from records of rollups where samples are gone. `None` where all
    /// are there.
    fn summaries(&self, _index: usize, _windows: &[TimeRange]) -> Result<Option<Stood>> {
        Ok(None)
    }

    /// As `summaries`, of ascending windows whose samples are all there, but whose records say the same of count, ends, extremes
    /// and resets in less time. `None` where there are none, or where they save nothing.
    fn whole_windows(&self, _index: usize, _windows: &[TimeRange]) -> Result<Option<Stood>> {
        Ok(None)
    }

    /// As `summaries`, of sketches: `None` where there are none.
    fn quantiles(&self, _index: usize, _windows: &[TimeRange]) -> Result<Option<Quantiles>> {
        Ok(None)
    }

    /// Outside of it `read` gives nothing of one series. Stores that don't know it at once keep the default.
    fn span(&self, _index: usize) -> TimeRange {
        TimeRange::ALL
    }

    /// As `summaries`, of native histograms: `read_histograms` gives those that tell every gain then.
    fn stood_histograms(&self, _index: usize, _windows: &[TimeRange]) -> Result<Option<StoodHistograms>> {
        Ok(None)
    }

    /// The worst relative error of a quantile that is left where native histograms of one series in `range` were merged into
    /// wider buckets, to keep records small: the width of such a bucket by its lower bound. `None` where all are as they were.
    fn quantile_error(&self, _index: usize, _range: TimeRange) -> Result<Option<f64>> {
        Ok(None)
    }

    /// How those series were drawn that stand for others; nothing where all stand for themselves.
    fn draws(&self) -> &[Draw] {
        &[]
    }

    /// For which others one series stands in a range, by one of `draws`: as its newest source there says.
    fn drawn(&self, _index: usize, _range: TimeRange) -> Option<Drawn> {
        None
    }

    /// Encoded bytes of the chunks of one series that a read of `range` looks into. Asked by EXPLAIN ANALYZE alone.
    fn encoded_bytes(&self, _index: usize, _range: TimeRange) -> u64 {
        0
    }

    /// Adds the names of the codecs of these chunks to `names`, each once.
    fn codecs(&self, _index: usize, _range: TimeRange, _names: &mut Vec<&'static str>) {}

    /// Sorts series into groups by the labels that `grouping` keeps. Stores override it where they can
    /// group without building label sets.
    fn group(&self, grouping: &Grouping, budget: &Budget) -> Result<Groups> {
        Groups::of(self.len(), |i| grouping.apply(&self.labels(i)), budget)
    }

    /// Bytes that this set holds beyond what `select` has told its budget.
    fn bytes(&self) -> usize {
        0
    }
}

/// What windows come to where records stand for samples.
#[derive(Clone, Debug, Default)]
pub struct Stood {
    /// One a window; `None` for an empty one.
    pub windows: Vec<Option<Summary>>,
    /// No window cuts a bucket.
    pub exact: bool,
    /// Resets are known.
    pub resets: bool,
    /// Samples and records that were read.
    pub samples: u64,
}

/// What windows come to where sketches stand for samples.
#[derive(Clone, Debug, Default)]
pub struct Quantiles {
    /// One a window; `None` for an empty one.
    pub windows: Vec<Option<Sketch>>,
    /// No window cuts a bucket.
    pub exact: bool,
    /// Samples and records that were read.
    pub samples: u64,
}

/// What windows come to where records stand for native histograms.
#[derive(Clone, Debug, Default)]
pub struct StoodHistograms {
    /// One a window.
    pub windows: Vec<HistogramsStood>,
    /// No window cuts a bucket.
    pub exact: bool,
}

/// The histograms of one window.
#[derive(Clone, Debug, Default)]
pub struct HistogramsStood {
    pub count: u64,
    /// Together they are the sum of all, in time order.
    pub sums: Vec<Histogram>,
}

/// Which labels a grouping keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// Just these.
    By(Vec<String>),
    /// All but these. Name `__name__` here to drop it: nothing is dropped silently.
    Without(Vec<String>),
}

impl Grouping {
    pub fn apply(&self, labels: &Labels) -> Labels {
        match self {
            Grouping::By(names) => labels.retain(|n| names.iter().any(|x| x == n)),
            Grouping::Without(names) => labels.retain(|n| !names.iter().any(|x| x == n)),
        }
    }
}

/// The result of a grouping: `labels[of[i]]` are the kept labels of series `i`.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    pub of: Vec<u32>,
    pub labels: Vec<Labels>,
}

impl Groups {
    /// Rows whose kept labels, `labels(row)`, are equal are one group.
    pub fn of(rows: usize, labels: impl Fn(usize) -> Labels, budget: &Budget) -> Result<Groups> {
        let mut groups = Groups { of: Vec::with_capacity(rows), labels: Vec::new() };
        // Roomy from the start: a table that grows hashes all of its texts again, and nobody can stop it.
        budget.hold(rows * (size_of::<u32>() + TABLE_BYTES))?;
        let mut seen = Numbered::with_capacity(rows);
        for row in 0..rows {
            if row % ROWS_PER_CHECK == 0 {
                budget.check()?;
            }
            let (labels, known) = (labels(row), seen.len());
            let bytes = labels.heap_bytes();
            groups.of.push(seen.number(labels));
            if seen.len() > known {
                budget.hold(GROUP_BYTES + bytes)?;
            }
        }
        groups.labels = seen.into_sets();
        Ok(groups)
    }
}
