#![allow(clippy::unwrap_used)]

use std::borrow::Cow;
use std::collections::BTreeMap;

use metricsdb_model::sample::{NORMAL_NAN_BITS, STALE_NAN_BITS};
use metricsdb_model::{
    BatchSeries, Budget, Grouping, LabelError, MatchOp, Matcher, Predicate, Samples, SeriesSet, Source,
    TimeRange,
};

use proptest::prelude::*;

use super::*;
use crate::export::Imported;

mod model;
mod starts;

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
    let mut batch = Batch::new(1, decode);
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
            ValueKind::Uint => (t, (b as f64).to_bits()),
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
    assert_eq!(db.register(&sets).unwrap().0, ids);
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
fn label_sets_that_follow_each_other_never_borrow_labels() {
    let db = Database::new(Options::default());
    let mut random = 7u64;
    let mut expected = std::collections::BTreeSet::new();
    for _ in 0..2000 {
        let mut next = |n: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % n
        };
        let mut pairs = Vec::new();
        for i in 0..6 {
            if next(3) > 0 {
                pairs.push((format!("n{i}"), format!("n{}", next(4))));
            }
        }
        let set = Labels::from_pairs(pairs.clone()).unwrap();
        if set.is_empty() {
            assert!(matches!(db.register(&[set]), Err(Error::Input { .. })));
            continue;
        }
        let raw: String = pairs.iter().map(|(n, v)| format!("{n}={v},")).collect();
        db.write(&batch(&[(&raw, &[(1, 1.0)])]));
        expected.insert(set.to_string());
    }
    assert!(content(&db, TimeRange::ALL).into_keys().eq(expected));
    db.check().unwrap();
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
        let groups = view.group(&grouping, &Budget::unlimited()).unwrap();
        assert_eq!(groups.of.len(), view.len());
        for i in 0..view.len() {
            assert_eq!(groups.labels[groups.of[i] as usize], grouping.apply(&view.labels(i)));
        }
        let distinct: std::collections::HashSet<&Labels> = groups.labels.iter().collect();
        assert_eq!(distinct.len(), groups.labels.len());
    }
}

#[test]
fn large_columns_are_appended_in_parallel_as_small_ones_are() {
    let (many, one) = (Database::new(Options::default()), Database::new(Options::default()));
    let sets: Vec<Labels> = (0..1000).map(|i| Labels::from_pairs([("i", i.to_string())]).unwrap()).collect();
    let ids = many.register(&sets).unwrap().0;
    assert_eq!(one.register(&sets).unwrap().0, ids);
    let all: Vec<u64> = (0..300).flat_map(|_| ids.iter().copied()).collect();
    let times: Vec<i64> = (0..300_000).map(|i| i / 1000 * 10_000 + i % 7).collect();
    let values: Vec<f64> = (0..300_000).map(|i| f64::from(i % 911) / 8.0).collect();
    let columns = |range: std::ops::Range<usize>| Columns {
        ids: &all[range.clone()],
        timestamps: &times[range.clone()],
        values: Values::Float(&values[range]),
    };
    let report = many.append_columns(columns(0..300_000)).unwrap();
    assert_eq!(report.accepted, 300_000);
    for i in 0..300 {
        one.append_columns(columns(i * 1000..(i + 1) * 1000)).unwrap();
    }
    assert_eq!(content(&many, TimeRange::ALL), content(&one, TimeRange::ALL));
    many.check().unwrap();
}

