//! LEB128: seven bits a byte, the lowest first; the high bit says that more follow.

/// Appends a number: 1 to 10 bytes.
pub fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The number at the begin of the bytes, and how many it takes. `None` where it doesn't end, or needs more than 64 bits.
pub fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0;
    for (i, &byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        if i == 9 && bits > 1 {
            return None;
        }
        number |= bits << (7 * i);
        if byte < 0x80 {
            return Some((number, i + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(number in any::<u64>(), shift in 0u32..64, rest in prop::collection::vec(any::<u8>(), 0..3)) {
            let (number, mut bytes) = (number >> shift, Vec::new());
            put_varint(&mut bytes, number);
            let length = bytes.len();
            bytes.extend(rest);
            prop_assert_eq!(varint(&bytes), Some((number, length)));
            prop_assert_eq!(varint(bytes.get(..length - 1).unwrap_or(&[])), None);
        }
    }

    #[test]
    fn more_than_64_bits_are_no_number() {
        assert_eq!(varint(&[0xff; 12]), None);
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]), None);
    }
}
