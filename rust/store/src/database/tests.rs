#![allow(clippy::unwrap_used)]

use std::borrow::Cow;
use std::collections::BTreeMap;

use metricsdb_model::batch::Extra;
use metricsdb_model::{
    BatchSeries, Budget, Grouping, LabelError, MatchOp, Matcher, Predicate, Samples, SeriesSet, Source,
    TimeRange,
};

use super::*;

/// The dialect of these tests: `name=value` separated by commas.
fn decode(raw: &[u8], out: &mut LabelsBuilder) -> std::result::Result<(), LabelError> {
    let text = std::str::from_utf8(raw).map_err(|e| LabelError::NotUtf8(e.to_string()))?;
    for pair in text.split(',').filter(|p| !p.is_empty()) {
        let (name, value) =
            pair.split_once('=').ok_or_else(|| LabelError::Malformed(format!("no = in {pair:?}")))?;
        out.push(name, value);
    }
    Ok(())
}

fn batch<'a>(series: &[(&'a str, &[(i64, f64)])]) -> Batch<'a> {
    let mut batch = Batch {
        series: Vec::new(),
        timestamps: Vec::new(),
        values: Vec::new(),
        metadata: Vec::new(),
        dialect: 1,
        decode,
        extra: Extra::default(),
        report: WriteReport::default(),
    };
    for (raw, samples) in series {
        let start = batch.timestamps.len() as u32;
        batch.timestamps.extend(samples.iter().map(|s| s.0));
        batch.values.extend(samples.iter().map(|s| s.1));
        let samples = start..batch.timestamps.len() as u32;
        batch.series.push(BatchSeries { raw: Cow::Borrowed(raw.as_bytes()), samples });
    }
    batch
}

fn every() -> Predicate {
    Predicate::All(Vec::new())
}

fn named(name: &str, value: &str) -> Predicate {
    Predicate::Match(Matcher::new(name, MatchOp::Equal, value).unwrap())
}

/// Label set as text to exact samples.
type Content = BTreeMap<String, Vec<(i64, u64, ValueKind)>>;

fn content(db: &Database, range: TimeRange) -> Content {
    let view = db.select_exact(&every(), range, &Budget::unlimited()).unwrap();
    let mut out = Content::new();
    for i in 0..view.len() {
        let (mut times, mut bits) = (Vec::new(), Vec::new());
        let runs = view.read_exact(i, range, &mut times, &mut bits).unwrap();
        let kinds = runs.iter().flat_map(|r| std::iter::repeat_n(r.kind, r.len));
        let samples: Vec<_> = times.iter().zip(&bits).zip(kinds).map(|((&t, &b), k)| (t, b, k)).collect();
        assert_eq!(samples.len(), times.len());
        let mut floats = Samples::default();
        view.read(i, range, &mut floats).unwrap();
        let widened = samples.iter().map(|&(t, b, k)| match k {
            ValueKind::Float => (t, b),
            ValueKind::Int => (t, (b as i64 as f64).to_bits()),
        });
        assert!(floats.timestamps.iter().zip(&floats.values).map(|(&t, v)| (t, v.to_bits())).eq(widened));
        if !samples.is_empty() {
            out.insert(view.labels(i).to_string(), samples);
        }
    }
    out
}

