//! The reference interpreter: what it computes is what a MIL program means.
//!
//! One file for each family of ops, named as in `mil::ops`, holds the arithmetic; [`Interpreter`]
//! walks a program and calls it. Programs of [`Element::F16`](mil::Element::F16) are computed as
//! the Neural Engine does, as far as that is known: every result is rounded to f16, matrix products
//! accumulate wide, and a [`Profile`] switches the known quirks of a chip. Programs of
//! [`Element::F32`](mil::Element::F32) are computed in f32 without quirks, which makes this crate
//! the reference for `cpu` too. [`SimDevice`] is an ordinary device.
//!
//! Inside an op f32 is used, and f64 where a reduction accumulates; `exp`, `tanh` and their like
//! come from the standard library and `libm`, so their last bits may differ between operating
//! systems. On one machine a program gives the same bits with any number of threads.
//!
//! What it refuses: look-up tables of the engine's activations (their contents are not published),
//! timing, and guessing at quirks that only one source reports without numbers.
//!
//! ```
//! use mil::{Builder, Element};
//! use sim::Profile;
//!
//! let mut b = Builder::new(Element::F16);
//! let x = b.input("x", &[1, 4096])?;
//! let sum = b.push1(mil::Op::ReduceSum { axes: vec![1], keep_dims: false }, &[x])?;
//! b.output("sum", sum)?;
//! let program = b.finish()?;
//! // An f16 sum of ones sticks at 2,048, because 2,049 is no f16.
//! let outputs = sim::run(&program, &Profile::m4(), &[("x", &[1.0; 4096])])?;
//! assert_eq!(outputs["sum"], [2048.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod conv;
mod elementwise;
mod interpreter;
mod matmul;
mod movement;
mod profile;
mod reduce;
mod sim_device;
mod softmax;
mod tensor;
mod walk;

pub use interpreter::{Error, Interpreter, run};
pub use profile::{PRODUCT_LIMIT, Profile, SMALLEST_NORMAL, WIDTH_OFFSET_LIMIT};
pub use sim_device::SimDevice;
