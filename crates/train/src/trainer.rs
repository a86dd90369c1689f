//! The step: gradients of a batch, judged, clipped and applied.
//!
//! A [`Trainer`] owns everything that changes while a model is trained, and nothing on disk. Its
//! [`TrainerState`], weights and moments are all that a checkpoint has to keep: a trainer that is
//! given them back goes on with the same bits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use data::{ByteCount, Dataset, Loader, Position};
use device::Device;
use model::Stack;
use serde::Serialize;

use crate::adamw::Moments;
use crate::checkpoint::{Checkpoint, OPTIMIZER, TrainerState};
use crate::config::OptimizerKind;
use crate::gradient::{Measure, Peak};
use crate::guard::{Guard, Health, Reading, Signals};
use crate::loss_scale::{LossScale, Verdict};
use crate::optimizer::{Optimizer, Pace};
use crate::recovery::{Fitted, Recoveries};
use crate::{
    Budget, Clock, Ema, Error, Evaluation, MachineClock, Protocol, Result, RunConfig, Schedule, Spent,
    ValidationData, evaluate_while,
};

/// What one step was like: a line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepMetrics {
    /// Its number, from 1. Numbers come again after the run has gone back.
    pub step: u64,
    /// How often the run has gone back.
    #[serde(skip_serializing_if = "is_zero")]
    pub recoveries: usize,
    /// Tokens seen, its own included.
    pub tokens: u64,
    /// The progress in [0, 1] that its schedule went by.
    pub progress: f64,
    /// Mean loss of its tokens in nats, before its update.
    pub loss: f64,
    /// Base learning rate, what the guard has taken off it included.
    pub lr: f64,
    /// Norm of the mean loss's gradient, before clipping.
    pub grad_norm: f64,
    /// The factor that clipping put on it.
    pub clip: f64,
    /// The loss scale.
    pub scale: f64,
    /// Whether the update was left out.
    pub skipped: bool,
    /// Largest magnitude in the residual stream after each layer, `[L]`.
    pub act_max: Vec<f32>,
    /// Tokens in a second of this step.
    pub tok_s: f64,
    /// Seconds in steps so far, this one included.
    pub elapsed: f64,
    /// Programs that the device ran.
    pub dispatches: u64,
    /// Bytes that went to the device, in its element type.
    pub bytes_written: u64,
    /// Bytes that came from the device.
    pub bytes_read: u64,
    /// Where its time went.
    pub ms: Timings,
    /// What became of the loss scale.
    #[serde(skip)]
    pub scale_change: Option<ScaleChange>,
    /// What the guard says; not there where it is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<Reading>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_zero(value: &usize) -> bool {
    *value == 0
}

/// Milliseconds of a step.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Timings {
    /// All of it.
    pub total: f64,
    /// In the device's programs.
    pub programs: f64,
    /// Of them, those that the engine itself worked; not there where it does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<f64>,
    /// In copies to and from the device, conversion included.
    pub copies: f64,
    /// Neither in programs nor in copies: on the host.
    pub host: f64,
    /// In measuring gradients and updating weights, copies of these included.
    pub update: f64,
}

/// What the loss scale did about a step.
#[derive(Debug, Clone, PartialEq)]
pub enum ScaleChange {
    /// The update was left out, for this reason; the scale of the next step is `scale`.
    Skipped {
        /// What was wrong.
        why: String,
        /// The scale that follows.
        scale: f64,
    },
    /// Gradients have long been small, and the scale of the next step is doubled.
    Grew {
        /// The scale that follows.
        scale: f64,
    },
}

/// A model in training.
pub struct Trainer {
    config: RunConfig,
    dataset: Dataset,
    loader: Loader,
    /// After the last batch that was used.
    position: Position,
    validation: ValidationData,
    stack: Stack,
    optimizer: Optimizer,
    ema: Option<Ema>,
    scale: LossScale,
    schedule: Schedule,
    guard: Guard,
    recoveries: Recoveries,
    budget: Budget,
    replay: Option<Vec<f64>>,
    spent: Spent,
    /// What the last step went by.
    progress: f64,
    clock: Arc<dyn Clock>,
}

