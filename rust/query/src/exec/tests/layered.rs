//! Samples divided among sources at random, and what a query reads: neither changes an answer.

use std::sync::Mutex;

use metricsdb_model::{Draw, Drawn, Layered, Predicate, Sampling, SeriesSet, Source, TimeRange};

use super::*;
use crate::plan::{Read, reads};
use crate::testing::{Line, Mixed, Sample};

fn ask_any(source: &dyn Source, text: &str, params: Params<'_>) -> Result<Answer> {
    evaluate(&parse(text).unwrap(), &params, source, &Budget::unlimited())
}

/// Points and remarks: what an answer says, without its order.
fn said(answer: &Answer) -> (BTreeMap<String, BTreeMap<i64, String>>, Vec<String>) {
    let mut remarks: Vec<String> = answer.annotations.iter().map(|a| a.message.clone()).collect();
    remarks.sort();
    let mut rows: BTreeMap<String, BTreeMap<i64, String>> = BTreeMap::new();
    for row in 0..answer.matrix.len() {
        for (t, point) in answer.matrix.series(row).points() {
            let text = match point {
                metricsdb_model::Point::Float(value) => format!("{:016x}", value.to_bits()),
                metricsdb_model::Point::Histogram(histogram) => format!("{histogram:?}"),
            };
            rows.entry(answer.matrix.labels[row].to_string()).or_default().insert(t, text);
        }
    }
    (rows, remarks)
}

/// Storage of one kind, and what of it comes first in several sources.
#[derive(Clone, Debug)]
struct Divided<L> {
    whole: Plain<L>,
    parts: Vec<Plain<L>>,
}

impl<L> Divided<L> {
    fn layered(&self) -> Layered<'_>
    where
        L: Line,
    {
        let mut parts = self.parts.iter().map(|part| part as &dyn Source);
        Layered::new(parts.next().unwrap(), parts)
    }
}

/// Puts each sample into one of the parts, or two, of which the later one has another value. A part has the series whose
/// samples it has.
fn divided<L: Default + FromIterator<(i64, V)> + Clone, V: Clone>(
    whole: Plain<L>,
    count: usize,
    places: &[(u8, bool)],
    samples: impl Fn(&L) -> Vec<(i64, V)>,
    other: impl Fn(&V) -> V,
) -> Divided<L> {
    let mut parts: Vec<Plain<L>> = vec![Plain(Vec::new()); count];
    let mut next = places.iter().cycle();
    for (labels, line) in &whole.0 {
        let mut lines: Vec<Vec<(i64, V)>> = vec![Vec::new(); count];
        for (t, sample) in samples(line) {
            let &(place, twice) = next.next().unwrap();
            let place = usize::from(place) % count;
            lines[place].push((t, sample.clone()));
            if twice && place + 1 < count {
                lines[count - 1].push((t, other(&sample)));
            }
        }
        for (part, line) in parts.iter_mut().zip(lines) {
            if !line.is_empty() {
                part.0.push((labels.clone(), line.into_iter().collect()));
            }
        }
    }
    Divided { whole, parts }
}

/// Whether a sample's place goes on in runs, as tiers have them, or each is somewhere.
fn any_places() -> impl Strategy<Value = Vec<(u8, bool)>> {
    let run = (0..8u8, 1..12usize, any::<bool>());
    prop_oneof![
        proptest::collection::vec((0..8u8, proptest::bool::weighted(0.2)), 1..60),
        proptest::collection::vec(run, 1..20).prop_map(|runs| {
            runs.into_iter().flat_map(|(place, len, twice)| vec![(place, twice); len]).collect()
        }),
    ]
}

fn any_mixed() -> impl Strategy<Value = Plain<Mixed>> {
    super::super::native::tests::any_storage()
}

fn mixed(line: &Mixed) -> Vec<(i64, Sample)> {
    line.iter().map(|(t, sample)| (*t, sample.clone())).collect()
}

/// Two that stand at one time must be of one kind: of a number and a histogram both stay.
fn another(sample: &Sample) -> Sample {
    match sample {
        Sample::Number(value) => Sample::Number(value + 1.0),
        Sample::Histogram(_) => Sample::Histogram(metricsdb_model::Histogram::stale()),
    }
}

/// Storage that holds nothing but what was said to be read, and fails where anything else is asked for.
struct Only<'p, L> {
    plain: &'p Plain<L>,
    reads: Vec<Read>,
    beyond: Mutex<Vec<TimeRange>>,
}

