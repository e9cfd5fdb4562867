//! Columns of integers that rise together, as the cumulative buckets of a histogram do: each is written
//! as its distance from the one before, or as itself where that is smaller, in a dense column of its own.
//! Reading one member decodes it and those before it, back to one that was written as itself.

use metricsdb_model::Result;

use super::cursor::{Cursor, put_signed, put_varint};
use super::entropy;

/// Columns of a block, and integers of each.
pub const MEMBERS_MAX: usize = 256;
pub const COUNT_MAX: usize = 65_536;

/// Every so many members one is written as itself: reading a member decodes no more than this.
const CHAIN: usize = 4;

/// Appends a block of 1 to `MEMBERS_MAX` columns of the same length, 1 to `COUNT_MAX`; nothing if they
/// are not. A member costs about the time of two dense columns.
pub fn encode(columns: &[&[i64]], out: &mut Vec<u8>) {
    let count = columns.first().map_or(0, |c| c.len());
    let fits = (1..=COUNT_MAX).contains(&count) && columns.len() <= MEMBERS_MAX;
    if !fits || columns.iter().any(|c| c.len() != count) {
        return;
    }
    put_varint(out, count as u64 - 1);
    out.push((columns.len() - 1) as u8);
    let mut members = member(columns[0]);
    put_varint(out, (members.len() as u64) << 1);
    for (i, pair) in (1..).zip(columns.windows(2)) {
        let rise: Vec<i64> = pair[1].iter().zip(pair[0]).map(|(v, below)| v.wrapping_sub(*below)).collect();
        let (alone, above) = (member(pair[1]), member(&rise));
        let chained = above.len() < alone.len() && i % CHAIN != 0;
        let (bytes, flag) = if chained { (above, 1) } else { (alone, 0) };
        put_varint(out, (bytes.len() as u64) << 1 | flag);
        members.extend(bytes);
    }
    out.extend(members);
}

/// A first integer and its column.
fn member(column: &[i64]) -> Vec<u8> {
    let mut out = Vec::new();
    put_signed(&mut out, column.first().copied().unwrap_or(0));
    entropy::encode(column, &mut out);
    out
}

/// A block whose directory was read.
pub struct Block<'a> {
    count: usize,
    members: Vec<Member<'a>>,
}

struct Member<'a> {
    /// Written as the distance from the member before.
    above: bool,
    at: Cursor<'a>,
    end: usize,
}

impl<'a> Block<'a> {
    /// Takes all of the bytes. Errors: `Corruption`.
    pub fn parse(bytes: &'a [u8]) -> Result<Block<'a>> {
        let mut cursor = Cursor::new(bytes);
        let count = cursor.varint()?;
        if count >= COUNT_MAX as u64 {
            return Err(cursor.wrong("more integers than a column may have"));
        }
        let n = usize::from(cursor.byte()?) + 1;
        let mut entries = Vec::with_capacity(n);
        for _ in 0..n {
            let entry = cursor.varint()?;
            entries.push((entry & 1 == 1, usize::try_from(entry >> 1).unwrap_or(usize::MAX)));
        }
        let mut members = Vec::with_capacity(n);
        for (i, (above, size)) in entries.into_iter().enumerate() {
            if i == 0 && above {
                return Err(cursor.wrong("the first member has none before it"));
            }
            let at = cursor;
            cursor.take(size)?;
            members.push(Member { above, at, end: cursor.position() });
        }
        if cursor.position() != bytes.len() {
            return Err(cursor.wrong("bytes behind the last member"));
        }
        Ok(Block { count: count as usize + 1, members })
    }

    /// How many columns there are.
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// How many integers each column has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Appends the integers of a member at positions `from..to`, `to` at most the count. Errors:
    /// `Corruption`, also where there is no such member; then `out` may hold a part of them.
    pub fn decode(&self, member: usize, from: usize, to: usize, out: &mut Vec<u64>) -> Result<()> {
        let Some(needed) = self.members.get(..=member) else {
            return Err(Cursor::new(&[]).wrong("no such member"));
        };
        let alone = needed.iter().rposition(|m| !m.above).unwrap_or(0);
        let start = out.len();
        let mut rise = Vec::new();
        for (i, m) in needed.iter().enumerate().skip(alone) {
            let into = if i == alone { &mut *out } else { &mut rise };
            let mut cursor = m.at;
            let first = cursor.signed()?;
            entropy::decode(&mut cursor, first, self.count, from, to, into)?;
            if cursor.position() != m.end {
                return Err(cursor.wrong("a member doesn't end where the next begins"));
            }
            if i > alone {
                let sums = out.get_mut(start..).unwrap_or(&mut []);
                sums.iter_mut().zip(&rise).for_each(|(sum, v)| *sum = sum.wrapping_add(*v));
                rise.clear();
            }
        }
        Ok(())
    }
}

/// Appends the integers of one member at positions `from..to`: see `Block`.
pub fn decode(bytes: &[u8], member: usize, from: usize, to: usize, out: &mut Vec<u64>) -> Result<()> {
    Block::parse(bytes)?.decode(member, from, to, out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn encoded(columns: &[Vec<i64>]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&columns.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut out);
        out
    }

    fn decoded(bytes: &[u8], member: usize, from: usize, to: usize) -> Result<Vec<u64>> {
        let mut out = vec![42];
        decode(bytes, member, from, to, &mut out)?;
        Ok(out.split_off(1))
    }

    fn columns() -> impl Strategy<Value = Vec<Vec<i64>>> {
        let column = |n: usize| {
            prop_oneof![
                vec(any::<i64>(), n),
                vec(-2i64..20, n),
                vec(0i64..5, n).prop_map(|steps| steps
                    .iter()
                    .scan(0, |sum, s| {
                        *sum += s;
                        Some(*sum)
                    })
                    .collect()),
                any::<i64>().prop_map(move |v| vec![v; n]),
            ]
        };
        let independent = (1usize..600).prop_flat_map(move |n| vec(column(n), 1..6));
        let cumulative = independent.clone().prop_map(|columns| summed(&columns));
        prop_oneof![independent, cumulative]
    }

    /// Each column on top of the one before.
    fn summed(columns: &[Vec<i64>]) -> Vec<Vec<i64>> {
        let mut sum = vec![0i64; columns[0].len()];
        let add = |column: &Vec<i64>| {
            sum.iter_mut().zip(column).for_each(|(s, v)| *s = s.wrapping_add(*v));
            sum.clone()
        };
        columns.iter().map(add).collect()
    }

    /// Columns of a histogram with some arrivals a step, the same in every run.
    fn histogram(members: u64, count: u64) -> Vec<Vec<i64>> {
        let noise = |i: u64| {
            let z = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40
        };
        let bucket = |m: u64| {
            let mut sum = 0;
            let step = |i| {
                sum += (noise(m * count + i) % (m + 2)) as i64;
                sum
            };
            (0..count).map(step).collect()
        };
        summed(&(0..members).map(bucket).collect::<Vec<_>>())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(120))]

