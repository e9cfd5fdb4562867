//! Freeing what a query held: its items' memory lies all over, and who stopped the query should not wait for it.

/// More items are freed by the pool.
const FREED_BY_POOL: usize = 1 << 13;
/// Freed at once.
const FREED_AT_ONCE: usize = 1 << 12;

/// Items that are freed by the pool where they are many, however the query ends.
pub struct Freed<T: Send + 'static>(pub Vec<T>);

impl<T: Send + 'static> Drop for Freed<T> {
    fn drop(&mut self) {
        by_pool(std::mem::take(&mut self.0));
    }
}

/// Piece by piece: a thread that waits for a part of its query looks up in between, and others' queries begin.
fn by_pool<T: Send + 'static>(mut items: Vec<T>) {
    if items.len() > FREED_BY_POOL {
        rayon::spawn(move || {
            items.truncate(items.len() - FREED_AT_ONCE);
            rayon::yield_now();
            by_pool(items);
        });
    }
}
