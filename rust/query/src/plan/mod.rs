//! A query looked at before it is run, and while it runs: what it will cost, what it did, what could be better.
//!
//! `nodes` lists the tree as people see it, `cost` bounds each node, `explain` puts bounds beside what an
//! evaluation counted, `reads` says what it reads from where, `suggest` finds what is wasteful or wrong.

mod admit;
mod cost;
mod explain;
mod nodes;
mod reads;
mod suggest;

pub use admit::{admit, name_costly};
pub use cost::{Estimate, NodeCost, estimate};
pub use explain::{Actual, Explained, PlanRow, explain};
pub use nodes::{Node, nodes};
pub(crate) use nodes::{bare, only_selector};
pub use reads::{Read, reads};
pub use suggest::{Meaning, Rule, Suggestion, Surroundings, suggest};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
