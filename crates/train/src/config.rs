//! Everything that a run needs to be repeated: what stands in its `config.toml`.
//!
//! Settings take two steps. [`UserConfig`](crate::UserConfig) is what somebody wrote, in files and
//! options, with the place of each value; [`RunConfig`] is what it means, complete and checked. A
//! run keeps the second.

use std::collections::BTreeMap;

use data::{Dataset, Loader, Packing};
use model::{Cut, ModelConfig, Parameter, ParameterKind, StackOptions, Taps, presets};
use serde::{Deserialize, Serialize};

use crate::adamw::Betas;
use crate::guard::GuardConfig;
use crate::loss_scale::ScaleRules;
use crate::{Budget, Error, MuonConfig, Result, Schedule, ScheduleKind, Stretch, retention};

/// Learning rate of matrices at [`REFERENCE_WIDTH`] channels and [`REFERENCE_LAYERS`] layers, that is
/// of the preset `tiny`. On the built-in stories `tiny` ends 400 thousand tokens (steps of 512) at 0.478,
/// 0.468 and 0.448 bits per byte with 1.5e-3, 2e-3 and 3e-3; on the classics 300 thousand tokens end at
/// 2.209, 2.196 and 2.193 (cpu, one seed, November 2026).
///
/// With the width it falls as 1/width, as a matrix's update then changes its layer's output equally
/// (Yang et al. 2022, arXiv 2203.03466); with the depth as 1/sqrt(layers), as the changes of all layers
/// then add up to the same (Yang et al. 2023, arXiv 2310.02244). `deep-5m`, three times as deep, ends 300
/// thousand tokens of the classics at 2.207, 2.231 and 2.343 with 1.5e-3, 2e-3 and 3e-3.
pub const REFERENCE_LR: f64 = 3e-3;
/// The width that [`REFERENCE_LR`] belongs to.
pub const REFERENCE_WIDTH: f64 = 192.0;
/// The layers that [`REFERENCE_LR`] belongs to.
pub const REFERENCE_LAYERS: f64 = 4.0;
/// Tokens in a step unless told otherwise. Small steps learn most from a token: on the built-in
/// stories `tiny` ends 250 thousand tokens at 0.60 bits per byte with steps of 512 tokens, 0.73
/// with 1,024 and 0.84 with 2,048, each at a rate of 3e-3 (cpu, seed 42, November
/// 2026, when embeddings still began with a deviation of 0.02); at
/// 256 it gains nothing more and the products get too narrow.
pub const DEFAULT_STEP_TOKENS: usize = 512;
/// Tokens in a step by Muon, at least, unless told otherwise: with `anneal`'s model, 256 wide, 500 thousand tokens
/// of the classics end at 1.892 bits per byte with 1,024 and at 1.881 with 2,048 (docs/recipes.md).
pub const MUON_STEP_TOKENS: usize = 2048;
/// Tokens in a step by Muon for each channel of the width, at least. The five iterations that make a matrix `[m, n]`,
/// m <= n, orthogonal take 5 (4 m² n + 2 m³) multiply-adds times 2, a token's forward and backward pass 3 m n times 2:
/// an update costs as much as some 3 tokens a channel (on the device cpu, before symmetric products were computed by
/// halves, 700 tokens at a width of 256 and 2,700 at 768). With 8 of them it takes some quarter of the time.
pub const MUON_TOKENS_PER_CHANNEL: usize = 8;
/// Keys and tables of settings that decide a run's [course](RunConfig::course).
const COURSE: [&str; 10] = [
    "seed",
    "budget",
    "batch",
    "accum",
    "replay",
    "data",
    "optimizer",
    "schedule",
    "batch_ramp",
    "loss_scale",
];

/// The values of a table by their whole keys.
fn by_key(table: toml::Table, within: &str, found: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => by_key(inner, &format!("{within}{key}."), found),
            value => drop(found.insert(format!("{within}{key}"), value.to_string())),
        }
    }
}

/// The preset of those who name none.
pub const DEFAULT_PRESET: &str = "tiny";

/// A value, or the word `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Auto<T> {
    /// To be chosen when the run begins; what was chosen and why goes to `events.jsonl`.
    #[default]
    Auto,
    /// As given.
    Value(T),
}

