//! What a training step would cost on an engine, before there is one: dispatches, bytes across the boundary,
//! memory, time.
//!
//! [`Plan::programs`] are the very programs that a [`crate::Stack`] compiles, [`mil::estimate`] counts them
//! and knows the chips' rates, [`Host`] the host's. [`StepEstimate`] adds them up, [`choices`] compares cuts,
//! taps and batches, [`boundaries`] compares what crosses between host and device, and [`published`] says how
//! far such predictions are off for systems that others have timed.
//!
//! ```
//! use mil::lint::{Chip, Route};
//! use model::estimate::{Plan, StepEstimate};
//! use model::{Cut, Taps, presets};
//!
//! let config = presets::by_name("tiny")?;
//! let plan = Plan { batch: 4, batches: 1, cut: Cut::Whole, taps: Taps::Keep };
//! let step = StepEstimate::new(&config, &plan, Chip::M4, Route::Ane)?;
//! // Two programs for each of four layers, and one behind the last.
//! assert_eq!(step.traffic.dispatches, 9);
//! # Ok::<(), model::Error>(())
//! ```

mod boundary;
mod choices;
mod host;
mod plan;
pub mod published;
mod step;

pub use boundary::{Boundary, boundaries};
pub use choices::{BATCHES, Choice, choices};
pub use host::Host;
pub use plan::{Plan, Planned, Traffic};
pub use step::{ProgramEstimate, StepEstimate};
