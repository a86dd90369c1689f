//! A whole run: data, steps, logs, validation, checkpoints, from its beginning or from where it was
//! left, to its end or to the next interruption.
//!
//! Nothing is printed here; whoever wants to show something is an [`Observer`].

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use data::{Dataset, PrepareOptions, ReadOptions, Tokenizer, TokenizerChoice, Vocabulary};
use device::Device;
use serde::Serialize;

use crate::checkpoint::{self, Checkpoint, Name, Snapshot};
use crate::clock::SleepWatch;
use crate::config::{EvalConfig, OnDeviceFailure};
use crate::loss_scale::{LossScaleState, PATIENCE};
use crate::retention::Occasion;
use crate::run_dir::{self, RunDir};
use crate::trainer::ScaleChange;
use crate::{
    Budget, Change, Checkpoints, Clock, Error, Evaluation, Event, MachineClock, Pick, Result, RunConfig,
    StepMetrics, Trainer, UserConfig,
};

/// How to begin, and with what.
pub struct RunOptions {
    /// A new run, or one to go on with.
    pub start: Start,
    /// Where the model runs.
    pub device: Arc<dyn Device>,
    /// Why there, for the run's events.
    pub device_why: String,
    /// Opens the device that a run moves to when its own no longer works, if its configuration says so;
    /// without it the run ends.
    pub fallback: Option<Fallback>,
    /// Where prepared data is kept.
    pub cache_dir: PathBuf,
}

/// Opens a device that works everywhere.
pub type Fallback = Box<dyn FnMut() -> device::Result<Arc<dyn Device>>>;

/// Where a run begins.
pub enum Start {
    /// At the beginning.
    New {
        /// What was asked for.
        config: UserConfig,
        /// The folder of all runs.
        runs_dir: PathBuf,
        /// The run's name; `None` takes date, time and preset.
        name: Option<String>,
    },
    /// Where the newest whole checkpoint of this run directory was written.
    Resume {
        /// The directory.
        dir: PathBuf,
        /// Another length, if it is to have one.
        change: Option<Change>,
    },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Its budget is spent.
    Finished(Box<Summary>),
    /// It was asked to stop, and can go on.
    Interrupted {
        /// Its directory.
        run: PathBuf,
        /// The last step, of which there is a checkpoint.
        step: u64,
    },
}

/// The contents of `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The run's directory.
    pub run: PathBuf,
    /// The preset.
    pub preset: String,
    /// The device.
    pub device: String,
    /// Learned numbers.
    pub parameters: usize,
    /// Steps.
    pub steps: u64,
    /// Of them without update.
    pub skipped_steps: u64,
    /// How often the run went back because it was ill.
    pub recoveries: usize,
    /// Steps that were done and taken back then; they are not among `steps`.
    pub discarded_steps: u64,
    /// Training tokens.
    pub tokens: u64,
    /// Seconds in steps.
    pub seconds: f64,
    /// Training tokens in a second of steps, those of steps that were taken back included.
    pub tok_s: f64,
    /// The last validation: bits per byte.
    pub val_bpb: f64,
    /// Its standard error.
    pub val_bpb_se: Option<f64>,
    /// Its mean loss of a token in nats.
    pub val_loss: f64,
    /// All of it: how it was counted, and over what.
    pub validation: Evaluation,
    /// The best that any model can reach on the whole validation text, where that is known.
    pub bound_bits_per_byte: Option<f64>,
    /// A checkpoint that the run still has and that is better than its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub better: Option<Better>,
}

/// What is worth a line where a text is one document, which has no standard error: half a percent over the same windows.
const LEAST_GAIN: f64 = 0.005;

/// A checkpoint that is better than the end of its run by more than the standard error of that, over the same windows:
/// of a run that has learned its text by heart, or whose rate was too high.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Better {
    /// Its step.
    pub step: u64,
    /// Its folder.
    pub checkpoint: PathBuf,
    /// Its val_bpb.
    pub val_bpb: f64,
    /// That of the end.
    pub end_val_bpb: f64,
    /// Over so many windows.
    pub windows: usize,
}

