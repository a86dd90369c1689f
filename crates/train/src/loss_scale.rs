//! The factor on the loss that keeps f16 gradients between underflow and overflow.
//!
//! A device of f16 computes gradients of S times the mean loss; S is a state of the run. Its
//! numbers, and why:
//!
//! * [`PEAK_LIMIT`] = 16,000. A matrix product of the engine becomes infinite beyond about 32,752
//!   (half of the largest f16, the same on every chip that was probed), and the engine may turn a
//!   NaN that follows into something finite. So no trust is put in "not finite": a step whose largest
//!   gradient passes *half the cliff* is skipped, while all sums that led to it were still right.
//! * Back-off halves S: gradients of consecutive steps differ by less than that as a rule, and
//!   powers of two change no bit of a gradient's mantissa.
//! * Growth doubles S after `growth_interval` (200) steps without a skip, but only if the largest
//!   gradient of those steps, doubled, would stay below half the limit. PyTorch's scaler doubles
//!   blindly every 2,000 steps and pays a skipped step each time S is too large; our runs are
//!   often shorter than that, and the peak is known anyway.
//! * The first S is [`FIRST_SCALE_PER_TOKEN`] for each token of a step: with 2,048 tokens 65,536,
//!   which has been used on the engine (256 to 65,536 have). What must not underflow are the
//!   gradients of single tokens, which are S / tokens times a probability: at 32 per token a
//!   probability of 1/V at V = 151,936 is 2e-4, three times the smallest normal f16 (6e-5).
//!
//! The tokens of a step are those of one of full size: smaller ones, at the beginning of a run with a ramp, put the
//! same factor on each token, so that what can underflow or overflow on the way back does not depend on the ramp.
//!
//! On a device of f32 S = 1 for good; the state keeps what a device of f16 would begin or go on with, for a run that
//! changes devices. Both kinds skip a step whose gradients are not numbers.

use mil::Element;
use serde::{Deserialize, Serialize};

use crate::Peak;

/// The largest gradient that is believed, on devices of f16.
pub const PEAK_LIMIT: f32 = 16_000.0;
/// The automatic first scale for each token of a step.
pub const FIRST_SCALE_PER_TOKEN: f64 = 32.0;
/// Largest factor on the gradient of a single token: it must itself be an f16 (65,504 at most).
const LARGEST_PER_TOKEN: f64 = 32_768.0;
/// Skipped steps in a row, each with nothing left to try, after which training has diverged.
pub const PATIENCE: u64 = 10;

/// How the scale behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaleRules {
    /// The first scale; `None` chooses it by the number of tokens.
    pub initial: Option<f64>,
    /// Steps without a skip before it may double.
    pub growth_interval: u64,
    /// It never falls below.
    pub min: f64,
    /// It never rises above.
    pub max: f64,
}

/// What of it a checkpoint keeps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScaleState {
    /// The scale of the next step on a device of f16, S.
    pub scale: f64,
    /// Steps since it last changed or a step was skipped.
    pub clean_steps: u64,
    /// The largest gradient in them.
    pub peak: f32,
    /// Steps skipped in the whole run.
    pub skipped: u64,
    /// Skipped steps up to now in a row, without a smaller scale to answer them with.
    pub helpless: u64,
}

/// What becomes of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Its gradients are used.
    Use,
    /// They are used, and the scale has doubled for the next step.
    UseAndGrow,
    /// They are not used, for this reason; the scale has been halved where that was possible.
    Skip(String),
}

/// The scale of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct LossScale {
    element: Element,
    rules: ScaleRules,
    step_tokens: f64,
    state: LossScaleState,
}

impl LossScale {
    /// For steps of `step_tokens` tokens on a device of `element`.
    pub fn new(element: Element, rules: ScaleRules, step_tokens: u64) -> LossScale {
        let step_tokens = step_tokens as f64;
        let rules = ScaleRules { max: rules.max.min(LARGEST_PER_TOKEN * step_tokens), ..rules };
        let scale = rules
            .initial
            .unwrap_or_else(|| (FIRST_SCALE_PER_TOKEN * step_tokens).log2().round().exp2())
            .max(rules.min)
            .min(rules.max);
        let state = LossScaleState { scale, clean_steps: 0, peak: 0.0, skipped: 0, helpless: 0 };
        LossScale { element, rules, step_tokens, state }
    }

