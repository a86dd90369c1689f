//! maderix/ANE's static pipeline: weights baked into 1 x 1 convolutions, six programs to a layer of which
//! five hold weights (72 and 60 for the twelve layers of stories110m, as Orion counts them).
//!
//! Which values each program hands out is known only in part, so the ports here are what its backward pass
//! must have; a convolution from a port costs what a baked one does.

use mil::composites::attention::AttentionShape;
use mil::{Builder, Element, Op, Program, Result, ValueId};

use crate::{ModelConfig, layer};

/// w x as a convolution: x `[1, I, 1, S]`, a new weight port `name` `[O, I, 1, 1]` -> `[1, O, 1, S]`.
fn conv(b: &mut Builder, name: &str, out: usize, x: ValueId) -> Result<ValueId> {
    let w = b.input(name, &[out, b.shape(x)[1], 1, 1])?;
    b.pointwise_conv(x, w)
}

/// Whether a port of these programs is a baked weight.
pub(super) fn is_weight(port: &str) -> bool {
    port.starts_with('w')
}

fn program(
    inputs: &[(&str, usize)],
    s: usize,
    build: impl FnOnce(&mut Builder, &[ValueId]) -> Result<Vec<ValueId>>,
) -> Result<Program> {
    let mut b = Builder::new(Element::F16);
    let inputs = inputs
        .iter()
        .map(|(name, channels)| b.input(name, &[1, *channels, 1, s]))
        .collect::<Result<Vec<_>>>()?;
    for (at, value) in build(&mut b, &inputs)?.into_iter().enumerate() {
        b.output(&format!("y{at}"), value)?;
    }
    b.finish()
}

/// The six programs of one layer.
///
/// # Errors
/// When the sizes do not type-check.
pub(super) fn programs(config: &ModelConfig) -> Result<Vec<Program>> {
    let (c, q, kv, f, s) = (config.width, config.q_dim(), config.kv_dim(), config.ffn_hidden, config.seq_len);
    let attention = AttentionShape {
        heads: config.n_heads,
        kv_heads: config.n_kv_heads,
        seq: s,
        window: None,
        scale: layer::score_scale(config),
    };
    let norm = Op::RmsNorm { axis: 1, eps: config.norm_eps };
    let gain = |b: &mut Builder| b.input("w_norm", &[1, c, 1, 1]);
    let forward_attention = program(&[("x", c)], s, |b, at| {
        let gain = gain(b)?;
        let xn = b.push1(norm.clone(), &[at[0], gain])?;
        let (q, k, v) = (conv(b, "wq", q, xn)?, conv(b, "wk", kv, xn)?, conv(b, "wv", kv, xn)?);
        let o = b.push1(attention.op(), &[q, k, v])?;
        let y = conv(b, "wo", c, o)?;
        Ok(vec![y, q, k, v, o, xn])
    })?;
    let forward_ffn = program(&[("x", c)], s, |b, at| {
        let gain = gain(b)?;
        let xn = b.push1(norm.clone(), &[at[0], gain])?;
        let (h1, h3) = (conv(b, "w1", f, xn)?, conv(b, "w3", f, xn)?);
        let gate = b.push1(Op::Silu, &[h1])?;
        let gate = b.mul(gate, h3)?;
        let y = conv(b, "w2", c, gate)?;
        Ok(vec![y, h1, h3, gate, xn])
    })?;
    let backward_ffn = program(&[("dy", c), ("h1", f), ("h3", f)], s, |b, at| {
        let d_gate = conv(b, "w2t", f, at[0])?;
        let sigmoid = b.push1(Op::Sigmoid, &[at[1]])?;
        let silu = b.mul(at[1], sigmoid)?;
        let d_h3 = b.mul(d_gate, silu)?;
        let one = b.scalar(1.0);
        let rest = b.sub(one, sigmoid)?;
        let bend = b.mul(silu, rest)?;
        let slope = b.add(sigmoid, bend)?;
        let d_h1 = b.mul(d_gate, at[2])?;
        let d_h1 = b.mul(d_h1, slope)?;
        let (dx1, dx3) = (conv(b, "w1t", c, d_h1)?, conv(b, "w3t", c, d_h3)?);
        let dx = b.add(dx1, dx3)?;
        Ok(vec![dx, d_h1, d_h3])
    })?;
    let heads = |b: &mut Builder, x: ValueId| b.reshape(x, &[1, config.n_heads, config.head_dim, s]);
    let backward_1 = program(&[("q", q), ("k", q), ("v", q), ("dy", c)], s, |b, at| {
        let d_o = conv(b, "wot", q, at[3])?;
        let (q, k, v, d_o) = (heads(b, at[0])?, heads(b, at[1])?, heads(b, at[2])?, heads(b, d_o)?);
        let q = b.scale(q, attention.scale)?;
        let scores = b.matmul(q, k, true, false)?;
        let mask = b.full(&[1, 1, s, s], 0.0);
        let scores = b.add(scores, mask)?;
        let p = b.push1(Op::Softmax { axis: -1 }, &[scores])?;
        Ok(vec![p, b.matmul(d_o, v, true, false)?, b.matmul(d_o, p, false, false)?])
    })?;
    let scores = config.n_heads * s;
    let backward_2 = program(&[("p", scores), ("dp", scores), ("q", q), ("k", q)], s, |b, at| {
        let square = |b: &mut Builder, x: ValueId| b.reshape(x, &[1, config.n_heads, s, s]);
        let (p, dp, q, k) = (square(b, at[0])?, square(b, at[1])?, heads(b, at[2])?, heads(b, at[3])?);
        let pdp = b.mul(p, dp)?;
        let row = b.push1(Op::ReduceSum { axes: vec![3], keep_dims: true }, &[pdp])?;
        let ds = b.sub(dp, row)?;
        let ds = b.mul(ds, p)?;
        let ds = b.scale(ds, attention.scale)?;
        Ok(vec![b.matmul(k, ds, false, true)?, b.matmul(q, ds, false, false)?])
    })?;
    let backward_qkv = program(&[("dq", q), ("dk", kv), ("dv", kv)], s, |b, at| {
        let (x, y, z) = (conv(b, "wqt", c, at[0])?, conv(b, "wkt", c, at[1])?, conv(b, "wvt", c, at[2])?);
        let sum = b.add(x, y)?;
        Ok(vec![b.add(sum, z)?])
    })?;
    Ok(vec![forward_attention, forward_ffn, backward_ffn, backward_1, backward_2, backward_qkv])
}
