//! `attention(q, k, v)`: causal softmax attention within each sequence, grouped key/value heads,
//! an optional window. q and the result are `[1, H*D, 1, B*S]`, k and v `[1, KV*D, 1, B*S]`.
//!
//! The decomposition works on `[B, H, D, S]`: scores are products over D, a constant mask is
//! added (finite, rule ANE-062; the engine's own attention ignores masks, rule ANE-044), softmax
//! runs along the keys. The gradient computes the probabilities again, so that nothing of size
//! S x S leaves a program unless a cut goes through it.

use crate::ops::{Example, Op, t};
use crate::{Builder, Constant, Error, Result, TensorType, ValueId};

/// Added to the score of a key that a query must not see. Finite, and far enough from f16's
/// largest value that a score added to it cannot overflow; exp of it is 0 in f16 and f32.
pub const MASKED: f32 = -30_000.0;

/// The part of an `attention` op that both directions share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads, H.
    pub heads: usize,
    /// Key/value heads, KV; query head h reads key/value head h / (H / KV).
    pub kv_heads: usize,
    /// Tokens in a sequence, S.
    pub seq: usize,
    /// Each query sees this many keys, itself included; `None` sees all before it.
    pub window: Option<usize>,
    /// Scores are multiplied by it before softmax.
    pub scale: f32,
}

impl AttentionShape {
    /// That of `op`; `None` when it is neither `attention` nor `attention_grad`.
    pub fn of(op: &Op) -> Option<Self> {
        match *op {
            Op::Attention { heads, kv_heads, seq, window, scale }
            | Op::AttentionGrad { heads, kv_heads, seq, window, scale } => Some(AttentionShape {
                heads: heads as usize,
                kv_heads: kv_heads as usize,
                seq: seq as usize,
                window: (window > 0).then_some(window as usize),
                scale,
            }),
            _ => None,
        }
    }

    /// The `attention` op.
    pub fn op(&self) -> Op {
        Op::Attention {
            heads: self.heads as i32,
            kv_heads: self.kv_heads as i32,
            seq: self.seq as i32,
            window: self.window.unwrap_or(0) as i32,
            scale: self.scale,
        }
    }

    /// Whether query i may see key j.
    pub fn sees(&self, i: usize, j: usize) -> bool {
        j <= i && self.window.is_none_or(|window| i - j < window)
    }
}

pub(super) fn infer(op: &Op, args: &[&TensorType]) -> Result<Vec<TensorType>> {
    let shape = AttentionShape::of(op).expect("called for attention only");
    let (q, k, v) = (args[0], args[1], args[2]);
    let wrong = |problem: String| Err(Error::op(op.name(), problem));
    if shape.heads == 0
        || shape.kv_heads == 0
        || shape.seq == 0
        || !shape.heads.is_multiple_of(shape.kv_heads)
    {
        return wrong(format!(
            "{} heads over {} kv_heads, seq {}; heads must be a multiple of kv_heads, and none 0",
            shape.heads, shape.kv_heads, shape.seq
        ));
    }
    for (name, arg) in [("q", q), ("k", k), ("v", v)] {
        if arg.rank() != 4
            || arg.shape[0] != 1
            || arg.shape[2] != 1
            || arg.dtype != q.dtype
            || !arg.dtype.is_float()
        {
            return wrong(format!("{name} is {arg}, expected a float [1, heads*D, 1, B*S]"));
        }
    }
    let n = q.shape[3];
    if !q.shape[1].is_multiple_of(shape.heads) || !n.is_multiple_of(shape.seq) {
        return wrong(format!(
            "q is {q}; its channels must divide into {} heads, its columns into sequences of {}",
            shape.heads, shape.seq
        ));
    }
    let head_dim = q.shape[1] / shape.heads;
    let expected = [1, shape.kv_heads * head_dim, 1, n];
    if k.shape != expected || v.shape != expected {
        return wrong(format!("k is {k}, v is {v}; expected {expected:?} for q {q}"));
    }
    match op {
        Op::Attention { .. } => Ok(vec![q.clone()]),
        _ if args[3] == q && args[4] == q => Ok(vec![q.clone(), k.clone(), v.clone()]),
        _ => wrong(format!("o is {}, do is {}; expected {q} twice", args[3], args[4])),
    }
}