#[test]
fn what_was_written_is_read_back_and_known_series_are_not_made_again() {
    let db = Database::new(Options::default());
    let report =
        db.write(&batch(&[("__name__=up,job=a", &[(1, 1.0), (2, 0.0)]), ("__name__=up,job=b", &[(5, 7.5)])]));
    assert_eq!((report.accepted, report.series_created), (3, 2));
    // The same series in another spelling.
    let report = db.write(&batch(&[("job=a,__name__=up", &[(3, 2.0)])]));
    assert_eq!((report.accepted, report.series_created), (1, 0));
    let all = content(&db, TimeRange::ALL);
    let a: Vec<(i64, f64)> = all[r#"up{job="a"}"#].iter().map(|s| (s.0, f64::from_bits(s.1))).collect();
    assert_eq!(a, [(1, 1.0), (2, 0.0), (3, 2.0)]);
    assert_eq!(content(&db, TimeRange::new(4, 9)).len(), 1);
    let budget = Budget::unlimited();
    let (ids, sets) = db.series(&[named("job", "b")], TimeRange::ALL, &budget).unwrap();
    assert_eq!((ids.len(), sets[0].to_string()), (1, r#"up{job="b"}"#.to_owned()));
    assert_eq!(db.register(&sets).unwrap(), ids);
    assert_eq!(db.label_names(&[], TimeRange::ALL, &budget).unwrap(), ["__name__", "job"]);
    assert_eq!(db.label_values("job", &[], TimeRange::new(0, 3), &budget).unwrap(), ["a"]);
    let rows = db.read_many(&[ids[0], ids[0]], TimeRange::ALL, &budget).unwrap();
    assert_eq!((rows.offsets, rows.values), (vec![0, 1, 2], vec![7.5, 7.5]));
    db.check().unwrap();
}

#[test]
fn what_cannot_be_taken_is_reported_and_its_neighbours_are_taken() {
    let db = Database::new(Options::default());
    let long = format!("job={}", "x".repeat(70_000));
    let wide = (0..300).map(|i| format!("l{i}=v,")).collect::<String>();
    let mut b = batch(&[
        ("__name__=up", &[(1, 1.0)]),
        ("nonsense", &[(1, 1.0), (2, 2.0)]),
        ("a=1,a=2", &[(1, 1.0)]),
        ("", &[(1, 1.0)]),
        (&long, &[(1, 1.0)]),
        (&wide, &[(1, 1.0)]),
        ("__name__=down", &[(1, 1.0)]),
    ]);
    b.series.push(BatchSeries { raw: Cow::Borrowed(b"z=1"), samples: 3..900 });
    b.report.reject(Reason::Unsupported, 2, || "exemplar".into());
    let report = db.write(&b);
    let of = |reason| report.rejected.iter().find(|r| r.reason == reason).map_or(0, |r| r.count);
    assert_eq!(report.accepted, 2);
    assert_eq!(of(Reason::Malformed), 2 + 897);
    assert_eq!(of(Reason::InvalidLabels), 2);
    assert_eq!(of(Reason::LimitExceeded), 2);
    assert_eq!(of(Reason::Unsupported), 2);
    assert_eq!(content(&db, TimeRange::ALL).len(), 2);

    let columns =
        Columns { ids: &[0, 77, u64::MAX], timestamps: &[1, 1, 1], values: Values::Int(&[1, 2, 3]) };
    let report = db.append_columns(columns).unwrap();
    assert_eq!(report.accepted + report.rejected_total(), 3);
    assert!(matches!(db.append_columns(Columns { timestamps: &[1], ..columns }), Err(Error::Input { .. })));
    db.check().unwrap();
}

#[test]
fn labels_of_the_receiver_are_added_and_clashes_resolved() {
    let db = Database::new(Options::default());
    let mut b = batch(&[("__name__=up,job=x,exported_job=y", &[(1, 1.0)])]);
    b.extra.labels = Labels::from_pairs([("job", "node"), ("instance", "i")]).unwrap();
    db.write(&b);
    b.extra.honor = true;
    db.write(&b);
    let all: Vec<String> = content(&db, TimeRange::ALL).into_keys().collect();
    assert_eq!(
        all,
        [
            r#"up{exported_exported_job="x", exported_job="y", instance="i", job="node"}"#,
            r#"up{exported_job="y", instance="i", job="x"}"#,
        ]
    );
}

#[test]
fn a_selection_does_not_see_later_writes() {
    let db = Database::new(Options { samples_per_chunk: 4, ..Options::default() });
    for t in 0..10 {
        db.write(&batch(&[("a=1", &[(t * 10, t as f64)])]));
    }
    let view = db.select_exact(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    db.write(&batch(&[("a=1", &[(5, 9.0), (10, 9.0), (95, 9.0), (200, 9.0)]), ("b=1", &[(1, 1.0)])]));
    let mut samples = Samples::default();
    view.read(0, TimeRange::ALL, &mut samples).unwrap();
    assert_eq!(samples.values, (0..10).map(f64::from).collect::<Vec<_>>());
    assert_eq!(view.len(), 1);
}

#[test]
fn grouping_by_symbols_equals_grouping_by_labels() {
    let db = Database::new(Options::default());
    for i in 0..500 {
        let raw = match i % 3 {
            0 => format!("__name__=m{},job=j{},i={i}", i % 5, i % 7),
            1 => format!("__name__=m{},i={i}", i % 5),
            _ => format!("job=j{},i={i},x=", i % 7),
        };
        db.write(&batch(&[(&raw, &[(1, 1.0)])]));
    }
    let view = db.select(&every(), TimeRange::ALL, &Budget::unlimited()).unwrap();
    let names = |n: &[&str]| n.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    for grouping in [
        Grouping::By(names(&["job"])),
        Grouping::By(names(&["job", "nowhere", "__name__"])),
        Grouping::By(Vec::new()),
        Grouping::Without(names(&["i", "__name__", "nowhere"])),
        Grouping::Without(Vec::new()),
    ] {
        let groups = view.group(&grouping);
        assert_eq!(groups.of.len(), view.len());
        for i in 0..view.len() {
            assert_eq!(groups.labels[groups.of[i] as usize], grouping.apply(&view.labels(i)));
        }
        let distinct: std::collections::HashSet<&Labels> = groups.labels.iter().collect();
        assert_eq!(distinct.len(), groups.labels.len());
    }
}
