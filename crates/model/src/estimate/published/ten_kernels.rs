//! autoresearch-ANE's ten kernels (and, with the same generator, those of maderix/ANE): every kernel has one
//! packed input surface, activations first and weights behind them along the last axis, and one output
//! surface. Sizes are those of its kernels; what the host writes and reads is what its training loop does.
//!
//! Letters as everywhere, with S for the columns of one sequence, the only batch it knows.

use mil::composites::attention::AttentionShape;
use mil::estimate::Cost;
use mil::{Builder, Element, Op, Program, Result, ValueId};

use crate::estimate::Host;
use crate::{Error, FeedForward, ModelConfig, layer};

/// One of the ten kernels, run once per layer and sequence.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// As its project calls it.
    pub name: &'static str,
    /// Whether it belongs to the backward pass.
    pub backward: bool,
    /// One input `x`, one output `y`.
    pub program: Program,
    /// Elements of the input surface that are weights, staged again after every update.
    pub weights: usize,
    /// Elements of the input surface that the host converts from f32 for each sequence.
    pub written: usize,
    /// Elements of the input surface that the host copies from another kernel's output.
    pub copied: usize,
    /// Elements of the output surface that the host converts to f32.
    pub read: usize,
}

impl Kernel {
    /// What one run costs. Weights that are packed behind activations count as weights.
    ///
    /// # Errors
    /// As [`Program::cost`].
    pub fn cost(&self) -> Result<Cost> {
        let mut cost = self.program.cost(|_| false)?;
        let packed = (self.weights * Element::F16.bytes()) as f64;
        cost.bytes_in -= packed;
        cost.bytes_weights += packed;
        Ok(cost)
    }

    /// Elements of the input surface that are not weights.
    pub fn activations_in(&self) -> usize {
        self.program.inputs().iter().map(|id| self.program.ty(*id).numel()).sum::<usize>() - self.weights
    }

    /// Elements of the output surface.
    pub fn activations_out(&self) -> usize {
        self.program.outputs().iter().map(|id| self.program.ty(*id).numel()).sum()
    }
}

/// Columns `at .. at + len` of the packed surface x `[1, C, 1, _]`, as `[1, 1, C, len]`.
fn columns(b: &mut Builder, x: ValueId, at: usize, len: usize) -> Result<ValueId> {
    let channels = b.shape(x)[1];
    let part = b.slice(x, &[0, 0, 0, at], &[1, channels, 1, len])?;
    b.reshape(part, &[1, 1, channels, len])
}

/// Channels `at .. at + len` of x `[1, _, 1, S]`, as `[1, len, 1, S]`.
fn channels(b: &mut Builder, x: ValueId, at: usize, len: usize) -> Result<ValueId> {
    let s = b.shape(x)[3];
    b.slice(x, &[0, at, 0, 0], &[1, len, 1, s])
}

/// x `[1, 1, I, S]` through w `[1, 1, I, O]` (or `[1, 1, O, I]` with `turned`) to `[1, O, 1, S]`, the way
/// all these kernels write it: rows of x turned, product, turned back.
fn linear(b: &mut Builder, x: ValueId, w: ValueId, turned: bool) -> Result<ValueId> {
    let x = b.transpose(x, &[0, 1, 3, 2])?;
    let y = b.matmul(x, w, false, turned)?;
    let (s, out) = (b.shape(y)[2], b.shape(y)[3]);
    let y = b.transpose(y, &[0, 1, 3, 2])?;
    b.reshape(y, &[1, out, 1, s])
}

struct Sizes {
    c: usize,
    q: usize,
    kv: usize,
    f: usize,
    s: usize,
    heads: usize,
    attention: AttentionShape,
}

/// A program from one packed `x` `[1, rows, 1, columns]` to one `y`.
fn kernel(
    rows: usize,
    columns: usize,
    build: impl FnOnce(&mut Builder, ValueId) -> Result<ValueId>,
) -> Result<Program> {
    let mut b = Builder::new(Element::F16);
    let x = b.input("x", &[1, rows, 1, columns])?;
    let y = build(&mut b, x)?;
    b.output("y", y)?;
    b.finish()
}

