//! Samples and index: what is written, kept and found again, in memory.
//!
//! `codec` and `chunk` turn columns into bytes; a `shard` owns series (`series`), their open chunks
//! (`head`, `slab`), rounds samples (`precision`) and merges late ones (`late`), `histograms` and `starts` beside them;
//! `limits` says which new series may come in; `symbols`, `labelsets` and `index` know the labels; `raw` finds known series without parsing. `Database`
//! joins them and is a `Source` for queries.
#![deny(unsafe_code)]

mod arena;
mod bound;
mod check;
pub mod chunk;
pub mod codec;
mod count;
mod cut;
pub mod database;
mod densify;
mod epoch;
mod expire;
mod export;
mod group;
mod grow;
mod head;
mod heap;
pub mod histograms;
pub mod index;
pub mod journal;
pub mod labelsets;
mod late;
pub mod limits;
mod lookup;
pub mod memory;
mod metadata;
mod newest;
mod precision;
mod raw;
mod resolve;
pub mod rollup;
mod sealed;
mod series;
mod shard;
mod slab;
mod starts;
pub mod symbols;
mod together;
pub mod view;
mod written;

pub use cut::AgeRule;
pub use database::{Database, Options};
pub use densify::Densified;
pub use expire::Expired;
pub use export::{Exported, ExportedColumns, Imported, decode_histogram, encode_histogram};
pub use histograms::HistogramRows;
pub use index::Cardinality;
pub use late::DuplicatePolicy;

pub use limits::{Action, Bound, Limit, LimitStatus};
pub use memory::{
    By, ChunkRow, Evicted, Governed, GovernedSeries, ImportanceRule, LabelEffect, MetricFacts, Part, Row,
    Stats, Weight,
};
pub use precision::{PreviewRow, Rewritten, RuleText};
pub use shard::SHARDS;
pub use view::{Rows, Run, View};
