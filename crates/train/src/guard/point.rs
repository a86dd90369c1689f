//! What was measured at one place of a run: of a step, or of a stretch of steps summed up in the same form.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// The least that a logarithm is taken of: a layer of zeros has one, too.
const LEAST: f64 = 1e-30;

/// The signals of a step, or of many. Written as one string of numbers, so that a history is a line for each.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Point {
    /// The last step that it stands for.
    pub(super) step: u64,
    /// Loss in nats.
    pub(super) loss: f64,
    /// Deviation of single steps' losses from it, in nats.
    pub(super) spread: f64,
    /// Logarithm to base 2 of the gradient's norm.
    pub(super) grad: f64,
    /// Likewise of the largest activation of each layer, `[L]`.
    pub(super) acts: Vec<f64>,
}

impl Point {
    /// Of a single step; `None` when a value is not finite.
    pub(super) fn of_step(step: u64, loss: f64, grad_norm: f64, act_max: &[f32]) -> Option<Point> {
        let log = |value: f64| value.abs().max(LEAST).log2();
        let acts = act_max.iter().map(|value| log(f64::from(*value))).collect();
        let point = Point { step, loss, spread: 0.0, grad: log(grad_norm), acts };
        let finite = point.values().all(f64::is_finite);
        finite.then_some(point)
    }

    fn values(&self) -> impl Iterator<Item = f64> + '_ {
        [self.loss, self.spread, self.grad].into_iter().chain(self.acts.iter().copied())
    }

    /// Each value put together from those of `points`, of which there is at least one.
    fn join(points: &[Point], of: impl Fn(&mut [f64]) -> f64) -> Point {
        let join = |value: &dyn Fn(&Point) -> f64| of(&mut points.iter().map(value).collect::<Vec<f64>>());
        let layers = points.iter().map(|point| point.acts.len()).min().unwrap_or(0);
        Point {
            step: points[points.len() - 1].step,
            loss: join(&|point| point.loss),
            spread: join(&|point| point.spread),
            grad: join(&|point| point.grad),
            acts: (0..layers).map(|layer| join(&|point| point.acts[layer])).collect(),
        }
    }

    /// The median of stretches of `steps` steps each, with the deviation of single steps' losses, as far as they
    /// are independent.
    pub(super) fn median_of(stretches: &[Point], steps: usize) -> Point {
        let joined = Point::join(stretches, median);
        let off = |stretch: &Point| (stretch.loss - joined.loss).abs();
        // Of a normal deviate the median magnitude is 0.6745 deviations.
        let spread =
            median(&mut stretches.iter().map(off).collect::<Vec<f64>>()) / 0.6745 * (steps as f64).sqrt();
        Point { spread, ..joined }
    }

    /// The mean of stretches of the same length.
    pub(super) fn mean_of(stretches: &[Point]) -> Point {
        Point::join(stretches, |values| values.iter().sum::<f64>() / values.len() as f64)
    }
}

/// The middle one of some values, or the mean of the two in the middle.
///
/// # Panics
/// When there are none.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2].midpoint(values[values.len() / 2])
}

impl From<Point> for String {
    fn from(point: Point) -> String {
        let mut text = point.step.to_string();
        // Rust writes the shortest decimal that reads back to the same bits.
        point.values().for_each(|value| _ = write!(text, " {value}"));
        text
    }
}

impl TryFrom<String> for Point {
    type Error = String;

    fn try_from(text: String) -> Result<Point, String> {
        let mut parts = text.split(' ');
        let step = parts.next().and_then(|part| part.parse().ok());
        let values: Option<Vec<f64>> = parts.map(|part| part.parse().ok()).collect();
        match (step, values.as_deref()) {
            (Some(step), Some([loss, spread, grad, acts @ ..])) => {
                Ok(Point { step, loss: *loss, spread: *spread, grad: *grad, acts: acts.to_vec() })
            }
            _ => Err(format!("`{text}` is no step and three or more numbers")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: medians and means by hand.
    #[test]
    fn points_are_joined_value_by_value() {
        let of = |step, loss, grad, act| Point::of_step(step, loss, grad, &[act, -2.0 * act]).unwrap();
        let steps = [of(1, 3.0, 1.0, 1.0), of(2, 90.0, 8.0, 4.0), of(3, 2.0, 2.0, 2.0)];
        let median = Point::median_of(&steps, 4);
        assert_eq!(
            (median.step, median.loss, median.grad, median.acts.as_slice()),
            (3, 3.0, 1.0, &[1.0, 2.0][..])
        );
        // Magnitudes 0, 87, 1 of means of four.
        assert_eq!(median.spread, 2.0 / 0.6745);
        let mean = Point::mean_of(&[median, Point { step: 6, ..Point::median_of(&steps[..1], 1) }]);
        assert_eq!((mean.step, mean.loss, mean.grad, mean.acts.as_slice()), (6, 3.0, 0.5, &[0.5, 1.5][..]));
        assert_eq!(Point::of_step(1, f64::NAN, 1.0, &[]), None);
        assert_eq!(Point::of_step(1, 1.0, 1.0, &[f32::INFINITY]), None);
        assert!(Point::of_step(1, 1.0, 0.0, &[0.0]).is_some());
    }

    #[test]
    fn a_point_is_read_back_to_the_same_bits() {
        let point = Point { step: 7, loss: 0.1 + 0.2, spread: 1e-17, grad: -3.5, acts: vec![1.0 / 3.0, 2.0] };
        let json = serde_json::to_string(&point).unwrap();
        assert_eq!(serde_json::from_str::<Point>(&json).unwrap(), point);
        assert!(serde_json::from_str::<Point>("\"7 1.0 two 3\"").is_err());
    }
}
