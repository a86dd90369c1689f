//! One layer as a MIL program: the forward pass, written once, and the backward pass that follows
//! from it by differentiation.
//!
//! | port | shape | |
//! | --- | --- | --- |
//! | `x` | `[1, C, 1, N]` | in: the residual stream before the layer |
//! | `norm1`, `norm2` | `[1, C, 1, 1]` | in: gains, with `norm_gain` |
//! | `wq`, `wk`, `wv`, `wo`, `w1`, `w3`, `w2` | `[1, 1, out, in]` | in: matrices (`w3` for SwiGLU only) |
//! | `q_norm`, `k_norm` | `[1, 1, D, 1]` | in: gains per head, with `qk_norm` and `norm_gain` |
//! | `y` | `[1, C, 1, N]` | out: the residual stream after the layer |
//! | `act_max` | `[1, 1, 1, 1]` | out: the largest magnitude in `y` |
//! | `d_y` | `[1, C, 1, N]` | in: gradient of `y` |
//! | `d_x` | `[1, C, 1, N]` | out: gradient of `x` |
//! | `d_w…` | as the weight | out: gradients |
//! | `d_max` | `[1, 1, 1, 1]` | out: the largest magnitude in `d_x` and `d_x0` |
//!
//! With `x0_residual`, where the layer begins with `resid_lambda * x + x0_lambda * x0`:
//!
//! | port | shape | |
//! | --- | --- | --- |
//! | `x0` | `[1, C, 1, N]` | in: the stream before the first layer |
//! | `resid_lambda`, `x0_lambda` | `[1, 1, 1, 1]` | in: factors |
//! | `d_x0_above` | `[1, C, 1, N]` | in: gradient of `x0` by way of the layers above |
//! | `d_x0` | `[1, C, 1, N]` | out: the same with this layer's share |
//!
//! In a layer with value embeddings, whose values are `wv xn + 2 sigmoid(wg xn[:32]) * ve`, head by head:
//!
//! | port | shape | |
//! | --- | --- | --- |
//! | `ve` | `[1, KV*D, 1, N]` | in: the rows of the layer's table for the tokens |
//! | `wg` | `[1, 1, KV, 32]` | in: the gates' matrix |
//! | `d_ve` | `[1, KV*D, 1, N]` | out: gradient of `ve` |
//!
//! Scopes name the parts that a [`Cut`](crate::Cut) tells apart: `mix`, `norm1`, `q`, `kv`, `gate`,
//! `attention`, `wo`, `norm2`, `ffn_in`, `act`, `ffn_out`.

use mil::composites::attention::AttentionShape;
use mil::{Builder, Constant, Element, Op, Program, Result, ValueId, differentiate_through};

use crate::config::GATE_CHANNELS;
use crate::{Defect, FeedForward, LayerKind, ModelConfig, Parameter};

/// y = w x: x `[1, in, 1, N]`, w `[1, 1, out, in]` -> `[1, out, 1, N]`.
pub(crate) fn linear(b: &mut Builder, w: ValueId, x: ValueId) -> Result<ValueId> {
    let (channels, n) = (b.shape(x)[1], b.shape(x)[3]);
    let out = b.shape(w)[2];
    let columns = b.reshape(x, &[1, 1, channels, n])?;
    let y = b.matmul(w, columns, false, false)?;
    b.reshape(y, &[1, out, 1, n])
}

/// x over its root mean square along `axis`, times the gain, which is 1 along the other axes; without one,
/// times nothing.
pub(crate) fn norm(
    b: &mut Builder,
    config: &ModelConfig,
    axis: usize,
    x: ValueId,
    gain: Option<ValueId>,
) -> Result<ValueId> {
    let gain = gain.unwrap_or_else(|| {
        let mut shape = [1; 4];
        shape[axis] = b.shape(x)[axis];
        b.full(&shape, 1.0)
    });
    b.push1(Op::RmsNorm { axis: axis as i32, eps: config.norm_eps }, &[x, gain])
}

/// The largest magnitude in x, `[1, 1, 1, 1]`.
fn magnitude(b: &mut Builder, x: ValueId) -> Result<ValueId> {
    let size = b.push1(Op::Abs, &[x])?;
    b.push1(Op::ReduceMax { axes: vec![1, 3], keep_dims: true }, &[size])
}

/// Cosines and sines of the rotary angles, `[1, 1, D/2, N]` each: the angle of pair i at position
/// p is p / theta^(2i/D); every sequence of the batch begins at position 0.
pub fn rope_tables(config: &ModelConfig, batch: usize, element: Element) -> (Constant, Constant) {
    let half = config.head_dim / 2;
    let n = batch * config.seq_len;
    let angle = |at: usize| rope_angle(config, at / n, (at % n) % config.seq_len);
    let table = |of: fn(f64) -> f64| {
        Constant::float(element, &[1, 1, half, n], (0..half * n).map(|at| of(angle(at)) as f32))
    };
    (table(f64::cos), table(f64::sin))
}

