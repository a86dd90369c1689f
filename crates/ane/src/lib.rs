//! Apple's Neural Engine, driven through private interfaces of macOS.
//!
//! [`E5rtDevice`] is the route `ane`: Espresso's `e5rt` C interface, loaded when it is asked for, with an
//! owned type for each handle and an error for each code. The same driver with another device mask is `gpu`
//! and `bnns`. Buffers are memory that engine and host share, so a weight update is a conversion into place
//! and the output of one program is bound as the input of the next.
//!
//! What nobody has shown for sure (several operations of one program, binding anew, opening a bundle again)
//! is tried when the device is opened, in a child process, and remembered per chip and system.
//!
//! `InMemDevice` is the older route, `_ANEInMemoryModel`, by messages of Objective-C; [`Packing`] is the form that
//! programs take on it: one surface in, one surface out. It is there on a Mac, and elsewhere with the feature
//! `gnustep`, on GCC's Objective-C runtime.
//!
//! Nothing here is linked against Apple's frameworks: on a machine without them [`E5rtDevice::open`] says
//! what is missing. Any library with the same symbols can stand in, which is how this crate is tested.
//!
//! What it refuses: arithmetic, and knowledge of what the programs are for.

mod check;
mod child;
mod e5rt;
mod explain;
mod halves;
mod inmem;
mod known;
mod machine;
mod options;
mod trials;

pub use check::{findings, lint};
pub use child::{ChildCommand, Ended, NoAnswer, answer, run_limited};
pub use e5rt::{Backend, CallError, E5rtDevice, ESPRESSO, LoadError, OpenOrder, Ways, check_library};
#[cfg(any(target_vendor = "apple", feature = "gnustep"))]
pub use inmem::{IN_MEMORY, InMemDevice, NEURAL_ENGINE, check_framework};
pub use inmem::{
    MIN_BYTES, MIN_COLUMNS, PackError, PackedPort, Packing, Place, STEP, Staged, Surface, SurfaceLimits,
};
pub use machine::Machine;
pub use options::Options;
