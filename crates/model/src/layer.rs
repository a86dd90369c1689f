//! One layer as a MIL program: the forward pass, written once, and the backward pass that follows
//! from it by differentiation.
//!
//! | port | shape | |
//! | --- | --- | --- |
//! | `x` | `[1, C, 1, N]` | in: the residual stream before the layer |
//! | `norm1`, `norm2` | `[1, C, 1, 1]` | in: gains |
//! | `wq`, `wk`, `wv`, `wo`, `w1`, `w3`, `w2` | `[1, 1, out, in]` | in: matrices (`w3` for SwiGLU only) |
//! | `q_norm`, `k_norm` | `[1, 1, D, 1]` | in: gains per head, with `qk_norm` |
//! | `y` | `[1, C, 1, N]` | out: the residual stream after the layer |
//! | `act_max` | `[1, 1, 1, 1]` | out: the largest magnitude in `y` |
//! | `d_y` | `[1, C, 1, N]` | in: gradient of `y` |
//! | `d_x` | `[1, C, 1, N]` | out: gradient of `x` |
//! | `d_w…` | as the weight | out: gradients |
//! | `d_max` | `[1, 1, 1, 1]` | out: the largest magnitude in `d_x` |
//!
//! Scopes name the parts that a [`Cut`](crate::Cut) tells apart: `norm1`, `q`, `kv`, `attention`,
//! `wo`, `norm2`, `ffn_in`, `act`, `ffn_out`.

use mil::composites::attention::AttentionShape;
use mil::{Builder, Constant, Element, Op, Program, Result, ValueId, differentiate_through};

use crate::{Defect, FeedForward, ModelConfig, Parameter};

/// y = w x: x `[1, in, 1, N]`, w `[1, 1, out, in]` -> `[1, out, 1, N]`.
pub(crate) fn linear(b: &mut Builder, w: ValueId, x: ValueId) -> Result<ValueId> {
    let (channels, n) = (b.shape(x)[1], b.shape(x)[3]);
    let out = b.shape(w)[2];
    let columns = b.reshape(x, &[1, 1, channels, n])?;
    let y = b.matmul(w, columns, false, false)?;
    b.reshape(y, &[1, out, 1, n])
}

/// Gain times x over its root mean square along the channels of each head:
/// x `[1, heads*D, 1, N]`, gain `[1, 1, D, 1]`.
fn norm_heads(b: &mut Builder, x: ValueId, gain: ValueId, eps: f32) -> Result<ValueId> {
    let shape = b.shape(x).to_vec();
    let head_dim = b.shape(gain)[2];
    let x = b.reshape(x, &[1, shape[1] / head_dim, head_dim, shape[3]])?;
    let x = b.push1(Op::RmsNorm { axis: 2, eps }, &[x, gain])?;
    b.reshape(x, &shape)
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
    /// From q `[1, H*D, 1, N]` and this program's keys and values `[1, KV*D, 1, N]` to
    /// `[1, H*D, 1, N]`.
    pub(crate) attention: &'a mut dyn FnMut(&mut Builder, ValueId, ValueId, ValueId) -> Result<ValueId>,
}

/// The layer's mathematics: x `[1, C, 1, N]` -> y `[1, C, 1, N]`. Training and decoding differ in
/// what they attend to and share everything else.
pub(crate) fn block(
    b: &mut Builder,
    config: &ModelConfig,
    x: ValueId,
    weight: &dyn Fn(&str) -> ValueId,
    attend: &mut Attend<'_>,
) -> Result<ValueId> {
    let eps = config.norm_eps;
    let xn = b.in_scope("norm1", |b| {
        let xn = b.push1(Op::RmsNorm { axis: 1, eps }, &[x, weight("norm1")])?;
        b.name(xn, "xn")
    })?;
    let head_input = |b: &mut Builder, w: &str, gain: &str, rotate: bool| {
        let mut h = linear(b, weight(w), xn)?;
        if config.qk_norm && rotate {
            h = norm_heads(b, h, weight(gain), eps)?;
        }
        if rotate { b.push1(Op::Rope { inverse: false }, &[h, attend.cos, attend.sin]) } else { Ok(h) }
    };
    let q = b.in_scope("q", |b| {
        let q = head_input(b, "wq", "q_norm", true)?;
        b.name(q, "q")
    })?;
    let (k, v) = b.in_scope("kv", |b| -> Result<_> {
        let k = head_input(b, "wk", "k_norm", true)?;
        let v = head_input(b, "wv", "", false)?;
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
        let f = b.push1(Op::RmsNorm { axis: 1, eps }, &[x_mid, weight("norm2")])?;
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

/// Names of the weights that a layer's program reads, in order.
pub fn weight_ports(config: &ModelConfig) -> Vec<&'static str> {
    Parameter::all(config).iter().filter(|p| p.layer == Some(0)).map(|p| p.port).collect()
}

/// The forward pass of one layer over `batch` sequences.
///
/// # Errors
/// When the configuration does not type-check; [`ModelConfig::validate`] excludes that.
pub fn forward(config: &ModelConfig, batch: usize, element: Element) -> Result<Program> {
    let mut b = Builder::new(element);
    let x = b.input("x", &[1, config.width, 1, batch * config.seq_len])?;
    let weights = Parameter::all(config)
        .iter()
        .filter(|p| p.layer == Some(0))
        .map(|p| Ok((p.port, b.input(p.port, &p.port_shape())?)))
        .collect::<Result<Vec<_>>>()?;
    let weight = |port: &str| {
        weights.iter().find(|(name, _)| *name == port).expect("the layer's list of parameters is complete").1
    };
    let (cos, sin) = rope_tables(config, batch, element);
    let (cos, sin) = (b.constant(cos), b.constant(sin));
    let shape = AttentionShape {
        heads: config.n_heads,
        kv_heads: config.n_kv_heads,
        seq: config.seq_len,
        window: (config.window > 0).then_some(config.window),
        scale: score_scale(config),
    };
    let mut attention = |b: &mut Builder, q, k, v| b.push1(shape.op(), &[q, k, v]);
    let y = block(&mut b, config, x, &weight, &mut Attend { cos, sin, attention: &mut attention })?;
    let act_max = b.in_scope("ffn_out", |b| magnitude(b, y))?;
    b.output("y", y)?;
    b.output("act_max", act_max)?;
    b.finish()
}

/// The forward pass and all gradients in one program, from which a cut takes its segments.
///
/// # Errors
/// As [`forward`].
pub fn joint(config: &ModelConfig, batch: usize, element: Element) -> Result<Program> {
    let forward = forward(config, batch, element)?;
    let wrt: Vec<&str> = std::iter::once("x").chain(weight_ports(config)).collect();
    let mut b = Builder::from_program(differentiate_through(&forward, &["y"], &wrt)?);
    let d_x = b.find("d_x").expect("asked for above");
    let d_max = b.in_backward_scope("norm1", |b| magnitude(b, d_x))?;
    b.output("d_max", d_max)?;
    Defect::plant_all(&config.defects, b.finish()?)
}