impl Trainer {
    /// A model with its first weights, at the beginning of its run.
    ///
    /// # Errors
    /// [`Error::Model`] when the device does not take the model, [`Error::Data`].
    pub fn new(config: RunConfig, dataset: Dataset, device: Arc<dyn Device>) -> Result<Trainer> {
        let loader = config.loader(&dataset)?;
        let element = device.element();
        let mut stack = Stack::new(&config.model, device.clone(), &config.stack_options())?;
        let parameters = stack.parameters().to_vec();
        for (index, parameter) in parameters.iter().enumerate() {
            stack.set_weights(index, &model::initial_values(&config.model, parameter, config.seed))?;
        }
        Ok(Trainer {
            loader,
            position: Position::default(),
            validation: ValidationData::new(&dataset, ByteCount::Raw),
            optimizer: Optimizer::new(&config.optimizer, &parameters, device)?,
            ema: config.ema_half_life().map(|half_life| Ema::new(half_life, &parameters)),
            scale: LossScale::new(element, config.scale_rules(), config.step_tokens()),
            schedule: config.schedule(),
            guard: Guard::new(config.guard.clone()),
            recoveries: Recoveries::default(),
            budget: config.budget,
            replay: None,
            spent: Spent::default(),
            progress: 0.0,
            clock: Arc::new(MachineClock::default()),
            config,
            dataset,
            stack,
        })
    }

    /// Takes the time from another clock than the machine's.
    pub fn set_clock(&mut self, clock: Arc<dyn Clock>) {
        self.clock = clock;
    }

    /// Goes by recorded progress, one value for each step, instead of budget and clock.
    pub fn set_replay(&mut self, progress: Vec<f64>) {
        self.budget = Budget::Steps(progress.len() as u64);
        self.replay = Some(progress);
    }

    /// What the run is.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// The data.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The model on its device.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// What has been used up of the budget.
    pub fn spent(&self) -> &Spent {
        &self.spent
    }

    /// The budget; that of a replay is its number of steps.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The share of the budget that is spent.
    pub fn progress(&self) -> f64 {
        self.budget.share(&self.spent)
    }

    /// Whether the budget is spent.
    pub fn is_done(&self) -> bool {
        self.budget.is_spent(&self.spent)
    }

    /// How much of its schedule the run has behind it: the share of the budget that is spent, unless it
    /// [went back](crate::recovery) with a budget in time.
    pub fn schedule_progress(&self) -> f64 {
        self.scheduled(self.progress())
    }

    /// The progress of the schedule when this share of the budget is spent.
    fn scheduled(&self, share: f64) -> f64 {
        self.recoveries.progress(share, &self.budget, &self.config.schedule)
    }

    /// The progress that the step before went by, in the present budget; that of its end where the budget is new.
    fn progress_before(&self) -> f64 {
        if self.spent.steps == self.config.schedule.changed_after {
            return self.schedule_progress();
        }
        self.progress
    }

