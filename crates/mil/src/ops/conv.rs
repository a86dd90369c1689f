//! `conv`: two-dimensional convolution of x `[B, C, H, W]` with weight `[O, C/groups, KH, KW]`.
//!
//! Training uses `matmul`, whose weights come in through ports; `conv` serves programs with baked
//! weights: other people's, and the peak benchmark.

use super::{Example, Gradient, Op, t};
use crate::attr::word_attr;
use crate::{Error, Result, TensorType};

word_attr! {
    /// How the border of a convolution is filled with zeros.
    PadType {
        /// Not at all.
        Valid = "valid",
        /// As the attribute `pad` says.
        Custom = "custom",
        /// So that the result has ceil(extent / stride) rows; the odd one goes below.
        Same = "same",
        /// As `same`; the odd one goes above.
        SameLower = "same_lower",
    }
}

pub(super) const GRADIENT: Gradient =
    Gradient::None("conv serves programs with baked weights; layers that learn use matmul");

/// Result extent and zeros before and after, along height and width.
pub fn window(op: &Op, x: &[usize], weight: &[usize]) -> Result<[(usize, usize, usize); 2]> {
    let Op::Conv { strides, pad_type, pad, dilations, .. } = op else { unreachable!("called for conv only") };
    if strides.len() != 2 || dilations.len() != 2 || pad.len() != 4 {
        return Err(Error::op(
            "conv",
            format!("strides {strides:?}, dilations {dilations:?} need 2 entries, pad {pad:?} needs 4"),
        ));
    }
    if strides.iter().chain(dilations).any(|v| *v < 1) || pad.iter().any(|v| *v < 0) {
        return Err(Error::op(
            "conv",
            format!(
                "strides {strides:?} and dilations {dilations:?} must be positive, pad {pad:?} not negative"
            ),
        ));
    }
    let mut result = [(0, 0, 0); 2];
    for i in 0..2 {
        let (extent, stride) = (x[2 + i], strides[i] as usize);
        let kernel = (weight[2 + i] - 1) * dilations[i] as usize + 1;
        let (before, after) = match pad_type {
            PadType::Valid => (0, 0),
            PadType::Custom => (pad[2 * i] as usize, pad[2 * i + 1] as usize),
            PadType::Same | PadType::SameLower => {
                let total = ((extent.div_ceil(stride) - 1) * stride + kernel).saturating_sub(extent);
                let small = total / 2;
                if *pad_type == PadType::Same { (small, total - small) } else { (total - small, small) }
            }
        };
        if extent + before + after < kernel {
            return Err(Error::op(
                "conv",
                format!("the kernel spans {kernel}, the padded input only {}", extent + before + after),
            ));
        }
        result[i] = ((extent + before + after - kernel) / stride + 1, before, after);
    }
    Ok(result)
}

pub(super) fn infer(op: &Op, args: &[&TensorType]) -> Result<Vec<TensorType>> {
    let Op::Conv { groups, .. } = op else { unreachable!("called for conv only") };
    let (x, weight) = (args[0], args[1]);
    if x.rank() != 4 || weight.rank() != 4 || x.dtype != weight.dtype || !x.dtype.is_float() {
        return Err(Error::op(
            "conv",
            format!("x is {x}, weight is {weight}; both must have four axes and one float type"),
        ));
    }
    let groups = usize::try_from(*groups).ok().filter(|groups| *groups <= x.shape[1]).unwrap_or(0);
    if groups == 0 || x.shape[1] != weight.shape[1] * groups || weight.shape[0] % groups != 0 {
        return Err(Error::op(
            "conv",
            format!(
                "x {:?} has {} channels, weight {:?} with {groups} groups takes {}",
                x.shape,
                x.shape[1],
                weight.shape,
                weight.shape[1] * groups
            ),
        ));
    }
    let [(height, ..), (width, ..)] = window(op, &x.shape, &weight.shape)?;
    Ok(vec![TensorType::new(x.dtype, &[x.shape[0], weight.shape[0], height, width])])
}

fn plain(pad_type: PadType) -> Op {
    Op::Conv { strides: vec![1, 1], pad_type, pad: vec![0; 4], dilations: vec![1, 1], groups: 1 }
}

pub(super) fn examples() -> Vec<Example> {
    let strided = Op::Conv {
        strides: vec![2, 1],
        pad_type: PadType::Custom,
        pad: vec![1, 0, 2, 1],
        dilations: vec![1, 2],
        groups: 2,
    };
    vec![
        Example {
            op: plain(PadType::Valid),
            operands: vec![t(&[1, 4, 1, 6]), t(&[3, 4, 1, 1])],
            domain: (-1.0, 1.0),
        },
        Example {
            op: plain(PadType::Same),
            operands: vec![t(&[2, 2, 5, 4]), t(&[3, 2, 3, 3])],
            domain: (-1.0, 1.0),
        },
        Example { op: strided, operands: vec![t(&[1, 4, 5, 6]), t(&[6, 2, 3, 2])], domain: (-1.0, 1.0) },
    ]
}

pub(super) fn misuses() -> Vec<(Op, Vec<TensorType>, &'static str)> {
    vec![(plain(PadType::Valid), vec![t(&[1, 4, 1, 6]), t(&[3, 5, 1, 1])], "channels")]
}
