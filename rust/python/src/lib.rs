//! The binding: converts arguments, releases the GIL, calls once, maps errors, hands out arrays and frames.
#![deny(unsafe_code)]

mod alerts;
mod beside;
mod body;
mod call;
mod database;
mod directory;
mod durability;
mod error;
mod expressions;
mod histogram;
mod input;
mod limits;
mod memory;
mod output;
mod plan;
mod precision;
mod queries;
mod query;
mod records;
mod rehearsals;
mod retention;
mod rolled;
mod rollups;
mod scrape;
mod statements;
mod subscribe;
mod wide;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    call::size_kernel_stacks();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<database::NativeDatabase>()?;
    module.add_class::<scrape::ScrapeState>()?;
    module.add_class::<alerts::AlertRule>()?;
    module.add_class::<records::RecordRule>()?;
    module.add_class::<beside::Read>()?;
    module.add_class::<beside::Sampling>()?;
    module.add_class::<body::Body>()?;
    module.add_class::<body::StopSwitch>()?;
    module.add_class::<subscribe::StreamState>()?;
    Ok(())
}
