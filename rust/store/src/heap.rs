//! What the allocator takes for what we ask: every figure of the memory account goes through here.

use hashbrown::HashTable;

/// Bytes that the allocator takes for so many: its own word, and steps of 16.
pub fn allocated(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16).max(32) }
}

/// Bytes of a vector's buffer, spare capacity included.
pub fn vector<T>(v: &Vec<T>) -> usize {
    allocated(v.capacity() * size_of::<T>())
}

/// Bytes of a boxed slice.
pub fn slice<T>(v: &[T]) -> usize {
    allocated(size_of_val(v))
}

/// Bytes behind an `Arc`: two counters and the thing.
pub fn shared<T>() -> usize {
    allocated(16 + size_of::<T>())
}

/// Bytes of a hash table, free places included.
pub fn table<T>(table: &HashTable<T>) -> usize {
    allocated(table.allocation_size())
}

/// Bytes of one of the standard library's hash maps with this capacity: a power of two of places, one byte
/// of control each.
pub fn map<K, V>(capacity: usize) -> usize {
    if capacity == 0 {
        return 0;
    }
    let places = (capacity * 8 / 7).next_power_of_two().max(4);
    allocated(places * (size_of::<(K, V)>() + 1) + 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_counted_with_its_free_places() {
        let mut map_of = std::collections::HashMap::new();
        let mut same: HashTable<(u32, u64)> = HashTable::new();
        for i in 0..10_000u32 {
            map_of.insert(i, u64::from(i));
            same.insert_unique(u64::from(i), (i, 0), |&(k, _)| u64::from(k));
            assert_eq!(map::<u32, u64>(map_of.capacity()), table(&same), "{i}");
        }
    }

    #[test]
    fn small_things_cost_the_least_block() {
        assert_eq!([0, 1, 24, 25, 40, 41].map(allocated), [0, 32, 32, 48, 48, 64]);
        assert_eq!(vector(&Vec::<u64>::with_capacity(3)), 32);
    }
}
