//! Alerts: statement to conditions (`compile`), conditions to readings (`readings`) and bits (`signals`), bits to transitions
//! (`machine`, over many evaluations `run`, many runs side by side `lanes`).
//!
//! All state is a function of statement, evaluation times and what the conditions came to: live, after a restart, in a
//! test and over last month the same code runs.

pub mod backtest;
pub mod compile;
mod flap;
pub mod identity;
mod lanes;
pub mod lint;
pub mod machine;
pub mod readings;
mod run;
mod saved;
mod signals;
mod slo;
mod tally;

pub use compile::{Plan, compile};
pub use lint::{Known, Lint, lint};
pub use machine::{Change, Machine, Muting, State};
pub use readings::Readings;
pub use run::{Event, Shown, Sink};
pub use saved::Active;
pub use slo::burns;
pub use tally::Tally;

#[cfg(test)]
mod tests;