    /// One step: gradients over its microbatches, and the update if they are sound.
    ///
    /// # Errors
    /// [`Error::Model`] when the device fails: the trainer is then as it was before the step, which may be tried again.
    pub fn step(&mut self) -> Result<StepMetrics> {
        let begun = self.clock.awake();
        let telemetry = self.stack.device().telemetry();
        let progress_before = self.progress_before();
        let microbatches = self.config.accum_after(progress_before);
        let step_tokens = microbatches as u64 * self.config.microbatch_tokens();
        let scale = self.scale.scale();

        let (position, scale_state) = (self.position.clone(), self.scale.state());
        let gradients = match self.accumulate(microbatches) {
            Ok(gradients) => gradients,
            Err(error) => {
                self.loader.seek(position.clone())?;
                self.position = position;
                return Err(error);
            }
        };
        let update_begun = self.clock.awake();
        let progress = self.progress_of_step(step_tokens, (update_begun - begun).as_secs_f64());
        let rate = self.schedule.multiplier(progress) * self.recoveries.lr_factor;
        let measure = self.measure();
        // Gradients are those of scale/tokens times the sum of losses, as the device rounded it; the tokens are those
        // of a step of full size, so that a token's gradient is as large in a smaller one.
        let effective = self.stack.effective_scale(self.scale.log_scale()) * step_tokens as f64;
        let grad_norm = measure.sum_of_squares.sqrt() / effective;
        let clip = self.clip(grad_norm);
        let loss = gradients.loss_sum / step_tokens as f64;
        let activation = Peak::of(&gradients.act_max);
        let scale_change = match self.scale.judge(activation, measure.peak.max(gradients.peak), loss) {
            Verdict::Use => None,
            Verdict::UseAndGrow => Some(ScaleChange::Grew { scale: self.scale.scale() }),
            Verdict::Skip(why) => Some(ScaleChange::Skipped { why, scale: self.scale.scale() }),
        };
        let skipped = matches!(scale_change, Some(ScaleChange::Skipped { .. }));
        if !skipped {
            let pace = Pace { rate, progress, gradient_factor: clip / effective };
            if let Err(error) = self.optimizer.update(&mut self.stack, pace) {
                // Muon asks the device for its directions before it moves anything.
                self.scale.restore(scale_state);
                self.loader.seek(position.clone())?;
                self.position = position;
                return Err(error);
            }
            if let Some(ema) = &mut self.ema {
                ema.update(&mut self.stack, progress - progress_before);
            }
        }

        let ended = self.clock.awake();
        let seconds = (ended - begun).as_secs_f64();
        let telemetry = self.stack.device().telemetry().since(telemetry);
        self.spent = Spent {
            steps: self.spent.steps + 1,
            tokens: self.spent.tokens + step_tokens,
            seconds: self.spent.seconds + seconds,
        };
        self.progress = progress;
        let helpless = self.scale.state().helpless;
        let act_max = gradients.act_max;
        let signals = Signals {
            step: self.spent.steps,
            lr: rate,
            loss,
            grad_norm,
            act_max: &act_max,
            skipped,
            helpless,
        };
        let guard = self.guard.observe(&signals);
        Ok(StepMetrics {
            step: self.spent.steps,
            recoveries: self.recoveries.all.len(),
            tokens: self.spent.tokens,
            progress,
            loss,
            lr: self.config.optimizer.lr * rate,
            grad_norm,
            clip,
            scale,
            skipped,
            act_max,
            tok_s: step_tokens as f64 / seconds,
            elapsed: self.spent.seconds,
            dispatches: telemetry.dispatches,
            bytes_written: telemetry.bytes_written,
            bytes_read: telemetry.bytes_read,
            ms: Timings {
                total: seconds * 1e3,
                programs: telemetry.run_ns as f64 / 1e6,
                engine: (telemetry.engine_ns > 0).then(|| telemetry.engine_ns as f64 / 1e6),
                copies: telemetry.copy_ns as f64 / 1e6,
                host: (seconds * 1e3 - (telemetry.run_ns + telemetry.copy_ns) as f64 / 1e6).max(0.0),
                update: (ended - update_begun).as_secs_f64() * 1e3,
            },
            scale_change,
            guard,
        })
    }

    /// The progress that the present step of `step_tokens` goes by; with a budget in time its gradients have
    /// taken `step_seconds`.
    fn progress_of_step(&self, step_tokens: u64, step_seconds: f64) -> f64 {
        match &self.replay {
            Some(recorded) => recorded.get(self.spent.steps as usize).copied().unwrap_or(1.0),
            None => self.scheduled(self.budget.progress_of_step(&self.spent, step_tokens, step_seconds)),
        }
    }

    /// Gradients of the step's microbatches, summed in the stack.
    fn accumulate(&mut self, microbatches: usize) -> Result<Accumulated> {
        let log_scale = self.scale.log_scale();
        let mut sums = Accumulated {
            loss_sum: 0.0,
            act_max: vec![0.0; self.config.model.n_layers],
            peak: Peak::default(),
        };
        for microbatch in 0..microbatches {
            let batch = self.loader.next_batch();
            let first = microbatch == 0;
            let report = self.stack.forward_backward(&batch.inputs, &batch.targets, log_scale, first)?;
            self.position = batch.after;
            sums.loss_sum += report.nll.iter().map(|nll| f64::from(*nll)).sum::<f64>();
            for (largest, value) in sums.act_max.iter_mut().zip(&report.act_max) {
                *largest = Peak::of(&[*largest, *value]).value();
            }
            sums.peak = sums.peak.max(Peak::of(&report.d_max));
        }
        Ok(sums)
    }

    /// Measures the gradients of all parameters, in their order.
    fn measure(&mut self) -> Measure {
        let mut measure = Measure::default();
        for index in 0..self.stack.parameters().len() {
            self.stack.visit_gradient(index, &mut |_, gradient| measure = measure.and(Measure::of(gradient)));
        }
        measure
    }

    /// The factor that brings a gradient of this norm to the configured largest one.
    fn clip(&self, grad_norm: f64) -> f64 {
        match self.config.optimizer.grad_clip {
            0.0 => 1.0,
            // The small addend is PyTorch's (torch.nn.utils.clip_grad_norm_).
            largest => (largest / (grad_norm + 1e-6)).min(1.0),
        }
    }