/// Normed stream and Wq, Wk, Wv to attention's result, q, k, v and the normed stream again.
fn sdpa_forward(config: &ModelConfig, z: &Sizes) -> Result<Program> {
    kernel(z.c, z.s + z.q + 2 * z.kv, |b, x| {
        let xn = columns(b, x, 0, z.s)?;
        let (cos, sin) = layer::rope_tables(config, 1, Element::F16);
        let (cos, sin) = (b.constant(cos), b.constant(sin));
        let wq = columns(b, x, z.s, z.q)?;
        let wk = columns(b, x, z.s + z.q, z.kv)?;
        let wv = columns(b, x, z.s + z.q + z.kv, z.kv)?;
        let (q, k, v) = (linear(b, xn, wq, false)?, linear(b, xn, wk, false)?, linear(b, xn, wv, false)?);
        let q = b.push1(Op::Rope { inverse: false }, &[q, cos, sin])?;
        let k = b.push1(Op::Rope { inverse: false }, &[k, cos, sin])?;
        let o = b.push1(z.attention.op(), &[q, k, v])?;
        let xn = b.reshape(xn, &[1, z.c, 1, z.s])?;
        b.concat(&[o, q, k, v, xn], 1)
    })
}

/// Normed stream, stream and W1, W3, W2 to the stream after the layer, h1, h3 and the gate.
fn ffn_fused(config: &ModelConfig, z: &Sizes) -> Result<Program> {
    kernel(z.c, 2 * z.s + 3 * z.f, |b, x| {
        let (xn, stream) = (columns(b, x, 0, z.s)?, columns(b, x, z.s, z.s)?);
        let weight = |b: &mut Builder, at: usize| columns(b, x, 2 * z.s + at * z.f, z.f);
        let (w1, w3, w2) = (weight(b, 0)?, weight(b, 1)?, weight(b, 2)?);
        let (h1, h3) = (linear(b, xn, w1, false)?, linear(b, xn, w3, false)?);
        let gate = b.push1(Op::Silu, &[h1])?;
        let gate = b.mul(gate, h3)?;
        let columns = b.reshape(gate, &[1, 1, z.f, z.s])?;
        let branch = linear(b, columns, w2, true)?;
        let branch = b.scale(branch, config.residual_scale)?;
        let stream = b.reshape(stream, &[1, z.c, 1, z.s])?;
        let y = b.add(stream, branch)?;
        b.concat(&[y, h1, h3, gate], 1)
    })
}

/// One or two gradients, each through its own weight, added up: `[I, n * (S + O)]` to `[O, S]`.
fn products(rows: usize, out: usize, s: usize, count: usize) -> Result<Program> {
    kernel(rows, count * (s + out), |b, x| {
        let mut sum = None;
        for at in 0..count {
            let part = columns(b, x, at * s, s)?;
            let w = columns(b, x, count * s + at * out, out)?;
            let y = linear(b, part, w, false)?;
            sum = Some(match sum {
                Some(sum) => b.add(sum, y)?,
                None => y,
            });
        }
        Ok(sum.expect("one product at least"))
    })
}

fn heads(b: &mut Builder, x: ValueId, z: &Sizes) -> Result<ValueId> {
    b.reshape(x, &[1, z.heads, z.q / z.heads, z.s])
}

/// q, k, v and the gradient of attention's result to dv, probabilities and their gradients.
fn sdpa_backward_1(z: &Sizes) -> Result<Program> {
    kernel(4 * z.q, z.s, |b, x| {
        let mut part = Vec::new();
        for at in 0..4 {
            let x = channels(b, x, at * z.q, z.q)?;
            part.push(heads(b, x, z)?);
        }
        let q = b.scale(part[0], z.attention.scale)?;
        let scores = b.matmul(q, part[1], true, false)?;
        let mask = b.full(&[1, 1, z.s, z.s], 0.0);
        let scores = b.add(scores, mask)?;
        let p = b.push1(Op::Softmax { axis: -1 }, &[scores])?;
        let dp = b.matmul(part[3], part[2], true, false)?;
        let dv = b.matmul(part[3], p, false, false)?;
        let dv = b.reshape(dv, &[1, z.q, 1, z.s])?;
        let (p, dp) =
            (b.reshape(p, &[1, z.heads * z.s, 1, z.s])?, b.reshape(dp, &[1, z.heads * z.s, 1, z.s])?);
        b.concat(&[dv, p, dp], 1)
    })
}

