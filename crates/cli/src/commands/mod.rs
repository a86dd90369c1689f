//! One file for each command: from what was typed to what is printed.

pub(crate) mod bench;
pub(crate) mod bench_engine;
mod bench_generate;
mod bench_layer;
pub(crate) mod data;
pub(crate) mod devices;
pub(crate) mod estimate;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod mil;
pub(crate) mod mil_export;
pub(crate) mod probe;
pub(crate) mod report;
pub(crate) mod self_test;
pub(crate) mod train;