    /// Validation on `windows` windows (0 for everything), of the mean of the weights where there is one; changes
    /// nothing. `None` when `stop` is set before it is done.
    ///
    /// # Errors
    /// As [`crate::evaluate`].
    pub fn evaluate(&mut self, windows: usize, stop: &AtomicBool) -> Result<Option<Evaluation>> {
        let protocol = Protocol::windows(windows);
        let mut ema = self.ema.as_mut().filter(|ema| ema.mass() > 0.0);
        let mut go_on = |_, _| !stop.load(Ordering::Relaxed);
        let found = match ema.as_mut().map_or(Ok(()), |ema| ema.swap(&mut self.stack)) {
            Ok(()) => evaluate_while(&mut self.stack, &self.validation, protocol, &mut go_on),
            Err(error) => Err(error),
        };
        // Whatever happened, training goes on with its own weights.
        ema.map_or(Ok(()), |ema| ema.swap(&mut self.stack))?;
        found
    }

    /// Goes on on another device, from the same weights.
    ///
    /// # Errors
    /// [`Error::Model`] when it does not take the model; the trainer then stays where it is.
    pub fn move_to(&mut self, device: Arc<dyn Device>) -> Result<()> {
        let element = device.element();
        let mut stack = Stack::new(&self.config.model, device.clone(), &self.config.stack_options())?;
        for index in 0..self.stack.parameters().len() {
            stack.set_weights(index, &self.stack.weights(index))?;
        }
        let state = self.scale.state();
        self.scale = LossScale::new(element, self.config.scale_rules(), self.config.step_tokens());
        self.scale.restore(state);
        self.optimizer.move_to(device)?;
        self.stack = stack;
        Ok(())
    }

    /// Lets the optimiser's own programs, which are Muon's, run on another device than the model's.
    ///
    /// # Errors
    /// [`Error::Model`] when it does not take them; they then stay where they are.
    pub fn move_optimizer_to(&mut self, device: Arc<dyn Device>) -> Result<()> {
        self.optimizer.move_to(device)
    }

    /// All that a checkpoint keeps beside weights and moments.
    pub fn state(&self) -> TrainerState {
        TrainerState {
            seed: self.config.seed,
            spent: self.spent,
            progress: self.progress,
            next_window: self.position.next_window,
            packer: self.position.packer.clone(),
            updates: self.optimizer.updates(),
            ema_mass: self.kept_ema().map(Ema::mass),
            loss_scale: self.scale.state(),
            health: self.guard.health().clone(),
            recoveries: self.recoveries.clone(),
        }
    }

    /// The f32 weights of every parameter.
    pub fn weights(&mut self) -> Vec<Vec<f32>> {
        (0..self.stack.parameters().len()).map(|index| self.stack.weights(index)).collect()
    }

    /// The mean of weights, once it has a term.
    fn kept_ema(&self) -> Option<&Ema> {
        self.ema.as_ref().filter(|ema| ema.mass() > 0.0)
    }

    /// The mean of the weights of every parameter, where there is one.
    pub fn means(&self) -> Option<&[Vec<f32>]> {
        self.kept_ema().map(Ema::means)
    }

    /// The optimiser's moments of every parameter.
    pub fn moments(&self) -> &[Moments] {
        self.optimizer.moments()
    }

    /// Goes on from a checkpoint of the same model.
    ///
    /// # Errors
    /// [`Error::Model`] when the device cannot be written; [`Error::Data`] when the data is another one;
    /// [`Error::Checkpoint`] when the optimiser is another one.
    pub fn restore(&mut self, checkpoint: Checkpoint) -> Result<()> {
        if !self.optimizer.takes(&checkpoint.moments) {
            return Err(Error::Checkpoint {
                path: checkpoint.path.join(OPTIMIZER),
                problem: self.of_another_optimizer(&checkpoint.moments),
            });
        }
        for (index, weights) in checkpoint.weights.iter().enumerate() {
            self.stack.set_weights(index, weights)?;
        }
        let TrainerState {
            seed: _,
            spent,
            progress,
            next_window,
            packer,
            updates,
            ema_mass,
            loss_scale,
            health,
            recoveries,
        } = checkpoint.state;
        let position = Position { next_window, packer };
        self.loader.seek(position.clone())?;
        self.optimizer.restore(checkpoint.moments, updates);
        // A run that was told to keep a mean later on begins it here, and one that goes back to its beginning anew.
        self.ema = self.config.ema_half_life().map(|half_life| Ema::new(half_life, self.stack.parameters()));
        if let (Some(ema), Some(means), Some(mass)) = (&mut self.ema, checkpoint.means, ema_mass) {
            ema.restore(means, mass);
        }
        self.scale.restore(loss_scale);
        self.guard.restore(health);
        let changed_after = self.config.schedule.changed_after;
        if spent.steps >= changed_after {
            self.guard.forget_before(changed_after);
        }
        self.recoveries = recoveries;
        (self.spent, self.position, self.progress) = (spent, position, progress);
        Ok(())
    }