/// Somebody who wants to see a run while it happens.
pub trait Observer {
    /// The data is being prepared.
    fn on_data(&mut self, progress: &data::Progress) {
        let _ = progress;
    }
    /// Everything is ready, and the first step follows: the run's directory and its trainer.
    fn on_start(&mut self, run: &Path, trainer: &Trainer) {
        let _ = (run, trainer);
    }
    /// After each step; `progress` is the share of the budget that is spent.
    fn on_step(&mut self, metrics: &StepMetrics, progress: f64) {
        let _ = (metrics, progress);
    }
    /// After each validation.
    fn on_eval(&mut self, step: u64, evaluation: &Evaluation) {
        let _ = (step, evaluation);
    }
    /// Whatever is written to `events.jsonl`.
    fn on_event(&mut self, event: &Event) {
        let _ = event;
    }
}

/// Nobody watches.
impl Observer for () {}

/// Trains until the budget is spent or `stop` is set, which is looked at after each step and during the last validation.
///
/// # Errors
/// Everything that [`Error`] names. What was saved before stays as it is, and the run can be
/// resumed.
pub fn train_run(options: RunOptions, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome> {
    train_run_by(Arc::new(MachineClock::default()), options, observer, stop)
}

/// As [`train_run`], by another clock than the machine's.
///
/// # Errors
/// As [`train_run`].
pub fn train_run_by(
    clock: Arc<dyn Clock>,
    options: RunOptions,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Outcome> {
    let mut session = match options.start {
        Start::New { config, runs_dir, name } => {
            let device = (options.device, options.device_why);
            Session::begin(&config, &runs_dir, name, device, &options.cache_dir, observer)?
        }
        Start::Resume { dir, change } => {
            let device = (options.device, options.device_why);
            Session::resume(&dir, change, device, &options.cache_dir, observer)?
        }
    };
    session.trainer.set_clock(clock.clone());
    session.observer.on_start(session.run.path(), &session.trainer);
    let mut fallback = options.fallback;
    let outcome = session.train(stop, clock.as_ref(), &mut fallback);
    if let Err(error) = &outcome {
        let step = session.trainer.spent().steps;
        // The error itself matters more than one that keeps it from being written.
        let _ = session.event(Event::Failed { step, why: error.to_string() });
    }
    outcome
}

/// A run that has begun.
pub(crate) struct Session<'o> {
    pub(crate) run: RunDir,
    pub(crate) trainer: Trainer,
    observer: &'o mut dyn Observer,
    /// The last validation and its step.
    pub(crate) evaluated: Option<(u64, Evaluation)>,
    /// The step of the newest checkpoint, and why it was written.
    pub(crate) saved: Option<(u64, Occasion)>,
    /// Regular checkpoints up to it.
    pub(crate) saves: u64,
}

impl<'o> Session<'o> {
    fn begin(
        user: &UserConfig,
        runs_dir: &Path,
        name: Option<String>,
        (device, device_why): (Arc<dyn Device>, String),
        cache_dir: &Path,
        observer: &'o mut dyn Observer,
    ) -> Result<Self> {
        let mut config = user.resolve()?;
        if config.device == "auto" {
            config.device = device.name().to_owned();
        }
        // Of a run whose config.toml this may be: a new one has its own beginning.
        config.schedule.forget_changes();
        let dir = runs_dir.join(name.unwrap_or_else(|| run_dir::default_name(&config.preset)));
        // Before the data is prepared, which may take a while.
        run_dir::require_free(&dir)?;
        let given = user.has("model.vocab_size");
        let (mut dataset, choice) = prepare_data(&config, given, cache_dir, observer)?;
        let place = PathBuf::from(user.place("data.source"));
        config.take_data(&mut dataset, given, &place)?;
        // Values that depend on the vocabulary are checked with the one that the data has.
        let mut trainer = Trainer::new(config, dataset, device)?;
        set_replay(&mut trainer)?;
        run_dir::require_room(&dir, trainer.config())?;
        let of = trainer.dataset();
        let run = RunDir::create(&dir, trainer.config(), &of.tokenizer, of.vocabulary.as_deref())?;
        let mut session = Session { run, trainer, observer, evaluated: None, saved: None, saves: 0 };
        let config = session.trainer.config();
        let started = Event::Started {
            preset: config.preset.clone(),
            parameters: config.model.parameter_count(),
            step_tokens: config.step_tokens(),
            budget: config.budget.to_string(),
            checkpoint_bytes: config.checkpoint_bytes(),
            most_checkpoint_bytes: config.most_checkpoint_bytes(),
            and_milestones: !config.counts_milestones(),
            device: session.device(),
            device_why,
        };
        session.event(started)?;
        if let Some(what) = choice {
            session.event(Event::Choice { what })?;
        }
        session.log_choices()?;
        Ok(session)
    }

    fn resume(
        dir: &Path,
        change: Option<Change>,
        (device, device_why): (Arc<dyn Device>, String),
        cache_dir: &Path,
        observer: &'o mut dyn Observer,
    ) -> Result<Self> {
        let (mut run, mut config) = RunDir::open(dir)?;
        let vocabulary = run_dir::read_vocabulary(dir, &config)?;
        let found = run.checkpoints().pick(Pick::Newest, &config.model, vocabulary.as_deref())?;
        let (mut dataset, _) = prepare_data(&config, true, cache_dir, observer)?;
        config.take_data(&mut dataset, true, &dir.join(run_dir::CONFIG))?;
        let edited = found.checkpoint.as_ref().map_or(Ok(Vec::new()), |saved| edits(&config, saved, dir))?;
        let (spent, recoveries) = match &found.checkpoint {
            Some(checkpoint) => (checkpoint.state.spent, checkpoint.state.recoveries.clone()),
            None => Default::default(),
        };
        let changed = change.map(|change| change.apply(&mut config, &spent, &recoveries)).transpose()?;
        let mut trainer = Trainer::new(config, dataset, device)?;
        set_replay(&mut trainer)?;
        let checkpoint = found.checkpoint.as_ref().map(|checkpoint| checkpoint.path.clone());
        let saves = found.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.saves);
        let saved = found.checkpoint.as_ref().map(|saved| (saved.state.spent.steps, saved.occasion));
        if let Some(checkpoint) = found.checkpoint {
            trainer.restore(checkpoint)?;
        }
        let earlier_schedule = trainer.begin_schedule_here();
        let step = trainer.spent().steps;
        let recoveries = trainer.recoveries().all.len();
        let dropped_metrics = run.rewind(recoveries, step)?;
        let mut session = Session { run, trainer, observer, evaluated: None, saved, saves };
        for (path, why) in found.skipped {
            session.event(Event::CheckpointSkipped { path, why })?;
        }
        let device = session.device();
        session.event(Event::Resumed {
            step,
            checkpoint,
            recoveries,
            dropped_metrics,
            device,
            device_why,
        })?;
        if let Err(little) = run_dir::require_room(dir, session.trainer.config()) {
            // What has begun may still end in time.
            session.event(Event::LittleRoom { step, what: little.to_string() })?;
        }
        session.log_choices()?;
        for (key, was, now) in edited {
            session.event(Event::ConfigChanged { step, key, was, now })?;
        }
        session.require_hope("see the events of the run")?;
        // Nothing refuses the run from here on.
        if changed.is_some() || earlier_schedule {
            session.run.replace_config(session.trainer.config())?;
        }
        if let Some(what) = changed {
            session.event(Event::Rescheduled { step, what })?;
        }
        Ok(session)
    }

    fn device(&self) -> String {
        let device = self.trainer.stack().device();
        format!("{}: {}", device.name(), device.describe())
    }

    /// What was decided for this data and device.
    fn log_choices(&mut self) -> Result<()> {
        let dataset = self.trainer.dataset();
        let data = Event::Data {
            source: self.trainer.config().data.source.clone(),
            split_rule: dataset.info.split_rule.clone(),
            train_tokens: dataset.train.len() as u64,
            valid_tokens: dataset.valid.len() as u64,
            bound_bits_per_byte: dataset.info.bound_bits_per_byte,
        };
        let passed_over = dataset.info.passed_over.lines();
        self.event(data)?;
        for what in passed_over {
            self.event(Event::Choice { what })?;
        }
        for what in self.trainer.stack().choices().to_vec() {
            self.event(Event::Choice { what })?;
        }
        Ok(())
    }

    pub(crate) fn event(&mut self, event: Event) -> Result<()> {
        self.observer.on_event(&event);
        self.log(|run| run.log_event(&event))
    }

    /// Adds to a log, for which checkpoints make room as for one of their own: a night is not to end for a line.
    fn log(&mut self, mut add: impl FnMut(&mut RunDir) -> Result<()>) -> Result<()> {
        let checkpoints = self.run.checkpoints();
        let (gone, added) = with_room(&checkpoints, &self.trainer, || add(&mut self.run));
        added?;
        self.say_gone(gone)
    }

    fn say_gone(&mut self, gone: Vec<PathBuf>) -> Result<()> {
        let step = self.trainer.spent().steps;
        gone.into_iter().try_for_each(|path| self.event(Event::MadeRoom { step, path }))
    }

    fn train(
        &mut self,
        stop: &AtomicBool,
        clock: &dyn Clock,
        fallback: &mut Option<Fallback>,
    ) -> Result<Outcome> {
        let mut sleep = SleepWatch::new(clock);
        let config = self.trainer.config().clone();
        let logs_every_step = matches!(config.budget, Budget::Time(_));
        // A run that is found ill at its end goes back, and may have steps to do again.
        while !self.trainer.is_done() || self.heed_the_end(stop, fallback)? && !self.trainer.is_done() {
            if stop.load(Ordering::Relaxed) {
                return self.interrupt();
            }
            let before = *self.trainer.spent();
            let metrics = self.on_device(fallback, Trainer::step)?;
            let is_news = metrics.guard.as_ref().is_some_and(|guard| guard.news.is_some());
            let is_due = logs_every_step || metrics.step.is_multiple_of(config.log_every);
            if is_due || is_news || metrics.skipped || self.trainer.is_done() {
                self.log(|run| run.log_step(&metrics))?;
            }
            self.log_scale(&metrics)?;
            if let Some(slept) = sleep.look(clock) {
                self.event(Event::Slept { step: metrics.step, seconds: slept.as_secs_f64() })?;
            }
            self.observer.on_step(&metrics, self.trainer.progress());
            if self.heed(&metrics)? {
                continue;
            }
            if self.trainer.is_done() {
                continue;
            }
            let (budget, after) = (*self.trainer.budget(), *self.trainer.spent());
            if config.eval.every.passed(&budget, &before, &after) {
                self.evaluate(config.eval.windows, &AtomicBool::new(false), fallback)?;
            }
            if config.checkpoint.milestones.passed(&budget, &before, &after) {
                self.save(Occasion::Milestone)?;
            } else if config.checkpoint.every.passed(&budget, &before, &after) {
                self.save(Occasion::Regular)?;
            }
        }
        self.finish(&config, stop, fallback)
    }

    /// Lets the trainer use its device. When that fails it is tried once more, because engines were seen to
    /// fail for a moment; when it fails again the state is saved, and the run ends or moves, as configured.
    fn on_device<T>(
        &mut self,
        fallback: &mut Option<Fallback>,
        mut work: impl FnMut(&mut Trainer) -> Result<T>,
    ) -> Result<T> {
        let failure = |error: &Error| match error {
            Error::Model(model::Error::Device(
                failed @ (device::Error::Run { .. } | device::Error::Read { .. }),
            )) => Some(failed.to_string()),
            _ => None,
        };
        let step = self.trainer.spent().steps;
        let why = match work(&mut self.trainer) {
            Err(error) if failure(&error).is_some() => failure(&error).unwrap_or_default(),
            done => return done,
        };
        self.event(Event::DeviceFailed { step, why, then: "it is tried once more".to_owned() })?;
        let error = match work(&mut self.trainer) {
            Err(error) if failure(&error).is_some() => error,
            done => return done,
        };
        let why = failure(&error).unwrap_or_default();
        self.save(Occasion::Other)?;
        let moves = self.trainer.config().on_device_failure == OnDeviceFailure::Cpu;
        let Some(open) = fallback.as_mut().filter(|_| moves) else {
            let then = "the run ends; its checkpoint is of this step".to_owned();
            self.event(Event::DeviceFailed { step, why, then })?;
            return Err(error);
        };
        let device = open().map_err(|error| Error::Model(error.into()))?;
        let then = format!("the run goes on on {}: {}", device.name(), device.describe());
        self.event(Event::DeviceFailed { step, why, then })?;
        self.trainer.move_to(device)?;
        work(&mut self.trainer)
    }

    fn log_scale(&mut self, metrics: &StepMetrics) -> Result<()> {
        let step = metrics.step;
        match metrics.scale_change.clone() {
            None => Ok(()),
            Some(ScaleChange::Skipped { why, scale }) => {
                self.event(Event::Skipped { step, why: why.clone(), scale })?;
                let LossScaleState { helpless: skipped, .. } = self.trainer.state().loss_scale;
                let is_over = skipped >= PATIENCE && !self.trainer.config().guard.recovers();
                if is_over { Err(Error::Diverged { step, skipped, why }) } else { Ok(()) }
            }
            Some(ScaleChange::Grew { scale }) => self.event(Event::ScaleGrew { step, scale }),
        }
    }

    /// Validation; `None` when it was stopped.
    pub(crate) fn evaluate(
        &mut self,
        windows: usize,
        stop: &AtomicBool,
        fallback: &mut Option<Fallback>,
    ) -> Result<Option<Evaluation>> {
        let step = self.trainer.spent().steps;
        let Some(result) = self.on_device(fallback, |trainer| trainer.evaluate(windows, stop))? else {
            return Ok(None);
        };
        self.evaluated = Some((step, result.clone()));
        self.observer.on_eval(step, &result);
        self.event(Event::Validation { step, result: result.clone() })?;
        Ok(Some(result))
    }

    /// Writes a checkpoint, unless the newest is of this very step and as lasting. One that a failing device left
    /// before a regular one was due is written anew: as it was, it would soon be removed.
    pub(crate) fn save(&mut self, occasion: Occasion) -> Result<()> {
        let step = self.trainer.spent().steps;
        if self.saved.is_some_and(|(at, why)| at == step && (why != Occasion::Other || occasion == why)) {
            return Ok(());
        }
        let begun = Instant::now();
        self.saves += u64::from(occasion != Occasion::Other);
        self.run.sync_logs()?;
        let checkpoints = self.run.checkpoints();
        let weights = self.trainer.weights();
        let parameters = self.trainer.stack().parameters().to_vec();
        let state = self.trainer.state();
        let snapshot = Snapshot {
            state: &state,
            progress: self.trainer.progress(),
            validation: self.evaluated_here().map(|result| (result.val_bpb, result.windows)),
            config: self.trainer.config(),
            saves: self.saves,
            occasion,
            parameters: &parameters,
            weights: &weights,
            means: self.trainer.means(),
            vocabulary: self.trainer.dataset().vocabulary.as_deref(),
            moments: self.trainer.moments(),
        };
        let (gone, saved) = with_room(&checkpoints, &self.trainer, || checkpoints.save(&snapshot));
        self.say_gone(gone)?;
        let (path, bytes) = saved?;
        self.saved = Some((step, occasion));
        checkpoints.prune(&self.trainer.config().checkpoint, &state);
        self.event(Event::Checkpoint { step, path, bytes, seconds: begun.elapsed().as_secs_f64() })
    }

    /// The validation after the last step, if there was one.
    fn evaluated_here(&self) -> Option<&Evaluation> {
        let step = self.trainer.spent().steps;
        self.evaluated.as_ref().filter(|(at, _)| *at == step).map(|(_, result)| result)
    }

    /// Writes what the validation after the last step found into the checkpoint of that step.
    fn score(&self) -> Result<()> {
        let Some(result) = self.evaluated_here().filter(|result| result.val_bpb.is_finite()) else {
            return Ok(());
        };
        let (checkpoints, state) = (self.run.checkpoints(), self.trainer.state());
        checkpoint::add_score(&checkpoints.folder(&state), (result.val_bpb, result.windows))?;
        checkpoints.prune(&self.trainer.config().checkpoint, &state);
        Ok(())
    }

    /// A checkpoint that is better than the model as it was just validated.
    fn better(&self) -> Option<Better> {
        let now = self.evaluated_here()?;
        let (val_bpb, checkpoint) = self.run.checkpoints().scored(now.windows).into_iter().next()?;
        let step = Name::parse(&checkpoint)?.step;
        let (windows, end_val_bpb) = (now.windows, now.val_bpb);
        let least = now.val_bpb_se.unwrap_or(LEAST_GAIN * end_val_bpb);
        let is_better = !end_val_bpb.is_finite() || val_bpb < end_val_bpb - least;
        is_better.then_some(Better { step, checkpoint, val_bpb, end_val_bpb, windows })
    }

    fn interrupt(&mut self) -> Result<Outcome> {
        self.save(Occasion::Other)?;
        let step = self.trainer.spent().steps;
        self.event(Event::Interrupted { step })?;
        let run = self.run.path().to_owned();
        Ok(Outcome::Interrupted { run, step })
    }

    fn finish(
        &mut self,
        config: &RunConfig,
        stop: &AtomicBool,
        fallback: &mut Option<Fallback>,
    ) -> Result<Outcome> {
        // Before the last validations, which may be long and are no reason to lose anything.
        self.save(Occasion::Regular)?;
        let EvalConfig { every, windows, final_windows } = config.eval;
        if !every.is_zero() {
            // Over the windows of every validation of the run: by them its checkpoints are compared.
            if self.evaluated_here().is_none() && self.evaluate(windows, stop, fallback)?.is_none() {
                return self.interrupt();
            }
            self.score()?;
        }
        let better = self.better();
        let is_final = |result: &&Evaluation| {
            let are_all = result.windows < windows && result.windows < final_windows;
            windows == final_windows || are_all
        };
        let result = match self.evaluated_here().filter(is_final).cloned() {
            Some(result) => result,
            None => match self.evaluate(final_windows, stop, fallback)? {
                Some(result) => result,
                None => return self.interrupt(),
            },
        };
        let state = self.trainer.state();
        if state.updates == 0 || !result.val_bpb.is_finite() {
            return Err(Error::NothingLearned {
                step: state.spent.steps,
                updates: state.updates,
                skipped: state.loss_scale.skipped,
                val_bpb: result.val_bpb,
                better: better.map(|better| better.step),
            });
        }
        let summary = Summary {
            run: self.run.path().to_owned(),
            preset: config.preset.clone(),
            device: self.trainer.stack().device().name().to_owned(),
            parameters: config.model.parameter_count(),
            steps: state.spent.steps,
            skipped_steps: state.loss_scale.skipped,
            recoveries: state.recoveries.all.len(),
            discarded_steps: state.recoveries.discarded_steps,
            tokens: state.spent.tokens,
            seconds: state.spent.seconds,
            tok_s: (state.spent.tokens + state.recoveries.discarded_tokens) as f64 / state.spent.seconds,
            val_bpb: result.val_bpb,
            val_bpb_se: result.val_bpb_se,
            val_loss: result.val_loss,
            validation: result.clone(),
            bound_bits_per_byte: self.trainer.dataset().info.bound_bits_per_byte,
            better,
        };
        self.event(Event::Finished { step: state.spent.steps, val_bpb: result.val_bpb })?;
        self.run.sync_logs()?;
        self.run.write_summary(&summary)?;
        Ok(Outcome::Finished(Box::new(summary)))
    }
}

