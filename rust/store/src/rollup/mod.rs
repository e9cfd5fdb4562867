//! What stays of samples when there are too many of them.

pub mod kept;
