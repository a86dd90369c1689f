//! A model on a device: every layer's buffers bound to the compiled segments, and the passes that
//! run them.
//!
//! All layers of a kind share the same few compiled programs; a layer owns its weights, its gradients and its
//! taps. Everything that a segment hands to a later one goes through a buffer under the value's own
//! name: what the backward pass reads is a tap and each layer has its own, everything else is
//! scratch that the layers share.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use device::{Buffer, Device, Executable, Invocation, Mode};
use mil::composites::cross_entropy::Statistics;
use mil::{PortKind, Program, Segment, gradient_name};

use crate::head::Head;
use crate::parameter::{CLASSIFIER, EMBEDDING, FINAL_NORM};
use crate::storage::{Part, Scratch, Sum, allocate, bind_all, in_place};
use crate::tables::Table;
use crate::{Cut, Error, LayerKind, ModelConfig, Parameter, ParameterKind, Result, Taps, head, layer};

/// How a model is laid out on a device.
#[derive(Debug, Clone)]
pub struct StackOptions {
    /// Sequences in a batch, B.
    pub batch: usize,
    /// How layers are divided; `None` takes the coarsest cut that the device compiles.
    pub cut: Option<Cut>,
    /// Which activations are kept for the backward pass.
    pub taps: Taps,
    /// Longest vocabulary tile; `None` takes what the device's axes allow.
    pub max_tile: Option<usize>,
}

impl Default for StackOptions {
    fn default() -> Self {
        StackOptions { batch: 1, cut: None, taps: Taps::Keep, max_tile: None }
    }
}

/// What one pass over a batch gave.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Loss of each target in nats, `[N]`, not scaled.
    pub nll: Vec<f32>,
    /// Largest magnitude in the residual stream after each layer, `[L]`.
    pub act_max: Vec<f32>,
    /// Largest magnitude in the gradient of each layer's input (with `x0_residual` also in that of x0 by way of
    /// this layer and those above), times the scale, `[L]`; empty after a forward pass alone.
    pub d_max: Vec<f32>,
}

/// The forward and backward invocations of one layer.
struct Layer {
    forward: Vec<Invocation>,
    /// For a batch that begins a sum of gradients, and for one that goes on with it. Without
    /// accumulating ports there is only the first.
    backward: Vec<Vec<Invocation>>,
    value_embedding: Option<Table>,
    act_max: Buffer,
    d_max: Buffer,
}

/// What an optimiser does to a run of elements: its offset, the weights, their gradient.
pub type Update<'a> = &'a mut dyn FnMut(usize, &mut [f32], &[f32]);

/// Gradients as the optimiser sees them: one slice for each part of a parameter.
pub type Gradients<'a> = &'a mut dyn FnMut(usize, &[f32]);

/// A model on a device.
pub struct Stack {
    config: ModelConfig,
    device: Arc<dyn Device>,
    options: StackOptions,
    cut: Cut,
    choices: Vec<String>,
    parameters: Vec<Parameter>,
    parts: Vec<Vec<Part>>,
    embedding: Table,
    layers: Vec<Layer>,
    head: Head,
    /// Whether gradients sum in device buffers, by accumulating ports.
    sums_in_place: bool,
    host: Vec<f32>,
}

/// Compiled segments of a kind of layer, and where each value that passes between them is born and read.
struct Compiled {
    executables: Vec<Executable>,
    taps: HashSet<String>,
}

