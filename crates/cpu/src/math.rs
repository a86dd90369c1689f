//! `exp`, `log`, `tanh`, `sigmoid` and `erf` for f32 as straight-line polynomials without branches,
//! so that a loop around them vectorises. Coefficients: interpolation at Chebyshev nodes in 50-digit
//! arithmetic of the function named beside them. The error bounds are the constants below, checked
//! by the tests against f64 on a dense sweep of each domain.

use crate::simd::mul_add;

/// Largest error of [`exp`] and [`exp_nonpositive`], in units in the last place of the result.
pub const EXP_MAX_ULP: f64 = 2.0;
/// Largest error of [`log`], in ulp.
pub const LOG_MAX_ULP: f64 = 2.0;
/// Largest error of [`tanh`], in ulp.
pub const TANH_MAX_ULP: f64 = 3.0;
/// Largest error of [`sigmoid`], in ulp of a normal result.
pub const SIGMOID_MAX_ULP: f64 = 3.0;
/// Largest error of [`erf`], in ulp.
pub const ERF_MAX_ULP: f64 = 3.0;

/// `lo <= x <= hi` by comparisons that let a NaN through (`f32::clamp` does as well, but `min` and
/// `max` do not, and a lost NaN would hide a broken run).
#[inline(always)]
fn clamp(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if x < lo { lo } else { x };
    if x > hi { hi } else { x }
}

/// 2^n for an integer n in [-126, 127].
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) << 23) as u32)
}

/// Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
const ROUND: f32 = 12_582_912.0;

/// e^x over the whole range: 0 below -104, +inf above 88.73, subnormals kept, NaN stays NaN.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    let (shifted, p) = exp_reduced::<FMA>(clamp(x, -104.0, 89.0));
    // Two factors, because 2^n itself leaves the format at both ends (n is in [-150, 128]).
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n - half)
}

/// e^x for x <= 0, as softmaxes have it, or a little above by rounding: 0 below -87, where it would soon have no exponent
/// of its own; NaN stays NaN; nothing is said of x > 88. Fewer steps than [`exp`], and no subnormal numbers, for which many
/// processors leave their fast path.
#[inline(always)]
pub fn exp_nonpositive<const FMA: bool>(x: f32) -> f32 {
    let (shifted, p) = exp_reduced::<FMA>(x);
    // What is left of the shifted number's bits is n, and n + 127 is the exponent of 2^n.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.0 { 0.0 } else { p * power }
}

/// x = n ln 2 + r with |r| <= ln(2)/2, for |x| < 2^8: n in the low bits of the first number, e^r as the second.
#[inline(always)]
fn exp_reduced<const FMA: bool>(x: f32) -> (f32, f32) {
    // ln 2 in two parts: the first has 15 significant bits, so n * LN2_HIGH is exact for |n| < 2^9.
    const LN2_HIGH: f32 = 0.693_145_75;
    const LN2_LOW: f32 = 1.428_606_8e-6;
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FMA>(n, -LN2_HIGH, x);
    let r = mul_add::<FMA>(n, -LN2_LOW, r);
    // (e^r - 1 - r) / r^2; e^r then has relative error 1.0e-8.
    let q = mul_add::<FMA>(r, 0.001_392_618_4, 0.008_363_179);
    let q = mul_add::<FMA>(r, q, 0.041_666_556);
    let q = mul_add::<FMA>(r, q, 0.166_665_77);
    let q = mul_add::<FMA>(r, q, 0.5);
    (shifted, mul_add::<FMA>(r * r, q, r) + 1.0)
}

