//! The guard: judges the health of a run by its signals, step by step. It decides and does nothing; whoever
//! trains acts on it (see `recovery`).
//!
//! The signals of a step are its loss, the norm of its gradient, the largest activation of each layer (which the
//! programs reduce themselves, so that no activation is read back), and whether its update had to be left out.
//! They are summed up in blocks whose number is bounded: a block is a 128th to a 64th of the run so far, 24 steps
//! at least, and the median of its eight parts. What is compared are medians of five blocks, so that single spikes,
//! however high, and short ones that heal, do not count.
//!
//! The loss is the judge, the others are witnesses: activations and gradients grow in healthy runs, too, and by
//! any factor while outputs that began with zeros come alive; a run whose loss falls is not ill.
//!
//! | the smoothed loss | and | the run is |
//! | --- | --- | --- |
//! | has risen above its lowest by `rise` standard errors | `lost` of what was learned is lost | ill: `loss` |
//! | has risen by two thirds of that | activations have grown `growth` times | ill: `activations` |
//! | has ceased to fall in the last quarter of the run | activations or gradients have grown 1.5 `growth` times | ill: `activations`, `gradient` |
//! | is not a number, or gradients are not, in ten steps in a row, and no smaller loss scale is left | | ill: `overflow` |
//! | has risen; or has ceased to fall, and they have grown `growth` times | | warned of |
//! | | half of the last steps were left out | warned of |
//!
//! To have ceased to fall is more than not to be seen falling: late in a run a loss falls by less than its noise. It
//! has to fall significantly less than it did before, in a straight line over the logarithm of steps.
//!
//! What looks ill by the first three is warned of at first, and ill when it still looks so a block later. A run whose
//! budget is spent has no block later: the median of its last 16 losses is then judged as the smoothed loss is.
//!
//! Growth is that since the lowest level in the last three quarters of the run, after its rate last rose: slow
//! illness shows on a scale of the run's own length, and while the rate rises everything grows with it. There is no
//! absolute bound. The published bands of autoresearch-ANE (5 normal, 20 suspicious, 50 stop) are those of one model:
//! `odd`, whose norms leave the scale of the residual stream free, learns best with activations of thousands.

mod history;
mod point;
mod policy;
mod recent;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod replayed;
#[cfg(test)]
mod synthetic;
mod trend;

use serde::{Deserialize, Serialize};

use history::History;
use point::Point;
pub use policy::{Action, GuardConfig};
use recent::Recent;
pub use trend::{Growth, Trend};

use crate::loss_scale::PATIENCE;

/// How much of the share of skipped steps stays from one step to the next: about the last 16 count.
const SKIPS_MEMORY: f64 = 15.0 / 16.0;

/// So many of them, and it is warned of.
const MANY_SKIPS: f64 = 8.0;
/// The share of `rise` that is enough where activations or gradients bear it out.
pub const WITNESSED: f64 = 2.0 / 3.0;
/// How many times `growth` it takes where the loss has not risen.
pub const STALLED: f64 = 1.5;
/// Blocks one after another that must look ill.
const PERSISTS: u32 = 2;

/// What a step showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Signals<'a> {
    /// Its number, from 1.
    pub step: u64,
    /// The learning rate that it goes by.
    pub lr: f64,
    /// Mean loss of its tokens in nats.
    pub loss: f64,
    /// Norm of the gradient, before clipping.
    pub grad_norm: f64,
    /// Largest magnitude in the residual stream after each layer, `[L]`.
    pub act_max: &'a [f32],
    /// Whether its update was left out, because its gradients cannot be used.
    pub skipped: bool,
    /// Steps left out in a row, this one included, that no smaller loss scale can answer.
    pub helpless: u64,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Illness {
    /// The loss has risen for good.
    Loss,
    /// Activations grow.
    Activations,
    /// Gradients grow.
    Gradient,
    /// Numbers leave the range that the device computes in.
    Overflow,
}

/// How a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "verdict", content = "kind", rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is wrong.
    #[default]
    Healthy,
    /// Something looks wrong.
    Warned(Illness),
    /// It will not get well by itself.
    Ill(Illness),
}

