use std::collections::BTreeMap;

use metricsdb_model::budget::Stop;
use metricsdb_model::sample::stale;
use metricsdb_model::{Answer, Budget, Error, Histogram, Labels, Point, Result};
use proptest::prelude::*;

use crate::exec::{Params, evaluate};
use crate::histogram::{FloatHistogram, Side};
use crate::syntax::parse;
use crate::testing::{Mixed, Plain, Sample, after_gaps};

impl Sample {
    fn is_stale(&self) -> bool {
        match self {
            Sample::Number(value) => metricsdb_model::sample::is_stale(*value),
            Sample::Histogram(histogram) => histogram.is_stale(),
        }
    }

    fn text(&self) -> String {
        match self {
            Sample::Number(value) => format!("{value}"),
            Sample::Histogram(histogram) => text(histogram),
        }
    }
}

/// What a histogram holds, however its spans are cut; not what it says of resets.
fn text(histogram: &Histogram) -> String {
    format!("{:?} {} {}", histogram.filled_buckets(), histogram.count(), histogram.sum)
}

fn histogram(schema: i32, first: i32, counts: &[u8]) -> Histogram {
    let counts: Vec<f64> = counts.iter().map(|&c| f64::from(c)).collect();
    let (count, indices) = (counts.iter().sum(), (first..first + counts.len() as i32).collect());
    let empty = FloatHistogram::from_model(&Histogram::stale());
    FloatHistogram { schema, count, sum: count, positive: Side { indices, counts }, ..empty }.to_model()
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let counts = proptest::collection::vec(0..6u8, 0..4);
    prop_oneof![
        3 => (0..9i32).prop_map(|v| Sample::Number(f64::from(v))),
        6 => (0..2i32, -2..2i32, counts).prop_map(|(s, f, c)| Sample::Histogram(histogram(s, f, &c))),
        1 => Just(Sample::Number(stale())),
        1 => Just(Sample::Histogram(Histogram::stale())),
    ]
}

pub(crate) fn any_storage() -> impl Strategy<Value = Plain<Mixed>> {
    let samples = proptest::collection::vec((1..150_000i64, any_sample()), 0..25);
    proptest::collection::vec(samples, 1..6).prop_map(|series| {
        let labels = |i: usize| {
            let name = if i.is_multiple_of(2) { "h" } else { "g" };
            Labels::from_pairs([("__name__", name), ("i", &(i / 2).to_string())]).unwrap()
        };
        Plain(
            series.into_iter().enumerate().map(|(i, gaps)| (labels(i), after_gaps(gaps).collect())).collect(),
        )
    })
}

const QUESTIONS: &[&str] = &[
    "h",
    "timestamp(h)",
    "-h",
    "2 * h / 3",
    "h + on(i) g",
    "h - on(i) g",
    "h == on(i) g",
    "h != bool on(i) g",
    "h * on(i) fill(2) g",
    "h and on(i) g",
    "h or on(i) g",
    "h unless on(i) g",
    "h </ 1.5",
    "sum(h)",
    "avg without (i) ({__name__=~\"h|g\"})",
    "count({__name__=~\"h|g\"})",
    "max(h)",
    "limitk(1, h)",
    "topk(1, h)",
    "count_values(\"v\", h)",
    "absent(h)",
    "scalar(h)",
    "abs(h)",
    "histogram_count(h)",
    "histogram_stddev(h)",
    "histogram_quantile(0.7, h)",
    "histogram_fraction(0, 2, sum(h))",
    "rate(h[5m])",
    "increase(h[10m])",
    "sum(delta(h[5m]))",
    "irate(h[5m])",
    "sum_over_time(h[4m])",
    "avg_over_time(h[4m])",
    "count_over_time(h[4m])",
    "last_over_time(h[4m])",
    "max_over_time(h[4m])",
    "changes(h[10m])",
    "resets(h[10m])",
    "last_over_time(h[4m:1m])",
    "sum_over_time(sum(h)[4m:1m])",
    "absent_over_time(h[2m])",
    "label_replace(h, \"n\", \"$1\", \"i\", \"(.*)\")",
];

/// The samples of an answer by series and time, each as text.
fn points(answer: &Answer) -> BTreeMap<(String, i64), String> {
    let rows = answer.matrix.all_series();
    let texts = rows.flat_map(|row| {
        row.points().map(move |(t, point)| {
            let text = match point {
                Point::Float(value) => format!("{value}"),
                Point::Histogram(histogram) => text(histogram),
            };
            ((row.labels.to_string(), t), text)
        })
    });
    texts.collect()
}

fn ask(source: &Plain<Mixed>, text: &str, params: Params<'_>) -> Result<Answer> {
    evaluate(&parse(text).unwrap(), &params, source, &Budget::unlimited())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_range_query_is_its_instants(storage in any_storage(), step in 20_000..200_000i64) {
        let end = 1_200_000;
        for question in QUESTIONS {
            let range = ask(&storage, question, Params::range(question, 0, end, step));
            let mut each = BTreeMap::new();
            for t in (0..=end).step_by(step as usize) {
                each.extend(points(&ask(&storage, question, Params::instant(question, t)).unwrap()));
            }
            prop_assert_eq!(points(&range.unwrap()), each, "{}", question);
        }
    }

    /// By looking through all samples.
    #[test]
    fn the_newest_sample_of_either_kind_is_the_one_that_is_seen(storage in any_storage(), at in 0..2_000_000i64) {
        let mut expected = BTreeMap::new();
        for (labels, samples) in storage.0.iter().filter(|(labels, _)| labels.metric_name() == "h") {
            let newest = samples.range(at - 299_999..=at).next_back().filter(|(_, sample)| !sample.is_stale());
            expected.extend(newest.map(|(_, sample)| ((labels.to_string(), at), sample.text())));
        }
        prop_assert_eq!(points(&ask(&storage, "h", Params::instant("h", at)).unwrap()), expected);
    }
}

#[test]
fn a_query_pays_for_every_bucket_that_it_reads_or_holds() {
    let labels = Labels::from_pairs([("__name__", "h")]).unwrap();
    let sample = |i: i64| (i * 10_000, Sample::Histogram(histogram(0, 0, &[1, 2, 3])));
    let storage = Plain(vec![(labels, (0..20).map(sample).collect::<Mixed>())]);
    let ask = |text: &str, samples_max: u64| {
        let params = Params::range(text, 0, 190_000, 10_000);
        evaluate(&parse(text).unwrap(), &params, &storage, &Budget::new(Stop::default(), 0, samples_max))
    };
    // Twenty histograms of three buckets.
    assert_eq!(ask("count(h)", 80).unwrap().samples_loaded, 80);
    assert!(matches!(ask("count(h)", 79), Err(Error::Limit { .. })));
    // The subquery repeats one histogram at hundreds of steps.
    let held = "count_over_time((h @ 10)[300s:1s])";
    assert!(matches!(ask(held, 400), Err(Error::Limit { what: "samples held by one query", .. })));
    assert!(ask(held, 4000).is_ok());
}