/// What `write` gives once there is room for it, or nothing is left that could make some; the checkpoints that are gone
/// for it.
fn with_room<T>(
    checkpoints: &Checkpoints,
    trainer: &Trainer,
    mut write: impl FnMut() -> Result<T>,
) -> (Vec<PathBuf>, Result<T>) {
    let mut gone = Vec::new();
    loop {
        let full = match write() {
            Err(full @ Error::DiskFull { .. }) => full,
            done => return (gone, done),
        };
        match checkpoints.make_room(&trainer.config().checkpoint, &trainer.state()) {
            Some(path) => gone.push(path),
            None => return (gone, Err(full)),
        }
    }
}

/// Settings of a run's course that `config.toml` has other values for than when the run was saved: key, then and now.
///
/// # Errors
/// [`Error::Value`] for those that a run keeps, or that are changed in another way.
fn edits(config: &RunConfig, saved: &Checkpoint, dir: &Path) -> Result<Vec<(String, String, String)>> {
    const LENGTH: [&str; 2] = ["budget", "schedule."];
    const ORDER: [&str; 2] = ["seed", "data."];
    const RECORD: [&str; 1] = ["replay"];
    const RAMP: [&str; 1] = ["batch_ramp."];
    let is_of = |key: &str, group: &[&str]| group.iter().any(|prefix| key.starts_with(prefix));
    let course = config.course();
    let of = |key: &str| (saved.course.get(key), course.get(key));
    // After a change of length by its own option, which changes amounts of the ramp, too, nothing was saved yet.
    let rescheduled = config.schedule.changed_after == saved.state.spent.steps
        || matches!(of("schedule.changed_after"), (Some(was), Some(now)) if was != now);
    let mut edited = Vec::new();
    for (key, was) in &saved.course {
        // A key that only one of two versions knows has its default in the other.
        let Some(now) = course.get(key).filter(|now| *now != was) else { continue };
        if rescheduled && (is_of(key, &LENGTH) || is_of(key, &RAMP)) {
            continue;
        }
        let problem = if is_of(key, &LENGTH) {
            "a run is given another length or schedule by --resume with --budget and --schedule, or --decay-now, so \
             that it is said what becomes of its rate"
        } else if is_of(key, &ORDER) {
            "the order of its data follows from it"
        } else if is_of(key, &RECORD) {
            "it goes by one record, or none, to its end"
        } else {
            edited.push((key.clone(), was.clone(), now.clone()));
            continue;
        };
        return Err(Error::Value {
            place: dir.join(run_dir::CONFIG).display().to_string(),
            key: key.clone(),
            value: now.clone(),
            problem: format!("the run was saved with {was}, and {problem}: set it back"),
        });
    }
    Ok(edited)
}

