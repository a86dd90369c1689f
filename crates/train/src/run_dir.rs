//! A run's directory: a run that explains itself and survives being killed at any instant.
//!
//! ```text
//! config.toml    everything needed to repeat the run
//! metrics.jsonl  a line for each logged step
//! events.jsonl   a line for everything else that happened
//! checkpoints/   see `checkpoint`
//! tokenizer.json the tokenizer
//! summary.json   written last
//! lock           held while a process works on the run
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data::{Tokenizer, Vocabulary};
use serde::Serialize;

use crate::json_lines::{self, JsonLines};
use crate::{Checkpoints, Error, Event, Result, RunConfig, StepMetrics, UserConfig, whole_file};

/// The configuration's file name.
pub const CONFIG: &str = "config.toml";
/// The metrics' file name.
pub const METRICS: &str = "metrics.jsonl";
/// The events' file name.
pub const EVENTS: &str = "events.jsonl";
/// The tokenizer's file name.
pub const TOKENIZER: &str = "tokenizer.json";
/// The tokens that the model has rows for, where it has not for all.
pub const VOCABULARY: &str = "vocabulary.json";
/// The summary's file name.
pub const SUMMARY: &str = "summary.json";
const LOCK: &str = "lock";

/// What a run is called when nobody gives it a name: local date and time, and the preset.
pub fn default_name(preset: &str) -> String {
    format!("{}-{preset}", jiff::Zoned::now().strftime("%Y-%m-%d_%H-%M-%S"))
}

/// A run's directory, locked.
#[derive(Debug)]
pub struct RunDir {
    dir: PathBuf,
    metrics: JsonLines,
    events: JsonLines,
    /// Held until it is dropped; the system lets go of it when the process dies.
    _lock: File,
}

impl RunDir {
    /// Makes the directory of a new run.
    ///
    /// # Errors
    /// [`Error::RunExists`], or [`Error::ReadOnly`] and its like.
    pub fn create(
        dir: &Path,
        config: &RunConfig,
        tokenizer: &Tokenizer,
        vocabulary: Option<&Vocabulary>,
    ) -> Result<RunDir> {
        if let Some(runs) = dir.parent() {
            fs::create_dir_all(runs).map_err(Error::writing(runs, "create this folder", 0))?;
        }
        let made = match fs::create_dir(dir) {
            Ok(()) => true,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                require_free(dir)?;
                false
            }
            Err(e) => return Err(Error::writing(dir, "create this folder", 0)(e)),
        };
        let fill = || {
            let run = RunDir::open_locked(dir, lock(dir)?)?;
            tokenizer.save(&dir.join(TOKENIZER))?;
            if let Some(vocabulary) = vocabulary {
                vocabulary.save(&dir.join(VOCABULARY))?;
            }
            // Last: what has no configuration is no run yet.
            whole_file::write_whole(&dir.join(CONFIG), config.to_toml().as_bytes())?;
            Ok(run)
        };
        let run = fill();
        if run.is_err() && made {
            // A folder that was made a moment ago, and that nobody can use.
            let _ = fs::remove_dir_all(dir);
        }
        whole_file::sync_folder(dir.parent());
        run
    }

    /// Writes another configuration, that of a run whose length was changed.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] and its like; the old one is then still there.
    pub fn replace_config(&self, config: &RunConfig) -> Result<()> {
        whole_file::write_whole(&self.dir.join(CONFIG), config.to_toml().as_bytes())
    }

    /// Opens the directory of a run that has begun, to go on with it.
    ///
    /// # Errors
    /// [`Error::NotARun`], [`Error::Locked`], [`Error::ReadOnly`].
    pub fn open(dir: &Path) -> Result<(RunDir, RunConfig)> {
        if !dir.is_dir() {
            let problem = "it does not exist; `--resume` takes the directory of a run".into();
            return Err(Error::NotARun { dir: dir.to_owned(), problem });
        }
        require_config(dir)?;
        let lock = lock(dir)?;
        whole_file::remove_unfinished(dir);
        Checkpoints::of_run(dir).remove_unfinished();
        Ok((RunDir::open_locked(dir, lock)?, read_config(dir)?))
    }

    fn open_locked(dir: &Path, lock: File) -> Result<RunDir> {
        json_lines::repair(&dir.join(EVENTS), |_| true)?;
        let (metrics, events) = (JsonLines::open(&dir.join(METRICS))?, JsonLines::open(&dir.join(EVENTS))?);
        Ok(RunDir { dir: dir.to_owned(), metrics, events, _lock: lock })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Its checkpoints.
    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::of_run(&self.dir)
    }

    /// Makes `metrics.jsonl` end with `step` of a run that has gone back `recoveries` times, whatever was logged
    /// after it or cut off; returns how many lines were dropped. What was logged before the run went back stays. A
    /// summary of a run that now goes on is removed.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] and its like.
    pub fn rewind(&mut self, recoveries: usize, step: u64) -> Result<usize> {
        let path = self.dir.join(METRICS);
        let end = (recoveries as u64, step);
        let dropped = json_lines::repair(&path, |line| {
            let recoveries = line["recoveries"].as_u64().unwrap_or(0);
            line["step"].as_u64().is_some_and(|step| (recoveries, step) <= end)
        })?;
        // The file may be a new one under the old name.
        self.metrics = JsonLines::open(&path)?;
        let summary = self.dir.join(SUMMARY);
        if summary.exists() {
            fs::remove_file(&summary).map_err(Error::writing(&summary, "remove it", 0))?;
        }
        Ok(dropped)
    }

    /// Adds a line to `metrics.jsonl`.
    ///
    /// # Errors
    /// [`Error::DiskFull`] and its like.
    pub fn log_step(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.metrics.push(metrics)
    }

    /// Adds a line to `events.jsonl`.
    ///
    /// # Errors
    /// [`Error::DiskFull`] and its like.
    pub fn log_event(&mut self, event: &Event) -> Result<()> {
        #[derive(Serialize)]
        struct Line<'a> {
            time: String,
            #[serde(flatten)]
            event: &'a Event,
        }
        self.events.push(&Line { time: format!("{:.3}", jiff::Timestamp::now()), event })
    }

    /// Makes both logs survive a power cut.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync_logs(&self) -> Result<()> {
        self.metrics.sync()?;
        self.events.sync()
    }

    /// Writes `summary.json`.
    ///
    /// # Errors
    /// [`Error::DiskFull`] and its like.
    pub fn write_summary(&self, summary: &impl Serialize) -> Result<()> {
        let mut json = serde_json::to_vec_pretty(summary).expect("numbers and strings can be written");
        json.push(b'\n');
        whole_file::write_whole(&self.dir.join(SUMMARY), &json)
    }
}

