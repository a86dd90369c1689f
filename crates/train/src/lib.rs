//! Training: optimiser, schedule, the step, the guard, validation, and runs that
//! survive being killed.
//!
//! Walk it from the inside out: [`AdamW`] moves weights; a [`Schedule`] says how fast, as a
//! function of the progress in a [`Budget`]; a [`LossScale`] judges each step's gradients on
//! devices of f16; the [`guard`] watches whether the run is still well; a [`Trainer`] puts them together into the step; [`train_run`] is the loop around
//! it, with a [`RunDir`] and [`Checkpoints`]. What a run is stands in its [`RunConfig`].
//!
//! What it refuses: printing (an [`Observer`] is told everything), choosing a device, and a forward
//! pass of its own. Numbers: weights, moments and sums of gradients are f32, losses and norms are
//! summed in f64, in an order that does not depend on the number of threads. With a budget in steps
//! or tokens a run is a pure function of configuration, data, seed and device; with one in time, of
//! these and the progress of its steps, which `metrics.jsonl` records and `replay` takes.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use train::{Outcome, RunOptions, Start, UserConfig, train_run};
//! # fn device() -> std::sync::Arc<dyn device::Device> { unimplemented!() }
//!
//! let mut config = UserConfig::default();
//! config.set("preset", "tiny", "--preset");
//! config.set("budget", "500steps", "--budget");
//! let start = Start::New { config, runs_dir: "runs".into(), name: None };
//! let options = RunOptions { start, device: device(), device_why: "asked for".into(), fallback: None, cache_dir: "cache".into() };
//! match train_run(options, &mut (), &AtomicBool::new(false))? {
//!     Outcome::Finished(summary) => println!("val_bpb {:.4}", summary.val_bpb),
//!     Outcome::Interrupted { run, step } => println!("{} stopped after step {step}", run.display()),
//! }
//! # Ok::<(), train::Error>(())
//! ```

mod adamw;
mod budget;
mod change;
mod check;
pub mod checkpoint;
mod clock;
mod config;
mod ema;
mod error;
mod evaluate;
mod event;
mod gradient;
pub mod guard;
pub mod json_lines;
pub mod loss_scale;
mod muon;
mod optimizer;
mod pick;
pub mod recipes;
mod recovery;
pub mod retention;
pub mod run_dir;
mod schedule;
mod session;
mod tensor_file;
mod trainer;
mod user_config;
mod whole_file;

pub use adamw::{AdamW, Betas, Moments, Rates};
pub use budget::{Budget, Spent, Stretch};
pub use change::Change;
pub use checkpoint::{Checkpoint, Checkpoints, TrainerState};
pub use clock::{Clock, MachineClock, NAP};
pub use config::{
    Auto, BatchRampConfig, CheckpointConfig, DEFAULT_PRESET, DEFAULT_STEP_TOKENS, DataConfig, EmaConfig,
    EvalConfig, GroupConfig, LossScaleConfig, MUON_STEP_TOKENS, MUON_TOKENS_PER_CHANNEL, Multipliers,
    OnDeviceFailure, OptimizerConfig, OptimizerKind, REFERENCE_LAYERS, REFERENCE_LR, REFERENCE_WIDTH,
    RunConfig, ScheduleConfig,
};
pub use ema::Ema;
pub use error::{Error, Result};
pub(crate) use evaluate::evaluate_while;
pub use evaluate::{
    ANE_WINDOWS, AUTORESEARCH_BATCH, AUTORESEARCH_TOKENS, Evaluation, Protocol, ValidationData, evaluate,
};
pub use event::Event;
pub use gradient::{Measure, Peak};
pub use loss_scale::{LossScale, LossScaleState};
pub use muon::{Muon, MuonConfig};
pub use optimizer::{Optimizer, Pace};
pub use pick::Pick;
pub use recovery::{Fitted, Recoveries, Recovery};
pub use run_dir::RunDir;
pub use schedule::{Schedule, ScheduleKind};
pub use session::{
    Better, Fallback, Observer, Outcome, RunOptions, Start, Summary, Trained, load_trained, prepare_data,
    train_run, train_run_by,
};
pub use trainer::{ScaleChange, StepMetrics, Timings, Trainer};
pub use user_config::UserConfig;
