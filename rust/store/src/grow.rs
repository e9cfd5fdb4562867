//! An append-only list whose items never move: reading takes no lock, writing locks nobody out.

use std::sync::OnceLock;

use crate::heap;

/// Items by index; level `k` holds `2^k` of them, allocated when the first is set.
pub(crate) struct Grow<T> {
    levels: [OnceLock<Box<[OnceLock<T>]>>; 32],
}

impl<T> Default for Grow<T> {
    fn default() -> Grow<T> {
        Grow { levels: [const { OnceLock::new() }; 32] }
    }
}

impl<T> Grow<T> {
    /// Level and place in it; `u32::MAX` itself has none and lands outside every level.
    fn place(index: u32) -> (usize, usize) {
        let n = u64::from(index) + 1;
        let level = n.ilog2();
        (level as usize, (n - (1 << level)) as usize)
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let (level, at) = Grow::<T>::place(index);
        self.levels.get(level)?.get()?.get(at)?.get()
    }

    /// The item at `index`, made by `make` if it is not there yet; `None` past the last index.
    pub(crate) fn get_or_make(&self, index: u32, make: impl FnOnce() -> T) -> Option<&T> {
        let (level, at) = Grow::<T>::place(index);
        let items =
            self.levels.get(level)?.get_or_init(|| (0..1usize << level).map(|_| OnceLock::new()).collect());
        Some(items.get(at)?.get_or_init(make))
    }

    /// Bytes of the levels outside of this struct; what the items own is the caller's to count.
    pub(crate) fn bytes(&self) -> usize {
        self.levels.iter().filter_map(OnceLock::get).map(|level| heap::slice(level)).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn items_are_found_where_they_were_put() {
        let grow = Grow::default();
        for i in [0u32, 1, 2, 3, 6, 7, 1000] {
            assert_eq!(*grow.get_or_make(i, || i * 2).unwrap(), i * 2);
        }
        assert_eq!(*grow.get_or_make(7, || 0).unwrap(), 14);
        assert_eq!(grow.get(4), None);
        assert_eq!(grow.get(100_000), None);
        assert_eq!(grow.get(u32::MAX), None);
    }
}
