//! Axes: which stretch of numbers is shown, where its ticks stand and what is written at them.

/// The numbers along one side of a plot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Axis {
    lo: f64,
    hi: f64,
    kind: Kind,
}

/// How numbers lie on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Linear,
    Log,
    /// Logarithmic, with ticks at powers of two.
    Log2,
    /// Seconds, written as times.
    Time,
}

/// A number, and what is written at it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tick {
    pub(crate) value: f64,
    pub(crate) label: String,
}

impl Axis {
    /// From 0 to at least `hi`: tokens, steps, rates.
    pub(crate) fn from_zero(hi: f64) -> Axis {
        Axis { lo: 0.0, hi: if hi > 0.0 { hi } else { 1.0 }, kind: Kind::Linear }
    }

    /// Times from 0 to at least `hi` seconds.
    pub(crate) fn time(hi: f64) -> Axis {
        Axis { kind: Kind::Time, ..Axis::from_zero(hi) }
    }

    /// From `lo` to `hi` with a little room at both ends.
    pub(crate) fn linear(lo: f64, hi: f64) -> Axis {
        let room = match hi - lo {
            0.0 if lo == 0.0 => 1.0,
            0.0 => lo.abs() * 0.1,
            range => range * 0.05,
        };
        Axis { lo: lo - room, hi: hi + room, kind: Kind::Linear }
    }

    /// Logarithmic, from `lo` to `hi`, both above 0, with a little room at both ends.
    pub(crate) fn log(lo: f64, hi: f64) -> Axis {
        let (lo, hi) = (lo.max(f64::MIN_POSITIVE), hi.max(f64::MIN_POSITIVE));
        let room = if hi / lo > 1.001 { (hi / lo).powf(0.04) } else { 1.5 };
        Axis { lo: lo / room, hi: hi * room, kind: Kind::Log }
    }

    /// As [`Axis::log`], for what is a power of two.
    pub(crate) fn log2(lo: f64, hi: f64) -> Axis {
        Axis { kind: Kind::Log2, ..Axis::log(lo, hi) }
    }

    /// Where `value` lies: 0 at the low end, 1 at the high one; values beyond are put at the ends.
    pub(crate) fn position(&self, value: f64) -> f64 {
        let share = match self.kind {
            Kind::Log | Kind::Log2 if value <= 0.0 => 0.0,
            Kind::Log | Kind::Log2 => (value / self.lo).ln() / (self.hi / self.lo).ln(),
            _ => (value - self.lo) / (self.hi - self.lo),
        };
        share.clamp(0.0, 1.0)
    }

    /// The low and the high end.
    pub(crate) fn ends(&self) -> (f64, f64) {
        (self.lo, self.hi)
    }

    /// Whether it is logarithmic.
    pub(crate) fn is_log(&self) -> bool {
        matches!(self.kind, Kind::Log | Kind::Log2)
    }

    /// About `most` ticks, and seldom more.
    pub(crate) fn ticks(&self, most: usize) -> Vec<Tick> {
        let step = match self.kind {
            Kind::Linear => round_step(self.hi - self.lo, most),
            Kind::Time => time_step(self.hi - self.lo, most),
            Kind::Log => return self.log_ticks(most),
            Kind::Log2 => return self.log2_ticks(most),
        };
        let values = multiples(self.lo, self.hi, step);
        let largest = self.lo.abs().max(self.hi.abs());
        let label = |value: f64| match self.kind {
            Kind::Time => time(value),
            _ => number(value, step, largest),
        };
        values.into_iter().map(|value| Tick { value, label: label(value) }).collect()
    }

    fn log_ticks(&self, most: usize) -> Vec<Tick> {
        let (first, last) = (self.lo.log10().floor() as i32, self.hi.log10().ceil() as i32);
        let of = |mantissas: &[f64]| -> Vec<f64> {
            let all = (first..=last).flat_map(|e| mantissas.iter().map(move |m| m * 10f64.powi(e)));
            all.filter(|value| (self.lo..=self.hi).contains(value)).collect()
        };
        let label = |value: f64| Tick { value, label: power(value) };
        let finest = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        for mantissas in [&finest[..], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]] {
            let values = of(mantissas);
            if values.len() <= most {
                if values.len() >= 3 || mantissas.len() < finest.len() {
                    return values.into_iter().map(label).collect();
                }
                // Less than a third of a decade: it is as good as linear.
                return Axis { kind: Kind::Linear, ..*self }.ticks(most);
            }
        }
        let decades = of(&[1.0]);
        let every = decades.len().div_ceil(most.max(1));
        decades.into_iter().step_by(every).map(label).collect()
    }

    fn log2_ticks(&self, most: usize) -> Vec<Tick> {
        let (first, last) = (self.lo.log2().ceil() as i32, self.hi.log2().floor() as i32);
        let every = ((last - first + 1).max(1) as usize).div_ceil(most.max(1));
        let tick = |e: i32| {
            let value = 2f64.powi(e);
            Tick { value, label: if value < 1e5 { power(value) } else { format!("2^{e}") } }
        };
        (first..=last).step_by(every).map(tick).collect()
    }
}

