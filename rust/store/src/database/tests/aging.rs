//! What becomes of samples as they grow old: runs, shared times, dense chunks, columns together.

use super::*;
use crate::Densified;

#[test]
fn old_chunks_become_denser_and_say_the_same() {
    let db = Database::new(Options::default());
    let raws: Vec<String> = (0..20).map(|i| format!("__name__=m,i={i}")).collect();
    for t in 0..9000i64 {
        let gap = if t > 4000 { 7_000 } else { 0 };
        let value = |i: i64| if i % 5 == 0 { 7.0 } else { (t * t * (i + 1) % 1009) as f64 / 10.0 };
        let samples: Vec<_> = (0..20).map(|i| [(t * 15_000 + gap, value(i))]).collect();
        let series: Vec<_> = raws.iter().zip(&samples).map(|(r, s)| (r.as_str(), &s[..])).collect();
        db.write(&batch(&series));
    }
    let before = (content(&db, TimeRange::ALL), db.stats(), db.memory());
    let mut done = Densified::default();
    let mut calls = 0;
    while !done.finished {
        let step = db.densify(8000 * 15_000, 10_000, &Budget::unlimited()).unwrap();
        done.merge(&step);
        (done.finished, calls) = (step.finished, calls + 1);
    }
    assert!(calls > 2 && done.samples > 20 * 3000, "{done:?} in {calls}");
    assert!(done.chunks_after <= done.chunks_before && done.bytes_after < done.bytes_before, "{done:?}");
    db.check().unwrap();
    assert_eq!(before.0, content(&db, TimeRange::ALL));
    assert_eq!(before.1.samples, db.stats().samples);
    // Nothing is done twice; late and new samples find their places.
    assert_eq!(db.densify(8000 * 15_000, u64::MAX, &Budget::unlimited()).unwrap().samples, 0);
    let late = db.write(&batch(&[(&raws[1], &[(15_000 * 100 + 1, 1.0), (9001 * 15_000 + 7_000, 2.0)])]));
    assert_eq!((late.accepted, late.out_of_order), (2, 1));
    db.check().unwrap();
}

#[test]
fn old_buckets_of_a_histogram_are_coded_together() {
    let db = Database::new(Options::default());
    let raws: Vec<String> = ["0.1", "0.5", "2.5", "+Inf", "x"]
        .iter()
        .flat_map(|le| (0..2).map(move |i| format!("__name__=m_bucket,le={le},i={i}")))
        .collect();
    let mut counts = [0.0; 10];
    for t in 0..5000i64 {
        let mut x = (t as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for observed in 0..6 {
            x = x.rotate_left(23).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let (le, i) = ((x >> 40 & 3) as usize, observed % 2);
            (le..5).for_each(|le| counts[2 * le + i] += 1.0);
        }
        let samples: Vec<_> = counts.iter().map(|&v| [(t * 15_000 + t % 7, v)]).collect();
        let series: Vec<_> = raws.iter().zip(&samples).map(|(r, s)| (r.as_str(), &s[..])).collect();
        db.write(&batch(&series));
        // One bucket of the second histogram is off at times.
        db.write(&batch(&[(&raws[3], &[(t * 15_000 + 100, 1.5)])]));
    }
    let before = content(&db, TimeRange::ALL);
    let dense = |end| {
        let mut all = Densified::default();
        for _ in 0..2 {
            all.merge(&db.densify(end, u64::MAX, &Budget::unlimited()).unwrap());
        }
        all
    };
    let first = dense(3000 * 15_000);
    db.check().unwrap();
    assert_eq!(before, content(&db, TimeRange::ALL));
    let done = dense(i64::MAX);
    db.check().unwrap();
    assert_eq!(before, content(&db, TimeRange::ALL));
    assert!(done.bytes_after < done.bytes_before, "{first:?} {done:?}");
    let id =
        db.register(&[Labels::from_pairs([("__name__", "m_bucket"), ("le", "0.5"), ("i", "0")]).unwrap()]);
    let (number, row) = place_of(id.unwrap().0[0] as u32);
    let names = |db: &Database| -> Vec<&str> {
        let shard = db.shard(number);
        let chunks: Vec<_> = shard.series.sealed[row].iter().map(|c| c.codecs().1).collect();
        chunks
    };
    assert!(names(&db).contains(&"together"), "{:?}", names(&db));
    // A range within, and a late sample that takes its bucket out of the chain.
    let range = TimeRange::new(1000 * 15_000, 1100 * 15_000);
    let some = content(&db, range);
    assert!(
        some.iter().all(|(k, v)| v[..]
            == before[k].iter().filter(|s| range.contains(s.0)).copied().collect::<Vec<_>>()[..])
    );
    db.write(&batch(&[(&raws[2], &[(1_500_001, 7.0)])]));
    db.check().unwrap();
    assert_eq!(
        content(&db, TimeRange::ALL).values().map(Vec::len).sum::<usize>(),
        before.values().map(Vec::len).sum::<usize>() + 1
    );
}

#[test]
fn a_series_that_never_changes_costs_nothing_more() {
    let db = Database::new(Options::default());
    let id = db.register(&[Labels::from_pairs([("a", "1")]).unwrap()]).unwrap().0[0];
    let write = |from: i64, to: i64, value: f64| {
        let times: Vec<i64> = (from..to).map(|i| i * 15_000).collect();
        let n = times.len();
        let (ids, values) = (vec![id; n], vec![value; n]);
        db.append_columns(Columns { ids: &ids, timestamps: &times, values: Values::Float(&values) }).unwrap();
    };
    write(0, 10, 42.5);
    let bytes = || db.memory().iter().filter(|p| p.name.contains("chunk")).map(|p| p.bytes).sum::<usize>();
    let before = bytes();
    write(10, 4000, 42.5);
    assert_eq!(bytes(), before);
    // Past the open chunk's limit one small chunk holds all that came before.
    write(4000, 60_000, 42.5);
    assert_eq!((db.stats().sealed_chunks, db.stats().samples), (1, 60_000));
    assert!(bytes() < before + 100, "{} {before}", bytes());
    write(60_000, 60_001, 43.5);
    write(60_001, 60_700, 42.5);
    db.check().unwrap();
    let all = &content(&db, TimeRange::ALL)[r#"{a="1"}"#];
    assert_eq!(all.len(), 60_700);
    let odd: Vec<i64> = all.iter().filter(|s| s.1 != 42.5f64.to_bits()).map(|s| s.0 / 15_000).collect();
    assert_eq!(odd, [60_000]);
    let some = &content(&db, TimeRange::new(59_990 * 15_000 + 1, 60_010 * 15_000 - 1))[r#"{a="1"}"#];
    assert_eq!((some[0].0 / 15_000, some.len()), (59_991, 19));
}

#[test]
fn series_of_one_scrape_share_their_times() {
    let db = Database::new(Options::default());
    let raws: Vec<String> = (0..200).map(|i| format!("__name__=m,i={i}")).collect();
    for t in 0..1100i64 {
        let time = t * 15_000 + t * 7919 % 11 - 5;
        let samples = [(time, (t * 7919 % 1000) as f64)];
        let series: Vec<_> = raws.iter().map(|r| (r.as_str(), &samples[..])).collect();
        db.write(&batch(&series));
    }
    let part = |name: &str| db.memory().iter().find(|p| p.name == name).map(|p| (p.bytes, p.items)).unwrap();
    assert_eq!(part("shared columns").1, 1);
    assert!(part("shared columns").0 < 3000, "{}", part("shared columns").0);
    db.check().unwrap();
}
