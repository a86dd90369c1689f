//! `rms_norm(x, w)`: y = x / sqrt(mean(x²) + eps) * w, the mean along one axis.
//!
//! The residual stream is normalised along its channels (x `[1, C, 1, N]`, w `[1, C, 1, 1]`,
//! axis 1); queries and keys along each head (x `[1, H, D, N]`, w `[1, 1, D, 1]`, axis 2).
//!
//! In f16 the mean of squares is the delicate part. A value is halved before it is squared, which
//! is exact, so that squares neither overflow below |x| = 510 nor leave the normal range above
//! |x| = 0.016; the sum is a product with a vector of 2^-k, 2^k the next power of two at or above
//! the axis length, which is exact too, accumulates wide and keeps the result under the cliff of
//! matrix products (rule ANE-057) up to a root mean square of 360.

use crate::ops::{Example, Op, t};
use crate::{Builder, Error, Result, TensorType, ValueId};

/// Factor on x before it is squared.
const PRE_SCALE: f32 = 0.5;

fn parts(op: &Op) -> (usize, f32) {
    match *op {
        Op::RmsNorm { axis, eps } | Op::RmsNormGrad { axis, eps } => (axis as usize, eps),
        _ => unreachable!("called for rms_norm and rms_norm_grad only"),
    }
}

pub(super) fn infer(op: &Op, args: &[&TensorType]) -> Result<Vec<TensorType>> {
    let (axis, eps) = parts(op);
    let (x, w) = (args[0], args[1]);
    if x.rank() != 4 || axis >= 4 || !x.dtype.is_float() {
        return Err(Error::op(
            op.name(),
            format!("x is {x}, axis {axis}; expected a float tensor of rank 4 and an axis of it"),
        ));
    }
    let mut expected = vec![1; 4];
    expected[axis] = x.shape[axis];
    if w.shape != expected || w.dtype != x.dtype {
        return Err(Error::op(
            op.name(),
            format!("w is {w}, expected shape {expected:?} of the type of x {x}"),
        ));
    }
    if eps.is_nan() || eps < 0.0 {
        return Err(Error::op(op.name(), format!("eps is {eps}, expected a number that is not negative")));
    }
    match op {
        Op::RmsNorm { .. } => Ok(vec![x.clone()]),
        _ if args[2] == x => Ok(vec![x.clone(), w.clone()]),
        _ => Err(Error::op(op.name(), format!("dy is {}, expected {x}", args[2]))),
    }
}

/// 1 / sqrt(mean(x²) + eps) along `axis`, which stays with extent 1.
fn inverse_rms(b: &mut Builder, x: ValueId, axis: usize, eps: f32) -> Result<ValueId> {
    let extent = b.shape(x)[axis];
    let share = 1.0 / extent.next_power_of_two() as f32;
    // halved² summed and scaled is mean(x²) * factor.
    let factor = PRE_SCALE * PRE_SCALE * extent as f32 * share;
    let halved = b.scale(x, PRE_SCALE)?;
    let squares = b.mul(halved, halved)?;
    let mean = b.weighted_sum(squares, axis, share)?;
    let root = b.push1(Op::Rsqrt { epsilon: eps * factor }, &[mean])?;
    b.scale(root, factor.sqrt())
}

pub(super) fn decompose(b: &mut Builder, op: &Op, args: &[ValueId]) -> Result<Vec<ValueId>> {
    let (axis, eps) = parts(op);
    let (x, w) = (args[0], args[1]);
    let r = inverse_rms(b, x, axis, eps)?;
    let unit = b.mul(x, r)?;
    if matches!(op, Op::RmsNorm { .. }) {
        return Ok(vec![b.mul(unit, w)?]);
    }
    // With u = x r and g = w dy: dx = r (g - u mean(g u)), dw = Σ dy u over all other axes.
    let dy = args[2];
    let g = b.mul(dy, w)?;
    let gu = b.mul(g, unit)?;
    let extent = b.shape(x)[axis];
    let mean = b.weighted_sum(gu, axis, 1.0 / extent as f32)?;
    let along = b.mul(unit, mean)?;
    let across = b.sub(g, along)?;
    let dx = b.mul(across, r)?;
    let du = b.mul(dy, unit)?;
    let w_shape = b.shape(w).to_vec();
    let dw = b.sum_to(du, &w_shape)?;
    Ok(vec![dx, dw])
}

pub(super) fn examples() -> Vec<Example> {
    let channels = || vec![t(&[1, 6, 1, 5]), t(&[1, 6, 1, 1])];
    let heads = || vec![t(&[1, 2, 4, 5]), t(&[1, 1, 4, 1])];
    let with_dy = |mut operands: Vec<TensorType>| {
        operands.push(operands[0].clone());
        operands
    };
    let domain = (-1.5, 1.5);
    vec![
        Example { op: Op::RmsNorm { axis: 1, eps: 1e-5 }, operands: channels(), domain },
        Example { op: Op::RmsNorm { axis: 2, eps: 1e-2 }, operands: heads(), domain },
        Example { op: Op::RmsNormGrad { axis: 1, eps: 1e-5 }, operands: with_dy(channels()), domain },
        Example { op: Op::RmsNormGrad { axis: 2, eps: 1e-2 }, operands: with_dy(heads()), domain },
    ]
}

pub(super) fn misuses() -> Vec<(Op, Vec<TensorType>, &'static str)> {
    let x = t(&[1, 6, 1, 5]);
    vec![
        (Op::RmsNorm { axis: 1, eps: 1e-5 }, vec![x.clone(), t(&[1, 5, 1, 1])], "w is"),
        (Op::RmsNormGrad { axis: 1, eps: 1e-5 }, vec![x, t(&[1, 6, 1, 1]), t(&[1, 6, 1, 4])], "dy is"),
    ]
}
