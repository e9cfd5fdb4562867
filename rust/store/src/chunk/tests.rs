#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::codec::testing::{columns, kind};

proptest! {
    #[test]
    fn every_sample_comes_back_bit_for_bit((ts, bits) in columns(300), kind in kind()) {
        let chunk = Chunk::seal(kind, &ts, &bits).unwrap();
        prop_assert_eq!((chunk.kind(), chunk.count()), (kind, ts.len()));
        prop_assert_eq!((chunk.first(), chunk.last()), (ts[0], *ts.last().unwrap()));
        for chunk in [chunk.clone(), Chunk::from_bytes(chunk.to_bytes()).unwrap()] {
            let (mut t, mut b) = (Vec::new(), Vec::new());
            chunk.decode_into(&mut t, &mut b).unwrap();
            prop_assert_eq!(&t, &ts);
            prop_assert_eq!(&b, &bits);
        }
    }
}
