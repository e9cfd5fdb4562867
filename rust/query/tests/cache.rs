//! A cache between random writes: what it answers is what an evaluation answers, to the last bit and remark.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::borrow::Cow;
use std::sync::Arc;

use metricsdb_model::batch::{BatchHistogram, BatchSeries};
use metricsdb_model::budget::{Limits, Stop, Visits};
use metricsdb_model::histogram::{Counts, Histogram, Layout, ResetHint, Span, Tally};
use metricsdb_model::sample::stale;
use metricsdb_model::{Answer, Batch, Budget, LabelsBuilder, Result};
use metricsdb_query::cache::{Cache, Counts as Uses};
use metricsdb_query::exec::{Params, evaluate};
use metricsdb_query::syntax::parse;
use metricsdb_store::{Database, Options};
use proptest::prelude::*;

/// Of every kind that the evaluator tells apart; the last ones are not kept, and must not be.
const EXPRESSIONS: &[&str] = &[
    "m",
    "-m",
    "m @ 1800",
    "m offset 2m",
    "m offset -1m",
    "m smoothed",
    "m > 3",
    "m > bool 3",
    "sum(m)",
    "avg(m)",
    "sum by (g) (c_total)",
    "avg without (i) (rate(c_total[5m]))",
    "sum(sum by (g) (rate(c_total[5m])))",
    "max by (g) (m)",
    "min(m)",
    "count(m)",
    "group by (g) (m)",
    "quantile(0.3, m)",
    "topk(2, m)",
    "bottomk by (g) (1, rate(c_total[5m]))",
    "limitk(2, m)",
    "limit_ratio(0.5, m)",
    "count_values(\"v\", m)",
    "rate(c_total[1m])",
    "rate(c_total[5m])",
    "increase(c_total[5m])",
    "rate(c_total[5m] anchored)",
    "increase(c_total[5m] smoothed)",
    "irate(c_total[5m])",
    "resets(c_total[10m])",
    "changes(m[10m])",
    "delta(m[5m])",
    "deriv(m[5m])",
    "predict_linear(m[5m], 60)",
    "sum_over_time(m[30m])",
    "avg_over_time(m[30m])",
    "min_over_time(m[5m])",
    "max_over_time(m[30m])",
    "count_over_time(m[5m])",
    "last_over_time(m[1m])",
    "first_over_time(m[5m])",
    "stddev_over_time(m[5m])",
    "quantile_over_time(0.5, m[5m])",
    "mad_over_time(m[5m])",
    "absent(m{i=\"0\"})",
    "absent_over_time(m[2m])",
    "present_over_time(m[5m])",
    "timestamp(m)",
    "start_timestamp(c_total)",
    "scalar(m{i=\"1\"}) + time()",
    "m / on (g) group_left sum by (g) (m)",
    "m + on (g, i) c_total",
    "m and on (g) c_total > 5",
    "m unless on (i) c_total",
    "m or c_total",
    "sum(m) or vector(0)",
    "histogram_quantile(0.9, sum by (le, g) (rate(b_bucket[5m])))",
    "histogram_quantile(0.9, h)",
    "histogram_quantile(0.5, sum by (g) (rate(h[5m])))",
    "h",
    "m or h",
    "sum(h)",
    "sum(rate(h[10m])) + sum(h)",
    "sum(sum by (g) (h))",
    "histogram_count(increase(h[10m]))",
    "histogram_sum(h)",
    "sum_over_time(h[10m])",
    "max_over_time(rate(c_total[5m])[10m:1m])",
    "avg_over_time(sum(m)[10m:2m] offset 1m)",
    "sum_over_time((m > 2)[10m:])",
    "rollup(m[5m])",
    "rollup_rate(c_total[5m], \"max\")",
    "label_replace(m, \"x\", \"$1\", \"i\", \"(.*)\")",
    "label_join(m, \"x\", \"-\", \"g\", \"i\")",
    "sum by (g) (m) / (sum by (g) (m) + sum by (g) (h))",
    "rate(c_total[5m]) - rate(c_total[5m]) / 3 + on (g, i) sum by (g, i) (rate(c_total[5m]))",
    "sum(h or m) + sum(h)",
    "sort(m)",
    "rate(m[5m])",
    "histogram_quantile(2, h)",
    "range_avg(m)",
    "m default 0",
    "m if on (g) c_total",
    "m + end()",
    "stddev(m)",
    "info(m)",
    "max_over_time(min_over_time(m[2m])[10m:3m])",
];

