//! Composites: ops of our own that carry a decomposition into primitive ops which every Apple
//! route accepts, and a gradient made of composites and primitives.
//!
//! Text and `sim` expand them; `cpu` knows them by name and runs a fused kernel. The
//! decompositions follow the f16 rules: no `reduce_sum` over more than 256 elements, squares and
//! products kept away from both ends of f16's range, the loss scale inside the exponential.

use crate::ops::{Example, Gradient, Op};
use crate::{Builder, Result, TensorType, ValueId};

pub mod attention;
pub mod cross_entropy;
pub mod rms_norm;
pub mod rope;

pub(crate) fn infer(op: &Op, args: &[&TensorType]) -> Result<Vec<TensorType>> {
    match op {
        Op::RmsNorm { .. } | Op::RmsNormGrad { .. } => rms_norm::infer(op, args),
        Op::Rope { .. } => rope::infer(args),
        Op::Attention { .. } | Op::AttentionGrad { .. } => attention::infer(op, args),
        Op::CrossEntropyStats { .. } | Op::CrossEntropyGrad { .. } | Op::CrossEntropy { .. } => {
            cross_entropy::infer(op, args)
        }
        _ => unreachable!("{} is no composite", op.name()),
    }
}

/// Replaces a composite by primitive ops (or simpler composites) with the same results.
pub(crate) fn decompose(b: &mut Builder, op: &Op, args: &[ValueId]) -> Result<Vec<ValueId>> {
    match op {
        Op::RmsNorm { .. } | Op::RmsNormGrad { .. } => rms_norm::decompose(b, op, args),
        Op::Rope { inverse } => rope::decompose(b, *inverse, args),
        Op::Attention { .. } | Op::AttentionGrad { .. } => attention::decompose(b, op, args),
        Op::CrossEntropyStats { .. } | Op::CrossEntropyGrad { .. } | Op::CrossEntropy { .. } => {
            cross_entropy::decompose(b, op, args)
        }
        _ => unreachable!("{} is no composite", op.name()),
    }
}

pub(crate) fn gradient(op: &Op) -> Gradient {
    match op {
        Op::RmsNorm { .. } | Op::Rope { .. } | Op::Attention { .. } => Gradient::Rule,
        Op::RmsNormGrad { .. } | Op::AttentionGrad { .. } => {
            Gradient::None("it is itself a gradient, and nothing here differentiates twice")
        }
        _ => Gradient::None("the loss comes with its gradient: cross_entropy_grad"),
    }
}

pub(crate) fn backward(
    op: &Op,
    b: &mut Builder,
    args: &[ValueId],
    y: ValueId,
    dy: ValueId,
) -> Result<Vec<Option<ValueId>>> {
    match *op {
        Op::RmsNorm { axis, eps } => {
            let grads = b.push(Op::RmsNormGrad { axis, eps }, &[args[0], args[1], dy])?;
            Ok(grads.into_iter().map(Some).collect())
        }
        Op::Rope { inverse } => {
            let dx = b.push1(Op::Rope { inverse: !inverse }, &[dy, args[1], args[2]])?;
            Ok(vec![Some(dx), None, None])
        }
        Op::Attention { heads, kv_heads, seq, window, scale } => {
            let op = Op::AttentionGrad { heads, kv_heads, seq, window, scale };
            let grads = b.push(op, &[args[0], args[1], args[2], y, dy])?;
            Ok(grads.into_iter().map(Some).collect())
        }
        _ => unreachable!("composites with a gradient are listed above; {} is not", op.name()),
    }
}

pub(crate) fn examples() -> Vec<Example> {
    let mut examples = rms_norm::examples();
    examples.extend(rope::examples());
    examples.extend(attention::examples());
    examples.extend(cross_entropy::examples());
    examples
}

pub(crate) fn misuses() -> Vec<(Op, Vec<TensorType>, &'static str)> {
    let mut misuses = rms_norm::misuses();
    misuses.extend(rope::misuses());
    misuses.extend(attention::misuses());
    misuses.extend(cross_entropy::misuses());
    misuses
}
