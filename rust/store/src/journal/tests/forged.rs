//! Frames that no program of ours wrote, under good checksums: they are refused one by one, and what is beside them stays.

use super::*;
use crate::chunk::{SharedColumns, chunks_of};
use crate::codec::cursor::{put_signed, put_varint};
use crate::codec::open::{self as open_chunk, OpenState};
use crate::cut::Taking;
use crate::journal::frame::{self, Head, Kind};
use crate::journal::record::{put_bytes, put_column, put_cut, put_marks, put_roll, put_rules, put_samples};
use crate::journal::segment::{FAILED, Header};
use crate::precision::RuleText;
use crate::rollup::{self, Beside, Keeping, Step};
use crate::series::{ANY_GENERATION, ROWS_MAX};
use crate::shard::Staged;

const SALT: u32 = 99;

fn shard_of(metric: &str) -> u8 {
    let labels = Labels::from_pairs([("__name__", metric), ("job", "test")]).unwrap();
    (labels.as_ref().hash64() >> 56) as u8
}

/// A checkpoint of one series and a record of it behind it; the names of the part and of the segment.
fn small() -> (Disk, String, String) {
    let disk = Disk::new(3);
    let (db, _) = open(&disk, Durability::Batch);
    (0..200).for_each(|t| drop(db.write(&batch(&[("m".to_owned(), t, t as f64 / 7.0)]))));
    db.checkpoint().unwrap();
    db.write(&batch(&[("m".to_owned(), 500, 1.0)]));
    let names = disk.files().list().unwrap();
    let part = names.iter().find(|name| name.matches('-').count() == 2).unwrap().clone();
    (disk, part, names.last().unwrap().clone())
}

fn add(disk: &Disk, file: &str, kind: Kind, shard: u8, seq: u64, payload: &[u8]) {
    let head = Head { kind, shard, seq };
    disk.damage(file, |bytes| frame::put(bytes, SALT, head, |out| out.extend_from_slice(payload)));
}

/// Opens, and looks that the series is there; what was said to be wrong.
fn told(disk: &Disk, samples: usize) -> Vec<String> {
    let (db, recovery) = open(disk, Durability::Batch);
    assert_eq!(content(&db).samples[&series("m")].len(), samples, "{recovery:?}");
    let why = recovery.skipped.iter().map(|s| s.why.clone());
    let told = why.chain(recovery.lost.iter().map(|lost| lost.what.clone())).collect();
    assert!(open(disk, Durability::Batch).1.is_whole());
    told
}

fn varints(numbers: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    numbers.iter().for_each(|&n| put_varint(&mut out, n));
    out
}

