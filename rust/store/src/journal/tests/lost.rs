//! What goes with a frame of a checkpoint that is bad: nothing else, and it is said.

use super::*;
use crate::journal::frame::{HEAD_BYTES, Kind, Piece, Scan};
use crate::journal::segment::HEADER_BYTES;
use crate::rollup::{Beside, Keeping, Level, Pass, Progress, Rule};

const SALT: u32 = 99;

/// A number that nobody would guess, and the same each time.
fn noise(i: u64) -> u64 {
    (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 97
}

/// Ascending times without a step that all series have, or with one.
fn times(is_regular: bool) -> Vec<i64> {
    let jitter = |i: i64| if is_regular { 0 } else { noise(i as u64) as i64 };
    (0..1500).map(|i| i * 1000 + jitter(i)).collect()
}

/// Buckets of one classic histogram, each above the one below by a bit.
fn buckets(db: &Database, name: &str, times: &[i64]) {
    for (k, le) in ["0.1", "1", "10", "+Inf"].into_iter().enumerate() {
        let labels = Labels::from_pairs([("__name__", name), ("job", "test"), ("le", le)]).unwrap();
        let ids = vec![db.register(&[labels]).unwrap().0[0]; times.len()];
        let mut sum = 0;
        let mut next = |i: usize| {
            sum += (0..=k).map(|k| noise((i * 4 + k) as u64)).sum::<u64>();
            sum as f64
        };
        let values: Vec<f64> = (0..times.len()).map(&mut next).collect();
        db.append_columns(Columns { ids: &ids, timestamps: times, values: Values::Float(&values) }).unwrap();
    }
}

/// Series that have columns in common: irregular times, buckets coded together, records, and starts that never stand still.
fn shared() -> (Disk, Content) {
    let disk = Disk::new(31);
    let (db, _) = open(&disk, Durability::Batch);
    roundtrip::everything(&db, 0);
    let mut made = empty();
    for metric in ["resets", "rolled", "rolled_too"] {
        let at = made.timestamps.len() as u32;
        for (i, &time) in times(false).iter().enumerate() {
            made.timestamps.push(time);
            let spike = if noise(i as u64) == 7 { 900.0 } else { 0.0 };
            made.values.push(i as f64 / 7.0 + spike);
            made.starts.push(if metric == "resets" { -1 - noise(i as u64 + 9) as i64 } else { 0 });
        }
        let raw = Cow::Owned(metric.as_bytes().to_vec());
        made.series.push(BatchSeries { raw, samples: at..made.timestamps.len() as u32 });
    }
    for (k, metric) in ["native", "native_too"].into_iter().enumerate() {
        let at = made.timestamps.len() as u32;
        let raw = Cow::Owned(metric.as_bytes().to_vec());
        made.series.push(BatchSeries { raw, samples: at..at });
        let point = |&time: &i64| BatchHistogram {
            series: 3 + k as u32,
            timestamp: time,
            start: 0,
            histogram: histogram(noise(time as u64)),
        };
        made.histograms.extend(times(false).iter().map(point));
    }
    assert_eq!(db.write(&made).rejected_total(), 0);
    buckets(&db, "even_bucket", &times(true));
    buckets(&db, "odd_bucket", &times(false));
    let keeping = Some(Keeping { share: 0.1, threshold: 2.0, neighbours: 1 });
    let beside = Beside { sketches: true, states: true, buckets_max: None };
    let rule = |name: &str| Rule {
        predicate: selector(name).unwrap(),
        raw: None,
        levels: vec![Level { every: 20_000, keep: None }, Level { every: 100_000, keep: None }],
        kind: None,
        keeping,
        beside,
    };
    let rules: Vec<Rule> = ["rolled", "rolled_too", "native"].map(rule).into();
    let pass = Pass { now: 10_000_000, delay: 0, batch: 1 };
    let rolled = db.roll(&rules, pass, &mut Progress::default(), u64::MAX, &Budget::unlimited()).unwrap();
    assert!(rolled.records > 100 && rolled.kept > 0, "{rolled:?}");
    // What is sealed becomes dense, what comes then is packed.
    while !db.densify(1_600_000, u64::MAX, &Budget::unlimited()).unwrap().finished {}
    db.write(&batch(&[("resets".to_owned(), 2_000_000, 1.0), ("rolled".to_owned(), 2_000_000, 1.0)]));
    db.checkpoint().unwrap();
    (disk, content(&db))
}

fn parts(disk: &Disk) -> Vec<String> {
    disk.files().list().unwrap().into_iter().filter(|name| name.matches('-').count() == 2).collect()
}

#[test]
fn what_series_have_in_common_comes_back() {
    let (disk, all) = shared();
    let (db, recovery) = open(&disk, Durability::Batch);
    assert!(recovery.is_whole(), "{recovery:?}");
    assert_eq!(content(&db), all);
    let held: usize = db.memory().iter().map(|part| part.bytes).sum();
    assert!(held > 0 && db.held() > 0);
    db.checkpoint().unwrap();
    assert_eq!(content(&open(&disk, Durability::Batch).0), all);
}

#[test]
fn a_bad_frame_of_a_checkpoint_costs_what_it_holds_and_what_is_read_by_it() {
    let (disk, all) = shared();
    let mut costs: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut told = BTreeSet::new();
    for part in parts(&disk) {
        let bytes = disk.files().read(&part).unwrap();
        for piece in Scan::new(&bytes, HEADER_BYTES, SALT, 0) {
            let Piece::Frame(frame) = piece else { continue };
            let bad = disk.copy();
            let at = frame.place.offset as usize + HEAD_BYTES + frame.payload.len() / 2;
            bad.damage(&part, |bytes| bytes[at] ^= 0x20);
            let (db, recovery) = open(&bad, Durability::Batch);
            let (found, case) = (content(&db), format!("{:?} in {part}", frame.head.kind));
            let lost = damage::missing(&found, &all, &case);
            assert!(recovery.is_damaged(), "{case}");
            for one in recovery.lost.iter().filter(|one| one.samples.is_some()) {
                assert!(one.start <= one.end && one.samples > Some(0), "{case}: {one:?}");
            }
            let lists = |lost: &super::super::Lost| lost.samples.unwrap_or(0) as usize;
            let listed: usize = recovery.lost.iter().map(lists).sum();
            if matches!(frame.head.kind, Kind::Chunks | Kind::Open | Kind::Columns) {
                assert_eq!(listed, lost, "{case}: {recovery:?}");
            }
            told.extend(recovery.lost.iter().map(|lost| lost.what.clone()));
            let cost = costs.entry(format!("{:?}", frame.head.kind)).or_default();
            *cost = (cost.0 + 1, cost.1 + lost);
            let (db, again) = open(&bad, Durability::Batch);
            assert!(again.is_whole(), "{case}: {again:?}");
            assert_eq!(content(&db).samples, found.samples, "{case}");
        }
    }
    for kind in ["Columns", "Chunks", "Open", "Rows"] {
        assert!(costs[kind].0 > 0 && costs[kind].1 > 0, "{kind}: {costs:?}");
    }
    for kind in ["Buckets", "Starts", "Rollups", "SealedHistograms", "Begin", "End", "Whole"] {
        assert!(costs[kind].0 > 0 && costs[kind].1 == 0, "{kind}: {costs:?}");
    }
    for what in ["rollups of rolled{", "start times of resets{"] {
        assert!(told.iter().any(|told| told.contains(what)), "{what}: {told:?}");
    }
}

#[test]
fn starts_of_samples_that_are_lost_are_none_of_those_that_come_later() {
    let disk = Disk::new(5);
    let (db, _) = open(&disk, Durability::Batch);
    let write = |times: &[i64], start: i64| {
        let mut made = empty();
        made.timestamps = times.to_vec();
        made.values = vec![1.0; times.len()];
        made.starts = times.iter().map(|&time| start - noise(time as u64) as i64).collect();
        made.series =
            vec![BatchSeries { raw: Cow::Owned(b"resets".to_vec()), samples: 0..times.len() as u32 }];
        assert_eq!(db.write(&made).rejected_total(), 0);
    };
    write(&times(false), -1);
    db.checkpoint().unwrap();
    let later = [700_500, 700_600, 1_600_000];
    write(&later, -200);
    for part in parts(&disk) {
        let bytes = disk.files().read(&part).unwrap();
        for piece in Scan::new(&bytes, HEADER_BYTES, SALT, 0) {
            let Piece::Frame(frame) = piece else { continue };
            if matches!(frame.head.kind, Kind::Chunks | Kind::Open) {
                let at = frame.place.offset as usize + HEAD_BYTES + frame.payload.len() / 2;
                disk.damage(&part, |bytes| bytes[at] ^= 0x20);
            }
        }
    }
    let (db, recovery) = open(&disk, Durability::Batch);
    assert!(recovery.is_damaged());
    db.check().unwrap();
    let (name, found) = (series("resets"), content(&db));
    assert!(found.samples[&name].keys().eq(&later));
    assert!(found.starts[&name].iter().eq(later.map(|time| -200 - noise(time as u64) as i64).iter()));
}