fn set_replay(trainer: &mut Trainer) -> Result<()> {
    if !trainer.config().replay.is_empty() {
        let dir = Path::new(&trainer.config().replay);
        let changed_after = run_dir::read_config(dir)?.schedule.changed_after;
        if changed_after > 0 {
            return Err(Error::Value {
                place: "configuration".into(),
                key: "replay".into(),
                value: dir.display().to_string(),
                problem: format!(
                    "that run was given another length after step {changed_after}, so its progress before is of \
                     another schedule; replay a run that kept its budget"
                ),
            });
        }
        let recorded = run_dir::recorded_progress(dir)?;
        trainer.set_replay(recorded);
    }
    Ok(())
}

/// Prepares the data of a configuration, or finds it in the cache. A vocabulary that somebody chose
/// (`vocab_is_given`) is made exactly; that of a preset may turn out smaller when the text does not
/// give as many tokens, which the second result then says.
///
/// # Errors
/// [`Error::Data`].
pub fn prepare_data(
    config: &RunConfig,
    vocab_is_given: bool,
    cache_dir: &Path,
    observer: &mut dyn Observer,
) -> Result<(Dataset, Option<String>)> {
    let observer = RefCell::new(observer);
    let progress = |progress: data::Progress| observer.borrow_mut().on_data(&progress);
    let mut options = PrepareOptions::new(config.data.source.parse()?, cache_dir);
    options.read = ReadOptions { column: config.data.column.clone(), lenient: config.data.lenient };
    if config.data.tokenizer != "train" {
        options.tokenizer = TokenizerChoice::File(config.data.tokenizer.clone().into());
        return Ok((data::prepare(&options, &progress)?, None));
    }
    let wanted = match config.data.vocab_size {
        0 => config.model.vocab_size,
        recorded => recorded,
    };
    options.tokenizer = TokenizerChoice::Train { vocab_size: Some(wanted) };
    match data::prepare(&options, &progress) {
        Err(data::Error::Vocabulary { .. }) if !vocab_is_given => {
            options.tokenizer = TokenizerChoice::Train { vocab_size: None };
            let dataset = data::prepare(&options, &progress)?;
            let found = dataset.tokenizer.vocab_size();
            let what = format!(
                "vocabulary of {found}: a tokenizer of the preset's {wanted} tokens cannot be made from this text"
            );
            Ok((dataset, Some(what)))
        }
        prepared => Ok((prepared?, None)),
    }
}