/// The rotary angle of `pair` at `position`.
pub(crate) fn rope_angle(config: &ModelConfig, pair: usize, position: usize) -> f64 {
    position as f64 * f64::from(config.rope_theta).powf(-2.0 * pair as f64 / config.head_dim as f64)
}

/// Softmax scale of the scores: 1/sqrt(D).
pub(crate) fn score_scale(config: &ModelConfig) -> f32 {
    1.0 / (config.head_dim as f32).sqrt()
}

/// What attention is given and what it gives back, for [`block`].
pub(crate) struct Attend<'a> {
    /// Rotary angles, `[1, 1, D/2, N]` each.
    pub(crate) cos: ValueId,
    pub(crate) sin: ValueId,
    /// Value embeddings `[1, KV*D, 1, N]`, in a layer that has them.
    pub(crate) ve: Option<ValueId>,
    /// From q `[1, H*D, 1, N]` and this program's keys and values `[1, KV*D, 1, N]` to
    /// `[1, H*D, 1, N]`.
    pub(crate) attention: &'a mut dyn FnMut(&mut Builder, ValueId, ValueId, ValueId) -> Result<ValueId>,
}

/// The layer's mathematics: x `[1, C, 1, N]` -> y `[1, C, 1, N]`. Training and decoding differ in
/// what they attend to and share everything else.
///
/// * `x0` `[1, C, 1, N]`: the first layer's input, with `x0_residual`
pub(crate) fn block(
    b: &mut Builder,
    config: &ModelConfig,
    x: ValueId,
    x0: Option<ValueId>,
    weight: &dyn Fn(&str) -> ValueId,
    attend: &mut Attend<'_>,
) -> Result<ValueId> {
    let gain = |port: &str| config.norm_gain.then(|| weight(port));
    let x = match x0 {
        None => x,
        Some(x0) => b.in_scope("mix", |b| {
            let (x, x0) = (b.mul(x, weight("resid_lambda"))?, b.mul(x0, weight("x0_lambda"))?);
            let mixed = b.add(x, x0)?;
            b.name(mixed, "x_in")
        })?,
    };
    let xn = b.in_scope("norm1", |b| {
        let xn = norm(b, config, 1, x, gain("norm1"))?;
        b.name(xn, "xn")
    })?;
    // With a gain of its own a norm over a head comes before the rotation; without one, that is the same as
    // after it.
    let turned = |b: &mut Builder, w: &str, norm_gain: &str| {
        let mut h = linear(b, weight(w), xn)?;
        if config.qk_norm {
            let shape = b.shape(h).to_vec();
            let heads = [1, shape[1] / config.head_dim, config.head_dim, shape[3]];
            h = b.reshape(h, &heads)?;
            h = norm(b, config, 2, h, gain(norm_gain))?;
            h = b.reshape(h, &shape)?;
        }
        b.push1(Op::Rope { inverse: false }, &[h, attend.cos, attend.sin])
    };
    let q = b.in_scope("q", |b| {
        let q = turned(b, "wq", "q_norm")?;
        b.name(q, "q")
    })?;
    let (k, v) = b.in_scope("kv", |b| -> Result<_> {
        let k = turned(b, "wk", "k_norm")?;
        let mut v = linear(b, weight("wv"), xn)?;
        if let Some(ve) = attend.ve {
            let gated = b.in_scope("gate", |b| gated(b, config, xn, weight("wg"), ve))?;
            v = b.add(v, gated)?;
        }
        Ok((b.name(k, "k")?, b.name(v, "v")?))
    })?;
    let o = b.in_scope("attention", |b| {
        let o = (attend.attention)(b, q, k, v)?;
        b.name(o, "o")
    })?;
    let add_branch = |b: &mut Builder, stream: ValueId, branch: ValueId| {
        let branch =
            if config.residual_scale == 1.0 { branch } else { b.scale(branch, config.residual_scale)? };
        b.add(stream, branch)
    };
    let x_mid = b.in_scope("wo", |b| {
        let branch = linear(b, weight("wo"), o)?;
        let x_mid = add_branch(b, x, branch)?;
        b.name(x_mid, "x_mid")
    })?;
    let f = b.in_scope("norm2", |b| {
        let f = norm(b, config, 1, x_mid, gain("norm2"))?;
        b.name(f, "f")
    })?;
    let (h1, h3) = b.in_scope("ffn_in", |b| -> Result<_> {
        let h1 = linear(b, weight("w1"), f)?;
        b.name(h1, "h1")?;
        if config.ffn == FeedForward::Relu2 {
            return Ok((h1, None));
        }
        let h3 = linear(b, weight("w3"), f)?;
        Ok((h1, Some(b.name(h3, "h3")?)))
    })?;
    let act = b.in_scope("act", |b| match h3 {
        Some(h3) => {
            let gate = b.push1(Op::Silu, &[h1])?;
            b.mul(gate, h3)
        }
        None => {
            let kept = b.push1(Op::Relu, &[h1])?;
            b.mul(kept, kept)
        }
    })?;
    b.in_scope("ffn_out", |b| {
        let branch = linear(b, weight("w2"), act)?;
        add_branch(b, x_mid, branch)
    })
}