    /// The scale of the next step.
    pub fn scale(&self) -> f64 {
        match self.element {
            Element::F32 => 1.0,
            Element::F16 => self.state.scale,
        }
    }

    /// The natural logarithm of the factor on the sum of a step's losses, S / tokens.
    pub fn log_scale(&self) -> f32 {
        (self.scale() / self.step_tokens).ln() as f32
    }

    /// What a checkpoint keeps.
    pub fn state(&self) -> LossScaleState {
        self.state
    }

    /// Goes back to a state that was saved, on whatever device.
    pub fn restore(&mut self, state: LossScaleState) {
        let scale = state.scale.clamp(self.rules.min, self.rules.max.max(self.rules.min));
        self.state = LossScaleState { scale, ..state };
    }

    /// Whether no smaller scale is left to try, and has not been for [`PATIENCE`] steps in a row.
    pub fn has_given_up(&self) -> bool {
        self.state.helpless >= PATIENCE
    }

    /// Judges a step by the largest magnitude among its activations, that among its gradients (times their scale)
    /// and its loss, and sets the scale of the next. An engine may turn NaN into something finite on the way to the
    /// loss (rule ANE-060), so activations are asked themselves.
    pub fn judge(&mut self, activation: Peak, peak: Peak, loss: f64) -> Verdict {
        let (activation, peak) = (activation.value(), peak.value());
        let problem = match self.element {
            _ if !loss.is_finite() => Some(format!("the loss is {loss}")),
            _ if !activation.is_finite() => Some(format!("an activation is {activation}")),
            _ if !peak.is_finite() => Some(format!("a gradient is {peak}")),
            Element::F16 if peak > PEAK_LIMIT => {
                Some(format!("the largest gradient, {peak}, is above {PEAK_LIMIT}"))
            }
            _ => None,
        };
        let state = &mut self.state;
        if let Some(problem) = problem {
            state.skipped += 1;
            (state.clean_steps, state.peak) = (0, 0.0);
            let smaller = state.scale / 2.0;
            if self.element == Element::F16 && smaller >= self.rules.min {
                state.scale = smaller;
                state.helpless = 0;
            } else {
                state.helpless += 1;
            }
            return Verdict::Skip(problem);
        }
        state.helpless = 0;
        if self.element == Element::F32 {
            return Verdict::Use;
        }
        state.clean_steps += 1;
        state.peak = state.peak.max(peak);
        if state.clean_steps < self.rules.growth_interval {
            return Verdict::Use;
        }
        let has_room = 2.0 * state.peak <= PEAK_LIMIT / 2.0 && 2.0 * state.scale <= self.rules.max;
        (state.clean_steps, state.peak) = (0, 0.0);
        if !has_room {
            return Verdict::Use;
        }
        state.scale *= 2.0;
        Verdict::UseAndGrow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: ScaleRules = ScaleRules { initial: None, growth_interval: 3, min: 1.0, max: 16_777_216.0 };

    fn peak(value: f32) -> Peak {
        Peak::of(&[value])
    }

    #[test]
    fn the_first_scale_follows_the_tokens_and_the_limits() {
        let first = |rules, tokens| LossScale::new(Element::F16, rules, tokens).state().scale;
        assert_eq!(first(RULES, 2048), 65536.0);
        assert_eq!(first(RULES, 2000), 65536.0);
        assert_eq!(first(ScaleRules { initial: Some(256.0), ..RULES }, 2048), 256.0);
        assert_eq!(first(ScaleRules { max: 128.0, ..RULES }, 2048), 128.0);
        // One token more than 32,768 would not be an f16.
        assert_eq!(first(ScaleRules { initial: Some(1e6), ..RULES }, 1), 32768.0);
        let single = LossScale::new(Element::F32, RULES, 2048);
        assert_eq!(single.scale(), 1.0);
        assert_eq!(single.log_scale(), -(2048_f32.ln()));
    }

    #[test]
    fn overflow_skips_and_halves_before_the_cliff() {
        let mut scale = LossScale::new(Element::F16, RULES, 2048);
        assert_eq!(scale.judge(Peak::default(), peak(PEAK_LIMIT), 1.0), Verdict::Use);
        for (value, loss) in [(16_001.0, 1.0), (f32::INFINITY, 1.0), (f32::NAN, 1.0), (1.0, f64::NAN)] {
            let before = scale.state();
            assert!(
                matches!(scale.judge(Peak::default(), peak(value), loss), Verdict::Skip(_)),
                "{value} {loss}"
            );
            assert_eq!(scale.state().scale, before.scale / 2.0);
            assert_eq!(scale.state().skipped, before.skipped + 1);
        }
        // An activation of any size is one, as long as it is a number.
        assert_eq!(scale.judge(peak(60_000.0), peak(1.0), 1.0), Verdict::Use);
        for value in [f32::NAN, f32::INFINITY] {
            let Verdict::Skip(why) = scale.judge(peak(value), peak(1.0), 1.0) else { panic!("{value}") };
            assert!(why.starts_with("an activation is "), "{why}");
        }
    }

    #[test]
    fn it_grows_after_clean_steps_only_when_there_is_room() {
        let mut scale = LossScale::new(Element::F16, RULES, 2048);
        let judged = |scale: &mut LossScale, values: &[f32]| -> Vec<Verdict> {
            values.iter().map(|v| scale.judge(Peak::default(), peak(*v), 1.0)).collect()
        };
        assert_eq!(
            judged(&mut scale, &[1.0, 4000.0, 1.0]),
            [Verdict::Use, Verdict::Use, Verdict::UseAndGrow]
        );
        assert_eq!(scale.state().scale, 131_072.0);
        // A peak that would come near the limit when doubled.
        assert_eq!(judged(&mut scale, &[1.0, 4001.0, 1.0]), [Verdict::Use, Verdict::Use, Verdict::Use]);
        // The interval begins anew after a skip.
        judged(&mut scale, &[1.0, 20_000.0]);
        assert_eq!(judged(&mut scale, &[1.0, 1.0, 1.0])[2], Verdict::UseAndGrow);
        let mut full = LossScale::new(Element::F16, ScaleRules { max: 65536.0, ..RULES }, 2048);
        assert_eq!(judged(&mut full, &[1.0, 1.0, 1.0])[2], Verdict::Use);
    }

    #[test]
    fn it_gives_up_only_when_nothing_is_left_to_try() {
        let mut half = LossScale::new(Element::F16, RULES, 2048);
        let mut steps = 0;
        while !half.has_given_up() {
            half.judge(Peak::default(), peak(f32::NAN), 1.0);
            steps += 1;
        }
        assert_eq!(steps, 16 + PATIENCE, "65,536 can be halved 16 times before it is 1");
        let mut single = LossScale::new(Element::F32, RULES, 2048);
        for _ in 0..PATIENCE - 1 {
            single.judge(Peak::default(), peak(f32::NAN), 1.0);
        }
        assert!(!single.has_given_up());
        assert_eq!(single.judge(Peak::default(), peak(1e30), 1.0), Verdict::Use, "f32 has no cliff");
        assert_eq!(single.state().helpless, 0);
    }

    /// A scale of 1, which f32 goes by, would let gradients of f16 underflow.
    #[test]
    fn a_run_that_changes_devices_has_the_scale_of_each() {
        let new = |element| LossScale::new(element, RULES, 2048);
        let (mut single, mut half) = (new(Element::F32), new(Element::F16));
        half.restore(single.state());
        assert_eq!((half.scale(), half.clone()), (65536.0, new(Element::F16)));
        half.judge(Peak::default(), peak(20_000.0), 1.0);
        single.restore(half.state());
        assert_eq!((single.scale(), single.state()), (1.0, half.state()));
        half.restore(single.state());
        assert_eq!(half.scale(), 32768.0);
    }

    #[test]
    fn a_saved_state_goes_on_as_if_never_stopped() {
        let mut scale = LossScale::new(Element::F16, RULES, 2048);
        scale.judge(Peak::default(), peak(20_000.0), 1.0);
        scale.judge(Peak::default(), peak(3.0), 1.0);
        let json = serde_json::to_string(&scale.state()).unwrap();
        let mut other = LossScale::new(Element::F16, RULES, 2048);
        other.restore(serde_json::from_str(&json).unwrap());
        assert_eq!(other, scale);
    }
}
