//! The route through `_ANEInMemoryModel`: what its programs and surfaces look like, and the device.
//!
//! A program of this route has one input surface and one output surface, because with several of either the
//! projects in the field disagree about what happens: refused (maderix/ANE), in alphabetical order and of one
//! size (Orion), ascending by size (ane-train). [`Packing`] brings any program into that form.
//!
//! It slices the last axis, which M1 and M2 do exactly only for magnitudes up to 4,094: larger ones become
//! infinite (ANEForge, rule ANE-054). This route is for M3 and later.

#[cfg(any(target_vendor = "apple", feature = "gnustep"))]
mod driver;
mod layout;
mod lower;
mod pack;
mod staging;

#[cfg(any(target_vendor = "apple", feature = "gnustep"))]
pub use driver::{IN_MEMORY, InMemDevice, NEURAL_ENGINE, check_framework};
#[cfg(any(target_vendor = "apple", feature = "gnustep"))]
pub(crate) use driver::{Request, answer};
pub use layout::{MIN_BYTES, MIN_COLUMNS, Place, STEP, Surface, SurfaceLimits};
pub use pack::{PackError, PackedPort, Packing};
pub use staging::Staged;