/// `[1, heads*D, 1, B*S]` as `[B, heads, D, S]`.
fn to_heads(b: &mut Builder, x: ValueId, heads: usize, seq: usize) -> Result<ValueId> {
    let (channels, n) = (b.shape(x)[1], b.shape(x)[3]);
    let (head_dim, batch) = (channels / heads, n / seq);
    if batch == 1 {
        return b.reshape(x, &[1, heads, head_dim, seq]);
    }
    let x = b.reshape(x, &[heads, head_dim, batch, seq])?;
    b.transpose(x, &[2, 0, 1, 3])
}

/// `[B, heads, D, S]` as `[1, heads*D, 1, B*S]`.
fn from_heads(b: &mut Builder, x: ValueId) -> Result<ValueId> {
    let [batch, heads, head_dim, seq] = b.shape(x) else { unreachable!("made by to_heads") };
    let shape = [1, heads * head_dim, 1, batch * seq];
    if *batch == 1 {
        return b.reshape(x, &shape);
    }
    let x = b.transpose(x, &[1, 2, 0, 3])?;
    b.reshape(x, &shape)
}

/// Each of KV heads repeated for its group: `[B, KV, D, S]` to `[B, H, D, S]`, head h from h / (H/KV).
fn repeat_heads(b: &mut Builder, x: ValueId, heads: usize) -> Result<ValueId> {
    let [batch, kv_heads, head_dim, seq] = *b.shape(x) else { unreachable!("made by to_heads") };
    if heads == kv_heads {
        return Ok(x);
    }
    let mut parts = Vec::with_capacity(heads);
    for kv in 0..kv_heads {
        let head = b.slice(x, &[0, kv, 0, 0], &[batch, 1, head_dim, seq])?;
        parts.extend(std::iter::repeat_n(head, heads / kv_heads));
    }
    b.concat(&parts, 1)
}

/// The reverse: gradients of a group's heads added up.
fn sum_groups(b: &mut Builder, x: ValueId, kv_heads: usize) -> Result<ValueId> {
    let [batch, heads, head_dim, seq] = *b.shape(x) else { unreachable!("made by to_heads") };
    if heads == kv_heads {
        return Ok(x);
    }
    let x = b.reshape(x, &[batch * kv_heads, heads / kv_heads, head_dim, seq])?;
    let x = b.wide_sum(x, 1)?;
    b.reshape(x, &[batch, kv_heads, head_dim, seq])
}

/// Softmax over visible keys of scaled scores: q, k `[B, H, D, S]` to `[B, H, S, S]`, queries in rows.
fn probabilities(b: &mut Builder, shape: &AttentionShape, q: ValueId, k: ValueId) -> Result<ValueId> {
    let seq = shape.seq;
    let q = b.scale(q, shape.scale)?;
    let scores = b.matmul(q, k, true, false)?;
    let visible = (0..seq * seq).map(|at| if shape.sees(at / seq, at % seq) { 0.0 } else { MASKED });
    let mask = Constant::float(b.element(), &[1, 1, seq, seq], visible);
    let mask = b.constant(mask);
    let scores = b.add(scores, mask)?;
    b.push1(Op::Softmax { axis: -1 }, &[scores])
}

