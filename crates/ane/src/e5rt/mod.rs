//! The route through Espresso's `e5rt` C interface: devices `ane`, `gpu` and `bnns`.

mod buffer;
mod bundles;
mod e5rt_device;
mod espresso;
#[cfg(test)]
mod planted;
mod program;
mod symbols;
mod trying;
mod ways;

pub use e5rt_device::E5rtDevice;
pub use espresso::{Backend, CallError, OpenOrder};
pub use symbols::{ESPRESSO, LoadError, check_library};
pub use ways::Ways;

pub(crate) use trying::{Request, answer};
