//! What can go wrong between a caller and a device.

/// An error of a device; it names the device, and the program, port or rule.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A program was refused.
    #[error("{device}: compiling `{program}`: {problem}")]
    Compile {
        /// The device's name.
        device: String,
        /// The program's name.
        program: String,
        /// What was refused and, where known, by which rule.
        problem: String,
    },
    /// Memory could not be had.
    #[error("{device}: no room for a buffer of shape {shape:?} ({bytes} bytes): {problem}")]
    Alloc {
        /// The device's name.
        device: String,
        /// What was asked for.
        shape: Vec<usize>,
        /// Its size.
        bytes: usize,
        /// What the system said.
        problem: String,
    },
    /// Buffers do not fit the ports of a program.
    #[error("{device}: binding `{program}`, port `{port}`: {problem}")]
    Bind {
        /// The device's name.
        device: String,
        /// The program's name.
        program: String,
        /// The port that does not fit.
        port: String,
        /// The two shapes, or the missing or double binding.
        problem: String,
    },
    /// Data of the wrong length was written to or read from a buffer.
    #[error("{device}: buffer of shape {shape:?} holds {expected} elements, was given {actual}")]
    Length {
        /// The device's name.
        device: String,
        /// The buffer's shape.
        shape: Vec<usize>,
        /// Elements that it holds.
        expected: usize,
        /// Elements in the caller's slice.
        actual: usize,
    },
    /// What a buffer holds could not be read.
    #[error("{device}: reading a buffer of shape {shape:?}: {problem}")]
    Read {
        /// The device's name.
        device: String,
        /// The buffer's shape.
        shape: Vec<usize>,
        /// What the device answered.
        problem: String,
    },
    /// A run failed; what its output buffers hold is not to be used.
    #[error("{device}: running `{program}`: {problem}")]
    Run {
        /// The device's name.
        device: String,
        /// The program's name.
        program: String,
        /// What the device answered.
        problem: String,
    },
    /// The device is not here, or not in working order.
    #[error("{device} cannot be used: {problem}")]
    Unavailable {
        /// The device's name.
        device: String,
        /// What is missing and what would help.
        problem: String,
    },
}
