//! The route through Espresso's `e5rt` C interface: devices `ane`, `gpu` and `bnns`.

mod buffer;
mod bundles;
mod child;
mod e5rt_device;
mod espresso;
mod explain;
mod known;
#[cfg(test)]
mod planted;
mod program;
mod symbols;
mod ways;

pub use child::{ChildCommand, Ended, NoAnswer, answer, run_limited};
pub use e5rt_device::{E5rtDevice, Options};
pub use espresso::{Backend, CallError, OpenOrder};
pub use symbols::{ESPRESSO, LoadError, check_library};
pub use ways::Ways;
