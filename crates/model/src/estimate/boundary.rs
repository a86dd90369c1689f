//! What crosses between host and device for a token, ours beside autoresearch-ANE's.

use serde::Serialize;

use super::{Plan, Traffic, published};
use crate::{Cut, ModelConfig, Result, Taps};

/// A system's dispatches and bytes for one update.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Boundary {
    /// Whose, and how.
    pub system: String,
    /// Dispatches for the sequences of one update.
    pub dispatches: usize,
    /// Bytes of activations, targets, statistics and extremes for a token.
    pub activations: f64,
    /// Bytes of weights written, for a token.
    pub weights: f64,
    /// Bytes of gradients read, for a token.
    pub gradients: f64,
}

impl Boundary {
    /// All bytes for a token.
    pub fn bytes_per_token(&self) -> f64 {
        self.activations + self.weights + self.gradients
    }
}

/// Ours with each cut, `sequences` in one batch and one batch for an update; then autoresearch-ANE's with as
/// many sequences for an update, once by what its host converts or copies and once by whole surfaces.
///
/// # Errors
/// As [`Plan::programs`], and for models that the ten kernels cannot compute.
pub fn boundaries(config: &ModelConfig, sequences: usize) -> Result<Vec<Boundary>> {
    let tokens = (sequences * config.seq_len) as f64;
    let mut rows = Vec::new();
    for cut in Cut::ALL {
        let plan = Plan { batch: sequences, batches: 1, cut, taps: Taps::Keep };
        let traffic = Traffic::of_step(config, &plan)?;
        let [weights, gradients] =
            [traffic.bytes_weights, traffic.bytes_gradients].map(|bytes| bytes as f64 / tokens);
        rows.push(Boundary {
            system: format!("anneal, cut `{}`, B = {sequences}", cut.name()),
            dispatches: traffic.dispatches,
            activations: traffic.bytes() as f64 / tokens - weights - gradients,
            weights,
            gradients,
        });
    }
    let kernels = published::kernels(config)?;
    let layers = config.n_layers;
    let per_token = |of: &dyn Fn(&published::Kernel) -> usize| -> f64 {
        let elements: usize = kernels.iter().map(of).sum();
        2.0 * (layers * elements) as f64 / config.seq_len as f64
    };
    let staged: usize = kernels.iter().map(|kernel| kernel.weights).sum();
    let mut theirs = |what: &str, activations: f64| {
        rows.push(Boundary {
            system: format!("autoresearch-ANE, {what}"),
            dispatches: sequences * layers * kernels.len(),
            activations,
            weights: 2.0 * (layers * staged) as f64 / tokens,
            // Its weight gradients are computed on the host and never leave it.
            gradients: 0.0,
        });
    };
    // What goes from surface to surface is read and written by the host.
    theirs("what its host touches", per_token(&|k| k.written + k.read + 2 * k.copied));
    theirs("whole surfaces", per_token(&|k| k.activations_in() + k.activations_out()));
    Ok(rows)
}