/// Value embeddings times their gates: xn `[1, C, 1, N]`, wg `[1, 1, KV, 32]`, ve `[1, KV*D, 1, N]` -> as ve.
fn gated(b: &mut Builder, config: &ModelConfig, xn: ValueId, wg: ValueId, ve: ValueId) -> Result<ValueId> {
    let (kv, d, n) = (config.n_kv_heads, config.head_dim, b.shape(ve)[3]);
    let read = b.slice(xn, &[0; 4], &[1, GATE_CHANNELS, 1, n])?;
    let gate = linear(b, wg, read)?;
    let gate = b.push1(Op::Sigmoid, &[gate])?;
    let gate = b.scale(gate, 2.0)?;
    let gate = b.reshape(gate, &[1, kv, 1, n])?;
    let heads = b.reshape(ve, &[1, kv, d, n])?;
    let gated = b.mul(heads, gate)?;
    b.reshape(gated, &[1, kv * d, 1, n])
}

/// Input ports of a layer of `kind`: the stream, x0, value embeddings and the weights.
pub(crate) struct Ports {
    pub(crate) x: ValueId,
    pub(crate) x0: Option<ValueId>,
    pub(crate) ve: Option<ValueId>,
    weights: Vec<(&'static str, ValueId)>,
}

impl Ports {
    /// Declares them for `n` columns.
    pub(crate) fn new(b: &mut Builder, config: &ModelConfig, kind: LayerKind, n: usize) -> Result<Ports> {
        let stream = [1, config.width, 1, n];
        let x = b.input("x", &stream)?;
        let x0 = config.x0_residual.then(|| b.input("x0", &stream)).transpose()?;
        let ve = kind.value_embedding.then(|| b.input("ve", &[1, config.kv_dim(), 1, n])).transpose()?;
        let weights = Parameter::of_ports(config, kind)
            .iter()
            .map(|p| Ok((p.port, b.input(p.port, &p.port_shape())?)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Ports { x, x0, ve, weights })
    }

    pub(crate) fn weight(&self, port: &str) -> ValueId {
        let found = self.weights.iter().find(|(name, _)| *name == port);
        found.expect("the layer's list of parameters is complete").1
    }
}

/// Names of the weights that the programs of a layer of `kind` read, in order.
pub fn weight_ports(config: &ModelConfig, kind: LayerKind) -> Vec<&'static str> {
    Parameter::of_ports(config, kind).iter().map(|p| p.port).collect()
}

/// The forward pass of one layer of `kind` over `batch` sequences.
///
/// # Errors
/// When the configuration does not type-check; [`ModelConfig::validate`] excludes that.
pub fn forward(config: &ModelConfig, kind: LayerKind, batch: usize, element: Element) -> Result<Program> {
    let mut b = Builder::new(element);
    let ports = Ports::new(&mut b, config, kind, batch * config.seq_len)?;
    let (cos, sin) = rope_tables(config, batch, element);
    let (cos, sin) = (b.constant(cos), b.constant(sin));
    let shape = AttentionShape {
        heads: config.n_heads,
        kv_heads: config.n_kv_heads,
        seq: config.seq_len,
        window: config.window_of(kind),
        scale: score_scale(config),
    };
    let mut attention = |b: &mut Builder, q, k, v| b.push1(shape.op(), &[q, k, v]);
    let mut attend = Attend { cos, sin, ve: ports.ve, attention: &mut attention };
    let y = block(&mut b, config, ports.x, ports.x0, &|port| ports.weight(port), &mut attend)?;
    let act_max = b.in_scope("ffn_out", |b| magnitude(b, y))?;
    b.output("y", y)?;
    b.output("act_max", act_max)?;
    b.finish()
}

/// The forward pass and all gradients in one program, from which a cut takes its segments.
///
/// # Errors
/// As [`forward`].
pub fn joint(config: &ModelConfig, kind: LayerKind, batch: usize, element: Element) -> Result<Program> {
    let forward = forward(config, kind, batch, element)?;
    let mut wrt = vec!["x"];
    wrt.extend(config.x0_residual.then_some("x0"));
    wrt.extend(kind.value_embedding.then_some("ve"));
    wrt.extend(weight_ports(config, kind));
    let mut b = Builder::from_program(differentiate_through(&forward, &["y"], &wrt)?);
    let d_x = b.find("d_x").expect("asked for above");
    let mut d_max = b.in_backward_scope("norm1", |b| magnitude(b, d_x))?;
    if config.x0_residual {
        // Every layer reads x0, so its gradient is a sum over layers, handed down from one to the next.
        let share = b.withdraw("d_x0")?;
        let above = b.input("d_x0_above", &[1, config.width, 1, batch * config.seq_len])?;
        let d_x0 = b.in_backward_scope("mix", |b| b.add(share, above))?;
        b.output("d_x0", d_x0)?;
        d_max = b.in_backward_scope("mix", |b| {
            let other = magnitude(b, d_x0)?;
            b.push1(Op::Maximum, &[d_max, other])
        })?;
    }
    b.output("d_max", d_max)?;
    Defect::plant_all(&config.defects, b.finish()?)
}
