//! `matmul`: x `[.., m, k]` times y `[.., k, n]` gives `[.., m, n]`; either may be stored
//! transposed, leading axes broadcast.

use super::elementwise::broadcast;
use super::{Example, Op, t};
use crate::{Builder, Error, Result, TensorType, ValueId};

pub(super) fn infer(op: &Op, args: &[&TensorType]) -> Result<Vec<TensorType>> {
    let Op::Matmul { transpose_x, transpose_y } = *op else { unreachable!("called for matmul only") };
    let (x, y) = (args[0], args[1]);
    if x.dtype != y.dtype || !x.dtype.is_float() {
        return Err(Error::op("matmul", format!("x is {x}, y is {y}; both must be of one float type")));
    }
    if x.rank() < 2 || y.rank() < 2 {
        return Err(Error::op("matmul", format!("x is {x}, y is {y}; both need at least two axes")));
    }
    let matrix = |shape: &[usize], transposed: bool| {
        let (rows, columns) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        if transposed { (columns, rows) } else { (rows, columns) }
    };
    let (m, kx) = matrix(&x.shape, transpose_x);
    let (ky, n) = matrix(&y.shape, transpose_y);
    if kx != ky {
        return Err(Error::op(
            "matmul",
            format!(
                "contraction lengths differ: x {:?} (transpose_x = {transpose_x}) has {kx}, y {:?} (transpose_y = {transpose_y}) has {ky}",
                x.shape, y.shape
            ),
        ));
    }
    let batch = |shape: &[usize]| shape[..shape.len() - 2].to_vec();
    let mut shape = broadcast(&batch(&x.shape), &batch(&y.shape)).ok_or_else(|| {
        Error::op(
            "matmul",
            format!("the leading axes of x {:?} and y {:?} do not broadcast", x.shape, y.shape),
        )
    })?;
    shape.extend([m, n]);
    Ok(vec![TensorType { dtype: x.dtype, shape }])
}

/// With z = x y: dx = dz yᵀ and dy = xᵀ dz, each stored as its operand is.
pub(super) fn backward(
    op: &Op,
    b: &mut Builder,
    args: &[ValueId],
    dz: ValueId,
) -> Result<Vec<Option<ValueId>>> {
    let Op::Matmul { transpose_x, transpose_y } = *op else { unreachable!("called for matmul only") };
    let (x, y) = (args[0], args[1]);
    let dx =
        if transpose_x { b.matmul(y, dz, transpose_y, true)? } else { b.matmul(dz, y, false, !transpose_y)? };
    let dy =
        if transpose_y { b.matmul(dz, x, true, transpose_x)? } else { b.matmul(x, dz, !transpose_x, false)? };
    let (x_shape, y_shape) = (b.ty(x).shape.clone(), b.ty(y).shape.clone());
    Ok(vec![Some(b.sum_to(dx, &x_shape)?), Some(b.sum_to(dy, &y_shape)?)])
}

pub(super) fn examples() -> Vec<Example> {
    let example = |transpose_x, transpose_y, x: &[usize], y: &[usize]| Example {
        op: Op::Matmul { transpose_x, transpose_y },
        operands: vec![t(x), t(y)],
        domain: (-1.0, 1.0),
    };
    vec![
        example(false, false, &[2, 3, 4], &[2, 4, 5]),
        example(true, false, &[2, 4, 3], &[2, 4, 5]),
        example(false, true, &[1, 2, 3, 4], &[1, 2, 5, 4]),
        example(true, true, &[4, 3], &[5, 4]),
        example(false, false, &[1, 1, 3, 4], &[1, 2, 4, 5]),
    ]
}

pub(super) fn misuses() -> Vec<(Op, Vec<TensorType>, &'static str)> {
    let op = Op::Matmul { transpose_x: false, transpose_y: false };
    vec![
        (op.clone(), vec![t(&[2, 3]), t(&[4, 5])], "contraction lengths differ"),
        (op.clone(), vec![t(&[3]), t(&[3, 5])], "at least two axes"),
        (op, vec![t(&[2, 2, 3]), t(&[3, 3, 5])], "do not broadcast"),
    ]
}