impl<L: Line> Source for Only<'_, L> {
    fn select<'a>(
        &'a self,
        predicate: &Predicate,
        range: TimeRange,
        budget: &Budget,
    ) -> Result<Box<dyn SeriesSet + 'a>> {
        let holds = |read: &Read| {
            let narrowed = match (predicate, &read.predicate) {
                (Predicate::All(parts), Predicate::All(all)) => parts.starts_with(all),
                _ => false,
            };
            narrowed && read.range.start <= range.start && range.end <= read.range.end
        };
        if !range.is_empty() && !self.reads.iter().any(holds) {
            self.beyond.lock().unwrap().push(range);
        }
        self.plain.select(predicate, range, budget)
    }
}

const HISTOGRAMS: &[&str] = &[
    "h",
    "rate(h[3m])",
    "sum(h)",
    "sum by (i) (increase({__name__=~\"h|g\"}[4m]))",
    "histogram_quantile(0.7, sum(rate(h[5m])))",
    "histogram_count(h) + histogram_sum(g)",
    "h - h offset 1m",
    "last_over_time(h[6m])",
    "avg_over_time(h[4m])",
    "histogram_avg(increase(h[5m:1m]))",
    "count(h) or count(g)",
    "resets(h[9m])",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn it_makes_no_difference_which_source_has_a_sample(
        whole in any_storage(),
        places in any_places(),
        count in 1..5usize,
        random in any_vector(),
        known in proptest::sample::select(QUESTIONS),
        step in 7_000..400_000i64,
    ) {
        let data = divided(whole, count, &places, Vec::clone, |v| v + 1.0);
        for text in [&random, known] {
            // Deviations hang on the order of rows; which of equal rows stand first, too.
            if text.contains("std") || text.contains("limit") || text.contains("topk") || text.contains("bottomk") {
                continue;
            }
            for params in [Params::instant(text, 400_000), Params::range(text, 30_000, 30_000 + 12 * step, step)] {
                match (ask_any(&data.whole, text, params), ask_any(&data.layered(), text, params)) {
                    (Ok(whole), Ok(layered)) => prop_assert_eq!(said(&whole), said(&layered), "{}", text),
                    (whole, layered) => prop_assert_eq!(whole.is_err(), layered.is_err(), "{}", text),
                }
            }
        }
    }

    #[test]
    fn nor_which_has_a_histogram(
        whole in any_mixed(),
        places in any_places(),
        count in 1..5usize,
        text in proptest::sample::select(HISTOGRAMS),
        step in 7_000..400_000i64,
    ) {
        let data = divided(whole, count, &places, mixed, another);
        for params in [Params::instant(text, 400_000), Params::range(text, 30_000, 30_000 + 12 * step, step)] {
            match (ask_any(&data.whole, text, params), ask_any(&data.layered(), text, params)) {
                (Ok(whole), Ok(layered)) => prop_assert_eq!(said(&whole), said(&layered), "{}", text),
                (whole, layered) => prop_assert_eq!(whole.is_err(), layered.is_err(), "{}", text),
            }
        }
    }

    #[test]
    fn a_query_reads_nothing_that_it_did_not_name(
        plain in any_storage(),
        random in any_vector(),
        known in proptest::sample::select(QUESTIONS),
        beside in proptest::sample::select(&[
            "rate(a_total[5m] smoothed)", "increase(a_total[3m] anchored)", "a_total smoothed",
            "max_over_time((rate(b_total[2m] offset -3m))[6m:45s] offset 7m)", "b_total @ end() - a_total @ start()",
            "min_over_time(a_total[9m:] @ 300 offset 1m)", "info(a_total offset 3m, {g=~\".+\"})",
            "info(rate(a_total[2m] @ 200))", "rollup_candlestick(b_total[7m])",
        ][..]),
        step in 7_000..400_000i64,
    ) {
        for text in [&random, known, beside] {
            for params in [Params::instant(text, 400_000), Params::range(text, 30_000, 30_000 + 12 * step, step)] {
                let Ok(reads) = reads(&parse(text).unwrap(), &params) else { continue };
                let only = Only { plain: &plain, reads, beyond: Mutex::default() };
                let _ = ask_any(&only, text, params);
                prop_assert_eq!(only.beyond.into_inner().unwrap(), Vec::new(), "{}: {:?}", text, only.reads);
            }
        }
    }
}

