//! `rope(x, cos, sin)`: rotary position embedding of x `[1, H*D, 1, N]` by the angles whose
//! cosines and sines are `[1, 1, D/2, N]`.
//!
//! Pairs are half-split, as in the Hugging Face Llama: channel i of a head turns with channel
//! i + D/2. So slices and joins lie on an inner axis, where every chip does them right, and weight
//! files need no permutation. The angles are operands: constants of a training program, ports of
//! a decoding one.

use crate::ops::{Example, Op, t};
use crate::{Builder, Error, Result, TensorType, ValueId};

pub(super) fn infer(args: &[&TensorType]) -> Result<Vec<TensorType>> {
    let (x, cos, sin) = (args[0], args[1], args[2]);
    let fits = x.rank() == 4
        && x.shape[0] == 1
        && x.shape[2] == 1
        && x.dtype.is_float()
        && cos == sin
        && cos.dtype == x.dtype
        && cos.rank() == 4
        && cos.shape[..2] == [1, 1]
        && cos.shape[3] == x.shape[3]
        && cos.shape[2] > 0
        && x.shape[1] % (2 * cos.shape[2]) == 0;
    if !fits {
        return Err(Error::op(
            "rope",
            format!(
                "x is {x}, cos is {cos}, sin is {sin}; expected x [1, H*D, 1, N] and twice [1, 1, D/2, N]"
            ),
        ));
    }
    Ok(vec![x.clone()])
}

pub(super) fn decompose(b: &mut Builder, inverse: bool, args: &[ValueId]) -> Result<Vec<ValueId>> {
    let (x, cos, sin) = (args[0], args[1], args[2]);
    let shape = b.shape(x).to_vec();
    let (half, n) = (b.shape(cos)[2], shape[3]);
    let heads = shape[1] / (2 * half);
    let x = b.reshape(x, &[1, heads, 2 * half, n])?;
    let first = b.slice(x, &[0, 0, 0, 0], &[1, heads, half, n])?;
    let second = b.slice(x, &[0, 0, half, 0], &[1, heads, half, n])?;
    let (first_cos, second_sin) = (b.mul(first, cos)?, b.mul(second, sin)?);
    let (second_cos, first_sin) = (b.mul(second, cos)?, b.mul(first, sin)?);
    let (first, second) = if inverse {
        (b.add(first_cos, second_sin)?, b.sub(second_cos, first_sin)?)
    } else {
        (b.sub(first_cos, second_sin)?, b.add(second_cos, first_sin)?)
    };
    let turned = b.concat(&[first, second], 2)?;
    Ok(vec![b.reshape(turned, &shape)?])
}

pub(super) fn examples() -> Vec<Example> {
    [false, true]
        .map(|inverse| Example {
            op: Op::Rope { inverse },
            operands: vec![t(&[1, 12, 1, 5]), t(&[1, 1, 3, 5]), t(&[1, 1, 3, 5])],
            domain: (-1.0, 1.0),
        })
        .into()
}

pub(super) fn misuses() -> Vec<(Op, Vec<TensorType>, &'static str)> {
    let angles = t(&[1, 1, 3, 5]);
    vec![(Op::Rope { inverse: false }, vec![t(&[1, 10, 1, 5]), angles.clone(), angles], "expected x")]
}
