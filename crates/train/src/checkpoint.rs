//! Checkpoints: a folder for each that appears by rename, whole and synced, or not at all.
//!
//! ```text
//! checkpoints/step_000500/weights.safetensors    under Hugging Face names
//!                         means.safetensors      likewise, their running mean, when the run keeps one
//!                         optimizer.safetensors  exp_avg.<name> and exp_avg_sq.<name> for each weight (of Muon's
//!                                                matrices one mean square for each row or column)
//!                         state.json             written last: the rest of the state, and every file's checksum
//! ```
//!
//! A run that went back once writes `step_000500-r1` and so on: what is newer has gone back more often, or done
//! more steps.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use data::{PackerState, Vocabulary};
use model::{ModelConfig, Parameter};
use serde::{Deserialize, Serialize};

use crate::adamw::Moments;
use crate::config::CheckpointConfig;
use crate::guard::Health;
use crate::loss_scale::LossScaleState;
use crate::recovery::Recoveries;
use crate::retention::{self, Candidate, Occasion};
use crate::tensor_file::{self, Entry, FileSum};
use crate::{Error, Result, RunConfig, Spent, whole_file};

/// The weights' file name.
pub const WEIGHTS: &str = "weights.safetensors";
/// The file name of the weights' running mean.
pub const MEANS: &str = "means.safetensors";
/// The optimiser's file name.
pub const OPTIMIZER: &str = "optimizer.safetensors";
/// The state's file name.
pub const STATE: &str = "state.json";
/// Where a checkpoint lies while another of the same name takes its place.
const REPLACED: &str = ".replaced.tmp";
/// Changes when older programs could not read a checkpoint.
const FORMAT: u32 = 1;

/// A trainer's state beside weights and moments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// The run's seed.
    pub seed: u64,
    /// Steps, tokens and time.
    pub spent: Spent,
    /// The progress that the last step went by.
    #[serde(default, skip_serializing_if = "is_default")]
    pub progress: f64,
    /// Rows of batches that were used.
    pub next_window: u64,
    /// With `data.packing = "best_fit"`, the documents that wait to be packed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packer: Option<PackerState>,
    /// Updates of the optimiser: its bias correction's time.
    pub updates: u64,
    /// What the weights of the terms of the running mean add up to, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_mass: Option<f64>,
    /// The loss scale.
    pub loss_scale: LossScaleState,
    /// What the guard has seen.
    #[serde(default, skip_serializing_if = "is_default")]
    pub health: Health,
    /// How often the run went back, and what came of it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub recoveries: Recoveries,
}

/// Such fields are left out: what was written before they were there keeps its checksum.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The contents of `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    format: u32,
    step: u64,
    /// The share of the budget that was spent.
    progress: f64,
    /// Validation at this very step, if there was one.
    val_bpb: Option<f64>,
    /// Over so many windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    val_windows: Option<usize>,
    /// The model's settings as TOML, by their keys.
    #[serde(default, skip_serializing_if = "is_default")]
    model: BTreeMap<String, String>,
    /// Likewise, the settings that decide the run's [course](RunConfig::course).
    #[serde(default, skip_serializing_if = "is_default")]
    course: BTreeMap<String, String>,
    /// Regular saves of the run so far.
    #[serde(default, skip_serializing_if = "is_default")]
    saves: u64,
    /// Not there in what was written before there were several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    occasion: Option<Occasion>,
    trainer: TrainerState,
    files: BTreeMap<String, FileSum>,
    /// Of this file as it would be with nothing in this field.
    sha256: String,
}

impl StateFile {
    fn sum(&self) -> String {
        let unsigned = StateFile { sha256: String::new(), ..self.clone() };
        FileSum::of(&serde_json::to_vec(&unsigned).expect("numbers and strings can be written")).sha256
    }

    /// As it is written, with its checksum.
    fn signed(&mut self) -> Vec<u8> {
        self.sha256 = self.sum();
        serde_json::to_vec_pretty(&self).expect("numbers and strings can be written")
    }

    /// What its validation found, if it was written because it was time to.
    fn score(&self) -> Option<Score> {
        let val_bpb = self.val_bpb.filter(|val_bpb| val_bpb.is_finite())?;
        (self.occasion() != Occasion::Other).then_some((val_bpb, self.val_windows))
    }

    /// Why it was written; what does not say was written because it was time to.
    fn occasion(&self) -> Occasion {
        self.occasion.unwrap_or(Occasion::Regular)
    }

    /// Reads and checks a `state.json`, not the files beside it.
    fn read(path: &Path) -> Result<StateFile> {
        let fail = |problem: String| Error::Checkpoint { path: path.to_owned(), problem };
        let bytes = fs::read(path)
            .map_err(|e| fail(format!("it cannot be read ({e}): the checkpoint is not whole")))?;
        let state: StateFile = serde_json::from_slice(&bytes)
            .map_err(|e| fail(format!("it does not describe a checkpoint ({e})")))?;
        if state.format != FORMAT {
            return Err(fail(format!("format {} is not {FORMAT}, which this program reads", state.format)));
        }
        if state.sum() != state.sha256 {
            return Err(fail("its contents do not fit its checksum".into()));
        }
        Ok(state)
    }
}

