//! The account of memory against the allocator: what a query is told to hold is never less than what it holds.
//!
//! One test in a process of its own: the allocator counts for all threads.
#![allow(unsafe_code, clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use metricsdb_model::budget::{Limits, Stop};
use metricsdb_model::histogram::Span;
use metricsdb_model::{
    Budget, Counts, Error, Histogram, HistogramSamples, Labels, Predicate, ResetHint, Result, Samples,
    SeriesSet, Source, Tally, TimeRange,
};
use metricsdb_query::exec::{Params, evaluate};
use metricsdb_query::syntax::parse;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grown(by: usize) {
    let now = NOW.fetch_add(by, Relaxed) + by;
    PEAK.fetch_max(now, Relaxed);
}

// SAFETY: every call goes to the system's allocator with the arguments as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SERIES: usize = 6_000;
/// Behind them, series of native histograms.
const NATIVES: usize = 400;
const BUCKETS: u32 = 24;
/// Stacks of pools, thread locals, tables of the test harness: what is not of the query's size.
const SLACK: usize = 256 << 10;

/// Makes labels and samples anew for whoever asks, as a store does.
struct Made;
struct MadeSeries {
    keep: Vec<usize>,
}

impl Source for Made {
    fn select<'a>(
        &'a self,
        predicate: &Predicate,
        _: TimeRange,
        budget: &Budget,
    ) -> Result<Box<dyn SeriesSet + 'a>> {
        let keep: Vec<usize> =
            (0..SERIES + NATIVES).filter(|&i| predicate.matches(labels(i).as_ref())).collect();
        budget.keep(keep.capacity() * size_of::<usize>())?;
        Ok(Box::new(MadeSeries { keep }))
    }
}

fn labels(i: usize) -> Labels {
    let name = match i {
        SERIES.. => "h_total",
        _ if i.is_multiple_of(2) => "m_total",
        _ => "n_total",
    };
    let pod = format!("pod-{i:06}");
    let zone = format!("zone-{}", i % 7);
    let le = format!("{}", i % 10);
    Labels::from_pairs([("__name__", name), ("pod", &pod), ("zone", &zone), ("le", &le)]).unwrap()
}

impl SeriesSet for MadeSeries {
    fn len(&self) -> usize {
        self.keep.len()
    }

    fn labels(&self, index: usize) -> Labels {
        labels(self.keep[index])
    }

    fn has_histograms(&self, index: usize) -> bool {
        self.keep[index] >= SERIES
    }

    fn read_histograms(&self, index: usize, range: TimeRange, out: &mut HistogramSamples) -> Result<()> {
        if self.keep[index] < SERIES {
            return Ok(());
        }
        let positive = vec![Span { offset: 0, length: BUCKETS }];
        let layout = Arc::new(metricsdb_model::Layout { positive, ..Default::default() });
        let first = range.start.max(0).div_euclid(60_000) + 1;
        for i in first..=range.end.div_euclid(60_000) {
            let (buckets, count) = (vec![i as u64; BUCKETS as usize], i as u64 * u64::from(BUCKETS));
            let counts = Counts::Int(Tally { count, zero: 0, buckets });
            let (layout, reset) = (layout.clone(), ResetHint::Unknown);
            out.push(i * 60_000, Histogram { layout, reset, sum: i as f64, counts });
        }
        Ok(())
    }

    fn read(&self, index: usize, range: TimeRange, out: &mut Samples) -> Result<()> {
        if self.keep[index] >= SERIES {
            return Ok(());
        }
        let first = range.start.max(0).div_euclid(15_000) + 1;
        for i in first..=range.end.div_euclid(15_000) {
            out.push(i * 15_000, (i * (1 + self.keep[index] as i64 % 13)) as f64);
        }
        Ok(())
    }
}

