//! Strategies for histograms: anything valid, and what a service really sends.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use metricsdb_model::histogram::{CountNumber, SCHEMA_CUSTOM, SCHEMA_MAX, SCHEMA_MIN, Span, Tally};
use metricsdb_model::sample::{NORMAL_NAN_BITS, STALE_NAN_BITS};
use metricsdb_model::{Counts, Histogram, Layout, ResetHint};

fn spans(first: std::ops::Range<i32>) -> impl Strategy<Value = Vec<Span>> {
    let piece = (0..6i32, prop_oneof![6 => 0..6u32, 1 => 6..40u32]);
    (first, vec(piece, 0..4)).prop_map(|(first, pieces)| {
        let at = |i: usize, gap: i32| if i == 0 { first } else { gap };
        pieces.iter().enumerate().map(|(i, &(gap, length))| Span { offset: at(i, gap), length }).collect()
    })
}

/// Any valid layout.
pub fn layout() -> impl Strategy<Value = Layout> {
    let threshold = prop_oneof![
        3 => Just(0.0),
        2 => Just(2.938735877055719e-39),
        1 => Just(-0.0),
        1 => 0.0..1e300f64,
    ];
    let exponential = (SCHEMA_MIN..=SCHEMA_MAX, threshold, spans(-40..40), spans(-40..40));
    let exponential = exponential.prop_map(|(schema, zero_threshold, positive, negative)| Layout {
        schema,
        zero_threshold,
        positive,
        negative,
        custom_bounds: Vec::new(),
    });
    let custom = (spans(0..3), vec(1e-3..10f64, 0..30), -10.0..10f64);
    let custom = custom.prop_map(|(positive, steps, start)| {
        let mut layout = Layout { schema: SCHEMA_CUSTOM, positive, ..Layout::default() };
        let bounds = steps.iter().scan(start, |at, step| {
            *at = ((*at + step) * 1000.0).round() / 1000.0;
            Some(*at)
        });
        layout.custom_bounds = bounds.collect();
        layout.custom_bounds.dedup();
        let last = metricsdb_model::histogram::indices(&layout.positive).last();
        if last.is_some_and(|last| last as usize > layout.custom_bounds.len()) {
            layout.positive.clear();
        }
        layout
    });
    prop_oneof![3 => exponential, 1 => custom]
}

fn integer() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..4u64, 6 => 0..100_000u64, 1 => Just(u64::MAX), 1 => any::<u64>()]
}

fn double() -> impl Strategy<Value = f64> {
    let nan =
        prop_oneof![Just(STALE_NAN_BITS), Just(NORMAL_NAN_BITS), any::<u64>().prop_map(|b| b | 0x7ff0 << 48)];
    prop_oneof![
        6 => (0..1000u32).prop_map(f64::from),
        6 => (0..1000u32).prop_map(|v| f64::from(v) / 10.0),
        3 => 0.0..1e9f64,
        1 => Just(-0.0),
        1 => Just(f64::INFINITY),
        // A NaN keeps its sign and payload.
        1 => nan.prop_map(f64::from_bits).prop_map(|v| if v < 0.0 { 0.0 } else { v }),
    ]
}

fn sum() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => (0..100_000i32).prop_map(|v| f64::from(v) / 100.0),
        2 => any::<u64>().prop_map(f64::from_bits),
        1 => Just(f64::from_bits(STALE_NAN_BITS)),
        1 => Just(f64::NEG_INFINITY),
    ]
}

fn hint() -> impl Strategy<Value = ResetHint> {
    prop_oneof![
        5 => Just(ResetHint::Unknown),
        1 => Just(ResetHint::Reset),
        1 => Just(ResetHint::NotReset),
        1 => Just(ResetHint::Gauge),
    ]
}

fn zero<T: CountNumber>(layout: &Layout, zero: T) -> T {
    if layout.schema == SCHEMA_CUSTOM { T::default() } else { zero }
}

fn integers(layout: &Layout, zero_count: u64, more: u64, sum: f64, buckets: &[u64]) -> Counts {
    let mut tally = Tally { count: 0, zero: zero(layout, zero_count), buckets: Vec::new() };
    let mut total = tally.zero;
    for &b in buckets {
        let b = b.min(u64::MAX - total);
        total += b;
        tally.buckets.push(b);
    }
    tally.count = if sum.is_nan() { total.saturating_add(more) } else { total };
    Counts::Int(tally)
}

