//! The contract between what computes and what is computed.
//!
//! A [`Device`] compiles a [`mil::Program`] once into an [`Executable`] and hands out
//! [`Buffer`]s; [`Executable::bind`] joins the two into an [`Invocation`] that can be run again
//! and again. Whoever trains sees nothing else of a device, and every device sees nothing else of
//! training. Checks that hold for all devices (every port bound once, shapes, which buffers may
//! be shared) are made here, in one place; a device implements [`Device`], [`RawBuffer`],
//! [`RawExecutable`] and [`RawInvocation`] and can rely on them.
//!
//! What this crate refuses: arithmetic, and knowledge of any particular device. The one thing
//! that several devices share, ordinary memory, is [`HostBuffer`] and [`memory`].

mod buffer;
mod error;
mod executable;
pub mod memory;
mod telemetry;

pub use buffer::{Buffer, Elements, HostBuffer, RawBuffer};
pub use error::Error;
pub use executable::{Binding, Bound, Executable, Invocation, Mode, RawExecutable, RawInvocation, Ticket};
pub use telemetry::{Counters, Telemetry};

use mil::{Element, Program};

/// The result of asking something of a device.
pub type Result<T> = std::result::Result<T, Error>;

/// What a device can hold and do; callers choose cuts, tiles and accumulation by it.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// The longest axis that a tensor may have.
    pub max_axis: usize,
    /// How many programs may be loaded at once; `None` when nothing bounds it.
    pub max_programs: Option<usize>,
    /// Whether an output port can add to what its buffer holds ([`Mode::Accumulate`]), provided that
    /// the program does not also read the value. Without it
    /// a caller stores and uses [`Buffer::add_to_f32`].
    pub accumulate: bool,
    /// Whether an input and an output declared as a pair may share a buffer.
    pub inout: bool,
    /// Whether it may compute with int8 as such. Elsewhere `quantize` only rounds, and the products that follow are
    /// of floats.
    pub int8: bool,
}

/// Something that runs programs.
pub trait Device: Send + Sync {
    /// As the command line calls it: `cpu`, `sim`, `ane`, …
    fn name(&self) -> &str;

    /// What exactly it is, for people: chip, profile, threads, library.
    fn describe(&self) -> String;

    /// The float type that programs for it are built for.
    fn element(&self) -> Element;

    /// What it can hold and do.
    fn limits(&self) -> &Limits;

    /// Makes a program ready to run; done once per program.
    ///
    /// # Errors
    /// [`Error::Compile`] naming device, program and what was refused.
    fn compile(&self, name: &str, program: &Program) -> Result<Executable>;

    /// Storage for a tensor of `shape` in the device's element type, zeroed.
    ///
    /// # Errors
    /// [`Error::Alloc`] with the size that could not be had.
    fn alloc(&self, shape: &[usize]) -> Result<Buffer>;

    /// What it has done so far.
    fn telemetry(&self) -> Telemetry;
}
