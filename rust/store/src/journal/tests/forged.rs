//! Frames that no program of ours wrote, under good checksums: they are refused one by one, and what is beside them stays.

use super::*;
use crate::codec::cursor::put_varint;
use crate::journal::frame::{self, Head, Kind};
use crate::journal::record::{put_bytes, put_column, put_marks, put_rules};
use crate::journal::segment::{FAILED, Header};
use crate::precision::RuleText;
use crate::series::ROWS_MAX;

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
    let cases: [(Kind, Vec<u8>, &str); 11] = [
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
    let mut open_chunk = varints(&[0]);
    open_chunk.extend_from_slice(&[0; crate::codec::open::STATE_BYTES]);
    put_bytes(&mut open_chunk, &[]);
    let cases: Vec<(Kind, u8, Vec<u8>, &str)> = vec![
        (Kind::Samples, m, vec![0, 0], "no part of a checkpoint"),
        (Kind::Rows, m, rows(&["a"], &[1, 0, 7]), "no such text"),
        (Kind::Rows, m, rows(&["__name__", "x", "job", "test"], &[2, 0, 1, 2, 3]), "another shard"),
        (Kind::Open, m, open_chunk, "open chunk"),
        (Kind::Columns, 0, varints(&[9, 8]), "times are lost"),
        (Kind::Columns, 0, vec![], "end too early"),
    ];
    for (kind, shard, payload, expected) in cases {
        let (disk, part, _) = small();
        add(&disk, &part, kind, shard, 1, &payload);
        let told = told(&disk, 201);
        assert!(told.iter().any(|why| why.contains(expected)), "{kind:?} {expected}: {told:?}");
    }
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