#[test]
fn forged_records_of_a_journal_are_refused() {
    let labels = |text: &[u8]| [&varints(&[7])[..], &[0], text].concat();
    let of_value = |code: u8| {
        let mut out = [&[0u8][..], &varints(&[1])].concat();
        put_column(&mut out, [0].into_iter());
        put_column(&mut out, [900].into_iter());
        out.extend_from_slice(&[0; 4]);
        out.push(code);
        out
    };
    let roll = |levels: &[(i64, i64)], rest: &[u8]| {
        let mut out = Vec::new();
        put_signed(&mut out, 0);
        put_signed(&mut out, 0);
        put_varint(&mut out, levels.len() as u64);
        for &(every, before) in levels {
            put_signed(&mut out, every);
            put_signed(&mut out, before);
        }
        [&out[..], rest].concat()
    };
    // No share, no threshold, no neighbours; nothing beside records.
    let plain = [0u8; 18];
    let no_row = |count: u64| {
        let mut out = varints(&[count]);
        put_column(&mut out, [-1].into_iter());
        out
    };
    let of_no_row = {
        let mut out = [&[0u8][..], &varints(&[1])].concat();
        put_column(&mut out, [-1].into_iter());
        put_column(&mut out, [900].into_iter());
        out.extend_from_slice(&[0; 5]);
        out
    };
    let too_long = {
        let mut out = Vec::new();
        let sample = Staged { row: 0, generation: ANY_GENERATION, time: 900, bits: 0 };
        put_samples(&mut out, ValueKind::Float, &[sample], &[]);
        out.push(0);
        out
    };
    let many = ROWS_MAX as u64 + 1;
    let cases: Vec<(Kind, Vec<u8>, &str)> = vec![
        (Kind::Roll, roll(&[(0, 0)], &[]), "don't follow"),
        (Kind::Roll, roll(&[(60, 0), (90, 0)], &[]), "don't follow"),
        (Kind::Roll, roll(&[], &[&plain[..], &varints(&[many])].concat()), "more rows"),
        (Kind::Roll, roll(&[], &[&plain[..], &no_row(1)].concat()), "no such row"),
        (Kind::Roll, roll(&[], &[&[0; 17][..], &[4], &varints(&[1 << 40])].concat()), "more buckets"),
        (Kind::Series, labels(b"job\xffa\xffjob\xffb\xff"), "job"),
        (Kind::Metadata, vec![1, b'm', 0, 2, 0xff, 0], "not UTF-8"),
        (Kind::Histograms, vec![0, 0, 1, 7], "corrupt"),
        (Kind::Gone, no_row(1), "no such row"),
        (Kind::Gone, varints(&[many]), "more rows"),
        (Kind::Cut, vec![7], "no such cut"),
        (Kind::Samples, of_no_row, "no such row"),
        (Kind::Samples, too_long, "behind the last sample"),
        (Kind::End, varints(&[1]), "no part of a journal"),
        (Kind::Series, labels(b"job\xfftest\xff__name__\xffm\xff"), "not in canonical form"),
        (Kind::Series, labels(b"__name__\xffm\xffjob\xffother\xff"), "another shard"),
        (
            Kind::Series,
            [varints(&[ROWS_MAX as u64]), b"\0__name__\xffm\xffjob\xfftest\xff".to_vec()].concat(),
            "past the last",
        ),
        (Kind::Samples, of_value(15), "nine bytes"),
        (Kind::Samples, vec![3, 0], "no such kind"),
        (Kind::Samples, [&[0u8][..], &varints(&[1 << 20])].concat(), "more samples"),
        (Kind::Samples, [&[0u8][..], &varints(&[2]), &[9]].concat(), "no such form"),
        (Kind::Samples, [&[0u8][..], &varints(&[2]), &[1, 0, 3]].concat(), "longer than its column"),
        (Kind::Rules, varints(&[0, ROWS_MAX as u64 + 1]), "more rows"),
        (Kind::Metadata, vec![1, 0xff, 0, 0, 0], "not UTF-8"),
    ];
    for (kind, payload, expected) in cases {
        let (disk, _, segment) = small();
        let shard = if kind == Kind::Metadata { 0 } else { shard_of("m") };
        add(&disk, &segment, kind, shard, 203, &payload);
        let told = told(&disk, 201);
        assert!(told.iter().any(|why| why.contains(expected)), "{kind:?} {expected}: {told:?}");
    }
}