impl<T> Auto<T> {
    /// The value that was given.
    pub fn value(self) -> Option<T> {
        match self {
            Auto::Auto => None,
            Auto::Value(value) => Some(value),
        }
    }
}

impl<T: Serialize> Serialize for Auto<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Auto::Auto => serializer.serialize_str("auto"),
            Auto::Value(value) => value.serialize(serializer),
        }
    }
}

/// A value that may stand where `auto` stands, and what it looks like.
trait OrAuto {
    const EXPECTED: &'static str;
}

impl OrAuto for Cut {
    const EXPECTED: &'static str = "expected \"auto\", \"whole\", \"attn|ffn\" or \"ten\"";
}

impl OrAuto for f64 {
    const EXPECTED: &'static str = "expected \"auto\" or a number";
}

impl<'de, T: Deserialize<'de> + OrAuto> Deserialize<'de> for Auto<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written<T> {
            Value(T),
            Word(String),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Value(value)) => Ok(Auto::Value(value)),
            Ok(Written::Word(word)) if word == "auto" => Ok(Auto::Auto),
            _ => Err(serde::de::Error::custom(T::EXPECTED)),
        }
    }
}

/// A run, fully resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The recipe that the rest started from; empty for none.
    #[serde(default)]
    pub recipe: String,
    /// The preset that `model` started from.
    pub preset: String,
    /// The device as it was asked for; `auto` becomes the name of the one that was chosen.
    pub device: String,
    /// Seed of the initial weights and of the order of windows.
    pub seed: u64,
    /// How long the run is.
    pub budget: Budget,
    /// Sequences in a microbatch, B.
    pub batch: usize,
    /// Microbatches in a step; at first fewer, where `batch_ramp` says so.
    pub accum: usize,
    /// How layers are divided into programs.
    pub cut: Auto<Cut>,
    /// Which activations are kept for the backward pass.
    pub taps: Taps,
    /// What happens when the device fails twice in the same step. A checkpoint is written in any case.
    #[serde(default)]
    pub on_device_failure: OnDeviceFailure,
    /// Steps between two lines of `metrics.jsonl`. A run with a budget in time writes every step,
    /// because its progress is what makes it repeatable.
    pub log_every: u64,
    /// A run directory whose recorded progress is used instead of the clock; empty for none.
    pub replay: String,
    /// The model.
    pub model: ModelConfig,
    /// The data.
    pub data: DataConfig,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
    /// The learning rate over the run.
    pub schedule: ScheduleConfig,
    /// Smaller steps at the beginning.
    #[serde(default)]
    pub batch_ramp: BatchRampConfig,
    /// The running mean of the weights.
    #[serde(default)]
    pub ema: EmaConfig,
    /// The loss scale, on devices of f16.
    pub loss_scale: LossScaleConfig,
    /// Validation.
    pub eval: EvalConfig,
    /// Checkpoints.
    pub checkpoint: CheckpointConfig,
    /// What happens when the run falls ill.
    #[serde(default)]
    pub guard: GuardConfig,
}

/// What a run does when its device no longer works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDeviceFailure {
    /// It ends, and can be resumed.
    #[default]
    Stop,
    /// It goes on on the CPU.
    Cpu,
}

/// Where the tokens come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// `stories`, `stories:SEED`, a public data set (`climbmix:N`, `tinystories`, `hf:OWNER/NAME`), or a file or folder.
    pub source: String,
    /// The column, or field of a JSON line, with the text.
    #[serde(default = "text")]
    pub column: String,
    /// Whether what cannot be read is passed over, and counted, instead of an error.
    #[serde(default)]
    pub lenient: bool,
    /// `train` trains one on the source; otherwise the path of a `tokenizer.json`.
    pub tokenizer: String,
    /// How tokens become rows.
    #[serde(default)]
    pub packing: Packing,
    /// Whether documents come in a random order, another one in each epoch, and not in that of the text. Windows
    /// always do.
    #[serde(default = "yes")]
    pub shuffle: bool,
    /// Whether the model has rows only for the tokens that occur in the training text, and one for all others.
    #[serde(default)]
    pub compact_vocab: bool,
    /// The tokenizer's vocabulary; 0 until the data is there.
    #[serde(default)]
    pub vocab_size: usize,
    /// The tokenizer's hash; empty until the data is there.
    pub tokenizer_hash: String,
    /// Tokens to train on; 0 until the data is there.
    pub train_tokens: u64,
    /// Tokens to validate on; 0 until the data is there.
    pub valid_tokens: u64,
}

