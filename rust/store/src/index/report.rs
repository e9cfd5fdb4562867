//! What makes the store large: figures for `/api/v1/status/tsdb` and for the memory account.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use metricsdb_model::labels::METRIC_NAME;
use roaring::RoaringBitmap;

use super::Index;
use super::label::{Entry, Label, State};
use super::postings::bitmap_bytes;
use crate::heap;

/// What one label takes in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelBytes {
    /// Symbol of the label's name.
    pub name: u32,
    pub bytes: usize,
    pub values: usize,
    /// Series that have the label.
    pub series: u64,
}

/// Bytes of a label's values, posting lists, bitmaps, order, and remembered tests.
fn label_parts(label: &Label, state: &State) -> [usize; 5] {
    [
        state.entry_bytes(),
        state.lists().list_bytes(),
        state.lists().bitmap_bytes() + bitmap_bytes(&state.has),
        state.order_bytes(),
        label.remembered_bytes(),
    ]
}

/// Figures for `/api/v1/status/tsdb`: each list is sorted by figure, largest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cardinality {
    pub series: u64,
    pub label_pairs: u64,
    /// Label name and its number of values.
    pub values_by_label: Vec<(String, u64)>,
    /// `name=value` and its number of series.
    pub series_by_pair: Vec<(String, u64)>,
    /// Metric name and its number of series.
    pub series_by_metric: Vec<(String, u64)>,
    /// Label name and the bytes of its values' text over all series, as Prometheus counts them.
    pub bytes_by_label: Vec<(String, u64)>,
}

/// The largest `limit` of what is pushed; among equals the first.
struct Top<K> {
    limit: usize,
    heap: BinaryHeap<Reverse<(u64, Reverse<K>)>>,
}

impl<K: Ord> Top<K> {
    fn new(limit: usize) -> Top<K> {
        Top { limit, heap: BinaryHeap::new() }
    }

    fn push(&mut self, count: u64, key: K) {
        let item = Reverse((count, Reverse(key)));
        if self.heap.len() < self.limit {
            self.heap.push(item);
        } else if let Some(mut least) = self.heap.peek_mut().filter(|least| item < **least) {
            *least = item;
        }
    }

    fn finish(self, text: impl Fn(K) -> String) -> Vec<(String, u64)> {
        self.heap.into_sorted_vec().into_iter().map(|Reverse((n, Reverse(k)))| (text(k), n)).collect()
    }
}

impl Index {
    /// What makes the store large; each list is cut to `limit` entries. Linear in the number of label
    /// values.
    pub fn cardinality(&self, limit: usize) -> Cardinality {
        let text = |symbol: u32| self.symbols.get(symbol).to_owned();
        let metric = self.symbols.lookup(METRIC_NAME);
        let (mut values, mut bytes) = (Top::new(limit), Top::new(limit));
        let (mut pairs, mut metrics) = (Top::new(limit), Top::new(limit));
        let mut label_pairs = 0;
        for (name, label) in self.labels_by_number() {
            let state = label.read();
            values.push(state.values() as u64, name);
            label_pairs += state.values() as u64;
            let mut size = 0;
            for Entry { value, posting } in state.entries.iter().filter(|e| e.posting.len > 0) {
                let series = u64::from(posting.len);
                size += series * self.symbols.get(*value).len() as u64;
                pairs.push(series, (name, *value));
                if Some(name) == metric {
                    metrics.push(series, *value);
                }
            }
            bytes.push(size, name);
        }
        Cardinality {
            series: self.all().len(),
            label_pairs,
            values_by_label: values.finish(text),
            series_by_pair: pairs.finish(|(name, value)| format!("{}={}", text(name), text(value))),
            series_by_metric: metrics.finish(text),
            bytes_by_label: bytes.finish(text),
        }
    }

    /// What each label takes here. Linear in the number of labels and of bitmap containers.
    pub fn bytes_by_label(&self) -> Vec<LabelBytes> {
        let sized = |(name, label): (u32, Arc<Label>)| {
            let state = label.read();
            let parts = label_parts(&label, &state);
            LabelBytes {
                name,
                bytes: parts.iter().sum::<usize>() + heap::shared::<Label>(),
                values: state.values(),
                series: state.has.len(),
            }
        };
        self.labels_by_number().into_iter().map(sized).collect()
    }

    /// The total of `bytes`, where bitmaps may be as they were a sixteenth of their series ago. Linear in the number
    /// of labels.
    pub fn quick_bytes(&self) -> usize {
        let labels = self.labels.read();
        let of_label = |label: &Arc<Label>| {
            let state = label.read();
            state.entry_bytes()
                + state.lists().list_bytes()
                + state.order_bytes()
                + label.quick_bitmap_bytes(&state)
                + label.remembered_bytes()
                + heap::shared::<Label>()
        };
        labels.values().map(of_label).sum::<usize>()
            + heap::map::<u32, Arc<Label>>(labels.capacity())
            + heap::vector(&self.unsorted.lock())
            + heap::shared::<RoaringBitmap>()
            + bitmap_bytes(&self.all())
    }

    /// Bytes by part, spare capacity included. Linear in the number of labels and of bitmap containers.
    pub fn bytes(&self) -> Vec<(&'static str, usize)> {
        let mut parts = ["values", "posting lists", "posting bitmaps", "sorted values", "remembered tests"]
            .map(|part| (part, 0));
        let labels = self.labels_by_number();
        let table = labels.len() * heap::shared::<Label>()
            + heap::map::<u32, Arc<Label>>(self.labels.read().capacity())
            + heap::vector(&self.unsorted.lock());
        for (_, label) in &labels {
            let sizes = label_parts(label, &label.read());
            parts.iter_mut().zip(sizes).for_each(|(part, size)| part.1 += size);
        }
        let mut out = parts.to_vec();
        out.push(("all series", heap::shared::<RoaringBitmap>() + bitmap_bytes(&self.all())));
        out.push(("table of labels", table));
        out
    }
}
