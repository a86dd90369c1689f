//! `quantize` and `dequantize`: floats as int8 times a scale, and back.
//!
//! The scale is one number; MIL also has one for each channel, and a zero point, which nothing here needs.

use super::{Example, Gradient, Op, t};
use crate::{DType, Error, Result, TensorType};

/// Rounding has no slope, and whole numbers no neighbours.
pub(super) const GRADIENT: Gradient = Gradient::None("an int8 does not vary smoothly");

pub(super) fn infer(op: &Op, args: &[&TensorType]) -> Result<Vec<TensorType>> {
    let (input, scale) = (args[0], args[1]);
    let refuse = |problem: String| Err(Error::op(op.name(), problem));
    if scale.rank() > 0 || !scale.dtype.is_float() {
        return refuse(format!("scale is {scale}, expected one float without axes"));
    }
    let dtype = match op {
        Op::Quantize { output_dtype } => {
            if *output_dtype != DType::I8 {
                return refuse(format!("output_dtype is {}, expected int8", output_dtype.mil_name()));
            }
            if input.dtype != scale.dtype {
                return refuse(format!("input is {input}, scale is {scale}; expected one float type"));
            }
            DType::I8
        }
        _ => {
            if input.dtype != DType::I8 {
                return refuse(format!("input is {input}, expected int8"));
            }
            scale.dtype
        }
    };
    Ok(vec![TensorType::new(dtype, &input.shape)])
}

pub(super) fn examples() -> Vec<Example> {
    let int8 = TensorType::new(DType::I8, &[2, 3, 5]);
    vec![
        Example {
            op: Op::Quantize { output_dtype: DType::I8 },
            operands: vec![t(&[2, 3, 5]), t(&[])],
            domain: (0.25, 2.0),
        },
        Example { op: Op::Dequantize, operands: vec![int8, t(&[])], domain: (0.25, 2.0) },
    ]
}

pub(super) fn misuses() -> Vec<(Op, Vec<TensorType>, &'static str)> {
    let int8 = TensorType::new(DType::I8, &[4]);
    vec![
        (Op::Quantize { output_dtype: DType::I32 }, vec![t(&[4]), t(&[])], "expected int8"),
        (Op::Quantize { output_dtype: DType::I8 }, vec![t(&[4]), t(&[4])], "expected one float"),
        // coremltools: a scale has rank 0 for a tensor, rank 1 for channels.
        (Op::Quantize { output_dtype: DType::I8 }, vec![t(&[4]), t(&[1])], "without axes"),
        (Op::Split { num_splits: 2, axis: 0 }, vec![int8.clone()], "int8"),
        (Op::Quantize { output_dtype: DType::I8 }, vec![int8.clone(), t(&[])], "expected one float type"),
        (Op::Add, vec![int8.clone(), int8.clone()], "only dequantize computes with int8"),
        (Op::Dequantize, vec![t(&[4]), t(&[])], "expected int8"),
        (Op::Dequantize, vec![int8, t(&[2])], "expected one float"),
    ]
}