fn text() -> String {
    data::corpus::COLUMN.into()
}

fn yes() -> bool {
    true
}

fn never() -> Stretch {
    Stretch::Share(0.0)
}

fn one() -> f64 {
    1.0
}

/// The optimiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Which one.
    pub kind: OptimizerKind,
    /// Base learning rate; each kind of parameter multiplies it.
    pub lr: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Decoupled decay of matrices; others have none, unless `groups` says so.
    pub weight_decay: f64,
    /// Whether the decay falls in a line to nothing over the run (autoresearch), or stays.
    #[serde(default)]
    pub decay_falls: bool,
    /// Largest norm of all gradients together; 0 leaves them.
    pub grad_clip: f64,
    /// Factors on `lr`.
    pub multipliers: Multipliers,
    /// The width that the factors of what has a row for each token (embeddings, value embeddings, classifier) are
    /// meant for: with C channels they are times (C / this)^-1/2 (autoresearch). 0 leaves them as they are.
    #[serde(default)]
    pub token_rate_width: u32,
    /// What some kinds of parameters have of their own; the others go by the keys above.
    #[serde(default)]
    pub groups: Vec<GroupConfig>,
    /// What matrices go by when `kind` is `muon`.
    #[serde(default)]
    pub muon: MuonConfig,
}

impl OptimizerConfig {
    /// What parameters of `kind` have of their own.
    fn group(&self, kind: ParameterKind) -> GroupConfig {
        let given = self.groups.iter().find(|group| group.kind == kind);
        given.cloned().unwrap_or(GroupConfig {
            kind,
            beta1: None,
            beta2: None,
            eps: None,
            weight_decay: None,
        })
    }

    /// What AdamW takes for parameters of `kind`.
    pub(crate) fn betas(&self, kind: ParameterKind) -> Betas {
        let own = self.group(kind);
        Betas {
            beta1: own.beta1.unwrap_or(self.beta1),
            beta2: own.beta2.unwrap_or(self.beta2),
            eps: own.eps.unwrap_or(self.eps),
        }
    }

    /// The decay of parameters of `kind` before it falls.
    pub(crate) fn decay(&self, kind: ParameterKind) -> f64 {
        let common = if kind == ParameterKind::Matrix { self.weight_decay } else { 0.0 };
        self.group(kind).weight_decay.unwrap_or(common)
    }

    /// The factor on the rate of parameters of `kind` in a model of `width` channels.
    pub(crate) fn multiplier(&self, kind: ParameterKind, width: usize) -> f64 {
        let factor = self.multipliers.of(kind);
        match self.token_rate_width {
            meant @ 1.. if kind.is_of_tokens() => factor / (width as f64 / f64::from(meant)).sqrt(),
            _ => factor,
        }
    }
}

/// What parameters of one kind have of their own in the optimiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Which they are.
    pub kind: ParameterKind,
    /// As [`OptimizerConfig::beta1`]. Muon has no use for this and the next two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f64>,
    /// As [`OptimizerConfig::beta2`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta2: Option<f64>,
    /// As [`OptimizerConfig::eps`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// As [`OptimizerConfig::weight_decay`], which only matrices have unless it stands here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

/// The optimisers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled decay.
    AdamW,
    /// Muon for matrices inside layers, AdamW for everything else.
    Muon,
}

impl std::fmt::Display for OptimizerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            OptimizerKind::AdamW => "adamw",
            OptimizerKind::Muon => "muon",
        })
    }
}

/// Factors on the learning rate by kind of parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Multipliers {
    /// Weights of products inside layers.
    pub matrix: f64,
    /// The token embedding (and classifier, when tied).
    pub embedding: f64,
    /// A classifier of its own.
    pub classifier: f64,
    /// Gains of norms.
    pub norm: f64,
    /// Tables of value embeddings.
    #[serde(default = "one")]
    pub value_embedding: f64,
    /// Factors on the stream before each layer.
    #[serde(default = "one")]
    pub resid_lambda: f64,
    /// Factors on the first layer's input before each layer.
    #[serde(default = "one")]
    pub x0_lambda: f64,
}

