//! `rms_norm(x, w)`: y = x / sqrt(mean(x²) + eps) * w, the mean along one axis.
//!
//! The residual stream is normalised along its channels (x `[1, C, 1, N]`, w `[1, C, 1, 1]`,
//! axis 1); queries and keys along each head (x `[1, H, D, N]`, w `[1, 1, D, 1]`, axis 2). A norm
//! without gains has a constant of ones for w, which no device is asked to multiply by.
//!
//! In f16 the mean of squares is the delicate part: a fixed scale before squaring either lets an
//! outlier overflow (and rsqrt(inf) = 0 then silences the whole column) or lets small activations
//! fall below f16. So each column is first divided by its largest magnitude, which is exact to find;
//! squares then lie in [0, 1], what underflows is too small to count, and the sum, a product with
//! ones that accumulates wide, stays far below the cliff of matrix products (rule ANE-057).

use crate::ops::{Example, Op, t};
use crate::{Builder, Error, Result, TensorType, ValueId};

/// Columns whose largest magnitude is below this are divided by it instead, which keeps eps / max² in
/// f16's range; their mean of squares is at most 2^-20, and squares that underflow are far less than an
/// eps of 1e-7 or more.
const SMALLEST_MAX: f32 = 1.0 / 1024.0;

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

/// x / sqrt(mean(x²) + eps) and 1 / sqrt(mean(x²) + eps) along `axis`, which has extent 1 in the
/// second.
fn normalized(b: &mut Builder, x: ValueId, axis: usize, eps: f32) -> Result<(ValueId, ValueId)> {
    let extent = b.shape(x)[axis];
    let magnitude = b.push1(Op::Abs, &[x])?;
    let max = b.push1(Op::ReduceMax { axes: vec![axis as i32], keep_dims: true }, &[magnitude])?;
    let floor = b.scalar(SMALLEST_MAX);
    let max = b.push1(Op::Maximum, &[max, floor])?;
    let u = b.real_div(x, max)?;
    let squares = b.mul(u, u)?;
    // Σ u² / 2^k with 2^k >= extent is exact to scale; the rest of the mean's factor comes after.
    let share = 1.0 / extent.next_power_of_two() as f32;
    let factor = extent as f32 * share;
    let mean = b.weighted_sum(squares, axis, share)?;
    // eps / max² as a square, so that it does not fall below f16 before it is due.
    let root_eps = b.scalar((eps * factor).sqrt());
    let e = b.real_div(root_eps, max)?;
    let e2 = b.mul(e, e)?;
    let total = b.add(mean, e2)?;
    let root = b.push1(Op::Rsqrt { epsilon: 0.0 }, &[total])?;
    let root = b.scale(root, factor.sqrt())?;
    Ok((b.mul(u, root)?, b.real_div(root, max)?))
}

pub(super) fn decompose(b: &mut Builder, op: &Op, args: &[ValueId]) -> Result<Vec<ValueId>> {
    let (axis, eps) = parts(op);
    let (x, w) = (args[0], args[1]);
    let (unit, r) = normalized(b, x, axis, eps)?;
    let has_gain = !b.is_ones(w);
    let gained = |b: &mut Builder, x| if has_gain { b.mul(x, w) } else { Ok(x) };
    if matches!(op, Op::RmsNorm { .. }) {
        return Ok(vec![gained(b, unit)?]);
    }
    // With u = x r and g = w dy: dx = r (g - u mean(g u)), dw = Σ dy u over all other axes.
    let dy = args[2];
    let g = gained(b, dy)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Element;

    /// The products that a norm with these gains and its gradient expand to.
    fn products(gains: Option<f32>) -> usize {
        let mut b = Builder::new(Element::F16);
        let x = b.input("x", &[1, 6, 1, 5]).unwrap();
        let w = match gains {
            Some(gain) => b.full(&[1, 6, 1, 1], gain),
            None => b.input("w", &[1, 6, 1, 1]).unwrap(),
        };
        let y = b.push1(Op::RmsNorm { axis: 1, eps: 1e-5 }, &[x, w]).unwrap();
        let d_x = b.push1(Op::RmsNormGrad { axis: 1, eps: 1e-5 }, &[x, w, y]).unwrap();
        b.output("y", y).unwrap();
        b.output("d_x", d_x).unwrap();
        let program = b.finish().unwrap().expand_all().unwrap();
        program.stmts().iter().filter(|stmt| matches!(stmt.op, Op::Mul)).count()
    }

    #[test]
    fn a_norm_without_gains_multiplies_by_none() {
        assert_eq!(products(Some(1.0)) + 2, products(None));
        assert_eq!(products(Some(2.0)), products(None));
    }
}
