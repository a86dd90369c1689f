//! Ops that move elements and compute nothing: `reshape`, `transpose`, `slice_by_size`, `concat`,
//! `split`.

use super::{Example, Op, resolve_axis, t};
use crate::{Builder, DType, Error, Result, TensorType, ValueId};

pub(super) fn infer(op: &Op, args: &[&TensorType]) -> Result<Vec<TensorType>> {
    let x = args[0];
    let like = |shape: Vec<usize>| Ok(vec![TensorType { dtype: x.dtype, shape }]);
    match op {
        Op::Reshape { shape } => like(reshaped(&x.shape, shape)?),
        Op::Transpose { perm } => {
            let axes = perm.iter().map(|a| resolve_axis(op, *a, x.rank())).collect::<Result<Vec<_>>>()?;
            let mut sorted = axes.clone();
            sorted.sort_unstable();
            if sorted != (0..x.rank()).collect::<Vec<_>>() {
                return Err(Error::op(
                    "transpose",
                    format!("perm {perm:?} is not an order of the {} axes of {:?}", x.rank(), x.shape),
                ));
            }
            like(axes.iter().map(|a| x.shape[*a]).collect())
        }
        Op::SliceBySize { .. } => like(slice_box(op, &x.shape)?.into_iter().map(|(_, size)| size).collect()),
        Op::Concat { axis, interleave } => {
            if *interleave {
                return Err(Error::op("concat", "interleave = true is not supported"));
            }
            let axis = resolve_axis(op, *axis, x.rank())?;
            let mut shape = x.shape.clone();
            shape[axis] = 0;
            for arg in args {
                let fits = arg.dtype == x.dtype
                    && arg.rank() == x.rank()
                    && (0..x.rank()).all(|i| i == axis || arg.shape[i] == x.shape[i]);
                if !fits {
                    return Err(Error::op(
                        "concat",
                        format!("{arg} does not join {x} along axis {axis}; all other axes must be equal"),
                    ));
                }
                shape[axis] += arg.shape[axis];
            }
            like(shape)
        }
        Op::Split { num_splits, axis } => {
            // Its T in MIL's reference: fp16, fp32, int32; the other movements take int8 from iOS 17 on.
            if x.dtype == DType::I8 {
                return Err(Error::op(
                    "split",
                    format!("its operand is {x}; it takes no int8, slice_by_size does"),
                ));
            }
            let axis = resolve_axis(op, *axis, x.rank())?;
            let parts = *num_splits;
            if parts < 1 || !x.shape[axis].is_multiple_of(parts as usize) {
                return Err(Error::op(
                    "split",
                    format!("axis {axis} of {:?} does not divide into {parts} equal parts", x.shape),
                ));
            }
            let mut shape = x.shape.clone();
            shape[axis] /= parts as usize;
            Ok(vec![TensorType { dtype: x.dtype, shape }; parts as usize])
        }
        _ => unreachable!("{} moves nothing", op.name()),
    }
}

/// `to` with its -1 filled in, when it holds as many elements as `from`.
fn reshaped(from: &[usize], to: &[i32]) -> Result<Vec<usize>> {
    let count: usize = from.iter().product();
    let wrong = || Error::op("reshape", format!("{from:?} holds {count} elements, {to:?} does not"));
    if to.iter().any(|v| *v < -1 || *v == 0) || to.iter().filter(|v| **v == -1).count() > 1 {
        return Err(Error::op(
            "reshape",
            format!("shape {to:?}: extents are positive, and at most one is -1"),
        ));
    }
    let known =
        to.iter().filter(|v| **v > 0).try_fold(1_usize, |product, v| product.checked_mul(*v as usize));
    let Some(known) = known.filter(|known| *known <= count) else { return Err(wrong()) };
    let shape: Vec<usize> = to.iter().map(|v| if *v == -1 { count / known } else { *v as usize }).collect();
    if shape.iter().product::<usize>() != count {
        return Err(wrong());
    }
    Ok(shape)
}

/// First index and extent on each axis of a `slice_by_size`.
pub fn slice_box(op: &Op, x: &[usize]) -> Result<Vec<(usize, usize)>> {
    let Op::SliceBySize { begin, size } = op else { unreachable!("called for slice_by_size only") };
    if begin.len() != x.len() || size.len() != x.len() {
        return Err(Error::op(
            "slice_by_size",
            format!("begin {begin:?} and size {size:?} need one entry for each axis of {x:?}"),
        ));
    }
    (0..x.len())
        .map(|i| {
            let (first, extent) = (begin[i] as i64, x[i] as i64);
            let size = if size[i] == -1 { extent - first } else { size[i] as i64 };
            if first < 0 || size < 1 || first + size > extent {
                return Err(Error::op(
                    "slice_by_size",
                    format!(
                        "axis {i}: elements {first}..{} of {extent} (begin {begin:?}, x {x:?})",
                        first + size
                    ),
                ));
            }
            Ok((first as usize, size as usize))
        })
        .collect()
}