#[test]
fn forged_parts_of_a_checkpoint_are_refused() {
    let m = shard_of("m");
    let text = |numbers: &[u64], texts: &[&str], rest: &[u64]| {
        let mut out = varints(numbers);
        texts.iter().for_each(|text| put_bytes(&mut out, text.as_bytes()));
        out.extend(varints(rest));
        out
    };
    let rows = |texts: &[&str], ids: &[u64]| text(&[1, 1, texts.len() as u64], texts, ids);
    let mut no_state = varints(&[0]);
    no_state.extend_from_slice(&[0; crate::codec::open::STATE_BYTES]);
    put_bytes(&mut no_state, &[]);
    let large_open = {
        let (mut state, mut bytes) = (OpenState::new(ValueKind::Float), vec![0; 8192]);
        open_chunk::append(&mut state, &mut bytes, 900, 7).unwrap();
        let mut out = varints(&[0]);
        state.save(&mut out);
        put_bytes(&mut out, &bytes);
        out
    };
    let no_width = {
        let mut policy = Vec::new();
        let step =
            Step { horizon: 0, raw_before: 0, levels: Vec::new(), keeping: None, beside: Beside::default() };
        put_roll(&mut policy, &step, &[(0, rollup::Kind::Counter)]);
        let mut out = varints(&[0]);
        put_signed(&mut out, 0);
        put_bytes(&mut out, &policy);
        put_varint(&mut out, 0);
        put_column(&mut out, std::iter::empty());
        put_varint(&mut out, 1);
        (0..3).for_each(|_| put_signed(&mut out, 0));
        out.extend_from_slice(&[0; 8]);
        out
    };
    let cases: Vec<(Kind, u8, Vec<u8>, &str)> = vec![
        (Kind::Samples, m, vec![0, 0], "no part of a checkpoint"),
        (Kind::Rows, m, rows(&["a"], &[1, 0, 7]), "no such text"),
        (Kind::Rows, m, [&varints(&[1, 1, 1, 1])[..], &[0x80, 0, 0, 0, 0]].concat(), "not UTF-8"),
        (Kind::Rows, m, rows(&["__name__", "x", "job", "test"], &[2, 0, 1, 2, 3]), "another shard"),
        (Kind::Open, m, no_state, "open chunk"),
        (Kind::Columns, 0, varints(&[9, 8]), "times are lost"),
        (Kind::Columns, 0, vec![], "end too early"),
        (
            Kind::Starts,
            m,
            [&varints(&[0, 0])[..], &varints(&[ROWS_MAX as u64 + 1])].concat(),
            "longer than any",
        ),
        (Kind::Open, m, large_open, "larger than a page"),
        (Kind::SealedHistograms, m, vec![0, 0, 1, 0], "corrupt"),
        (Kind::Rollups, m, no_width, "no width"),
    ];
    for (kind, shard, payload, expected) in cases {
        let (disk, part, _) = small();
        add(&disk, &part, kind, shard, 1, &payload);
        let told = told(&disk, 201);
        assert!(told.iter().any(|why| why.contains(expected)), "{kind:?} {expected}: {told:?}");
    }
}

#[test]
fn starts_behind_all_samples_that_cannot_be_read_are_forgotten() {
    let (disk, part, _) = small();
    let times: Vec<i64> = (1000..1300).collect();
    let bits: Vec<u64> = (0..300u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8).collect();
    let chunks = chunks_of(ValueKind::Int, &times, &bits, &SharedColumns::default()).unwrap();
    let bytes = chunks[0].memory_bytes();
    let mut payload = varints(&[0, 1, 0]);
    put_bytes(&mut payload, &bytes[..bytes.len() / 2]);
    put_varint(&mut payload, 1);
    put_column(&mut payload, [9000].into_iter());
    put_column(&mut payload, [2].into_iter());
    add(&disk, &part, Kind::Starts, shard_of("m"), 1, &payload);
    let (db, _) = open(&disk, Durability::Batch);
    db.check().unwrap();
    assert_eq!((content(&db).samples[&series("m")].len(), content(&db).starts.len()), (201, 0));
}

#[test]
fn chunks_that_come_twice_are_taken_once() {
    let (disk, part, _) = small();
    let bytes = disk.files().read(&part).unwrap();
    for kind in [Kind::Chunks, Kind::Open] {
        let twice = disk.copy();
        for piece in frame::Scan::new(&bytes, 64, SALT, 0) {
            let frame::Piece::Frame(frame) = piece else { continue };
            if frame.head.kind == kind {
                add(&twice, &part, kind, frame.head.shard, frame.head.seq, frame.payload);
            }
        }
        assert!(!told(&twice, 201).is_empty());
    }
}

#[test]
fn a_list_of_any_length_costs_no_memory() {
    for (parts, number) in [(u32::MAX, 1), (1, u64::MAX), (u32::MAX, u64::MAX), (0, 1)] {
        let (disk, _, _) = small();
        let header = Header { salt: SALT, duplicates: DuplicatePolicy::Last, number, parts };
        disk.damage("checkpoint-0000000001", |bytes| *bytes = header.to_bytes().to_vec());
        let (db, recovery) = open(&disk, Durability::Batch);
        assert!(recovery.is_damaged() && recovery.skipped.len() < 4, "{recovery:?}");
        assert!(parts == 0 || content(&db).samples[&series("m")].len() >= 200);
        assert!(open(&disk, Durability::Batch).1.is_whole());
    }
}