/// Probabilities, their gradients, q and k to dq and dk.
fn sdpa_backward_2(z: &Sizes) -> Result<Program> {
    let scores = z.heads * z.s;
    kernel(2 * scores + 2 * z.q, z.s, |b, x| {
        let square = |b: &mut Builder, at: usize| -> Result<ValueId> {
            let part = channels(b, x, at * scores, scores)?;
            b.reshape(part, &[1, z.heads, z.s, z.s])
        };
        let (p, dp) = (square(b, 0)?, square(b, 1)?);
        let q = channels(b, x, 2 * scores, z.q)?;
        let k = channels(b, x, 2 * scores + z.q, z.q)?;
        let (q, k) = (heads(b, q, z)?, heads(b, k, z)?);
        let pdp = b.mul(p, dp)?;
        let row = b.push1(Op::ReduceSum { axes: vec![3], keep_dims: true }, &[pdp])?;
        let ds = b.sub(dp, row)?;
        let ds = b.mul(ds, p)?;
        let ds = b.scale(ds, z.attention.scale)?;
        let (dq, dk) = (b.matmul(k, ds, false, true)?, b.matmul(q, ds, false, false)?);
        let (dq, dk) = (b.reshape(dq, &[1, z.q, 1, z.s])?, b.reshape(dk, &[1, z.q, 1, z.s])?);
        b.concat(&[dq, dk], 1)
    })
}

/// The ten kernels of a model, in the order in which a layer runs them.
///
/// # Errors
/// [`Error::Config`] when the feed-forward part is not the gated one that these kernels compute, or the model has
/// pieces that they lack.
pub fn kernels(config: &ModelConfig) -> crate::Result<Vec<Kernel>> {
    let lacking = [
        ("ffn", "relu2", config.ffn != FeedForward::SwiGlu),
        ("norm_gain", "false", !config.norm_gain),
        ("x0_residual", "true", config.x0_residual),
        ("value_embeddings", "true", config.value_embeddings),
        ("window_pattern", &config.window_pattern, !config.window_pattern.is_empty()),
    ];
    if let Some((key, value, _)) = lacking.into_iter().find(|(.., is_lacking)| *is_lacking) {
        return Err(Error::Config {
            key,
            value: value.to_owned(),
            problem: "autoresearch-ANE's kernels compute plain layers with swiglu only".to_owned(),
        });
    }
    let z = Sizes {
        c: config.width,
        q: config.q_dim(),
        kv: config.kv_dim(),
        f: config.ffn_hidden,
        s: config.seq_len,
        heads: config.n_heads,
        attention: AttentionShape {
            heads: config.n_heads,
            kv_heads: config.n_kv_heads,
            seq: config.seq_len,
            window: None,
            scale: layer::score_scale(config),
        },
    };
    let (c, q, kv, f, s) = (z.c, z.q, z.kv, z.f, z.s);
    let kernel = |name, backward, program, weights, written, copied, read| Kernel {
        name,
        backward,
        program,
        weights,
        written: written * s,
        copied: copied * s,
        read: read * s,
    };
    let scores = 2 * z.heads * s;
    Ok(vec![
        // Its host saved the normed stream before and does not read it back.
        kernel("sdpaFwd", false, sdpa_forward(config, &z)?, c * (q + 2 * kv), c, 0, 2 * q + 2 * kv),
        kernel("woFwd", false, products(q, c, s, 1)?, q * c, q, 0, c),
        kernel("ffnFused", false, ffn_fused(config, &z)?, 3 * c * f, 2 * c, 0, c + 3 * f),
        kernel("ffnBwdW2t", true, products(c, f, s, 1)?, c * f, c, 0, f),
        kernel("ffnBwdW13t", true, products(f, c, s, 2)?, 2 * f * c, 2 * f, 0, c),
        kernel("wotBwd", true, products(c, q, s, 1)?, c * q, c, 0, q),
        kernel("sdpaBwd1", true, sdpa_backward_1(&z)?, 0, 4 * q, 0, q),
        kernel("sdpaBwd2", true, sdpa_backward_2(&z)?, 0, 2 * q, scores, 2 * q),
        kernel("qBwd", true, products(q, c, s, 1)?, q * c, q, 0, c),
        kernel("kvBwd", true, products(kv, c, s, 2)?, 2 * kv * c, 2 * kv, 0, c),
    ])
}