/// ln x: -inf at 0, NaN below, +inf at +inf, subnormals included.
#[inline(always)]
pub fn log<const FMA: bool>(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_145_75;
    const LN2_LOW: f32 = 1.428_606_8e-6;
    let subnormal = x < f32::MIN_POSITIVE;
    let scaled = if subnormal { x * 8_388_608.0 } else { x };
    // Split so that the mantissa lies in [sqrt(1/2), sqrt(2)).
    let bits = scaled.to_bits().wrapping_sub(0x3f35_04f3);
    let exponent = (bits as i32) >> 23;
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(0x3f35_04f3));
    let e = exponent as f32 - if subnormal { 23.0 } else { 0.0 };
    let f = m - 1.0;
    // (ln(1+f) - f + f^2/2) / f^3; ln(1+f) then has relative error 3.2e-9.
    let q = mul_add::<FMA>(f, 0.069_716_11, -0.114_797_34);
    let q = mul_add::<FMA>(f, q, 0.116_854_2);
    let q = mul_add::<FMA>(f, q, -0.124_256_87);
    let q = mul_add::<FMA>(f, q, 0.142_490_58);
    let q = mul_add::<FMA>(f, q, -0.166_678_02);
    let q = mul_add::<FMA>(f, q, 0.200_007_16);
    let q = mul_add::<FMA>(f, q, -0.249_999_97);
    let q = mul_add::<FMA>(f, q, 0.333_333_3);
    let f2 = f * f;
    let tail = mul_add::<FMA>(f2 * f, q, e * LN2_LOW);
    let tail = mul_add::<FMA>(f2, -0.5, tail);
    let y = mul_add::<FMA>(e, LN2_HIGH, f + tail);
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x >= 0.0 { y } else { f32::NAN }
}

/// tanh x.
#[inline(always)]
pub fn tanh<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    // (tanh(x)/x - 1) / x^2 in s = x^2, |x| <= 0.625; tanh then has relative error 1.7e-8.
    let s = x * x;
    let q = mul_add::<FMA>(s, -0.006_096_714, 0.020_997_18);
    let q = mul_add::<FMA>(s, q, -0.053_850_91);
    let q = mul_add::<FMA>(s, q, 0.133_327_7);
    let q = mul_add::<FMA>(s, q, -0.333_333_3);
    let small = mul_add::<FMA>(x * s, q, x);
    let e = exp_nonpositive::<FMA>(-(a + a));
    let large = (1.0 - e) / (1.0 + e);
    let large = f32::from_bits(large.to_bits() | (x.to_bits() & 0x8000_0000));
    if a < 0.625 { small } else { large }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// x * sigmoid(x).
#[inline(always)]
pub fn silu<const FMA: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FMA>(-x))
}

/// d silu(x) / dx = s (1 + x (1 - s)) with s = sigmoid(x).
#[inline(always)]
pub fn silu_derivative<const FMA: bool>(x: f32) -> f32 {
    let s = sigmoid::<FMA>(x);
    mul_add::<FMA>(x * s, 1.0 - s, s)
}

/// The error function.
#[inline(always)]
pub fn erf<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    let s = x * x;
    // erf(x)/x - 1 in s = x^2, |x| <= 1; relative error 1.3e-9.
    let q = mul_add::<FMA>(s, 7.875_875e-5, -0.000_801_686_4);
    let q = mul_add::<FMA>(s, q, 0.005_189_087_4);
    let q = mul_add::<FMA>(s, q, -0.026_854_212);
    let q = mul_add::<FMA>(s, q, 0.112_835_95);
    let q = mul_add::<FMA>(s, q, -0.376_126_27);
    let q = mul_add::<FMA>(s, q, 0.128_379_17);
    let small = mul_add::<FMA>(x, q, x);
    // -ln(erfc(a)) on [1, 4]; beyond 4 erf is 1 in f32.
    let t = clamp(a, 1.0, 4.0);
    let p = mul_add::<FMA>(t, -1.637_151_4e-6, 4.605_804e-5);
    let p = mul_add::<FMA>(t, p, -0.000_596_805_6);
    let p = mul_add::<FMA>(t, p, 0.004_759_596);
    let p = mul_add::<FMA>(t, p, -0.026_421_136);
    let p = mul_add::<FMA>(t, p, 0.110_080_086);
    let p = mul_add::<FMA>(t, p, 0.631_826_04);
    let p = mul_add::<FMA>(t, p, 1.130_233_4);
    let p = mul_add::<FMA>(t, p, -0.000_320_138_05);
    let large = 1.0 - exp::<FMA>(-p);
    let large = f32::from_bits(large.to_bits() | (x.to_bits() & 0x8000_0000));
    if a <= 1.0 { small } else { large }
}

