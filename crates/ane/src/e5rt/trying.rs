//! What a child process tries for this route.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::espresso::{Backend, CallError, Compiled, Direction, Espresso, Operation};
use super::ways;
use crate::child::plain;
use crate::explain::explain;

/// What a child is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Where Espresso is.
    pub(super) library: PathBuf,
    /// `ane`, `gpu`, `bnns`.
    pub(super) backend: String,
    /// What to do.
    pub(super) task: Task,
}

/// What a child does.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Task {
    /// Compile the small program in `dir` and see what can be done with it; answers [`ways::Ways`].
    Ways {
        /// The child's own folder.
        dir: PathBuf,
    },
    /// Open the bundle that an earlier child left in `dir`; answers [`super::OpenOrder`].
    Reopen {
        /// That child's folder.
        dir: PathBuf,
    },
    /// Compile and load the program whose text is `mil`, without running it; answers nothing.
    Compile {
        /// The text.
        mil: PathBuf,
        /// Where the bundle goes.
        bundle_dir: PathBuf,
    },
}

/// The child's side.
///
/// # Errors
/// What failed.
pub(crate) fn answer(request: &Request) -> Result<serde_json::Value, String> {
    let backend = Backend::ALL
        .into_iter()
        .find(|backend| backend.name() == request.backend)
        .ok_or_else(|| format!("there is no backend `{}`", request.backend))?;
    let espresso = Espresso::load(&request.library).map_err(|error| error.to_string())?;
    match &request.task {
        Task::Ways { dir } => ways::probe(&espresso, backend, dir).map(plain),
        Task::Reopen { dir } => ways::probe_bundle(&espresso, dir).map(plain),
        Task::Compile { mil, bundle_dir } => {
            compile_and_load(&espresso, backend, mil, bundle_dir).map(plain).map_err(|error| explain(&error))
        }
    }
}

fn compile_and_load(
    espresso: &Espresso,
    backend: Backend,
    mil: &Path,
    bundle_dir: &Path,
) -> Result<(), CallError> {
    let compiled = Arc::new(Compiled::compile(espresso, backend, mil, bundle_dir)?);
    let no_ports: [(Direction, &str); 0] = [];
    Operation::load(&compiled, &no_ports).map(drop)
}
