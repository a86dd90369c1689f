//! The losses of the last steps, with which a single one is compared.

use serde::{Deserialize, Serialize};

use super::point::median;

/// Losses that are kept: their median is the smoothed curve, which is 32 steps behind one that falls. The deviation of
/// fewer is uncertain: by eight values, as until 28 November 2026, single steps of a run that held were ten deviations
/// out (`replayed/v1-3x.tsv`); by 64 they are four at most.
const KEPT: usize = 64;
/// Losses without which nothing can be said, and of whose median a few do not move far.
const ENOUGH: usize = 16;

/// The last [`KEPT`] losses in nats, the newest last. In a checkpoint an f32 reads back to the same bits.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Recent(Vec<f32>);

impl Recent {
    /// Takes in the loss of a step.
    pub(super) fn push(&mut self, loss: f64) {
        if self.0.len() == KEPT {
            self.0.remove(0);
        }
        self.0.push(loss as f32);
    }

    /// The median of the last [`ENOUGH`]; `None` when there are fewer.
    pub(super) fn level(&self) -> Option<f64> {
        let first = self.0.len().checked_sub(ENOUGH)?;
        Some(median(&mut self.0[first..].iter().map(|loss| f64::from(*loss)).collect::<Vec<f64>>()))
    }

    /// The standard error of such a level where single losses deviate so far: sqrt(pi / 2) times that of a mean.
    pub(super) fn level_error(deviation: f64) -> f64 {
        deviation * (std::f64::consts::FRAC_PI_2 / ENOUGH as f64).sqrt()
    }

    /// How many deviations `loss` is above the median of those before, a deviation being what it is of a normal
    /// deviate whose median distance from its median is theirs. Neither is moved by a spike.
    pub(super) fn z(&self, loss: f64) -> Option<f64> {
        if self.0.len() < ENOUGH {
            return None;
        }
        let mut values: Vec<f64> = self.0.iter().map(|loss| f64::from(*loss)).collect();
        let level = median(&mut values);
        values.iter_mut().for_each(|value| *value = (*value - level).abs());
        let deviation = median(&mut values) / 0.6745;
        Some((loss - level) / deviation).filter(|z| z.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Health;
    use super::*;

    fn of(losses: impl IntoIterator<Item = f64>) -> Recent {
        let mut recent = Recent::default();
        losses.into_iter().for_each(|loss| recent.push(loss));
        recent
    }

    /// Oracle: by hand. Of 1 to 16 the median is 8.5, and their distances from it are 0.5 to 7.5, each twice, median 4.
    #[test]
    fn a_loss_is_compared_with_the_median_of_those_before() {
        let sixteen = of((1..=16).map(f64::from));
        assert_eq!(sixteen.z(16.5), Some(8.0 / (4.0 / 0.6745)));
        assert_eq!(sixteen.z(8.5), Some(0.0));
        // A value however large moves them no more than one that is a little above the others.
        let spiked = of((1..=15).map(f64::from).chain([1e9]));
        assert_eq!(spiked.z(16.5), sixteen.z(16.5));
        assert_eq!(of((1..=15).map(f64::from)).z(16.5), None, "too few");
        assert_eq!(of([3.0; 20]).z(3.0), None, "nothing scatters");
        assert_eq!(sixteen.z(f64::INFINITY), None);
        // Of a thousand the last 64 count: 937 to 1,000.
        assert_eq!(of((1..=1000).map(f64::from)), of((937..=1000).map(f64::from)));
    }

    #[test]
    fn a_checkpoint_keeps_it_to_the_bit_and_one_from_before_it_was_kept_can_be_read() {
        let recent = of((1..=70).map(|n| 7.0 / f64::from(n)));
        let health = Health { recent: recent.clone(), ..Health::default() };
        let json = serde_json::to_string(&health).unwrap();
        assert_eq!(serde_json::from_str::<Health>(&json).unwrap().recent, recent);
        let mut older = serde_json::to_value(&health).unwrap();
        older.as_object_mut().unwrap().remove("recent");
        assert_eq!(serde_json::from_value::<Health>(older).unwrap(), Health::default());
    }
}