/// What a checkpoint is made of.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// Everything but the tensors.
    pub state: &'a TrainerState,
    /// The share of the budget that is spent.
    pub progress: f64,
    /// Validation at this step, if there was one: val_bpb, and over how many windows.
    pub validation: Option<(f64, usize)>,
    /// What the run is.
    pub config: &'a RunConfig,
    /// Regular saves of the run so far, this one included if it is one.
    pub saves: u64,
    /// Why it is written.
    pub occasion: Occasion,
    /// Names and shapes.
    pub parameters: &'a [Parameter],
    /// One for each parameter.
    pub weights: &'a [Vec<f32>],
    /// Their running mean, if the run keeps one.
    pub means: Option<&'a [Vec<f32>]>,
    /// What the rows of embedding and classifier stand for; the file of weights has all of the tokenizer's tokens.
    pub vocabulary: Option<&'a Vocabulary>,
    /// One for each parameter.
    pub moments: &'a [Moments],
}

/// A checkpoint that was read back.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// Everything but the tensors.
    pub state: TrainerState,
    /// Validation at its step, if there was one.
    pub val_bpb: Option<f64>,
    /// The settings that decided the run's [course](RunConfig::course), as TOML by their keys.
    pub course: BTreeMap<String, String>,
    /// Regular saves of the run up to it.
    pub saves: u64,
    /// Why it was written.
    pub occasion: Occasion,
    /// One for each parameter, in the order of [`Parameter::all`].
    pub weights: Vec<Vec<f32>>,
    /// Likewise, their running mean, if the run keeps one.
    pub means: Option<Vec<Vec<f32>>>,
    /// Likewise.
    pub moments: Vec<Moments>,
}

impl Checkpoint {
    /// The weights that the model is used with: their running mean where there is one, unless the last ones are asked
    /// for by `raw`.
    pub fn model_weights(&self, raw: bool) -> &[Vec<f32>] {
        self.means.as_ref().filter(|_| !raw).unwrap_or(&self.weights)
    }
}

/// What was found among a run's checkpoints.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Found {
    /// It; `None` when the run has none at all.
    pub checkpoint: Option<Checkpoint>,
    /// Those that come before it and cannot be used, and why.
    pub skipped: Vec<(PathBuf, String)>,
}

/// The name of a checkpoint's folder. Newer ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    /// How often the run had gone back.
    pub(crate) recoveries: usize,
    pub(crate) step: u64,
}

impl Name {
    fn of(state: &TrainerState) -> Name {
        Name { recoveries: state.recoveries.all.len(), step: state.spent.steps }
    }

    pub(crate) fn parse(path: &Path) -> Option<Name> {
        let name = path.file_name()?.to_str()?.strip_prefix("step_")?;
        let (step, recoveries) = name.split_once("-r").unwrap_or((name, "0"));
        Some(Name { recoveries: recoveries.parse().ok()?, step: step.parse().ok()? })
    }

    pub(crate) fn folder(self) -> String {
        match self.recoveries {
            0 => format!("step_{:06}", self.step),
            recoveries => format!("step_{:06}-r{recoveries}", self.step),
        }
    }
}

/// The folder `checkpoints` of a run.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    dir: PathBuf,
}

impl Checkpoints {
    /// Of the run at `run`.
    pub fn of_run(run: &Path) -> Checkpoints {
        Checkpoints { dir: run.join("checkpoints") }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Steps and folders, oldest first, whole or not.
    pub fn list(&self) -> Vec<(u64, PathBuf)> {
        self.named().into_iter().map(|(name, path)| (name.step, path)).collect()
    }

    /// How often the run had gone back when the newest was written; `None` when there is none.
    pub(crate) fn recoveries(&self) -> Option<usize> {
        self.named().last().map(|(name, _)| name.recoveries)
    }

    pub(crate) fn named(&self) -> Vec<(Name, PathBuf)> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut all: Vec<(Name, PathBuf)> =
            entries.filter_map(|entry| Some((Name::parse(&entry.path())?, entry.path()))).collect();
        all.sort();
        all
    }

    /// Bytes of all files of all of them.
    pub(crate) fn bytes(&self) -> u64 {
        let files = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
        let all = self.list().into_iter().flat_map(|(_, folder)| files(folder));
        all.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
    }

    /// Writes a checkpoint; returns its folder and size. Whatever goes wrong, the others stay as
    /// they are.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::ReadOnly`], [`Error::Io`], naming the file.
    pub fn save(&self, snapshot: &Snapshot<'_>) -> Result<(PathBuf, u64)> {
        let folder = self.folder(snapshot.state);
        let temporary = whole_file::unfinished(&folder);
        let needed = needed_bytes(snapshot);
        let _ = fs::remove_dir_all(&temporary);
        let saved = fs::create_dir_all(&temporary)
            .map_err(Error::writing(&temporary, "create this folder", needed))
            .and_then(|()| write_into(&temporary, snapshot, needed))
            .and_then(|bytes| self.publish(&temporary, &folder, needed).map(|()| bytes));
        if saved.is_err() {
            let _ = fs::remove_dir_all(&temporary);
        }
        saved.map(|bytes| (folder, bytes))
    }

