//! How the chunks of some series are stored, one by one.

use metricsdb_model::{Budget, Labels, Predicate, Result};

use super::walk::{open_bytes, shared_bytes, tier_of};
use crate::chunk::Chunk;
use crate::database::Database;
use crate::shard::{Shard, place_of};

/// One chunk of one series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRow {
    pub labels: Labels,
    pub tier: &'static str,
    pub first: i64,
    pub last: i64,
    pub samples: usize,
    /// Heap bytes: slack in the slab, allocator and the chunk's share of common times included.
    pub bytes: usize,
    /// `regular`, `column` or `open`.
    pub time_codec: &'static str,
    /// The codecs of its blocks, each once, in order.
    pub value_codec: String,
    pub detail: String,
}

impl Database {
    /// The chunks of the series that satisfy the predicate, `limit` rows at most, series by series in no
    /// particular order, chunks in time order. Errors: the budget's, `Corruption`.
    pub fn explain_storage(
        &self,
        predicate: &Predicate,
        limit: usize,
        budget: &Budget,
    ) -> Result<Vec<ChunkRow>> {
        let _inside = self.inside();
        let ids = self.index.select(predicate, self, budget)?;
        let (mut rows, mut text) = (Vec::new(), Vec::new());
        for id in &ids {
            if rows.len() >= limit {
                break;
            }
            budget.check()?;
            let (number, row) = place_of(id);
            let shard = self.shard(number);
            let labels = self.labels_of(&shard, row, &mut text);
            for chunk in shard.series.sealed[row].iter().take(limit - rows.len()) {
                rows.push(sealed_row(labels.clone(), chunk)?);
            }
            if rows.len() < limit {
                rows.extend(open_row(labels, &shard, row));
            }
        }
        Ok(rows)
    }
}

fn sealed_row(labels: Labels, chunk: &Chunk) -> Result<ChunkRow> {
    let (times, together) = shared_bytes(chunk);
    let mut codecs: Vec<&str> = Vec::new();
    let (mut blocks, mut value_bytes, mut first) = (0, 0, String::new());
    if together > 0 {
        codecs.push("together");
    } else {
        for block in chunk.blocks()? {
            let block = block?;
            blocks += 1;
            value_bytes += block.bytes.len();
            let section = block.section()?;
            let name = section.name();
            if blocks == 1 {
                first = section.detail();
            }
            if !codecs.contains(&name) {
                codecs.push(name);
            }
        }
    }
    let beside = if times > 0 { format!(", {times} of shared times") } else { String::new() };
    let plural = if blocks == 1 { "block" } else { "blocks" };
    let detail = match together {
        0 => format!("{value_bytes} bytes of values in {blocks} {plural} ({first}){beside}"),
        _ => format!("{together} bytes of values coded together{beside}"),
    };
    Ok(ChunkRow {
        labels,
        tier: tier_of(chunk),
        first: chunk.first(),
        last: chunk.last(),
        samples: chunk.count(),
        bytes: chunk.bytes() + times + together,
        time_codec: if chunk.is_regular() { "regular" } else { "column" },
        value_codec: codecs.join(", "),
        detail,
    })
}

fn open_row(labels: Labels, shard: &Shard, row: u32) -> Option<ChunkRow> {
    let head = &shard.series.heads[row];
    let span = shard.open_span(head)?;
    let (used, slack) = open_bytes(head);
    Some(ChunkRow {
        labels,
        tier: "open",
        first: span.start,
        last: span.end,
        samples: head.state.count(),
        bytes: used + slack,
        time_codec: "open",
        value_codec: head.state.codec().to_owned(),
        detail: format!("{used} bytes written, {slack} slack"),
    })
}
