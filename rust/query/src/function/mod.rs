//! The functions of the language: one table, and kernels over columns that know no storage.

pub mod table;
