//! Native histograms as values of the language: counts in doubles, arithmetic, quantiles, windows. Prometheus
//! 3 with its experimental features is the model, to the annotation.

mod accumulate;
mod combine;
mod edges;
mod quantile;
mod remark;
mod reset;
mod side;
mod trim;
mod window;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;

use std::sync::Arc;

use metricsdb_model::histogram::{Bucket, CountNumber, Histogram as Stored};
use metricsdb_model::histogram::{Counts, Layout, ResetHint, SCHEMA_CUSTOM, Span, Tally, indices};

pub use accumulate::Accumulator;
pub use combine::{Combined, Incompatible};
pub use edges::{eval as eval_edges, interpolate};
pub use remark::{Remark, Remarks};
pub use side::{Count, Side, upper_bound};
pub use trim::Keep;
pub use window::{Outcome, Point, Points, PointsFn, ReadsRecords, StoodPoints, reads_records, window_fn};

/// One histogram. Without custom bounds its buckets are exponential.
#[derive(Clone, Debug)]
pub struct Histogram<T = f64> {
    /// -4 to 8, or -53 for custom bounds.
    pub schema: i32,
    pub reset: ResetHint,
    /// The zero bucket holds what is not farther from zero than this.
    pub zero_threshold: f64,
    pub zero_count: T,
    /// All observations; NaNs are in no bucket.
    pub count: T,
    pub sum: T,
    pub positive: Side<T>,
    pub negative: Side<T>,
    /// Upper bounds of custom buckets, from index 0 on; the last bucket is above all. Else empty.
    pub bounds: Arc<[f64]>,
}

impl<T> Histogram<T> {
    /// Bytes in memory; what histograms of one layout share counts once for all of them.
    pub fn bytes(&self) -> usize {
        let shared = |bytes: usize, owners: usize| bytes / owners.max(1);
        let side = |side: &Side<T>| {
            size_of_val(&side.counts[..])
                + shared(size_of_val(&side.indices[..]), Arc::strong_count(&side.indices))
        };
        let bounds = shared(size_of_val(&self.bounds[..]), Arc::strong_count(&self.bounds));
        size_of::<Histogram<T>>() + side(&self.positive) + side(&self.negative) + bounds
    }
}

/// A value of an expression.
pub type FloatHistogram = Histogram<f64>;

/// Makes values of stored histograms; those of one layout in a row share its indices and bounds.
#[derive(Debug, Default)]
pub struct Reader {
    known: Option<Shared>,
}

/// What histograms of one layout have in common.
#[derive(Debug)]
struct Shared {
    layout: Arc<Layout>,
    positive: Arc<[i32]>,
    negative: Arc<[i32]>,
    bounds: Arc<[f64]>,
}

impl Shared {
    fn of(layout: &Arc<Layout>) -> Shared {
        Shared {
            layout: Arc::clone(layout),
            positive: indices(&layout.positive).collect(),
            negative: indices(&layout.negative).collect(),
            bounds: layout.custom_bounds.as_slice().into(),
        }
    }
}

impl Reader {
    /// Copies the counts. A staleness marker becomes a histogram whose sum is that NaN.
    pub fn read(&mut self, stored: &Stored) -> FloatHistogram {
        let layout = &stored.layout;
        let fitting = self.known.take().filter(|known| Arc::ptr_eq(&known.layout, layout));
        let known = self.known.insert(fitting.unwrap_or_else(|| Shared::of(layout)));
        let (zero_count, count, counts) = match &stored.counts {
            Counts::Int(tally) => widen(tally),
            Counts::Float(tally) => widen(tally),
        };
        let (positive, negative) = split(counts, &known.positive, &known.negative);
        let bounds = Arc::clone(&known.bounds);
        FloatHistogram {
            schema: layout.schema,
            reset: stored.reset,
            zero_threshold: layout.zero_threshold,
            zero_count,
            count,
            sum: stored.sum,
            positive,
            negative,
            bounds,
        }
    }
}

fn widen<N: CountNumber>(tally: &Tally<N>) -> (f64, f64, Vec<f64>) {
    (tally.zero.widen(), tally.count.widen(), tally.buckets.iter().map(|c| c.widen()).collect())
}

/// The positive buckets come first. Counts that are missing are 0.
fn split(mut counts: Vec<f64>, positive: &Arc<[i32]>, negative: &Arc<[i32]>) -> (Side, Side) {
    counts.resize(positive.len() + negative.len(), 0.0);
    let rest = counts.split_off(positive.len());
    let side = |indices: &Arc<[i32]>, counts| Side { indices: Arc::clone(indices), counts };
    (side(positive, counts), side(negative, rest))
}

impl<T: Count> Histogram<T> {
    pub fn is_custom(&self) -> bool {
        self.schema == SCHEMA_CUSTOM
    }

    /// Drops empty buckets.
    pub fn compact(&mut self) {
        for side in [&mut self.positive, &mut self.negative] {
            side.keep(|_, count| count.total() != 0.0);
        }
    }

    /// Merges exponential buckets into those of a lower schema; custom buckets and higher schemas stay.
    pub fn reduce_resolution(&mut self, schema: i32) {
        if self.is_custom() || schema >= self.schema || schema == SCHEMA_CUSTOM {
            return;
        }
        let levels = self.schema.abs_diff(schema);
        self.positive = self.positive.coarser(levels);
        self.negative = self.negative.coarser(levels);
        self.schema = schema;
    }