const MINUTE: i64 = 60_000;

/// Chance that a test can repeat (Marsaglia's xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % n as u64) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn value(&mut self) -> f64 {
        let specials =
            [0.0, -0.0, f64::NAN, f64::from_bits(0xfff8 << 48), f64::INFINITY, -1e300, 1e300, stale()];
        match self.below(20) {
            0 => self.one(&specials),
            1..=8 => self.below(9) as f64,
            9..=12 => self.below(1_000_000) as f64 / 7.0,
            13 => self.below(1000) as f64 * 1e13,
            _ => self.below(1000) as f64 * 0.1,
        }
    }

    fn histogram(&mut self) -> Histogram {
        if self.below(12) == 0 {
            return Histogram::stale();
        }
        let schema = self.one(&[0, 0, 0, 1]);
        let span = Span { offset: self.below(3) as i32, length: 2 };
        let layout = Layout { schema, zero_threshold: 0.001, positive: vec![span], ..Layout::default() };
        let buckets = vec![self.below(50) as f64 / 3.0, self.below(50) as f64];
        let tally = Tally { count: buckets.iter().sum::<f64>() + 0.25, zero: 0.25, buckets };
        let reset = self.one(&[ResetHint::Unknown, ResetHint::Unknown, ResetHint::Gauge]);
        Histogram { layout: Arc::new(layout), reset, sum: self.value(), counts: Counts::Float(tally) }
    }
}

/// `name 0xFF g 0xFF i 0xFF le`, as a sender might write it.
fn decode(raw: &[u8], into: &mut LabelsBuilder) -> std::result::Result<(), metricsdb_model::LabelError> {
    let text = std::str::from_utf8(raw).unwrap();
    for pair in text.split(',') {
        let (name, value) = pair.split_once('=').unwrap();
        into.push(name, value);
    }
    Ok(())
}

/// What a dashboard asks again and again, as time moves on.
#[derive(Clone, Copy)]
struct Panel {
    text: &'static str,
    step: i64,
    length: i64,
}

struct World {
    store: Database,
    cache: Cache,
    chance: Chance,
    now: i64,
    /// Series of one metric and group: many fill several segments of an aggregation.
    many: usize,
    /// Whether the cache is told of writes.
    told: bool,
}

impl World {
    fn new(seed: u64, told: bool) -> World {
        let store = Database::new(Options { samples_per_chunk: 16, ..Options::default() });
        let mut chance = Chance(seed | 1);
        let many = chance.one(&[6, 6, 200]);
        World { store, cache: Cache::new(1 << 22), chance, now: 3_600_000, many, told }
    }

    /// Samples of now, or late ones, of series that may be new.
    fn write(&mut self) {
        let (late, count) = (self.chance.below(20) == 0, 1 + self.chance.below(self.many + 2));
        let mut batch = Batch::new(0, decode);
        for series in 0..count as u32 {
            let name = self.chance.one(&["m", "m", "c_total", "c_total", "b_bucket", "h", "mixed"]);
            let (g, i) = (self.chance.below(3), self.chance.below(self.many + if late { 3 } else { 0 }));
            let le = if name == "b_bucket" { self.chance.one(&[",le=1", ",le=5", ",le=+Inf"]) } else { "" };
            let name = if name == "mixed" { "h" } else { name };
            let raw = format!("__name__={name},g={g},i={i}{le}").into_bytes();
            let first = batch.timestamps.len() as u32;
            let back = if late {
                self.chance.below(2400) as i64 * 1000
            } else {
                self.chance.below(15) as i64 * 1000
            };
            if name == "h" && self.chance.below(5) > 0 {
                let (timestamp, histogram) = (self.now - back, self.chance.histogram());
                batch.histograms.push(BatchHistogram { series, timestamp, start: 0, histogram });
            } else {
                for k in 0..1 + self.chance.below(3) as i64 {
                    let time = self.now - back + k * 5000;
                    batch.timestamps.push(time);
                    batch.values.push(self.chance.value());
                    let start = if self.chance.below(4) == 0 {
                        time - 1000 * self.chance.below(400) as i64
                    } else {
                        0
                    };
                    batch.starts.push(start);
                }
            }
            let samples = first..batch.timestamps.len() as u32;
            batch.series.push(BatchSeries { raw: Cow::Owned(raw), samples });
        }
        self.store.write(&batch);
    }

