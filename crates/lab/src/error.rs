//! What can go wrong in this room. Every message names the file, what is wrong with it and the repair.

use std::path::{Path, PathBuf};

/// The result of this room's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A run's `config.toml` that cannot be understood.
    #[error("{}: this is not TOML: {problem}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        problem: String,
    },
    /// A run's `metrics.jsonl` without a single step in all its lines.
    #[error(
        "{}: none of its {lines} lines is a step of a run ({problem}); give the directory of a run that \
         `anneal train` wrote",
        path.display()
    )]
    NoSteps {
        /// The file.
        path: PathBuf,
        /// How many lines it has.
        lines: u64,
        /// What is wrong with the first one.
        problem: String,
    },
    /// A line that no logger would write.
    #[error("{}, line {line}: it is longer than {most} bytes; this is no log of a run", path.display())]
    LongLine {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// The longest that is read.
        most: u64,
    },
    /// A report would go where something else is.
    #[error("{}: {problem}", path.display())]
    Taken {
        /// The path.
        path: PathBuf,
        /// What is there, and what to do.
        problem: String,
    },
    /// A report cannot be written.
    #[error("{}: cannot write the report: {source}; give another file with --out", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file of a run cannot be read.
    #[error("{}: cannot read it: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// What a run directory is.
    #[error(transparent)]
    Train(#[from] train::Error),
}

impl Error {
    /// Of an operation that reads: `File::open(p).map_err(Error::reading(p))`.
    pub(crate) fn reading(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Read { path, source }
    }

    /// Of an operation that writes a report: `fs::rename(a, p).map_err(Error::writing(p))`.
    pub(crate) fn writing(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Write { path, source }
    }

    /// A directory that holds no run.
    pub(crate) fn not_a_run(dir: &Path, problem: impl Into<String>) -> Error {
        Error::Train(train::Error::NotARun { dir: dir.to_owned(), problem: problem.into() })
    }
}
