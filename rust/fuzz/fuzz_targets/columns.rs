//! What stands inside of chunks, from arbitrary bytes: sections of values, dense columns, columns together. They are
//! refused, or decode to as many integers as were asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metricsdb_model::ValueKind;
use metricsdb_store::codec::cursor::Cursor;
use metricsdb_store::codec::values::Section;
use metricsdb_store::codec::{entropy, integers, together};

fuzz_target!(|data: &[u8]| {
    let [what, low, high, rest @ ..] = data else { return };
    let count = usize::from(*low) + 1 + (usize::from(*high) << 8);
    let (from, to) = (count / 3, count - count / 4);
    let mut out = Vec::new();
    match what % 5 {
        0 | 1 => {
            let kind = if what & 128 == 0 { ValueKind::Float } else { ValueKind::Int };
            // The second half may be the columns that the first has a part in.
            let (bytes, columns) = rest.split_at(if what & 64 == 0 { rest.len() } else { rest.len() / 2 });
            let Ok(section) = Section::parse_beside(bytes, kind, count, columns) else { return };
            _ = (section.statistics(), section.sum(), section.detail(), section.plan());
            if section.decode(0, count, |b| b, &mut out).is_ok() {
                assert_eq!(out.len(), count);
                let mut some = Vec::new();
                section.decode(from, to, |b| b, &mut some).unwrap();
                assert_eq!(some, out[from..to]);
            }
        }
        2 => {
            if integers::decode(&mut Cursor::new(rest), 7, count, &mut out).is_ok() {
                assert_eq!(out.len(), count);
            }
        }
        3 => {
            if entropy::decode(&mut Cursor::new(rest), 7, count, 0, count, &mut out).is_ok() {
                let mut some = Vec::new();
                entropy::decode(&mut Cursor::new(rest), 7, count, from, to, &mut some).unwrap();
                assert_eq!((out.len(), &some[..]), (count, &out[from..to]));
            }
        }
        _ => {
            let Ok(block) = together::Block::parse(rest) else { return };
            for member in 0..block.members().min(4) {
                out.clear();
                if block.decode(member, 0, block.count(), &mut out).is_ok() {
                    assert_eq!(out.len(), block.count());
                }
            }
        }
    }
});
