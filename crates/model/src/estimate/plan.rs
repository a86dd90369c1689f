//! Which programs one batch runs, how often, and what they hold: [`crate::Stack`]'s arrangement, worked out
//! without a device.

use std::collections::HashMap;

use mil::{Element, Program, gradient_name};

use crate::{Cut, ModelConfig, Parameter, Result, Taps, head, layer, stack};

/// How a step is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Sequences in a batch, B.
    pub batch: usize,
    /// Batches whose gradients make one update.
    pub batches: usize,
    /// How layers are divided.
    pub cut: Cut,
    /// Which activations are kept for the backward pass.
    pub taps: Taps,
}

/// A program and how often a training batch runs it.
#[derive(Debug, Clone)]
pub struct Planned {
    /// As the device knows it.
    pub name: String,
    /// In f16.
    pub program: Program,
    /// Its input ports that carry weights.
    pub weights: Vec<String>,
    /// Runs for one batch.
    pub runs: usize,
    /// Whether it belongs to a layer, not to what comes after the last.
    pub in_layer: bool,
}

/// Row ranges of the classifier's tiles on an engine, each with its count of rows.
pub(super) fn tile_rows(config: &ModelConfig) -> Vec<std::ops::Range<usize>> {
    head::tiles(config.vocab_size, head::F16_MAX_TILE)
}

impl Plan {
    /// The programs of a training batch, in the order in which they first run.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for an impossible configuration, [`crate::Error::Batch`] for no sequences.
    pub fn programs(&self, config: &ModelConfig) -> Result<Vec<Planned>> {
        config.validate()?;
        if self.batch == 0 || self.batches == 0 {
            return Err(crate::Error::Batch("it must hold at least one sequence".into()));
        }
        let mut programs = Vec::new();
        for (kind, layers) in config.layer_kinds() {
            let joint = layer::joint(config, kind, self.batch, Element::F16)?;
            let weights: Vec<String> =
                layer::weight_ports(config, kind).into_iter().map(str::to_owned).collect();
            programs.extend(self.cut.divide(&joint, kind, self.taps)?.into_iter().map(|segment| Planned {
                name: segment.name,
                program: segment.program,
                weights: weights.clone(),
                runs: layers.len(),
                in_layer: true,
            }));
        }
        let n = self.batch * config.seq_len;
        let head = head::programs(config, n, &tile_rows(config), Element::F16)?;
        programs.extend(head.into_iter().filter(|head| head.training_runs > 0).map(|head| Planned {
            name: head.name.to_owned(),
            program: head.program,
            weights: vec!["w".to_owned(), "norm".to_owned()],
            runs: head.training_runs,
            in_layer: false,
        }));
        Ok(programs)
    }

