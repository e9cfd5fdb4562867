//! Chunks of several series whose values are coded together, as the cumulative buckets of a histogram.

use std::sync::Arc;

use metricsdb_model::ValueKind;

use super::shared::{Shared, SharedColumns};
use super::{Builder, Chunk, DENSE_BLOCK_SAMPLES};
use crate::codec::{dense, together};

/// Samples of each series that are coded together at most.
pub const TOGETHER_SAMPLES_MAX: usize = 4 * DENSE_BLOCK_SAMPLES;
/// Series that are coded together at most.
pub const TOGETHER_MAX: usize = together::MEMBERS_MAX;

/// One chunk for each column of bits, all at the same times, neighbours alike; `None` where a value is no integer,
/// or there are too many columns or samples.
pub fn chunks_together(
    kind: ValueKind,
    times: &[i64],
    columns: &[&[u64]],
    shared: &SharedColumns,
) -> Option<Vec<Chunk>> {
    let integers: Option<Vec<Vec<i64>>> = columns.iter().map(|bits| dense::whole(kind, bits)).collect();
    whole_together(kind, times, columns, &integers?, shared)
}

/// As `chunks_together`, with the integers that the columns of bits are.
pub(crate) fn whole_together(
    kind: ValueKind,
    times: &[i64],
    columns: &[&[u64]],
    integers: &[Vec<i64>],
    shared: &SharedColumns,
) -> Option<Vec<Chunk>> {
    let fits = !times.is_empty() && times.len() <= TOGETHER_SAMPLES_MAX && columns.len() <= TOGETHER_MAX;
    if !fits || columns.iter().any(|c| c.len() != times.len()) {
        return None;
    }
    let mut coded = Vec::new();
    together::encode(&integers.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut coded);
    let sections = columns.iter().zip(integers).zip(0u8..).map(|((bits, column), member)| {
        let mut section = Vec::new();
        dense::member(kind, bits, column, member, &mut section);
        section
    });
    let mut builders: Vec<Builder> =
        sections.map(|section| Builder::of_section(kind, times, &section)).collect();
    let times = builders.first_mut().and_then(|builder| builder.shared_times(shared));
    let shared: Arc<Shared> = shared.intern(Shared::Together(coded.into(), times));
    Some(builders.into_iter().map(|builder| builder.finish_with(Some(shared.clone()))).collect())
}
