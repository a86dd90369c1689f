//! Which cut, taps and batch a step would be fastest with.

use mil::lint::{Chip, Route};
use serde::Serialize;

use super::{Plan, StepEstimate};
use crate::{Cut, ModelConfig, Result, Taps};

/// Sequences in a batch that are tried.
pub const BATCHES: [usize; 5] = [1, 2, 4, 8, 16];

/// One way to carry out a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// How layers are divided.
    pub cut: Cut,
    /// Which activations are kept.
    pub taps: Taps,
    /// Sequences in a batch.
    pub batch: usize,
    /// Milliseconds of a step.
    pub step_ms: f64,
    /// Tokens per second.
    pub tok_s: f64,
    /// Dispatches in a step.
    pub dispatches: usize,
    /// Bytes that the run holds.
    pub memory_bytes: usize,
    /// Why it cannot be taken, if so.
    pub problem: Option<String>,
}

/// The longest axis by which a program of `chip` may count its tokens (ANEForge, measured on M1, M2 and M5).
fn max_axis(chip: Chip) -> usize {
    if chip <= Chip::M3 { 16_384 } else { 65_536 }
}

/// Every cut, taps and batch of [`BATCHES`] for a step of `sequences` sequences on `chip`: first what can be
/// taken, fastest first, and among equals the coarser cut, which costs fewer dispatches; then what cannot,
/// with the reason.
///
/// * `budget_bytes`: what the run may hold altogether
///
/// Batches that are larger than the step are left out, and so are those that do not divide it.
///
/// # Errors
/// As [`Plan::programs`].
pub fn choices(
    config: &ModelConfig,
    chip: Chip,
    route: Route,
    sequences: usize,
    budget_bytes: usize,
) -> Result<Vec<Choice>> {
    let mut choices = Vec::new();
    for batch in BATCHES.into_iter().filter(|batch| sequences.is_multiple_of(*batch)) {
        for cut in Cut::ALL {
            for taps in [Taps::Keep, Taps::Recompute] {
                let plan = Plan { batch, batches: sequences / batch, cut, taps };
                let step = StepEstimate::new(config, &plan, chip, route)?;
                let n = batch * config.seq_len;
                let problem = if n > max_axis(chip) {
                    Some(format!("{n} columns, an axis has at most {}", max_axis(chip)))
                } else if step.memory_bytes > budget_bytes {
                    Some(format!("{:.2} GB, beyond the budget", step.memory_bytes as f64 / 1e9))
                } else {
                    None
                };
                choices.push(Choice {
                    cut,
                    taps,
                    batch,
                    step_ms: step.step_ms,
                    tok_s: step.tok_s,
                    dispatches: step.traffic.dispatches,
                    memory_bytes: step.memory_bytes,
                    problem,
                });
            }
        }
    }
    let refused = |choice: &Choice| choice.problem.is_some();
    choices.sort_by(|a, b| {
        refused(a)
            .cmp(&refused(b))
            .then(a.step_ms.total_cmp(&b.step_ms))
            .then(a.dispatches.cmp(&b.dispatches))
    });
    Ok(choices)
}