const QUERIES: &[&str] = &[
    "m_total",
    "{pod!=\"\"}",
    "-m_total",
    "sum(rate(m_total[5m]))",
    "sum by (pod) (rate({pod!=\"\"}[5m]))",
    "avg by (pod) (m_total)",
    "stddev without (pod) (m_total)",
    "topk(5, m_total)",
    "topk by (pod) (1, m_total)",
    "limitk(100, m_total)",
    "quantile by (zone) (0.9, m_total)",
    "count_values(\"v\", m_total % 50)",
    "m_total + on (pod) m_total",
    "m_total - ignoring (x) m_total",
    "sum by (zone) (m_total) / on (zone) group_right m_total",
    "m_total and m_total",
    "{pod!=\"\"} unless on (pod) m_total",
    "m_total or n_total",
    "label_replace(m_total, \"x\", \"$1\", \"pod\", \"pod-(.*)\")",
    "label_join(m_total, \"x\", \"-\", \"pod\", \"zone\")",
    "sort_desc(m_total)",
    "sort_by_label(m_total, \"pod\")",
    "histogram_quantile(0.9, sum by (zone, le) (m_total))",
    "histogram_quantile(0.9, m_total)",
    "max_over_time(sum by (pod) (m_total)[5m:30s])",
    "sum_over_time((m_total > 3)[5m:1m])",
    "absent(m_total)",
    "scalar(sum(m_total)) + m_total",
    "m_total[2h]",
    "clamp(m_total, 1, 10) * 2 > 4",
    "timestamp(m_total)",
    "m_total @ 3000",
    "sum(m_total) + sum(n_total) + sum by (pod) (m_total * 2)",
    "h_total",
    "h_total * 2",
    "h_total + h_total",
    "h_total or m_total",
    "sum by (zone) (h_total)",
    "sum by (pod) (rate(h_total[5m]))",
    "avg(h_total)",
    "histogram_quantile(0.9, h_total)",
    "max_over_time(histogram_count(h_total)[5m:1m])",
    "sum_over_time(sum by (zone) (h_total)[5m:1m])",
    "h_total[2h]",
    "m_total default on (zone) sum by (zone) (n_total)",
    "m_total if on (pod) (m_total > 3)",
    "outliersk(5, m_total)",
    "rollup_rate(m_total[5m])",
];

fn run(text: &str, bytes_max: u64, step: Option<i64>) -> (Result<()>, u64, usize) {
    let limits = Limits { timeout_ms: 0, samples_max: u64::MAX, bytes_max };
    let budget = Budget::with(Stop::default(), limits, None, None);
    let expr = parse(text).unwrap();
    let at = 7_200_000;
    let params = match step {
        Some(step) => Params::range(text, at, at + 9 * step, step),
        None => Params::instant(text, at),
    };
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let answer = evaluate(&expr, &params, &Made, &budget);
    let peak = PEAK.load(Relaxed) - before;
    (answer.map(|_| ()), budget.bytes_peak(), peak)
}

#[test]
fn what_is_accounted_is_never_less_than_what_is_allocated() {
    // Threads and their first buffers come to stay.
    run("sum by (pod) (rate(m_total[5m]))", u64::MAX, Some(60_000)).0.unwrap();
    for &text in QUERIES {
        for step in [None, Some(60_000)] {
            if step.is_some() && text.ends_with("[2h]") {
                continue;
            }
            let (result, told, held) = run(text, u64::MAX, step);
            result.unwrap();
            println!("{text} {step:?}: told {told}, held {held}");
            assert!(held <= told as usize + SLACK, "{text} {step:?}: {held} bytes held, {told} told");
            assert!(told as usize <= 8 * held + SLACK, "{text} {step:?}: {held} bytes held, {told} told");
            // And a limit holds: whatever is refused was refused before it stood in memory.
            let (result, _, held) = run(text, told / 2, step);
            assert!(matches!(result, Err(Error::Limit { .. })), "{text} {step:?}");
            assert!(
                held <= told as usize / 2 + SLACK,
                "{text} {step:?}: {held} held with {} allowed",
                told / 2
            );
        }
    }
}
