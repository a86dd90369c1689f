//! The host's cores: a device that plans a program and runs it on fused kernels.
//!
//! What lives here: [`CpuDevice`], the planner that turns a program into a list of steps over
//! planned memory, and the kernels, one file each, on plain slices. Everything is f32, but for the operands of matrix
//! products where [`Precision::Bf16`] is asked for. A result does not depend on the number of threads, to the last bit.
//!
//! What it refuses: programs built for f16 (that is `sim`), and knowledge of models or training.
//!
//! ```
//! use cpu::CpuDevice;
//! use device::{Binding, Device};
//! use mil::{Builder, Element};
//!
//! let mut b = Builder::new(Element::F32);
//! let (x, w) = (b.input("x", &[1, 1, 2, 3])?, b.input("w", &[1, 1, 4, 2])?);
//! let y = b.matmul(w, x, false, false)?;
//! b.output("y", y)?;
//!
//! let device = CpuDevice::new(2);
//! let product = device.compile("product", &b.finish()?)?;
//! let (x, w, y) = (device.alloc(&[1, 1, 2, 3])?, device.alloc(&[1, 1, 4, 2])?, device.alloc(&[1, 1, 4, 3])?);
//! x.write_f32(&[1.0; 6])?;
//! w.write_f32(&[0.5; 8])?;
//! product.bind(&[Binding::new("x", &x), Binding::new("w", &w), Binding::new("y", &y)])?.run()?;
//! assert_eq!(y.to_vec(), [1.0; 12]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod attention;
pub mod bf16;
#[cfg(any(target_os = "macos", feature = "openblas"))]
mod cblas;
mod conv;
mod cpu_device;
pub mod cross_entropy;
pub mod elementwise;
mod gemm;
pub mod math;
pub mod matmul;
pub mod matvec;
mod plan;
pub mod pool;
pub mod probe;
pub mod reduce;
#[cfg(test)]
mod reference;
pub mod rms_norm;
pub mod rope;
pub mod simd;
pub mod softmax;

pub use cpu_device::{CpuDevice, StepProfile, Walls};
pub use pool::Pool;

/// What the operands of matrix products are rounded to. Sums are in f32 in any case, and so is everything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Not at all.
    #[default]
    F32,
    /// To bf16, 8 bits of precision and the exponents of f32, to nearest with ties to even: twice as fast where it is an
    /// instruction ([`simd::has_bf16`]).
    Bf16,
}

impl Precision {
    /// What a [`CpuDevice`] of this precision is called.
    pub fn device_name(self) -> &'static str {
        match self {
            Precision::F32 => "cpu",
            Precision::Bf16 => "cpu:bf16",
        }
    }
}

/// Whether a kernel replaces what its output holds or adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// `out = result`.
    Store,
    /// `out += result`.
    Accumulate,
}
