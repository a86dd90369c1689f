//! Numbers as MIL text spells them: C's hexadecimal floats, which round-trip exactly, decimals,
//! integers, and raw half-precision words.

use half::f16;

use crate::DType;

/// `value` as a C hexadecimal float: `0x1.99ap-4`, `-0x0p+0`, `inf`.
///
/// A double holds every `f32` as a normal number, so subnormals print normalised, as C prints them.
/// Compiled Core ML models spell infinities `inf` and `-inf`; NaN has no known spelling and is
/// kept out by the writer.
pub(super) fn hex_float(value: f32) -> String {
    let sign = if value.is_sign_negative() { "-" } else { "" };
    if value.is_infinite() {
        return format!("{sign}inf");
    }
    if value == 0.0 {
        return format!("{sign}0x0p+0");
    }
    let bits = f64::from(value).to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let digits = format!("{:013x}", bits & ((1 << 52) - 1));
    let digits = digits.trim_end_matches('0');
    let point = if digits.is_empty() { "" } else { "." };
    format!("{sign}0x1{point}{digits}p{exponent:+}")
}

/// `spelling` as a float of type `dtype`, rounded to nearest even.
///
/// A hexadecimal number without an exponent is a raw half-precision word (`0x3c00` is 1).
pub(super) fn parse_float(spelling: &str, dtype: DType) -> Result<f32, String> {
    let (negative, magnitude) = split_sign(spelling);
    let half = dtype == DType::F16;
    let round = |value: f64| {
        if half { round_to_half(value) } else { value as f32 }
    };
    let value = if let Some(hex) = strip_hex(magnitude) {
        if let Some((digits, exponent)) = hex.split_once(['p', 'P']) {
            round(hex_value(digits, exponent).ok_or_else(|| malformed(spelling))?)
        } else {
            let word = u16::from_str_radix(hex, 16)
                .ok()
                .filter(|_| half)
                .ok_or_else(|| format!("`{spelling}` is neither a hexadecimal float (which has an exponent, `p`) nor a raw word of 16 bits"))?;
            let value = f16::from_bits(word).to_f32();
            return Ok(if negative { -value } else { value });
        }
    } else {
        match magnitude {
            "inf" | "infinity" => f32::INFINITY,
            "nan" => f32::NAN,
            _ if half => round(magnitude.parse::<f64>().map_err(|_| malformed(spelling))?),
            _ => magnitude.parse::<f32>().map_err(|_| malformed(spelling))?,
        }
    };
    if value.is_infinite() && !magnitude.starts_with("inf") {
        return Err(format!("`{spelling}` is too large for {}", dtype.mil_name()));
    }
    Ok(if negative { -value } else { value })
}

/// `spelling` as an integer.
pub(super) fn parse_int(spelling: &str) -> Result<i32, String> {
    let (negative, magnitude) = split_sign(spelling);
    let value = match strip_hex(magnitude) {
        Some(hex) if !hex.contains(['p', 'P']) => i64::from_str_radix(hex, 16),
        _ => magnitude.parse::<i64>(),
    };
    let value = value.map_err(|_| format!("`{spelling}` is no integer, or a very large one"))?;
    let value = if negative { -value } else { value };
    i32::try_from(value)
        .map_err(|_| format!("`{spelling}` lies outside the 32-bit integers, the only ones here"))
}

/// Whether `spelling` can only be a float.
pub(super) fn is_float_spelling(spelling: &str) -> bool {
    let (_, magnitude) = split_sign(spelling);
    match strip_hex(magnitude) {
        Some(hex) => hex.contains(['p', 'P']),
        None => magnitude.contains(['.', 'e', 'E', 'n']),
    }
}

/// `value` rounded to half precision, once. `f16::from_f64` looks at the upper half of the bits
/// only, so the way leads through a single rounded to odd, which decides no tie.
fn round_to_half(value: f64) -> f32 {
    let near = value as f32;
    let odd = if f64::from(near) == value {
        near
    } else {
        let away = f64::from(near).abs() > value.abs();
        f32::from_bits((near.to_bits() - u32::from(away)) | 1)
    };
    f16::from_f32(odd).to_f32()
}

fn malformed(spelling: &str) -> String {
    format!("`{spelling}` is no number")
}

fn split_sign(spelling: &str) -> (bool, &str) {
    match spelling.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, spelling.strip_prefix('+').unwrap_or(spelling)),
    }
}