fn doubles(layout: &Layout, zero_count: f64, count: Option<f64>, buckets: &[f64]) -> Counts {
    let mut tally = Tally { count: 0.0, zero: zero(layout, zero_count), buckets: buckets.to_vec() };
    tally.count = count.unwrap_or(tally.total());
    Counts::Float(tally)
}

/// Any valid histogram of a layout.
pub fn histogram(layout: Arc<Layout>) -> impl Strategy<Value = Histogram> {
    let (above, below) = layout.bucket_counts();
    let n = (above + below) as usize;
    let of = layout.clone();
    let counts =
        prop_oneof![
            (integer(), integer(), vec(integer(), n)).prop_map(|(a, b, buckets)| (a, b, buckets, None)),
            (double(), proptest::option::of(double()), vec(double(), n))
                .prop_map(|(zero, count, buckets)| (0, 0, Vec::new(), Some((zero, count, buckets)))),
        ];
    (hint(), sum(), counts).prop_map(move |(reset, sum, (zero, more, buckets, float))| {
        let counts = match float {
            Some((zero, count, buckets)) => doubles(&of, zero, count, &buckets),
            None => integers(&of, zero, more, sum, &buckets),
        };
        Histogram { layout: layout.clone(), reset, sum, counts }
    })
}

/// Up to `n` histograms of up to four layouts, in any order.
pub fn any_rows(n: usize) -> impl Strategy<Value = Vec<Histogram>> {
    vec(layout().prop_map(Arc::new), 1..5).prop_flat_map(move |layouts| {
        let row = proptest::sample::select(layouts).prop_flat_map(histogram);
        vec(prop_oneof![20 => row, 1 => Just(Histogram::stale())], 1..=n)
    })
}

/// Up to `n` histograms of one counter whose layout grows by a bucket now and then.
pub fn growing_rows(n: usize) -> impl Strategy<Value = Vec<Histogram>> {
    let step = (vec((0..30usize, 0..20u64), 0..4), prop_oneof![30 => Just(false), 1 => Just(true)]);
    (vec(step, 1..=n), any::<bool>()).prop_map(|(steps, float)| {
        let mut counter = Counter::new(float);
        steps.iter().map(|(adds, reset)| counter.step(adds, *reset)).collect()
    })
}

/// A counter of observations in the buckets 0 to 29.
struct Counter {
    float: bool,
    buckets: Vec<Option<u64>>,
    layout: Arc<Layout>,
}

impl Counter {
    fn new(float: bool) -> Counter {
        Counter {
            float,
            buckets: vec![None; 30],
            layout: Arc::new(Layout { schema: 3, ..Layout::default() }),
        }
    }

    fn step(&mut self, adds: &[(usize, u64)], reset: bool) -> Histogram {
        if reset {
            self.buckets.fill(None);
        }
        for &(at, n) in adds {
            *self.buckets[at].get_or_insert(0) += n;
        }
        let layout = Layout { schema: 3, positive: self.spans(), ..Layout::default() };
        if layout != *self.layout {
            self.layout = layout.into();
        }
        let buckets: Vec<u64> = self.buckets.iter().flatten().copied().collect();
        let sum = buckets.iter().sum::<u64>() as f64 * 0.25;
        let counts = match self.float {
            false => integers(&self.layout, 0, 0, sum, &buckets),
            true => {
                doubles(&self.layout, 0.0, None, &buckets.iter().map(|&b| b as f64 / 3.0).collect::<Vec<_>>())
            }
        };
        Histogram { layout: self.layout.clone(), reset: ResetHint::Unknown, sum, counts }
    }

    fn spans(&self) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        let mut next = 0;
        for at in (0..30).filter(|&at| self.buckets[at as usize].is_some()) {
            match spans.last_mut().filter(|_| at == next) {
                Some(span) => span.length += 1,
                None => spans.push(Span { offset: at - next, length: 1 }),
            }
            next = at + 1;
        }
        spans
    }
}

pub fn rows(n: usize) -> impl Strategy<Value = Vec<Histogram>> {
    prop_oneof![any_rows(n), growing_rows(n)]
}
