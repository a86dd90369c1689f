//! Element types, tensor types and constants.

use std::fmt;
use std::sync::Arc;

/// What a tensor holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 half precision, MIL `fp16`.
    F16,
    /// IEEE 754 single precision, MIL `fp32`.
    F32,
    /// Signed 32-bit integer, MIL `int32`.
    I32,
    /// Signed 8-bit integer, MIL `int8`; between `quantize` and `dequantize` only.
    I8,
    /// Truth value, MIL `bool`.
    Bool,
    /// Text, MIL `string`; only constants hold it.
    Str,
}

impl DType {
    /// All of them, for tests that walk the list.
    pub const ALL: [DType; 6] = [DType::F16, DType::F32, DType::I32, DType::I8, DType::Bool, DType::Str];

    /// MIL's spelling.
    pub fn mil_name(self) -> &'static str {
        match self {
            DType::F16 => "fp16",
            DType::F32 => "fp32",
            DType::I32 => "int32",
            DType::I8 => "int8",
            DType::Bool => "bool",
            DType::Str => "string",
        }
    }

    /// The type that MIL spells so.
    pub fn from_mil_name(name: &str) -> Option<Self> {
        DType::ALL.into_iter().find(|dtype| dtype.mil_name() == name)
    }

    /// Whether arithmetic and differentiation are defined on it.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::F32)
    }
}

/// The float type that a program is built for: the same builder code serves both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// Apple routes and `sim`.
    F16,
    /// `cpu`.
    F32,
}

impl Element {
    /// The tensor element type of this program's floats.
    pub fn dtype(self) -> DType {
        match self {
            Element::F16 => DType::F16,
            Element::F32 => DType::F32,
        }
    }

    /// Bytes of one element in device memory.
    pub fn bytes(self) -> usize {
        match self {
            Element::F16 => 2,
            Element::F32 => 4,
        }
    }

    /// Rounds every value in place to what this type holds (to nearest, ties to even).
    pub fn round_all(self, values: &mut [f32]) {
        if self == Element::F32 {
            return;
        }
        for value in values {
            *value = round_to_f16(*value);
        }
    }

    /// `value` as this type holds it (round to nearest even).
    pub fn round(self, value: f32) -> f32 {
        match self {
            Element::F16 => round_to_f16(value),
            Element::F32 => value,
        }
    }
}

/// `value` rounded to the nearest f16, ties to even; beyond the largest it becomes infinite.
///
/// A number 2^13 times as large as the power of two below `value` is added and taken away again: the
/// sum has as many bits behind `value`'s leading one as f16 has, and the addition rounds as f16 does.
/// Nothing branches, so a loop over this runs in vectors on every machine; `half` converts eight
/// values a call, which took a seventh of the time of a simulated training step.
#[inline]
fn round_to_f16(value: f32) -> f32 {
    /// The exponent field of 2^`power`.
    const fn exponent(power: i32) -> i32 {
        (127 + power) << 23
    }
    let power = (value.to_bits() & 0x7f80_0000) as i32;
    // Below 2^-14 f16 is evenly spaced, and beyond 2^16 all is infinite.
    let power = power.max(exponent(-14)).min(exponent(16));
    let shift = f32::from_bits((power + (13 << 23)) as u32).copysign(value);
    let rounded = (value + shift) - shift;
    let rounded = if rounded.abs() >= 65_536.0 { f32::INFINITY } else { rounded };
    // What is rounded to 0 keeps its sign.
    rounded.copysign(value)
}

/// Element type and static shape. An empty shape is a scalar.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// What each element is.
    pub dtype: DType,
    /// The extent of each axis, outermost first.
    pub shape: Vec<usize>,
}

impl TensorType {
    /// A tensor of `shape`.
    pub fn new(dtype: DType, shape: &[usize]) -> Self {
        TensorType { dtype, shape: shape.to_vec() }
    }

    /// A scalar.
    pub fn scalar(dtype: DType) -> Self {
        TensorType { dtype, shape: Vec::new() }
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The number of elements: 1 for a scalar.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shape.is_empty() {
            return f.write_str(self.dtype.mil_name());
        }
        write!(f, "tensor<{}, {:?}>", self.dtype.mil_name(), self.shape)
    }
}

/// The elements of a constant, row-major. Floats are held as `f32` whatever their type; a
/// [`Constant`] of type `fp16` holds values that `fp16` represents exactly.
#[derive(Debug, Clone, PartialEq)]
pub enum ConstData {
    /// `fp16` or `fp32`.
    Float(Arc<[f32]>),
    /// `fp16` or `fp32`, kept as int8 (MIL `constexpr_affine_dequantize`).
    Affine(Arc<Affine>),
    /// `int32` or `int8`.
    Int(Arc<[i32]>),
    /// `bool`.
    Bool(Arc<[bool]>),
    /// `string`, always one.
    Str(Arc<str>),
}

/// Floats that are whole numbers times a scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    /// The floats: `(quantized - zero_points) * scales`, rounded to their type.
    pub values: Arc<[f32]>,
    /// The whole numbers. Unsigned ones are kept 128 lower, and so are their zero points.
    pub quantized: Arc<[i8]>,
    /// One for all, or one for each index of `axis`; finite, of the floats' type.
    pub scales: Arc<[f32]>,
    /// One for all, or one for each index of `axis`.
    pub zero_points: Arc<[i8]>,
    /// The axis along which scales and zero points differ.
    pub axis: usize,
}

