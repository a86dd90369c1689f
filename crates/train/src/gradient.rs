//! What a step must know of its gradients before it uses them: their norm and largest magnitude.
//!
//! Both are found in one pass. Sums are f64 over chunks of a fixed size, added in a fixed order, so
//! that the result has the same bits with any number of threads.

use rayon::prelude::*;

/// Elements that one task sums. Large enough to hide a task's cost, small enough to share.
const CHUNK: usize = 1 << 14;
/// Independent sums in the inner loop, so that it vectorises without reassociation.
const LANES: usize = 8;

/// A largest magnitude, in which NaN counts as the largest of all.
///
/// ```
/// use train::Peak;
/// assert_eq!(Peak::of(&[1.0, -3.0]).value(), 3.0);
/// assert!(Peak::of(&[1.0, f32::NAN, f32::INFINITY]).value().is_nan());
/// ```
// The bits of non-negative floats are ordered as the floats are, infinity comes after all numbers
// and NaN after infinity: so the largest of the bits is a maximum that no NaN can hide from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Peak(u32);

impl Peak {
    /// Of all of `values`.
    pub fn of(values: &[f32]) -> Peak {
        Peak(values.iter().fold(0, |peak, value| peak.max(value.abs().to_bits())))
    }

    /// The magnitude: 0 of nothing, NaN when there was one.
    pub fn value(self) -> f32 {
        f32::from_bits(self.0)
    }
}

/// The sum of squares and the peak of some gradients.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measure {
    /// Sum of squares.
    pub sum_of_squares: f64,
    /// Largest magnitude.
    pub peak: Peak,
}

impl Measure {
    /// Measures `values`, on all cores.
    pub fn of(values: &[f32]) -> Measure {
        let parts: Vec<Measure> = values.par_chunks(CHUNK).map(Measure::of_chunk).collect();
        parts.into_iter().fold(Measure::default(), Measure::and)
    }

    /// Of both together.
    pub fn and(self, other: Measure) -> Measure {
        Measure {
            sum_of_squares: self.sum_of_squares + other.sum_of_squares,
            peak: self.peak.max(other.peak),
        }
    }

    fn of_chunk(values: &[f32]) -> Measure {
        let (mut sums, mut peaks) = ([0.0_f64; LANES], [0_u32; LANES]);
        let (blocks, rest) = values.as_chunks::<LANES>();
        for block in blocks {
            for lane in 0..LANES {
                let value = f64::from(block[lane]);
                sums[lane] += value * value;
                peaks[lane] = peaks[lane].max(block[lane].abs().to_bits());
            }
        }
        let whole =
            Measure { sum_of_squares: sums.iter().sum(), peak: Peak(peaks.into_iter().fold(0, u32::max)) };
        let rest_of_sum = rest.iter().map(|v| f64::from(*v).powi(2)).sum();
        whole.and(Measure { sum_of_squares: rest_of_sum, peak: Peak::of(rest) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919) % 1009) as f32 / 50.0 - 10.0).collect()
    }

    /// Oracle: a plain sum; f64 sums of 1e5 terms agree to about 1e5 * 1e-16, a thousand times less
    /// than the tolerance, and one lost chunk is a sixth of the sum.
    #[test]
    fn a_measure_is_the_plain_sum_and_maximum() {
        let mut values = values(6 * CHUNK + 5);
        values[CHUNK + 3] = -77.0;
        let plain: f64 = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        let measure = Measure::of(&values);
        assert!((measure.sum_of_squares / plain - 1.0).abs() < 1e-9);
        assert_eq!(measure.peak.value(), 77.0);
        assert_eq!(Measure::of(&[]), Measure::default());
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let values = values(9 * CHUNK + 1);
        let with = |threads| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap()
                .install(|| Measure::of(&values))
        };
        assert_eq!(with(1), with(2));
        assert_eq!(with(1), with(8));
    }

    #[test]
    fn no_nan_hides() {
        let mut values = values(100);
        values[57] = f32::NAN;
        values[58] = f32::INFINITY;
        assert!(Measure::of(&values).peak.value().is_nan());
        values[57] = 0.0;
        assert_eq!(Measure::of(&values).peak.value(), f32::INFINITY);
    }
}
