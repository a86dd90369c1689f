//! Numbers as people read them.

use std::time::Duration;

/// A count with a unit of a thousand, a million, …: `950`, `12.3k`, `2.04M`.
pub(crate) fn count(n: f64) -> String {
    let (scaled, unit) = match n.abs() {
        a if a < 999.5 => return format!("{}", n.round()),
        a if a < 999.5e3 => (n / 1e3, "k"),
        a if a < 999.5e6 => (n / 1e6, "M"),
        a if a < 999.5e9 => (n / 1e9, "G"),
        _ => (n / 1e12, "T"),
    };
    format!("{}{unit}", three_digits(scaled))
}

/// A number of things: `1 document`, `2 documents`.
pub(crate) fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Bytes in decimal units, as disks are sold: `12.3 MB`.
pub(crate) fn bytes(n: u64) -> String {
    let text = count(n as f64);
    match text.strip_suffix(['k', 'M', 'G', 'T']) {
        Some(number) => format!("{number} {}B", &text[number.len()..]),
        None => format!("{text} bytes"),
    }
}

/// A figure with its standard error, where one is known: `0.8123 ± 0.0042`.
pub(crate) fn with_error(value: f64, error: Option<f64>) -> String {
    match error {
        Some(error) => format!("{value:.4} ± {error:.4}"),
        None => format!("{value:.4}"),
    }
}

/// Time in its two largest units: `8s`, `1m03s`, `2h05m`.
pub(crate) fn time(time: Duration) -> String {
    let s = (time.as_secs_f64().round()) as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

/// `1.23`, `12.3`, `123`.
fn three_digits(x: f64) -> String {
    match x.abs() {
        a if a < 9.995 => format!("{x:.2}"),
        a if a < 99.95 => format!("{x:.1}"),
        _ => format!("{x:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_change_where_they_should() {
        let counts = [0.0, 7.4, 999.0, 999.7, 1_234.0, 99_960.0, 2_040_000.0, 1.5e12];
        assert_eq!(counts.map(count), ["0", "7", "999", "1.00k", "1.23k", "100k", "2.04M", "1.50T"]);
        assert_eq!([0, 999, 12_345_678].map(bytes), ["0 bytes", "999 bytes", "12.3 MB"]);
        let times = [0.4, 59.4, 59.6, 63.0, 7_530.0, 90_000.0].map(Duration::from_secs_f64);
        assert_eq!(times.map(time), ["0s", "59s", "1m00s", "1m03s", "2h05m", "1d01h"]);
    }
}