    /// Where a checkpoint of this state lies.
    pub fn folder(&self, state: &TrainerState) -> PathBuf {
        self.dir.join(Name::of(state).folder())
    }

    fn publish(&self, temporary: &Path, folder: &Path, needed: u64) -> Result<()> {
        // Only one that was found broken, or that is of the same step, can stand in the way.
        let old = self.dir.join(REPLACED);
        let stands_in_the_way = folder.exists();
        if stands_in_the_way {
            let _ = fs::remove_dir_all(&old);
            fs::rename(folder, &old).map_err(Error::writing(folder, "move it out of the way", needed))?;
        }
        fs::rename(temporary, folder).map_err(Error::writing(
            folder,
            "give the checkpoint its name",
            needed,
        ))?;
        whole_file::sync_folder(Some(&self.dir));
        if stands_in_the_way {
            let _ = fs::remove_dir_all(&old);
        }
        Ok(())
    }

    /// Removes what does not [stay](retention::stay), among those up to the one of `state`, which was just saved.
    pub fn prune(&self, config: &CheckpointConfig, state: &TrainerState) {
        for path in self.superfluous(config, state) {
            remove(&path);
        }
    }

    /// Removes the oldest that stays only for [going back far](CheckpointConfig::spaced), so that the one of `state` has
    /// room; its folder, or `None` when there is none.
    pub(crate) fn make_room(&self, config: &CheckpointConfig, state: &TrainerState) -> Option<PathBuf> {
        let bare = CheckpointConfig { spaced: false, ..config.clone() };
        self.superfluous(&bare, state).into_iter().find(|path| remove(path))
    }

    /// What does not stay, oldest first. Those that are newer than `state` can only be such as a resume found broken;
    /// they neither count nor go.
    fn superfluous(&self, config: &CheckpointConfig, state: &TrainerState) -> Vec<PathBuf> {
        let all: Vec<_> = self.named().into_iter().filter(|(name, _)| *name <= Name::of(state)).collect();
        let read: Vec<_> = all.iter().map(|(_, path)| StateFile::read(&path.join(STATE)).ok()).collect();
        let scores = read.iter().map(|read| read.as_ref().and_then(StateFile::score));
        let scores: Vec<_> = of_one_measure(scores.collect());
        let candidate = |at: usize| Candidate {
            number: read[at].as_ref().map_or(0, |read| read.saves),
            occasion: read[at].as_ref().map_or(Occasion::Other, StateFile::occasion),
            val_bpb: scores[at],
            abandoned: state.recoveries.have_abandoned(all[at].0.recoveries, all[at].0.step),
        };
        let stay = retention::stay(config, &(0..all.len()).map(candidate).collect::<Vec<_>>());
        all.into_iter().zip(stay).filter(|(_, stays)| !stays).map(|((_, path), _)| path).collect()
    }

    /// Regular checkpoints up to `step` that the run has not gone back from, newest first.
    pub(crate) fn regular_until(&self, step: u64, recoveries: &Recoveries) -> Vec<PathBuf> {
        let all = self.named().into_iter().rev();
        let here = all
            .filter(|(name, _)| name.step <= step && !recoveries.have_abandoned(name.recoveries, name.step));
        let occasion =
            |path: &Path| StateFile::read(&path.join(STATE)).map_or(Occasion::Other, |read| read.occasion());
        here.map(|(_, path)| path).filter(|path| occasion(path) != Occasion::Other).collect()
    }

    /// Regular checkpoints that were validated over so many windows, with their val_bpb, the best first; whether the run
    /// has gone back from them or not.
    pub(crate) fn scored(&self, windows: usize) -> Vec<(f64, PathBuf)> {
        let scored = |path: PathBuf| {
            let (val_bpb, _) = score(&path).filter(|(_, over)| *over == Some(windows))?;
            Some((val_bpb, path))
        };
        let mut all: Vec<_> = self.named().into_iter().filter_map(|(_, path)| scored(path)).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all
    }

    /// Removes what a killed process left unfinished. Only for who holds the run's lock.
    pub(crate) fn remove_unfinished(&self) {
        // One that was moved out of the way of another, which the process then did not live to put there.
        let old = self.dir.join(REPLACED);
        if let Ok(state) = StateFile::read(&old.join(STATE)) {
            let folder = self.folder(&state.trainer);
            if !folder.exists() {
                let _ = fs::rename(&old, folder);
            }
        }
        whole_file::remove_unfinished(&self.dir);
    }
}

/// The val_bpb of a regular checkpoint that was validated, and over how many windows, where that is known.
pub(crate) type Score = (f64, Option<usize>);

/// Of a checkpoint.
pub(crate) fn score(path: &Path) -> Option<Score> {
    StateFile::read(&path.join(STATE)).ok()?.score()
}

/// The val_bpb of those that were validated over as many windows as the newest that was; `scores` are in order of age.
pub(crate) fn of_one_measure(scores: Vec<Option<Score>>) -> Vec<Option<f64>> {
    let newest = scores.iter().rev().flatten().map(|(_, windows)| *windows).next();
    let same = |score: Option<Score>| score.filter(|(_, windows)| Some(*windows) == newest);
    scores.into_iter().map(|score| same(score).map(|(val_bpb, _)| val_bpb)).collect()
}