/// What the guard has to say about a step: the object `guard` of a line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reading {
    /// How many deviations of single steps this step's loss is above the median of the 64 before. No verdict goes by
    /// it: a single spike is no illness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub z: Option<f64>,
    /// As [`Trend::rise`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rise: Option<f64>,
    /// As [`Trend::lost`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<f64>,
    /// The factor of [`Trend::activations`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act_growth: Option<f64>,
    /// Its layer, from 0: that whose largest activation has grown most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act_layer: Option<usize>,
    /// The factor of [`Trend::gradient`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_growth: Option<f64>,
    /// As [`Signals::helpless`].
    #[serde(skip_serializing_if = "is_zero")]
    pub helpless: u64,
    /// The judgement.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The reason of a verdict that is not that of the step before.
    #[serde(skip)]
    pub news: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The guard of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Guard {
    config: GuardConfig,
    health: Health,
    /// Of the last full block; follows from the history.
    trend: Option<Trend>,
    /// Those of the last step.
    helpless: u64,
}

/// What of it a checkpoint keeps. It goes back with the run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    history: History,
    /// Not there in checkpoints from before 28 November 2026.
    #[serde(default, skip_serializing_if = "crate::checkpoint::is_default")]
    recent: Recent,
    /// The learning rate of the last step.
    lr: f64,
    /// About how many of the last 16 steps were left out.
    skips: f64,
    /// Blocks in a row that looked ill.
    ill_blocks: u32,
    /// The last verdict.
    verdict: Verdict,
}

impl Guard {
    /// At the beginning of a run.
    pub fn new(config: GuardConfig) -> Guard {
        Guard { config, health: Health::default(), trend: None, helpless: 0 }
    }

    /// What a checkpoint keeps.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Goes back to a state that was saved.
    pub fn restore(&mut self, health: Health) {
        self.trend = Trend::of(&health.history);
        self.health = health;
    }

    /// Forgets what was before the steps that follow `step`, unless it has: the run has another schedule since, and
    /// a rate that rises again makes losses rise that nothing is wrong with.
    pub fn forget_before(&mut self, step: u64) {
        if self.health.history.origin < step {
            self.restore(Health { history: History::from(step), ..Health::default() });
        }
    }

    /// The last trend, once the past is long enough.
    pub fn trend(&self) -> Option<&Trend> {
        self.trend.as_ref()
    }

    /// Judges a step. `None` when it is off.
    pub fn observe(&mut self, signals: &Signals<'_>) -> Option<Reading> {
        if self.config.action == Action::Off {
            return None;
        }
        let Signals { step, lr, loss, grad_norm, act_max, skipped, helpless } = *signals;
        let health = &mut self.health;
        if lr > health.lr {
            health.history.rate_rose(step);
        }
        health.lr = lr;
        let z = health.recent.z(loss);
        health.skips = SKIPS_MEMORY * health.skips + f64::from(u8::from(skipped));
        // A step that was left out shows what its weights do, not where they go, and may hold anything.
        let point = Point::of_step(step, loss, grad_norm, act_max).filter(|_| !skipped);
        if let Some(point) = &point {
            health.recent.push(point.loss);
        }
        if point.is_some_and(|point| health.history.push(point)) {
            self.trend = Trend::of(&health.history);
            self.health.ill_blocks = if self.looks_ill().is_some() { self.health.ill_blocks + 1 } else { 0 };
        }
        let verdict = self.judge(helpless);
        let is_news = verdict != self.health.verdict && verdict != Verdict::Healthy;
        self.health.verdict = verdict;
        self.helpless = helpless;
        let news = is_news.then(|| self.why());
        let trend = self.trend.as_ref();
        let activations = trend.and_then(|trend| trend.activations);
        Some(Reading {
            z,
            rise: trend.map(|trend| trend.rise),
            lost: trend.map(|trend| trend.lost),
            act_growth: activations.map(|growth| growth.factor),
            act_layer: activations.and_then(|growth| growth.layer),
            grad_growth: trend.and_then(|trend| Some(trend.gradient?.factor)),
            helpless,
            verdict,
            news,
        })
    }