#[test]
fn what_a_query_reads_is_as_narrow_as_its_windows() {
    let read = |text: &str| {
        let expr = parse(text).unwrap();
        let found = reads(&expr, &Params::range(text, 1_000_000, 2_000_000, 60_000)).unwrap();
        found.iter().map(|read| (read.range.start, read.range.end)).collect::<Vec<_>>()
    };
    // The last step is 1,960,000.
    assert_eq!(read("rate(x[5m])"), [(700_001, 1_960_000)]);
    assert_eq!(read("x offset 10m"), [(100_001, 1_360_000)]);
    assert_eq!(read("x @ 500 + x @ 500"), [(200_001, 500_000)]);
    assert_eq!(read("max_over_time(rate(x[1m])[10m:1m])"), [(360_001, 1_920_000)]);
    assert_eq!(read("info(x @ 500)"), [(200_001, 500_000), (200_001, 500_000)]);
    assert_eq!(read("vector(1)"), []);
}

/// Which series of a source stand for others: stratum, series that it had, series that were drawn.
fn drawn(plain: &Plain, of: impl Fn(usize) -> Option<(u64, u32, u32)>) -> Sampling {
    let draws = vec![Draw { text: "1 in n".to_owned(), until: 1_000_000_000, scales: true }];
    let series = plain.0.iter().enumerate().filter_map(|(i, (labels, _))| {
        of(i).map(|(stratum, of, kept)| (labels.hash64(), Drawn { draw: 0, stratum, of, kept }))
    });
    Sampling { draws, series: series.collect(), range: TimeRange::ALL }
}

#[test]
fn sums_of_drawn_series_come_to_the_weighted_sums_of_what_is_there() {
    let series =
        |i: usize, g: &str| Labels::from_pairs([("__name__", "x"), ("i", &i.to_string()), ("g", g)]).unwrap();
    let values = [3.0, 5.0, 11.0, 2.0, 7.0];
    let groups = ["a", "a", "a", "b", "own"];
    let lines = values.iter().zip(groups).enumerate().map(|(i, (v, g))| (series(i, g), vec![(1000, *v)]));
    let (none, plain): (Plain, Plain) = (Plain(Vec::new()), Plain(lines.collect()));
    // Three of 12, one of 4, and one that stands for itself.
    let strata = [Some((1, 12, 3)), Some((1, 12, 3)), Some((1, 12, 3)), Some((2, 4, 1)), None];
    let sampling = drawn(&plain, |i| strata[i]);
    let source = Layered::new(&none, [&plain as &dyn Source]).with_samplings([Some(&sampling)]);
    let ask = |text: &str| {
        let answer = ask_any(&source, text, Params::instant(text, 1000)).unwrap();
        let rows = answer.matrix.rows().map(|(l, _, v)| (l.get("g").unwrap_or("").to_owned(), v[0]));
        let said: Vec<String> = answer.annotations.iter().map(|a| a.message.clone()).collect();
        (rows.collect::<BTreeMap<String, f64>>(), said.join("; "))
    };
    let of =
        |pairs: &[(&str, f64)]| pairs.iter().map(|(g, v)| ((*g).to_owned(), *v)).collect::<BTreeMap<_, _>>();
    let (sums, said) = ask("sum by (g) (x)");
    assert_eq!(sums, of(&[("a", 4.0 * 19.0), ("b", 8.0), ("own", 7.0)]));
    // Of b one was drawn: 4 * 3 * 2^2 is the variance, 87 % of 8 its root.
    assert!(said.contains("up to 4, standard error up to 86.6%"), "{said}");
    let (sums, said) = ask("sum by (g) (x{g=\"a\"} > 2)");
    assert_eq!(sums, of(&[("a", 76.0)]));
    // 12^2 (1 - 3/12) 17.33 / 3 is the variance.
    let error = 100.0 * (144.0 * 0.75 * (52.0 / 3.0) / 3.0_f64).sqrt() / 76.0;
    assert!(said.contains(&format!("up to {error:.1}%")), "{said} {error}");
    assert_eq!(ask("count by (g) (x)").0, of(&[("a", 12.0), ("b", 4.0), ("own", 1.0)]));
    assert_eq!(ask("avg(x)").0, of(&[("", (76.0 + 8.0 + 7.0) / 17.0)]));
    assert_eq!(ask("sum(x) / count(x)").0, of(&[("", (76.0 + 8.0 + 7.0) / 17.0)]));
    for text in ["max(x)", "sum(x * on(i) x)", "x", "quantile(0.5, x)", "sum(x) * scalar(max(x))"] {
        assert!(ask(text).1.contains("nothing is scaled"), "{text}");
    }
    assert!(ask("sum by (g) (x{g=\"own\"})").1.is_empty());
}
