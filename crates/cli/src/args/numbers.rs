//! Numbers that the user typed. What is no number is told what is expected, in words and not in a parser's.

use std::ops::RangeInclusive;

/// A whole number that `T` can hold. What is too small for its use is said where it is used.
pub(super) fn whole<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    whole_in(0..=u64::MAX >> (64 - 8 * size_of::<T>()))(text)
}

/// One in a range.
pub(super) fn whole_in<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let found = text.parse().ok().filter(|value| range.contains(value));
        // Nobody comes near the largest ones.
        let is_open = *range.end() >= u64::from(u32::MAX);
        let to = if is_open { " on".to_owned() } else { format!(" to {}", range.end()) };
        found
            .and_then(|value| T::try_from(value).ok())
            .ok_or_else(|| format!("expected a whole number from {}{to}", range.start()))
    }
}

/// A learning rate. Which are allowed, the configuration says.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "expected a number, for example 0.02 or 3e-4".to_owned())
}

pub(super) fn temperature(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err("expected a number from 0 to 100".to_owned()),
    }
}

pub(super) fn gigabytes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=1e6).contains(&value) => Ok(value),
        _ => Err("expected a number of GB, for example 16".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_read_or_refused_in_words() {
        assert_eq!(whole("65535"), Ok(65535u16));
        assert_eq!(whole::<u16>("65536"), Err("expected a whole number from 0 to 65535".into()));
        assert_eq!(whole("18446744073709551615"), Ok(u64::MAX));
        for text in ["-1", "1.5", "1e3", "many", ""] {
            assert_eq!(whole::<u64>(text), Err("expected a whole number from 0 on".into()), "{text}");
        }
        assert_eq!(whole_in(1..=512)("512"), Ok(512u32));
        for text in ["0", "513", "x"] {
            assert_eq!(whole_in::<u32>(1..=512)(text), Err("expected a whole number from 1 to 512".into()));
        }
        assert_eq!(rate("3e-4"), Ok(3e-4));
        assert!(rate("fast").unwrap_err().starts_with("expected a number"));
    }
}
