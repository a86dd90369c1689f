//! The device `ane-inmem`: `_ANEInMemoryModel` and its companions, through messages of Objective-C.

mod between;
mod buffer;
mod device;
mod folder;
mod framework;
mod model;
#[cfg(all(test, not(target_vendor = "apple")))]
mod planted;
mod program;
mod surface;
mod ways;

pub use device::{IN_MEMORY, InMemDevice};
pub use framework::{NEURAL_ENGINE, check_framework};

pub(crate) use ways::{Request, answer};