impl Default for Multipliers {
    /// One rate for everything.
    fn default() -> Self {
        Multipliers {
            matrix: 1.0,
            embedding: 1.0,
            classifier: 1.0,
            norm: 1.0,
            value_embedding: 1.0,
            resid_lambda: 1.0,
            x0_lambda: 1.0,
        }
    }
}

impl Multipliers {
    /// The factor for parameters of `kind`.
    pub fn of(&self, kind: ParameterKind) -> f64 {
        match kind {
            ParameterKind::Matrix => self.matrix,
            ParameterKind::Embedding => self.embedding,
            ParameterKind::Classifier => self.classifier,
            ParameterKind::Norm => self.norm,
            ParameterKind::ValueEmbedding => self.value_embedding,
            ParameterKind::ResidLambda => self.resid_lambda,
            ParameterKind::X0Lambda => self.x0_lambda,
        }
    }
}

/// The learning rate over the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// How the rate falls.
    pub kind: ScheduleKind,
    /// For how long it rises first: a share of the run or an amount.
    pub warmup: Stretch,
    /// `wsd` only: the last share of the run, in which the rate falls.
    pub decay: f64,
    /// The share of the rate that is left at the end.
    pub final_fraction: f64,
    /// The share of the run after which it begins: of a run that was given another length; see [`Change`](crate::Change).
    #[serde(default)]
    pub origin: f64,
    /// The factor that it begins with.
    #[serde(default = "one")]
    pub start_fraction: f64,
    /// Whether the run is ending: the rate falls in a line from `start_fraction` to nothing, whatever else stands here.
    #[serde(default)]
    pub ending: bool,
    /// The last step that another schedule was for; 0 when this is the first.
    #[serde(default)]
    pub changed_after: u64,
}

impl ScheduleConfig {
    /// As if the run had never been given another length.
    pub(crate) fn forget_changes(&mut self) {
        (self.origin, self.start_fraction, self.ending, self.changed_after) = (0.0, 1.0, false, 0);
    }
}

/// Smaller steps at the beginning of a run, where gradients point the same way whatever the batch: the number of
/// microbatches rises in a line from `start` to `accum`. The rate stays that of the schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchRampConfig {
    /// Microbatches in the first step.
    pub start: usize,
    /// For how long their number rises: a share of the run, or an amount in the budget's unit; 0 for no ramp.
    pub over: Stretch,
}

impl Default for BatchRampConfig {
    /// None.
    fn default() -> Self {
        BatchRampConfig { start: 1, over: Stretch::Share(0.0) }
    }
}

/// A running mean of the weights, which validation and everybody who uses the model takes; see [`crate::Ema`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmaConfig {
    /// How long ago weights count half as much as the present ones: a share of the run, or an amount; 0 for no mean.
    pub half_life: Stretch,
}

impl Default for EmaConfig {
    /// None.
    fn default() -> Self {
        EmaConfig { half_life: Stretch::Share(0.0) }
    }
}

/// The loss scale; see [`crate::loss_scale`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScaleConfig {
    /// The first scale.
    pub initial: Auto<f64>,
    /// Steps without a skip before it may double.
    pub growth_interval: u64,
    /// It never falls below.
    pub min: f64,
    /// It never rises above.
    pub max: f64,
}

/// Validation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// How often; 0 only at the end.
    pub every: Stretch,
    /// Windows of the validation tokens, each time, and once more at the end: by them checkpoints are compared.
    pub windows: usize,
    /// Windows that the last model is measured over; 0 takes all there are.
    pub final_windows: usize,
}

/// Checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// How often; 0 only at the end.
    pub every: Stretch,
    /// The newest that are kept, beside the one with the best val_bpb.
    pub keep: usize,
    /// Whether some are kept at exponentially growing distances in the past; see [`crate::retention`].
    #[serde(default = "yes")]
    pub spaced: bool,
    /// How often one is written that stays for good; 0 never.
    #[serde(default = "never")]
    pub milestones: Stretch,
}

