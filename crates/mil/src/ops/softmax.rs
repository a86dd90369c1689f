//! `softmax` along one axis.

use super::{Example, Op, resolve_axis, t};
use crate::{Builder, Error, Result, TensorType, ValueId};

pub(super) fn infer(op: &Op, args: &[&TensorType]) -> Result<Vec<TensorType>> {
    let Op::Softmax { axis } = *op else { unreachable!("called for softmax only") };
    resolve_axis(op, axis, args[0].rank())?;
    if !args[0].dtype.is_float() {
        return Err(Error::op("softmax", format!("x is {}, expected a float type", args[0])));
    }
    Ok(vec![args[0].clone()])
}

/// dx = y (dy - Σ y dy), the sum along the axis.
pub(super) fn backward(op: &Op, b: &mut Builder, y: ValueId, dy: ValueId) -> Result<Vec<Option<ValueId>>> {
    let Op::Softmax { axis } = *op else { unreachable!("called for softmax only") };
    let axis = resolve_axis(op, axis, b.ty(y).rank())?;
    let weighted = b.mul(y, dy)?;
    let total = b.wide_sum(weighted, axis)?;
    let centred = b.sub(dy, total)?;
    Ok(vec![Some(b.mul(y, centred)?)])
}

pub(super) fn examples() -> Vec<Example> {
    vec![
        Example { op: Op::Softmax { axis: -1 }, operands: vec![t(&[2, 3, 5])], domain: (-2.0, 2.0) },
        Example { op: Op::Softmax { axis: 1 }, operands: vec![t(&[1, 7, 1, 3])], domain: (-2.0, 2.0) },
    ]
}

pub(super) fn misuses() -> Vec<(Op, Vec<TensorType>, &'static str)> {
    vec![(Op::Softmax { axis: 3 }, vec![t(&[2, 3])], "axis 3")]
}