/// What the host does for one sequence, in milliseconds by the names of its own log. `vocab` is the
/// compacted one that its classifier sees.
pub(super) fn host_parts(
    config: &ModelConfig,
    kernels: &[Kernel],
    vocab: usize,
    host: &Host,
) -> Vec<(&'static str, f64)> {
    let (c, f, s, layers) = (config.width, config.ffn_hidden, config.seq_len, config.n_layers as f64);
    let io = |backward: bool| {
        let of = |count: fn(&Kernel) -> usize| -> f64 {
            kernels.iter().filter(|k| k.backward == backward).map(|k| count(k) as f64).sum()
        };
        // f32 on one side and f16 on the other; f16 on both for what goes from surface to surface.
        layers * host.copy_ms(of(|k| k.written + k.read) * 6.0 + of(|k| k.copied) * 4.0)
    };
    // Keys and values are repeated for their groups in f32, a plain copy when there are none.
    let repeated = host.copy_ms(layers * (2 * config.q_dim() * s) as f64 * 8.0);
    // Copies for the queue that computes weight gradients: what each product reads, in f32.
    let captured = (c + f + 2 * f + c) + (c + config.q_dim()) + (config.q_dim() + 2 * config.kv_dim() + c);
    let tokens = s as f64;
    vec![
        ("io_fwd", io(false)),
        ("rms", host.rms_ms((2.0 * layers + 1.0) * c as f64 * tokens)),
        ("io_bwd", io(true) + repeated),
        ("silu", host.silu_ms(layers * f as f64 * tokens)),
        ("rms_bwd", host.rms_backward_ms(2.0 * layers * c as f64 * tokens)),
        ("cls", host.classifier_ms(vocab as f64 * tokens)),
        ("dw_copy", host.capture_ms(layers * captured as f64 * tokens)),
        ("other", host.other_ms(layers * tokens)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    /// Oracle: the sizes that autoresearch-ANE's kernels have, channels by columns, for width 768, FFN 2048,
    /// six heads and 512 columns.
    #[test]
    fn surfaces_have_the_published_sizes() {
        let config = presets::by_name("gpt-48m").unwrap();
        let (c, f, s, h) = (768, 2048, 512, 6);
        let expected = [
            ("sdpaFwd", c * (s + 3 * c), 5 * c),
            ("woFwd", c * (s + c), c),
            ("ffnFused", c * (2 * s + 3 * f), c + 3 * f),
            ("ffnBwdW2t", c * (s + f), f),
            ("ffnBwdW13t", f * (2 * s + 2 * c), c),
            ("wotBwd", c * (s + c), c),
            ("sdpaBwd1", 4 * c * s, c + 2 * h * s),
            ("sdpaBwd2", (2 * h * s + 2 * c) * s, 2 * c),
            ("qBwd", c * (s + c), c),
            ("kvBwd", c * (2 * s + 2 * c), c),
        ];
        let kernels = kernels(&config).unwrap();
        assert_eq!(kernels.len(), expected.len());
        for (kernel, (name, input, output)) in kernels.iter().zip(expected) {
            assert_eq!(kernel.name, name);
            assert_eq!(kernel.activations_in() + kernel.weights, input, "{name}");
            assert_eq!(kernel.activations_out(), output * s, "{name}");
            assert!(kernel.written + kernel.copied <= kernel.activations_in(), "{name}");
            assert!(kernel.read <= kernel.activations_out(), "{name}");
        }
        // Everything but the weights is written by somebody.
        let all: usize = kernels.iter().map(Kernel::activations_in).sum();
        assert_eq!(kernels.iter().map(|k| k.written + k.copied).sum::<usize>(), all);
    }
}