impl RunConfig {
    /// What a run of a preset is when nobody says anything else.
    ///
    /// # Errors
    /// [`Error::Model`] when there is no such preset.
    pub fn of_preset(name: &str) -> Result<RunConfig> {
        let model = presets::by_name(name)?;
        Ok(RunConfig {
            recipe: String::new(),
            preset: name.to_owned(),
            device: "auto".into(),
            seed: 42,
            budget: Budget::Time(std::time::Duration::from_secs(120)),
            batch: default_batch(&model),
            accum: 1,
            cut: Auto::Auto,
            taps: Taps::Keep,
            on_device_failure: OnDeviceFailure::Stop,
            log_every: 1,
            replay: String::new(),
            data: DataConfig {
                source: "stories".into(),
                column: text(),
                lenient: false,
                tokenizer: "train".into(),
                packing: Packing::Windows,
                shuffle: true,
                compact_vocab: false,
                vocab_size: 0,
                tokenizer_hash: String::new(),
                train_tokens: 0,
                valid_tokens: 0,
            },
            optimizer: OptimizerConfig {
                kind: OptimizerKind::AdamW,
                lr: default_lr(&model),
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.1,
                decay_falls: false,
                grad_clip: 1.0,
                multipliers: Multipliers::default(),
                token_rate_width: 0,
                groups: Vec::new(),
                muon: MuonConfig::default(),
            },
            schedule: ScheduleConfig {
                kind: ScheduleKind::Cosine,
                warmup: Stretch::Share(0.02),
                decay: 0.4,
                final_fraction: 0.1,
                origin: 0.0,
                start_fraction: 1.0,
                ending: false,
                changed_after: 0,
            },
            batch_ramp: BatchRampConfig::default(),
            ema: EmaConfig::default(),
            loss_scale: LossScaleConfig {
                initial: Auto::Auto,
                growth_interval: 200,
                min: 1.0,
                max: 16_777_216.0,
            },
            eval: EvalConfig { every: Stretch::Share(0.1), windows: 16, final_windows: 128 },
            checkpoint: CheckpointConfig {
                every: Stretch::Share(0.1),
                keep: 2,
                spaced: true,
                milestones: never(),
            },
            guard: GuardConfig::default(),
            model,
        })
    }

    /// Sequences in a step of full size: microbatches together.
    pub fn step_sequences(&self) -> u64 {
        self.batch as u64 * self.accum as u64
    }

    /// Tokens in a step of full size.
    pub fn step_tokens(&self) -> u64 {
        self.step_sequences() * self.model.seq_len as u64
    }

    /// Tokens in a microbatch.
    pub fn microbatch_tokens(&self) -> u64 {
        self.batch as u64 * self.model.seq_len as u64
    }

    /// Tokens in every step; `None` where a ramp makes the first ones smaller.
    pub fn fixed_step_tokens(&self) -> Option<u64> {
        self.batch_ramp.over.is_zero().then(|| self.step_tokens())
    }

    /// Microbatches in the step after the one that went by this progress (0 before the first step).
    ///
    /// The step's own progress is not known before it has begun: with a budget in time it depends on how long the
    /// step takes, and with one in tokens on the answer.
    pub fn accum_after(&self, progress: f64) -> usize {
        let BatchRampConfig { start, over } = &self.batch_ramp;
        let over = over.share_of(&self.budget, None).unwrap_or(0.0);
        if progress >= over {
            return self.accum;
        }
        start + (self.accum.saturating_sub(*start) as f64 * progress / over) as usize
    }

    /// The half-life of the mean of weights as a share of the budget; `None` when there is no mean.
    pub(crate) fn ema_half_life(&self) -> Option<f64> {
        let half_life = self.ema.half_life;
        (!half_life.is_zero()).then(|| half_life.share_of(&self.budget, self.fixed_step_tokens())).flatten()
    }

    /// The settings that decide what the run becomes, as TOML by their keys. Those of its model and data are compared
    /// with what they belong to; others only watch the run, keep it, or say where it works.
    pub(crate) fn course(&self) -> BTreeMap<String, String> {
        let mut whole = self.to_toml().parse::<toml::Table>().expect("what was written is TOML");
        if let Some(data) = whole.get_mut("data").and_then(toml::Value::as_table_mut) {
            data.retain(|key, _| key == "shuffle" || key == "packing");
        }
        whole.retain(|key, _| COURSE.contains(&key));
        let mut course = BTreeMap::new();
        by_key(whole, "", &mut course);
        course
    }