fn strip_hex(magnitude: &str) -> Option<&str> {
    magnitude.strip_prefix("0x").or_else(|| magnitude.strip_prefix("0X"))
}

/// The value of `digits` (hexadecimal, perhaps with a point) times 2 to the power of `exponent`,
/// rounded to odd at 53 bits, so that rounding it once more to a shorter type is exact.
fn hex_value(digits: &str, exponent: &str) -> Option<f64> {
    let (mut mantissa, mut scale, mut any, mut behind_point) = (0_u64, 0_i64, false, false);
    let mut sticky = false;
    for c in digits.chars() {
        if c == '.' {
            if behind_point {
                return None;
            }
            behind_point = true;
            continue;
        }
        let digit = u64::from(c.to_digit(16)?);
        any = true;
        if mantissa >> 48 == 0 {
            mantissa = mantissa << 4 | digit;
            scale -= if behind_point { 4 } else { 0 };
        } else {
            sticky |= digit != 0;
            scale += if behind_point { 0 } else { 4 };
        }
    }
    let (negative, magnitude) = split_sign(exponent);
    if !any || magnitude.is_empty() || !magnitude.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Far outside every type the exponent no longer matters.
    let magnitude = magnitude.parse::<i64>().unwrap_or(i64::MAX).min(1 << 40);
    let exponent = (if negative { -magnitude } else { magnitude }).saturating_add(scale);
    // At most 52 bits, so that the sticky bit fits below them.
    let value = (mantissa << 1 | u64::from(sticky)) as f64;
    let exponent = exponent.saturating_sub(1).clamp(-500, 500) as i32;
    Some(value * 2_f64.powi(exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: Python's `float.hex`, with the trailing zeros of the digits left out.
    #[test]
    fn floats_are_spelled_as_in_c() {
        for (value, spelling) in [
            (1.0, "0x1p+0"),
            (-0.0, "-0x0p+0"),
            (0.125, "0x1p-3"),
            (f16::from_f32(0.1).to_f32(), "0x1.998p-4"),
            (65504.0, "0x1.ffcp+15"),
            (-3.5, "-0x1.cp+1"),
            (f32::from_bits(1), "0x1p-149"),
            (f32::MAX, "0x1.fffffep+127"),
            (f32::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(hex_float(value), spelling);
        }
    }

    /// Oracle: the bits that went in, for every half-precision number.
    #[test]
    fn every_f16_returns() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            if value.is_nan() {
                continue;
            }
            let back = parse_float(&hex_float(value.to_f32()), DType::F16).expect("it is a number");
            assert_eq!(f16::from_f32(back).to_bits(), bits);
            let raw = parse_float(&format!("{bits:#06x}"), DType::F16).expect("it is a word");
            assert_eq!(f16::from_f32(raw).to_bits(), bits);
        }
    }

    #[test]
    fn one_rounding_not_two() {
        // Halfway between 1 and the next f16, plus less than a double can tell: up, not to even.
        let above = "0x1.002000000000000000001p+0";
        assert_eq!(parse_float(above, DType::F16), Ok(1.0 + 2_f32.powi(-10)));
        assert_eq!(parse_float("0x1.002p+0", DType::F16), Ok(1.0));
        assert_eq!(parse_float("0x1.00000100000000001p+0", DType::F32), Ok(1.0 + f32::EPSILON));
    }

    #[test]
    fn spellings_of_others() {
        for (spelling, value) in [
            ("-1", -1.0),
            ("1e-5", 1e-5),
            ("+2.50", 2.5),
            (".5", 0.5),
            ("0X1P1", 2.0),
            ("0x10p-4", 1.0),
            ("0x.8p0", 0.5),
        ] {
            assert_eq!(parse_float(spelling, DType::F32), Ok(value), "{spelling}");
        }
        for spelling in ["", "-", "0x", "0xp1", "0x1.2.3p0", "0x1p", "1.2.3", "0x3c00", "1e99"] {
            assert!(parse_float(spelling, DType::F32).is_err(), "{spelling}");
        }
        assert!(parse_float("65520", DType::F16).is_err(), "it rounds to infinity");
        assert_eq!(parse_int("0x10"), Ok(16));
        assert_eq!(parse_int("-1"), Ok(-1));
        assert!(parse_int("2147483648").is_err());
        assert!(parse_int("99999999999999999999").is_err());
    }
}