impl ConstData {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            ConstData::Float(values) => values.len(),
            ConstData::Affine(affine) => affine.values.len(),
            ConstData::Int(values) => values.len(),
            ConstData::Bool(values) => values.len(),
            ConstData::Str(_) => 1,
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A tensor known when the program is built.
#[derive(Debug, Clone, PartialEq)]
pub struct Constant {
    /// Its type; `ty.numel()` equals `data.len()`.
    pub ty: TensorType,
    /// Its elements.
    pub data: ConstData,
}

impl Constant {
    /// A float tensor of `element`'s type; each value is rounded to it.
    pub fn float(element: Element, shape: &[usize], values: impl IntoIterator<Item = f32>) -> Self {
        let data: Arc<[f32]> = values.into_iter().map(|v| element.round(v)).collect();
        let ty = TensorType::new(element.dtype(), shape);
        assert_eq!(ty.numel(), data.len(), "a constant has as many values as its shape says");
        Constant { ty, data: ConstData::Float(data) }
    }

    /// `quantized * scale` as floats of `element`'s type, kept as int8; the scale is rounded to that type.
    ///
    /// # Panics
    /// As [`Constant::affine`].
    pub fn quantized(element: Element, shape: &[usize], quantized: &[i8], scale: f32) -> Self {
        Constant::affine(element, shape, quantized, 0, &[scale], &[0])
    }

    /// `(quantized - zero_points) * scales` along `axis` as floats of `element`'s type, kept as int8; the scales are
    /// rounded to that type. Of scales and of zero points there is one, or one for each index of `axis`.
    ///
    /// # Panics
    /// When the shape has no such axis (MIL keeps no single number as int8), a count is another, or a scale is not
    /// finite in `element`'s type.
    pub fn affine(
        element: Element,
        shape: &[usize],
        quantized: &[i8],
        axis: usize,
        scales: &[f32],
        zero_points: &[i8],
    ) -> Self {
        assert!(axis < shape.len(), "axis {axis} is none of {shape:?}");
        let channels = shape[axis];
        let fits = |count: usize| count == 1 || count == channels;
        assert!(fits(scales.len()) && fits(zero_points.len()), "one entry, or one for each of {channels}");
        let scales: Arc<[f32]> = scales.iter().map(|scale| element.round(*scale)).collect();
        assert!(scales.iter().all(|scale| scale.is_finite()), "scales are finite");
        let inner: usize = shape[axis + 1..].iter().product();
        let values = quantized.iter().enumerate().map(|(at, q)| {
            let channel = at / inner % channels;
            let zero = zero_points[channel % zero_points.len()];
            (i16::from(*q) - i16::from(zero)) as f32 * scales[channel % scales.len()]
        });
        let plain = Constant::float(element, shape, values);
        let values = plain.as_floats().unwrap_or_default().into();
        let zero_points = zero_points.into();
        let affine =
            Affine { values, quantized: quantized.into(), scales: scales.clone(), zero_points, axis };
        Constant { ty: plain.ty, data: ConstData::Affine(Arc::new(affine)) }
    }

    /// The same constant for another float type; what is not a float stays.
    pub fn with_element(&self, element: Element) -> Self {
        match &self.data {
            // A scale that the other type cannot hold ends the form, not the program.
            ConstData::Affine(a) if a.scales.iter().all(|scale| element.round(*scale).is_finite()) => {
                Constant::affine(element, &self.ty.shape, &a.quantized, a.axis, &a.scales, &a.zero_points)
            }
            ConstData::Affine(affine) => {
                Constant::float(element, &self.ty.shape, affine.values.iter().copied())
            }
            ConstData::Float(values) => Constant::float(element, &self.ty.shape, values.iter().copied()),
            _ => self.clone(),
        }
    }

    /// The elements of a float constant.
    pub fn as_floats(&self) -> Option<&[f32]> {
        match &self.data {
            ConstData::Float(values) => Some(values),
            ConstData::Affine(affine) => Some(&affine.values),
            _ => None,
        }
    }

    /// Whether every element has the same value (what a fill can replace).
    pub fn splat(&self) -> Option<f32> {
        let values = self.as_floats()?;
        let first = *values.first()?;
        values.iter().all(|v| v.to_bits() == first.to_bits()).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the conversions of `half`, at every f16, at the points half-way to its neighbour and next to
    /// those, and at bit patterns spread over all of f32.
    #[test]
    fn rounding_to_f16_is_that_of_a_conversion() {
        let same = |bits: u32| {
            let value = f32::from_bits(bits);
            let (ours, expected) = (Element::F16.round(value), half::f16::from_f32(value).to_f32());
            assert!(
                ours.to_bits() == expected.to_bits() || (ours.is_nan() && expected.is_nan()),
                "{value:e} ({bits:#x}) becomes {ours:e}, not {expected:e}"
            );
        };
        for bits in 0..=u16::MAX {
            let value = half::f16::from_bits(bits).to_f32();
            let next = half::f16::from_bits(bits.wrapping_add(1)).to_f32();
            for near in [value, 0.5 * (value + next)] {
                for bits in near.to_bits().saturating_sub(1)..=near.to_bits().saturating_add(1) {
                    same(bits);
                }
            }
        }
        (0..=u32::MAX).step_by(4_099).for_each(same);
    }
}