    /// About how large a checkpoint is, in bytes: its tensors.
    pub fn checkpoint_bytes(&self) -> u64 {
        let vocab = self.data.vocab_size.max(self.model.vocab_size);
        let of = |p: &Parameter| {
            let weights = if p.kind.is_of_tokens() { vocab * p.shape[1] } else { p.numel() };
            let means = if self.ema.half_life.is_zero() { 0 } else { weights };
            let by_muon = self.optimizer.kind == OptimizerKind::Muon && p.kind == ParameterKind::Matrix;
            let squares = if by_muon { p.shape.iter().max().copied().unwrap_or(0) } else { p.numel() };
            4 * (weights + means + p.numel() + squares) as u64
        };
        Parameter::all(&self.model).iter().map(of).sum()
    }

    /// The most that the run's checkpoints take on disk at a time, in bytes, without milestones that
    /// [cannot be counted](RunConfig::counts_milestones).
    pub fn most_checkpoint_bytes(&self) -> u64 {
        // Those of a ramp lie between these two.
        let smallest = match self.fixed_step_tokens() {
            Some(tokens) => tokens,
            None => self.batch_ramp.start as u64 * self.microbatch_tokens(),
        };
        let most = [smallest, self.step_tokens()]
            .map(|tokens| retention::most_on_disk(&self.checkpoint, &self.budget, Some(tokens)));
        self.checkpoint_bytes().saturating_mul(most[0].max(most[1]))
    }

    /// Whether it is known before the run how many milestones there will be; steps in a budget of time are not.
    pub fn counts_milestones(&self) -> bool {
        self.checkpoint.milestones.share_of(&self.budget, self.fixed_step_tokens()).is_some()
    }

    /// How the model is laid out on the device.
    pub fn stack_options(&self) -> StackOptions {
        StackOptions { batch: self.batch, cut: self.cut.value(), taps: self.taps, max_tile: None }
    }

    pub(crate) fn scale_rules(&self) -> ScaleRules {
        let LossScaleConfig { initial, growth_interval, min, max } = self.loss_scale;
        ScaleRules { initial: initial.value(), growth_interval, min, max }
    }

    /// The schedule with its warm-up as a share of the budget; [`RunConfig::check`] has seen to it
    /// that there is one.
    pub(crate) fn schedule(&self) -> Schedule {
        let warmup = self.schedule.warmup.share_of(&self.budget, self.fixed_step_tokens()).unwrap_or(0.0);
        let ScheduleConfig { kind, decay, final_fraction, origin, start_fraction, ending, .. } =
            self.schedule;
        if ending {
            return Schedule { origin, start_fraction, ..Schedule::default() };
        }
        // An amount of the budget is a larger share of what is left.
        let warmup = match self.schedule.warmup {
            Stretch::Share(_) => warmup,
            Stretch::Amount(_) => (warmup / (1.0 - origin)).min(1.0),
        };
        Schedule { kind, warmup, decay, final_fraction, origin, start_fraction }
    }

