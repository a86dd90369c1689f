//! The transformer: configurations and presets, parameters, the layer programs and their cuts,
//! and the [`Stack`] that runs them on a device.
//!
//! Walk it from top to bottom: a [`ModelConfig`] says what the model is; [`Parameter`]s are what
//! it learns; [`layer`] writes the forward pass of one layer, once, as a MIL program, from which
//! the backward pass follows by differentiation; a [`Cut`] divides the two into segments that a
//! device can compile; a [`Stack`] binds every layer's buffers to the compiled segments and runs
//! them. Training, evaluation and generation all go through it.
//!
//! What it refuses: optimisers, data, files of a run. Weights enter and leave as named `f32`
//! tensors.
//!
//! ```
//! use model::{ModelConfig, presets};
//!
//! let config: ModelConfig = presets::by_name("tiny").unwrap();
//! assert_eq!(config.head_dim * config.n_heads, config.width);
//! println!("{:.1}M parameters", config.parameter_count() as f64 / 1e6);
//! ```

mod config;
mod cut;
pub mod decode;
mod defect;
mod error;
pub mod estimate;
mod head;
mod init;
pub mod layer;
pub mod orthogonal;
mod parameter;
pub mod presets;
mod programs;
mod stack;
mod storage;
mod tables;
pub mod weights;

pub use config::{FeedForward, GATE_CHANNELS, InitConfig, LayerKind, MAX_EXTENT, ModelConfig};
pub use cut::{Cut, Taps};
pub use decode::Decoder;
pub use defect::Defect;
pub use error::Error;
pub use init::initial_values;
pub use parameter::{CLASSIFIER, EMBEDDING, FINAL_NORM, Parameter, ParameterKind};
pub use programs::programs;
pub use stack::{Gradients, Stack, StackOptions, StepReport, Update};

/// The result of building or running a model.
pub type Result<T> = std::result::Result<T, Error>;
