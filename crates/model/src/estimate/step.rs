//! How long a training step would take.

use mil::estimate::Rates;
use mil::lint::{Chip, Route};
use serde::Serialize;

use super::{Host, Plan, Traffic};
use crate::{ModelConfig, Result};

/// One program of a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProgramEstimate {
    /// As the device knows it.
    pub name: String,
    /// Whether it belongs to a layer, not to what comes after the last.
    pub in_layer: bool,
    /// Runs for one batch.
    pub runs: usize,
    /// Operations of one run.
    pub flops: f64,
    /// Bytes of its input ports that are not weights.
    pub bytes_in: f64,
    /// Bytes of its output ports.
    pub bytes_out: f64,
    /// Bytes of weights and baked constants.
    pub bytes_weights: f64,
    /// Bytes that do not fit the engine's own memory and pass through the machine's.
    pub bytes_spilled: f64,
    /// The most that is alive inside it at once, in bytes.
    pub peak_bytes: f64,
    /// Milliseconds of one run.
    pub ms: f64,
    /// `floor`, `compute` or `memory`.
    pub bound: &'static str,
}

/// A training step on one chip.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepEstimate {
    /// The programs in order.
    pub programs: Vec<ProgramEstimate>,
    /// Milliseconds of one layer's programs, forward and backward, for one batch; of a mean layer, where there
    /// are several kinds.
    pub layer_ms: f64,
    /// Milliseconds of what comes after the last layer, for one batch.
    pub head_ms: f64,
    /// Milliseconds of all programs in the step.
    pub engine_ms: f64,
    /// Milliseconds in which the host writes and reads buffers, converting.
    pub convert_ms: f64,
    /// Milliseconds of the optimiser on the host.
    pub update_ms: f64,
    /// The whole step; the three follow one another.
    pub step_ms: f64,
    /// Tokens in the step.
    pub tokens: usize,
    /// Tokens per second.
    pub tok_s: f64,
    /// What crosses between host and device.
    pub traffic: Traffic,
    /// Bytes of device buffers.
    pub buffer_bytes: usize,
    /// Bytes that the whole run holds: device buffers, what the largest program needs inside, and on the
    /// host four f32 for each parameter (master, gradient, two moments).
    pub memory_bytes: usize,
}

impl StepEstimate {
    /// The step of `config` by `plan` on `chip`, by `route` with ports of their own (the packed surfaces of
    /// [`Route::AneInMem`] change only the floor here), with the host of a quiet M4 Max.
    ///
    /// # Errors
    /// As [`Plan::programs`].
    pub fn new(config: &ModelConfig, plan: &Plan, chip: Chip, route: Route) -> Result<StepEstimate> {
        Ok(StepEstimate::on_each(config, plan, &[chip], route)?.remove(0))
    }

    /// The same on several chips; programs are counted once.
    ///
    /// # Errors
    /// As [`Plan::programs`].
    pub fn on_each(
        config: &ModelConfig,
        plan: &Plan,
        chips: &[Chip],
        route: Route,
    ) -> Result<Vec<StepEstimate>> {
        let programs = plan.programs(config)?;
        let costs = programs
            .iter()
            .map(|planned| planned.program.cost(|port| planned.weights.iter().any(|w| w == port)))
            .collect::<mil::Result<Vec<_>>>()?;
        let dispatches = programs.iter().map(|planned| planned.runs).sum();
        let traffic = Traffic::with_dispatches(config, plan, dispatches);
        let buffer_bytes = plan.buffer_bytes(config)?;
        let parameters = config.parameter_count();
        let tokens = plan.batches * plan.batch * config.seq_len;
        let convert_ms = convert_ms(config, plan, &traffic);
        let update_ms = Host::QUIET.update_ms(parameters as f64);
        let peak = costs.iter().map(|cost| cost.peak_bytes).fold(0.0, f64::max);
        let estimate = |chip: &Chip| {
            let rates = Rates::of(*chip, route);
            let programs: Vec<ProgramEstimate> = programs
                .iter()
                .zip(&costs)
                .map(|(planned, cost)| {
                    let time = rates.predict(cost);
                    ProgramEstimate {
                        name: planned.name.clone(),
                        in_layer: planned.in_layer,
                        runs: planned.runs,
                        flops: cost.flops(),
                        bytes_in: cost.bytes_in,
                        bytes_out: cost.bytes_out,
                        bytes_weights: cost.bytes_weights,
                        bytes_spilled: cost.bytes_spilled,
                        peak_bytes: cost.peak_bytes,
                        ms: time.ms(),
                        bound: time.bound().name(),
                    }
                })
                .collect();
            let layers = config.n_layers as f64;
            let layer_ms: f64 =
                programs.iter().filter(|p| p.in_layer).map(|p| p.runs as f64 / layers * p.ms).sum();
            let head_ms: f64 = programs.iter().filter(|p| !p.in_layer).map(|p| p.runs as f64 * p.ms).sum();
            let engine_ms = plan.batches as f64 * (layers * layer_ms + head_ms);
            let step_ms = engine_ms + convert_ms + update_ms;
            StepEstimate {
                programs,
                layer_ms,
                head_ms,
                engine_ms,
                convert_ms,
                update_ms,
                step_ms,
                tokens,
                tok_s: tokens as f64 / step_ms * 1e3,
                traffic,
                buffer_bytes,
                memory_bytes: buffer_bytes + peak as usize + 16 * parameters,
            }
        };
        Ok(chips.iter().map(estimate).collect())
    }
}

/// Milliseconds of the host between programs. A conversion touches 2 bytes of f16 and 4 of f32; a gradient
/// that joins the sum of an earlier batch touches the sum twice.
fn convert_ms(config: &ModelConfig, plan: &Plan, traffic: &Traffic) -> f64 {
    let elements = traffic.bytes() as f64 / 2.0;
    let summed = (plan.batches - 1) as f64 * config.parameter_count() as f64;
    // Embeddings are gathered and their gradients scattered in f32.
    let with_values = (0..config.n_layers).filter(|layer| config.layer_kind(*layer).value_embedding);
    let channels = config.width + with_values.count() * config.kv_dim();
    let looked_up = 2.0 * (plan.batches * plan.batch * config.seq_len * channels) as f64;
    Host::QUIET.copy_ms(elements * 6.0 + summed * 4.0 + looked_up * 8.0)
}