/// Writes what a validation of a checkpoint found into it.
///
/// # Errors
/// [`Error::Checkpoint`] when its state cannot be read; [`Error::DiskFull`], [`Error::ReadOnly`], [`Error::Io`]. It is
/// whole either way.
pub(crate) fn add_score(path: &Path, (val_bpb, windows): (f64, usize)) -> Result<()> {
    let path = path.join(STATE);
    let mut state = StateFile::read(&path)?;
    if (state.val_bpb, state.val_windows) == (Some(val_bpb), Some(windows)) {
        return Ok(());
    }
    (state.val_bpb, state.val_windows) = (Some(val_bpb), Some(windows));
    whole_file::write_whole(&path, &state.signed())
}

/// Removes a checkpoint; whether it is gone.
fn remove(path: &Path) -> bool {
    // By way of another name, so that half a checkpoint never looks like a broken one.
    let gone = whole_file::unfinished(path);
    fs::rename(path, &gone).is_ok() && fs::remove_dir_all(&gone).is_ok()
}

/// About how large a checkpoint is: its tensors.
fn needed_bytes(snapshot: &Snapshot<'_>) -> u64 {
    let moments = snapshot.moments.iter().map(|m| m.exp_avg.len() + m.exp_avg_sq.len());
    let weights = snapshot.weights.iter().chain(snapshot.means.into_iter().flatten()).map(Vec::len);
    4 * moments.chain(weights).sum::<usize>() as u64
}

/// The model's settings by their keys, but for those of its beginning, which later weights do not depend on.
fn model_settings(model: &ModelConfig) -> BTreeMap<String, String> {
    let text = toml::to_string(model).expect("every field of a model can be written as TOML");
    let mut table = text.parse::<toml::Table>().expect("what was written is TOML");
    table.remove("init");
    table.into_iter().map(|(key, value)| (format!("model.{key}"), value.to_string())).collect()
}

/// Writes the files and syncs them; their size.
fn write_into(folder: &Path, snapshot: &Snapshot<'_>, needed: u64) -> Result<u64> {
    let entry = |prefix: &str, parameter: usize, values| {
        let Parameter { name, shape, .. } = &snapshot.parameters[parameter];
        Entry { name: format!("{prefix}{name}"), shape, values }
    };
    // Muon keeps one mean square for each row or column.
    let lengths: Vec<[usize; 1]> = snapshot.moments.iter().map(|m| [m.exp_avg_sq.len()]).collect();
    let squares = |parameter: usize, values| {
        let whole = entry("exp_avg_sq.", parameter, values);
        if values.len() == snapshot.parameters[parameter].numel() {
            return whole;
        }
        Entry { shape: &lengths[parameter], ..whole }
    };
    let of_tokens =
        [snapshot.weights, snapshot.means.unwrap_or_default()].map(|of| whole_vocabulary(snapshot, of));
    let moments: Vec<Entry<'_>> = (snapshot.moments.iter().enumerate())
        .flat_map(|(i, m)| [entry("exp_avg.", i, &m.exp_avg), squares(i, &m.exp_avg_sq)])
        .collect();
    let mut files = BTreeMap::new();
    let weights = Some(named(snapshot.parameters, snapshot.weights, &of_tokens[0]));
    let means = snapshot.means.map(|means| named(snapshot.parameters, means, &of_tokens[1]));
    for (name, entries) in [(WEIGHTS, weights), (MEANS, means), (OPTIMIZER, Some(moments))] {
        let Some(entries) = entries else { continue };
        files.insert(name.to_owned(), tensor_file::write(&folder.join(name), &entries, needed)?);
    }
    let mut state = StateFile {
        format: FORMAT,
        step: snapshot.state.spent.steps,
        progress: snapshot.progress,
        val_bpb: snapshot.validation.map(|(val_bpb, _)| val_bpb),
        val_windows: snapshot.validation.map(|(_, windows)| windows),
        model: model_settings(&snapshot.config.model),
        course: snapshot.config.course(),
        saves: snapshot.saves,
        occasion: Some(snapshot.occasion),
        trainer: snapshot.state.clone(),
        files,
        sha256: String::new(),
    };
    let json = state.signed();
    whole_file::write_synced(&folder.join(STATE), &json, needed)?;
    whole_file::sync_folder(Some(folder));
    Ok(state.files.values().map(|sum| sum.bytes).sum::<u64>() + json.len() as u64)
}

/// Weights under their names, those of `whole` by what it has instead.
fn named<'a>(
    parameters: &'a [Parameter],
    weights: &'a [Vec<f32>],
    whole: &'a WholeVocabulary,
) -> Vec<Entry<'a>> {
    let entry = |(i, (Parameter { name, shape, .. }, values)): (usize, (&'a Parameter, &'a Vec<f32>))| {
        let (shape, values) = match whole.get(&i) {
            None => (&shape[..], values),
            Some((shape, values)) => (&shape[..], values),
        };
        Entry { name: name.clone(), shape, values }
    };
    parameters.iter().zip(weights).enumerate().map(entry).collect()
}