/// Gelu, exact form: x/2 (1 + erf(x / sqrt 2)).
#[inline(always)]
pub fn gelu_erf<const FMA: bool>(x: f32) -> f32 {
    0.5 * x * (1.0 + erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Gelu, tanh form: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
#[inline(always)]
pub fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    let inner = 0.797_884_6 * mul_add::<FMA>(0.044_715 * x, x * x, x);
    0.5 * x * (1.0 + tanh::<FMA>(inner))
}

#[cfg(test)]
mod tests {
    //! Oracle: the C library in f64, whose own error (below 1 ulp of f64) is nothing at f32's scale.
    use super::*;

    /// One ulp of f32 at the magnitude of `y`, a normal number.
    fn ulp(y: f64) -> f64 {
        2f64.powi((y.abs().max(f64::from(f32::MIN_POSITIVE))).log2().floor() as i32 - 23)
    }

    fn worst(lo: f32, hi: f32, ours: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> f64 {
        const POINTS: usize = 400_000;
        (0..=POINTS)
            .map(|i| {
                let x = lo + (hi - lo) * (i as f32 / POINTS as f32);
                let y = exact(f64::from(x));
                (f64::from(ours(x)) - y).abs() / ulp(y)
            })
            .fold(0.0, f64::max)
    }

    /// erf in f64 by its Maclaurin series, which converges for every x and is exact enough below 4.
    fn erf_series(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..120 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn errors_stay_below_the_stated_bounds() {
        // Both roundings of a * b + c are in use, on machines with and without the instruction.
        macro_rules! both {
            ($f:ident, $lo:expr, $hi:expr, $exact:expr, $bound:expr) => {
                for (name, w) in [
                    ("fused", worst($lo, $hi, $f::<true>, $exact)),
                    ("plain", worst($lo, $hi, $f::<false>, $exact)),
                ] {
                    assert!(w <= $bound, "{} {name}: {w} ulp, stated {}", stringify!($f), $bound);
                }
            };
        }
        both!(exp, -87.3, 88.7, f64::exp, EXP_MAX_ULP);
        both!(exp_nonpositive, -87.0, 0.0, f64::exp, EXP_MAX_ULP);
        both!(log, 1e-3, 4.0, f64::ln, LOG_MAX_ULP);
        both!(log, 1.0, 1e6, f64::ln, LOG_MAX_ULP);
        both!(tanh, -9.5, 9.5, f64::tanh, TANH_MAX_ULP);
        both!(tanh, -0.7, 0.7, f64::tanh, TANH_MAX_ULP);
        both!(sigmoid, -87.0, 20.0, |x: f64| 1.0 / (1.0 + (-x).exp()), SIGMOID_MAX_ULP);
        both!(erf, -3.9, 3.9, erf_series, ERF_MAX_ULP);
    }

    #[test]
    fn edges() {
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<true>(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp::<true>(0.0), 1.0);
        assert!(exp::<true>(f32::NAN).is_nan());
        assert!(exp::<true>(-100.0) > 0.0, "subnormal results are kept");
        assert_eq!(exp_nonpositive::<true>(f32::NEG_INFINITY), 0.0);
        for x in [-87.01, -88.0, -90.0, -95.0, -100.0, -1e3, -1e30] {
            assert_eq!([exp_nonpositive::<true>(x), exp_nonpositive::<false>(x)], [0.0; 2], "e^{x}");
        }
        assert_eq!(exp_nonpositive::<true>(0.0), 1.0);
        // What a softmax may see instead of 0 by rounding, and NaNs with any payload.
        assert!((exp_nonpositive::<true>(1e-5) - 1.000_01).abs() < 2e-7);
        for bits in [0x7fc0_0000, 0x7fc0_0001, 0xffff_ffff_u32] {
            assert!(exp_nonpositive::<true>(f32::from_bits(bits)).is_nan());
            assert!(exp_nonpositive::<false>(f32::from_bits(bits)).is_nan());
        }
        assert_eq!(log::<true>(0.0), f32::NEG_INFINITY);
        assert_eq!(log::<true>(f32::INFINITY), f32::INFINITY);
        assert!(log::<true>(-1.0).is_nan() && log::<true>(f32::NAN).is_nan());
        assert!(
            (f64::from(log::<true>(1e-40)) - 1e-40f32.to_string().parse::<f64>().unwrap().ln()).abs() < 2e-5
        );
        assert_eq!(tanh::<true>(50.0), 1.0);
        assert_eq!(tanh::<true>(-50.0), -1.0);
        assert!(tanh::<true>(f32::NAN).is_nan());
        assert_eq!(sigmoid::<true>(-200.0), 0.0);
        assert_eq!(erf::<true>(-6.0), -1.0);
    }
}