    /// A last look at a run that ends here: why it is ill, by [`Illness::Loss`], if it is. What has happened since the last
    /// full block no later one would show.
    pub fn last_look(&self) -> Option<String> {
        let trend = self.trend.as_ref().filter(|_| self.config.action != Action::Off)?;
        let level = self.health.recent.level()?;
        let history = &self.health.history;
        // Not `f64::hypot`: it is the platform's and may round otherwise there, and a run is to be judged alike on all.
        let error = (Recent::level_error(history.deviation()).powi(2) + history.loss_error().powi(2)).sqrt();
        let GuardConfig { rise, lost, .. } = self.config;
        let risen = level - trend.lowest;
        (trend.learned > 0.0 && risen >= rise * error && risen >= lost * trend.learned).then(|| {
            format!(
                "the run ends with a loss of {level:.3} (the median of its last steps), {:.1} standard errors above its \
                 lowest ({:.1}% of what was learned is lost)",
                risen / error,
                100.0 * risen / trend.learned
            )
        })
    }

    fn judge(&self, helpless: u64) -> Verdict {
        if helpless >= PATIENCE {
            return Verdict::Ill(Illness::Overflow);
        }
        if let Some(illness) = self.looks_ill() {
            let for_long = self.health.ill_blocks >= PERSISTS;
            return if for_long { Verdict::Ill(illness) } else { Verdict::Warned(illness) };
        }
        let GuardConfig { rise, growth, .. } = self.config;
        match &self.trend {
            Some(trend) if trend.rise >= rise => Verdict::Warned(Illness::Loss),
            Some(trend) if trend.stalled && trend.grown().1 >= growth => Verdict::Warned(trend.grown().0),
            _ if self.is_skipping() => Verdict::Warned(Illness::Overflow),
            _ => Verdict::Healthy,
        }
    }

    fn is_skipping(&self) -> bool {
        self.health.skips > MANY_SKIPS
    }

    /// What the trend alone would be taken for.
    fn looks_ill(&self) -> Option<Illness> {
        let GuardConfig { rise, lost, growth, .. } = self.config;
        let trend = self.trend.as_ref()?;
        let activations = trend.activations.map_or(0.0, |growth| growth.factor);
        let (kind, factor) = trend.grown();
        if trend.rise >= rise && trend.lost >= lost {
            Some(Illness::Loss)
        } else if trend.rise >= WITNESSED * rise && activations >= growth {
            Some(Illness::Activations)
        } else {
            (trend.stalled && factor >= STALLED * growth).then_some(kind)
        }
    }

    /// The signals in words.
    pub(crate) fn why(&self) -> String {
        let (mut parts, helpless) = (Vec::new(), self.helpless);
        if helpless >= PATIENCE {
            parts.push(format!(
                "{helpless} steps in a row gave gradients that cannot be used, and no smaller loss scale is left to try"
            ));
        } else if self.is_skipping() {
            parts.push("most of the last steps gave gradients that cannot be used".to_owned());
        }
        if let Some(trend) = &self.trend {
            parts.push(match trend.rise >= WITNESSED * self.config.rise {
                true => format!(
                    "the loss has risen to {:.3}, {:.1} standard errors above its lowest ({:.1}% of what was learned is lost)",
                    trend.loss,
                    trend.rise,
                    100.0 * trend.lost
                ),
                false if trend.falling => format!("the loss, {:.3}, still falls", trend.loss),
                false if trend.stalled => format!("the loss, {:.3}, no longer falls", trend.loss),
                false => format!("the loss, {:.3}, falls too slowly to be seen", trend.loss),
            });
            let grown = |growth: &Growth| growth.factor >= self.config.growth;
            let told = |what: String, Growth { factor, now, since, .. }: Growth| {
                format!("{what} has grown {factor:.1} times since step {since}, to {now:.3}")
            };
            parts.extend(trend.activations.filter(grown).map(|growth| {
                told(format!("the largest activation after layer {}", growth.layer.unwrap_or(0)), growth)
            }));
            parts.extend(
                trend.gradient.filter(grown).map(|growth| told("the gradient's norm".to_owned(), growth)),
            );
        }
        parts.join("; ")
    }

    /// The last step after which the run was still well, by all that is known: before the stretch of the lowest loss,
    /// and before activations or gradients began to grow.
    pub fn healthy_until(&self) -> u64 {
        let Some(trend) = &self.trend else { return self.health.history.origin };
        let grown = [trend.activations, trend.gradient].into_iter().flatten();
        let begun = grown.filter(|growth| growth.factor >= self.config.growth).map(|growth| growth.since);
        begun.fold(trend.best_since, u64::min)
    }
}