    /// Bytes of device buffers that a [`crate::Stack`] allocates on a device that computes in f16 and does
    /// not accumulate.
    ///
    /// # Errors
    /// As [`Plan::programs`].
    pub fn buffer_bytes(&self, config: &ModelConfig) -> Result<usize> {
        let n = self.batch * config.seq_len;
        let (stream, tiles) = (config.width * n, tile_rows(config).len());
        // What layers share, by name, and what they own.
        let mut shared: HashMap<(String, Vec<usize>), usize> = HashMap::new();
        let mut share = |name: &str, shape: &[usize]| {
            shared.insert((name.to_owned(), shape.to_vec()), shape.iter().product());
        };
        // Streams and their gradient, which goes down through two buffers by turns; extremes.
        let mut elements = (config.n_layers + 1 + 2) * stream + config.n_layers * 2;
        if config.x0_residual {
            // So does the gradient of x0, from a third buffer, which is nothing.
            elements += 3 * stream;
        }
        for (kind, layers) in config.layer_kinds() {
            let joint = layer::joint(config, kind, self.batch, Element::F16)?;
            let segments = self.cut.divide(&joint, kind, self.taps)?;
            let taps = stack::taps_of(&segments, self.cut.forward_segments());
            let mut own: HashMap<String, usize> = HashMap::new();
            let weights = layer::weight_ports(config, kind);
            let gradients: Vec<String> = weights.iter().map(|port| gradient_name(port)).collect();
            for port in segments.iter().flat_map(|segment| segment.program.ports()) {
                match port.name {
                    "x" | "y" | "d_x" | "d_y" | "x0" | "d_x0" | "d_x0_above" | "act_max" | "d_max" => {}
                    name if weights.contains(&name) || gradients.iter().any(|g| g == name) => {}
                    name if name == "ve" || taps.contains(name) => {
                        own.insert(name.to_owned(), port.ty.numel());
                    }
                    name => share(name, &port.ty.shape),
                }
            }
            elements += layers.len() * own.values().sum::<usize>();
        }
        for parameter in Parameter::all(config) {
            if parameter.on_host_only(config) {
                continue;
            }
            elements += parameter.numel();
            // Layers share the buffer that a gradient of theirs passes through.
            match parameter.layer {
                Some(_) => share(&gradient_name(parameter.port), &parameter.port_shape()),
                None => elements += parameter.numel(),
            }
        }
        elements += shared.values().sum::<usize>();
        // Behind the last layer: its normed stream and, for each of several tiles, a share of its gradient;
        // targets and statistics of each tile; the log-sum-exp; the loss scale.
        elements += stream + if tiles > 1 { tiles * stream } else { 0 };
        elements += tiles * 5 * n + 2 * n + 1;
        Ok(elements * Element::F16.bytes())
    }
}

/// Bytes that cross between host and device, in the device's element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Traffic {
    /// Runs of programs.
    pub dispatches: usize,
    /// From the host.
    pub bytes_written: usize,
    /// To the host.
    pub bytes_read: usize,
    /// The part of `bytes_written` that is weights.
    pub bytes_weights: usize,
    /// The part of `bytes_read` that is gradients of weights.
    pub bytes_gradients: usize,
}

impl Traffic {
    /// What `plan` moves in one step on a device that computes in f16 and does not accumulate: the weights
    /// once, and for each batch the embeddings in and their gradients out (those of layers' values too), the targets, the statistics of the
    /// loss, the extremes of each layer, and every gradient.
    ///
    /// # Errors
    /// As [`Plan::programs`].
    pub fn of_step(config: &ModelConfig, plan: &Plan) -> Result<Traffic> {
        let dispatches: usize = plan.programs(config)?.iter().map(|planned| planned.runs).sum();
        Ok(Traffic::with_dispatches(config, plan, dispatches))
    }

    pub(super) fn with_dispatches(config: &ModelConfig, plan: &Plan, dispatches: usize) -> Traffic {
        let n = plan.batch * config.seq_len;
        let (stream, tiles) = (config.width * n, tile_rows(config).len());
        let on_device: usize =
            Parameter::all(config).iter().filter(|p| !p.on_host_only(config)).map(Parameter::numel).sum();
        let with_values = (0..config.n_layers).filter(|layer| config.layer_kind(*layer).value_embedding);
        let values = with_values.count() * config.kv_dim() * n;
        let d_x0 = if config.x0_residual { stream } else { 0 };
        let log_sum_exp = if tiles > 1 { 2 * n } else { 0 };
        let written = stream + values + tiles * 2 * n + log_sum_exp + 1;
        let read = stream + values + d_x0 + tiles * 3 * n + 2 * config.n_layers + on_device;
        let bytes = Element::F16.bytes();
        Traffic {
            dispatches: plan.batches * dispatches,
            bytes_written: bytes * (on_device + plan.batches * written),
            bytes_read: bytes * plan.batches * read,
            bytes_weights: bytes * on_device,
            bytes_gradients: bytes * plan.batches * on_device,
        }
    }

    /// Both directions.
    pub fn bytes(&self) -> usize {
        self.bytes_written + self.bytes_read
    }
}