/// Shape and values by the parameter's number.
type WholeVocabulary = BTreeMap<usize, ([usize; 2], Vec<f32>)>;

/// Of `weights`, those of parameters with a row for each token of a shortened vocabulary, with a row for every token of
/// the tokenizer instead.
fn whole_vocabulary(snapshot: &Snapshot<'_>, weights: &[Vec<f32>]) -> WholeVocabulary {
    let Some(vocabulary) = snapshot.vocabulary else { return BTreeMap::new() };
    let of_tokens =
        snapshot.parameters.iter().zip(weights).enumerate().filter(|(_, (p, _))| p.kind.is_of_tokens());
    of_tokens.map(|(i, (p, w))| (i, ([vocabulary.vocab_size(), p.shape[1]], vocabulary.expand(w)))).collect()
}

/// Reads a checkpoint, every byte of it checked.
///
/// # Errors
/// [`Error::Checkpoint`], [`Error::ModelChanged`] or [`Error::Model`], naming the file and what is wrong with it.
pub fn load(folder: &Path, config: &ModelConfig, vocabulary: Option<&Vocabulary>) -> Result<Checkpoint> {
    let state = StateFile::read(&folder.join(STATE))?;
    for (key, configured) in model_settings(config) {
        // A setting that only one of two versions knows has its default in the other.
        if let Some(trained) = state.model.get(&key).filter(|trained| **trained != configured) {
            let (checkpoint, trained) = (folder.to_owned(), trained.clone());
            return Err(Error::ModelChanged { checkpoint, key, configured, trained });
        }
    }
    let verified = |name: &str| -> Result<(PathBuf, Vec<u8>)> {
        let path = folder.join(name);
        let fail = |problem: String| Error::Checkpoint { path: path.clone(), problem };
        let recorded = state.files.get(name).ok_or_else(|| fail(format!("{STATE} does not know it")))?;
        let bytes = fs::read(&path).map_err(|e| fail(format!("it cannot be read ({e})")))?;
        let found = FileSum::of(&bytes);
        if found.bytes != recorded.bytes {
            return Err(fail(format!("it has {} bytes, {STATE} says {}", found.bytes, recorded.bytes)));
        }
        if found != *recorded {
            return Err(fail(format!("its checksum is {}, {STATE} says {}", found.sha256, recorded.sha256)));
        }
        Ok((path, bytes))
    };
    let parameters = Parameter::all(config);
    let named = |name: &str| -> Result<Vec<Vec<f32>>> {
        let (path, bytes) = verified(name)?;
        let mut whole = config.clone();
        whole.vocab_size = vocabulary.map_or(whole.vocab_size, Vocabulary::vocab_size);
        let mut weights = model::weights::from_bytes(&whole, &bytes, &path)?;
        if let Some(vocabulary) = vocabulary {
            let of_tokens = weights.iter_mut().zip(&parameters).filter(|(_, p)| p.kind.is_of_tokens());
            of_tokens.for_each(|(values, _)| *values = vocabulary.gather(values));
        }
        Ok(weights)
    };
    let weights = named(WEIGHTS)?;
    let means = state.trainer.ema_mass.map(|_| named(MEANS)).transpose()?;
    let (path, bytes) = verified(OPTIMIZER)?;
    let names = |prefix: &str, lengths: &dyn Fn(&Parameter) -> Vec<usize>| -> Vec<(String, Vec<usize>)> {
        parameters.iter().map(|p| (format!("{prefix}{}", p.name), lengths(p))).collect()
    };
    // Which of the two it is, depends on the optimiser, which compares when it takes them.
    let squares = |p: &Parameter| p.shape.iter().max().copied().into_iter().chain([p.numel()]).collect();
    let exp_avg = tensor_file::read(&path, &bytes, &names("exp_avg.", &|p| vec![p.numel()]))?;
    let exp_avg_sq = tensor_file::read(&path, &bytes, &names("exp_avg_sq.", &squares))?;
    let moments = exp_avg
        .into_iter()
        .zip(exp_avg_sq)
        .map(|(exp_avg, exp_avg_sq)| Moments { exp_avg, exp_avg_sq })
        .collect();
    let (path, occasion) = (folder.to_owned(), state.occasion());
    let StateFile { val_bpb, course, saves, trainer, .. } = state;
    Ok(Checkpoint { path, state: trainer, val_bpb, course, saves, occasion, weights, means, moments })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pick;

    #[test]
    fn scores_are_compared_where_they_are_of_as_many_windows_as_the_newest() {
        let over = |windows: [Option<usize>; 3]| {
            let scores =
                [Some((1.9, windows[0])), None, Some((2.0, windows[1])), Some((2.1, windows[2])), None];
            of_one_measure(scores.to_vec())
        };
        assert_eq!(over([Some(4), Some(64), Some(64)]), [None, None, Some(2.0), Some(2.1), None]);
        // From before the windows were written down.
        assert_eq!(over([None; 3]), [Some(1.9), None, Some(2.0), Some(2.1), None]);
        assert_eq!(over([None, None, Some(4)]), [None, None, None, Some(2.1), None]);
        assert_eq!(of_one_measure(vec![None]), [None]);
    }
    use crate::Stretch;
    use model::presets;

    struct Saved {
        run: tempfile::TempDir,
        config: RunConfig,
        parameters: Vec<Parameter>,
        weights: Vec<Vec<f32>>,
        means: Option<Vec<Vec<f32>>>,
        moments: Vec<Moments>,
    }

    impl Saved {
        fn new() -> Saved {
            let config = RunConfig::of_preset("odd").unwrap();
            let parameters = Parameter::all(&config.model);
            let values = |seed| {
                parameters
                    .iter()
                    .map(move |p| model::initial_values(&presets::by_name("odd").unwrap(), p, seed))
            };
            let moments = values(2)
                .zip(values(3))
                .map(|(exp_avg, exp_avg_sq)| Moments { exp_avg, exp_avg_sq })
                .collect();
            let weights = values(1).collect();
            let run = tempfile::tempdir().unwrap();
            Saved { run, config, parameters, weights, means: None, moments }
        }

        fn checkpoints(&self) -> Checkpoints {
            Checkpoints::of_run(self.run.path())
        }

        fn state(&self, steps: u64) -> TrainerState {
            TrainerState {
                seed: 42,
                // Numbers whose shortest decimal forms are long.
                spent: Spent { steps, tokens: steps * 21, seconds: 0.1 + 0.2 },
                progress: 0.7 / 3.0,
                next_window: steps,
                packer: None,
                updates: steps,
                ema_mass: self.means.as_ref().map(|_| 0.9 / 7.0),
                loss_scale: LossScaleState {
                    scale: 65536.0,
                    clean_steps: 3,
                    peak: 0.1,
                    skipped: 1,
                    helpless: 0,
                },
                health: Health::default(),
                recoveries: Recoveries::default(),
            }
        }

        /// The save of step n0 is number n.
        fn save(&self, steps: u64, val_bpb: Option<f64>) -> Result<(PathBuf, u64)> {
            self.checkpoints().save(&self.snapshot(&self.state(steps), val_bpb))
        }

        /// Keeps the newest `keep` and the best.
        fn prune(&self, keep: usize, steps: u64) {
            let config = CheckpointConfig {
                every: Stretch::Share(0.0),
                keep,
                spaced: false,
                milestones: Stretch::Share(0.0),
            };
            self.checkpoints().prune(&config, &self.state(steps));
        }

        fn snapshot<'a>(&'a self, state: &'a TrainerState, val_bpb: Option<f64>) -> Snapshot<'a> {
            Snapshot {
                state,
                progress: 0.3,
                validation: val_bpb.map(|val_bpb| (val_bpb, 8)),
                config: &self.config,
                saves: state.spent.steps / 10,
                occasion: Occasion::Regular,
                parameters: &self.parameters,
                weights: &self.weights,
                means: self.means.as_deref(),
                vocabulary: None,
                moments: &self.moments,
            }
        }

        fn steps(&self) -> Vec<u64> {
            self.checkpoints().list().into_iter().map(|(step, _)| step).collect()
        }

        fn newest_step(&self) -> (u64, Vec<(PathBuf, String)>) {
            let found = self.checkpoints().pick(Pick::Newest, &self.config.model, None).unwrap();
            (found.checkpoint.unwrap().state.spent.steps, found.skipped)
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let saved = Saved::new();
        assert_eq!(
            saved.checkpoints().pick(Pick::Newest, &saved.config.model, None).unwrap(),
            Found::default()
        );
        let (path, bytes) = saved.save(7, Some(1.25)).unwrap();
        assert!(path.ends_with("checkpoints/step_000007"));
        let on_disk: u64 = fs::read_dir(&path).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert_eq!(bytes, on_disk);
        let loaded =
            saved.checkpoints().pick(Pick::Newest, &saved.config.model, None).unwrap().checkpoint.unwrap();
        assert_eq!(loaded.state, saved.state(7));
        assert_eq!(loaded.val_bpb, Some(1.25));
        assert_eq!(loaded.weights, saved.weights);
        assert_eq!(loaded.moments, saved.moments);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing unfinished is left");
    }

    #[test]
    fn a_damaged_checkpoint_is_skipped_and_named() {
        let saved = Saved::new();
        saved.save(1, None).unwrap();
        type Damage<'a> = &'a dyn Fn(&Path);
        let damage: [(&str, Damage<'_>); 8] = [
            ("weights.safetensors: its checksum is", &|p| flip(&p.join(WEIGHTS), 5000)),
            ("optimizer.safetensors: its checksum is", &|p| flip(&p.join(OPTIMIZER), 5000)),
            ("weights.safetensors: it has 100 bytes", &|p| cut(&p.join(WEIGHTS), 100)),
            ("optimizer.safetensors: it cannot be read", &|p| fs::remove_file(p.join(OPTIMIZER)).unwrap()),
            ("state.json: it cannot be read", &|p| fs::remove_file(p.join(STATE)).unwrap()),
            ("state.json: it does not describe a checkpoint", &|p| cut(&p.join(STATE), 50)),
            ("state.json: its contents do not fit its checksum", &|p| {
                replace(&p.join(STATE), "\"seed\": 42", "\"seed\": 43")
            }),
            ("state.json: format 2 is not 1", &|p| replace(&p.join(STATE), "\"format\": 1", "\"format\": 2")),
        ];
        for (wanted, damage) in damage {
            let (path, _) = saved.save(2, None).unwrap();
            assert_eq!(saved.newest_step(), (2, Vec::new()));
            damage(&path);
            let (step, skipped) = saved.newest_step();
            assert_eq!(step, 1);
            assert_eq!(skipped[0].0, path);
            assert!(skipped[0].1.contains(wanted), "{}\nexpected {wanted}", skipped[0].1);
        }
        // Saving over a broken one repairs it.
        saved.save(2, None).unwrap();
        assert_eq!(saved.newest_step(), (2, Vec::new()));
        for (_, path) in saved.checkpoints().list() {
            cut(&path.join(WEIGHTS), 0);
        }
        let error =
            saved.checkpoints().pick(Pick::Newest, &saved.config.model, None).unwrap_err().to_string();
        assert!(error.contains("step_000002") && error.contains("step_000001"), "{error}");
    }

    #[test]
    fn a_mean_of_the_weights_is_a_file_beside_them() {
        let mut saved = Saved::new();
        let (path, without) = saved.save(1, None).unwrap();
        assert!(!path.join(MEANS).exists());
        let values = |p| model::initial_values(&saved.config.model, p, 4);
        saved.means = Some(saved.parameters.iter().map(values).collect());
        let (path, bytes) = saved.save(2, None).unwrap();
        let loaded =
            saved.checkpoints().pick(Pick::Newest, &saved.config.model, None).unwrap().checkpoint.unwrap();
        assert_eq!((&loaded.weights, &loaded.means), (&saved.weights, &saved.means));
        assert_eq!(loaded.state, saved.state(2));
        assert_eq!(loaded.model_weights(true), saved.weights);
        assert_eq!(Some(loaded.model_weights(false)), saved.means.as_deref());
        let numel: usize = saved.parameters.iter().map(Parameter::numel).sum();
        assert!((0..8000).contains(&(bytes as i64 - without as i64 - 4 * numel as i64)), "{without} {bytes}");
        flip(&path.join(MEANS), 5000);
        let (step, skipped) = saved.newest_step();
        assert!(step == 1 && skipped[0].1.contains("means.safetensors: its checksum is"), "{skipped:?}");
        fs::remove_file(path.join(MEANS)).unwrap();
        assert!(saved.newest_step().1[0].1.contains("means.safetensors: it cannot be read"));
    }

    #[test]
    fn another_model_is_named_by_what_differs() {
        let saved = Saved::new();
        saved.save(1, None).unwrap();
        let changed = |change: &dyn Fn(&mut ModelConfig)| {
            let mut other = saved.config.model.clone();
            change(&mut other);
            saved
                .checkpoints()
                .pick(Pick::Newest, &other, None)
                .map(|_| ())
                .map_err(|error| error.to_string())
        };
        let width = changed(&|c| c.width = 44).unwrap_err();
        let wanted = "step_000001: it was trained with model.width = 40, and config.toml says 44; ";
        assert!(width.contains(wanted) && width.contains("set it back"), "{width}");
        let softcap = changed(&|c| c.softcap = 0.1).unwrap_err();
        assert!(softcap.contains("model.softcap = 0.0, and config.toml says 0.1"), "{softcap}");
        changed(&|c| c.init.embedding_std = 7.0).unwrap();
    }

    fn flip(path: &Path, at: usize) {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    fn cut(path: &Path, length: usize) {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..length]).unwrap();
    }

    fn replace(path: &Path, from: &str, to: &str) {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    #[test]
    fn pruning_keeps_the_newest_and_the_best() {
        let saved = Saved::new();
        for (step, val_bpb) in [(10, Some(2.0)), (20, Some(1.5)), (30, None), (40, Some(1.7)), (50, None)] {
            saved.save(step, val_bpb).unwrap();
        }
        saved.prune(2, 50);
        assert_eq!(saved.steps(), [20, 40, 50]);
        saved.prune(0, 50);
        assert_eq!(saved.steps(), [20, 50], "the newest is never removed");
    }

    /// A newer checkpoint that a resume passed over because it is broken must not push out the whole
    /// one that was just saved.
    #[test]
    fn pruning_never_counts_on_a_newer_broken_checkpoint() {
        let saved = Saved::new();
        saved.save(1, Some(2.0)).unwrap();
        saved.save(3, Some(1.0)).unwrap();
        fs::write(saved.run.path().join("checkpoints/step_000003").join(WEIGHTS), "broken").unwrap();
        saved.save(2, None).unwrap();
        saved.prune(1, 2);
        assert!(saved.steps().contains(&2), "{:?}", saved.steps());
        assert_eq!(saved.newest_step().0, 2);
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_not_read() {
        let saved = Saved::new();
        saved.save(1, None).unwrap();
        let half = saved.run.path().join("checkpoints/.step_000002.tmp");
        fs::create_dir(&half).unwrap();
        fs::write(half.join(WEIGHTS), "half").unwrap();
        assert_eq!(saved.newest_step(), (1, Vec::new()));
        saved.checkpoints().remove_unfinished();
        assert!(!half.exists());
        assert_eq!(saved.steps(), [1]);
    }

    /// A checkpoint that is written anew is moved away first; a kill right then does not cost it.
    #[test]
    fn a_kill_while_one_takes_the_place_of_another_leaves_one() {
        let saved = Saved::new();
        saved.save(1, None).unwrap();
        let (path, _) = saved.save(2, None).unwrap();
        let replaced = path.with_file_name(REPLACED);
        fs::rename(&path, &replaced).unwrap();
        saved.checkpoints().remove_unfinished();
        assert_eq!(saved.newest_step(), (2, Vec::new()));
        // Where the other is there, it goes.
        copy_folder(&path, &replaced);
        saved.checkpoints().remove_unfinished();
        assert!(!replaced.exists());
        assert_eq!(saved.steps(), [1, 2]);
    }

    fn copy_folder(from: &Path, to: &Path) {
        fs::create_dir(to).unwrap();
        for file in fs::read_dir(from).unwrap().flatten() {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }

    /// Oracle: what `state.json` was before it had these fields: its checksum is over its own fields only.
    #[test]
    fn what_was_written_before_some_fields_were_there_verifies() {
        let saved = Saved::new();
        let (path, _) = saved.save(3, None).unwrap();
        let path = path.join(STATE);
        let mut old = StateFile::read(&path).unwrap();
        (old.model, old.course, old.val_windows) = Default::default();
        // As the guard's was before 28 November 2026: some history, and nothing of single losses.
        let health = r#"{"history":{"origin":0,"risen":3,"untaught":7.5,"steps":3,"blocks":[],"part":null,"parts":[]},
            "lr":0.01,"skips":0.0,"ill_blocks":0,"verdict":{"verdict":"healthy"}}"#;
        old.trainer.health = serde_json::from_str(health).unwrap();
        (old.saves, old.occasion, old.trainer.progress) = (0, None, 0.0);
        old.sha256 = old.sum();
        let json = serde_json::to_value(&old).unwrap();
        for field in ["model", "course", "val_windows", "saves", "occasion"] {
            assert!(json.get(field).is_none(), "{field}");
        }
        assert!(json["trainer"].get("progress").is_none());
        assert!(json["trainer"]["health"]["lr"] == 0.01 && json["trainer"]["health"].get("recent").is_none());
        fs::write(&path, json.to_string()).unwrap();
        let read = StateFile::read(&path).unwrap();
        assert_eq!((read.occasion(), read), (Occasion::Regular, old));
    }

    #[test]
    fn what_is_kept_for_going_back_far_makes_room_oldest_first() {
        let saved = Saved::new();
        let config = CheckpointConfig {
            every: Stretch::Share(0.0),
            keep: 2,
            spaced: true,
            milestones: Stretch::Share(0.0),
        };
        for number in 1..=8 {
            saved.save(10 * number, (number == 4).then_some(1.5)).unwrap();
            saved.checkpoints().prune(&config, &saved.state(10 * number));
        }
        assert_eq!(saved.steps(), [10, 20, 40, 60, 70, 80]);
        let make_room = || saved.checkpoints().make_room(&config, &saved.state(90));
        for left in [&[20, 40, 60, 70, 80][..], &[40, 60, 70, 80], &[40, 70, 80]] {
            assert!(make_room().is_some());
            assert_eq!(saved.steps(), left);
        }
        // The best, and the newest two.
        assert_eq!((make_room(), saved.steps()), (None, vec![40, 70, 80]));
    }

    /// `/dev/full` says what a full disk says, at any write.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_leaves_the_old_ones_alone() {
        let mut saved = Saved::new();
        saved.means = Some(saved.weights.clone());
        saved.save(1, None).unwrap();
        for name in [WEIGHTS, MEANS, OPTIMIZER, STATE] {
            let folder = saved.run.path().join("checkpoints/.step_000002.tmp");
            fs::create_dir(&folder).unwrap();
            std::os::unix::fs::symlink("/dev/full", folder.join(name)).unwrap();
            let state = saved.state(2);
            let snapshot = saved.snapshot(&state, None);
            let error = write_into(&folder, &snapshot, needed_bytes(&snapshot)).unwrap_err();
            assert!(matches!(error, Error::DiskFull { .. }), "{error}");
            let numel: usize = saved.parameters.iter().map(Parameter::numel).sum();
            assert!(
                error.to_string().contains(&format!("{name}: no room on this disk: {} bytes", 16 * numel)),
                "{error}"
            );
            fs::remove_dir_all(&folder).unwrap();
            assert_eq!(saved.newest_step(), (1, Vec::new()));
        }
        // A file where the folder should be: nothing is written, nothing is lost.
        let run = tempfile::tempdir().unwrap();
        fs::write(run.path().join("checkpoints"), "").unwrap();
        let state = saved.state(2);
        assert!(Checkpoints::of_run(run.path()).save(&saved.snapshot(&state, None)).is_err());
    }
}