pub(super) fn decompose(b: &mut Builder, op: &Op, args: &[ValueId]) -> Result<Vec<ValueId>> {
    let shape = AttentionShape::of(op).expect("called for attention only");
    let queries = |b: &mut Builder, x| to_heads(b, x, shape.heads, shape.seq);
    let keys = |b: &mut Builder, x| {
        let x = to_heads(b, x, shape.kv_heads, shape.seq)?;
        repeat_heads(b, x, shape.heads)
    };
    if matches!(op, Op::Attention { .. }) {
        let (q, k, v) = (queries(b, args[0])?, keys(b, args[1])?, keys(b, args[2])?);
        let p = probabilities(b, &shape, q, k)?;
        // [D, keys] x [queries, keys]ᵀ
        let o = b.matmul(v, p, false, true)?;
        return Ok(vec![from_heads(b, o)?]);
    }
    // dP = doᵀ v; dS = P (dP - Σ_keys P dP), and that sum is Σ_D o do, which is short. The two
    // scopes are where the finest cut goes through.
    let (p, dp, dv) = b.in_scope("attention_grad.1", |b| -> Result<_> {
        let (q, k, v, d_o) =
            (queries(b, args[0])?, keys(b, args[1])?, keys(b, args[2])?, queries(b, args[4])?);
        let p = probabilities(b, &shape, q, k)?;
        let dp = b.matmul(d_o, v, true, false)?;
        let dv = b.matmul(d_o, p, false, false)?;
        let dv = sum_groups(b, dv, shape.kv_heads)?;
        Ok((p, dp, from_heads(b, dv)?))
    })?;
    let (dq, dk) = b.in_scope("attention_grad.2", |b| -> Result<_> {
        let (q, k, o, d_o) =
            (queries(b, args[0])?, keys(b, args[1])?, queries(b, args[3])?, queries(b, args[4])?);
        let odo = b.mul(o, d_o)?;
        let ones = b.full(&[1, 1, b.shape(o)[2], 1], 1.0);
        // [D, queries]ᵀ x [D, 1]: a column, one for each query.
        let delta = b.matmul(odo, ones, true, false)?;
        let centred = b.sub(dp, delta)?;
        let ds = b.mul(p, centred)?;
        let dq = b.matmul(k, ds, false, true)?;
        let dq = b.scale(dq, shape.scale)?;
        let q = b.scale(q, shape.scale)?;
        let dk = b.matmul(q, ds, false, false)?;
        let dk = sum_groups(b, dk, shape.kv_heads)?;
        Ok((from_heads(b, dq)?, from_heads(b, dk)?))
    })?;
    Ok(vec![dq, dk, dv])
}

pub(super) fn examples() -> Vec<Example> {
    let mut examples = Vec::new();
    for (heads, kv_heads, window, batch) in [(2, 2, None, 1), (4, 2, None, 2), (2, 1, Some(3), 2)] {
        let (head_dim, seq) = (3, 5);
        let shape = AttentionShape { heads, kv_heads, seq, window, scale: 0.6 };
        let q = t(&[1, heads * head_dim, 1, batch * seq]);
        let k = t(&[1, kv_heads * head_dim, 1, batch * seq]);
        let forward = vec![q.clone(), k.clone(), k.clone()];
        let Op::Attention { heads, kv_heads, seq, window, scale } = shape.op() else {
            unreachable!("it is one")
        };
        examples.push(Example { op: shape.op(), operands: forward.clone(), domain: (-1.5, 1.5) });
        examples.push(Example {
            op: Op::AttentionGrad { heads, kv_heads, seq, window, scale },
            operands: [forward, vec![q.clone(), q]].concat(),
            domain: (-1.5, 1.5),
        });
    }
    examples
}

pub(super) fn misuses() -> Vec<(Op, Vec<TensorType>, &'static str)> {
    let shape = AttentionShape { heads: 2, kv_heads: 2, seq: 5, window: None, scale: 1.0 };
    let q = t(&[1, 6, 1, 10]);
    let grad = Op::AttentionGrad { heads: 2, kv_heads: 2, seq: 5, window: 0, scale: 1.0 };
    vec![
        (shape.op(), vec![q.clone(), t(&[1, 4, 1, 10]), q.clone()], "k is"),
        (
            AttentionShape { kv_heads: 3, ..shape }.op(),
            vec![q.clone(), q.clone(), q.clone()],
            "multiple of kv_heads",
        ),
        (AttentionShape { seq: 4, ..shape }.op(), vec![q.clone(), q.clone(), q.clone()], "sequences of 4"),
        (grad, vec![q.clone(), q.clone(), q.clone(), q.clone(), t(&[1, 6, 1, 5])], "do is"),
    ]
}