impl Stack {
    /// Compiles the programs, allocates every buffer and binds them. Weights are zero until they
    /// are set.
    ///
    /// # Errors
    /// [`Error::Config`] for an impossible configuration, [`Error::Device`] when the device takes
    /// no cut of the layer or has no room.
    pub fn new(config: &ModelConfig, device: Arc<dyn Device>, options: &StackOptions) -> Result<Stack> {
        config.validate()?;
        if options.batch == 0 {
            return Err(Error::Batch("it must hold at least one sequence".into()));
        }
        let element = device.element();
        let n = options.batch * config.seq_len;
        // Gradients sum in the device's own memory where its ports accumulate and the host sees it.
        let sums_in_place = device.limits().accumulate && device.alloc(&[1])?.map_f32(&mut |_| {});
        let joints = config
            .layer_kinds()
            .into_iter()
            .map(|(kind, _)| Ok((kind, layer::joint(config, kind, options.batch, element)?)))
            .collect::<Result<Vec<_>>>()?;
        let mut choices = Vec::new();
        let (cut, compiled) = compile_ladder(device.as_ref(), &joints, options, &mut choices)?;

        let parameters = Parameter::all(config);
        let longest = options.max_tile.unwrap_or(usize::MAX).clamp(1, head::longest_tile(device.as_ref()));
        let tile_rows = head::tiles(config.vocab_size, longest);
        let mut scratch = Scratch { device: device.as_ref(), buffers: HashMap::new() };
        let parts = parameters
            .iter()
            .map(|parameter| allocate(config, device.as_ref(), parameter, &tile_rows, &mut scratch))
            .collect::<Result<Vec<_>>>()?;
        let position = |name: &str| parameters.iter().position(|p| p.name == name);

        let stream_shape = [1, config.width, 1, n];
        let streams = (0..=config.n_layers)
            .map(|_| device.alloc(&stream_shape))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        // The gradient of the stream goes down through two buffers by turns.
        let d_streams = [device.alloc(&stream_shape)?, device.alloc(&stream_shape)?];
        let d_of = |layer: usize| &d_streams[layer % 2];
        // So does that of x0, which begins with nothing above the last layer.
        let d_x0 = match config.x0_residual {
            true => Some([device.alloc(&stream_shape)?, device.alloc(&stream_shape)?]),
            false => None,
        };
        let nothing = d_x0.as_ref().map(|_| device.alloc(&stream_shape)).transpose()?;
        if let Some(nothing) = &nothing {
            nothing.write_f32(&vec![0.0; config.width * n])?;
        }
        let d_x0_of = |layer: usize| match (&d_x0, &nothing) {
            (Some(_), Some(nothing)) if layer == config.n_layers => nothing.clone(),
            (Some(buffers), _) => buffers[layer % 2].clone(),
            _ => unreachable!("only a model with x0_residual has such a port"),
        };

        let modes: &[Mode] = if sums_in_place { &[Mode::Store, Mode::Accumulate] } else { &[Mode::Store] };
        let mut layers = Vec::with_capacity(config.n_layers);
        for at in 0..config.n_layers {
            let compiled = &compiled[&config.layer_kind(at)];
            let table = parameters
                .iter()
                .position(|p| p.layer == Some(at) && p.kind == ParameterKind::ValueEmbedding);
            let columns = [1, config.kv_dim(), 1, n];
            let value_embedding = match table {
                None => None,
                Some(table) => {
                    let ve = device.alloc(&columns)?;
                    let d_ve = scratch.get(&gradient_name("ve"), &columns)?;
                    Some((ve.clone(), d_ve.clone(), Table::new(table, ve, vec![d_ve], None)))
                }
            };
            let mut taps: HashMap<String, Buffer> = HashMap::new();
            let (act_max, d_max) = (device.alloc(&[1, 1, 1, 1])?, device.alloc(&[1, 1, 1, 1])?);
            let mut bind = |executable: &Executable, mode: Mode| -> Result<Invocation> {
                let program = executable.program();
                let mut bound = Vec::new();
                for port in program.ports() {
                    let weight = parameters.iter().position(|p| p.layer == Some(at) && p.port == port.name);
                    let gradient = parameters
                        .iter()
                        .position(|p| p.layer == Some(at) && gradient_name(p.port) == port.name);
                    let of_values = || value_embedding.as_ref().expect("only such a layer has the port");
                    let (buffer, mode) = match (port.name, weight, gradient) {
                        ("x", ..) => (streams[at].clone(), Mode::Store),
                        ("x0", ..) => (streams[0].clone(), Mode::Store),
                        ("d_x0_above", ..) => (d_x0_of(at + 1), Mode::Store),
                        ("d_x0", ..) => (d_x0_of(at), Mode::Store),
                        ("ve", ..) => (of_values().0.clone(), Mode::Store),
                        ("d_ve", ..) => (of_values().1.clone(), Mode::Store),
                        ("y", ..) => (streams[at + 1].clone(), Mode::Store),
                        ("d_y", ..) => (d_of(at + 1).clone(), Mode::Store),
                        ("d_x", ..) => (d_of(at).clone(), Mode::Store),
                        ("act_max", ..) => (act_max.clone(), Mode::Store),
                        ("d_max", ..) => (d_max.clone(), Mode::Store),
                        (_, Some(weight), _) => (parts[weight][0].weight_buffer(), Mode::Store),
                        (_, _, Some(gradient)) => (parts[gradient][0].sum_buffer(), mode),
                        (name, ..) if compiled.taps.contains(name) => {
                            let buffer = match taps.get(name) {
                                Some(buffer) => buffer.clone(),
                                None => device.alloc(&port.ty.shape)?,
                            };
                            taps.insert(name.to_owned(), buffer.clone());
                            (buffer, Mode::Store)
                        }
                        (name, ..) => (scratch.get(name, &port.ty.shape)?, Mode::Store),
                    };
                    bound.push((port.name, buffer, mode));
                }
                bind_all(executable, &bound)
            };
            let (forward, backward) = compiled.executables.split_at(cut.forward_segments());
            let forward = forward.iter().map(|e| bind(e, Mode::Store)).collect::<Result<Vec<_>>>()?;
            let backward = modes
                .iter()
                .map(|mode| backward.iter().map(|e| bind(e, *mode)).collect::<Result<Vec<_>>>())
                .collect::<Result<Vec<_>>>()?;
            let value_embedding = value_embedding.map(|(_, _, table)| table);
            layers.push(Layer { forward, backward, value_embedding, act_max, d_max });
        }

        let classifier = if config.tied { EMBEDDING } else { CLASSIFIER };
        let head = Head::new(
            config,
            device.as_ref(),
            n,
            &tile_rows,
            &parts[position(classifier).expect("every model has a classifier")],
            position(FINAL_NORM).map(|norm| &parts[norm][0]),
            &streams[config.n_layers],
            d_of(config.n_layers),
            modes,
        )?;
        let mut gradients = vec![d_of(0).clone()];
        gradients.extend(config.x0_residual.then(|| d_x0_of(0)));
        let embedding = Table::new(
            position(EMBEDDING).expect("every model has an embedding"),
            streams[0].clone(),
            gradients,
            config.embed_norm.then_some(config.norm_eps),
        );
        Ok(Stack {
            config: config.clone(),
            options: options.clone(),
            cut,
            choices,
            embedding,
            parameters,
            parts,
            layers,
            head,
            sums_in_place,
            host: vec![0.0; config.width.max(config.kv_dim()) * n],
            device,
        })
    }

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The device that it runs on.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Sequences in a batch, B.
    pub fn batch(&self) -> usize {
        self.options.batch
    }