#[test]
fn numbers_that_leave_no_room_for_the_next_are_none_of_ours() {
    let (disk, _, segment) = small();
    add(&disk, &segment, Kind::Rewrite, shard_of("m"), u64::MAX, &varints(&[0]));
    drop(disk.files().create(&format!("journal-{}", u64::MAX)));
    let (db, _) = open(&disk, Durability::Batch);
    db.write(&batch(&[("m".to_owned(), 900, 1.0)]));
    db.checkpoint().unwrap();
    drop(db);
    assert_eq!(content(&open(&disk, Durability::Batch).0).samples[&series("m")].len(), 202);
}

#[test]
fn marks_and_rules_that_cannot_be_read_any_more_choose_nothing() {
    let (disk, _, segment) = small();
    let rule = |selector: &str| RuleText {
        selector: selector.to_owned(),
        policy: "digits(3)".to_owned(),
        counters_exact: false,
    };
    let (mut rules, mut marks) = (Vec::new(), Vec::new());
    put_rules(&mut rules, &[rule(""), rule("m")], [2].into_iter());
    put_marks(&mut marks, &[(0, 0), (77, 1)]);
    let shard = shard_of("m");
    add(&disk, &segment, Kind::Rules, shard, 202, &rules);
    add(&disk, &segment, Kind::Marks, shard, 203, &marks);
    let db = try_open(&disk, Durability::Batch, Options::default()).unwrap().0;
    assert_eq!(content(&db).samples[&series("m")].len(), 201);
}

#[test]
fn a_missing_file_behind_a_failed_one_is_none() {
    let (disk, _, segment) = small();
    let number = segment.trim_start_matches("journal-").parse::<u64>().unwrap() + 2;
    let name = format!("journal-{number:010}");
    for (parts, missing) in [(FAILED, 0), (0, 1)] {
        let header = Header { salt: SALT, duplicates: DuplicatePolicy::Last, number, parts };
        let other = disk.copy();
        other.files().create(&name).unwrap().write(&header.to_bytes()).unwrap();
        assert_eq!(open(&other, Durability::Batch).1.unsynced.len(), missing);
    }
}

#[test]
fn records_about_rows_that_nobody_knows_change_nothing() {
    let step = Step {
        horizon: 1000,
        raw_before: 1000,
        levels: vec![(60, i64::MIN)],
        keeping: None,
        beside: Beside::default(),
    };
    let (mut roll, mut cut) = (Vec::new(), Vec::new());
    put_roll(&mut roll, &step, &[(9, rollup::Kind::Counter)]);
    let share = |share: f64| {
        let keeping = Some(Keeping { share, threshold: 1.0, neighbours: 1 });
        let mut out = Vec::new();
        put_roll(&mut out, &Step { keeping, ..step.clone() }, &[(9, rollup::Kind::Counter)]);
        crate::journal::record::read_roll(&out).unwrap().0.keeping.is_some()
    };
    assert_eq!([0.0, 0.5, 1.0, 1.5, f64::NAN].map(share), [false, true, true, false, false]);
    put_cut(&mut cut, TimeRange::ALL, Taking::Everything, &[9]);
    let (disk, _, segment) = small();
    let shard = shard_of("m");
    for (seq, (kind, payload)) in
        (203..).zip([(Kind::Rewrite, varints(&[9])), (Kind::Roll, roll), (Kind::Cut, cut)])
    {
        add(&disk, &segment, kind, shard, seq, &payload);
    }
    let told = told(&disk, 201);
    assert!(told.iter().all(|what| what.contains("records of the journal")), "{told:?}");
}

#[test]
fn series_in_other_rows_are_found_and_a_checkpoint_gives_all_their_numbers() {
    let labels = b"__name__\xffm\xffjob\xfftest\xff";
    let again = [&varints(&[7])[..], &[0], labels].concat();
    let mut gone = varints(&[5, 1, 0, 0]);
    put_column(&mut gone, [0].into_iter());
    put_varint(&mut gone, 0);
    for (is_part, kind, seq, payload) in [(false, Kind::Series, 203, again), (true, Kind::Rows, 1, gone)] {
        let (disk, part, segment) = small();
        add(&disk, if is_part { &part } else { &segment }, kind, shard_of("m"), seq, &payload);
        let lists = |disk: &Disk| {
            let names = disk.files().list().unwrap();
            names
                .into_iter()
                .filter(|name| name.starts_with("checkpoint") && name.matches('-').count() == 1)
                .collect()
        };
        let before: Vec<String> = lists(&disk);
        let (db, recovery) = open(&disk, Durability::Batch);
        assert!(!recovery.is_damaged(), "{recovery:?}");
        assert_eq!(content(&db).samples[&series("m")].len(), 201);
        assert_ne!(lists(&disk), before, "{kind:?}");
    }
}