#[test]
fn readers_beside_writers_see_whole_samples_in_order() {
    let db = Database::new(Options { samples_per_chunk: 50, ..Options::default() });
    let raws: Vec<String> = (0..20).map(|i| format!("__name__=m,i={i}")).collect();
    let value = |i: usize, t: i64| t as f64 * 3.0 + i as f64;
    std::thread::scope(|scope| {
        for writer in 0..2usize {
            let (db, raws) = (&db, &raws);
            scope.spawn(move || {
                for t in 0..300i64 {
                    // The second writer goes backwards: every sample of its own is late.
                    let t = if writer == 0 { t * 2 } else { (299 - t) * 2 + 1 };
                    let samples: Vec<[(i64, f64); 1]> = (0..20).map(|i| [(t, value(i, t))]).collect();
                    let series: Vec<_> =
                        raws.iter().zip(&samples).map(|(r, s)| (r.as_str(), &s[..])).collect();
                    assert_eq!(db.write(&batch(&series)).accepted, 20);
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let view = db.select(&every(), TimeRange::new(100, 500), &Budget::unlimited()).unwrap();
                    for i in 0..view.len() {
                        let which: usize = view.labels(i).value("i").parse().unwrap();
                        let mut samples = Samples::default();
                        view.read(i, TimeRange::new(100, 500), &mut samples).unwrap();
                        assert!(samples.timestamps.windows(2).all(|w| w[0] < w[1]));
                        let good = |(&t, &v): (&i64, &f64)| v == value(which, t);
                        assert!(samples.timestamps.iter().zip(&samples.values).all(good));
                    }
                }
            });
        }
    });
    db.check().unwrap();
    assert!(content(&db, TimeRange::ALL).values().all(|samples| samples.len() == 600));
}

#[test]
fn late_samples_go_into_the_chunk_that_covers_them() {
    let db = Database::new(Options { samples_per_chunk: 10, ..Options::default() });
    let ids = db.register(&[Labels::from_pairs([("a", "1")]).unwrap()]).unwrap().0;
    let write = |times: &[i64], values: Values<'_>| {
        let ids = vec![ids[0]; times.len()];
        db.append_columns(Columns { ids: &ids, timestamps: times, values }).unwrap()
    };
    let times: Vec<i64> = (0..25).map(|i| i * 10).collect();
    let values: Vec<f64> = (0..25).map(f64::from).collect();
    write(&times, Values::Float(&values));
    // The second ten samples are in the chunk of the first.
    assert_eq!((db.stats().sealed_chunks, db.stats().open_samples), (1, 5));
    // Two into the sealed chunk, one into the open chunk.
    let report = write(&[45, 95, 215], Values::Float(&[2.0; 3]));
    assert_eq!((report.accepted, report.out_of_order, report.duplicates), (3, 3, 0));
    assert_eq!((db.stats().sealed_chunks, db.stats().open_samples), (1, 6));
    // An integer in the middle of floats parts the chunk.
    write(&[150], Values::Int(&[i64::MAX]));
    assert_eq!((db.stats().sealed_chunks, db.stats().samples), (3, 28));
    let samples = &content(&db, TimeRange::new(140, 160))[r#"{a="1"}"#];
    assert_eq!(samples[1], (150, i64::MAX as u64, ValueKind::Int));
    db.check().unwrap();
}

#[test]
fn the_newest_sample_twice_is_a_duplicate() {
    for (policy, accepted) in [(DuplicatePolicy::Last, 2), (DuplicatePolicy::Error, 1)] {
        let db = Database::new(Options { duplicates: policy, ..Options::default() });
        let mut total = WriteReport::default();
        for _ in 0..2 {
            total.merge(db.write(&batch(&[("a=1", &[(5, 1.5)])])));
        }
        assert_eq!((total.accepted, total.duplicates), (accepted, accepted - 1));
        assert_eq!(db.stats().samples, 1);
    }
}

#[test]
fn a_value_that_comes_back_within_one_call_is_the_last_one() {
    let db = Database::new(Options::default());
    let (ids, _) = db.register(&[Labels::from_pairs([("__name__", "m")]).unwrap()]).unwrap();
    let ids = vec![ids[0]; 3];
    let values = Values::Int(&[1, 0, 1]);
    let report = db.append_columns(Columns { ids: &ids, timestamps: &[5; 3], values }).unwrap();
    assert_eq!((report.accepted, report.duplicates, report.out_of_order), (3, 2, 0));
    let found: Vec<_> = content(&db, TimeRange::ALL).into_values().flatten().collect();
    assert_eq!(found, [(5, 1, ValueKind::Int)]);
}