/// The vocabulary of a run's model, where `data.compact_vocab` made it shorter than the tokenizer's.
///
/// # Errors
/// [`Error::Data`] naming the file.
pub fn read_vocabulary(dir: &Path, config: &RunConfig) -> Result<Option<Arc<Vocabulary>>> {
    let read = || Ok(Arc::new(Vocabulary::load(&dir.join(VOCABULARY))?));
    config.data.compact_vocab.then(read).transpose()
}

/// The configuration of a run, without locking it.
///
/// # Errors
/// [`Error::NotARun`], or what is wrong with its `config.toml`.
pub fn read_config(dir: &Path) -> Result<RunConfig> {
    require_config(dir)?;
    let path = dir.join(CONFIG);
    let mut config = UserConfig::read(&path)?;
    // What a run keeps is complete but for keys that came later, and those are not to come from today's recipe.
    if !config.has("recipe") {
        config.set("recipe", "", &path.display().to_string());
    }
    config.resolve()
}

/// The progress of each step of a run, from its `metrics.jsonl`.
///
/// # Errors
/// [`Error::NotARun`] when there is none or a step is missing.
pub fn recorded_progress(dir: &Path) -> Result<Vec<f64>> {
    let path = dir.join(METRICS);
    let fail = |problem: String| Error::NotARun { dir: dir.to_owned(), problem };
    if !path.exists() {
        return Err(fail(format!("it has no {METRICS} to be replayed")));
    }
    let went_back = |recoveries: u64| {
        fail(format!(
            "the run fell ill and went back {recoveries} times, so its progress is not that of one schedule; \
             replay a run that did not"
        ))
    };
    // It may have gone back and done no step since.
    if let Some(recoveries) = Checkpoints::of_run(dir).recoveries().filter(|recoveries| *recoveries > 0) {
        return Err(went_back(recoveries as u64));
    }
    let mut progress = Vec::new();
    for line in json_lines::read(&path)? {
        let (step, value) = (line["step"].as_u64(), line["progress"].as_f64());
        if let Some(recoveries) = line["recoveries"].as_u64().filter(|recoveries| *recoveries > 0) {
            return Err(went_back(recoveries));
        }
        match value {
            Some(value) if step == Some(progress.len() as u64 + 1) => progress.push(value),
            _ => {
                let missing = progress.len() + 1;
                return Err(fail(format!(
                    "{METRICS} does not record step {missing}; only a run with log_every = 1 can be replayed"
                )));
            }
        }
    }
    Ok(progress)
}

