//! What a program costs, and how long an engine would take: operations, bytes, and the rates that
//! others measured.
//!
//! [`Program::cost`] counts a program in primitive ops: what its products and its other ops have to do,
//! what crosses its ports, what is streamed as weights, and what does not fit the engine's own memory
//! between two ops. [`Rates`] hold what is known of a chip, each number with its source, and
//! [`Rates::predict`] joins the two:
//!
//! ```text
//! time = dispatch floor + max(compute, memory)
//! ```
//!
//! That is the form in which ANEForge states its own cost model. It is a model of a machine that nobody
//! outside Apple has documented: how far it is off is printed by `anneal mil estimate --published`.
//!
//! ```
//! use mil::estimate::Rates;
//! use mil::lint::{Chip, Route};
//! use mil::{Builder, Element};
//!
//! let mut b = Builder::new(Element::F16);
//! let x = b.input("x", &[1, 1, 768, 512])?;
//! let w = b.input("w", &[1, 1, 768, 768])?;
//! let y = b.matmul(w, x, false, false)?;
//! b.output("y", y)?;
//! let cost = b.finish()?.cost(|port| port == "w")?;
//! assert_eq!(cost.product_flops, 2.0 * 768.0 * 768.0 * 512.0);
//! let time = Rates::of(Chip::M4, Route::Ane).predict(&cost);
//! assert!(time.ms() > time.floor_ms);
//! # Ok::<(), mil::Error>(())
//! ```

mod cost;
mod rates;
mod sram;

pub use cost::{Cost, OpCost};
pub use rates::{Basis, Bound, Prediction, Rate, Rates};