    /// Takes in what is known once the data is there, or checks that it is still the same.
    /// `vocab_is_given` says that somebody chose the vocabulary, so that it is not to be changed.
    ///
    /// # Errors
    /// [`Error::Vocabulary`], [`Error::DataChanged`] (for a run that has recorded its data before),
    /// [`Error::SequenceTooLong`].
    pub(crate) fn take_data(
        &mut self,
        dataset: &mut Dataset,
        vocab_is_given: bool,
        file: &std::path::Path,
    ) -> Result<()> {
        if self.data.compact_vocab {
            dataset.compact_vocabulary();
        }
        let found = DataConfig {
            source: self.data.source.clone(),
            column: self.data.column.clone(),
            lenient: self.data.lenient,
            tokenizer: self.data.tokenizer.clone(),
            packing: self.data.packing,
            shuffle: self.data.shuffle,
            compact_vocab: self.data.compact_vocab,
            vocab_size: dataset.tokenizer.vocab_size(),
            tokenizer_hash: dataset.tokenizer.hash().to_owned(),
            train_tokens: dataset.train.len() as u64,
            valid_tokens: dataset.valid.len() as u64,
        };
        if !self.data.tokenizer_hash.is_empty() {
            let fields = |data: &DataConfig| {
                [
                    ("data.tokenizer_hash", data.tokenizer_hash.clone()),
                    ("data.train_tokens", data.train_tokens.to_string()),
                    ("data.valid_tokens", data.valid_tokens.to_string()),
                ]
            };
            for ((key, recorded), (_, found)) in fields(&self.data).into_iter().zip(fields(&found)) {
                if recorded != found {
                    let data = format!("data.source = {}", self.data.source);
                    return Err(Error::DataChanged { config: file.to_owned(), key, recorded, data, found });
                }
            }
        }
        // What is written is the tokenizer's at first, and then what became of it.
        let recorded = !self.data.tokenizer_hash.is_empty();
        let vocab = if recorded { dataset.vocab_rows() } else { dataset.tokenizer.vocab_size() };
        if vocab != self.model.vocab_size && (vocab_is_given || recorded) {
            let path = match self.data.tokenizer.as_str() {
                "train" => dataset.dir.clone(),
                path => path.into(),
            };
            return Err(Error::Vocabulary { path, configured: self.model.vocab_size, actual: vocab });
        }
        for shard in [&dataset.train, &dataset.valid] {
            if shard.len() <= self.model.seq_len {
                let (tokens, seq_len) = (shard.len(), self.model.seq_len);
                return Err(Error::SequenceTooLong { path: shard.path().to_owned(), tokens, seq_len });
            }
        }
        self.model.vocab_size = dataset.vocab_rows();
        self.data = found;
        Ok(())
    }

    /// The batches of the run, from the first.
    ///
    /// # Errors
    /// [`Error::Data`].
    pub(crate) fn loader(&self, dataset: &Dataset) -> Result<Loader> {
        let seed = self.data.shuffle.then_some(self.seed);
        Ok(Loader::new(dataset, self.data.packing, seed, self.batch, self.model.seq_len)?)
    }

    /// The text of `config.toml`.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field of a run can be written as TOML")
    }
}

/// Base learning rate for a model of this width and depth.
pub(crate) fn default_lr(model: &ModelConfig) -> f64 {
    // To two digits: what a person would have written.
    let depth = (REFERENCE_LAYERS / model.n_layers as f64).sqrt();
    let lr = REFERENCE_LR * REFERENCE_WIDTH / model.width as f64 * depth;
    format!("{lr:.1e}").parse().unwrap_or(lr)
}

/// Sequences that make about [`DEFAULT_STEP_TOKENS`].
pub(crate) fn default_batch(model: &ModelConfig) -> usize {
    (DEFAULT_STEP_TOKENS / model.seq_len.max(1)).max(1)
}

/// Microbatches of `batch` sequences in a step.
pub(crate) fn default_accum(model: &ModelConfig, optimizer: OptimizerKind, batch: usize) -> usize {
    match optimizer {
        OptimizerKind::AdamW => 1,
        OptimizerKind::Muon => MUON_STEP_TOKENS
            .max(MUON_TOKENS_PER_CHANNEL.saturating_mul(model.width))
            .div_ceil(batch.saturating_mul(model.seq_len).max(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_gives_a_run_that_passes_its_own_checks() {
        for name in presets::NAMES {
            let config = RunConfig::of_preset(name).unwrap();
            assert!(config.check().is_ok(), "{name}");
            assert_eq!(toml::from_str::<RunConfig>(&config.to_toml()).unwrap(), config, "{name}");
        }
        let tiny = RunConfig::of_preset("tiny").unwrap();
        assert_eq!((tiny.optimizer.lr, tiny.batch, tiny.step_tokens()), (3e-3, 2, 512));
        assert_eq!(RunConfig::of_preset("gpt-48m").unwrap().optimizer.lr, 6.1e-4);
        assert_eq!(RunConfig::of_preset("deep-5m").unwrap().optimizer.lr, 1.7e-3);
    }

    #[test]
    fn the_written_config_is_for_people() {
        let text = RunConfig::of_preset("tiny").unwrap().to_toml();
        for line in
            ["preset = \"tiny\"", "budget = \"2m\"", "cut = \"auto\"", "norm_eps = 0.00001", "warmup = 0.02"]
        {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(text.starts_with("recipe = \"\"\npreset"), "{text}");
    }
}
