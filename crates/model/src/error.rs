//! What can be wrong with a model, its weights or its run.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration that describes no model.
    #[error("model config: {key} = {value}: {problem}")]
    Config {
        /// The key as it stands in `config.toml`.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A preset that does not exist.
    #[error("there is no preset `{name}`; there are {known}")]
    Preset {
        /// What was asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A weight file that does not hold this model.
    #[error("{}: {problem}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// The tensor, its shape, what was expected.
        problem: String,
    },
    /// Input of the wrong size for the stack.
    #[error("batch: {0}")]
    Batch(String),
    /// A program could not be built: a bug of this crate, or a shape beyond the language.
    #[error(transparent)]
    Program(#[from] mil::Error),
    /// The device refused or failed.
    #[error(transparent)]
    Device(#[from] device::Error),
}