#[test]
fn what_families_say_is_taken_in_its_order() {
    let (disk, _, segment) = small();
    for (seq, help) in [(5, "new"), (4, "old"), (5, "again")] {
        let family = Metadata { metric: "m".into(), kind: None, help: Some(help.into()), unit: None };
        let mut payload = Vec::new();
        crate::journal::record::put_metadata(&mut payload, [family].iter());
        add(&disk, &segment, Kind::Metadata, 0, seq, &payload);
    }
    let (db, _) = open(&disk, Durability::Batch);
    assert_eq!(content(&db).metadata[0].help.as_deref(), Some("new"));
}

#[test]
fn bad_values_on_both_sides_of_a_record_are_listed_one_by_one() {
    let disk = Disk::new(3);
    let (db, _) = open(&disk, Durability::Batch);
    (0..6).for_each(|t| drop(db.write(&batch(&[("m".to_owned(), t, t as f64 / 7.0)]))));
    drop(db);
    let segment = disk.files().list().unwrap().last().unwrap().clone();
    let bytes = disk.files().read(&segment).unwrap();
    let frames = frame::Scan::new(&bytes, 64, SALT, 0).filter_map(|piece| piece.frame());
    let ends: Vec<usize> = frames
        .filter(|frame| frame.head.kind == Kind::Samples)
        .map(|frame| frame.place.offset as usize + frame::HEAD_BYTES + frame.payload.len())
        .collect();
    for at in [1, 3] {
        disk.damage(&segment, |bytes| bytes[ends[at] - 1] ^= 1);
    }
    let (db, recovery) = open(&disk, Durability::Batch);
    let times: Vec<i64> = content(&db).samples[&series("m")].keys().copied().collect();
    assert_eq!(times, [0, 2, 4, 5]);
    let mut lost: Vec<_> = recovery.lost.iter().map(|lost| (lost.start, lost.end, lost.samples)).collect();
    lost.sort_unstable();
    assert_eq!(lost, [1, 3].map(|t| (Some(t), Some(t), Some(1))), "{recovery:?}");
}

#[test]
fn a_frame_of_a_kind_that_nobody_knows_is_none() {
    let (disk, _, segment) = small();
    let mut bytes = Vec::new();
    frame::put(&mut bytes, SALT, Head { kind: Kind::Samples, shard: 0, seq: 1 }, |_| ());
    // Another kind under a good checksum of the head.
    bytes[2] = 26;
    let mut hasher = crc32fast::Hasher::new_with_initial(SALT);
    hasher.update(&bytes[2..16]);
    let check = (hasher.clone().finalize() as u16).to_le_bytes();
    bytes[16..18].copy_from_slice(&check);
    bytes[18..22].copy_from_slice(&hasher.finalize().to_le_bytes());
    disk.damage(&segment, |file| file.extend_from_slice(&bytes));
    let (db, recovery) = open(&disk, Durability::Batch);
    assert_eq!(content(&db).samples[&series("m")].len(), 201);
    assert_eq!(recovery.cut.len(), 1, "{recovery:?}");
}

#[test]
fn a_part_of_a_checkpoint_tells_the_secret_where_nothing_else_does() {
    let (disk, _, _) = small();
    for name in disk.files().list().unwrap() {
        if name.matches('-').count() == 1 {
            disk.damage(&name, |bytes| bytes[..64].fill(0));
        }
    }
    let (db, recovery) = open(&disk, Durability::Batch);
    assert!(recovery.is_damaged());
    assert_eq!(content(&db).samples[&series("m")].len(), 201, "{recovery:?}");
}
