//! What a run's past says about where it is going.

use serde::Serialize;

use super::Illness;
use super::history::{History, SMOOTH};
use super::point::Point;

/// Blocks without which nothing can be said about the loss: a smoothed one now, and one before.
const FOR_LOSS: usize = 2 * SMOOTH;
/// Blocks without which nothing can be said about growth: a quarter of them is a smoothed value.
const FOR_GROWTH: usize = 4 * SMOOTH;
/// Standard errors by which a loss has to fall within the last quarter of the run for it to be falling.
const FALLING: f64 = 2.0;
/// Standard errors by which that fall has to stay below the promised one for the loss to have ceased to fall.
const CEASED: f64 = 5.0;
/// A signal has begun to grow where it was last below so many times its lowest.
const BEGUN: f64 = 1.1;

/// How a signal has grown since it was lowest in the last three quarters of the run and the rate last rose.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Growth {
    /// How many times that.
    pub factor: f64,
    /// What it is now.
    pub now: f64,
    /// The layer, of signals that are of layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// The last step before the growth began.
    pub since: u64,
}

/// The trend of a run after a block of steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Trend {
    /// The smoothed loss now, or that of the last block where it is lower, in nats.
    pub loss: f64,
    /// Its lowest.
    pub lowest: f64,
    /// By how much that is below the loss of the first steps.
    pub learned: f64,
    /// How far it is above its lowest, in standard errors of such a difference; 0 or less when it is the lowest.
    pub rise: f64,
    /// How much of what had been learned (from the first steps to the lowest loss) is lost again; a share.
    pub lost: f64,
    /// Whether it has fallen in the last quarter of the run.
    pub falling: bool,
    /// Whether it has not, though it was to: it fell less than the half before promised, by more than noise explains.
    /// A loss that falls as slowly as ever, or that had nothing left to fall by, is no reason to worry.
    pub stalled: bool,
    /// The last step before the stretch in which the loss was lowest.
    pub best_since: u64,
    /// Of the largest activations: the layer that has grown most.
    pub activations: Option<Growth>,
    /// Of the gradient's norm.
    pub gradient: Option<Growth>,
}

impl Trend {
    /// What can be said; `None` when the past is too short.
    pub(super) fn of(history: &History) -> Option<Trend> {
        let n = history.blocks();
        if n < FOR_LOSS {
            return None;
        }
        let loss_of = |index| history.smooth(index, &|block| block.loss);
        let smooth: Vec<f64> = (SMOOTH - 1..n).map(loss_of).collect();
        let error = history.loss_error();
        // A spike that heals leaves the smoothed loss later than it leaves the last block.
        let now = smooth[smooth.len() - 1].min(history.last_loss());
        let best = (0..smooth.len()).min_by(|a, b| smooth[*a].total_cmp(&smooth[*b])).unwrap_or(0);
        // The smoothed value `best` ends with block best + SMOOTH - 1 and begins with block `best`.
        let smooth_to = |block: usize| smooth[block.saturating_sub(SMOOTH - 1)];
        let before = smooth_to(3 * n / 4);
        let fall = before - now;
        // Losses fall in a straight line over the logarithm of steps, or faster where the rate falls, too: from a
        // quarter of the run to three by `ln 3`, and by `ln 4/3` from there to its end.
        let share = (4.0_f64 / 3.0).ln() / 3.0_f64.ln();
        let promised = share * (smooth_to(n / 4) - before);
        // `before` counts in both.
        let promised_error = error * (0.5 + 0.5 * (1.0 + share).powi(2) + 0.5 * share * share).sqrt();
        let learned = history.untaught() - smooth[best];
        let lost = if learned > 0.0 { (now - smooth[best]) / learned } else { 0.0 };
        let layers = (0..history.layers()).filter_map(|layer| {
            let growth = growth(history, &|block| block.acts[layer])?;
            Some(Growth { layer: Some(layer), ..growth })
        });
        Some(Trend {
            loss: now,
            lowest: smooth[best],
            learned,
            rise: if error > 0.0 { (now - smooth[best]) / error } else { 0.0 },
            lost,
            falling: fall > FALLING * error,
            stalled: fall <= FALLING * error && promised - fall > CEASED * promised_error,
            best_since: history.step(best.checked_sub(1)),
            activations: layers.max_by(|a, b| a.factor.total_cmp(&b.factor)),
            gradient: growth(history, &|block| block.grad),
        })
    }
}

impl Trend {
    /// Which of activations and gradient has grown more, and how many times.
    pub(super) fn grown(&self) -> (Illness, f64) {
        let factor = |growth: Option<Growth>| growth.map_or(0.0, |growth| growth.factor);
        let (activations, gradient) = (factor(self.activations), factor(self.gradient));
        if gradient > activations {
            (Illness::Gradient, gradient)
        } else {
            (Illness::Activations, activations)
        }
    }
}

/// How a signal, given as a logarithm to base 2, has grown.
fn growth(history: &History, of: &dyn Fn(&Point) -> f64) -> Option<Growth> {
    let n = history.blocks();
    if n < FOR_GROWTH {
        return None;
    }
    let smooth = |index| history.smooth(index, of);
    let now = smooth(n - 1);
    let first = history.settled().max(n / 4);
    if first + 2 * SMOOTH > n {
        return None;
    }
    let past: Vec<(usize, f64)> = (first + SMOOTH - 1..n).map(|index| (index, smooth(index))).collect();
    let lowest = past.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
    let low = past.iter().rev().find(|(_, value)| *value <= lowest + BEGUN.log2());
    let since = low.map_or(n - 1, |(index, _)| *index);
    Some(Growth {
        factor: (now - lowest).exp2(),
        now: now.exp2(),
        layer: None,
        since: history.step(Some(since)),
    })
}