fn multiples(lo: f64, hi: f64, step: f64) -> Vec<f64> {
    // A hair of room, so that rounding does not lose an end.
    let (first, last) = ((lo / step - 1e-9).ceil() as i64, (hi / step + 1e-9).floor() as i64);
    (first..=last).map(|n| n as f64 * step).collect()
}

/// 1, 2 or 5 of some power of ten, such that about `most` of it make `range`.
fn round_step(range: f64, most: usize) -> f64 {
    let least = range / most.max(1) as f64;
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().find(|m| m * power >= least * (1.0 - 1e-9));
    step.unwrap_or(10.0) * power
}

/// A step that clocks know.
fn time_step(range: f64, most: usize) -> f64 {
    const STEPS: [f64; 20] = [
        1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 10_800.0,
        21_600.0, 43_200.0, 86_400.0, 172_800.0, 432_000.0,
    ];
    let least = range / most.max(1) as f64;
    if least <= 0.5 {
        return round_step(range, most);
    }
    let days = || round_step(range / 86_400.0, most) * 86_400.0;
    STEPS.into_iter().find(|step| *step >= least).unwrap_or_else(days)
}

/// A time in its two largest units, without one that is nothing: `30s`, `1m30s`, `2h`, `1d12h`.
pub(crate) fn time(seconds: f64) -> String {
    if seconds.fract() != 0.0 && seconds < 60.0 {
        return format!("{}s", trimmed(format!("{seconds:.3}")));
    }
    let s = seconds.round() as u64;
    let (large, small, of) = match s {
        0..60 => return format!("{s}s"),
        60..3600 => ((s / 60, "m"), (s % 60, "s"), 2),
        3600..86_400 => ((s / 3600, "h"), (s / 60 % 60, "m"), 2),
        _ => ((s / 86_400, "d"), (s / 3600 % 24, "h"), 2),
    };
    match small.0 {
        0 => format!("{}{}", large.0, large.1),
        n => format!("{}{}{n:0of$}{}", large.0, large.1, small.1),
    }
}