    /// All that counts, the sum among it.
    fn counts(&self) -> impl Iterator<Item = T> + '_ {
        let sides = self.positive.counts.iter().chain(&self.negative.counts);
        [self.zero_count, self.count, self.sum].into_iter().chain(sides.copied())
    }

    fn map<U>(&self, mut f: impl FnMut(T) -> U) -> Histogram<U> {
        Histogram {
            schema: self.schema,
            reset: self.reset,
            zero_threshold: self.zero_threshold,
            zero_count: f(self.zero_count),
            count: f(self.count),
            sum: f(self.sum),
            positive: self.positive.map(&mut f),
            negative: self.negative.map(&mut f),
            bounds: Arc::clone(&self.bounds),
        }
    }
}

impl FloatHistogram {
    pub fn from_model(stored: &Stored) -> FloatHistogram {
        Reader::default().read(stored)
    }

    /// With counts in doubles, and spans that hold neighbours together.
    pub fn to_model(&self) -> Stored {
        let layout = Layout {
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            positive: spans(&self.positive.indices),
            negative: spans(&self.negative.indices),
            custom_bounds: self.bounds.to_vec(),
        };
        let buckets = [&self.positive.counts[..], &self.negative.counts[..]].concat();
        Stored {
            layout: Arc::new(layout),
            reset: self.reset,
            sum: self.sum,
            counts: Counts::Float(Tally { count: self.count, zero: self.zero_count, buckets }),
        }
    }

    /// Without observations and buckets, but with the schema and bounds of `like`.
    pub fn empty(like: &FloatHistogram) -> FloatHistogram {
        FloatHistogram {
            schema: like.schema,
            reset: ResetHint::Unknown,
            zero_threshold: 0.0,
            zero_count: 0.0,
            count: 0.0,
            sum: 0.0,
            positive: Side::default(),
            negative: Side::default(),
            bounds: Arc::clone(&like.bounds),
        }
    }

    /// Times a number. A negative one makes a gauge.
    pub fn scale(&mut self, factor: f64) {
        self.each(|count| *count *= factor);
        if factor < 0.0 {
            self.reset = ResetHint::Gauge;
        }
    }

    /// By a number; 0 leaves no buckets.
    pub fn divide(&mut self, divisor: f64) {
        self.each(|count| *count /= divisor);
        if divisor == 0.0 {
            self.positive = Side::default();
            self.negative = Side::default();
        } else if divisor < 0.0 {
            self.reset = ResetHint::Gauge;
        }
    }

    pub fn negate(&mut self) {
        self.scale(-1.0);
    }

    fn each(&mut self, mut f: impl FnMut(&mut f64)) {
        [&mut self.zero_count, &mut self.count, &mut self.sum].into_iter().for_each(&mut f);
        self.positive.counts.iter_mut().chain(&mut self.negative.counts).for_each(f);
    }

    /// Equality as `==`, `changes` and `count_values` have it: the same buckets, empty ones too, and the same
    /// counts bit for bit. The reset hint does not matter.
    pub fn same(&self, other: &FloatHistogram) -> bool {
        let head = |h: &FloatHistogram| [h.count, h.sum, h.zero_count].map(f64::to_bits);
        let sides = [(&self.positive, &other.positive), (&self.negative, &other.negative)];
        self.schema == other.schema
            && head(self) == head(other)
            && self.zero_threshold == other.zero_threshold
            && self.bounds == other.bounds
            && sides.iter().all(|(a, b)| {
                let mut counts = a.counts.iter().zip(&b.counts);
                a.indices == b.indices && counts.all(|(x, y)| x.to_bits() == y.to_bits())
            })
    }

    /// All buckets that are there, ascending; the zero bucket if it counts something. Buckets next to the zero
    /// bucket end where it begins.
    pub fn buckets(&self) -> impl DoubleEndedIterator<Item = Bucket> + '_ {
        let edge = self.zero_threshold;
        let negative = self.negative.iter().rev().map(move |(index, count)| {
            let mut bucket = self.bucket(index, count, true);
            if bucket.upper < 0.0 && bucket.upper > -edge {
                bucket.upper = -edge;
            }
            bucket
        });
        let positive = self.positive.iter().map(move |(index, count)| {
            let mut bucket = self.bucket(index, count, false);
            if bucket.lower > 0.0 && bucket.lower < edge {
                bucket.lower = edge;
            }
            bucket
        });
        let zero = Bucket {
            lower: -edge,
            upper: edge,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
        };
        negative.chain((self.zero_count > 0.0).then_some(zero)).chain(positive)
    }

    /// One bucket between its own bounds.
    fn bucket(&self, index: i32, count: f64, negative: bool) -> Bucket {
        let (lower, upper) = (self.bound(index.saturating_sub(1)), self.bound(index));
        let (lower, upper) = if negative { (-upper, -lower) } else { (lower, upper) };
        let custom = self.is_custom();
        Bucket {
            lower,
            upper,
            lower_inclusive: if custom { index == 0 } else { lower < 0.0 },
            upper_inclusive: custom || upper > 0.0,
            count,
        }
    }

    fn bound(&self, index: i32) -> f64 {
        if !self.is_custom() {
            return upper_bound(self.schema, index);
        }
        let Ok(at) = usize::try_from(index) else { return f64::NEG_INFINITY };
        self.bounds.get(at).copied().unwrap_or(f64::INFINITY)
    }
}

fn spans(indices: &[i32]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut next = 0i32;
    for &index in indices {
        match spans.last_mut() {
            Some(span) if index == next => span.length += 1,
            _ => spans.push(Span { offset: index.wrapping_sub(next), length: 1 }),
        }
        next = index.wrapping_add(1);
    }
    spans
}
