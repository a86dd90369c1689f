//! What can go wrong in this room. Every message names the file or key, the value and the repair.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The result of this room's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // Configuration
    /// A text that is not TOML.
    #[error("{place}: this is not TOML: {problem}")]
    Toml {
        /// File and line.
        place: String,
        /// What the parser says.
        problem: String,
    },
    /// A key that means nothing.
    #[error("{place}: there is no key `{key}`; {}", known_keys(.known))]
    UnknownKey {
        /// File and line, or the command-line option.
        place: String,
        /// The whole key with its tables, `optimizer.lr`.
        key: String,
        /// The keys that exist in its table.
        known: Vec<String>,
    },
    /// A value of the wrong type or out of range.
    #[error("{place}: {key} = {value}: {problem}")]
    Value {
        /// File and line, or the command-line option.
        place: String,
        /// The whole key with its tables.
        key: String,
        /// The value as TOML.
        value: String,
        /// What is wrong and what would be right.
        problem: String,
    },

    // Data
    /// Fewer tokens than one window.
    #[error(
        "{}: it holds {tokens} tokens, but model.seq_len = {seq_len} needs at least {} in one piece; \
         give more text or set a shorter model.seq_len",
        path.display(), seq_len + 1
    )]
    SequenceTooLong {
        /// The token shard.
        path: PathBuf,
        /// Its tokens.
        tokens: usize,
        /// The configured sequence length.
        seq_len: usize,
    },
    /// A protocol's own numbers leave nothing to measure.
    #[error("the protocol {protocol} cannot be carried out: {problem}")]
    Protocol {
        /// Its name.
        protocol: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Model and tokenizer disagree about how many tokens there are.
    #[error(
        "model.vocab_size = {configured}, but the tokenizer of {} has {actual} tokens; \
         set model.vocab_size = {actual}, or leave it out, or give another data.tokenizer",
        path.display()
    )]
    Vocabulary {
        /// The folder or file of the tokenizer.
        path: PathBuf,
        /// What the configuration says.
        configured: usize,
        /// What the tokenizer has.
        actual: usize,
    },
    /// The data of a run is no longer what the run began with.
    #[error(
        "{}: {key} = {recorded}, but {data} now gives {found}; a run can only go on with the data \
         that it began with: restore that data, or start a new run without the recorded values",
        config.display()
    )]
    DataChanged {
        /// The run's `config.toml`.
        config: PathBuf,
        /// The key that recorded it.
        key: &'static str,
        /// What was recorded.
        recorded: String,
        /// Where the data comes from.
        data: String,
        /// What is there now.
        found: String,
    },

    /// A budget that is spent without a model that is of use.
    #[error(
        "step {step}: the budget is spent after {updates} updates ({skipped} steps were left out because what they \
         computed could not be used), and val_bpb is {val_bpb}: the model is of no use{}; events.jsonl says what was \
         wrong: start a run with a lower optimizer.lr, a longer budget, or on another device",
        better.map_or(String::new(), |step| format!(", and that of step {step} was better: --checkpoint best takes it"))
    )]
    NothingLearned {
        /// The last step.
        step: u64,
        /// Updates of the weights.
        updates: u64,
        /// Steps without update.
        skipped: u64,
        /// The last validation.
        val_bpb: f64,
        /// The step of a checkpoint that is better.
        better: Option<u64>,
    },

    // Run directories and checkpoints
    /// The directory of a new run exists.
    #[error(
        "{0}: a run of this name exists; go on with it by --resume {0}, or choose another name",
        dir.display()
    )]
    RunExists {
        /// The directory.
        dir: PathBuf,
    },
    /// A directory that holds no run.
    #[error("{}: this is no run directory: {problem}", dir.display())]
    NotARun {
        /// The directory.
        dir: PathBuf,
        /// What is missing, and what to do.
        problem: String,
    },
    /// Another process trains in this directory.
    #[error(
        "{}: another process{} is working on this run; wait for it or stop it first",
        dir.display(), owner.as_ref().map(|pid| format!(" (id {pid})")).unwrap_or_default()
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The other process, when it said who it is.
        owner: Option<String>,
    },
    /// A checkpoint that cannot be used.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A run's configuration is that of another model than its checkpoints'.
    #[error(
        "{}: it was trained with {key} = {trained}, and config.toml says {configured}; a run goes on with the model \
         that it began with: set it back, or start a new run",
        checkpoint.display()
    )]
    ModelChanged {
        /// The checkpoint's folder.
        checkpoint: PathBuf,
        /// The whole key.
        key: String,
        /// Its value in `config.toml`.
        configured: String,
        /// Its value when the checkpoint was written.
        trained: String,
    },
    /// No checkpoint of a run can be used.
    #[error(
        "{}: no checkpoint can be used: {}; bring one back from a copy, or start a new run",
        dir.display(), .skipped.iter().map(|(_, why)| why.as_str()).collect::<Vec<_>>().join("; ")
    )]
    NoValidCheckpoint {
        /// The folder of checkpoints.
        dir: PathBuf,
        /// Each of them and what is wrong with it.
        skipped: Vec<(PathBuf, String)>,
    },
    /// A run has no such checkpoint.
    #[error("{}: it has no checkpoint {wanted}: {}", dir.display(), known_checkpoints(there))]
    NoSuchCheckpoint {
        /// The folder of checkpoints.
        dir: PathBuf,
        /// What was asked for, as in "it has no checkpoint …".
        wanted: String,
        /// The names of those that there are, oldest first.
        there: Vec<String>,
    },
    /// A line of a `.jsonl` file that cannot be read, other than an unfinished last one.
    #[error("{}, line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong and what to do.
        problem: String,
    },

    // The system
    /// Less room than the run's checkpoints may take, in bytes.
    #[error(
        "{}: {} are free on this disk, and the run's checkpoints take up to {}, {} each; make room, choose another \
         disk with --out, or keep fewer with --set checkpoint.keep=1, checkpoint.spaced=false and fewer checkpoint.milestones",
        dir.display(), megabytes(*free), megabytes(*needed), megabytes(*each)
    )]
    LittleRoom {
        /// The run's directory.
        dir: PathBuf,
        /// Free on its disk.
        free: u64,
        /// The most that is needed.
        needed: u64,
        /// For one checkpoint.
        each: u64,
    },
    /// No room to write.
    #[error(
        "{}: no room on this disk: {bytes} bytes were to be written ({source}); what was saved \
         before is unharmed: make room, then go on with --resume",
        path.display()
    )]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// How large it, or the checkpoint that it belongs to, is.
        bytes: u64,
        /// The system's reason.
        source: std::io::Error,
    },
    /// No permission to write.
    #[error(
        "{}: cannot {doing}: {source}; make the folder writable or choose another one",
        path.display()
    )]
    ReadOnly {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, as in "cannot …".
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The operating system refused something else.
    #[error("{}: cannot {doing}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, as in "cannot …".
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },

    // Training
    /// Steps had to be skipped one after another and nothing is left to be tried.
    #[error(
        "step {step}: training has diverged: the last {skipped} steps gave gradients that cannot be used \
         ({why}), and no smaller loss scale is left to try; the run's checkpoints are untouched; start \
         a run with a lower optimizer.lr"
    )]
    Diverged {
        /// The last of them.
        step: u64,
        /// How many in a row.
        skipped: u64,
        /// What was wrong with the last one.
        why: String,
    },
    /// The guard has seen the run fall ill too often.
    #[error(
        "step {step}: the run fell ill once more after {max_recoveries} recoveries, and the guard gives up: {why}; nothing \
         is lost: the run stands where it was still well, after step {back_to}; start a run with a lower \
         optimizer.lr, or set a higher guard.max_recoveries than {max_recoveries} in {} and go on from there with \
         --resume, at a rate of {lr:.1e}",
        config.display()
    )]
    GaveUp {
        /// The run's `config.toml`.
        config: PathBuf,
        /// The step after which it was ill.
        step: u64,
        /// What the guard saw.
        why: String,
        /// The recoveries that were allowed.
        max_recoveries: u64,
        /// The step that it went back to.
        back_to: u64,
        /// The base rate from there on.
        lr: f64,
    },
    /// The model or its device.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// The data.
    #[error(transparent)]
    Data(#[from] data::Error),
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn known_checkpoints(there: &[String]) -> String {
    if there.is_empty() {
        return "it has none yet; train it first".into();
    }
    format!("there are {}; or take the newest", there.join(", "))
}

fn known_keys(known: &[String]) -> String {
    if known.is_empty() {
        return "this key holds a value, not a table".into();
    }
    format!("there are {}", known.join(", "))
}

impl Error {
    /// Of an operation that writes `bytes` bytes:
    /// `fs::write(p, b).map_err(Error::writing(p, "write it", b.len() as u64))`.
    pub(crate) fn writing(
        path: &Path,
        doing: &'static str,
        bytes: u64,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::DiskFull { path, bytes, source },
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Error::ReadOnly { path, doing, source }
            }
            _ => Error::Io { path, doing, source },
        }
    }

    /// Of an operation that writes nothing.
    pub(crate) fn io(path: &Path, doing: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io { path, doing, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_reasons_become_repairs() {
        let of =
            |kind: ErrorKind| Error::writing(Path::new("runs/a/x"), "write it", 77)(kind.into()).to_string();
        assert!(of(ErrorKind::StorageFull).starts_with("runs/a/x: no room on this disk: 77 bytes"));
        assert!(of(ErrorKind::ReadOnlyFilesystem).contains("choose another one"));
        assert!(of(ErrorKind::NotFound).starts_with("runs/a/x: cannot write it: "));
    }
}