        #[test]
        fn members_come_back_and_windows_are_slices_of_them(
            columns in columns(),
            window in (any::<usize>(), any::<usize>()),
        ) {
            let bytes = encoded(&columns);
            let n = columns[0].len();
            let (from, to) = (window.0 % (n + 1), window.1 % (n + 2));
            for (i, column) in columns.iter().enumerate() {
                let words: Vec<u64> = column.iter().map(|&v| v as u64).collect();
                prop_assert_eq!(&decoded(&bytes, i, 0, n).unwrap(), &words);
                let to = to.min(n);
                prop_assert_eq!(&decoded(&bytes, i, from, to).unwrap(), &words[from.min(to)..to]);
            }
            prop_assert!(decoded(&bytes, columns.len(), 0, n).is_err());
        }

        #[test]
        fn bytes_of_no_block_are_refused_or_give_as_many_integers(bytes in vec(any::<u8>(), 0..200)) {
            if let Ok(block) = Block::parse(&bytes) {
                let mut out = Vec::new();
                if block.decode(block.members() - 1, 0, block.count(), &mut out).is_ok() {
                    prop_assert_eq!(out.len(), block.count());
                }
            }
        }
    }

    #[test]
    fn a_block_that_was_cut_or_has_a_flipped_bit_is_refused_or_gives_as_many_integers() {
        let columns = histogram(4, 70);
        let bytes = encoded(&columns);
        for n in 0..bytes.len() {
            assert!(decoded(&bytes[..n], 0, 0, 70).is_err());
        }
        for bit in 0..8 * bytes.len() {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(block) = Block::parse(&bytes) {
                for member in 0..4 {
                    let mut out = Vec::new();
                    if block.decode(member, 0, block.count(), &mut out).is_ok() {
                        assert_eq!(out.len(), block.count());
                    }
                }
            }
        }
    }

    #[test]
    fn buckets_written_together_are_smaller_than_each_alone() {
        let columns = histogram(12, 512);
        let alone: usize = columns.iter().map(|c| member(c).len()).sum();
        assert!(encoded(&columns).len() * 10 < alone * 9);
    }

    #[test]
    fn columns_of_different_lengths_or_none_are_not_written() {
        assert!(encoded(&[vec![1, 2], vec![1]]).is_empty());
        assert!(encoded(&[]).is_empty());
        assert!(encoded(&vec![vec![1]; MEMBERS_MAX + 1]).is_empty());
        let all = encoded(&vec![vec![7; 3]; MEMBERS_MAX]);
        assert_eq!(decoded(&all, MEMBERS_MAX - 1, 0, 3).unwrap(), [7; 3]);
    }
}
