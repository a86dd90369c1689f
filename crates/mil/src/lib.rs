//! MIL, the language in which everything that a device computes is written.
//!
//! What lives here: tensor types with static shapes ([`TensorType`]), programs in SSA form
//! ([`Program`]), the [`Builder`] that infers and checks every type while it builds, the list of
//! ops ([`Op`], [`ops::KINDS`]), composites with their decomposition and gradient
//! ([`composites`]), reverse-mode differentiation ([`differentiate`]), cutting a program into
//! segments ([`partition`]), Apple's text form in both directions ([`text`]), the weight blob file
//! ([`blob`]), Core ML packages ([`mlpackage`]), the linter ([`lint`]) and the cost model ([`estimate`]).
//!
//! What it refuses: symbolic shapes, control flow, and arithmetic of any kind. What an op *means*
//! is defined by the `sim` crate, which executes it; this crate only knows its form.
//!
//! One alphabet of dimensions is used in every room:
//!
//! | letter | meaning |
//! | --- | --- |
//! | `B` | sequences in a batch |
//! | `S` | tokens in a sequence (`T` where a loader speaks) |
//! | `N` | tokens in a batch, `B * S`, side by side on the last axis |
//! | `C` | channels: the width of the residual stream |
//! | `H`, `KV` | query heads, key/value heads |
//! | `D` | channels of one head |
//! | `F` | hidden channels of the feed-forward part |
//! | `V` | vocabulary |
//!
//! Activations are `[1, C, 1, N]`, channels first, as the engine wants them; a weight of a linear
//! layer is `[1, 1, out, in]`.
//!
//! ```
//! use mil::{Builder, Element};
//!
//! let mut b = Builder::new(Element::F32);
//! let x = b.input("x", &[1, 64, 1, 32])?;
//! let w = b.input("w", &[1, 1, 16, 64])?;
//! let x = b.reshape(x, &[1, 1, 64, 32])?;
//! let y = b.matmul(w, x, false, false)?;
//! b.output("y", y)?;
//! let program = b.finish()?;
//! assert_eq!(program.output("y").unwrap().shape, [1, 1, 16, 32]);
//! # Ok::<(), mil::Error>(())
//! ```

mod attr;
pub mod blob;
mod builder;
pub mod composites;
mod differentiate;
mod error;
pub mod estimate;
mod explicit;
pub mod lint;
pub mod mlpackage;
pub mod ops;
mod partition;
mod program;
pub mod text;
mod types;

pub use attr::AttrValue;
pub use builder::{Builder, REDUCE_SUM_MAX};
pub use differentiate::{differentiate, differentiate_through, gradient_name};
pub use error::Error;
pub use ops::Op;
pub use partition::{Segment, partition};
pub use program::{Port, PortKind, Program, Replace, Scope, Stmt, ValueId, ValueInfo};
pub use types::{ConstData, Constant, DType, Element, TensorType};

/// The result of building, checking or reading a program.
pub type Result<T> = std::result::Result<T, Error>;
