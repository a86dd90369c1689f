//! A running mean of the weights (Polyak and Juditsky 1992; exponential, as Adam's moments are): what wanders about
//! its place at a high rate has a mean that lies in it, so that the mean is a better model than any of its terms, until
//! the rate has fallen.
//!
//! After each update the mean forgets by the factor 2^(-p/h) and takes in the new weights, where p is the progress that
//! the step made and h the half-life, both in shares of the run. A half-life that belongs to a run's length keeps its
//! meaning when the length changes, as rates do: a decay of 0.999 for each step is all of a run of 500 steps and nothing
//! of one of 100,000.
//!
//! The mean is one of weights that were trained: the first ones, which are noise, do not count, and neither does what has
//! not been seen yet. So it is the weighted sum divided by the sum of its weights, Adam's bias correction, kept in this
//! divided form: mean += a (weights - mean), a = (1 - d) / mass, mass = d mass + 1 - d. It can be used at any step.
//!
//! It takes 4 bytes a parameter in memory and as many in each checkpoint. All of it is elementwise in f32, so its bits
//! do not depend on the number of threads. A term counts as long as a (weights - mean) is not below half a unit in the
//! mean's last place: at a memory of 10,000 steps weights that differ from their mean by more than a thousandth do.

use model::{Parameter, Stack};
use rayon::prelude::*;

use crate::Result;

/// Elements that one task takes in.
const CHUNK: usize = 1 << 14;

/// The mean of a model's weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Ema {
    half_life: f64,
    /// `[numel]` of each parameter.
    means: Vec<Vec<f32>>,
    /// The sum of the weights of its terms: 0 before the first, near 1 when the first is forgotten.
    mass: f64,
}

impl Ema {
    /// Of the weights of these parameters, before the first update; `half_life` as a share of the run.
    pub fn new(half_life: f64, parameters: &[Parameter]) -> Ema {
        Ema { half_life, means: parameters.iter().map(|p| vec![0.0; p.numel()]).collect(), mass: 0.0 }
    }

    /// The means, one for each parameter; zeros before the first update.
    pub fn means(&self) -> &[Vec<f32>] {
        &self.means
    }

    /// The sum of the weights of its terms.
    pub fn mass(&self) -> f64 {
        self.mass
    }

    /// Goes back to a state that was saved.
    ///
    /// # Panics
    /// When the means are not those of the same parameters.
    pub fn restore(&mut self, means: Vec<Vec<f32>>, mass: f64) {
        assert!(
            means.iter().map(Vec::len).eq(self.means.iter().map(Vec::len)),
            "means are of the same model"
        );
        (self.means, self.mass) = (means, mass);
    }

    /// Takes in the weights of `stack` after an update of a step that made this `progress`.
    pub fn update(&mut self, stack: &mut Stack, progress: f64) {
        let share = self.next_share(progress);
        for (index, means) in self.means.iter_mut().enumerate() {
            stack.visit_weights(index, &mut |offset, weights| {
                take_in(&mut means[offset..][..weights.len()], weights, share);
            });
        }
    }

    /// The share of the next term in the mean.
    fn next_share(&mut self, progress: f64) -> f32 {
        // 1 - 2^(-p/h) of a small p, to all its digits.
        let weight = -f64::exp_m1(-progress.max(0.0) / self.half_life * std::f64::consts::LN_2);
        self.mass += weight * (1.0 - self.mass);
        if self.mass > 0.0 { (weight / self.mass) as f32 } else { 1.0 }
    }

    /// Exchanges the weights of `stack` with the means; once more brings both back, whatever failed before.
    ///
    /// # Errors
    /// [`crate::Error::Model`] when the device cannot be written; all are exchanged nevertheless.
    pub(crate) fn swap(&mut self, stack: &mut Stack) -> Result<()> {
        let mut published = Ok(());
        for (index, means) in self.means.iter_mut().enumerate() {
            published = published.and(stack.swap_weights(index, means));
        }
        Ok(published?)
    }
}

fn take_in(means: &mut [f32], weights: &[f32], share: f32) {
    means.par_chunks_mut(CHUNK).zip(weights.par_chunks(CHUNK)).for_each(|(means, weights)| {
        for (mean, weight) in means.iter_mut().zip(weights) {
            *mean += share * (weight - *mean);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    /// PyTorch's averages; see `tests/golden/make_ema_golden.py`.
    fn golden() -> Vec<u8> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/ema.safetensors");
        std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// The largest difference from PyTorch's averages over all snapshots, the half-life being this many times theirs.
    fn worst_difference(half_life: f64, times: f64) -> f64 {
        let bytes = golden();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |name: &str| -> Vec<f32> {
            let data = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data();
            data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let (weights, progress) = (tensor("weights"), tensor("progress"));
        let mut ema = Ema { half_life: half_life * times, means: vec![vec![0.0; 20]], mass: 0.0 };
        let mut worst: f64 = 0.0;
        for (step, weights) in weights.chunks_exact(20).enumerate() {
            let share = ema.next_share(f64::from(progress[step]));
            // In two runs, as for a parameter that is divided into tiles.
            take_in(&mut ema.means[0][..7], &weights[..7], share);
            take_in(&mut ema.means[0][7..], &weights[7..], share);
            if [1, 2, 10, 100].contains(&(step + 1)) {
                for (mean, wanted) in
                    ema.means[0].iter().zip(tensor(&format!("mean_{half_life}.step_{}", step + 1)))
                {
                    worst = worst.max(f64::from((mean - wanted).abs()));
                }
            }
        }
        worst
    }

    /// Oracle: torch.optim.swa_utils in f64. Tolerance: a mean is below 4, so that a step rounds it by at most 2.4e-7,
    /// about as often up as down; at a half-life of 30 steps some 40 of them are remembered, sqrt(40) * 1e-7 as a rule
    /// and three times that at worst. A hundredth of the half-life must show.
    #[test]
    fn a_hundred_steps_are_pytorchs() {
        const TOLERANCE: f64 = 2e-6;
        for half_life in [0.02, 0.3] {
            let worst = worst_difference(half_life, 1.0);
            assert!(worst <= TOLERANCE, "half-life {half_life}: {worst:e}");
            assert!(worst_difference(half_life, 1.01) > 10.0 * TOLERANCE, "a planted fault must show");
        }
    }

    #[test]
    fn the_first_term_is_the_mean_and_no_progress_changes_nothing() {
        let mut ema = Ema { half_life: 0.1, means: vec![vec![0.0; 2]], mass: 0.0 };
        // A clock that is too coarse for a step.
        assert_eq!((ema.next_share(0.0), ema.mass()), (1.0, 0.0));
        assert_eq!(ema.next_share(1e-9), 1.0);
        assert_eq!(ema.next_share(0.0), 0.0);
        // Progress does not go back, whatever became of the budget.
        assert_eq!(ema.next_share(-0.5), 0.0);
        // All of a run is ten half-lives.
        assert!((ema.next_share(1.0) - 1.0).abs() < 1e-3);
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let weights: Vec<f32> = (0..5 * CHUNK + 7).map(|i| ((i * 31) % 977) as f32 - 400.0).collect();
        let with = |threads: usize| {
            let mut means = vec![1.0; weights.len()];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| take_in(&mut means, &weights, 0.3));
            means
        };
        assert_eq!(with(1), with(2));
        assert_eq!(with(1), with(8));
    }
}