    fn act(&mut self) {
        match self.chance.below(8) {
            0..=4 => self.write(),
            5 | 6 => self.now += 1000 * self.chance.below(45) as i64,
            _ => {
                self.store.densify(self.now - 20 * MINUTE, u64::MAX, &Budget::unlimited()).unwrap();
            }
        }
    }

    /// A window that moves on with the time, as a dashboard's; whether both ways of answering agree.
    fn ask(&mut self, Panel { text, step, length }: Panel) -> std::result::Result<(), String> {
        let expr = parse(text).unwrap();
        let end = (self.now + self.chance.one(&[0, 0, 0, MINUTE])).div_euclid(step) * step;
        let params = Params::range(text, end - length, end, step);
        let budget = Budget::unlimited();
        let eval = |params: &Params<'_>| evaluate(&expr, params, &self.store, &budget);
        let written = || if self.told { self.store.take_lowest_written() } else { i64::MAX };
        let kept = self.cache.answer(&expr, &params, &budget, &written, &eval);
        let asked = format!("{text} over {}..{} by {}", params.start, params.end, step);
        same(&kept, &eval(&params)).map_err(|difference| format!("{asked}: {difference}"))
    }

    fn panel(&mut self) -> Panel {
        let step = self.chance.one(&[15_000, 15_000, MINUTE, 5 * MINUTE]);
        let length = self.chance.one(&[20, 20, 40]) * MINUTE;
        Panel { text: self.chance.one(EXPRESSIONS), step, length }
    }

    fn run(&mut self, rounds: usize) -> std::result::Result<Uses, String> {
        // A few panels, each asked often, as dashboards do.
        let panels: Vec<Panel> = (0..4).map(|_| self.panel()).collect();
        (0..40).for_each(|_| self.act());
        for _ in 0..rounds {
            (0..self.chance.below(3)).for_each(|_| self.act());
            let panel = self.chance.one(&panels);
            self.ask(panel)?;
        }
        Ok(self.cache.counts())
    }
}

fn same(kept: &Result<Answer>, fresh: &Result<Answer>) -> std::result::Result<(), String> {
    let (kept, fresh) = match (kept, fresh) {
        (Ok(kept), Ok(fresh)) => (kept, fresh),
        (Err(a), Err(b)) if a.to_string() == b.to_string() => return Ok(()),
        (a, b) => return Err(format!("{:?} instead of {:?}", a.as_ref().err(), b.as_ref().err())),
    };
    let (a, b) = (&kept.matrix, &fresh.matrix);
    let bits = |m: &metricsdb_model::Matrix| m.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let shown = |what: &str, a: String, b: String| Err(format!("{what}: {a} instead of {b}"));
    // Threads find them in any order.
    let annotations = |answer: &Answer| {
        let mut found: Vec<String> = answer.annotations.iter().map(|a| a.message.clone()).collect();
        found.sort();
        found
    };
    match () {
        _ if a.labels != b.labels => shown("labels", format!("{:?}", a.labels), format!("{:?}", b.labels)),
        _ if a.offsets != b.offsets || a.timestamps != b.timestamps => {
            shown("times", format!("{:?}", a.timestamps), format!("{:?}", b.timestamps))
        }
        _ if bits(a) != bits(b) => shown("values", format!("{:?}", a.values), format!("{:?}", b.values)),
        _ if a.histograms != b.histograms => {
            shown("histograms", format!("{:?}", a.histograms), format!("{:?}", b.histograms))
        }
        _ if annotations(kept) != annotations(fresh) => {
            shown("annotations", format!("{:?}", annotations(kept)), format!("{:?}", annotations(fresh)))
        }
        _ => Ok(()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 0, ..ProptestConfig::with_cases(120) })]

    #[test]
    fn what_is_served_is_what_would_be_evaluated(seed in any::<u64>()) {
        let run = World::new(seed, true).run(30);
        prop_assert!(run.is_ok(), "{}", run.unwrap_err());
    }
}

#[test]
fn steps_are_served_and_not_only_evaluated() {
    let (mut whole, mut partly, mut missed) = (0, 0, 0);
    for seed in 1..40 {
        let uses = World::new(seed * 0x9e37_79b9, true).run(30).unwrap();
        (whole, partly, missed) = (whole + uses.whole, partly + uses.partly, missed + uses.missed);
    }
    assert!(whole > 50 && partly > 50 && missed > 50, "{whole} {partly} {missed}");
}