/// A trained model, as generating and evaluating need it.
#[derive(Debug)]
pub struct Trained {
    /// What the run is.
    pub config: RunConfig,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its model's vocabulary, where that is shorter than the tokenizer's.
    pub vocabulary: Option<Arc<Vocabulary>>,
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Those that come before it and cannot be used, and why.
    pub skipped: Vec<(PathBuf, String)>,
}

/// Reads a run's model, as one of its checkpoints has it, without locking the run.
///
/// # Errors
/// [`Error::NotARun`], [`Error::Vocabulary`]; as [`Checkpoints::pick`].
pub fn load_trained(dir: &Path, pick: Pick) -> Result<Trained> {
    let config = run_dir::read_config(dir)?;
    let path = dir.join(run_dir::TOKENIZER);
    let tokenizer = Tokenizer::load(&path)?;
    let vocabulary = run_dir::read_vocabulary(dir, &config)?;
    let actual = vocabulary.as_ref().map_or(tokenizer.vocab_size(), |vocabulary| vocabulary.rows());
    if actual != config.model.vocab_size {
        return Err(Error::Vocabulary { path, configured: config.model.vocab_size, actual });
    }
    let found = Checkpoints::of_run(dir).pick(pick, &config.model, vocabulary.as_deref())?;
    let Some(checkpoint) = found.checkpoint else {
        let problem = "it has no checkpoint yet; train it first".into();
        return Err(Error::NotARun { dir: dir.to_owned(), problem });
    };
    Ok(Trained { config, tokenizer, vocabulary, checkpoint, skipped: found.skipped })
}
