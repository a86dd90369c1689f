//! `reduce_sum`, `reduce_mean`, `reduce_max`: along a set of axes.
//!
//! The engine adds up `reduce_sum` and `reduce_mean` in f16 (rule ANE-058), so our own programs
//! use [`Builder::wide_sum`] for more than 256 elements.

use super::{Example, Op, resolve_axis, t};
use crate::{Builder, Error, Result, TensorType, ValueId};

/// Axes counted from 0, sorted, and whether they stay.
pub fn reduced_axes(op: &Op, rank: usize) -> Result<(Vec<usize>, bool)> {
    let (Op::ReduceSum { axes, keep_dims }
    | Op::ReduceMean { axes, keep_dims }
    | Op::ReduceMax { axes, keep_dims }) = op
    else {
        unreachable!("called for reductions only")
    };
    let mut resolved = axes.iter().map(|a| resolve_axis(op, *a, rank)).collect::<Result<Vec<_>>>()?;
    resolved.sort_unstable();
    if resolved.is_empty() || resolved.windows(2).any(|w| w[0] == w[1]) {
        return Err(Error::op(op.name(), format!("axes {axes:?}: expected at least one and none twice")));
    }
    Ok((resolved, *keep_dims))
}

pub(super) fn infer(op: &Op, args: &[&TensorType]) -> Result<Vec<TensorType>> {
    let x = args[0];
    let (axes, keep) = reduced_axes(op, x.rank())?;
    if !x.dtype.is_float() {
        return Err(Error::op(op.name(), format!("x is {x}, expected a float type")));
    }
    let shape: Vec<usize> = (0..x.rank())
        .filter_map(|i| match (axes.contains(&i), keep) {
            (true, true) => Some(1),
            (true, false) => None,
            (false, _) => Some(x.shape[i]),
        })
        .collect();
    Ok(vec![TensorType { dtype: x.dtype, shape }])
}

pub(super) fn backward(
    op: &Op,
    b: &mut Builder,
    x: ValueId,
    y: ValueId,
    dy: ValueId,
) -> Result<Vec<Option<ValueId>>> {
    let shape = b.ty(x).shape.clone();
    let (axes, _) = reduced_axes(op, shape.len())?;
    let kept: Vec<usize> = (0..shape.len()).map(|i| if axes.contains(&i) { 1 } else { shape[i] }).collect();
    let dy = b.reshape(dy, &kept)?;
    let dx = match op {
        Op::ReduceMax { .. } => {
            let y = b.reshape(y, &kept)?;
            // Every element that equals the maximum gets the gradient; the maximum is meant to be
            // unique.
            let hit = b.push1(Op::Equal, &[x, y])?;
            let zero = b.zeros_like(x)?;
            let spread = b.add(dy, zero)?;
            b.select(hit, spread, zero)?
        }
        _ => {
            let count: usize = axes.iter().map(|a| shape[*a]).product();
            let factor = if matches!(op, Op::ReduceMean { .. }) { 1.0 / count as f32 } else { 1.0 };
            // A product with a full tensor of the factor is how a row is spread out again.
            let spread = b.full(&shape, factor);
            b.mul(spread, dy)?
        }
    };
    Ok(vec![Some(dx)])
}

pub(super) fn examples() -> Vec<Example> {
    let kinds: [fn(Vec<i32>, bool) -> Op; 3] = [
        |axes, keep_dims| Op::ReduceSum { axes, keep_dims },
        |axes, keep_dims| Op::ReduceMean { axes, keep_dims },
        |axes, keep_dims| Op::ReduceMax { axes, keep_dims },
    ];
    kinds
        .into_iter()
        .flat_map(|kind| {
            [
                Example { op: kind(vec![1], true), operands: vec![t(&[1, 6, 1, 3])], domain: (-1.0, 1.0) },
                Example { op: kind(vec![0, -1], false), operands: vec![t(&[2, 3, 4])], domain: (-1.0, 1.0) },
            ]
        })
        .collect()
}

pub(super) fn misuses() -> Vec<(Op, Vec<TensorType>, &'static str)> {
    let x = || vec![t(&[2, 3])];
    vec![
        (Op::ReduceSum { axes: vec![1, -1], keep_dims: true }, x(), "none twice"),
        (Op::ReduceMean { axes: vec![], keep_dims: true }, x(), "at least one"),
        (Op::ReduceMax { axes: vec![2], keep_dims: true }, x(), "axis 2"),
    ]
}
