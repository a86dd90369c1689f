//! Chip profiles: the engine's arithmetic as a handful of switches.

use mil::{DType, Element};

/// Results of matrix products beyond this become infinite: half of f16's largest value, rule
/// ANE-057. The published probe found integers up to 32,759 finite, which is what rounds to 32,752
/// in f16 (the next step up is 32,768): so the rounded result is compared, not the wide sum.
pub const PRODUCT_LIMIT: f32 = 32_752.0;

/// On M1 and M2 a slice that begins inside the last axis turns larger magnitudes into infinity:
/// 65,504 / 16, rule ANE-054. The published flip lies between the neighbours 4,094 and 4,096.
pub const WIDTH_OFFSET_LIMIT: f32 = 4_094.0;

/// The smallest normal f16; what lies below in magnitude is subnormal.
pub const SMALLEST_NORMAL: f32 = 1.0 / 16_384.0;

/// The arithmetic of one chip. The fields may be changed at will, to see what a quirk does.
///
/// All of it concerns `fp16` values only; `fp32` values are never rounded or bent.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// As the command line calls it.
    pub name: &'static str,
    /// Whether each product of a matrix product or convolution is rounded to f16 before it is
    /// added up. The published facts say "operands and products are rounded"; no experiment shows
    /// it, and it costs much time here, so no profile has it.
    pub round_products: bool,
    /// Whether a subnormal result becomes 0. No source reports it, so no profile has it.
    pub flush_subnormals: bool,
    /// Results of matrix products and convolutions beyond this magnitude become infinite.
    pub product_limit: Option<f32>,
    /// Whether `reduce_sum` and `reduce_mean` round every partial sum to f16 (rule ANE-058).
    pub narrow_reduce: bool,
    /// A `slice_by_size` with an offset on the last axis turns larger magnitudes into infinity.
    pub width_offset_limit: Option<f32>,
    /// Whether NaN stays NaN. The engine may turn it into something finite (rule ANE-060), of
    /// which no value is published; without propagation it becomes 0 here.
    pub propagate_nan: bool,
    /// The longest axis of a tensor.
    pub max_axis: usize,
    /// The longest channel axis, which is axis 1 of four.
    pub max_channels: usize,
}

impl Profile {
    /// Names that [`Profile::by_name`] knows.
    pub const NAMES: [&'static str; 6] = ["m1", "m2", "m3", "m4", "m5", "exact"];

    /// Apple M1: A13 generation.
    pub fn m1() -> Self {
        Profile { width_offset_limit: Some(WIDTH_OFFSET_LIMIT), ..Profile::m3() }.called("m1")
    }

    /// Apple M2: A14 generation, for all that is known the same arithmetic as M1.
    pub fn m2() -> Self {
        Profile::m1().called("m2")
    }

    /// Apple M3: A15 generation. Nobody has measured the slice quirk on it.
    pub fn m3() -> Self {
        Profile { max_axis: 16_384, ..Profile::m4() }.called("m3")
    }

    /// Apple M4: A16 generation.
    pub fn m4() -> Self {
        Profile {
            product_limit: Some(PRODUCT_LIMIT),
            narrow_reduce: true,
            max_axis: 65_536,
            max_channels: 65_536,
            ..Profile::exact()
        }
        .called("m4")
    }

    /// Apple M5: the same tier as M4.
    pub fn m5() -> Self {
        Profile::m4().called("m5")
    }

    /// No chip: every f16 result is the wide one rounded once, and axes have no limit.
    pub fn exact() -> Self {
        Profile {
            name: "exact",
            round_products: false,
            flush_subnormals: false,
            product_limit: None,
            narrow_reduce: false,
            width_offset_limit: None,
            propagate_nan: true,
            max_axis: usize::MAX,
            max_channels: usize::MAX,
        }
    }

    /// The profile called `name`, in lower case.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "m1" => Some(Profile::m1()),
            "m2" => Some(Profile::m2()),
            "m3" => Some(Profile::m3()),
            "m4" => Some(Profile::m4()),
            "m5" => Some(Profile::m5()),
            "exact" => Some(Profile::exact()),
            _ => None,
        }
    }

    fn called(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// The longest that axis `axis` of `rank` may be.
    pub fn axis_limit(&self, rank: usize, axis: usize) -> usize {
        if (rank, axis) == (4, 1) { self.max_channels } else { self.max_axis }
    }

    /// Makes wide results into values of `dtype`.
    pub(crate) fn finish(&self, dtype: DType, values: &mut [f32]) {
        if dtype != DType::F16 {
            return;
        }
        Element::F16.round_all(values);
        if self.flush_subnormals {
            for value in values.iter_mut().filter(|v| v.abs() < SMALLEST_NORMAL) {
                *value = 0.0_f32.copysign(*value);
            }
        }
        if !self.propagate_nan {
            for value in values.iter_mut().filter(|v| v.is_nan()) {
                *value = 0.0;
            }
        }
    }

    /// As [`Profile::finish`], for what a matrix product or convolution has added up.
    pub(crate) fn finish_product(&self, dtype: DType, values: &mut [f32]) {
        self.finish(dtype, values);
        if let (DType::F16, Some(limit)) = (dtype, self.product_limit) {
            limit_magnitude(values, limit);
        }
    }
}

/// Turns magnitudes beyond `limit` into infinity.
pub(crate) fn limit_magnitude(values: &mut [f32], limit: f32) {
    for value in values {
        let infinite = f32::INFINITY.copysign(*value);
        *value = if value.abs() > limit { infinite } else { *value };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_profile_of_that_name() {
        for name in Profile::NAMES {
            assert_eq!(Profile::by_name(name).map(|p| p.name), Some(name));
        }
        assert_eq!(Profile::by_name("m0"), None);
    }

    /// Oracle: the definition of f16. Steps are 2^-10 from 1, 32 from 32,768, 2^-24 below 2^-14.
    #[test]
    fn rounding_is_to_nearest_and_ties_go_to_even() {
        let step = 2.0_f32.powi(-10);
        let tiny = 2.0_f32.powi(-24);
        for (value, expected) in [
            (1.0 + 0.5 * step, 1.0),
            (1.0 + 1.5 * step, 1.0 + 2.0 * step),
            (1.0 + 0.501 * step, 1.0 + step),
            (2_049.0, 2_048.0),
            (2_051.0, 2_052.0),
            (65_519.0, 65_504.0),
            (65_520.0, f32::INFINITY),
            (-1.5 * tiny, -2.0 * tiny),
            (0.5 * tiny, 0.0),
            (-f32::INFINITY, -f32::INFINITY),
        ] {
            let mut values = [value; 19];
            Element::F16.round_all(&mut values);
            assert_eq!(values, [expected; 19], "{value}");
        }
    }
}
