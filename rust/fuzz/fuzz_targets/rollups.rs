//! Records of rollups, the sketches and states beside them, and saved open chunks, from arbitrary bytes: refused, or
//! sound. What a block decodes to comes back bit for bit from a block that is made of it.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use metricsdb_model::{Sketch, ValueKind};
use metricsdb_store::chunk::{Shared, SharedColumns};
use metricsdb_store::codec::open::{self, OpenState, STATE_BYTES};
use metricsdb_store::codec::timestamps;
use metricsdb_store::rollup::{Block, Record, states};

fuzz_target!(|data: &[u8]| {
    let Some((&what, rest)) = data.split_first() else { return };
    match what % 5 {
        0 | 1 => block(rest),
        2 => beside(rest),
        3 => times(rest),
        _ => open_chunk(rest),
    }
});

/// The first byte says how many of the others are the part that series share.
fn block(bytes: &[u8]) {
    let Some((&shared, rest)) = bytes.split_first() else { return };
    let (buckets, own) = rest.split_at(usize::from(shared).min(rest.len()));
    let Ok(block) = Block::restore(Arc::new(Shared::Buckets(buckets.into())), own) else { return };
    let (mut records, mut sketched) = (Vec::new(), Vec::new());
    if block.decode_with_sketches(&mut records, &mut sketched).is_err() {
        return;
    }
    let every = block.every();
    assert_eq!(records.len(), block.count());
    assert_eq!((records[0].end, records[records.len() - 1].end), (block.first(), block.last()));
    assert!(records.windows(2).all(|w| w[0].end < w[1].end) && records.iter().all(|r| r.end % every == 0));
    sketched.iter().for_each(|(_, bytes)| beside(bytes));
    let again = Block::new(&records, &sketched, every, true, &SharedColumns::default()).unwrap();
    let (mut same, mut same_sketched) = (Vec::new(), Vec::new());
    again.decode_with_sketches(&mut same, &mut same_sketched).unwrap();
    assert!(records.iter().map(bits).eq(same.iter().map(bits)));
    assert_eq!(sketched, same_sketched);
    let mut whole = records[0];
    records[1..].iter().for_each(|next| whole.append(next));
}

fn bits(r: &Record) -> [u64; 12] {
    let [first, last, min, max] = [r.first.1, r.last.1, r.min, r.max].map(f64::to_bits);
    let [sum, deviation, reset_from] = [r.sum, r.deviation, r.reset_from].map(f64::to_bits);
    let [first_at, last_at] = [r.first.0, r.last.0].map(|t| t as u64);
    [r.count, first_at, first, last_at, last, min, max, sum, deviation, r.resets, reset_from, r.unkept]
}

/// A sketch or states.
fn beside(bytes: &[u8]) {
    if states::is_states(bytes) {
        if let Ok(all) = states::decode(bytes) {
            assert!(all.len() <= states::STATES_MAX);
            let again = states::decode(&states::encode(&all)).unwrap();
            let bits = |s: &states::State| (s.value.to_bits(), s.count, s.held);
            assert!(all.iter().map(bits).eq(again.iter().map(bits)));
            _ = states::sketch(&all).quantile(0.5);
        }
    } else if let Ok(mut sketch) = Sketch::decode(bytes) {
        assert_eq!(sketch.encode(), bytes);
        _ = [0.0, 0.3, 1.0].map(|q| sketch.quantile(q));
        sketch.merge(&sketch.clone());
        sketch.fit(128);
        _ = sketch.encode();
    }
}

/// A column of times: as many as were asked for, or refused.
fn times(bytes: &[u8]) {
    let [low, high, rest @ ..] = bytes else { return };
    let count = usize::from(*low) + 1 + (usize::from(*high) << 8);
    let mut out = Vec::new();
    if timestamps::decode(rest, -3, count, &mut out).is_ok() {
        assert_eq!(out.len(), count);
    }
}

/// A saved open chunk: what is restored decodes, and says the same when it is saved again.
fn open_chunk(bytes: &[u8]) {
    let Some((saved, buf)) = bytes.split_at_checked(STATE_BYTES) else { return };
    let Ok(state) = OpenState::restore(saved, buf) else { return };
    let (mut times, mut bits) = (Vec::new(), Vec::new());
    open::decode(&state, &buf[..state.used_bytes()], &mut times, &mut bits).unwrap();
    assert_eq!((times.len(), bits.len()), (state.count(), state.count()));
    assert!(times.windows(2).all(|w| w[0] < w[1]));
    let mut again = Vec::new();
    state.save(&mut again);
    let restored = OpenState::restore(&again, buf).unwrap();
    assert_eq!((restored.count(), restored.used_bytes()), (state.count(), state.used_bytes()));
    // A sample behind it, of every kind of state.
    let mut room = buf.to_vec();
    room.resize(state.used_bytes() + open::SAMPLE_BYTES_MAX, 0);
    let mut state = restored;
    if let Some(next) = times.last().and_then(|last| last.checked_add(15_000))
        && open::append(&mut state, &mut room, next, bits[bits.len() - 1]).is_ok()
    {
        times.clear();
        bits.clear();
        open::decode(&state, &room[..state.used_bytes()], &mut times, &mut bits).unwrap();
        assert_eq!(times.last(), Some(&next));
    }
    let _: ValueKind = state.kind();
}