    /// Targets in a batch, N = B * S.
    pub fn tokens(&self) -> usize {
        self.options.batch * self.config.seq_len
    }

    /// The cut that the device took.
    pub fn cut(&self) -> Cut {
        self.cut
    }

    /// What was decided for this device and why, for people and for `events.jsonl`.
    pub fn choices(&self) -> &[String] {
        &self.choices
    }

    /// What it learns, in the order of weight files; indices below refer to it.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Replaces the values of parameter `index` (row-major, as in weight files).
    ///
    /// # Errors
    /// [`Error::Batch`] when the length is wrong, [`Error::Device`] when the device cannot be written.
    pub fn set_weights(&mut self, index: usize, values: &[f32]) -> Result<()> {
        let parameter = &self.parameters[index];
        if values.len() != parameter.numel() {
            return Err(Error::Batch(format!(
                "{} values for {}, which is {:?}",
                values.len(),
                parameter.name,
                parameter.shape
            )));
        }
        for part in &mut self.parts[index] {
            let range = part.range.clone();
            part.with_master(|master| master.copy_from_slice(&values[range]));
            part.publish()?;
        }
        Ok(())
    }

    /// The f32 master values of parameter `index`.
    pub fn weights(&mut self, index: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.parameters[index].numel());
        self.visit_weights(index, &mut |_, weights| values.extend_from_slice(weights));
        values
    }

    /// Calls `visit(offset, weights)` for each run of elements of parameter `index`, without a copy.
    pub fn visit_weights(&mut self, index: usize, visit: &mut dyn FnMut(usize, &[f32])) {
        for part in &mut self.parts[index] {
            let start = part.range.start;
            part.with_master(|master| visit(start, master));
        }
    }

    /// Exchanges the values of parameter `index` with `values` (row-major, as many). The master values
    /// are exchanged whatever happens, so that doing it twice leaves them as they were.
    ///
    /// # Errors
    /// [`Error::Device`] when the device cannot be written: its copies are then not those of the master.
    ///
    /// # Panics
    /// When the length is wrong.
    pub fn swap_weights(&mut self, index: usize, values: &mut [f32]) -> Result<()> {
        assert_eq!(values.len(), self.parameters[index].numel(), "values are those of one parameter");
        let mut published = Ok(());
        for part in &mut self.parts[index] {
            let range = part.range.clone();
            part.with_master(|master| master.swap_with_slice(&mut values[range]));
            published = published.and(part.publish());
        }
        published
    }

    /// The summed gradient of parameter `index`, times the scale that was used.
    pub fn gradient(&mut self, index: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.parameters[index].numel());
        self.visit_gradient(index, &mut |_, gradient| values.extend_from_slice(gradient));
        values
    }

    /// Calls `visit(offset, gradient)` for each run of elements of parameter `index`, without a
    /// copy.
    pub fn visit_gradient(&mut self, index: usize, visit: Gradients<'_>) {
        for part in &mut self.parts[index] {
            let start = part.range.start;
            part.with_sum(|gradient| visit(start, gradient));
        }
    }

    /// Calls `update(offset, weights, gradient)` for each run of elements of parameter `index`, in
    /// place, and brings the device's copies up to date: the optimiser's way in.
    ///
    /// # Errors
    /// [`Error::Device`] when the device cannot be written.
    pub fn update(&mut self, index: usize, update: Update<'_>) -> Result<()> {
        for part in &mut self.parts[index] {
            let start = part.range.start;
            let sum = std::mem::replace(&mut part.sum, Sum::Host(None, Vec::new()));
            match &sum {
                Sum::Device(buffer) => {
                    in_place(buffer, |gradient| part.with_master(|master| update(start, master, gradient)));
                }
                Sum::Host(_, gradient) => part.with_master(|master| update(start, master, gradient)),
            }
            part.sum = sum;
            part.publish()?;
        }
        Ok(())
    }

    /// Forward pass: the loss of each target.
    ///
    /// * `ids`, `targets`: `[B, S]` row-major
    ///
    /// # Errors
    /// [`Error::Batch`] for wrong lengths or ids beyond the vocabulary, [`Error::Device`].
    pub fn evaluate(&mut self, ids: &[u32], targets: &[u32]) -> Result<StepReport> {
        self.check_batch(ids, targets)?;
        let act_max = self.forward_layers(ids)?;
        let nll: Vec<f32> = self.head.statistics(targets)?.into_iter().map(Statistics::nll).collect();
        self.check_losses(&nll)?;
        Ok(StepReport { nll, act_max, d_max: Vec::new() })
    }

    /// Forward and backward pass: gradients of exp(`log_scale`) times the *sum* of the losses go to
    /// the sums of gradients, which begin anew when `first`.
    ///
    /// * `ids`, `targets`: `[B, S]` row-major
    ///
    /// # Errors
    /// As [`Stack::evaluate`].
    pub fn forward_backward(
        &mut self,
        ids: &[u32],
        targets: &[u32],
        log_scale: f32,
        first: bool,
    ) -> Result<StepReport> {
        self.check_batch(ids, targets)?;
        let act_max = self.forward_layers(ids)?;
        self.head.log_scale.write_f32(&[log_scale])?;
        let mode = usize::from(!first && self.sums_in_place);
        let nll = self.head.backward(targets, self.device.element(), mode)?;
        self.check_losses(&nll)?;
        self.collect(None, first)?;
        let mut d_max = vec![0.0; self.layers.len()];
        for at in (0..self.layers.len()).rev() {
            let layer = &self.layers[at];
            let accumulates = layer.backward.len() > 1;
            for invocation in &layer.backward[usize::from(!first && accumulates)] {
                invocation.run()?;
            }
            layer.d_max.read_f32(std::slice::from_mut(&mut d_max[at]))?;
            // The gradient of the stream passes every layer by its residual connection.
            if d_max[at] == 0.0 && d_max.get(at + 1).is_some_and(|above| *above != 0.0) {
                return Err(self.silent_zero("backward", at));
            }
            self.collect(Some(at), first)?;
            if let Some(table) = &self.layers[at].value_embedding {
                table.add_gradient(&mut self.parts[table.parameter], ids, first, &mut self.host)?;
            }
        }
        // A tied embedding's sum has begun with the classifier's gradient.
        let begins = first && !self.config.tied;
        let table = &self.embedding;
        table.add_gradient(&mut self.parts[table.parameter], ids, begins, &mut self.host)?;
        Ok(StepReport { nll, act_max, d_max })
    }

    /// exp(`log_scale`) as the device's programs see it: what gradients are to be divided by.
    pub fn effective_scale(&self, log_scale: f32) -> f64 {
        let element = self.device.element();
        let rounded = element.round(log_scale);
        match element {
            mil::Element::F32 => f64::from(rounded).exp(),
            // The program takes exp in f16.
            mil::Element::F16 => f64::from(element.round(rounded.exp())),
        }
    }

    fn check_batch(&self, ids: &[u32], targets: &[u32]) -> Result<()> {
        let n = self.tokens();
        if ids.len() != n || targets.len() != n {
            return Err(Error::Batch(format!(
                "{} ids and {} targets, expected {n} = {} sequences of {}",
                ids.len(),
                targets.len(),
                self.options.batch,
                self.config.seq_len
            )));
        }
        match ids.iter().chain(targets).find(|id| **id as usize >= self.config.vocab_size) {
            Some(id) => Err(Error::Batch(format!(
                "token id {id} is beyond the vocabulary of {}; the data was made with another tokenizer",
                self.config.vocab_size
            ))),
            None => Ok(()),
        }
    }

    /// Looks up the embeddings and runs all layers; the largest magnitude after each.
    fn forward_layers(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let (parts, host) = (&mut self.parts, &mut self.host);
        let table = &mut self.embedding;
        let is_something = table.look_up(&mut parts[table.parameter], ids, host)?;
        for table in self.layers.iter_mut().filter_map(|layer| layer.value_embedding.as_mut()) {
            table.look_up(&mut parts[table.parameter], ids, host)?;
        }
        for layer in &self.layers {
            for invocation in &layer.forward {
                invocation.run()?;
            }
        }
        let mut act_max = vec![0.0; self.layers.len()];
        for (at, value) in act_max.iter_mut().enumerate() {
            self.layers[at].act_max.read_f32(std::slice::from_mut(value))?;
            // The stream passes every layer by its residual connection.
            if *value == 0.0 && is_something {
                return Err(self.silent_zero("forward", at));
            }
        }
        Ok(act_max)
    }

    /// Engines were seen to answer a success and zeros (facts of ane-train on M1): a run that goes on with
    /// them learns nothing, and says nothing.
    fn silent_zero(&self, pass: &str, layer: usize) -> Error {
        self.broken(format!("{pass} of layer {layer}"), "zero everywhere, from values that are not")
    }

    /// A sum of exponentials holds that of the largest logit, which is 1: its logarithm is never minus
    /// infinity, and a loss of exactly 0 for every token is no model's. (An overflow, plus infinity or NaN, is
    /// the business of whoever judges the step.)
    fn check_losses(&self, nll: &[f32]) -> Result<()> {
        let what = if nll.contains(&f32::NEG_INFINITY) {
            "sums of exponentials that are zero"
        } else if nll.iter().all(|nll| *nll == 0.0) {
            "a loss of 0 for every token"
        } else {
            return Ok(());
        };
        Err(self.broken("head".to_owned(), what))
    }

    fn broken(&self, program: String, what: &str) -> Error {
        Error::Device(device::Error::Run {
            device: self.device.name().to_owned(),
            program,
            problem: format!("it reported success and gave {what}"),
        })
    }

    /// Takes the stored gradients of one layer (or of the head) into the host's sums, where the
    /// device does not sum by itself.
    fn collect(&mut self, layer: Option<usize>, first: bool) -> Result<()> {
        for (parameter, parts) in self.parameters.iter().zip(&mut self.parts) {
            if parameter.layer != layer {
                continue;
            }
            for part in parts {
                if let Sum::Host(Some(share), sum) = &mut part.sum {
                    if first {
                        share.read_f32(sum)?;
                    } else {
                        share.add_to_f32(sum)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Compiles the coarsest cut that the device takes for every kind of layer.
fn compile_ladder(
    device: &dyn Device,
    joints: &[(LayerKind, Program)],
    options: &StackOptions,
    choices: &mut Vec<String>,
) -> Result<(Cut, HashMap<LayerKind, Compiled>)> {
    let candidates: Vec<Cut> = options.cut.map_or(Cut::ALL.to_vec(), |cut| vec![cut]);
    let mut refused = None;
    for cut in candidates {
        match compile_cut(device, joints, cut, options.taps) {
            Ok(compiled) => {
                let executables = || compiled.values().flat_map(|compiled| &compiled.executables);
                let time: std::time::Duration = executables().map(Executable::compile_time).sum();
                let why = if options.cut.is_some() {
                    "as configured"
                } else {
                    "the coarsest that the device takes"
                };
                let of = match joints.len() {
                    1 => "all layers".to_owned(),
                    kinds => format!("{kinds} kinds of layers"),
                };
                choices.push(format!(
                    "cut {}: {} programs for {of}, compiled in {:.1} ms ({why})",
                    cut.name(),
                    executables().count(),
                    time.as_secs_f64() * 1e3
                ));
                return Ok((cut, compiled));
            }
            Err(Error::Device(error)) => {
                choices.push(format!("cut {}: refused: {error}", cut.name()));
                refused = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::Device(refused.expect("there is at least one candidate")))
}

/// The programs of `cut` for every kind of layer.
fn compile_cut(
    device: &dyn Device,
    joints: &[(LayerKind, Program)],
    cut: Cut,
    taps: Taps,
) -> Result<HashMap<LayerKind, Compiled>> {
    let compile = |(kind, joint): &(LayerKind, Program)| {
        let segments = cut.divide(joint, *kind, taps)?;
        let executables = segments
            .iter()
            .map(|segment| device.compile(&segment.name, &segment.program))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        Ok((*kind, Compiled { executables, taps: taps_of(&segments, cut.forward_segments()) }))
    };
    joints.iter().map(compile).collect()
}

/// Values that a forward segment computes and a backward segment reads.
pub(crate) fn taps_of(segments: &[Segment], forward_count: usize) -> HashSet<String> {
    let names = |segment: &Segment, kind: PortKind| -> Vec<String> {
        segment.program.ports().filter(|p| p.kind == kind).map(|p| p.name.to_owned()).collect()
    };
    let (forward, backward) = segments.split_at(forward_count);
    let read: HashSet<String> = backward.iter().flat_map(|s| names(s, PortKind::Input)).collect();
    forward.iter().flat_map(|s| names(s, PortKind::Output)).filter(|name| read.contains(name)).collect()
}