    /// What is wrong with moments that the optimiser does not take.
    fn of_another_optimizer(&self, moments: &[Moments]) -> String {
        // Only Muon keeps fewer mean squares than means.
        let by_muon = moments.iter().any(|m| m.exp_avg_sq.len() != m.exp_avg.len());
        let written = if by_muon { OptimizerKind::Muon } else { OptimizerKind::AdamW };
        let configured = self.config.optimizer.kind;
        format!(
            "it was written with optimizer.kind = \"{written}\", and config.toml says \"{configured}\"; a run goes on \
             with the optimizer that it began with: set it back, or start a new run"
        )
    }

    /// The guard.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// How often the run went back, and what came of it.
    pub fn recoveries(&self) -> &Recoveries {
        &self.recoveries
    }

    /// Goes back to a checkpoint of the run because it is ill: `checkpoint`, or the beginning. The rate is from now on
    /// lower by a factor. Steps, tokens and the schedule are taken back, time is not; data that was seen is not seen again.
    ///
    /// Says whether it [begins its schedule](Trainer::begin_schedule_here) there, which the configuration then tells.
    ///
    /// # Errors
    /// As [`Trainer::restore`].
    pub fn go_back(&mut self, checkpoint: Option<Checkpoint>) -> Result<bool> {
        let (before, position, mut recoveries) = (self.spent, self.position.clone(), self.recoveries.clone());
        let ill_at = self.schedule_progress();
        self.restore(checkpoint.unwrap_or_else(|| self.beginning()))?;
        let (back_to, after) = (self.progress_before(), self.spent);
        self.spent.seconds = before.seconds;
        let begins = self.begin_schedule_here();
        self.recoveries = recoveries.clone();
        let schedule = &self.config.schedule;
        // What is left of the schedule at the place that it goes back to, and what of the budget's share of it.
        let (from, now) = match begins {
            true => (schedule.origin, self.schedule_progress()),
            false => (back_to, ill_at),
        };
        let fitted = (matches!(self.budget, Budget::Time(_)) && now < 1.0).then(|| Fitted {
            factor: (1.0 - from) / (1.0 - now),
            budget: self.budget,
            origin: schedule.origin,
            changed_after: schedule.changed_after,
        });
        recoveries.add(&before, &after, ill_at, fitted, self.config.guard.lr_factor);
        self.recoveries = recoveries;
        self.loader.seek(position.clone())?;
        self.position = position;
        Ok(begins)
    }

    /// A run that goes on from before the instant at which it was given another schedule lets that begin here; whether
    /// it did. Else its steps up to there would have the rate of a schedule that has not begun.
    pub(crate) fn begin_schedule_here(&mut self) -> bool {
        let steps = self.spent.steps;
        if steps >= self.config.schedule.changed_after {
            return false;
        }
        let share = self.budget.share(&self.spent);
        let schedule = &mut self.config.schedule;
        schedule.changed_after = steps;
        schedule.origin = schedule.origin.min(share);
        self.schedule = self.config.schedule();
        self.guard.forget_before(steps);
        true
    }

    /// The state that the run began with.
    fn beginning(&self) -> Checkpoint {
        let parameters = self.stack.parameters();
        let initial = |parameter| model::initial_values(&self.config.model, parameter, self.config.seed);
        let step_tokens = self.config.step_tokens();
        let scale = LossScale::new(self.stack.device().element(), self.config.scale_rules(), step_tokens);
        Checkpoint {
            path: std::path::PathBuf::new(),
            state: TrainerState {
                seed: self.config.seed,
                spent: Spent::default(),
                progress: 0.0,
                next_window: 0,
                packer: None,
                updates: 0,
                ema_mass: None,
                loss_scale: scale.state(),
                health: Health::default(),
                recoveries: Recoveries::default(),
            },
            val_bpb: None,
            course: self.config.course(),
            saves: 0,
            occasion: crate::retention::Occasion::Regular,
            weights: parameters.iter().map(initial).collect(),
            means: None,
            moments: self.optimizer.first_moments(parameters),
        }
    }
}

/// Sums over a step's microbatches.
struct Accumulated {
    /// Nats.
    loss_sum: f64,
    act_max: Vec<f32>,
    /// Of the gradients of all layers' inputs, times the scale.
    peak: Peak,
}