/// Whether a run may begin in `dir`: it does not exist, is empty, or holds only what a process leaves
/// that is killed before its run has a configuration.
///
/// # Errors
/// [`Error::RunExists`] when it holds a run, [`Error::NotARun`] when it holds other files.
pub(crate) fn require_free(dir: &Path) -> Result<()> {
    if dir.join(CONFIG).exists() {
        return Err(Error::RunExists { dir: dir.to_owned() });
    }
    let ours = |name: &str| {
        [LOCK, TOKENIZER, METRICS, EVENTS].contains(&name) || name.starts_with('.') && name.ends_with(".tmp")
    };
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    match names.map(|name| name.to_string_lossy().into_owned()).find(|name| !ours(name)) {
        Some(name) => {
            let problem = format!("it holds `{name}` and no {CONFIG}; choose another folder for a new run");
            Err(Error::NotARun { dir: dir.to_owned(), problem })
        }
        None => Ok(()),
    }
}

/// Whether the disk of `dir`, which need not exist, has room for the most that a run's checkpoints take beside those
/// that are there. A system that does not tell has room.
///
/// # Errors
/// [`Error::LittleRoom`] with both numbers.
pub(crate) fn require_room(dir: &Path, config: &RunConfig) -> Result<()> {
    let there = Checkpoints::of_run(dir).bytes();
    let needed = config.most_checkpoint_bytes().saturating_sub(there);
    // A relative path that does not exist yet is somewhere in the present folder.
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."));
    match free_bytes(existing) {
        Some(free) if free < needed => {
            let each = config.checkpoint_bytes();
            Err(Error::LittleRoom { dir: dir.to_owned(), free, needed, each })
        }
        _ => Ok(()),
    }
}

