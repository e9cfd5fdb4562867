//! Start timestamps against a map.

use metricsdb_model::{BatchHistogram, Counts, Histogram, Tally};

use super::*;

/// One sample of a batch: which series, time, value, start.
type Sample = (usize, i64, f64, i64);

const SERIES: [&str; 3] = ["__name__=a_total", "__name__=b_total", "__name__=c_total"];

fn started<'a>(samples: &[Sample], with_starts: bool) -> Batch<'a> {
    let mut made = batch(&[]);
    for (i, raw) in SERIES.iter().enumerate() {
        let from = made.timestamps.len() as u32;
        for &(_, time, value, start) in samples.iter().filter(|s| s.0 == i) {
            made.timestamps.push(time);
            made.values.push(value);
            made.starts.extend(with_starts.then_some(start));
        }
        let samples = from..made.timestamps.len() as u32;
        made.series.push(BatchSeries { raw: Cow::Borrowed(raw.as_bytes()), samples });
    }
    made
}

/// Times and starts of each series, by its labels.
fn starts(db: &Database) -> BTreeMap<String, Vec<(i64, i64)>> {
    let view = db.select_exact(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    let mut out = BTreeMap::new();
    for i in 0..view.len() {
        let (mut samples, mut starts) = (Samples::default(), Vec::new());
        view.read(i, TimeRange::ALL, &mut samples).unwrap();
        view.read_starts(i, &samples.timestamps, &mut starts).unwrap();
        assert!(view.has_starts(i) || starts.iter().all(|start| *start == 0));
        out.insert(view.labels(i).to_string(), samples.timestamps.into_iter().zip(starts).collect());
    }
    out
}

/// Whose start stands at a time that is taken.
fn stands(policy: DuplicatePolicy, (old, old_start): (f64, i64), (new, start): (f64, i64)) -> (f64, i64) {
    match policy {
        DuplicatePolicy::Last => (new, start),
        DuplicatePolicy::Min if new < old => (new, start),
        DuplicatePolicy::Max if new > old => (new, start),
        DuplicatePolicy::Sum => (old + new, if start == 0 { old_start } else { start }),
        _ => (old, old_start),
    }
}

fn policies() -> impl Strategy<Value = DuplicatePolicy> {
    use DuplicatePolicy::{Error, First, Last, Max, Min, Sum};
    prop_oneof![Just(Last), Just(First), Just(Min), Just(Max), Just(Sum), Just(Error)]
}

proptest! {
    #[test]
    fn starts_follow_their_samples(
        batches in prop::collection::vec(
            (prop::collection::vec((0..3usize, 0..90i64, 0..9i64, 0..4i64), 0..40), any::<bool>()), 1..8),
        policy in policies(),
    ) {
        let db = Database::new(Options { duplicates: policy, samples_per_chunk: 8, ..Options::default() });
        let mut model: BTreeMap<usize, BTreeMap<i64, (f64, i64)>> = BTreeMap::new();
        for (samples, with_starts) in &batches {
            let samples: Vec<Sample> = samples.iter().map(|&(i, t, v, s)| (i, t, v as f64, s)).collect();
            db.write(&started(&samples, *with_starts));
            for &(i, time, value, start) in &samples {
                let start = if *with_starts { start } else { 0 };
                let of = model.entry(i).or_default();
                let old = of.get(&time).copied();
                let new = (value, start);
                of.insert(time, old.map_or(new, |old| stands(policy, old, new)));
            }
        }
        db.check().unwrap();
        let name = |i: &usize| SERIES[*i].trim_start_matches("__name__=").to_owned() + "{}";
        let wanted: BTreeMap<String, Vec<(i64, i64)>> =
            model.iter().map(|(i, of)| (name(i), of.iter().map(|(t, (_, s))| (*t, *s)).collect())).collect();
        prop_assert_eq!(starts(&db), wanted);
    }
}

fn histogram(count: u64) -> Histogram {
    let counts = Counts::Int(Tally { count, zero: count, buckets: Vec::new() });
    Histogram { sum: 1.0, counts, ..Histogram::stale() }
}

#[test]
fn histograms_of_a_batch_have_starts_too() {
    let db = Database::new(Options::default());
    let write = |samples: &[Sample], points: &[(i64, i64)]| {
        let mut made = started(samples, true);
        made.histograms = points
            .iter()
            .map(|&(timestamp, start)| BatchHistogram {
                series: 1,
                timestamp,
                start,
                histogram: histogram(3),
            })
            .collect();
        db.write(&made)
    };
    let report = write(&[(1, 5, 1.0, 4)], &[(10, 7), (30, 7), (20, 12)]);
    assert_eq!((report.accepted, report.out_of_order, report.rejected.len()), (4, 1, 0));
    // A sample among the histograms, and a histogram once more.
    let report = write(&[(1, 25, 1.0, 0)], &[(10, 8)]);
    assert_eq!((report.accepted, report.duplicates), (2, 1));
    let view = db.select_exact(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    let mut found = Vec::new();
    view.read_starts(0, &[5, 10, 20, 25, 30], &mut found).unwrap();
    assert_eq!(found, [4, 8, 12, 0, 7]);
    db.check().unwrap();
}

#[test]
fn histograms_of_refused_series_are_counted() {
    let db = Database::new(Options::default());
    let mut made = batch(&[("", &[(1, 1.0)])]);
    let lost = BatchHistogram { series: 0, timestamp: 1, start: 0, histogram: histogram(1) };
    made.histograms = vec![lost.clone(), lost];
    let report = db.write(&made);
    assert_eq!((report.accepted, report.rejected_total()), (0, 3));
}

#[test]
fn starts_are_in_the_account() {
    let db = Database::new(Options::default());
    let samples: Vec<Sample> = (1..2000i64).map(|i| (0, i * 100 + i % 7, 1.0, i * 100 - i % 5)).collect();
    db.write(&started(&samples, true));
    let part = db.memory().into_iter().find(|part| part.name == "start timestamps").unwrap();
    assert!(part.items == 1 && part.bytes > 1000, "{part:?}");
}
