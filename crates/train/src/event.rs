//! What happens in a run beside its steps: lines of `events.jsonl`.

use std::path::PathBuf;

use serde::Serialize;

use crate::Evaluation;
use crate::guard::Illness;

/// Something worth a line. Each gets the time in `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A new run begins.
    Started {
        /// The preset.
        preset: String,
        /// Learned numbers.
        parameters: usize,
        /// Tokens in a step.
        step_tokens: u64,
        /// The budget.
        budget: String,
        /// About the size of a checkpoint.
        checkpoint_bytes: u64,
        /// The most that checkpoints take on disk at a time, …
        most_checkpoint_bytes: u64,
        /// … if the run writes no milestones that cannot be counted before it.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        and_milestones: bool,
        /// What exactly the device is.
        device: String,
        /// Why it is this one.
        device_why: String,
    },
    /// Something was decided, and why.
    Choice {
        /// In one sentence.
        what: String,
    },
    /// The data is there.
    Data {
        /// As configured.
        source: String,
        /// How validation was held out.
        split_rule: String,
        /// Tokens to train on.
        train_tokens: u64,
        /// Tokens to validate on.
        valid_tokens: u64,
        /// The best that any model can reach on the validation text, where that is known.
        bound_bits_per_byte: Option<f64>,
    },
    /// A validation.
    Validation {
        /// After this step.
        step: u64,
        /// Its result.
        #[serde(flatten)]
        result: Evaluation,
    },
    /// A checkpoint was written.
    Checkpoint {
        /// After this step.
        step: u64,
        /// Its folder.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// How long it took.
        seconds: f64,
    },
    /// A checkpoint could not be used.
    CheckpointSkipped {
        /// Its folder.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The loss scale left a step out.
    Skipped {
        /// The step.
        step: u64,
        /// What was wrong.
        why: String,
        /// The loss scale from now on.
        scale: f64,
    },
    /// The loss scale was doubled.
    ScaleGrew {
        /// The step.
        step: u64,
        /// The loss scale from now on.
        scale: f64,
    },
    /// The guard finds that something looks wrong.
    Warned {
        /// After this step.
        step: u64,
        /// What.
        kind: Illness,
        /// By which signals.
        why: String,
    },
    /// The guard called the run ill, and it went back.
    Recovered {
        /// The step after which it was ill.
        step: u64,
        /// What was wrong.
        kind: Illness,
        /// By which signals.
        why: String,
        /// The last step after which it was still well, by all signs.
        since: u64,
        /// The step after which it goes on.
        back_to: u64,
        /// The checkpoint; `None` for the beginning.
        checkpoint: Option<PathBuf>,
        /// The factor on every learning rate from now on.
        lr_factor: f64,
        /// How often the run has gone back by now.
        recoveries: usize,
        /// Steps that were done and taken back by now.
        discarded_steps: u64,
    },
    /// The device did not do what it was asked. The state is that after `step`.
    DeviceFailed {
        /// After this step.
        step: u64,
        /// What it answered.
        why: String,
        /// What happens now.
        then: String,
    },
    /// The run goes on.
    Resumed {
        /// After this step.
        step: u64,
        /// The checkpoint; `None` when the run had none and begins anew.
        checkpoint: Option<PathBuf>,
        /// How often the run had gone back by then.
        recoveries: usize,
        /// Lines of `metrics.jsonl` that were cut or belong to later steps.
        dropped_metrics: usize,
        /// What exactly the device is now.
        device: String,
        /// Why it is this one.
        device_why: String,
    },
    /// The run was given another length.
    Rescheduled {
        /// After this step.
        step: u64,
        /// What became of budget and rate.
        what: String,
    },
    /// `config.toml` has another value than when the run was last saved, and the run goes on by it.
    ConfigChanged {
        /// After this step.
        step: u64,
        /// The key.
        key: String,
        /// What the run went by so far.
        was: String,
        /// What it goes by from now on.
        now: String,
    },
    /// The disk was full, and an old checkpoint that was kept for going back far made room for a new one or a line of a log.
    MadeRoom {
        /// After this step.
        step: u64,
        /// The checkpoint that is gone.
        path: PathBuf,
    },
    /// The disk has less room than the run's checkpoints may take.
    LittleRoom {
        /// After this step.
        step: u64,
        /// Both numbers, and what to do.
        what: String,
    },
    /// The machine slept, or its clock was set forward. Time budgets do not count it.
    Slept {
        /// Before this step ended.
        step: u64,
        /// For so long.
        seconds: f64,
    },
    /// The run was asked to stop.
    Interrupted {
        /// After this step.
        step: u64,
    },
    /// The run stopped by an error.
    Failed {
        /// After this step.
        step: u64,
        /// The error.
        why: String,
    },
    /// The budget is spent.
    Finished {
        /// After this step.
        step: u64,
        /// The last validation.
        val_bpb: f64,
    },
}