/// Bytes that this user may still write on the disk of `path`.
fn free_bytes(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let disk = nix::sys::statvfs::statvfs(path).ok()?;
        #[allow(clippy::useless_conversion, reason = "blocks are counted in 32 bits on macOS")]
        let (all, free) = (u64::from(disk.blocks()), u64::from(disk.blocks_available()));
        // What has no blocks at all is not a disk, or does not tell.
        (all > 0).then(|| free.saturating_mul(disk.fragment_size()))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

fn require_config(dir: &Path) -> Result<()> {
    if dir.join(CONFIG).is_file() {
        return Ok(());
    }
    let problem = format!("it has no {CONFIG}; the run ended before it began: start it again with --out");
    Err(Error::NotARun { dir: dir.to_owned(), problem })
}

/// Takes the lock of a run and says in it who holds it.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let io = |doing| Error::writing(&path, doing, 0);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io("open the run's lock"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            let _ = file.read_to_string(&mut owner);
            let owner = Some(owner.trim().to_owned()).filter(|owner| !owner.is_empty());
            return Err(Error::Locked { dir: dir.to_owned(), owner });
        }
        Err(TryLockError::Error(e)) => return Err(io("lock the run")(e)),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(io("write the run's lock"))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Budget, Stretch};

    fn create(dir: &Path) -> Result<RunDir> {
        let tokenizer = Tokenizer::train(["ab ab"], 261).unwrap();
        RunDir::create(dir, &RunConfig::of_preset("odd").unwrap(), &tokenizer, None)
    }

    #[test]
    fn a_run_is_created_once_and_opened_by_one() {
        let runs = tempfile::tempdir().unwrap();
        let dir = runs.path().join("deep/first");
        let run = create(&dir).unwrap();
        let error = create(&dir).unwrap_err().to_string();
        assert!(error.contains("a run of this name exists; go on with it by --resume"), "{error}");
        let error = RunDir::open(&dir).unwrap_err().to_string();
        assert!(
            error.contains(&format!("another process (id {}) is working on this run", std::process::id())),
            "{error}"
        );
        drop(run);
        let (run, config) = RunDir::open(&dir).unwrap();
        assert_eq!(config, RunConfig::of_preset("odd").unwrap());
        assert_eq!(Tokenizer::load(&run.path().join(TOKENIZER)).unwrap().vocab_size(), 261);
    }

    #[test]
    fn what_is_no_run_is_said_to_be_none() {
        let runs = tempfile::tempdir().unwrap();
        let error = RunDir::open(&runs.path().join("nothing")).unwrap_err().to_string();
        assert!(error.contains("nothing: this is no run directory: it does not exist"), "{error}");
        let error = RunDir::open(runs.path()).unwrap_err().to_string();
        assert!(error.contains("it has no config.toml"), "{error}");
        assert!(!runs.path().join(LOCK).exists(), "a folder that is no run is left as it is");
        fs::write(runs.path().join("file"), "").unwrap();
        let error = create(&runs.path().join("file/run")).unwrap_err().to_string();
        assert!(error.contains("file: cannot create this folder"), "{error}");
    }

    /// A process that was killed before it wrote the configuration leaves a folder in which the same
    /// command begins again; a folder with somebody's files is left alone.
    #[test]
    fn a_run_begins_where_nothing_else_is() {
        let runs = tempfile::tempdir().unwrap();
        let dir = runs.path().join("killed");
        drop(create(&dir).unwrap());
        fs::rename(dir.join(CONFIG), dir.join(".config.toml.tmp")).unwrap();
        assert!(RunDir::open(&dir).is_err());
        drop(create(&dir).unwrap());
        assert!(RunDir::open(&dir).is_ok());
        let dir = runs.path().join("photos");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("holiday.jpg"), "dear").unwrap();
        let error = create(&dir).unwrap_err().to_string();
        assert!(error.contains("it holds `holiday.jpg` and no config.toml; choose another"), "{error}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_config_names_file_and_line() {
        let runs = tempfile::tempdir().unwrap();
        let dir = runs.path().join("first");
        drop(create(&dir).unwrap());
        let text = fs::read_to_string(dir.join(CONFIG)).unwrap();
        fs::write(dir.join(CONFIG), text.replace("preset = ", "presto = ")).unwrap();
        let error = RunDir::open(&dir).unwrap_err().to_string();
        assert!(error.contains("config.toml, line 2: there is no key `presto`"), "{error}");
    }

    #[test]
    fn recorded_progress_needs_every_step() {
        let runs = tempfile::tempdir().unwrap();
        let path = runs.path().join(METRICS);
        assert!(recorded_progress(runs.path()).is_err());
        fs::write(
            &path,
            "{\"step\":1,\"progress\":0.1}\n{\"step\":2,\"progress\":0.30000000000000004}\n{\"st",
        )
        .unwrap();
        assert_eq!(recorded_progress(runs.path()).unwrap(), [0.1, 0.1 + 0.2]);
        fs::write(&path, "{\"step\":1,\"progress\":0.1}\n{\"step\":3,\"progress\":0.3}\n").unwrap();
        let error = recorded_progress(runs.path()).unwrap_err().to_string();
        assert!(error.contains("does not record step 2"), "{error}");
        fs::write(&path, "{\"step\":1,\"progress\":0.1}\n{\"step\":1,\"progress\":0.3,\"recoveries\":1}\n")
            .unwrap();
        let error = recorded_progress(runs.path()).unwrap_err().to_string();
        assert!(error.contains("went back 1 times"), "{error}");
        fs::write(&path, "{\"step\":1,\"progress\":0.1}\n").unwrap();
        fs::create_dir_all(runs.path().join("checkpoints/step_000001")).unwrap();
        assert_eq!(recorded_progress(runs.path()).unwrap(), [0.1]);
        fs::create_dir_all(runs.path().join("checkpoints/step_000001-r2")).unwrap();
        let error = recorded_progress(runs.path()).unwrap_err().to_string();
        assert!(error.contains("went back 2 times"), "{error}");
    }

    #[test]
    #[cfg(unix)]
    fn a_disk_without_room_for_all_checkpoints_is_refused_with_both_numbers() {
        let runs = tempfile::tempdir().unwrap();
        let dir = runs.path().join("not/yet");
        let mut config = RunConfig::of_preset("odd").unwrap();
        require_room(&dir, &config).unwrap();
        let each = config.checkpoint_bytes();
        let free = free_bytes(runs.path()).unwrap();
        // No more are counted than the run makes.
        config.budget = Budget::Steps(4 * free / each);
        config.checkpoint.every = Stretch::Amount(Budget::Steps(1));
        config.checkpoint.keep = (2 * free / each) as usize;
        let error = require_room(&dir, &config).unwrap_err();
        assert!(
            matches!(&error, Error::LittleRoom { needed, each: of_one, .. } if *of_one == each && *needed > 2 * free),
            "{error}"
        );
        assert!(
            error.to_string().contains(" MB are free on this disk")
                && error.to_string().contains("keep fewer")
        );
        // What is there already needs no room.
        fs::create_dir_all(dir.join("checkpoints/step_000001")).unwrap();
        let sparse = File::create(dir.join("checkpoints/step_000001/weights.safetensors")).unwrap();
        sparse.set_len(config.most_checkpoint_bytes().min(1 << 42)).unwrap();
        if config.most_checkpoint_bytes() <= 1 << 42 {
            require_room(&dir, &config).unwrap();
        }
    }

    #[test]
    fn default_names_sort_by_time() {
        let name = default_name("tiny");
        assert!(name.ends_with("-tiny") && name.len() == "2000-01-01_00-00-00-tiny".len(), "{name}");
    }
}
