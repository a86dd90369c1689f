//! How a device of Apple's is opened.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mil::lint::{Chip, MAX_PROGRAMS};

use crate::{ChildCommand, Machine};

/// How a device is opened.
#[derive(Clone)]
pub struct Options {
    /// The library with the route's symbols or classes.
    pub library: PathBuf,
    /// Whose limits and rules hold; `None` when the chip is one that the catalogue does not know.
    pub chip: Option<Chip>,
    /// Chip and version of the system, as what is learnt is filed.
    pub system: String,
    /// Where what is learnt and, if they can be opened again, compiled bundles are kept.
    pub folder: PathBuf,
    /// How to start a child process that tries; `None` tries in this process.
    pub child: Option<ChildCommand>,
    /// How long a child may take. ANEForge waited 162 s for eight layers in one program.
    pub limit: Duration,
    /// The most operations to have loaded for bindings; programs that are compiled later need some as well
    /// (rule ANE-004).
    pub max_programs: usize,
    /// How long to wait with the next compile after one was refused (rule ANE-017).
    pub back_off: Duration,
}

impl Options {
    /// For this machine, with the library at `library`, keeping what is learnt in `folder`.
    pub fn here(library: impl Into<PathBuf>, folder: &Path) -> Options {
        let machine = Machine::here();
        Options {
            library: library.into(),
            chip: machine.chip,
            system: format!("{}, {}", machine.name, machine.system),
            folder: folder.to_owned(),
            child: None,
            limit: Duration::from_secs(240),
            max_programs: MAX_PROGRAMS,
            back_off: Duration::from_secs(15),
        }
    }
}