pub(super) fn backward(
    op: &Op,
    b: &mut Builder,
    args: &[ValueId],
    dy: ValueId,
) -> Result<Vec<Option<ValueId>>> {
    let shape = b.ty(args[0]).shape.clone();
    match op {
        Op::Reshape { .. } => Ok(vec![Some(b.reshape(dy, &shape)?)]),
        Op::Transpose { perm } => {
            let mut inverse = vec![0; perm.len()];
            for (i, axis) in perm.iter().enumerate() {
                inverse[resolve_axis(op, *axis, shape.len())?] = i;
            }
            Ok(vec![Some(b.transpose(dy, &inverse)?)])
        }
        Op::SliceBySize { .. } => {
            // Zeros on both sides of the box, one axis after another.
            let mut grad = dy;
            for (axis, (first, size)) in slice_box(op, &shape)?.into_iter().enumerate() {
                let zeros = |b: &mut Builder, extent: usize| {
                    let mut pad = b.ty(grad).shape.clone();
                    pad[axis] = extent;
                    (extent > 0).then(|| b.full(&pad, 0.0))
                };
                let before = zeros(b, first);
                let after = zeros(b, shape[axis] - first - size);
                let parts: Vec<ValueId> = before.into_iter().chain([grad]).chain(after).collect();
                if parts.len() > 1 {
                    grad = b.concat(&parts, axis)?;
                }
            }
            Ok(vec![Some(grad)])
        }
        Op::Concat { axis, .. } => {
            let axis = resolve_axis(op, *axis, shape.len())?;
            let mut begin = vec![0; shape.len()];
            args.iter()
                .map(|arg| {
                    let size = b.ty(*arg).shape.clone();
                    let part = b.slice(dy, &begin, &size)?;
                    begin[axis] += size[axis];
                    Ok(Some(part))
                })
                .collect()
        }
        _ => unreachable!("{} moves nothing", op.name()),
    }
}

/// The parts' gradients joined again; a part that nothing depends on has zeros.
pub(super) fn split_backward(
    op: &Op,
    b: &mut Builder,
    axis: i32,
    results: &[ValueId],
    douts: &[Option<ValueId>],
) -> Result<Vec<Option<ValueId>>> {
    if douts.iter().all(Option::is_none) {
        return Ok(vec![None]);
    }
    let axis = resolve_axis(op, axis, b.shape(results[0]).len())?;
    let part = b.shape(results[0]).to_vec();
    let parts: Vec<ValueId> = douts.iter().map(|dout| dout.unwrap_or_else(|| b.full(&part, 0.0))).collect();
    Ok(vec![Some(b.concat(&parts, axis)?)])
}

pub(super) fn examples() -> Vec<Example> {
    let one = |op: Op, shape: &[usize]| Example { op, operands: vec![t(shape)], domain: (-1.0, 1.0) };
    vec![
        one(Op::Reshape { shape: vec![3, -1, 2] }, &[2, 3, 4]),
        one(Op::Transpose { perm: vec![2, 0, 1] }, &[2, 3, 4]),
        one(Op::SliceBySize { begin: vec![0, 1, 2], size: vec![-1, 2, 1] }, &[2, 4, 5]),
        Example {
            op: Op::Concat { axis: 1, interleave: false },
            operands: vec![t(&[2, 3, 2]), t(&[2, 1, 2]), t(&[2, 2, 2])],
            domain: (-1.0, 1.0),
        },
        one(Op::Split { num_splits: 3, axis: -1 }, &[2, 6]),
    ]
}

pub(super) fn misuses() -> Vec<(Op, Vec<TensorType>, &'static str)> {
    vec![
        (Op::Reshape { shape: vec![4, 2] }, vec![t(&[2, 3])], "does not"),
        (Op::Transpose { perm: vec![0, 0] }, vec![t(&[2, 3])], "not an order"),
        (Op::SliceBySize { begin: vec![0, 2], size: vec![2, 2] }, vec![t(&[2, 3])], "axis 1"),
        (Op::Concat { axis: 0, interleave: false }, vec![t(&[2, 3]), t(&[2, 4])], "does not join"),
        (Op::Split { num_splits: 4, axis: 1 }, vec![t(&[2, 3])], "equal parts"),
    ]
}