#[test]
fn memory_names_each_part_once_and_grows_with_what_is_written() {
    let db = Database::new(Options::default());
    let sum = || db.memory().iter().map(|p| p.bytes).sum::<usize>();
    let empty = sum();
    let raws: Vec<String> = (0..1000).map(|i| format!("__name__=m,i={i}")).collect();
    for t in 0..700 {
        let samples = [(t * 10, (t * 7919 % 1000) as f64)];
        let series: Vec<_> = raws.iter().map(|r| (r.as_str(), &samples[..])).collect();
        db.write(&batch(&series));
    }
    let parts = db.memory();
    let names: std::collections::HashSet<&str> = parts.iter().map(|p| p.name).collect();
    assert_eq!(names.len(), parts.len());
    let part = |name: &str| *parts.iter().find(|p| p.name == name).map(|p| (&p.bytes, &p.items)).unwrap().1;
    assert_eq!((part("sealed chunks"), part("open chunks: written")), (1000, 1000));
    // Ten bits a value of this kind can't be beaten, and nobody should need the sixteen bytes of plain columns.
    let grown = sum() - empty;
    assert!(grown > 1000 * 700 * 10 / 8 && grown < 1000 * 700 * 16, "{grown}");
}

#[test]
fn a_sample_that_comes_again_after_another_of_its_time_is_the_last() {
    let db = Database::new(Options::default());
    db.write(&batch(&[("__name__=m", &[(0, 1.0), (0, 0.0), (0, 1.0)])]));
    let all = content(&db, TimeRange::ALL);
    let samples = all.values().next().unwrap();
    assert_eq!(samples.iter().map(|s| f64::from_bits(s.1)).collect::<Vec<_>>(), [1.0]);
}

mod aging;

/// Columns of whole series, as they come from elsewhere: in one call, or a few samples at a time.
fn columns_of(ids: &[u64], lengths: &[usize], jitter: i64) -> Imported {
    let mut all = Imported::default();
    for (number, (&id, &length)) in ids.iter().zip(lengths).enumerate() {
        for i in 0..length as i64 {
            all.ids.push(id);
            // Gaps, and one time that is neither newer nor new.
            let gap = if i > 700 { 60_000 } else { 0 };
            let late = if i == 800 { -200_000 } else { 0 };
            all.times.push(1_700_000_000_000 + i * 1000 + gap + late + (i * i) % 7 * jitter);
            let kind = if i >= 600 && number == 1 { ValueKind::Int } else { ValueKind::Float };
            all.kinds.push(kind);
            all.bits.push(if kind == ValueKind::Int { i as u64 } else { (i as f64 / 8.0).to_bits() });
            all.starts.push(if number == 2 { 1_600_000_000_000 + i / 300 } else { 0 });
        }
    }
    all
}

#[test]
fn whole_columns_of_series_are_what_the_same_samples_are_one_after_the_other() {
    let lengths = [5, 3000, 2600, 511, 512, 513, 1, 9_000, 17, 1024];
    for jitter in [0, 3] {
        let stores = [Database::new(Options::default()), Database::new(Options::default())];
        for round in 0..3 {
            for (slowly, db) in stores.iter().enumerate() {
                let sets: Vec<Labels> = (0..lengths.len())
                    .map(|i| Labels::from_pairs([("__name__", "m"), ("i", i.to_string().as_str())]).unwrap())
                    .collect();
                let (ids, _) = db.register(&sets).unwrap();
                let mut all = columns_of(&ids, &lengths, jitter);
                all.times.iter_mut().for_each(|t| *t += round * 80_000_000);
                let step = if slowly == 1 { 100 } else { all.ids.len() };
                for from in (0..all.ids.len()).step_by(step) {
                    let rows = from..all.ids.len().min(from + step);
                    let some = Imported {
                        ids: all.ids[rows.clone()].to_vec(),
                        times: all.times[rows.clone()].to_vec(),
                        bits: all.bits[rows.clone()].to_vec(),
                        kinds: all.kinds[rows.clone()].to_vec(),
                        starts: all.starts[rows].to_vec(),
                        ..Imported::default()
                    };
                    let report = db.import(&some).unwrap();
                    assert_eq!((report.accepted as usize, report.rejected.len()), (some.ids.len(), 0));
                }
                db.check().unwrap();
            }
        }
        let [whole, slow] = &stores;
        assert_eq!(content(whole, TimeRange::ALL), content(slow, TimeRange::ALL));
        let out = |db: &Database| {
            let all = db.export(&[every()], TimeRange::ALL, false, 0..SHARDS, &Budget::unlimited()).unwrap();
            let mut digests: Vec<(u64, u64)> = all.iter().map(|one| (one.hash, one.digest)).collect();
            digests.sort_unstable();
            digests
        };
        assert_eq!(out(whole), out(slow));
    }
}