#[test]
fn a_cache_that_is_not_told_of_writes_is_found_out() {
    let wrong = (1..40).filter(|seed| World::new(seed * 0x9e37_79b9, false).run(30).is_err()).count();
    assert!(wrong > 20, "{wrong}");
}

/// `m` has the samples of a minute, whose values are `value`.
fn fill(store: &Database, first: i64, value: f64) {
    let series = BatchSeries { raw: Cow::Borrowed(b"__name__=m"), samples: 0..60 };
    store.write(&Batch {
        series: vec![series],
        timestamps: (0..60).map(|i| first + i * 1000).collect(),
        values: vec![value; 60],
        ..Batch::new(0, decode)
    });
}

#[test]
fn a_write_while_a_query_is_evaluated_shows_in_the_next() {
    let (store, cache, budget) =
        (Database::new(Options::default()), Cache::new(1 << 20), Budget::unlimited());
    let ask = |text: &str, meanwhile: &dyn Fn()| {
        let expr = parse(text).unwrap();
        let written = || store.take_lowest_written();
        let evaluate = |params: &Params<'_>| {
            let answer = evaluate(&expr, params, &store, &budget);
            meanwhile();
            answer
        };
        let params = Params::range(text, 0, 50_000, 10_000);
        cache.answer(&expr, &params, &budget, &written, &evaluate).unwrap().matrix.values
    };
    fill(&store, 0, 1.0);
    // Another query is told of the write, before the first one is kept.
    let found = ask("sum(m)", &|| {
        fill(&store, 0, 2.0);
        ask("count(m)", &|| ());
    });
    assert_eq!(found, [1.0; 6]);
    assert_eq!(ask("sum(m)", &|| ()), [2.0; 6]);
    assert_eq!(ask("sum(m)", &|| panic!("is known")), [2.0; 6]);
    // What is written behind the last step changes nothing before it.
    fill(&store, 50_001, 3.0);
    assert_eq!(ask("sum(m)", &|| panic!("is known")), [2.0; 6]);
}

#[test]
fn a_cache_holds_what_it_may_and_forgets_what_was_used_the_longest_ago() {
    let (store, budget) = (Database::new(Options::default()), Budget::unlimited());
    fill(&store, 0, 1.0);
    let ask = |cache: &Cache, text: &str| {
        let (expr, params) = (parse(text).unwrap(), Params::range(text, 0, 50_000, 1000));
        let evaluate = |params: &Params<'_>| evaluate(&expr, params, &store, &budget);
        cache.answer(&expr, &params, &budget, &|| store.take_lowest_written(), &evaluate).unwrap();
    };
    let small = Cache::new(8 << 10);
    let text = |i: usize| format!("sum(m) + {i}");
    (0..40).for_each(|i| ask(&small, &text(i)));
    let counts = small.counts();
    assert!(counts.bytes <= 8 << 10 && (4..40).contains(&counts.entries), "{counts:?}");
    ask(&small, &text(39));
    ask(&small, &text(0));
    assert_eq!((small.counts().whole, small.counts().missed), (1, 41));
    for cache in [Cache::new(0), Cache::new(1000)] {
        (0..3).for_each(|_| ask(&cache, "sum(m)"));
        assert_eq!((cache.counts().bytes, cache.counts().whole), (0, 0));
    }
}

#[test]
fn what_storage_counts_is_what_the_evaluator_counts() {
    for seed in 1..20u64 {
        let mut world = World::new(seed * 0x9e37_79b9, true);
        (0..60).for_each(|_| world.act());
        for text in [
            "count(m)",
            "count by (g) (m)",
            "group without (i) (c_total)",
            "count({__name__=~\".+\"} offset 5m)",
        ] {
            let expr = parse(text).unwrap();
            for back in [0, 1, 20, 300] {
                let params = Params::instant(text, world.now - back * 1000);
                // Who counts samples has them read one by one.
                let limits = Limits { timeout_ms: 0, samples_max: u64::MAX, bytes_max: u64::MAX };
                let counting = Budget::with(Stop::default(), limits, None, Some(Visits::new(1)));
                let read = evaluate(&expr, &params, &world.store, &counting);
                let counted = evaluate(&expr, &params, &world.store, &Budget::unlimited());
                assert_eq!(same(&counted, &read), Ok(()), "{text} {back} s ago");
            }
        }
    }
}