/// A tick of a linear axis with ticks every `step` up to `largest`: all of one axis in the same unit.
fn number(value: f64, step: f64, largest: f64) -> String {
    let value = if value.abs() < step * 1e-6 { 0.0 } else { value };
    if value == 0.0 {
        return "0".into();
    }
    if largest < 1e-3 {
        return power(value);
    }
    let (factor, unit) = match largest {
        l if l < 1e4 => (1.0, ""),
        l if l < 1e6 => (1e3, "k"),
        l if l < 1e9 => (1e6, "M"),
        l if l < 1e12 => (1e9, "G"),
        _ => (1e12, "T"),
    };
    let digits = (-(step / factor).log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{:.digits$}{unit}", value / factor)
}

/// A number that may be of any size: `0.02`, `1`, `300`, `2e-5`, `1.5e6`.
pub(crate) fn power(value: f64) -> String {
    if value == 0.0 || (1e-3..1e5).contains(&value.abs()) {
        let digits = (2.0 - value.abs().max(1e-9).log10().floor()).clamp(0.0, 6.0) as usize;
        return trimmed(format!("{value:.digits$}"));
    }
    let text = format!("{value:.2e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => format!("{}e{exponent}", trimmed(mantissa.to_owned())),
        None => text,
    }
}

/// A count in three digits: `950`, `12.3k`, `2.04M`.
pub(crate) fn count(n: f64) -> String {
    let (scaled, unit) = match n.abs() {
        a if a < 999.5 => return format!("{}", n.round()),
        a if a < 999.5e3 => (n / 1e3, "k"),
        a if a < 999.5e6 => (n / 1e6, "M"),
        a if a < 999.5e9 => (n / 1e9, "G"),
        _ => (n / 1e12, "T"),
    };
    let digits = (2.0 - (scaled.abs() * 1.0005).log10().floor()).clamp(0.0, 2.0) as usize;
    format!("{scaled:.digits$}{unit}")
}

/// Without zeros behind the point.
fn trimmed(text: String) -> String {
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: Axis, most: usize) -> Vec<String> {
        axis.ticks(most).into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn linear_ticks_are_round_and_share_a_unit() {
        assert_eq!(labels(Axis::from_zero(100.0), 5), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(labels(Axis::from_zero(300_032.0), 6), ["0", "100k", "200k", "300k"]);
        assert_eq!(labels(Axis::from_zero(1.2e6), 3), ["0", "0.5M", "1.0M"]);
        assert_eq!(labels(Axis::from_zero(6.1e-4), 3), ["0", "5e-4"]);
        assert_eq!(labels(Axis::from_zero(3e-3), 3), ["0", "0.001", "0.002", "0.003"]);
        assert_eq!(labels(Axis { lo: 1.13, hi: 1.52, kind: Kind::Linear }, 4), ["1.2", "1.3", "1.4", "1.5"]);
        assert_eq!(labels(Axis { lo: -0.3, hi: 0.3, kind: Kind::Linear }, 4), ["-0.2", "0", "0.2"]);
        // Nothing, one value, and a range of nothing are axes too.
        assert_eq!(labels(Axis::from_zero(0.0), 2), ["0", "0.5", "1.0"]);
        assert_eq!(labels(Axis::linear(2.0, 2.0), 4), ["1.8", "1.9", "2.0", "2.1", "2.2"]);
    }

    #[test]
    fn log_ticks_are_decades_or_their_parts() {
        assert_eq!(
            labels(Axis { lo: 0.008, hi: 1200.0, kind: Kind::Log }, 6),
            ["0.01", "0.1", "1", "10", "100", "1000"]
        );
        assert_eq!(labels(Axis { lo: 0.8, hi: 12.0, kind: Kind::Log }, 6), ["1", "2", "5", "10"]);
        assert_eq!(labels(Axis { lo: 1e-9, hi: 1e9, kind: Kind::Log }, 6).len(), 5);
        assert_eq!(labels(Axis { lo: 1.0, hi: 1.5e6, kind: Kind::Log }, 4), ["1", "100", "10000", "1e6"]);
        assert_eq!(labels(Axis { lo: 2.1, hi: 2.4, kind: Kind::Log }, 4), ["2.1", "2.2", "2.3", "2.4"]);
    }

    #[test]
    fn powers_of_two_are_written_as_such() {
        let axis = Axis { lo: 3000.0, hi: 300_000.0, kind: Kind::Log2 };
        assert_eq!(labels(axis, 7), ["4096", "8192", "16384", "32768", "65536", "2^17", "2^18"]);
        assert_eq!(labels(axis, 4), ["4096", "16384", "65536", "2^18"]);
    }

    #[test]
    fn times_are_read_as_on_a_clock() {
        assert_eq!(labels(Axis::time(100.0), 5), ["0s", "30s", "1m", "1m30s"]);
        assert_eq!(labels(Axis::time(7200.0), 4), ["0s", "30m", "1h", "1h30m", "2h"]);
        assert_eq!(labels(Axis::time(200_000.0), 4), ["0s", "1d", "2d"]);
        assert_eq!(labels(Axis::time(1.1), 3), ["0s", "0.5s", "1s"]);
    }

    #[test]
    fn places_on_an_axis() {
        let axis = Axis { lo: 10.0, hi: 30.0, kind: Kind::Linear };
        assert_eq!([10.0, 20.0, 30.0, 99.0, -5.0].map(|v| axis.position(v)), [0.0, 0.5, 1.0, 1.0, 0.0]);
        let axis = Axis { lo: 0.1, hi: 1000.0, kind: Kind::Log };
        assert!((axis.position(10.0) - 0.5).abs() < 1e-12 && axis.position(0.0) == 0.0);
    }

    #[test]
    fn numbers_of_any_size() {
        let all = [0.0, 1.0, 0.02, 300.0, 99_999.0, 1.5e6, 2e-5, 0.123_456, 3.1387, 1e5];
        let texts = ["0", "1", "0.02", "300", "99999", "1.5e6", "2e-5", "0.123", "3.14", "1e5"];
        assert_eq!(all.map(power), texts);
        let counts = [0.0, 7.4, 999.7, 1_234.0, 99_960.0, 2_040_000.0, 1.5e12];
        assert_eq!(counts.map(count), ["0", "7", "1.00k", "1.23k", "100k", "2.04M", "1.50T"]);
    }
}
